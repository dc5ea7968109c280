"""Every folder of the project, absolute, so that the working directory never matters."""

import os
from pathlib import Path

from platformdirs import user_cache_path

ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "params"
NOTEBOOKS = ROOT / "notebooks"
REPORT = ROOT / "report"
BUILD = ROOT / "build"
CACHE = user_cache_path("response-priming")


def write(path: Path, text: str) -> None:
    """Write a file as a whole: whoever reads it sees the old text or the new one, whenever this process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def given(name: str) -> Path:
    """A path as a profile gives it: relative to the project's folder, wherever the process runs; `~` is the home."""
    return ROOT / os.path.expanduser(name)  # noqa: PTH111 - the other one raises where there is no such user


def shown(path: Path) -> str:
    """The path as people read it: relative to the project where it is inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
