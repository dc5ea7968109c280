import numpy as np
import pytest
import torch

from response_priming.distill import trainer


@pytest.fixture
def run(make_run):
    return make_run("distill", arm="none")


@pytest.mark.parametrize(
    ("optimizer", "kind", "own"), [("adamw", torch.optim.AdamW, {}), ("sgd", torch.optim.SGD, {"momentum": 0.7})]
)
def test_the_optimiser_gets_its_arguments(run, optimizer, kind, own):
    values = {"optimizer": optimizer, "learning_rate": 0.5, "weight_decay": 0.25, "momentum": 0.7}
    wanted = type(run).model_validate(run.model_dump() | values)
    assert trainer.optimizer_of(wanted) == (kind, {"lr": 0.5, "weight_decay": 0.25} | own)


def test_the_memory_said_is_that_of_this_process():
    if torch.cuda.is_available():
        pytest.skip("says the GPU's memory where there is one")
    before = trainer.peak_mib()
    block = np.ones(2**25)
    assert trainer.peak_mib() >= before
    assert trainer.peak_mib() > block.nbytes / 2**20
