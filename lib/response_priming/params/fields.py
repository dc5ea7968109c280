"""Types of parameters that several sections or runs share: what a value may be, with its default and its meaning."""

import datetime
from collections.abc import Collection
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field

from response_priming import arms, paths
from response_priming.extraction import RULES

Names = TypeVar("Names", bound=Collection[str])
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Engine = Literal["transformers", "vllm", "server", "ray"]


def one_of(table: Collection[str]) -> AfterValidator:
    """Refuses what the table has no entry for."""

    def check(name: str) -> str:
        if name not in table:
            raise ValueError(f"{name!r} is none of {', '.join(table)}")
        return name

    return AfterValidator(check)


RuleName = Annotated[str, one_of(RULES)]


def _differ(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{seeds} must be different numbers")
    return seeds


def known_arms(names: Names) -> Names:
    """The names; `ValueError` where no arm has one of them."""
    for name in names:
        if name not in arms.known():
            raise ValueError(f"unknown arm {name!r}; known: {', '.join(arms.known())}")
    return names


def _distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names) or not names:
        raise ValueError("must be one or more different names")
    return names


def _known_strategy(name: str) -> str:
    if name not in arms.strategies():
        raise ValueError(f"unknown strategy {name!r}; known: {', '.join(arms.strategies())}")
    return name


def is_on_hub(model: str) -> bool:
    """Whether a model's name is an id on the hub, where it has revisions."""
    return model != "embedded" and not model.startswith((".", "/", "~")) and not paths.given(model).is_dir()


def _day(text: str) -> str:
    return datetime.date.fromisoformat(text).isoformat()


Day = Annotated[str, AfterValidator(_day)]
LARGEST_SEED = 2**32 - 1  # of NumPy's generators
_Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
SomeSeeds = Annotated[list[_Seed], Field(min_length=1), AfterValidator(_differ)]
Strategy = Annotated[str, AfterValidator(_known_strategy)]
Arm = Annotated[str, AfterValidator(lambda name: known_arms([name])[0])]
Range = Annotated[list[float], Field(min_length=2, max_length=2)]

# Parameters that a notebook takes without the section that they are of, or that are of no section.
Seed = Annotated[_Seed, Field(default=0, description="seed of the problems")]
Seeds = Annotated[
    SomeSeeds,
    Field(default=[0], description="training seeds (initial LoRA weights, data order): one student each"),
]
Arms = Annotated[
    list[str],
    AfterValidator(known_arms),
    AfterValidator(_distinct),
    Field(
        default=["undistilled", "undistilled-examples", "fine-tuned", "none", "teacher", "ground-truth", "confidence"],
        description="arms, in the order of tables and figures",
    ),
]
Rule = Annotated[RuleName, Field(default="last-number", description="extraction rule of the headline accuracy")]
Teacher = Annotated[
    str, Field(default="embedded", description="`embedded`, a hub id, or a folder with a transformers model")
]
TeacherRevision = Annotated[str | None, Field(default=None, description="commit of the teacher on the hub")]
WorkedExamples = Annotated[
    int, Field(default=8, ge=0, le=16, description="solved validation problems shown to the teacher first")
]
