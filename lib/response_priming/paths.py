"""Every folder of the project, absolute, so that the working directory never matters."""

from pathlib import Path

from platformdirs import user_cache_path

ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "params"
NOTEBOOKS = ROOT / "notebooks"
REPORT = ROOT / "report"
BUILD = ROOT / "build"
CACHE = user_cache_path("response-priming")


def shown(path: Path) -> str:
    """The path as people read it: relative to the project where it is inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
