"""The paper on a Ray cluster: every stale notebook is a task with the processors it declares, as many at once as fit.

What is stale, and what needs what, is the same as for make. Students of several seeds are trained side by side, and
answer side by side, before their notebook, which finds them; so are the trials of a search. A task whose node dies is
begun again on another one and goes on from what is finished. All nodes see one project folder; or each has its own, and
results are copied through a storage (see `storage`).
"""

import contextlib
import os
import secrets
import subprocess
import sys
from typing import Any, NamedTuple

from response_priming import engines, notebooks, params, paths, progress
from response_priming.cli.execution import execute_node
from response_priming.cli.storage import Storage
from response_priming.errors import InputError
from response_priming.machines import cost

ENGINES = ("engine", "evaluate_engine")
TRIES = 3  # how often a task is begun again whose worker or node died


class Task(NamedTuple):
    """A notebook to execute, or a part of what it makes, before it: the student of a seed, or the trials of a worker.

    It takes so many processors of one node.
    """

    node: notebooks.Node
    needs: tuple[str, ...]
    cpus: int
    gpus: int
    part: int | None = None

    @property
    def name(self) -> str:
        """As in logs."""
        kind = "worker" if self.node.stage == "search" else "seed"
        return self.node.name if self.part is None else f"{self.node.name}-{kind}-{self.part}"


def make(profile: params.Profile, address: str, goal: str, storage: Storage | None) -> None:
    """Execute a notebook on a cluster, and before it every stale one that it needs.

    Args:
        address: `local` starts one on this machine, `auto` joins the one that runs here or that RAY_ADDRESS names; or
            an address, as `ray://HOST:10001`.
        goal: the notebook's name, or `report` for all of the paper.

    Raises:
        InputError: there is no such cluster, or it cannot run this profile, said before anything is begun; or a
            notebook failed, said when those that do not need it are finished.
    """
    wanted = _wanted(profile, goal)
    if storage and goal != "report":
        raise InputError(f"STORAGE = {storage.url!r}: only for the paper; {goal} needs a path that all nodes share")
    if storage:
        for node in wanted:
            storage.fetch(node, notebook=not node.executed.exists())
            storage.send(node)
    found = notebooks.states(profile)
    if stale := [node for node in wanted if found[node.name].reason]:
        engines.require("ray")  # or it is said how to install it
        from response_priming.engines import ray as cluster

        cluster.connect("" if address == "local" else address, logs=True)
        cluster.check_nodes()
        planned = tasks(profile, stale, [node["Resources"] for node in cluster.nodes()])
        if not storage:
            _share(profile)
        try:
            _run(profile, planned, storage)
        finally:
            if storage:
                for node in stale:
                    storage.fetch(node, notebook=True)


def _wanted(profile: params.Profile, goal: str) -> list[notebooks.Node]:
    """The goal's notebook and all that it needs, each after those."""
    paper = notebooks.nodes(profile)
    if goal == "report":
        return paper
    names = {notebooks.find(profile, goal).name}
    found: list[notebooks.Node] = []
    for node in reversed([*paper, *notebooks.extras(profile)]):
        if node.name in names:
            names.update(node.needs)
            found.insert(0, node)
    return found


def tasks(profile: params.Profile, stale: list[notebooks.Node], there: list[dict[str, float]]) -> list[Task]:
    """The tasks of stale notebooks, each after those it needs.

    Args:
        there: what each node of the cluster has, as Ray names it.

    Raises:
        InputError: no node is large enough for one of them.
    """
    cores = max(1, min((int(node["CPU"]) for node in there if node.get("CPU")), default=1) // 2)
    most = max(int(node.get("GPU", 0)) for node in there)
    kinds = {name.removeprefix("accelerator_type:").lower() for node in there for name in node if ":" in name}
    for kind in kinds & cost.GPUS.keys():
        if change := cost.estimate(profile, kind).change:
            raise InputError(f"profile {profile.name}: does not fit {kind}; the smallest change that does: {change}")
    made: list[Task] = []
    everywhere = None  # the last one that spreads over the whole cluster by itself
    for node in stale:
        gpus, model = gpus_of(node.run, most), hasattr(node.run, "device")
        if gpus > most:
            raise InputError(f"{node.name}: needs {gpus} GPUs of one node; the largest here has {most}")
        needs = tuple(task.name for task in made if task.node.name in node.needs)
        if model and "ray" in {getattr(node.run, key, None) for key in ENGINES}:
            made.append(Task(node, (*needs, *([everywhere] if everywhere else [])), 0, 0))
            everywhere = made[-1].name
            continue
        places = sum(int(one.get("GPU", 0)) // gpus if gpus else int(one.get("CPU", 0)) // cores for one in there)
        if parts := [Task(node, needs, cores, gpus, part) for part in parts_of(node.run, places)]:
            made += parts
            needs = tuple(task.name for task in parts)
        made.append(Task(node, needs, cores if model else 1, 0 if parts and node.stage != "search" else gpus))
    return made


def parts_of(run: params.Run, places: int) -> list[int]:
    """What a notebook makes in parts, side by side: students by seed; trials by worker, as many as there are places."""
    if isinstance(run, params.SearchRun):
        return list(range(min(run.trials, places)))
    if isinstance(run, params.DistillRun | params.EvaluateRun):
        seeds = run.seeds_of(run.arm)
        return seeds if len(seeds) > 1 or getattr(run, "train_processes", 1) > 1 else []
    return []


def gpus_of(run: params.Run, most: int) -> int:
    """GPUs that a notebook takes, of a cluster whose largest node has `most`; none where its device is a CPU."""
    device, engine = getattr(run, "device", "cpu"), getattr(run, "engine", "")
    if device == "cpu" or (device == "auto" and not most) or engine == "server":
        return 0
    if isinstance(run, params.DistillRun):
        return run.train_processes
    return run.tensor_parallel * run.pipeline_parallel if isinstance(run, params.GenerateRun) else 1


def _run(profile: params.Profile, planned: list[Task], storage: Storage | None) -> None:
    """Run the tasks; one whose needs failed is not begun."""
    import ray

    work = ray.remote(max_calls=1)(_work)  # a process for each: what it took of a GPU is given back
    made: dict[str, Any] = {}
    for task in planned:
        options = {"num_cpus": task.cpus, "num_gpus": task.gpus, "max_retries": TRIES, "name": task.name}
        needs = [made[name] for name in task.needs]
        made[task.name] = work.options(**options).remote(
            profile.name, task.node.name, task.part, task.cpus, storage, *needs
        )
    failed = []
    for task in planned:
        try:
            ray.get(made[task.name])
        except ray.exceptions.RayTaskError as error:
            if not any(name in failed for name in task.needs):
                progress.say(f"{task.name}: {_reason(error)}")
            failed.append(task.name)
        except (ray.exceptions.RayError, OSError) as error:
            progress.say(f"{task.name}: its node died {TRIES + 1} times: {str(error).splitlines()[0]}")
            failed.append(task.name)
    if failed:
        raise InputError(
            f"not made: {', '.join(failed)}; what is finished is kept, and the next run goes on from there"
        )


def _reason(error: Exception) -> str:
    """What a task failed of, in a line."""
    cause = getattr(error, "cause", error)
    return str(cause).splitlines()[0] if isinstance(cause, InputError) else f"{type(cause).__name__}: {cause}"


def _work(profile: str, name: str, part: int | None, threads: int, storage: Storage | None, *_: object) -> None:
    """What a worker does for a task; what it needs is finished."""
    import ray

    os.environ["OMP_NUM_THREADS"] = str(max(1, threads))
    # The engine `ray` of a notebook joins this cluster.
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    loaded = params.load(profile)
    node = notebooks.find(loaded, name)
    if storage:
        for earlier in notebooks.nodes(loaded):
            storage.fetch(earlier, notebook=False)
    try:
        if part is None:
            execute_node(loaded, node)
        else:
            _make_part(loaded, node, part)
    except SystemExit:
        raise RuntimeError("failed, as said above") from None
    if storage:
        storage.send(node)


def _make_part(loaded: params.Profile, node: notebooks.Node, part: int) -> None:
    """Make a part of what a notebook makes (see `parts_of`); the notebook then finds it."""
    import torch

    from response_priming import distill, studies
    from response_priming.evaluate.answers import answer_one

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    notebooks.require(node.run)
    name = Task(node, (), 0, 0, part).name
    with progress.Line(name, progress.shared(loaded.build)) as line, contextlib.redirect_stderr(line):
        line.start(name)
        if isinstance(node.run, params.SearchRun):
            studies.work(node.run, part)
        elif isinstance(node.run, params.EvaluateRun):
            answer_one(node.run, part)
        elif isinstance(node.run, params.DistillRun) and node.run.train_processes > 1:
            _launch(node.run, part)
        elif isinstance(node.run, params.DistillRun):
            distill.train_one(node.run, part)
        line.done()


def _launch(run: params.DistillRun, seed: int) -> None:
    """Train a student by several processes, as accelerate's configuration of this node says (FSDP, DeepSpeed)."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(run.train_processes)]
    what = ["distill", "--profile", run.profile, "--arm", run.arm, "--seed", str(seed)]
    # A free port: another launch on this node may have the default one.
    command = [*launcher, "--multi_gpu", "--main_process_port", "0", "--module", "response_priming", *what]
    done = subprocess.run(command, check=False, text=True, stderr=subprocess.PIPE, stdout=sys.stderr.fileno())
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("response-priming: ")]
        raise InputError(said[0].removeprefix("response-priming: ") if said else f"accelerate: {done.stderr[-300:]}")


def _share(profile: params.Profile) -> None:
    """`InputError` where a node does not see this machine's build folder, cannot write there, or works in another."""
    from response_priming.engines import ray as cluster

    token = profile.build / "plan" / f".cluster-{secrets.token_hex(8)}"
    paths.write(token, "")
    try:
        for name, (seen, build) in cluster.on_every_node(_sees, str(token)).items():
            if not seen:
                raise InputError(
                    f"{name}: cannot write to {paths.shown(profile.build)} of this machine; the project must "
                    "lie on a path that all nodes share, or STORAGE name an address for results"
                )
            if build != str(paths.BUILD):
                raise InputError(
                    f"{name}: works in {build}, not in {paths.BUILD}; `ray start` there by this project's environment"
                )
    finally:
        token.unlink()


def _sees(token: str) -> tuple[bool, str]:
    """Whether a file of the driver's is here, in a folder that can be written to; and where results go here."""
    return os.access(token, os.W_OK), str(paths.BUILD)
