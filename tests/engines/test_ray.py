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

from response_priming import artifacts, engines, evaluate, generate, models, params
from response_priming.engines import ray as cluster
from response_priming.engines import replicas
from response_priming.errors import InputError
from response_priming.evaluate import answers as answering
from response_priming.generate import store

ray = pytest.importorskip("ray", reason="ray is not installed")
DIE, RAISE, WAIT = 1, 2, 3  # what the second token of a prompt makes the engine of these tests do


@pytest.fixture(scope="module", autouse=True)
def local_cluster():
    """Two cores of this machine. Workers are handed this file's classes, which they could not import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(cluster.ADDRESS, raising=False)
        patch.setattr(ray, "init", functools.partial(ray.init, num_cpus=2, object_store_memory=200 * 2**20))
        try:
            cluster.connect("")
        except InputError as error:  # Ray's own limits, of 15 and 30 s, cannot be changed
            pytest.skip(str(error))
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.shutdown()


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
    there = run.model_copy(update={"evaluate_engine": "ray", "replicas": 1, "profile": "moved"})
    evaluate.answer(there)
    assert outputs(run) == outputs(there)


# --- whatever happens, by an engine without a model ---


class Ruled(engines.Engine):
    """Answers by a rule; `model` is a file in which it writes down what it is asked, a request a line."""

    vocabulary, context = 100, 50

    def __init__(self, log):
        self.log = log

    @classmethod
    def open(cls, setup):
        if setup.model == "none":
            raise InputError("model 'none': is none")
        return cls(Path(setup.model))

    def describe(self):
        return {"pid": os.getpid()}

    def fulfil(self, request):
        with self.log.open("a") as file:
            file.write(f"{[prompt[0] for prompt in request.prompts]}\n")
        for index, (name, how) in enumerate(request.prompts):
            if how == DIE:
                time.sleep(0.1)  # an engine takes longer than to hand back what it did before
                os.kill(os.getpid(), signal.SIGKILL)
            if how == RAISE:
                raise ValueError("too odd\nby far")
            time.sleep(0.02 * (how == WAIT))
            tokens = [name, int(10 * request.random_of(index).random()), 1]
            yield (
                index,
                engines.Response(tokens, str(tokens), True, engines.pack(np.ones((3, 2)), *np.zeros((2, 3, 2)))),
            )

    def score(self, sequences, *, top_k):
        yield from ((index, [top_k, *sequence]) for index, sequence in enumerate(sequences))


@pytest.fixture(scope="module")
def two_replicas(tmp_path_factory, local_cluster):  # noqa: ARG001
    setup = engines.Setup(str(tmp_path_factory.mktemp("ruled") / "log"), device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "tokenizer", lambda *_: None)
        return setup, cluster.RayEngine.of(Ruled, setup)


@pytest.fixture
def engine(two_replicas):
    """Two replicas, which have not been asked or failed at anything."""
    setup, opened = two_replicas
    Path(setup.model).write_text("")
    opened.replicas.failures = opened.replicas.set_aside = 0
    return opened


def requests(how=None, *, otherwise=0):
    """Six requests of four prompts; `how`: what some make the engine do, by name, and `otherwise` the others."""
    rows = [[[name, (how or {}).get(name, otherwise)] for name in range(10 * row, 10 * row + 4)] for row in range(6)]
    return [engines.Request(prompts, max_tokens=3, top_k=2, seed=seed) for seed, prompts in enumerate(rows)]


def texts(engine, asked):
    return {(number, index): response.text for number, index, response in engine.respond_to(asked)}


@pytest.fixture
def wanted(tmp_path):
    """What one process answers."""
    return texts(Ruled(tmp_path / "here"), requests())


def begun(two_replicas):
    """How often each request was begun to be answered."""
    return collections.Counter(Path(two_replicas[0].model).read_text().splitlines())


def test_two_replicas_answer_what_one_process_does(engine, two_replicas, wanted):
    assert engine.describe()["replicas"] == 2
    assert texts(engine, requests()) == wanted
    assert set(begun(two_replicas).values()) == {1}
    assert dict(engine.score([[5], [6, 7]], top_k=3)) == {0: [3, 5], 1: [3, 6, 7]}


def test_requests_are_drawn_as_there_is_a_replica_for_them(engine):
    drawn = []
    stream = engine.respond_to(drawn.append(request) or request for request in requests(otherwise=WAIT))
    next(stream)
    assert len(drawn) <= 2 * replicas.IN_FLIGHT + 1
    assert len(list(stream)) == 23


@pytest.mark.parametrize("seed", range(2))
def test_a_worker_that_is_killed_costs_at_most_its_batch(engine, two_replicas, wanted, seed):
    moment, found = random.Random(seed).randrange(12), {}
    for count, (number, index, response) in enumerate(engine.respond_to(requests(otherwise=WAIT))):
        found[number, index] = response.text
        if count == moment:
            running = next(seat.about for seat in engine.replicas.seats if seat.about)
            os.kill(running.describes["pid"], signal.SIGKILL)
    assert found == wanted
    assert sum(begun(two_replicas).values()) <= 6 + 1


def test_a_poisoned_prompt_is_set_aside_and_the_others_are_answered(engine, two_replicas, wanted):
    poison = {21: DIE, 41: RAISE}
    found = {(number, index): response for number, index, response in engine.respond_to(requests(poison))}
    failed = {place: found.pop(place) for place in list(found) if found[place].failed}
    assert failed.keys() == {(2, 1), (4, 1)}
    assert failed[2, 1].failed.startswith("its worker died (ActorDiedError: ")
    assert failed[4, 1].failed == "ValueError: too odd"
    assert [part.shape for part in (*failed[2, 1].signal, failed[2, 1].token_logprobs)] == [(0, 2), (0, 2), (0,), (0,)]
    assert {place: response.text for place, response in found.items()} == {
        place: text for place, text in wanted.items() if place not in failed
    }
    assert [begun(two_replicas)[f"[{name}]"] for name in (21, 41, 20)] == [2, 2, 1]


def test_what_cannot_go_on_without_a_prompt_ends_in_one_line(engine):
    with pytest.raises(InputError, match=r"^engine = 'ray': prompt 0 cannot be answered: ValueError: too odd$"):
        dict(engine.respond([[1, RAISE], [2, 0]], max_tokens=3))


def test_an_engine_that_fails_at_everything_ends_in_one_line(engine):
    with pytest.raises(InputError, match=r"^engine = 'ray': the last 9 tries failed.*: ValueError: too odd$"):
        texts(engine, requests(otherwise=RAISE))


def test_too_much_that_is_set_aside_ends_in_one_line(engine, monkeypatch):
    monkeypatch.setattr(replicas, "MOST_SET_ASIDE", 1)
    with pytest.raises(InputError, match=r"^engine = 'ray': 2 prompts failed 2 times each, more than may be set aside"):
        texts(engine, requests({1: RAISE, 31: RAISE}))


def test_a_prompt_that_does_not_fit_is_said_before_it_is_sent(engine):
    with pytest.raises(InputError, match=r"^prompt 0: its 1 tokens and 60 new ones exceed the model's context of 50"):
        list(engine.respond([[1]], max_tokens=60))


def test_no_place_for_a_replica_ends_in_one_line(two_replicas, monkeypatch):
    monkeypatch.setattr(replicas, "PATIENCE", 1.0)
    monkeypatch.setattr(replicas, "TURN", 0.2)
    with pytest.raises(InputError, match=r"the cluster had no place for a replica, which needs a core; free some"):
        cluster.RayEngine.of(Ruled, two_replicas[0])


# --- before anything is taken ---


def test_more_than_the_cluster_has_is_refused(monkeypatch):
    with pytest.raises(InputError, match=r"^replicas = 3: each needs a core of a node, .* 2 cores .*: 0 to 2$"):
        cluster.RayEngine.of(Ruled, engines.Setup("log", device="cpu", replicas=3))
    monkeypatch.setattr(params, "device_of", lambda _: "cuda")
    with pytest.raises(InputError, match=r"^tensor_parallel \* pipeline_parallel = 8: .* needs 8 GPUs and a core"):
        cluster.RayEngine.of(Ruled, engines.Setup("log", tensor_parallel=4, pipeline_parallel=2))


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
