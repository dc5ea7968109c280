import collections
import functools
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from response_priming import artifacts, engines, evaluate, generate, params
from response_priming.engines import ray as cluster
from response_priming.engines import replicas
from response_priming.errors import InputError
from response_priming.evaluate import answers as answering
from response_priming.generate import store

ray = pytest.importorskip("ray", reason="ray is not installed")
REQUESTS = [
    engines.Request([[10 * number + place] for place in range(4)], max_tokens=3, top_k=2, seed=number)
    for number in range(6)
]
DEADLY, FAULTY = 21, 41  # prompts of requests 2 and 4


@pytest.fixture(scope="module", autouse=True)
def local_cluster():
    """Two cores of this machine. Workers are handed this file's classes, which they could not import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(cluster.ADDRESS, raising=False)
        patch.setattr(ray, "init", functools.partial(ray.init, num_cpus=2, object_store_memory=200 * 2**20))
        cluster.connect("")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.shutdown()


class Counting(engines.Engine):
    """Answers by a rule, without a model; `model` is a file in which it writes down what it was asked."""

    vocabulary, context = 100, 50

    def __init__(self, log):
        self.log = log

    @classmethod
    def open(cls, setup):
        return cls(Path(setup.model))

    def describe(self):
        return {"pid": os.getpid()}

    def fulfil(self, request):
        with self.log.open("a") as file:
            file.write(f"{[prompt[0] for prompt in request.prompts]}\n")
        for index, prompt in enumerate(request.prompts):
            self.meet(prompt)
            tokens = [prompt[0], int(10 * request.random_of(index).random()), 1]
            yield (
                index,
                engines.Response(tokens, str(tokens), True, engines.pack(np.ones((3, 2)), *np.zeros((2, 3, 2)))),
            )

    def meet(self, prompt):
        """Where a poisoned prompt would show."""

    def score(self, sequences, *, top_k):
        yield from ((index, [top_k, *sequence]) for index, sequence in enumerate(sequences))


class Poisoned(Counting):
    """Dies of one prompt and raises at another one."""

    def meet(self, prompt):
        if prompt[0] == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        if prompt[0] == FAULTY:
            raise ValueError("too odd\nby far")


class Slow(Counting):
    """Takes its time."""

    def meet(self, prompt):  # noqa: ARG002
        time.sleep(0.02)


class Broken(Counting):
    """Fails at everything."""

    def meet(self, prompt):
        raise MemoryError(f"no room for {prompt}")


class Refusing(Counting):
    """Cannot be opened."""

    @classmethod
    def open(cls, setup):
        raise InputError(f"model {setup.model!r}: is none")


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens replicas of an engine of this file."""
    from response_priming import models

    monkeypatch.setattr(models, "tokenizer", lambda *_: None)

    def make(kind, **changes):
        return cluster.RayEngine.of(kind, engines.Setup(str(tmp_path / "log"), device="cpu", **changes))

    return make


def texts(engine, requests=REQUESTS):
    return {(number, index): response.text for number, index, response in engine.respond_to(requests)}


def in_process(tmp_path):
    return texts(Counting(tmp_path / "here"))


def asked(tmp_path):
    """How often each prompt was begun to be answered, with its batch."""
    return collections.Counter((tmp_path / "log").read_text().splitlines())


def test_two_replicas_answer_what_one_process_does(opened, tmp_path):
    engine = opened(Counting)
    assert engine.describe()["replicas"] == 2
    assert texts(engine) == in_process(tmp_path)
    assert set(asked(tmp_path).values()) == {1}
    assert dict(engine.score([[5], [6, 7]], top_k=3)) == {0: [3, 5], 1: [3, 6, 7]}


def test_requests_are_drawn_as_there_is_a_replica_for_them(opened):
    drawn, engine = [], opened(Counting, replicas=1)
    stream = engine.respond_to(drawn.append(request) or request for request in REQUESTS)
    next(stream)
    assert len(drawn) <= replicas.IN_FLIGHT + 1
    assert len(list(stream)) == 23


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_that_is_killed_costs_at_most_its_batch(opened, tmp_path, seed):
    engine, moment, found = opened(Slow), random.Random(seed).randrange(20), {}
    for count, (number, index, response) in enumerate(engine.respond_to(REQUESTS)):
        found[number, index] = response.text
        if count == moment:
            os.kill(engine.replicas.seats[seed % 2].about.describes["pid"], signal.SIGKILL)
    assert found == in_process(tmp_path)
    assert sum(asked(tmp_path).values()) <= len(REQUESTS) + 1


def test_a_poisoned_prompt_is_set_aside_and_the_others_are_answered(opened, tmp_path):
    found = {(number, index): response for number, index, response in opened(Poisoned).respond_to(REQUESTS)}
    failed = {place: response for place, response in found.items() if response.failed}
    assert failed.keys() == {(2, 1), (4, 1)}
    assert failed[2, 1].failed.startswith("its worker died (ActorDiedError: ")
    assert failed[4, 1].failed == "ValueError: too odd"
    assert [part.shape for part in (*failed[2, 1].signal, failed[2, 1].token_logprobs)] == [(0, 2), (0, 2), (0,), (0,)]
    here = in_process(tmp_path)
    assert {place: response.text for place, response in found.items() if not response.failed} == {
        place: text for place, text in here.items() if place not in failed
    }
    counts = asked(tmp_path)
    assert [counts[f"[{prompt}]"] for prompt in (DEADLY, FAULTY, 20)] == [2, 2, 1]


def test_a_poisoned_prompt_of_what_cannot_go_on_without_it_is_one_line(opened):
    with pytest.raises(InputError, match=r"^engine = 'ray': prompt 0 cannot be answered: ValueError: too odd$"):
        dict(opened(Poisoned, replicas=1).respond([[FAULTY], [1]], max_tokens=3))


def test_an_engine_that_fails_at_everything_ends_in_one_line(opened):
    with pytest.raises(InputError, match=r"^engine = 'ray': the last 9 tries failed.*: MemoryError: no room for"):
        texts(opened(Broken))


def test_too_much_that_is_set_aside_ends_in_one_line(opened, monkeypatch):
    monkeypatch.setattr(replicas, "MOST_SET_ASIDE", 0)
    with pytest.raises(InputError, match=r"^engine = 'ray': 1 prompts failed 2 times each, more than may be set aside"):
        texts(opened(Poisoned), REQUESTS[4:])


def test_what_no_model_can_put_right_is_raised_at_once(opened):
    with pytest.raises(InputError, match=r"^model '.*log': is none$"):
        opened(Refusing)
    with pytest.raises(InputError, match=r"^prompt 0: its 1 tokens and 60 new ones exceed the model's context of 50"):
        list(opened(Counting).respond([[1]], max_tokens=60))


def test_no_place_for_a_replica_ends_in_one_line(opened, monkeypatch):
    first = opened(Counting)
    monkeypatch.setattr(replicas, "PATIENCE", 1.0)
    monkeypatch.setattr(replicas, "TURN", 0.2)
    with pytest.raises(InputError, match=r"the cluster had no place for a replica, which needs a core; free some"):
        opened(Counting)
    assert first.describe()["replicas"] == 2


# --- before anything is taken ---


def test_more_than_the_cluster_has_is_refused(opened, monkeypatch):
    with pytest.raises(InputError, match=r"^replicas = 3: each needs a core of a node, .* 2 cores .*: 0 to 2$"):
        opened(Counting, replicas=3)
    monkeypatch.setattr(params, "device_of", lambda _: "cuda")
    with pytest.raises(InputError, match=r"^tensor_parallel \* pipeline_parallel = 8: .* needs 8 GPUs and a core"):
        opened(Counting, tensor_parallel=4, pipeline_parallel=2)


def test_other_versions_on_a_node_are_refused(monkeypatch):
    cluster.check_nodes()
    monkeypatch.setattr(cluster.platform, "python_version", lambda: "2.7")
    with pytest.raises(InputError, match=r"^node \S+ \(\w+\): has python 3\S+, and 2.7 runs here; allowed: the"):
        cluster.check_nodes()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nowhere.invalid:6379", "127.0.0.1:door"])
def test_no_cluster_at_an_address_is_one_line(monkeypatch, address):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(InputError, match=rf"^CLUSTER = '{address}': no Ray cluster there \(.*\); `ray start"):
        cluster.connect(address)


def test_another_program_at_an_address_is_no_cluster(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "ANSWERS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"^CLUSTER = '{address}': no Ray cluster there \(timed out\)"):
            cluster.connect(address)


def test_a_cluster_is_recognised():
    cluster._greet(ray.get_runtime_context().gcs_address)


# --- the stages, with a model ---


def outputs(run):
    return artifacts.read(run.folders[0].path)["outputs"]


def test_a_run_moves_to_a_cluster_and_back_half_way(make_run, tmp_path, monkeypatch):
    sizes = {"n_train": 10, "worked_examples": 1, "response_tokens": 4, "generate_batch": 2, "top_k": 3}
    here = make_run("generate", strategy="none", **sizes, temperature=0.7)
    generate.respond(here)
    wanted, counted = outputs(here), []
    monkeypatch.setattr("response_priming.paths.BUILD", tmp_path / "anew")
    put = artifacts.Partial.put

    def stop(self, name, write):
        put(self, name, write)
        counted.append(name)
        if len(counted) in (2, 4):
            raise KeyboardInterrupt

    monkeypatch.setattr(artifacts.Partial, "put", stop)
    there = here.model_copy(update={"engine": "ray"})
    for run in (here, there):
        with pytest.raises(KeyboardInterrupt):
            generate.respond(run)
    generate.respond(here)
    assert outputs(here) == wanted == outputs(there)
    assert collections.Counter(counted) == dict.fromkeys([*map(store.shard_name, range(0, 10, 2)), store.KEPT], 1)
    assert artifacts.recipe(here, here.folders[0]) == artifacts.recipe(there, there.folders[0])


def test_answers_from_a_cluster_are_those_of_one_process(make_run, monkeypatch):
    monkeypatch.setattr(answering, "BLOCK", 3)
    run = make_run("evaluate", arm="undistilled", n_test=8, answer_tokens=4)
    evaluate.answer(run)
    there = run.model_copy(update={"evaluate_engine": "ray", "profile": "moved"})
    evaluate.answer(there)
    assert outputs(run) == outputs(there)
