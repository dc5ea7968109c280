"""Arms, the lines of the results table, and strategies, the prefixes that a teacher is primed with: what each one is.

An arm is a way to make a student: from a teacher's responses under a strategy, whose name it then has; from the same
in a control's way, or as the released code did (`published-STRATEGY`); from the data set's solutions; or not at all,
asked like all others or with the teacher's worked examples in its prompt.
What the paper printed of arms is in params/published-results.yaml, the strategies are in params/prompts.yaml.
"""

import functools
import re
from collections.abc import Collection
from pathlib import Path, PurePath
from typing import Annotated, Any, NotRequired

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic reads the one of `typing` from Python 3.12 on

from response_priming import paths
from response_priming.errors import InputError, first_problem

UNDISTILLED, FINE_TUNED = "undistilled", "fine-tuned"
SHOWN = "undistilled-examples"  # the undistilled student with the teacher's worked examples in its prompt
UNTRAINED = (UNDISTILLED, SHOWN)
CONTROLS = (*UNTRAINED, FINE_TUNED)  # the arms without a teacher
UNPRIMED, SHUFFLED = "none", "shuffled"
NEUTRAL = "constant-prefix"  # the control with as many words as a prefix, which say nothing
RELEASED = "published-"  # begins the name of an arm that is trained as the released code did
TITLES = {
    UNDISTILLED: "Undistilled",
    SHOWN: "Undistilled, worked examples",
    FINE_TUNED: "Fine-tuned",
    SHUFFLED: "KD, shuffled responses",
}


# What a profile's file may say: keys that exist, values of their own type (a bool is no number), finite numbers.
STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def well_formed(name: str) -> str:
    """The name; `ValueError` where it is none that a profile, a strategy or an arm may have."""
    if not re.fullmatch("[a-z0-9][a-z0-9-]{0,63}", name):
        raise ValueError(f"{name!r} is no name; allowed: up to 64 of a-z, 0-9 and -, of which - is not the first")
    return name


def _unreserved(name: str) -> str:
    if name in (*CONTROLS, SHUFFLED) or name.startswith(RELEASED):
        reserved = ", ".join((*CONTROLS, SHUFFLED))
        raise ValueError(f"{name!r} is reserved, as are {reserved} and whatever begins with {RELEASED}")
    return name


# Of profiles, strategies and arms: they become names of files, targets of make, and identifiers on the page.
Name = Annotated[str, AfterValidator(well_formed)]


@with_config(STRICT)
class Strategy(TypedDict):
    """An entry of params/prompts.yaml; `control`: of this project, to compare the paper's with."""

    title: Annotated[str, StringConstraints(pattern=r"^.*\S.*$")]  # one line, not blank
    prefix: str
    source: Annotated[str, StringConstraints(pattern=r"\S")]
    control: NotRequired[bool]


class _Prompts(BaseModel):
    model_config = STRICT
    strategies: dict[Annotated[Name, AfterValidator(_unreserved)], Strategy]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema but for numbers with leading zeros: `010`, `0_40`, `1:30`, `yes`, `.inf` are text."""

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping; no key of it may occur twice."""
        seen = set()
        for key, _ in node.value:
            if (name := (key.tag, str(key.value))) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} occurs twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


for _kind, _form, _begins in (
    ("null", r"null|Null|NULL|~|", [*"nN~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", [*"-+0123456789"]),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_form})\Z"), _begins)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML 1.2 file of parameters, in UTF-8; `InputError` where it is no mapping, or has a key twice."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: must be UTF-8, is not: {error.reason} at byte {error.start}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        raise InputError(f"{path}: must be a mapping of sections, is empty; `{{}}` is all defaults")
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a mapping of sections, is a {type(content).__name__}")
    return content


def strategies() -> dict[str, Strategy]:
    """The strategies of params/prompts.yaml by name; `InputError` where one is not as `Strategy` says."""
    return dict(_strategies(paths.PARAMS / "prompts.yaml"))


# Once a process, since tables and figures ask for every name.
@functools.cache
def _strategies(path: Path) -> dict[str, Strategy]:
    try:
        found: dict[str, Strategy] = dict(_Prompts.model_validate(read_yaml(path)).strategies)
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error, _Prompts)}") from None
    if UNPRIMED not in found or found[UNPRIMED]["prefix"]:
        raise InputError(f"{path}: strategies.{UNPRIMED}: must be there, with an empty prefix")
    return found


def published() -> dict[str, Any]:
    """params/published-results.yaml: printed figures, facts about the released code, and the recorded recount."""
    return _read_once(paths.PARAMS / "published-results.yaml")


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


def is_distilled(arm: str) -> bool:
    """Whether an arm is the unprimed or one of the primed ones, which the paper sets beside fine-tuning."""
    return arm == UNPRIMED or is_primed(arm)


def references(strategy: str) -> list[str]:
    """The arms that related methods are compared with, where these learn from a strategy's responses."""
    return [FINE_TUNED, strategy, SHUFFLED]


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
