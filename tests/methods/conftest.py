"""Methods with a live teacher on the tiny model, and a batch of responses that they are trained on."""

import numpy as np
import pytest
import tiny
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from response_priming.methods.examples import Examples, collate

PROBLEMS, K = 4, 3
SIZES = {"n_train": PROBLEMS, "train_tokens": 400}


@pytest.fixture
def make_method(make_run):
    """Makes a method: its teacher reads the bare question, unless `live` says otherwise, as the student does."""

    def make(kind, live=None, run=None, **parameters):
        method = kind(**parameters)
        asked = {"strategy": getattr(method, "strategy", "none"), "worked_examples": 0, "response_tokens": 6}
        teacher = make_run("generate", **asked | {"n_train": PROBLEMS} | (live or {}))
        wanted = make_run("distill", arm=kind.arm or "none", **SIZES | dict(kind.base) | (run or {}))
        return kind(wanted.asking(teacher), **parameters)

    return make


def other_teacher(folder, **sizes):
    """A teacher of another shape."""
    shape = {"hidden_size": 48, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3} | sizes
    config = LlamaConfig(vocab_size=len(tiny.VOCABULARY), bos_token_id=None, eos_token_id=0, **shape)
    return {"teacher": str(tiny.save_model(folder, LlamaForCausalLM(config)))}


def answered(number, problem_id):
    """A response of its own length with a signal; the end-of-sequence token is also what pads."""
    random = np.random.default_rng(number)
    tokens = np.array([*random.integers(1, len(tiny.VOCABULARY), 2 + 2 * number), 0])
    logprobs = np.log(random.dirichlet(np.ones(K + 1), len(tokens))).astype(np.float16)
    ids = np.stack([random.permutation(len(tiny.VOCABULARY))[:K] for _ in tokens])
    signal = {"top_ids": ids.ravel(), "top_logprobs": logprobs[:, :K].ravel(), "tail_logprobs": logprobs[:, K]}
    return {"problem_id": problem_id, "text": "", "tokens": tokens} | signal


@pytest.fixture
def examples(make_run):
    """Responses to the first three problems."""
    store = Dataset.from_list([answered(number, f"train-{number}") for number in range(3)]).with_format("numpy")
    found = Examples(make_run("distill", arm="none", **SIZES), tiny.tokenizer(), store)
    return [found[place] for place in range(3)]


@pytest.fixture
def batch(examples):
    return collate(examples, pad=0)
