"""The real engines on the embedded model; `make test-engines` runs them, `make test` skips them."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import openai
import pytest
from peft import LoraConfig, get_peft_model

from response_priming import engines, models, params, problems
from response_priming import prompts as priming
from response_priming.engines import server as server_engine

pytest.importorskip("vllm", reason="vLLM is not installed here; `make test-engines` makes an environment with it")

PROBLEMS, TOKENS, TOP_K = 12, 24, 16
# fp32 on both sides, but kernels that add in another order; the signal is rounded to fp16 (steps of 1/64 at -20).
TOLERANCE = {"atol": 5e-3, "rtol": 2e-3}
CLOSE_CALL = 0.02
# Seconds until a server that has not started is taken to hang: a slow machine loads and compiles for minutes.
PATIENCE = 900


def opened(name, **values):
    return engines.open_engine(name, engines.Setup("embedded", dtype="float32", device="cpu", **values))


@pytest.fixture(scope="module")
def prompts():
    run, tokenizer = params.load("laptop").run("generate", strategy="none"), models.tokenizer("embedded")
    examples = problems.load(run, "validation", 2, seed=0)
    chats = [
        priming.messages(problem.question, system_prompt=run.system_prompt, examples=examples)
        for problem in problems.load(run, "train", PROBLEMS, seed=0)
    ]
    return [priming.encode(tokenizer, chat) for chat in chats]


@pytest.fixture(scope="module")
def ours():
    return opened("transformers")


@pytest.fixture(scope="module")
def expected(ours, prompts):
    return dict(ours.respond(prompts, max_tokens=TOKENS, top_k=TOP_K))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A folder with an adapter that changes what the model says."""
    folder = tmp_path_factory.mktemp("adapter")
    model, _ = models.load("embedded", dtype="float32", device="cpu")
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapted(adapter, prompts):
    """What the engine transformers gives to a prompt with the adapter."""
    return dict(opened("transformers", student=adapter).score(prompts[:1], top_k=TOP_K))[0]


@contextlib.contextmanager
def serving(folder, *options):
    """The address of a vLLM server of the embedded model on this machine; its log goes to a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder / "log").open("w+")
    # Not the program `vllm`: the CPU build's asks for the version of a package of that name.
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", models.locate("embedded")]
    options = [*options, "--dtype", "float32", "--max-logprobs", "64", "--max-model-len", "1024", "--enforce-eager"]
    where = ["--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    served = subprocess.Popen([*program, *options, *where], env=environment, stdout=log, stderr=log)
    for _ in range(PATIENCE):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10)
            break
        except OSError:
            if served.poll() is not None:
                break
            time.sleep(1)
    else:
        served.kill()
    if served.poll() is not None:
        log.seek(0)
        pytest.fail(f"vllm serve did not start: {log.read()[-2000:]}")
    yield f"http://127.0.0.1:{port}/v1"
    served.terminate()
    served.wait(PATIENCE)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server."""
    with serving(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module", params=["vllm", "server", "ray"])
def other(request):
    """An engine to be compared with `transformers`; of `ray`, a replica of vLLM."""
    if request.param == "ray":
        pytest.importorskip("ray")
    values = {
        "vllm": {},
        "server": {"server_url": request.getfixturevalue("server") if request.param == "server" else "", "batch": 4},
        "ray": {"replica_engine": "vllm", "replicas": 1},
    }
    return opened(request.param, **values[request.param])


def parting(ours, theirs):
    """Where two responses part, and how much likelier our engine found its own token than theirs; None if equal."""
    if ours.tokens == theirs.tokens:
        return None
    place = next(i for i, pair in enumerate(zip(ours.tokens, theirs.tokens, strict=False)) if pair[0] != pair[1])
    other = np.flatnonzero(ours.signal.top_ids[place] == theirs.tokens[place])
    return place, float(ours.signal.top_logprobs[place, 0] - ours.signal.top_logprobs[place, other[0]]) if len(
        other
    ) else np.inf


def tail_tolerance(vocabulary):
    """How far the mass of a tail that is one minus the listed tokens' may be from its sum over the other tokens.

    vLLM's log-probabilities are fp32's log_softmax, whose normaliser is as many partial sums as a vector has lanes, at
    least the 8 of AVX2. In the one with the likeliest token each addition may lose half a unit in the last place, 2^-24
    of the whole; an error e of the normaliser is one of sum(p) e <= e in the mass of the listed tokens, and all of that
    in the tail. (Seen with 49,152 tokens, against float64: 3.4e-5 on AVX2, 1.7e-5 on AVX-512. Our own tail, which is
    summed over the other tokens, was right to 3e-6 of itself.) The relative part: fp16's steps of 1/256 at logarithms
    down to -8, below which the absolute part counts for more, make 0.4 % between two rounded values, and kernels that
    add in another order may change as much again.
    """
    return {"atol": vocabulary / 8 * 2**-24, "rtol": 0.01}


def assert_same(found, wanted, vocabulary):
    """Two signals agree: the same tokens, but for close calls, with the same log-probabilities."""
    assert found.top_ids.shape == wanted.top_ids.shape
    assert (found.top_ids == wanted.top_ids).mean() > 0.98
    assert np.allclose(found.top_logprobs.astype(float), wanted.top_logprobs.astype(float), **TOLERANCE)
    left = [np.exp(signal.tail_logprobs.astype(float)) for signal in (found, wanted)]
    np.testing.assert_allclose(*left, **tail_tolerance(vocabulary))


def test_greedy_responses_agree_or_part_at_a_close_call(other, prompts, expected):
    given = dict(other.respond(prompts, max_tokens=TOKENS, top_k=TOP_K))
    assert given.keys() == expected.keys()
    partings = [parting(expected[index], given[index]) for index in given]
    agree = partings.count(None) / len(partings)
    print(f"{other.describe()['engine']}: {agree:.0%} of greedy responses agree with transformers")
    assert agree >= 0.9
    assert all(margin < CLOSE_CALL for _, margin in filter(None, partings))
    for index, response in given.items():
        if response.tokens == expected[index].tokens:
            assert (response.text, response.finished) == (expected[index].text, expected[index].finished)
            assert_same(response.signal, expected[index].signal, len(other.tokenizer))
            said, wanted = (some.token_logprobs.astype(float) for some in (response, expected[index]))
            assert np.allclose(said, wanted, **TOLERANCE)


def test_scores_agree(other, ours, prompts, expected):
    sequences = [prompts[index] + expected[index].tokens for index in range(3)]
    found, wanted = (dict(engine.score(sequences, top_k=TOP_K)) for engine in (other, ours))
    for index in range(3):
        assert_same(found[index], wanted[index], len(ours.tokenizer))


def test_a_tail_that_lacks_a_token_would_be_noticed(ours, prompts):
    (_, wanted), (_, more) = (next(ours.score(prompts[:1], top_k=k)) for k in (TOP_K, TOP_K + 1))
    lacking = engines.Signal(more.top_ids[:, :-1], more.top_logprobs[:, :-1], more.tail_logprobs)
    assert_same(lacking._replace(tail_logprobs=wanted.tail_logprobs), wanted, len(ours.tokenizer))
    with pytest.raises(AssertionError):
        assert_same(lacking, wanted, len(ours.tokenizer))


def test_draws_are_repeated_for_a_seed_and_differ_between_samples(other, prompts):
    def draw(seed):
        given = dict(other.respond(prompts[:1] * 4, max_tokens=12, temperature=1.5, seed=seed))
        return [given[index].tokens for index in range(4)]

    first = draw(0)
    assert first == draw(0)
    assert first != draw(1)
    assert len({tuple(tokens) for tokens in first}) > 1


def test_vllm_runs_an_adapter(adapter, adapted, prompts):
    found = dict(opened("vllm", student=adapter).score(prompts[:1], top_k=TOP_K))[0]
    assert np.allclose(found.top_logprobs[:, 0], adapted.top_logprobs[:, 0], atol=0.05)


def test_vllm_serves_an_adapter_beside_its_base(tmp_path, adapter, adapted, ours, prompts):
    options = ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"student={adapter}"]
    with serving(tmp_path, *options) as address:
        client = openai.OpenAI(base_url=address, api_key="none")
        student = next(model for model in client.models.list() if model.id == "student")
        # One prompt at a time: vLLM 0.32's adapters fail on CPU where several ask for their prompt's log-probabilities.
        reader = models.tokenizer("embedded")
        about = {"outputs": len(reader), "ends": [reader.eos_token_id]}
        engine = server_engine.ServerEngine(client, reader, model=student, batch=1, **about)
        found = dict(engine.score(prompts[:1], top_k=TOP_K))[0]
    base = dict(ours.score(prompts[:1], top_k=TOP_K))[0]
    assert np.allclose(found.top_logprobs[:, 0], adapted.top_logprobs[:, 0], atol=0.05)
    assert not np.allclose(found.top_logprobs[:, 0], base.top_logprobs[:, 0], atol=0.05)
