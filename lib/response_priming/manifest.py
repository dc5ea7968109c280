"""Stage folders that are either complete or absent, each with a `manifest.json` that says how it was made.

A folder is written aside and renamed in, so a killed stage leaves nothing half-written. Its recipe (parameters, digests
of inputs and code) decides whether it has to be made again; the rest of the manifest is provenance.
"""

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from response_priming import paths
from response_priming.errors import InputError

FILE = "manifest.json"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "pandas", "response-priming")
# Parameters enter a recipe by value, and these modules shape no artefact: a change in them makes nothing stale.
PLUMBING = frozenset({"errors", "figures", "manifest", "params", "paths"})


def recipe(stage: str, parameters: dict[str, Any], inputs: list[Path], *, code: str) -> dict[str, Any]:
    """All that decides what a stage writes.

    Args:
        parameters: as validated; the profile's name and anything else that does not matter left out by the caller.
        inputs: stage folders that it reads, each complete.
        code: stem of the stage's module; the modules it imports are followed.
    """
    return {
        "stage": stage,
        "parameters": json.loads(json.dumps(parameters)),
        "inputs": {_below_profile(path): read(path)["outputs"] for path in inputs},
        "code": code_digests(code),
    }


def _below_profile(folder: Path) -> str:
    """`students/teacher/seed-0`, the same whatever the profile is called."""
    return "/".join(folder.relative_to(paths.BUILD).parts[1:])


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a complete stage folder; `InputError` where there is none."""
    try:
        content = (folder / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{paths.shown(folder)}: not made yet; `make paper` makes every stage in order") from None
    return cast("dict[str, Any]", json.loads(content))


def is_current(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether the folder is complete and was made by this recipe."""
    return (folder / FILE).exists() and read(folder)["recipe"] == wanted


@contextmanager
def writing(folder: Path, made_by: dict[str, Any]) -> Iterator[Path]:
    """A temporary folder that replaces `folder`, with its manifest, once the block ends without an error."""
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    start = time.monotonic()
    try:
        yield aside
        content = {
            "recipe": made_by,
            "outputs": {
                str(file.relative_to(aside)): digest(file) for file in sorted(aside.rglob("*")) if file.is_file()
            },
            "wall_seconds": round(time.monotonic() - start, 1),
            **provenance(),
        }
        (aside / FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def provenance() -> dict[str, Any]:
    """Git commit, package versions and machine of this process."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=paths.ROOT, capture_output=True, text=True, check=False)
    return {
        "git_commit": git.stdout.strip() or None,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def summary() -> str:
    """Provenance in one line, for a notebook's first output."""
    made = provenance()
    packages = ", ".join(f"{name} {made['packages'][name]}" for name in ("torch", "transformers", "peft"))
    return f"commit {(made['git_commit'] or 'none')[:10]}; Python {made['python']}; {packages}; {made['machine']}"


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.cache
def code_digests(module: str) -> dict[str, str]:
    """Digests of one of our modules and of those it imports, itself or through others."""
    found: dict[str, str] = {}
    pending = [module]
    while pending:
        stem = pending.pop()
        file = Path(__file__).with_name(f"{stem}.py")
        if stem in found or stem in PLUMBING or not file.exists():
            continue
        found[stem] = digest(file)[:16]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == __package__:
                pending += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{__package__}."):
                pending.append(str(node.module).rpartition(".")[2])
    return dict(sorted(found.items()))
