"""Recipes: all that decides what a stage writes, so that equal recipes mean equal results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from response_priming import params, paths, provenance
from response_priming.artifacts.manifests import damaged, manifest, read
from response_priming.errors import InputError

# Of what a model makes, results are as good as their version: raised by a person when a change of the code changes them
# (tests/test_versions.py says when it does), and by nothing else. Everything else is decided by the code that made it.
VERSIONS = {
    "generate": 1,
    "prompt-signals": 1,
    "distill": 1,
    "evaluate": 2,
    "attention-visualize": 1,
    "attribution": 2,
    "transformers": 1,
    "vllm": 1,
    "server": 1,
}


def recipe(run: params.Run, folder: params.Folder, *, here: bool = True) -> dict[str, Any]:
    """All that decides what a run writes to one of its folders.

    Its parameters but for the idle ones, what they name by content, what it reads, and its version or code.

    Args:
        here: on this machine; else `dtype` may stay `auto`, which every precision fits. To ask the machine takes torch,
            which takes seconds to import.

    Raises:
        InputError: see `decided_by`.
    """
    parameters = run.shaping | provenance.content(run) | folder.more
    made_by = decided_by(run.stage, parameters, folder.reads, code=folder.code, here=here)
    return made_by | ({"version": version(run)} if folder.by_model else {})


def version(run: params.Run) -> list[int]:
    """The versions of a run's stage and of the engine that it uses."""
    engine = run.shaping.get("engine", run.shaping.get("evaluate_engine"))
    return [VERSIONS[run.stage], *([VERSIONS.get(engine, 1)] if engine else [])]


def decided_by(
    stage: str, parameters: dict[str, Any], inputs: Sequence[Path], *, code: Sequence[str], here: bool = True
) -> dict[str, Any]:
    """A recipe of these parameters, inputs and code.

    Args:
        parameters: those that matter, and whatever else decides. `dtype` becomes the precision that it is on this
            machine, and `automatic` keeps whether it was `auto`.
        inputs: stage folders, each complete.
        code: modules, as `compare.comparison`; those that they import are followed.
        here: see `recipe`.

    Raises:
        InputError: an input is missing or not as it was made, or `dtype` is `auto` and an input was made on a machine
            where that is another.
    """
    parameters = json.loads(json.dumps(parameters))
    automatic = parameters.get("dtype") == "auto"
    if "dtype" in parameters and here:
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
        wanted["inputs"][part_of(path)] = made["outputs"]
    return wanted


def _require_same_precision(folder: Path, made_by: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse what another kind of machine made, where the profile leaves the precision to the machine."""
    made, here = _precision(made_by), _precision(wanted)
    if "automatic" in wanted and made not in (None, here) and here != "auto":
        raise InputError(
            f"{folder}: made in {made}, and model.dtype = auto is {here} on this machine; in the profile, "
            f"`model: {{dtype: {made}}}` goes on with what is there, `model: {{dtype: {here}}}` makes everything again"
        )


def part_of(folder: Path) -> str:
    """`students/teacher/seed-0`, the same whatever the profile is called."""
    return "/".join(folder.relative_to(paths.BUILD).parts[1:])


def is_current(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether the folder is complete, as it was made, and by this recipe.

    Raises:
        InputError: it was, but on another kind of machine, where `dtype: auto` is another precision.
    """
    made_by = (manifest(folder) or {}).get("recipe")
    if made_by is None or _but_for_precision(made_by) != _but_for_precision(wanted) or damaged(folder):
        return False
    _require_same_precision(folder, made_by, wanted)
    return _precision(wanted) in ("auto", _precision(made_by))


def _precision(made_by: dict[str, Any]) -> Any:
    return made_by.get("parameters", {}).get("dtype")


def _but_for_precision(made_by: dict[str, Any]) -> dict[str, Any]:
    parameters = {key: value for key, value in made_by.get("parameters", {}).items() if key != "dtype"}
    return {key: value for key, value in decisive(made_by).items() if key != "automatic"} | {"parameters": parameters}


def decisive(made_by: dict[str, Any]) -> dict[str, Any]:
    """What of a recipe makes another result: where there is a version, the code is provenance."""
    return {key: value for key, value in made_by.items() if key != "code" or "version" not in made_by}
