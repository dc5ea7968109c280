"""Provenance: which code, packages, machine, data and models made something, and digests that tell them apart."""

import ast
import atexit
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import psutil

from response_priming import arms, params, paths, problems

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "pandas", "response-priming")
# Parameters enter a recipe by value, and these modules shape no artefact: a change in them makes nothing stale.
PLUMBING = frozenset({"arms", "artifacts", "errors", "params", "paths", "progress", "provenance", "style"})
EMBEDDED = "embedded"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # the embedded model's file


def here() -> dict[str, Any]:
    """Git commit of this project and whether files differ from it, package versions, machine and time (UTC)."""
    top, commit = [*_git("rev-parse", "--show-toplevel", "HEAD"), "", ""][:2]
    ours = bool(top) and Path(top).resolve() == paths.ROOT  # not of a repository around the project
    changed = _git("status", "--porcelain", "--untracked-files=no") if ours else []
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "git_commit": commit if ours else None,
        "git_changed": len(changed),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "hardware": _hardware(),
    }


def state_of(made: dict[str, Any]) -> str:
    """How the code that made something differs from its commit, in words."""
    if not made["git_commit"]:
        return "of no git repository"
    return f"{made['git_changed']} files differ from the commit" if made["git_changed"] else "as committed"


def _hardware() -> list[str]:
    """The processor's name, the memory, and the GPUs that this process has seen: it may not want to import torch."""
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        about = f"model name : {platform.processor()}"
    names = re.findall(r"^model name\s*: (.+)$", about, re.MULTILINE)[:1]
    torch = sys.modules.get("torch")
    gpus = range(torch.cuda.device_count()) if torch and torch.cuda.is_initialized() else ()
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory"
    return [*names, memory, *(torch.cuda.get_device_name(each) for each in gpus if torch)]


def _git(*arguments: str) -> list[str]:
    """The lines that git says; none where there is no git or no repository."""
    try:
        said = subprocess.run(["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return []
    return said.stdout.splitlines() if said.returncode == 0 else []


def summary(run: params.Run) -> str:
    """A run and its provenance in one line, for a notebook's first output."""
    made = here()
    packages = ", ".join(f"{name} {made['packages'][name]}" for name in ("torch", "transformers", "peft"))
    changed = f" and {made['git_changed']} changed files" if made["git_changed"] else ""
    parts = [
        ", ".join([run.profile, *run.item.values(), f"seed {run.seed}"]),
        f"commit {(made['git_commit'] or 'unknown')[:10]}{changed}",
        f"Python {made['python']}, {packages}",
        made["machine"] + (f", {run.precision}" if isinstance(run, params.Model) else ""),
    ]
    return "; ".join(parts)


# --- files ---


class _Memory:
    """What was found out about files, kept in a build folder; forgotten where a file's size, times or inode change.

    The time of the last change of its inode cannot be set by a program, so an edit is seen whatever the clock says.
    """

    def __init__(self, build: Path) -> None:
        self.file, self.known, self.new = build / ".digests.json", dict[str, Any](), dict[str, Any]()
        with contextlib.suppress(OSError, ValueError):
            self.known = dict(json.loads(self.file.read_text(encoding="utf-8")))
        atexit.register(self.save)

    def of(self, kind: str, file: Path, find: Any, *, anew: bool = False) -> Any:
        """What `find(file)` says; asked `anew` even where nothing changed."""
        state = file.stat()
        signature = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        name = f"{kind}:{file.absolute()}"
        if not anew and (known := self.known.get(name)) and known[0] == signature:
            return known[1]
        self.known[name] = self.new[name] = [signature, find(file)]
        return self.known[name][1]

    def save(self) -> None:
        """Add what is new; a cache that cannot be written is done without."""
        with contextlib.suppress(OSError, ValueError):
            if not self.new or not self.file.parent.exists():
                return
            there = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}
            aside = self.file.with_name(f"{self.file.name}.{os.getpid()}")
            aside.write_text(json.dumps(there | self.new), encoding="utf-8")
            aside.replace(self.file)


_memory = functools.cache(_Memory)


def digest(file: Path, *, anew: bool = False) -> str:
    """SHA-256 of a file; where its size, times and inode are as before, it is not read again unless asked `anew`."""
    return str(_memory(paths.BUILD).of("sha256", file, content_digest, anew=anew))


def content_digest(file: Path) -> str:
    """SHA-256 of a file, read to its end."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- data and models ---


def content(run: params.Run) -> dict[str, Any]:
    """What a run's parameters name: digests of the data, the models and the logs, and the text of prefixes."""
    named = {name: value for name, value in run if name not in run.idle}
    found: dict[str, Any] = {}
    if isinstance(run, params.Problems):
        found["data"] = problems.fingerprint(run)
    for role in ("teacher", "student"):
        if role in named:
            found[f"{role}_weights"] = weights(named[role], named[f"{role}_revision"])
    if isinstance(run, params.GenerateRun | params.AttributionRun):
        strategies = run.strategies if isinstance(run, params.AttributionRun) else [run.strategy]
        found["prefixes"] = {name: arms.strategies()[name]["prefix"] for name in strategies}
    if isinstance(run, params.DistillRun) and run.live:
        own = {key: value for key, value in run.live.shaping.items() if key not in type(run).model_fields}
        found["live"] = own | {key: value for key, value in content(run.live).items() if key != "data"}
    if isinstance(run, params.AuditRun):
        found["logs"] = logs(paths.given(run.logs_dir)) if run.logs_dir else None
        file = paths.given(run.disputed) if run.disputed else None
        found["disputed"] = digest(file) if file and file.is_file() else run.disputed
    return found


def weights(name: str, revision: str | None) -> str:
    """What identifies a model: a digest for `embedded`, one of all files of a folder, else the hub id and the commit.

    The commit is the one that the cache has for the revision; the revision itself where it has none yet.
    """
    if name == EMBEDDED:
        return f"sha256:{GGUF_SHA256}"
    folder = paths.given(name)
    if not folder.is_dir():
        return f"{name}@{hub_commit(name, revision) or revision or 'main'}"
    files = {str(file.relative_to(folder)): digest(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    return f"folder:{hashlib.sha256(json.dumps(files).encode()).hexdigest()}"


def hub_commit(name: str, revision: str | None) -> str | None:
    """The commit of the hub that a revision of a model is in the cache, offline or not; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:  # it can be no name on the hub
        return None
    return Path(found).parent.name if isinstance(found, str) else None


def logs(folder: Path) -> dict[str, str]:
    """Digests of the released response logs in a folder."""
    return {file.name: digest(file)[:16] for file in sorted(folder.glob("*.csv"))}


# --- code ---


@functools.cache
def code_digests(*modules: str) -> dict[str, str]:
    """Digests of some of our modules, as `evaluate.answers`, and of those they import, themselves or through others.

    Comments, docstrings and layout do not count.
    """
    found: dict[str, str] = {}
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name in found or name.partition(".")[0] in PLUMBING:
            continue
        found[name], references = _memory(paths.BUILD).of("code", module_file(name), _read_module)
        pending += _modules(references)
    return dict(sorted(found.items()))


def _read_module(file: Path) -> tuple[str, list[tuple[str, list[str]]]]:
    source = file.read_text(encoding="utf-8")
    return code_digest(source), _references(source)


def code_digest(source: str) -> str:
    """Digest of what some code does: of its syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def imported_by(source: str) -> list[str]:
    """Those of our modules that some code imports, or takes something from, at its top or within a function.

    Of a folder, those files that offer what the code takes from its face.
    """
    return _modules(_references(source))


def _references(source: str) -> list[tuple[str, list[str]]]:
    """What some code imports of ours, as `generate` or `generate.store.read`, and what it takes of it.

    What is imported for type checkers alone is not run.
    """
    found, tree = [], ast.parse(source)
    for part in tree.body:
        if isinstance(part, ast.If) and isinstance(part.test, ast.Name) and part.test.id == "TYPE_CHECKING":
            part.body = [ast.Pass()]
    taken = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == __package__:
            within = str(node.module).partition(".")[2]
            for alias in node.names:
                called = alias.asname or alias.name
                used = sorted({one.attr for one in taken if cast("ast.Name", one.value).id == called})
                found.append((f"{within}.{alias.name}".strip("."), used))
    return found


def _modules(references: Iterable[tuple[str, list[str]]]) -> list[str]:
    found = []
    for name, used in references:
        within, _, last = name.rpartition(".")
        if offered := _offered(name):
            found += sorted({offered[attribute] for attribute in used if attribute in offered})
        else:
            found.append(name if module_file(name).exists() else _offered(within).get(last, within))
    return found


def _offered(name: str) -> dict[str, str]:
    """What the face of a folder offers: attribute -> the module that has it; nothing where it is no such face."""
    file = module_file(name)
    if not name or file.name != "__init__.py":
        return {}
    files = _memory(paths.BUILD).of("face", file, _read_face)
    return {attribute: f"{name}.{stem}" for stem, attributes in files.items() for attribute in attributes}


def _read_face(file: Path) -> dict[str, list[str]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "submod_attrs":
            return cast("dict[str, list[str]]", ast.literal_eval(node.value))
    return {}


def module_file(name: str) -> Path:
    """The file of one of our modules; of a folder, its `__init__.py`."""
    path = Path(__file__).parent.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
