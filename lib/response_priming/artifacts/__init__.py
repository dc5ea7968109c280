"""Artefacts: stage folders that are either complete or absent, each with a `manifest.json` that says how it was made.

`manifests` reads them, `recipes` says what decides their content, `making` writes them, by the `stopwatch`. A manifest
holds the recipe (stage, parameters, what it reads, and a version or the code), the outputs with their SHA-256, and
provenance.
"""

from response_priming.artifacts.making import (
    Partial,
    key,
    locked,
    made,
    receiving,
    restored,
    resuming,
    seal,
    shelved,
    writing,
)
from response_priming.artifacts.manifests import FILE, MEASURED, damaged, intact, is_whole, manifest, read
from response_priming.artifacts.recipes import VERSIONS, decided_by, decisive, is_current, part_of, recipe, version
from response_priming.artifacts.stopwatch import Stopwatch

__all__ = [
    "FILE", "MEASURED", "VERSIONS", "Partial", "Stopwatch", "damaged", "decided_by", "decisive", "intact", "is_current",
    "is_whole", "key", "locked", "made", "manifest", "part_of", "read", "receiving", "recipe", "restored", "resuming",
    "seal", "shelved", "version", "writing",
]  # fmt: skip
