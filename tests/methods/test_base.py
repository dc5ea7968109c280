import pytest

from response_priming.methods.base import Method


@pytest.mark.parametrize(
    ("arm", "store"),
    [("fine-tuned", None), ("teacher", "responses/teacher"), ("shuffled", "responses/none")],
)
def test_an_arm_learns_from_its_teachers_store(make_run, arm, store):
    run = make_run("distill", arm=arm)
    assert Method(run).prepare() == (store and run.build / store)


def test_the_released_procedure_learns_from_signals_over_prompts(make_run):
    run = make_run("distill", arm="published-none")
    assert Method(run).prepare() == run.build / "prompt-signals" / "none"
