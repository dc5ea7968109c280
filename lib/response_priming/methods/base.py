"""Method: how a student is made of what its teacher gave, in the steps that related methods of distillation change.

A related method is a file beside this one, found by its name: `feature-alignment` is the one subclass of `Method` in
feature_alignment.py. It overrides the steps in which it differs, and no other; its fields are its parameters.

An optimiser step goes so. `batch` makes of each of its micro-batches what is read: from then on the sequences, the
labels and the scored positions stand, and are counted over the whole step. Then `loss` is asked for each micro-batch,
and makes a live teacher's distributions there, so that those of one micro-batch alone are in memory; it divides sums
by the counts that it is given. Both draw from (seed, step, item) and from nothing else, so that a training that goes
on from a checkpoint ends as one that never stopped.
"""

import collections
import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from pydantic import BaseModel, PrivateAttr, ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from response_priming import arms, prompts
from response_priming.errors import InputError, first_problem

if TYPE_CHECKING:
    from response_priming import params
    from response_priming.methods.losses import Loss
    from response_priming.problems import Problem

PREPARED = "prepared.json"


class Method(BaseModel):
    """The repaired method, and the released one: a student learns from what its teacher gave before the training.

    Of a related method, `source` is the arXiv id; `fidelity` says whether its paper's text and code are followed, its
    loss is reconstructed from less, or only its rule is used; `version` is raised where a change of its code changes
    results. `arm` is the one whose data it trains on, None: that of the study's strategy; `writes`: on a store that
    `prepare` writes to `run.store`, which is no other row's; `before`: the arm whose student it begins with;
    `base`: values of the run that it and its controls are trained with. Each of its `controls`, the most telling one
    first, changes one of its parameters. `live`: it asks a teacher itself (`run.live`), in the prompt of the strategy
    that its parameter `strategy` names, where it has one, else of the study's.
    """

    model_config = arms.STRICT
    title: ClassVar[str] = "Knowledge distillation"
    source: ClassVar[str] = "1503.02531"
    fidelity: ClassVar[Literal["exact", "reconstructed", "rule-only"]] = "exact"
    version: ClassVar[int] = 1
    arm: ClassVar[str | None] = None
    before: ClassVar[str | None] = None
    writes: ClassVar[bool] = False
    base: ClassVar[Mapping[str, Any]] = {}
    controls: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    live: ClassVar[bool] = False
    parallel: ClassVar[bool] = False  # several processes can train it together
    runs_on: ClassVar[str | None] = None  # the one engine that can run its students
    _run: "params.DistillRun | None" = PrivateAttr(None)
    # Tokens in training: `teacher_generated`, `teacher_read`, `student_generated`; kept in each checkpoint.
    _spent: collections.Counter[str] = PrivateAttr(default_factory=collections.Counter)

    def __init__(self, run: "params.DistillRun | None" = None, **parameters: Any) -> None:
        """The method with these parameters; without a `run`, to look at them."""
        super().__init__(**parameters)
        self._run = run

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for control, changed in cls.controls.items():
            own, other = cls().model_dump(), cls(**changed).model_dump()
            if len(differing := [key for key in own if own[key] != other[key]]) != 1:
                raise TypeError(f"{cls.__name__}: control {control!r} changes {differing}, and not one parameter")

    @property
    def run(self) -> "params.DistillRun":
        """The training."""
        assert self._run is not None
        return self._run

    @property
    def spent(self) -> collections.Counter[str]:
        """Tokens that the training took of models so far, to add to."""
        return self._spent

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """What to change for each earlier student of its own: each begins with the one before it (`run.before`)."""
        return []

    def prepare(self) -> list[Path]:
        """Make what it needs before any training, unless that is there: the folders that its student depends on.

        It is asked once for all seeds; `run.before` is the student of the first. What a folder took is said by `note`.
        """
        return []

    def student(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The student with what is to be trained, ready to return `loss`, and its tokenizer."""
        # By its name: what only asks students is not to depend on how they are trained.
        load = importlib.import_module(f"{__package__}.student").load
        return cast("tuple[PreTrainedModel, PreTrainedTokenizerBase]", load(self.run))

    def beside(self) -> torch.nn.Module | None:
        """What is trained beside the student, asked for once, after `student`; it is no part of the student.

        Its parameters that take a gradient get it from `loss`. They are in each checkpoint and not in what is saved.
        """
        return None

    @property
    def beside_rate(self) -> float:
        """The peak learning rate of what is trained beside the student; it follows the student's schedule."""
        return self.run.learning_rate

    def batch(
        self,
        model: torch.nn.Module,  # noqa: ARG002
        batch: Mapping[str, Any],
        *,
        seed: int,  # noqa: ARG002
        step: int,  # noqa: ARG002
        item: int,  # noqa: ARG002
    ) -> Mapping[str, Any]:
        """What is read in place of a micro-batch, before targets are counted; without gradients.

        Args:
            model: the student as it is at this step.
            batch: see `examples.collate`.
            seed: of the training.
            step: from 0.
            item: rows of the step before the first of this micro-batch.
        """
        return batch

    def loss(self, model: torch.nn.Module, batch: Mapping[str, Any], **counts: Any) -> "Loss":
        """The loss of a batch. Validation takes the default one, on what the store has, so that all curves compare.

        Args:
            model: the student, in whatever the training wraps it.
            batch: as `batch` gave it (see `examples.collate`).
            counts: `hard_tokens` and `soft_tokens` (see `losses.distillation`); `layers` (see `student.teach`).
        """
        tensors = {key: value for key, value in batch.items() if key != "problem_ids"}
        return cast("Loss", model(**tensors, objective=self.run, **counts))

    def prompt(self, problem: "Problem") -> list[dict[str, str]]:
        """Chat messages that the student is asked a problem with, in training and in evaluation."""
        return prompts.bare(problem.question, self.run.system_prompt)

    def mechanism(
        self,
        model: torch.nn.Module,  # noqa: ARG002
        batches: Iterable[Mapping[str, Any]],  # noqa: ARG002
    ) -> dict[str, float]:
        """Numbers that show whether the method's own mechanism works, on held-out examples; by name."""
        return {}

    def active(self, model: torch.nn.Module) -> int:
        """Parameters that take part in reading one token."""
        return sum(weight.numel() for weight in model.parameters())


def note(folder: Path, spent: Mapping[str, int], *, leaks: int, numbers: Mapping[str, float] | None = None) -> None:
    """Write into a folder that `prepare` makes, or the store, what its own making took and what it found, for the page.

    Args:
        spent: tokens, by the names of `Method.spent`; of a store, in place of those that its responses have.
        leaks: problems that the test asks, too, among those that it holds or that were left out for that.
        numbers: further ones that show whether the mechanism works, by name.
    """
    found = {"spent": dict(spent), "leaks": leaks, "numbers": dict(numbers or {})}
    (folder / PREPARED).write_text(json.dumps(found), encoding="utf-8")


def noted(folder: Path) -> dict[str, Any]:
    """What `note` wrote into a folder: `spent`, `leaks` and `numbers`; empty where it wrote nothing."""
    path = folder / PREPARED
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def find(name: str) -> type[Method]:
    """The method of a name; `InputError` where there is none."""
    try:
        module = importlib.import_module(f"{__package__}.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        if not str(error.name).startswith(__package__ or ""):
            raise
        raise InputError(f"method {name!r}: there is no {name.replace('-', '_')}.py in methods/") from None
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    own = [kind for kind in kinds if issubclass(kind, Method) and kind is not Method]
    if len(own) != 1:
        raise InputError(f"method {name!r}: {module.__name__} has {len(own)} methods; one is to be there")
    return own[0]


def described(name: str, changed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A method by name, version and parameters, as a run takes it (see `params.DistillRun.by`).

    Raises:
        InputError: there is no such method, or one of the `changed` parameters is none of its or has a wrong value.
    """
    kind = find(name)
    try:
        parameters = kind(**(changed or {})).model_dump(mode="json")
    except ValidationError as error:
        raise InputError(f"method {name}: {first_problem(error, kind)}") from None
    return {"name": name, "version": kind.version, "parameters": parameters}


def method_of(run: "params.DistillRun | params.EvaluateRun") -> Method:
    """The method that a run's student is made by: the repaired one, unless the run has another."""
    known = cast("params.DistillRun", run)
    return find(run.method["name"])(known, **run.method["parameters"]) if run.method else Method(known)
