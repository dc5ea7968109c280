"""Launchers: each file is one that its scheduler takes, and its commands do what they should, by stand-ins for all."""

import json
import os
import re
import subprocess

import psutil
import pytest
import yaml

from response_priming import paths

CLUSTER = paths.ROOT / "cluster"
# A stand-in writes down its name and arguments, then does what a case says.
STAND_IN = r"""#!/usr/bin/env bash
called="$(basename "$0") $*"
echo "$called" >> "$LOG"
case "$called" in
scontrol*) printf 'n1\nn2\nn3\n' | head -n "$NODES" ;;
*" hostname --ip-address") echo 10.0.0.1 fe80::1 ;;
srun*--block* | ray*--head*--block*)
    echo "$RAY_AUTH_MODE ${#RAY_AUTH_TOKEN}" >> "$LOG.tokens"
    echo $$ >> "$LOG.steps"
    exec sleep 60 ;;
# Nodes are there once all steps have begun; where another machine begins them, at the third time of asking.
"python -c import sys, ray"*"1") [ -s "$LOG.steps" ] || [ "$(grep -c '^python' "$LOG")" -ge "${THIRD:-1000000}" ] ;;
"python -c import sys, ray"*) [ "$(wc -l < "$LOG.steps")" -ge "${STEPS:-2}" ] ;;
"make paper"*) exit "${FAILS:-0}" ;;
"make cost"*) exit "${TOO_LARGE:-0}" ;;
mountpoint*) exit 1 ;;
"uv python find"*) echo /opt/python ;;
esac
"""
NAMES = ("srun", "scontrol", "ray", "make", "sudo", "uv", "mountpoint", "python")
# What Slurm's manual lists for sbatch, and what a value of it looks like.
SBATCH = {
    "job-name": r"[\w-]+", "nodes": r"\d+(-\d+)?", "ntasks-per-node": r"\d+", "gpus-per-node": r"(\w+:)?\d+",
    "exclusive": "", "time": r"(\d+-)?\d+:\d\d:\d\d", "output": r"[\w/%.-]+",
}  # fmt: skip
# SkyPilot's reference: fields of a task, of its resources.
TASK = {"name", "num_nodes", "workdir", "resources", "envs", "secrets", "setup", "run", "file_mounts", "volumes"}
RESOURCES = {"accelerators", "disk_size", "infra", "cpus", "memory", "use_spot", "image_id", "any_of"}


@pytest.fixture
def stage(tmp_path):
    """Runs a script in a folder of stand-ins; gives its exit code, what was called, and what it said."""
    project = tmp_path / "response-priming"
    for folder in (tmp_path / "bin", project / ".venv" / "bin"):
        folder.mkdir(parents=True)
        for name in NAMES:
            (folder / name).write_text(STAND_IN)
            (folder / name).chmod(0o755)
    log = tmp_path / "log"

    def run(script, folder=project, **values):
        known = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "LOG": str(log),
            "PAUSE": "0",
            "HOME": str(tmp_path),
        }
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=known | values, capture_output=True, text=True, timeout=60
        )
        return done.returncode, log.read_text().splitlines(), done.stderr

    run.log = log
    return run


def header(name):
    """The commands in the comments at a file's head."""
    lines = [line for line in (CLUSTER / name).read_text().splitlines() if line.startswith("#   ")]
    return [re.split(r"\s{4,}", line[4:])[0] for line in lines]


def steps_of(stage):
    """The processes that held a part of the cluster."""
    return [int(line) for line in stage.log.with_name("log.steps").read_text().split()]


# --- Slurm ---


def slurm(stage, nodes=2, **values):
    about = {"SLURM_SUBMIT_DIR": str(stage.log.parent / "response-priming"), "SLURM_JOB_NODELIST": f"n[1-{nodes}]"}
    about |= {"SLURM_CPUS_ON_NODE": "96", "NODES": str(nodes)}
    return stage((CLUSTER / "slurm.sh").read_text(), **(about | values))


def test_slurms_options_are_some_that_it_has():
    script = CLUSTER / "slurm.sh"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    lines = script.read_text().splitlines()
    options = [line.removeprefix("#SBATCH --").partition("=") for line in lines if line.startswith("#SBATCH")]
    assert {"nodes", "gpus-per-node"} <= {name for name, _, _ in options}
    for name, _, value in options:
        assert re.fullmatch(SBATCH[name], value), name
    first = next(place for place, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])  # Slurm reads none behind a command


def test_a_job_starts_the_head_then_workers_then_the_paper(stage):
    code, called, _ = slurm(stage, nodes=3, PROFILE="single-gpu", GPU="h100")
    assert code == 0
    assert called[0] == "make cost PROFILE=single-gpu GPU=h100"
    started = [line for line in called if "ray start" in line]
    assert "--nodelist=n1 ray start --head --block --node-ip-address=10.0.0.1 --port=6379" in started[0]
    assert "--nodes=2 --ntasks=2 --nodelist=n2,n3 ray start --block --address=10.0.0.1:6379" in started[1]
    assert all("--cpus-per-task=96" in line for line in started)
    # The paper waits for three nodes; a step in the background may be written down after the first question about it.
    assert any(line.startswith("python -c") and line.endswith(" 3") for line in called)
    assert called.index(started[0]) < called.index(started[1]) < len(called) - 1
    assert called[-1] == "make paper PROFILE=single-gpu CLUSTER=auto"
    assert stage.log.with_name("log.tokens").read_text() == "token 36\n" * 2


@pytest.mark.parametrize("fails", ["0", "3"])
def test_the_job_ends_ray_everywhere_and_with_makes_exit_code(stage, fails):
    code, called, _ = slurm(stage, FAILS=fails)
    assert code == int(fails)
    assert called[-1] == "make paper PROFILE=paper CLUSTER=auto"
    assert len(steps_of(stage)) == 2
    assert not any(psutil.pid_exists(step) for step in steps_of(stage))


def test_a_job_of_one_node_has_no_workers(stage):
    code, called, _ = slurm(stage, nodes=1)
    assert code == 0
    assert len([line for line in called if "ray start" in line]) == 1


def test_a_profile_that_cannot_fit_starts_nothing(stage):
    code, called, _ = slurm(stage, TOO_LARGE="2")
    assert (code, called) == (2, ["make cost PROFILE=paper GPU="])


def test_outside_of_slurm_it_says_so(stage):
    stage.log.touch()
    code, called, said = stage((CLUSTER / "slurm.sh").read_text())
    assert (code != 0, called) == (True, [])
    assert "SLURM_SUBMIT_DIR: not set: start this by sbatch" in said


# --- SkyPilot ---


@pytest.fixture
def task():
    return yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())


def test_skypilots_fields_are_some_that_it_has(task):
    assert {*task} <= TASK
    assert {*task["resources"]} <= RESOURCES
    assert re.fullmatch(r"\w+:\d+", task["resources"]["accelerators"])
    for script in ("setup", "run"):
        subprocess.run(["bash", "-n", "-c", task[script]], check=True)


def test_skypilot_itself_takes_the_task(task):
    sky = pytest.importorskip("sky", reason="skypilot is not installed")
    assert sky.Task.from_yaml_config(task, env_overrides=[("NFS", "host:/folder")]).num_nodes == task["num_nodes"]


def sky_node(stage, task, rank, **values):
    about = {"SKYPILOT_NODE_RANK": rank, "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2"}
    envs = {key: value for key, value in task["envs"].items() if value}
    code, called, _ = stage(task["run"], STEPS="1", **(about | envs | values))
    return code, [line for line in called if not line.startswith("python")]


@pytest.mark.parametrize("fails", ["0", "3"])
def test_skypilots_first_node_makes_the_paper_and_ends_ray(stage, task, fails):
    code, called = sky_node(stage, task, "0", FAILS=fails)
    assert code == int(fails)
    assert called == [
        "make cost PROFILE=paper GPU=h100",
        "ray start --head --block --node-ip-address=10.0.0.1 --port=6379 --disable-usage-stats",
        "make paper PROFILE=paper CLUSTER=auto",
    ]
    (head,) = steps_of(stage)
    assert not psutil.pid_exists(head)


def test_skypilots_other_nodes_wait_for_the_head_and_join_it(stage, task):
    code, called = sky_node(stage, task, "1", THIRD="3")
    assert (code, called) == (0, ["ray start --block --address=10.0.0.1:6379 --disable-usage-stats"])
    assert stage.log.read_text().count("python -c") == 3


def test_skypilots_nodes_share_the_build_folder(stage, task):
    code, called, _ = stage(task["setup"], NFS="host:/folder")
    assert code == 0
    assert "make .venv/installed PYTHON=/opt/python" in called
    assert called[-1] == "sudo mount -t nfs host:/folder build"


# --- Ray ---


@pytest.fixture
def launcher():
    return yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text())


def test_rays_launcher_takes_its_file(launcher):
    util = pytest.importorskip("ray.autoscaler._private.util", reason="ray is not installed: pip install '.[cluster]'")
    util.validate_config(util.prepare_config(json.loads(json.dumps(launcher))))


def test_rays_nodes_are_made_alike_and_join_the_head(stage, launcher):
    home = stage.log.parent
    for command in launcher["setup_commands"] + launcher["head_start_ray_commands"]:
        code, called, said = stage(command, folder=home)
        assert code == 0, said
    assert "make .venv/installed" in called
    assert "python -m pip install --quiet --editable .[cluster,gpu]" in called
    assert any(line.startswith("sudo mount -t nfs4 ") and line.endswith(" build") for line in called)
    assert called[-2:][0] == "ray stop"
    assert called[-1].startswith("ray start --head --port=6379 --autoscaling-config=")
    for command in launcher["worker_start_ray_commands"]:
        _, called, _ = stage(command, folder=home, RAY_HEAD_IP="10.0.0.1")
    assert called[-1] == "ray start --address=10.0.0.1:6379 --disable-usage-stats"


def test_rays_head_makes_the_paper(stage, launcher):
    (command,) = [line for line in header("ray-cluster.yaml") if line.startswith("ray exec cluster/ray-cluster.yaml")]
    code, called, _ = stage(re.search("'(.*)'", command)[1], folder=stage.log.parent)
    assert (code, called) == (0, ["make paper PROFILE=paper CLUSTER=auto"])
    assert "/home/ubuntu/response-priming" in launcher["file_mounts"]


# --- all ---


@pytest.mark.parametrize("file", sorted(CLUSTER.iterdir()), ids=lambda file: file.name)
def test_a_launcher_is_short_shows_the_price_and_makes_the_paper(file):
    text = file.read_text()
    assert len(text.splitlines()) < 60
    assert "make cost PROFILE=" in text
    assert re.search(r"make paper PROFILE=\S+ CLUSTER=auto", text)
    assert "cluster,gpu" in text
