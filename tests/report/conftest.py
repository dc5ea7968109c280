import pytest
from made_runs import TOOK, write_elsewhere
from nbformat import v4, write

from response_priming import notebooks, params, paths
from response_priming.report import crate


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A run of a teacher and the undistilled student, and its page."""
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    laptop, folder = params.load("laptop"), tmp_path / "laptop"
    models = {"teacher": "some/model", "teacher_weights": f"some/model@{40 * 'c'}", "dtype": "bfloat16"}
    write_elsewhere(folder / "responses" / "none", dataset="gsm8k", data="openai/gsm8k@1", strategy="none", **models)
    write_elsewhere(folder / "answers" / "undistilled" / "seed-0")
    write_elsewhere(folder / "scores" / "undistilled" / "seed-0", [folder / "answers" / "undistilled" / "seed-0"])
    write_elsewhere(folder / "students" / "of-another-paper" / "seed-0")
    write_elsewhere(folder / "report")
    write_elsewhere(folder / "report" / "_site", [folder / "report"])
    for name in ("generate-none", "evaluate-undistilled"):
        node, notebook = notebooks.find(laptop, name), v4.new_notebook()
        times = {"start_time": "2026-01-02T03:00:00.123456+00:00", "end_time": "2026-01-02T03:05:00+00:00"}
        notebook.metadata["papermill"] = times
        node.executed.parent.mkdir(exist_ok=True)
        write(notebook, node.executed)
        notebooks.mark_done(node.stamp, {}, node.executed, TOOK | {"joules": 7.5})
    crate.write(laptop, {"wall_seconds": 1.0, "cpu_seconds": 2.0})
    return folder
