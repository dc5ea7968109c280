import numpy as np
import pytest
import torch

from response_priming import models, problems, prompts
from response_priming.generate import prompt_signals, store

SIZES = {"n_train": 5, "generate_batch": 2, "top_k": 4}


@pytest.fixture
def run(make_run):
    return make_run("prompt-signals", strategy="teacher", **SIZES)


def test_every_prompt_is_prefix_and_question_as_plain_text_in_the_problems_order(run):
    scored = prompt_signals.score(run)
    asked = problems.load(run, "train", run.n_train, seed=run.seed)
    assert scored["problem_id"].tolist() == [problem.id for problem in asked]
    assert scored["text"].tolist() == [prompts.prefix_of("teacher") + problem.question for problem in asked]
    assert scored["kept"].all()


def test_the_signal_at_a_token_is_the_models_distribution_over_the_next(run):
    prompt_signals.score(run)
    row = store.dataset(run.output / "prompt-signals" / "teacher")[3]
    model, _ = models.load(run.teacher, dtype="float32", device="cpu")
    with torch.inference_mode():
        logprobs = model(torch.tensor([row["tokens"]])).logits[0].log_softmax(-1)
    wanted = logprobs.topk(4)
    assert np.array_equal(row["top_ids"].reshape(-1, 4), wanted.indices)
    assert np.allclose(row["top_logprobs"].reshape(-1, 4), wanted.values, atol=0.01)


def test_a_second_call_loads_no_model(run, monkeypatch):
    first = prompt_signals.score(run)
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("scored again"))
    assert prompt_signals.score(run).equals(first)


def test_targets_at_the_prefix_are_the_same_for_every_problem(run):
    prompt_signals.score(run)
    first = prompt_signals.most_likely(run.output / "prompt-signals" / "teacher", positions=400)
    prefix = len(prompts.prefix_of("teacher"))  # the tiny model has a token for every byte
    assert (first.iloc[:, : prefix - 1].nunique() == 1).all()
    assert (first.iloc[:, prefix:].nunique() > 1).any()
