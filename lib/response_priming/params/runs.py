"""Runs: what each notebook is given, one stage's sections of the profile flattened, as papermill injects them."""

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from response_priming import arms, paths
from response_priming.params.sections import (
    PLACEMENT,
    Arms,
    Attention,
    Attribution,
    Audit,
    Distill,
    Evaluate,
    Generate,
    Ladder,
    Model,
    Problems,
    Rule,
    Search,
    Seed,
    Seeds,
    Signal,
    Teacher,
    TeacherRevision,
    WorkedExamples,
)


class Run(BaseModel):
    """What every notebook is given. `idle`: parameters that shape nothing of what its stage writes.

    `explored`: a value differs from the profile's, as after an edit in JupyterLab (see `collect`). `beside`: the run is
    of a student beside the arms, as a rung of the ladder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: ClassVar[str]
    # Where the data lies says nothing of them; a recipe has their content.
    idle: ClassVar[frozenset[str]] = frozenset({"profile", "data_dir"})
    profile: str = Field("laptop", description="parameter set, params/PROFILE.yaml")
    seed: Seed
    _explored: Path | None = PrivateAttr(None)
    _beside: Path | None = PrivateAttr(None)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """A run with those of the values that it has parameters for."""
        return cls.model_validate({key: value for key, value in values.items() if key in cls.model_fields})

    def exploring(self, folder: Path) -> Self:
        """This run, writing aside, so that it never passes for the profile's result."""
        run = self.model_copy()
        run._explored = folder
        return run

    def placed(self, folder: Path) -> Self:
        """This run with a folder of its own for its student and what that answers."""
        run = self.model_copy()
        run._beside = folder
        return run

    @property
    def build(self) -> Path:
        """Where this profile's artefacts are."""
        return paths.BUILD / self.profile

    @property
    def output(self) -> Path:
        """Where this run writes."""
        return self._explored or self._beside or self.build

    @property
    def item(self) -> dict[str, str]:
        """The strategy or arm this run is for."""
        return {}


class GenerateRun(Signal, Generate, Model, Problems, Run):
    """Parameters of notebooks/generate.ipynb."""

    stage = "generate"
    idle = Run.idle | PLACEMENT | {"n_test", "student", "student_revision", "signal"}
    strategy: str = Field("none", description="priming prefix, a name in params/prompts.yaml")

    @property
    def item(self) -> dict[str, str]:
        """The strategy."""
        return {"strategy": self.strategy}


class PromptSignalsRun(GenerateRun):
    """Parameters of notebooks/prompt-signals.ipynb; the teacher reads the question alone, and answers nothing."""

    stage = "prompt-signals"
    idle = (
        GenerateRun.idle
        | {"system_prompt"}
        | (Generate.model_fields.keys() - {"teacher", "teacher_revision", "engine", "teacher_quantization", "top_k"})
    )


class SeedsRun(Run):
    """What all notebooks about students share: every trained arm has one student for each seed."""

    seeds: Seeds

    def seeds_of(self, arm: str) -> list[int]:
        """The seeds of an arm's students; the undistilled student is one, filed under the first seed."""
        return self.seeds[:1] if arm == arms.UNDISTILLED else self.seeds

    def student_of(self, arm: str, seed: int) -> Path:
        """Where a trained arm's student is read from: an adapter, or all weights."""
        return (self._beside or self.build) / "students" / arm / f"seed-{seed}"

    def scores_of(self, arm: str, seed: int) -> Path:
        """Where the answers of an arm's student are read from."""
        return self.build / "scores" / arm / f"seed-{seed}"


class ArmRun(Model, Problems, SeedsRun):
    """What distill and evaluate share."""

    arm: str = Field("none", description="line of the results table: how this student is made")

    @property
    def item(self) -> dict[str, str]:
        """The arm."""
        return {"arm": self.arm}


class DistillRun(Distill, ArmRun):
    """Parameters of notebooks/distill.ipynb."""

    stage = "distill"
    idle = Run.idle | {"seeds", "n_test", "micro_batch", "save_every"}

    @property
    def watched(self) -> bool:
        """Whether the notebook shows what became of the student."""
        return self._beside is None


class EvaluateRun(Evaluate, ArmRun):
    """Parameters of notebooks/evaluate.ipynb; all rules score the answers, whichever the headline's is."""

    stage = "evaluate"
    idle = Run.idle | {"seeds", "rule", "n_train"}


class ArmsRun(SeedsRun):
    """What the notebooks that look at the students of several arms share."""

    arms: Arms


class TaughtRun(Run):
    """What the notebooks that look at a teacher's responses under several strategies share."""

    strategies: list[str] = Field(
        ["none", "teacher", "ground-truth", "confidence"], description="strategies whose responses are looked at"
    )


class CompareRun(Evaluate, Problems, TaughtRun, ArmsRun):
    """Parameters of notebooks/compare.ipynb."""

    stage = "compare"


class AttentionRun(Attention, Model, Problems, ArmsRun):
    """Parameters of notebooks/attention-visualize.ipynb."""

    stage = "attention-visualize"
    idle = Run.idle | {"n_train", "n_test", "heatmaps", "heatmap_tokens", "chosen_heads", "rule"}
    rule: Rule


class AuditRun(Audit, Run):
    """Parameters of notebooks/audit.ipynb."""

    stage = "audit"
    idle = Run.idle | {"seed", "logs_dir"}


class ClaimsRun(CompareRun):
    """Parameters of notebooks/claims.ipynb: those of the comparison, which it reads."""

    stage = "claims"


class LadderRun(Ladder, Evaluate, Distill, Model, Problems, Run):
    """Parameters of notebooks/ladder.ipynb."""

    stage = "ladder"


class SearchRun(Search, Evaluate, Distill, Model, Problems, Run):
    """Parameters of notebooks/search.ipynb; a trial has values of its own for `train_steps` and `evaluate_every`."""

    stage = "search"
    idle = Run.idle | {
        "trials", "n_test", "train_steps", "evaluate_batch", "evaluate_every", "save_every", "micro_batch"
    }  # fmt: skip
    worked_examples: WorkedExamples


class AttributionRun(Attribution, Model, Problems, TaughtRun):
    """Parameters of notebooks/attribution.ipynb."""

    stage = "attribution"
    idle = Run.idle | {"n_test", "student", "student_revision"}
    teacher: Teacher
    teacher_revision: TeacherRevision
    worked_examples: WorkedExamples


RUNS: dict[str, type[Run]] = {
    run.stage: run
    for run in (
        GenerateRun, PromptSignalsRun, DistillRun, EvaluateRun, CompareRun, AttentionRun, AuditRun,
        ClaimsRun, LadderRun, SearchRun, AttributionRun
    )
}  # fmt: skip
