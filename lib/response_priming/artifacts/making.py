"""Making a stage folder: complete or absent, never half, never by two at once, and nothing lost.

A folder is written aside and renamed in, so a killed stage leaves nothing half-written. What a model made is never
removed because a recipe changed: it goes on a shelf, `.kept/` beside it, and comes back when that recipe is wanted.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from response_priming import paths, progress, provenance
from response_priming.artifacts.manifests import FILE, MEASURED, damaged, intact, manifest, text_of
from response_priming.artifacts.recipes import decisive, is_current
from response_priming.artifacts.stopwatch import Stopwatch
from response_priming.errors import FULL, InputError, full_disk

NOTHING_LEFT = 2**20  # bytes on a disk that is as good as full


@contextmanager
def writing(folder: Path, made_by: dict[str, Any], took: Stopwatch | None = None) -> Iterator[Path]:
    """A temporary folder that replaces `folder`, with its manifest, once the block ends without an error.

    Args:
        took: counts what its making takes; None: one that starts now.
    """
    aside, took = _aside(folder), took or Stopwatch()
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        with _one_line_for_a_full_disk(folder):
            yield aside
            seal(aside, {"recipe": made_by, **took.seconds(), **_about(made_by)})
        _take_place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def seal(folder: Path, about: Mapping[str, Any]) -> None:
    """Force a folder's files to disk, and write its manifest last, which lists them.

    Files below `measured/` are of this machine and hour; they are no outputs, so that nothing else depends on them.
    """
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / FILE]
    for file in files:
        _sync(file)
    digests = {str(file.relative_to(folder)): provenance.content_digest(file) for file in files}
    measured = {name: digests.pop(name) for name in list(digests) if name.startswith(f"{MEASURED}/")}
    _write(folder, {**about, "outputs": digests} | ({"measured": measured} if measured else {}))


def _about(made_by: dict[str, Any]) -> dict[str, Any]:
    """Provenance of a folder: this process, and the commits of models from the hub."""
    parameters = made_by.get("parameters", {})
    names = {role: parameters[role] for role in ("teacher", "student") if isinstance(parameters.get(role), str)}
    commits = {
        role: provenance.hub_commit(name, parameters.get(f"{role}_revision"))
        for role, name in names.items()
        if name != provenance.EMBEDDED and not paths.given(name).is_dir()
    }
    return provenance.here() | ({"models": commits} if commits else {})


@contextmanager
def resuming(folder: Path, made_by: dict[str, Any]) -> Iterator["Partial"]:
    """A folder under construction that keeps its finished files when the process dies, at whatever moment.

    Work happens at the recipe's place on the shelf, `.kept/NAME/KEY`. A file is written there under a hidden name,
    forced to disk and renamed to its own name; only then is `manifest.json` replaced, in the same three steps, by one
    that lists the file with its SHA-256. So the manifest is the truth: at the next start a file that it does not list,
    or whose digest differs, is removed, and everything else is kept. Once the block ends without an error the last
    manifest adds the recipe, and the folder takes its own name. What stood there goes on the shelf first, where the
    stage finds what it can use again (see `shelved`).

    Raises:
        InputError: the disk is full. What was finished before stays, and the next run continues from there.
    """
    aside = _shelf(folder) / key(made_by)
    aside.parent.mkdir(parents=True, exist_ok=True)
    with _one_line_for_a_full_disk(folder):
        if folder.exists():
            _shelve(folder)
        aside.mkdir(exist_ok=True)
        partial = Partial(aside)
        yield partial
        partial.record({"recipe": made_by, **_about(made_by)})
        _take_place(aside, folder)


def made(
    folder: Path,
    recipe: dict[str, Any],
    write: Callable[[Any], object],
    *,
    how: Callable[[Path, dict[str, Any]], AbstractContextManager[Any]] = writing,
) -> Path:
    """The folder, complete and by this recipe: made, unless it is there or on the shelf.

    Args:
        write: is given what `how` hands out: by default the empty folder to write to.
        how: `resuming` where a killed run is to go on from the files that it finished.
    """
    if not is_current(folder, recipe):
        with locked(folder):
            if not restored(folder, recipe):
                with how(folder, recipe) as aside:
                    write(aside)
    return folder


@contextmanager
def _one_line_for_a_full_disk(folder: Path) -> Iterator[None]:
    """Say in one line that the disk is full, whichever library met it."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in FULL
        # Others say it in words of their own.
        if isinstance(error, InputError) or not (full or shutil.disk_usage(folder.parent).free < NOTHING_LEFT):
            raise
        raise full_disk(folder) from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else writes `path` during the block; who comes second waits, and says for which process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    while True:
        file = lock.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read()
            assert holder != str(os.getpid()), f"{path}: a stage that writes it asks for it"
            progress.say(f"{paths.shown(path)}: process {holder or 'unknown'} is writing it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        # Who held it before removed it, and a third may hold another one of this name.
        if lock.exists() and lock.stat().st_ino == os.fstat(file.fileno()).st_ino:
            break
        file.close()
    with file:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


# --- the shelf ---


def shelved(folder: Path) -> list[Path]:
    """What stood at `folder` before, or was begun there, of other recipes; the latest first."""
    return sorted(_shelf(folder).glob("*"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _shelf(folder: Path) -> Path:
    return folder.parent / ".kept" / folder.name


def key(made_by: dict[str, Any]) -> str:
    """A short name of what a recipe decides."""
    return hashlib.sha256(json.dumps(decisive(made_by), sort_keys=True).encode()).hexdigest()[:16]


def _shelve(folder: Path) -> None:
    """Put a folder on its shelf, as what its recipe says; what no model made is made again soon, and goes."""
    content = manifest(folder) or {}
    made_by = content.get("recipe", {"unreadable": time.time_ns()})
    if "version" not in made_by and "code" in made_by:
        shutil.rmtree(folder)
        return
    place = _shelf(folder) / (key(made_by) if not damaged(folder) else f"{key(made_by)}-damaged-{time.time_ns()}")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    folder.rename(place)


def restored(folder: Path, made_by: dict[str, Any]) -> bool:
    """Whether the folder is current, if need be from the shelf, or as a killed run left it, all but renamed."""
    if is_current(folder, made_by):
        return True
    for place in (_aside(folder), _shelf(folder) / key(made_by)):
        if is_current(place, made_by):
            _take_place(place, folder)
            return True
    return False


@contextmanager
def receiving(folder: Path, made_by: dict[str, Any]) -> Iterator[Path]:
    """A temporary folder for a copy of what was made elsewhere by a recipe; it takes its place where it is intact.

    Raises:
        InputError: it is not.
    """
    aside = _aside(folder)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        with _one_line_for_a_full_disk(folder):
            yield aside
        if not restored(folder, made_by):
            raise InputError(f"{folder}: its copy is not as it was made; remove it where it comes from")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _take_place(aside: Path, folder: Path) -> None:
    if folder.exists():
        _shelve(folder)
    aside.rename(folder)
    with suppress(OSError):  # an empty shelf goes
        _shelf(folder).rmdir()
        _shelf(folder).parent.rmdir()
    _sync(folder.parent)


class Partial:
    """What `resuming` hands out: `outputs` are the finished files, `notes` is for what the stage has to say."""

    def __init__(self, folder: Path) -> None:
        made: dict[str, Any] = {"outputs": {}, "notes": {}} | (manifest(folder) or {})
        self.folder = folder
        self.notes: dict[str, Any] = made["notes"]
        self.outputs: dict[str, str] = made["outputs"]
        self._took = Stopwatch(made)
        self.keep(intact(folder))

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
            self.outputs[name] = provenance.content_digest(hidden)
            hidden.rename(self.folder / name)
        finally:
            hidden.unlink(missing_ok=True)
        self.record({})

    def record(self, more: dict[str, Any]) -> None:
        """Replace the manifest by one that lists the finished files, and `more`."""
        state = {"outputs": dict(sorted(self.outputs.items())), "notes": self.notes}
        _write(self.folder, more | state | self._took.seconds())


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _write(folder: Path, content: dict[str, Any]) -> None:
    paths.write(folder / FILE, text_of(content))
    _sync(folder)


def _sync(path: Path) -> None:
    """Force a file's content, or a folder's names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
