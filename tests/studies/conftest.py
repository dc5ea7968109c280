import pytest
from made_runs import ARMS, write_run

from response_priming import paths
from response_priming.studies import two_runs


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    return write_run(tmp_path / "build" / "laptop", ARMS)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Writes two runs below another build folder each, and reads them."""
    monkeypatch.setattr(paths, "BUILD", tmp_path)

    def write(a, b, *, of_a=None, of_b=None):
        for name, scored, options in (("a", a, of_a), ("b", b, of_b)):
            write_run(tmp_path / name / "laptop", scored, **(options or {}))
        return tuple(two_runs.read_run(str(tmp_path / name / "laptop")) for name in "ab")

    return write
