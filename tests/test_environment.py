"""Set-up: one list of dependencies, and what follows from it."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tiny
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
NAME = re.compile(r"^[A-Za-z0-9_.-]+")


def listed(*extras):
    return [*PROJECT["dependencies"], *(entry for extra in extras for entry in PROJECT["optional-dependencies"][extra])]


def test_lock_pins_every_listed_dependency():
    names = {NAME.match(entry)[0].lower().replace("_", "-") for entry in listed("dev", "gpu", "cluster")}
    assert names - LOCK.keys() == set()


def test_lock_is_portable():
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|@|/(opt|home|tmp)|\+cpu", text)


def test_environment_yml_installs_this_package_and_nothing_else():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert {NAME.match(entry)[0] for entry in conda} == {"python", "pip", "make", "quarto"}
    assert pip["pip"] == ["--constraint requirements.lock", "--editable .[dev]"]


def test_environment_yml_has_the_same_versions_as_pyproject():
    conda = dict(
        re.match(r"(\w+)(.*)", entry).groups()
        for entry in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][:-1]
    )
    assert conda["python"] == PROJECT["requires-python"]
    assert conda["quarto"] == PROJECT["optional-dependencies"]["quarto"][0].removeprefix("quarto-cli")


def test_makefile_uses_the_conda_environment_of_environment_yml():
    name = yaml.safe_load((ROOT / "environment.yml").read_text())["name"]
    done = subprocess.run(
        ["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=False,
        env=tiny.ENVIRONMENT | {"CONDA_DEFAULT_ENV": name, "CONDA_PREFIX": "/somewhere"},
    )  # fmt: skip
    assert done.stdout.startswith("/somewhere/bin/jupyter lab")


def test_no_package_index_is_one_line_and_keeps_the_environment(tmp_path):
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    offline = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_RETRIES": "0",
        "PIP_FIND_LINKS": "",
    }
    done = subprocess.run(
        [str(ROOT / "setup.sh"), sys.executable, str(venv)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | offline,
    )
    assert done.returncode == 2
    assert "packages cannot be installed, is the package index reachable?" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (venv / "bin" / "python").exists()
    assert not (venv / "installed").exists()


def test_missing_python_is_one_line():
    done = subprocess.run([str(ROOT / "setup.sh"), "python0", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "make: PYTHON = python0: no such program; Python 3.11 or newer is needed\n"


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda file: file.stem)
def test_notebooks_are_thin_and_carry_no_output(notebook):
    code = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        if "parameters" not in cell["metadata"].get("tags", []):
            assert len(cell["source"]) <= 25
            assert not any(line.startswith("def ") for line in cell["source"])
