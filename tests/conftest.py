import os

# Before torch is imported: threads that wait must not spin, and no test may reach the hub.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import matplotlib as mpl
import pytest
import tiny
import torch

from response_priming import params, paths

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_style():
    """Figures look as they do by default, whatever style an earlier test set."""
    with mpl.rc_context():
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A folder with a tiny random model and its tokenizer."""
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def make_run(tmp_path, monkeypatch, tiny_model):
    """Makes runs of a stage on the tiny model, which write below `tmp_path` as if their values were the profile's."""
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    monkeypatch.setattr(params.Run, "explored", False)
    models = {"student": str(tiny_model), "teacher": str(tiny_model), "dtype": "float32", "device": "cpu"}

    def make(stage, **changes):
        values = models | changes
        fields = params.RUNS[stage].model_fields
        item = {key: values.pop(key) for key in ("arm", "strategy") if key in values}
        run = params.load("laptop").run(stage, **item)
        values = {key: value for key, value in values.items() if key in fields or key not in models}
        return params.RUNS[stage].model_validate(run.model_dump() | values)

    return make
