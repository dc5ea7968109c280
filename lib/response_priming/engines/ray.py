"""Engine `ray`: replicas of another engine, `transformers` or `vllm`, on a Ray cluster.

The cluster is the one at RAY_ADDRESS, else this machine, for as long as this process lives. All nodes see the project's
folder and the models at the same paths and have the same packages, and the driver's device is theirs. A replica is on
one node: with as many GPUs as `tensor_parallel * pipeline_parallel` says, or with one core. What a cluster would add by
itself does not count: nodes are there before the run.

On a CPU a replica computes with one thread. One replica and many give the same bytes, and so does the engine within a
process that has one thread; no library promises that sums over several threads have the same last digits.
"""

import atexit
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

import numpy as np

from response_priming import params, provenance
from response_priming.engines.base import Engine, Request, Response, Setup, Signal, check_context, pack, require
from response_priming.engines.replicas import Replica, Replicas, Task
from response_priming.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADDRESS = "RAY_ADDRESS"  # Ray's own
TOKEN = "~/.ray/auth_token"  # where Ray keeps a user's
CLIENT_PORT = 10001  # of an address ray://, where it names none
ANSWERS = 5.0  # seconds that an address has to show that it is Ray's
STARTS = 120.0  # seconds that a node has to say what is installed on it
PACKAGES = ("ray", "torch", "transformers")
# The beginning of HTTP/2, which gRPC speaks, and an empty frame of settings (RFC 9113, sections 3.4 and 6.5).
HELLO, SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 4


class RayEngine(Engine):
    """Replicas of another engine. Requests are spread over them; what cannot be answered is set aside (`failed`)."""

    package, extra = "ray", "cluster"

    def __init__(self, replicas: Replicas, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.replicas, self.tokenizer = replicas, tokenizer
        self.context, self.vocabulary = replicas.about.context, replicas.about.vocabulary

    @classmethod
    def check(cls, setup: Setup) -> None:
        """See `Engine.check`: the cluster is asked what it has."""
        _placed(require(setup.replica_engine), setup)

    @classmethod
    def open(cls, setup: Setup) -> Self:
        """The engine, once one of its replicas has loaded the model."""
        return cls.of(require(setup.replica_engine), setup)

    @classmethod
    def of(cls, kind: type[Engine], setup: Setup) -> Self:
        """Replicas of an engine."""
        import ray

        from response_priming import models  # which takes seconds to import

        placed, needs, count = _placed(kind, setup)
        start = ray.remote(Replica).options(**needs).remote
        base = models.Base(setup.model, setup.revision).of(setup.student)
        return cls(Replicas(start, (kind, placed), count, _words(needs)), models.tokenizer(base.name, base.revision))

    def describe(self) -> dict[str, Any]:
        """See `Engine.describe`: what its replicas say, and how many they are."""
        return self.replicas.about.describes | {"replicas": len(self.replicas.seats)}

    def respond_to(self, requests: Iterable[Request]) -> Iterator[tuple[int, int, Response]]:
        """See `Engine.respond_to`. A prompt that fails whatever is tried is set aside (see `replicas`)."""
        for task, found, reason in self.replicas.run(self._tasks(requests)):
            if found is None:
                top_k, nothing = min(task.options["top_k"], self.vocabulary), np.empty(0, np.float16)
                signal = pack(np.empty((0, top_k)), np.empty((0, top_k)), nothing) if top_k else None
                yield task.number, task.first, Response([], "", False, signal, nothing if top_k else None, reason)
            else:
                yield from ((task.number, task.first + index, response) for index, response in found)

    def _tasks(self, requests: Iterable[Request]) -> Iterator[Task]:
        for number, request in enumerate(requests):
            check_context(request.prompts, request.max_tokens, self.context)
            options = request._asdict()
            yield Task(number, "respond", options.pop("prompts"), options)

    def fulfil(self, request: Request) -> Iterator[tuple[int, Response]]:
        """See `Engine.fulfil`; `InputError` for a prompt that fails whatever is tried."""
        for _, index, response in self.respond_to([request]):
            if response.failed:
                raise InputError(f"engine = 'ray': prompt {index} cannot be answered: {response.failed}")
            yield index, response

    def score(self, sequences: Sequence[list[int]], *, top_k: int) -> Iterator[tuple[int, Signal]]:
        """See `Engine.score`; `InputError` for a sequence that fails whatever is tried."""
        for task, found, reason in self.replicas.run([Task(0, "score", sequences, {"top_k": top_k})]):
            if found is None:
                raise InputError(f"engine = 'ray': sequence {task.first} cannot be scored: {reason}")
            yield from ((task.first + index, signal) for index, signal in found)


def _placed(kind: type[Engine], setup: Setup) -> tuple[Setup, dict[str, int], int]:
    """The setup on the device it is for, what a replica takes of a node, and how many there are.

    Raises:
        InputError: the engine cannot run this model, there is no such cluster, or it has no room.
    """
    kind.check(setup)
    device = params.device_of(setup.device)
    if device == "mps":
        raise InputError("model.device = 'mps': engine ray shares out CPUs and CUDA devices; allowed: 'auto', 'cpu'")
    connect(os.environ.get(ADDRESS, ""))
    if os.environ.get(ADDRESS):
        check_nodes(*filter(None, [kind.package]))
    gpus = setup.tensor_parallel * setup.pipeline_parallel if device == "cuda" else 0
    needs = {"num_cpus": 1, "num_gpus": gpus}
    there = [tuple(int(node["Resources"].get(unit, 0)) for unit in ("CPU", "GPU")) for node in nodes()]
    room = sum(min(cpus, have // gpus if gpus else cpus) for cpus, have in there)
    has = ", ".join(f"{cpus} cores and {have} GPUs" for cpus, have in sorted(set(there)))
    if not room:
        parameter = f"tensor_parallel * pipeline_parallel = {gpus}" if gpus else "engine = 'ray'"
        raise InputError(f"{parameter}: a replica needs {_words(needs)} of a node, and the cluster's have {has}")
    if setup.replicas > room:
        raise InputError(
            f"replicas = {setup.replicas}: each needs {_words(needs)} of a node, and the cluster's have {has}; "
            f"allowed: 0 to {room}"
        )
    dtype = params.precision_of(setup.dtype, device)
    return dataclasses.replace(setup, device=device, dtype=dtype), needs, setup.replicas or room


def _words(needs: dict[str, int]) -> str:
    return f"{needs['num_gpus']} GPUs and a core" if needs["num_gpus"] else "a core"


# --- the cluster ---


def connect(address: str, *, logs: bool = False) -> None:
    """Join the Ray cluster at an address, as `host:6379`, `ray://host:10001` or `auto`; none is this machine's own.

    What is connected already stays so. A cluster of this machine ends with this process.

    Args:
        logs: whether what workers print is printed here.

    Raises:
        InputError: there is no cluster at the address; said within seconds.
    """
    if address:
        _use_token()  # which Ray would not look at again once it is imported
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    if not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": logs}
    if not address:
        _start(**quiet)
        return
    try:
        _greet(address)
        ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        first, *more = (str(error).strip() or type(error).__name__).splitlines()
        reason = f"{first} {more[-1].strip()}" if more and first.endswith(":") else first
        raise InputError(
            f"CLUSTER = {address!r}: no Ray cluster there ({reason}); `ray start --head` starts one, and prints its "
            "address"
        ) from None


def _use_token() -> None:
    """Where this user has a token of Ray's, show it: `ray start` then asks for it, and `ray.init` of an address would
    not give it. Who asks for none takes it as well."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", TOKEN)).expanduser()
    if "RAY_AUTH_TOKEN" in os.environ or file.exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _start(**options: Any) -> None:
    """A cluster of this machine, for as long as this process lives."""
    import ray

    light = {"PYTHONPATH": python_path()}
    for tries in range(3):
        try:
            with mock.patch.dict(os.environ, light):
                ray.init("local", include_dashboard=False, **options)
        except Exception as error:  # a bare one, where its processes take more than Ray's own limits of 15 and 30 s
            ray.shutdown()
            if tries == 2:
                raise InputError(
                    f"engine = 'ray': no cluster can be started on this machine, which may be too busy: {error}"
                ) from None
        else:
            return


def python_path() -> str:
    """PYTHONPATH for the processes of a cluster: a folder comes first that makes a package unknown to them.

    All of them import jsonschema, which would compile a grammar of internationalised addresses: two seconds of a core
    for each, of the 15 s after which Ray gives up a node. (`cli.commands` does the same for its own process.)
    """
    folder = tempfile.mkdtemp(prefix="response-priming-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Path(folder, "rfc3987_syntax.py").write_text("raise ImportError\n", encoding="utf-8")
    return os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))


def _greet(address: str) -> None:
    """`OSError` where nothing at an address speaks gRPC, as Ray's ports do; Ray itself would try for minutes."""
    name = address.removeprefix("ray://")
    if name in ("auto", "local"):
        return
    host, _, port = name.rpartition(":") if ":" in name else (name, "", str(CLIENT_PORT))
    with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS) as connection:
        if os.environ.get("RAY_USE_TLS") != "1":
            connection.sendall(HELLO)
            if connection.recv(4)[3:] != bytes([SETTINGS]):
                raise OSError("another program listens there")


def nodes() -> list[dict[str, Any]]:
    """The cluster's nodes that are alive, as Ray describes them."""
    import ray

    every: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in every if node["Alive"]]


def versions(*packages: str) -> dict[str, str]:
    """Versions of what decides what a replica answers: Python, packages, and this project's code of engines."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *packages):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    code = provenance.code_digests("engines.ray", *(f"engines.{name}" for name in ("transformers", "vllm")))
    return found | {"response-priming": f"code {hashlib.sha256(json.dumps(code).encode()).hexdigest()[:12]}"}


def on_every_node(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What a function gives on each node of the cluster that lives, by the node's name.

    Raises:
        InputError: a node cannot run it, or does not in time.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe, asked, found = ray.remote(num_cpus=0, max_retries=0)(function), {}, {}
    for node in nodes():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[node["NodeID"]] = node, probe.options(scheduling_strategy=there).remote(*arguments)
    ray.wait([reference for _, reference in asked.values()], num_returns=len(asked), timeout=STARTS)
    for identity, (node, reference) in asked.items():
        name = f"node {node['NodeManagerHostname']} ({identity[:8]})"
        try:
            found[name] = ray.get(reference, timeout=ANSWERS)
        except GetTimeoutError:
            raise InputError(f"{name}: did not answer within {STARTS:.0f} s") from None
        except RayError as error:
            if identity not in {one["NodeID"] for one in nodes()}:
                continue  # it died meanwhile
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise InputError(f"{name}: cannot run this project's code: {lines[-1].strip()}") from None
    return found


def check_nodes(*packages: str) -> None:
    """`InputError` where a node of the cluster has other versions than this process (see `versions`), or none."""
    here = versions(*packages)
    for name, found in on_every_node(versions, *packages).items():
        for package, version in here.items():
            if found[package] != version:
                raise InputError(
                    f"{name}: has {package} {found[package]}, and {version} runs here; allowed: the same on all nodes"
                )


ENGINE = RayEngine
