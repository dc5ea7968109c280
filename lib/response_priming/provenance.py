"""Provenance: which code, packages and machine made something, and when; and digests of the code by module."""

import ast
import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from response_priming import params, paths

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "pandas", "response-priming")
# Parameters enter a recipe by value, and these modules shape no artefact: a change in them makes nothing stale.
PLUMBING = frozenset({"arms", "artifacts", "errors", "params", "paths", "progress", "provenance", "style"})


def here() -> dict[str, Any]:
    """Git commit, package versions, machine and time (UTC) of this process."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=paths.ROOT, capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "git_commit": git.stdout.strip() or None,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def summary(run: params.Run) -> str:
    """A run and its provenance in one line, for a notebook's first output."""
    made = here()
    packages = ", ".join(f"{name} {made['packages'][name]}" for name in ("torch", "transformers", "peft"))
    parts = [
        ", ".join([run.profile, *run.item.values(), f"seed {run.seed}"]),
        f"commit {(made['git_commit'] or 'none')[:10]}",
        f"Python {made['python']}, {packages}",
        made["machine"] + (f", {run.precision}" if isinstance(run, params.Model) else ""),
    ]
    return "; ".join(parts)


@functools.cache
def code_digests(*modules: str) -> dict[str, str]:
    """Digests of some of our modules, as `evaluate.answers`, and of those they import, themselves or through others."""
    found: dict[str, str] = {}
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name in found or name.partition(".")[0] in PLUMBING:
            continue
        file = module_file(name)
        found[name] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        pending += imported_by(file.read_text(encoding="utf-8"), name if file.name == "__init__.py" else "")
    return dict(sorted(found.items()))


def imported_by(source: str, face: str = "") -> list[str]:
    """Those of our modules that some code imports, or takes something from, at its top or within a function.

    Args:
        face: the folder whose `__init__.py` this is; the files that it offers names of are imported, too.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == __package__:
            within = str(node.module).partition(".")[2]
            names = [f"{within}.{alias.name}".strip(".") for alias in node.names]
            found += [name if module_file(name).exists() else within for name in names]
        elif face and isinstance(node, ast.keyword) and node.arg == "submod_attrs":
            found += [f"{face}.{file}" for file in ast.literal_eval(node.value)]
    return found


def module_file(name: str) -> Path:
    """The file of one of our modules; of a folder, its `__init__.py`."""
    path = Path(__file__).parent.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
