"""Trainings beside the arms: runs of distill and evaluate whose students have a folder of their own."""

from pathlib import Path
from typing import Any

from pydantic import Field

from response_priming import params


class _Placed(params.SeedsRun):
    # Not part of a recipe: the same student is the same one anywhere.
    place: Path = Field(exclude=True)

    @property
    def output(self) -> Path:
        """Where this run writes."""
        return self.place

    def student_of(self, arm: str, seed: int) -> Path:
        """Where the student is."""
        return self.place / "students" / arm / f"seed-{seed}"


class DistillRun(_Placed, params.DistillRun):
    """A training below `place`, of which nothing but the student and the loss on held-out solutions is looked at."""

    watched = False


class EvaluateRun(_Placed, params.EvaluateRun):
    """An evaluation below `place`."""


def distill_run(place: Path, values: dict[str, Any]) -> DistillRun:
    """A training with those of the values that it has parameters for."""
    return DistillRun.model_validate(_only(DistillRun, values) | {"place": place})


def evaluate_run(place: Path, values: dict[str, Any]) -> EvaluateRun:
    """An evaluation with those of the values that it has parameters for."""
    return EvaluateRun.model_validate(_only(EvaluateRun, values) | {"place": place})


def _only(run_type: type[params.Run], values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in run_type.model_fields}
