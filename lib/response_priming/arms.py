"""Arms, the lines of the results table, and strategies, the prefixes that a teacher is primed with: what each one is.

An arm is a way to make a student: from a teacher's responses under a strategy, whose name it then has; from the same
in a control's way, or as the released code did (`published-STRATEGY`); from the data set's solutions; or not at all.
What the paper printed of arms is in params/published-results.yaml, the strategies are in params/prompts.yaml.
"""

import functools
from collections.abc import Collection
from pathlib import Path, PurePath
from typing import Any, NotRequired, TypedDict, cast

import yaml

from response_priming import paths
from response_priming.errors import InputError

UNDISTILLED, FINE_TUNED = "undistilled", "fine-tuned"
CONTROLS = (UNDISTILLED, FINE_TUNED)  # the arms without a teacher
UNPRIMED, SHUFFLED = "none", "shuffled"
NEUTRAL = "constant-prefix"  # the control with as many words as a prefix, which say nothing
RELEASED = "published-"  # begins the name of an arm that is trained as the released code did
TITLES = {UNDISTILLED: "Undistilled", FINE_TUNED: "Fine-tuned", SHUFFLED: "KD, shuffled responses"}


class Strategy(TypedDict):
    """An entry of params/prompts.yaml; `control`: of this project, to compare the paper's with."""

    title: str
    prefix: str
    source: str
    control: NotRequired[bool]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of parameters; `InputError` where it is not a mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{paths.shown(path)}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{paths.shown(path)}: must be a mapping of sections, is a {type(content).__name__}")
    return content


def strategies() -> dict[str, Strategy]:
    """The strategies of params/prompts.yaml by name."""
    return dict(cast("dict[str, Strategy]", _read_once(paths.PARAMS / "prompts.yaml")["strategies"]))


def published() -> dict[str, Any]:
    """params/published-results.yaml: printed figures, facts about the released code, and the recorded recount."""
    return _read_once(paths.PARAMS / "published-results.yaml")


# Once a process, since tables and figures ask for every name.
_read_once = functools.cache(read_yaml)


def known() -> list[str]:
    """All arms that a profile may name."""
    return [*CONTROLS, *strategies(), SHUFFLED, *(f"{RELEASED}{name}" for name in strategies())]


def title(arm: str) -> str:
    """The name of an arm or strategy as tables and figures print it."""
    if arm.startswith(RELEASED):
        return f"{title(arm.removeprefix(RELEASED))}, as released"
    return TITLES.get(arm) or strategies()[arm]["title"]


def is_primed(arm: str) -> bool:
    """Whether an arm is one of the paper's primed ones, which a claim about priming may rest on."""
    strategy = strategies().get(arm)
    return strategy is not None and arm != UNPRIMED and not strategy.get("control", False)


def unprimed(arm: str) -> str:
    """The arm without a prefix that is trained in the same way."""
    return f"{RELEASED}{UNPRIMED}" if arm.startswith(RELEASED) else UNPRIMED


def store_of(arm: str, repaired: Collection[str]) -> PurePath | None:
    """Where below build/PROFILE/ an arm's teacher is read from; None for an arm without one.

    Args:
        repaired: what of the released code is repaired in the arm's training (see `sections.Distill`).
    """
    if arm in CONTROLS:
        return None
    strategy = UNPRIMED if arm == SHUFFLED else arm.removeprefix(RELEASED)
    return PurePath("responses" if "teacher-answers" in repaired else "prompt-signals", strategy)
