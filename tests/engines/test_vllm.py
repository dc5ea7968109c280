"""The engine `vllm` on a stand-in for vLLM; tests/real has the real one."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from response_priming.engines import transformers, vllm
from response_priming.engines.base import Setup

PROMPTS = [[5, 6, 7, 8], [9, 20, 30], [200, 100, 50, 25, 12]]
ENDS, LENGTH = [0, 65], 8


class Llm:
    """Decodes greedily by the library, one request after another, and lists log-probabilities of all outputs."""

    def __init__(self, model):
        self.model, self.waiting, self.asked = model, [], []
        self.model_config = SimpleNamespace(max_model_len=100, get_vocab_size=lambda: model.config.vocab_size)

    def add_request(self, name, prompt, parameters, **_):
        self.waiting.append((name, prompt["prompt_token_ids"], parameters))
        self.asked.append(parameters)
        return name

    def step(self):
        name, tokens, asked = self.waiting.pop(0)
        begin, tokens, rows = len(tokens), list(tokens), []
        read = self.logprobs(tokens)[:-1]
        while True:
            row = self.logprobs(tokens)[-1]
            rows.append(row)
            biased = row.clone()
            for token, bias in (asked.logit_bias or {}).items():
                biased[token] += bias
            tokens.append(int(biased.argmax()))
            stopped = tokens[-1] in asked.stop_token_ids
            if stopped or len(tokens) - begin == asked.max_tokens:
                break
        answer = SimpleNamespace(token_ids=tokens[begin:], finish_reason="stop" if stopped else "length")
        answer.logprobs = self.flat(rows, tokens[begin:], asked.logprobs)
        prompt_logprobs = self.flat(read, tokens[1:begin], asked.prompt_logprobs)
        yield SimpleNamespace(finished=True, request_id=name, outputs=[answer], prompt_logprobs=prompt_logprobs)

    def logprobs(self, tokens):
        with torch.inference_mode():
            return self.model(torch.tensor([tokens])).logits[0].log_softmax(-1)

    @staticmethod
    def flat(rows, tokens, k):
        top = [row.topk(k) if k else None for row in rows]
        ids = [i for token, one in zip(tokens, top, strict=True) if one for i in (token, *one.indices.tolist())]
        values = [v for row, token, one in zip(rows, tokens, top, strict=True) if one
                  for v in (float(row[token]), *one.values.tolist())]  # fmt: skip
        return SimpleNamespace(token_ids=ids, logprobs=values)


@pytest.fixture
def opened(monkeypatch):
    """Opens the engine on a model; what vLLM was asked is in `llm.llm_engine.asked`."""
    idle = {"stop_token_ids": [], "logit_bias": None, "logprobs": None, "prompt_logprobs": None}
    made = SimpleNamespace(SamplingParams=lambda **values: SimpleNamespace(**idle | values))
    monkeypatch.setitem(sys.modules, "vllm", made)
    monkeypatch.setitem(
        sys.modules, "vllm.sampling_params", SimpleNamespace(RequestOutputKind=SimpleNamespace(FINAL_ONLY=2))
    )
    return lambda model: vllm.VllmEngine(SimpleNamespace(llm_engine=Llm(model)), tiny.tokenizer(), ends=ENDS)


@pytest.mark.parametrize("top_k", [0, 1, 5, 257])
@pytest.mark.parametrize("make", [tiny.llama, tiny.padded_llama])
def test_it_answers_as_the_library_does_without_outputs_that_have_no_token(opened, make, top_k):
    model = tiny.llama()
    model.generation_config.eos_token_id = ENDS
    own, engine = transformers.TransformersEngine(model, tiny.tokenizer(), batch=2), opened(make())
    wanted, found = (dict(one.respond(PROMPTS, max_tokens=LENGTH, top_k=top_k)) for one in (own, engine))
    # The probability of an output without a token is in the tail where it is not listed.
    near = 6e-2 if make is tiny.padded_llama and top_k < 257 else 2e-2
    for index, response in wanted.items():
        assert (found[index].tokens, found[index].finished) == (response.tokens, response.finished)
        for left, right in zip(found[index].signal or (), response.signal or (), strict=True):
            assert np.allclose(left, right, atol=near)
    never = dict.fromkeys(range(257, 264), -100.0) if make is tiny.padded_llama else None
    first = engine.llm.llm_engine.asked[: len(PROMPTS)]
    assert [(one.stop_token_ids, one.logit_bias) for one in first] == [(ENDS, never)] * len(PROMPTS)
    if top_k:
        wanted, found = (dict(one.score(PROMPTS, top_k=top_k)) for one in (own, engine))
        for index, signal in wanted.items():
            assert np.array_equal(found[index].top_ids[:, 0], signal.top_ids[:, 0])
            assert np.allclose(found[index].top_logprobs, signal.top_logprobs, atol=near)


def test_log_probabilities_are_the_models_own_whatever_vllms_default_is(monkeypatch, tiny_model):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=lambda **values: values))
    started = vllm._start.__wrapped__(Setup(str(tiny_model), dtype="float32", device="cpu"), None)
    assert started["logprobs_mode"] == "raw_logprobs"
