"""The paper on a Ray cluster: which task takes what, what is refused, and that the results are those of make."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time

import pytest
import tiny
from project import BIN, Project

from response_priming import artifacts, notebooks, params, paths
from response_priming.cli import cluster
from response_priming.cli.storage import Storage
from response_priming.engines import ray
from response_priming.errors import InputError

CPUS = {"CPU": 8.0}
LAST = "notebooks/evaluate-none.ipynb"


@pytest.fixture
def planned():
    """The tasks of a profile, all of whose notebooks are stale."""

    def plan(profile, *there):
        return {task.name: task for task in cluster.tasks(profile, notebooks.nodes(profile), list(there))}

    return plan


@pytest.fixture
def several():
    """The profile of the whole paper with two seeds."""
    return params.load("paper").model_copy(update={"seeds": [0, 1]})


def test_without_gpus_a_model_takes_half_of_the_smallest_nodes_cores(planned):
    tasks = planned(params.load("laptop"), CPUS, {"CPU": 4.0})
    assert {(tasks[name].cpus, tasks[name].gpus) for name in ("generate-none", "distill-none")} == {(2, 0)}
    assert {(tasks[name].cpus, tasks[name].gpus) for name in ("compare", "audit", "claims")} == {(1, 0)}


def test_a_teacher_on_several_gpus_takes_them_all_and_a_student_one(planned, several):
    tasks = planned(several, {"CPU": 16.0, "GPU": 8.0})
    assert tasks["generate-none"].gpus == several.generate.tensor_parallel * several.generate.pipeline_parallel == 8
    assert (tasks["distill-none-seed-1"].gpus, tasks["evaluate-none-seed-1"].gpus, tasks["compare"].gpus) == (1, 1, 0)


def test_processes_that_train_a_student_together_take_a_gpu_each(planned):
    profile = params.load("paper").changed("distill.train_processes", 4)
    tasks = planned(profile, {"CPU": 16.0, "GPU": 8.0})
    assert {task.gpus for name, task in tasks.items() if name.startswith("distill-none-seed")} == {4}
    assert tasks["distill-none"].gpus == 0


def test_students_of_several_seeds_are_trained_side_by_side_before_their_notebook(planned, several):
    tasks = planned(several, {"CPU": 16.0, "GPU": 8.0})
    students = {f"distill-none-seed-{seed}" for seed in several.seeds}
    assert {tasks[name].needs for name in students} == {("generate-none",)}
    assert set(tasks["distill-none"].needs) == students
    assert tasks["distill-none"].gpus == 0
    assert "distill-none" in tasks["evaluate-none-seed-0"].needs


def test_more_gpus_than_any_node_has_are_refused(planned):
    with pytest.raises(InputError, match=r"^generate-none: needs 8 GPUs of one node; the largest here has 4$"):
        planned(params.load("paper"), CPUS, {"CPU": 16.0, "GPU": 4.0})


def test_a_profile_that_does_not_fit_the_clusters_gpus_is_refused_with_a_change(planned):
    with pytest.raises(InputError, match=r"^profile single-gpu: does not fit l4; the smallest change that does: "):
        planned(params.load("single-gpu"), {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ((False, str(paths.BUILD)), "node n1: cannot write to .*; the project must lie on a path that all nodes share"),
        ((True, "/other/build"), "node n1: works in /other/build, not in .*; `ray start` there by this project's"),
    ],
)
def test_a_node_without_this_project_is_refused_in_one_line(monkeypatch, found, said):
    monkeypatch.setattr(ray, "on_every_node", lambda *_: {"node n1": found})
    with pytest.raises(InputError, match=said):
        cluster._share(params.load("laptop"))


def test_no_cluster_at_an_address_is_one_line(tmp_path, tiny_model):
    project = Project(tmp_path, tiny_model)
    done = project.make("paper", CLUSTER="127.0.0.1:1")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert line.startswith("response-priming: CLUSTER = '127.0.0.1:1': no Ray cluster there")
    assert not (project.build / "notebooks").exists()


@pytest.mark.parametrize("url", ["file:///proc/nowhere", "nosuchthing://bucket/runs"])
def test_a_storage_that_cannot_be_written_is_one_line(url):
    with pytest.raises(InputError, match=rf"^STORAGE = '{url}': cannot be written: [^\n]+$"):
        Storage(url)


def test_what_one_machine_made_is_found_by_another_through_a_storage(tmp_path, make_run):
    run = make_run("audit")
    node = notebooks.Node(run)
    recipe = artifacts.recipe(run, run.folders[0])
    artifacts.made(run.folders[0].path, recipe, lambda aside: (aside / "a.csv").write_text("a\n1\n"))
    Storage(f"file://{tmp_path}/store").send(node)
    digests = artifacts.read(run.folders[0].path)["outputs"]
    shutil.rmtree(run.build)
    Storage(f"file://{tmp_path}/store").fetch(node, notebook=False)
    assert artifacts.read(run.folders[0].path)["outputs"] == digests


def test_a_damaged_copy_is_refused_and_another_recipes_is_not_taken(tmp_path, make_run):
    run, store = make_run("audit"), Storage(f"file://{tmp_path}/store")
    folder = run.folders[0]
    artifacts.made(folder.path, artifacts.recipe(run, folder), lambda aside: (aside / "a.csv").write_text("a\n1\n"))
    store.send(notebooks.Node(run))
    shutil.rmtree(run.build)
    other = run.model_copy(update={"seed": 7})
    (file,) = (tmp_path / "store").rglob("a.csv")
    file.write_text("a\n2\n")
    with pytest.raises(InputError, match="its copy is not as it was made"):
        store.fetch(notebooks.Node(run), notebook=False)
    assert other.folders[0].path == folder.path
    assert not folder.path.exists()


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """An arm with two seeds that make began and a local cluster went on with; and by make alone."""
    model = tiny.save_model(tmp_path_factory.mktemp("model"))
    projects = [Project(tmp_path_factory.mktemp("project"), model) for _ in range(2)]
    for project in projects:
        project.write(arms=["undistilled", "none"], seeds=[0, 1])
    begun, alone = projects[0].make("build/tiny/notebooks/generate-none.ipynb"), projects[1].make(f"build/tiny/{LAST}")
    assert begun.returncode == alone.returncode == 0, begun.stderr + alone.stderr
    done = projects[0].run("cluster", "tiny", "local", "--goal", "evaluate-none")
    if "no cluster can be started on this machine" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return (*projects, done.stdout)


def outputs(build):
    """Digests of what stages wrote: folder -> files, as in their manifests."""
    found = {file.parent.relative_to(build): json.loads(file.read_text()) for file in build.rglob("manifest.json")}
    return {
        place: made["outputs"] for place, made in found.items() if "outputs" in made and "report" not in place.parts
    }


def test_a_run_that_make_began_ends_on_a_cluster_with_the_same_bytes(halfway):
    moved, alone, said = halfway
    assert outputs(moved.build) == outputs(alone.build)
    assert (moved.build / LAST).exists()
    assert "generate-none" not in said
    assert {"evaluate-none", "report"} & moved.stale() == {"report"}


def test_seeds_are_made_before_their_notebook_which_finds_them(halfway):
    _, _, said = halfway
    order = [said.index(f" {name}") for name in ("distill-none-seed-1\n", "distill-none -> ", "evaluate-none-seed-1\n")]
    assert order == sorted(order)
    assert said.index("distill-none-seed-0\n") < order[1]


@pytest.fixture
def head(tmp_path, halfway):
    """The address for clients of a cluster that Ray's own command starts, and the file with the token it asks for."""
    pytest.importorskip("grpc", reason="Ray's client is not installed")
    with contextlib.ExitStack() as free:
        sockets = [free.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    options = [f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}", "--include-dashboard=false"]
    command = [BIN / "ray", "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", *options]
    log = (tmp_path / "log").open("w+")
    (tmp_path / "token").write_text("0" * 64)
    known = halfway[0].environment
    there = {"PYTHONPATH": f"{ray.python_path()}:{known['PYTHONPATH']}", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    started = subprocess.Popen(command, env=known | there, stdout=log, stderr=log)
    address = f"ray://127.0.0.1:{ports[1]}"
    for _ in range(120):
        with contextlib.suppress(OSError):
            ray._greet(address)
            break
        if started.poll() is not None:
            log.seek(0)
            pytest.skip(f"no cluster can be started on this machine: {log.read()[-300:]}")
        time.sleep(1)
    yield address, str(tmp_path / "token")
    started.terminate()
    started.wait()


def test_a_client_of_a_cluster_makes_what_is_stale(halfway, head):
    moved, _, _ = halfway
    moved.write(evaluate={"answer_tokens": 5, "evaluate_batch": 4})
    address, token = head
    done = moved.run("cluster", "tiny", address, "--goal", "evaluate-none", RAY_AUTH_TOKEN_PATH=token)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"distill-none", "evaluate-none"}.isdisjoint(moved.stale())
    assert " evaluate-none-seed-1\n" in done.stdout


def test_several_processes_train_a_student_together(halfway):
    _, alone, _ = halfway
    alone.write(seeds=[0, 1, 2], distill={"train_steps": 2, "train_batch": 2, "micro_batch": 2, "train_processes": 2})
    refused = alone.run("distill", "--arm", "none", "--profile", "tiny")
    assert refused.returncode == 2
    assert "distill.train_processes = 2: this is one; `make paper CLUSTER=...` starts all" in refused.stderr
    code = (
        "from response_priming import params; from response_priming.cli import cluster\n"
        "cluster._launch(params.load('tiny').run('distill', arm='none'), 2)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=alone.root, env=alone.environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (alone.build / "students/none/seed-2/manifest.json").exists()
