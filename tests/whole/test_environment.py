"""Set-up: one list of dependencies, and what follows from it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
LOCK = dict(line.split()[0].split("==") for line in LOCKED)
NAME = re.compile(r"^[A-Za-z0-9_.-]+")
needs_uv = pytest.mark.skipif(not find_spec("uv"), reason="uv is not installed in this environment")


def listed(*extras):
    return [*PROJECT["dependencies"], *(entry for extra in extras for entry in PROJECT["optional-dependencies"][extra])]


def test_lock_pins_every_listed_dependency():
    installers = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["setup"]
    entries = [*listed("dev", "gpu", "cluster"), *installers]
    names = {NAME.match(entry)[0].lower().replace("_", "-") for entry in entries}
    assert names - LOCK.keys() == set()


def test_lock_is_portable():
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|@|/(opt|home|tmp)|\+cpu", text)


def test_lock_has_digests_of_every_file_that_is_the_same_on_all_machines():
    without = {line for line in LOCKED if not re.fullmatch(r"\S+( --hash=sha256:[0-9a-f]{64})+", line)}
    assert {line.split("==")[0] for line in without} == {"torch", "torchvision", "torchaudio", "torchcodec", "triton"}
    assert all(re.fullmatch(r"\S+==\S+", line) for line in without)


def test_environment_yml_leaves_packages_to_make():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert {NAME.match(entry)[0] for entry in conda} == {"python", "pip", "make", "quarto"}


def test_environment_yml_has_the_same_versions_as_pyproject():
    conda = dict(
        re.match(r"(\w+)(.*)", entry).groups()
        for entry in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    )
    assert conda["python"] == PROJECT["requires-python"]
    assert conda["quarto"] == PROJECT["optional-dependencies"]["quarto"][0].removeprefix("quarto-cli")


def test_makefile_uses_the_conda_environment_of_environment_yml():
    name = yaml.safe_load((ROOT / "environment.yml").read_text())["name"]
    done = subprocess.run(
        ["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=False,
        env=tiny.ENVIRONMENT | {"CONDA_DEFAULT_ENV": name, "CONDA_PREFIX": "/somewhere"},
    )  # fmt: skip
    assert re.search(r"^\./setup\.sh \S+ /somewhere$", done.stdout, re.MULTILINE)
    assert re.search(r"^/somewhere/bin/jupyter lab", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("said", "profile"),
    [([], "laptop"), (["lab"], "laptop"), (["related"], "related-laptop"), (["related", "PROFILE=laptop"], "laptop")],
)
def test_a_goal_has_its_profile_unless_another_is_said(tmp_path, said, profile):
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = subprocess.run(
        ["make", "-np", "BIN=/nowhere", *said], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={key: value for key, value in tiny.ENVIRONMENT.items() if key != "PROFILE"},
    )  # fmt: skip
    assert re.search(r"^PROFILE = (.*)$", done.stdout, re.MULTILINE)[1] == profile


def make_environment(folder, installer):
    """A virtual environment with pip, or with pip and uv."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next(folder.glob("lib/*/site-packages"))
    # What the installer is made of comes from this environment, all else would have to be fetched.
    for needed in {"pip", installer}:
        source = Path(find_spec(needed).submodule_search_locations[0])
        for found in (source, *source.parent.glob(f"{needed}-*.dist-info")):
            (packages / found.name).symlink_to(found)
    if installer == "uv":
        (folder / "bin" / "uv").symlink_to(Path(sys.executable).parent / "uv")


installers = pytest.mark.parametrize("installer", ["pip", pytest.param("uv", marks=needs_uv)])


@installers
def test_no_package_index_is_one_line_and_keeps_the_environment(tmp_path, installer):
    folder = tmp_path / "venv"
    make_environment(folder, installer)
    offline = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_RETRIES": "0",
        "PIP_FIND_LINKS": "",
        "UV_HTTP_RETRIES": "0",
        "UV_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [str(ROOT / "setup.sh"), sys.executable, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | offline,
    )
    assert done.returncode == 2
    assert "packages cannot be installed, is the package index reachable? " in done.stderr
    assert {
        "pip": "ERROR: Could not find a version that satisfies the requirement setuptools==",
        "uv": "error: Failed to fetch: ",
    }[installer] in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert ("pip installs the packages" in (folder / "setup.log").read_text()) == (installer == "pip")
    assert (folder / "bin" / "python").exists()
    assert not (folder / "installed").exists()


def test_missing_python_is_one_line():
    done = subprocess.run([str(ROOT / "setup.sh"), "python0", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "make: PYTHON = python0: no such program; Python 3.11 or newer is needed\n"


def put_wheel(folder, version, name="thing", requires=()):
    """Write a wheel of an empty package into `folder`, which serves as an index or for find-links."""
    folder.mkdir(parents=True, exist_ok=True)
    info, needs = f"{name}-{version}.dist-info", "".join(f"Requires-Dist: {each}\n" for each in requires)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    links = [f'<a href="{file.name.replace("+", "%2B")}">{file.name}</a>' for file in folder.glob("*.whl")]
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>")


# Builds a package of its own folder without setuptools.
BACKEND = """import shutil
def build_editable(folder, *_):
    return shutil.copy("project-1.0-py3-none-any.whl", folder) and "project-1.0-py3-none-any.whl"
"""


@pytest.mark.parametrize("changed", ["", "thing", "setuptools"])
@installers
def test_another_file_than_the_locks_stops_set_up_and_is_named(tmp_path, installer, changed):
    project, wheels = tmp_path / "project", tmp_path / "wheels"
    for name, version in {"thing": "1.0", "setuptools": "99.0", "built": "2.0+cpu"}.items():
        put_wheel(wheels, version, name)
    make_environment(project / "venv", installer)
    for name in ("setup.sh", "uv_pip.py"):
        shutil.copy(ROOT / name, project)
    (project / "pyproject.toml").write_text(
        '[project]\nname = "project"\nversion = "1.0"\ndependencies = ["thing", "built"]\n'
        "[project.optional-dependencies]\ndev = []\nquarto = []\n"
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (project / "backend.py").write_text(BACKEND)
    put_wheel(project, "1.0", "project", requires=["thing", "built"])
    lines = ["built==2.0", f"uv=={LOCK['uv'] if installer == 'uv' else '0.0'} --hash=sha256:{64 * '0'}"]
    for wheel in wheels.glob("*-py3-none-any.whl"):
        name, version = wheel.name.split("-")[:2]
        digest = hashlib.sha256(wheel.read_bytes() + (b"another" if name == changed else b"")).hexdigest()
        lines += [f"{name}=={version} --hash=sha256:{64 * '1'} --hash=sha256:{digest}"] * (name != "built")
    (project / "requirements.lock").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [project / "setup.sh", sys.executable, "venv"], capture_output=True, text=True, check=False,
        env=os.environ | {
            "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "UV_OFFLINE": "1",
            "UV_CACHE_DIR": str(tmp_path / "cache"),
        },
    )  # fmt: skip
    installed = {file.name for file in next((project / "venv").glob("lib/*/site-packages")).glob("*.dist-info")}
    assert (project / "venv" / "installed").exists() == (not changed)
    if changed:
        version = {"thing": "1.0", "setuptools": "99.0"}[changed]
        assert done.returncode == 2
        assert re.fullmatch(
            rf"make: {changed}=={version}: its file is not the one of requirements.lock, .*\n", done.stderr
        )
        assert f"{changed}-{version}.dist-info" not in installed
    else:
        assert done.returncode == 0, (project / "venv" / "setup.log").read_text()
        assert {"thing-1.0.dist-info", "built-2.0+cpu.dist-info", "project-1.0.dist-info"} <= installed


@needs_uv
@pytest.mark.parametrize(
    ("config", "variables", "version"),
    [
        ("", {}, "2.0"),
        # The best version of all indexes, not the first index's.
        ("extra-index-url = {further}", {}, "2.0"),
        ("extra-index-url = {newer} {further}", {}, "3.0"),
        # A local build of the same version is the better one: how a CPU build of torch is had.
        ("find-links = {builds}", {}, "2.0+cpu"),
        ("find-links = {builds}\nno-index = true", {}, "2.0+cpu"),
        ("constraint = {limit}", {}, "1.0"),
        # Variables win over files, unless they are empty.
        ("find-links = {builds}", {"PIP_FIND_LINKS": ""}, "2.0+cpu"),
        ("extra-index-url = {further}", {"PIP_EXTRA_INDEX_URL": "{newer}"}, "3.0"),
        # What is for pip's install alone wins over what is for all its commands.
        ("extra-index-url = {newer}\n[install]\nextra-index-url = {further}", {}, "2.0"),
    ],
)
def test_uv_takes_the_version_that_pip_takes(tmp_path, config, variables, version):
    places = {}
    for place, versions in {"first": ["1.0", "2.0"], "further": ["1.5"], "newer": ["3.0"]}.items():
        for each in versions:
            put_wheel(tmp_path / place / "thing", each)
        places[place] = (tmp_path / place).as_uri()
    put_wheel(tmp_path / "builds", "2.0+cpu")
    (tmp_path / "limit.txt").write_text("thing<1.5\n")
    places |= {"builds": str(tmp_path / "builds"), "limit": str(tmp_path / "limit.txt")}
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {places['first']}\n{config.format(**places)}\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    environment |= {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "UV_CACHE_DIR": str(tmp_path / "cache")}
    environment |= {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    environment |= {name: value.format(**places) for name, value in variables.items()}

    def run(*command):
        command = [sys.executable, *command, "--dry-run", "thing"]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)

    by_pip = json.loads(run("-m", "pip", "install", "--quiet", "--report", "-").stdout)["install"]
    by_uv = run(ROOT / "uv_pip.py", "install").stderr
    assert [each["metadata"]["version"] for each in by_pip] == [version]
    assert re.findall(r"^ \+ thing==(.*)$", by_uv, re.MULTILINE) == [version]


@needs_uv
@pytest.mark.parametrize("platform", ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin"])
def test_lock_pins_wheels_for_all_that_is_installed(platform):
    """So uv and pip have the same choice on each platform: none."""
    command = [sys.executable, ROOT / "uv_pip.py", "compile", "pyproject.toml", "--extra=dev", "--only-binary=:all:"]
    command += ["--constraint=requirements.lock", f"--python-platform={platform}", "--python-version=3.11"]
    command += ["--no-header", "--no-annotate", "--quiet"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0", "UV_HTTP_RETRIES": "0"},
    )  # fmt: skip
    if "Failed to fetch" in done.stderr:
        pytest.skip(f"no package index can be reached: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    resolved = dict(re.findall(r"^(\S+?)==([^\s+]+)", done.stdout, re.MULTILINE))  # without +cpu and the like
    assert len(resolved) > len(listed("dev"))
    assert {name: LOCK.get(name) for name in resolved} == resolved


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda file: file.stem)
def test_notebooks_are_thin_and_carry_no_output(notebook):
    code = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        if "parameters" not in cell["metadata"].get("tags", []):
            assert len(cell["source"]) <= 25
            assert not any(line.startswith("def ") for line in cell["source"])
