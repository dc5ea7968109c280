"""Stage folders that are either complete or absent, each with a `manifest.json` that says how it was made.

A folder is written aside and renamed in, so a killed stage leaves nothing half-written. Its recipe (parameters, digests
of inputs and code) decides whether it has to be made again; the rest of the manifest is provenance.
`made` starts from nothing; `resuming` continues where a killed run stopped.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from response_priming import arms, params, paths, problems, provenance
from response_priming.errors import InputError

FILE = "manifest.json"
EMBEDDED = "embedded"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # the embedded model's file


def recipe(run: params.Run, reads: Sequence[Path] = (), *, code: Sequence[str], **more: Any) -> dict[str, Any]:
    """All that decides what a stage writes for a run.

    Its parameters but for the idle ones, what they name by content, what it reads, and its code.

    Args:
        reads: stage folders that it reads, each complete.
        code: the stage's modules, as `evaluate.answers`; those that they import are followed.
        more: whatever else decides.

    Raises:
        InputError: see `decided_by`.
    """
    parameters = run.model_dump(exclude=set(run.idle)) | content(run) | more
    return decided_by(run.stage, parameters, reads, code=code)


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
    if isinstance(run, params.AuditRun):
        found["logs"] = logs(Path(run.logs_dir)) if run.logs_dir else None
    return found


def weights(name: str, revision: str | None) -> str:
    """What identifies a model: a digest for `embedded`, sizes and times for a folder, else the hub id and revision."""
    if name == EMBEDDED:
        return f"sha256:{GGUF_SHA256}"
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return f"{name}@{revision or 'main'}"
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.glob("*.safetensors"))]
    return f"folder:{hashlib.sha256(repr(state).encode()).hexdigest()}"


def logs(folder: Path) -> dict[str, str]:
    """Digests of the released response logs in a folder."""
    return {file.name: digest(file)[:16] for file in sorted(folder.glob("*.csv"))}


def decided_by(
    stage: str, parameters: dict[str, Any], inputs: Sequence[Path], *, code: Sequence[str]
) -> dict[str, Any]:
    """A recipe of these parameters, inputs and code.

    Args:
        parameters: those that matter, and whatever else decides. `dtype` becomes the precision that it is on this
            machine, and `automatic` keeps whether it was `auto`.
        inputs: stage folders, each complete.
        code: modules, as `evaluate.answers`; those that they import are followed.

    Raises:
        InputError: an input is missing, or `dtype` is `auto` and an input was made on a machine where that is another.
    """
    parameters = json.loads(json.dumps(parameters))
    automatic = parameters.get("dtype") == "auto"
    if "dtype" in parameters:
        parameters["dtype"] = params.precision_of(parameters["dtype"], parameters.get("device", "auto"))
    wanted: dict[str, Any] = {
        "stage": stage,
        "parameters": parameters,
        "inputs": {},
        "code": provenance.code_digests(*code),
    }
    if automatic:
        wanted["automatic"] = True
    for path in inputs:
        made = read(path)
        _require_same_precision(path, made["recipe"], wanted)
        wanted["inputs"][_below_profile(path)] = made["outputs"]
    return wanted


def _require_same_precision(folder: Path, made_by: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse what another kind of machine made, where the profile leaves the precision to the machine."""
    made, here = _precision(made_by), _precision(wanted)
    if "automatic" in wanted and made not in (None, here):
        raise InputError(
            f"{paths.shown(folder)}: made in {made}, and model.dtype = auto is {here} on this machine; in the profile, "
            f"`model: {{dtype: {made}}}` goes on with what is there, `model: {{dtype: {here}}}` makes everything again"
        )


def _below_profile(folder: Path) -> str:
    """`students/teacher/seed-0`, the same whatever the profile is called."""
    return "/".join(folder.relative_to(paths.BUILD).parts[1:])


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a complete stage folder; `InputError` where there is none."""
    try:
        content = (folder / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{paths.shown(folder)}: not made yet; `make paper` makes every stage in order") from None
    try:
        return cast("dict[str, Any]", json.loads(content))
    except ValueError:
        raise InputError(
            f"{paths.shown(folder / FILE)}: damaged, not JSON; remove the folder to make it anew"
        ) from None


def is_current(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether the folder is complete and was made by this recipe.

    Raises:
        InputError: it was, but on another kind of machine, where `dtype: auto` is another precision.
    """
    if not (folder / FILE).exists():
        return False
    made_by = read(folder)["recipe"]
    if _but_for_precision(made_by) != _but_for_precision(wanted):
        return False
    _require_same_precision(folder, made_by, wanted)
    return bool(_precision(made_by) == _precision(wanted))


def _precision(made_by: dict[str, Any]) -> Any:
    return made_by.get("parameters", {}).get("dtype")


def _but_for_precision(made_by: dict[str, Any]) -> dict[str, Any]:
    parameters = {key: value for key, value in made_by.get("parameters", {}).items() if key != "dtype"}
    return {key: value for key, value in made_by.items() if key != "automatic"} | {"parameters": parameters}


def made(folder: Path, recipe: dict[str, Any], write: Callable[[Path], object]) -> Path:
    """The folder, complete and by this recipe: written aside and renamed in, unless it is there already.

    Args:
        write: is given the empty folder to write to.
    """
    if not is_current(folder, recipe):
        with writing(folder, recipe) as aside:
            write(aside)
    return folder


@contextmanager
def writing(folder: Path, made_by: dict[str, Any]) -> Iterator[Path]:
    """A temporary folder that replaces `folder`, with its manifest, once the block ends without an error."""
    aside = _aside(folder)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    start = time.monotonic()
    try:
        yield aside
        outputs = {str(file.relative_to(aside)): digest(file) for file in sorted(aside.rglob("*")) if file.is_file()}
        _write(aside, {"recipe": made_by, "outputs": outputs, "wall_seconds": _since(start), **provenance.here()})
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def resuming(folder: Path, made_by: dict[str, Any]) -> Iterator["Partial"]:
    """A folder under construction that keeps its finished files when the process dies, at whatever moment.

    Work happens in `.NAME.partial`. A file is written there under a hidden name, forced to disk and renamed to its own
    name; only then is `manifest.json` replaced, in the same three steps, by one that lists the file with its SHA-256.
    So the manifest is the truth: at the next start a file that it does not list, or whose digest differs, is removed,
    and everything else is kept. Once the block ends without an error the last manifest adds the recipe, and the folder
    is renamed to its own name. A complete folder that is to be made again is first renamed back, so that the stage can
    keep what is intact and still wanted. Hence either `NAME` exists or `.NAME.partial`, and nothing is copied.

    Raises:
        InputError: the disk is full. What was finished before stays, and the next run continues from there.
    """
    aside = _aside(folder)
    try:
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        aside.mkdir(parents=True, exist_ok=True)
        partial = Partial(aside)
        yield partial
        partial.record({"recipe": made_by, **provenance.here()})
        aside.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{paths.shown(folder)}: no space left on the disk; free some and run again: what is finished is kept, and "
            "the run continues from there"
        ) from None


class Partial:
    """What `resuming` hands out: `outputs` are the finished files, `notes` is for what the stage has to say."""

    def __init__(self, folder: Path) -> None:
        nothing: dict[str, Any] = {"outputs": {}, "wall_seconds": 0.0, "notes": {}}
        made = nothing | (read(folder) if (folder / FILE).exists() else {})
        self.folder = folder
        self.notes: dict[str, Any] = made["notes"]
        self.outputs: dict[str, str] = made["outputs"]
        self._start = time.monotonic() - made["wall_seconds"]
        self.keep(self.outputs.keys() - damaged(folder))

    def keep(self, names: Collection[str]) -> None:
        """Remove all files but these."""
        self.outputs = {name: self.outputs[name] for name in sorted(names)}
        self.record({})
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in {FILE, *self.outputs}:
                path.unlink()

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """Add a file; `write` is given the path to write to."""
        hidden = self.folder / f".{name}"
        try:
            write(hidden)
            _sync(hidden)
            self.outputs[name] = digest(hidden)
            hidden.rename(self.folder / name)
        finally:
            hidden.unlink(missing_ok=True)
        self.record({})

    def record(self, more: dict[str, Any]) -> None:
        """Replace the manifest by one that lists the finished files, and `more`."""
        state = {"outputs": dict(sorted(self.outputs.items())), "notes": self.notes}
        _write(self.folder, more | state | {"wall_seconds": _since(self._start)})


def damaged(folder: Path) -> set[str]:
    """The files of a manifest that are missing or whose digest differs."""
    outputs = read(folder)["outputs"] if (folder / FILE).exists() else {}
    return {name for name, made in outputs.items() if not (folder / name).is_file() or digest(folder / name) != made}


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _since(start: float) -> float:
    return round(time.monotonic() - start, 1)


def _write(folder: Path, content: dict[str, Any]) -> None:
    hidden = folder / f".{FILE}"
    try:
        hidden.write_text(json.dumps(content, indent=1), encoding="utf-8")
        _sync(hidden)
        hidden.rename(folder / FILE)
        _sync(folder)
    finally:
        hidden.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Force a file's content, or a folder's names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
