"""Manifests: what a complete stage folder says of itself, and whether it is as it was made."""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

from response_priming import provenance
from response_priming.errors import InputError

FILE = "manifest.json"
MEASURED = "measured"  # the folder of what is another in every run, as speeds


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a complete stage folder, which is as it was made: every file by its digest.

    Raises:
        InputError: there is none, it cannot be read, it is another arm's or seed's, or a file changed since.
    """
    if not (folder / FILE).exists():
        raise InputError(f"{folder}: not made yet; `make paper` makes every stage in order")
    made = manifest(folder)
    if made is None:
        raise InputError(f"{folder}/{FILE}: damaged; `make paper` makes the folder again")
    parameters = made["recipe"].get("parameters", {}) if "recipe" in made else {}
    places = (folder.parent.name, folder.name) if folder.name.startswith("seed-") else (folder.name, "")
    item = parameters.get("arm", parameters.get("strategy"))
    seed = f"seed-{parameters['train_seed']}" if "train_seed" in parameters else None
    for found, place in ((item, places[0]), (seed, places[1])):
        if found is not None and found != place:
            raise InputError(f"{folder}: holds what was made for {found}; `make paper` makes it again")
    if changed := sorted(damaged(folder)):
        raise InputError(f"{folder}/{changed[0]}: not as it was made; `make paper` makes it again")
    return made


def manifest(folder: Path) -> dict[str, Any] | None:
    """What a folder's manifest says; None where there is none that can be read."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return cast("dict[str, Any]", found) if isinstance(found["outputs"], dict) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def text_of(content: dict[str, Any]) -> str:
    """A manifest as it is written: with a digest of itself, so that not a byte of it can change unseen."""
    said = {key: value for key, value in content.items() if key != "sha256"}
    said = json.loads(json.dumps(said))
    return json.dumps({**said, "sha256": hashlib.sha256(json.dumps(said).encode()).hexdigest()}, indent=1)


def is_whole(folder: Path) -> bool:
    """Whether a folder's manifest is, to the byte, as it was written."""
    content = manifest(folder)
    return content is not None and (folder / FILE).read_bytes() == text_of(content).encode()


def intact(folder: Path) -> set[str]:
    """The files of a manifest that are as they were made."""
    return set((manifest(folder) or {"outputs": {}})["outputs"]) - damaged(folder)


def damaged(folder: Path, *, anew: bool = False) -> set[str]:
    """The files of a manifest that are missing or whose digest differs (`anew`: see `provenance.digest`)."""
    made = manifest(folder) or {}
    outputs = made.get("outputs", {}) | made.get("measured", {})
    return {
        name
        for name, made in outputs.items()
        if not (folder / name).is_file() or provenance.digest(folder / name, anew=anew) != made
    }
