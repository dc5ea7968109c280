"""Runs: what each notebook is given, one stage's sections of the profile flattened, as papermill injects them."""

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, PrivateAttr, field_validator

from response_priming import arms
from response_priming.params.base import Folder, Run
from response_priming.params.fields import Arm, Arms, Rule, Seeds, Strategy, Teacher, TeacherRevision, WorkedExamples
from response_priming.params.sections import (
    Attention,
    Attribution,
    Audit,
    Cluster,
    Distill,
    Doctor,
    Evaluate,
    Generate,
    Ladder,
    Model,
    Problems,
    Related,
    Search,
    Signal,
)

# Where the teacher runs, and how much of it at once, decides no response.
PLACEMENT = frozenset({"generate_batch", "tensor_parallel", "pipeline_parallel", "server_url"})


class ClusterRun(Cluster, Run):
    """What all runs share that an engine answers, and those that read what it did."""

    @property
    def shaping(self) -> dict[str, Any]:
        """See `Run.shaping`. Where a cluster answers, its replicas' engine stands, which alone decides what."""
        found = {key: value for key, value in super().shaping.items() if key not in Cluster.model_fields}
        return found | {key: self.inside(found[key]) for key in ("engine", "evaluate_engine") if key in found}


class GenerateRun(Signal, Generate, Model, Problems, ClusterRun):
    """Parameters of notebooks/generate.ipynb."""

    stage = "generate"
    idle = Run.idle | PLACEMENT | {"n_test", "student", "student_revision", "signal"}
    module: ClassVar[str] = "generate.teacher"
    place: ClassVar[str] = "responses"
    strategy: Strategy = Field("none", description="priming prefix, a name in params/prompts.yaml")

    @property
    def item(self) -> dict[str, str]:
        """The strategy."""
        return {"strategy": self.strategy}

    @property
    def folders(self) -> list[Folder]:
        """The strategy's store."""
        return [
            Folder(
                self.output / self.place / self.strategy, [self.module, f"engines.{self.inside(self.engine)}"], [], {}
            )
        ]


class PromptSignalsRun(GenerateRun):
    """Parameters of notebooks/prompt-signals.ipynb; the teacher reads the question alone, and answers nothing."""

    stage = "prompt-signals"
    idle = (
        GenerateRun.idle
        | {"system_prompt", "prompt_date"}
        | (Generate.model_fields.keys() - {"teacher", "teacher_revision", "engine", "teacher_quantization", "top_k"})
    )
    module, place = "generate.prompt_signals", "prompt-signals"


class SeedsRun(Run):
    """What all notebooks about students share: every trained arm has one student for each seed."""

    seeds: Seeds

    def seeds_of(self, arm: str) -> list[int]:
        """The seeds of an arm's students; the undistilled student is one, filed under the first seed."""
        return self.seeds[:1] if arm in arms.UNTRAINED else self.seeds

    def student_of(self, arm: str, seed: int) -> Path:
        """Where a trained arm's student is read from: an adapter, or all weights."""
        return (self._beside or self.build) / "students" / arm / f"seed-{seed}"

    def scores_of(self, arm: str, seed: int) -> Path:
        """Where the answers of an arm's student are read from."""
        return self.build / "scores" / arm / f"seed-{seed}"


class ArmRun(Model, Problems, SeedsRun):
    """What distill and evaluate share."""

    arm: Arm = Field("none", description="line of the results table: how this student is made")
    _method: dict[str, Any] | None = PrivateAttr(None)
    _needs: tuple[Path, ...] = PrivateAttr(())

    def needing(self, *folders: Path) -> Self:
        """This run of a related method that reads these folders, too."""
        run = self.model_copy()
        run._needs = folders
        return run

    def by(self, method: dict[str, Any]) -> Self:
        """This run with the student of a related method (see `methods.base.described`)."""
        run = self.model_copy()
        run._method = method
        return run

    @property
    def method(self) -> dict[str, Any] | None:
        """The related method by `name`, `version` and `parameters`; None for the repaired and the released one."""
        return self._method

    @property
    def by_method(self) -> dict[str, Any]:
        """What decides the result where there is a related method, and only there."""
        return {"method": self._method} if self._method else {}

    @property
    def item(self) -> dict[str, str]:
        """The arm."""
        return {"arm": self.arm}


class DistillRun(Distill, ArmRun):
    """Parameters of notebooks/distill.ipynb."""

    stage = "distill"
    # A finer curve of losses is no reason to train what is there again.
    idle = Run.idle | {"seeds", "n_test", "micro_batch", "save_every", "evaluate_every"}
    _live: GenerateRun | None = PrivateAttr(None)
    _before: "DistillRun | None" = PrivateAttr(None)

    def after(self, earlier: "DistillRun") -> Self:
        """This run of a related method that begins with the students of another one."""
        run = self.model_copy()
        run._before = earlier
        return run

    @property
    def earlier(self) -> "DistillRun | None":
        """The run whose students it begins with; None where it begins with the undistilled one."""
        return self._before

    @property
    def before(self) -> Path | None:
        """The student that the one with the first seed begins with; None: the undistilled one."""
        return self._before.student_of(self._before.arm, self.seeds[0]) if self._before else None

    def asking(self, teacher: GenerateRun) -> Self:
        """This run of a related method that asks a teacher, in this prompt, while the student is trained."""
        run = self.model_copy()
        run._live = teacher
        return run

    @property
    def live(self) -> GenerateRun | None:
        """How that teacher is asked; None where none is."""
        return self._live

    @property
    def store(self) -> Path | None:
        """What the arm's teacher gave: responses or signals over prompts; None without a teacher."""
        found = arms.store_of(self.arm, self.repaired)
        return (self._taught or self.build) / found if found else None

    @property
    def folders(self) -> list[Folder]:
        """A student for each seed."""
        place, reads = self.output / "students" / self.arm, [*([self.store] if self.store else []), *self._needs]
        code = [
            "distill.training",
            "methods.student",
            *([f"methods.{self.method['name'].replace('-', '_')}"] if self.method else []),
        ]
        more = self.by_dropout | self.by_method
        old = self._before
        begun = {seed: [old.student_of(old.arm, seed)] if old else [] for seed in self.seeds}
        return [
            Folder(place / f"seed-{seed}", code, [*reads, *begun[seed]], {"train_seed": seed} | more)
            for seed in self.seeds
        ]

    @property
    def watched(self) -> bool:
        """Whether the notebook shows what became of the student."""
        return self._beside is None


class EvaluateRun(Evaluate, ArmRun, ClusterRun):
    """Parameters of notebooks/evaluate.ipynb; all rules score the answers, whichever the headline's is."""

    stage = "evaluate"
    idle = Run.idle | {"seeds", "rule", "n_train"}
    worked_examples: WorkedExamples

    @property
    def folders(self) -> list[Folder]:
        """For each student, what it answered, and then that by every rule."""
        found = []
        for seed in self.seeds_of(self.arm):
            student = [] if self.arm in arms.UNTRAINED else [self.student_of(self.arm, seed)]
            answers = self.output / "answers" / self.arm / f"seed-{seed}"
            scores = self.output / "scores" / self.arm / f"seed-{seed}"
            code = ["evaluate.answers", f"engines.{self.inside(self.evaluate_engine)}"]
            found.append(Folder(answers, code, [*student, *self._needs], self.by_method))
            found.append(Folder(scores, ["scoring"], [answers], {}, by_model=False))
        return found


class ArmsRun(SeedsRun):
    """What the notebooks that look at the students of several arms share."""

    arms: Arms


class TaughtRun(Run):
    """What the notebooks that look at a teacher's responses under several strategies share."""

    strategies: list[Strategy] = Field(
        ["none", "teacher", "ground-truth", "confidence"], description="strategies whose responses are looked at"
    )


class CompareRun(Evaluate, Problems, TaughtRun, ArmsRun, ClusterRun):
    """Parameters of notebooks/compare.ipynb."""

    stage = "compare"
    worked_examples: WorkedExamples

    @property
    def trained(self) -> list[tuple[str, int]]:
        """The students, arm by arm."""
        return [(arm, seed) for arm in self.arms if arm not in arms.UNTRAINED for seed in self.seeds]

    @property
    def folders(self) -> list[Folder]:
        """The tables of all arms."""
        reads = [self.scores_of(arm, seed) for arm in self.arms for seed in self.seeds_of(arm)]
        reads += [self.student_of(arm, seed) for arm, seed in self.trained]
        reads += [self.build / "responses" / strategy for strategy in self.strategies]
        texts = {"titles": [arms.title(arm) for arm in self.arms]}
        return [Folder(self.output / "comparison", ["compare.comparison"], reads, texts, by_model=False)]


class AttentionRun(Attention, Model, Problems, ArmsRun):
    """Parameters of notebooks/attention-visualize.ipynb."""

    stage = "attention-visualize"
    idle = Run.idle | {"n_train", "n_test", "heatmaps", "heatmap_tokens", "chosen_heads", "rule"}
    rule: Rule

    @field_validator("arms")
    @classmethod
    def _every_student_once(cls, names: list[str]) -> list[str]:
        return list(dict.fromkeys(arms.UNDISTILLED if name in arms.UNTRAINED else name for name in names))

    @property
    def students(self) -> list[tuple[str, int]]:
        """Every student, arm by arm."""
        return [(arm, seed) for arm in self.arms for seed in self.seeds_of(arm)]

    @property
    def folders(self) -> list[Folder]:
        """The numbers of every head."""
        reads = [self.student_of(arm, seed) for arm, seed in self.students if arm != arms.UNDISTILLED]
        return [Folder(self.output / "attention", ["attention.analysis"], reads, {})]


class AuditRun(Audit, Run):
    """Parameters of notebooks/audit.ipynb."""

    stage = "audit"
    idle = Run.idle | {"seed", "logs_dir", "disputed"}

    @property
    def folders(self) -> list[Folder]:
        """The tables of the recount."""
        return [Folder(self.output / "audit", ["audit.findings"], [], {"published": arms.published()}, by_model=False)]


class ClaimsRun(CompareRun):
    """Parameters of notebooks/claims.ipynb: those of the comparison, which it reads."""

    stage = "claims"

    @property
    def compared(self) -> CompareRun:
        """The comparison that it reads."""
        run = CompareRun.of(self.model_dump())
        return run.exploring(self.output) if self.output != self.build else run

    @property
    def folders(self) -> list[Folder]:
        """The verdicts; what is missing makes a claim not testable, but for the audit."""
        reads = [self.build / name for name in ("audit", "comparison", "attention", "rules")]
        reads += [self.build / "responses" / strategy for strategy in (arms.UNPRIMED, "confidence")]
        there = [path for path in reads if path.name == "audit" or path.exists()]
        return [Folder(self.output / "claims", ["claims"], there, {}, by_model=False)]


class LadderRun(Ladder, Evaluate, Distill, Model, Problems, ClusterRun):
    """Parameters of notebooks/ladder.ipynb."""

    stage = "ladder"

    @property
    def reads(self) -> list[Path]:
        """Both stores of the strategy."""
        return [self.build / store / self.ladder_strategy for store in ("responses", "prompt-signals")]


class DoctorRun(Doctor, Distill, Generate, Model, CompareRun):
    """Parameters of notebooks/doctor.ipynb."""

    stage = "doctor"

    @property
    def folders(self) -> list[Folder]:
        """What was found about the students of the comparison."""
        reads = super().folders[0].reads
        return [Folder(self.output / "doctor", ["studies.doctor"], reads, {}, by_model=False)]


class RelatedRun(Related, Evaluate, Distill, Generate, Model, Problems, ClusterRun):
    """Parameters of notebooks/related.ipynb."""

    stage = "related"

    @property
    def reads(self) -> list[Path]:
        """The responses that the methods learn from."""
        return [self.build / "responses" / self.related_strategy]


class SearchRun(Search, Evaluate, Distill, Model, Problems, ClusterRun):
    """Parameters of notebooks/search.ipynb; a trial has values of its own for `train_steps` and `evaluate_every`."""

    stage = "search"
    idle = Run.idle | {
        "trials", "n_test", "train_steps", "evaluate_batch", "evaluate_every", "save_every", "micro_batch"
    }  # fmt: skip
    worked_examples: WorkedExamples

    @property
    def reads(self) -> list[Path]:
        """The store that trials learn from."""
        store = arms.store_of(self.search_strategy, self.repaired)
        return [self.build / store] if store else []


class AttributionRun(Attribution, Model, Problems, TaughtRun):
    """Parameters of notebooks/attribution.ipynb."""

    stage = "attribution"
    idle = Run.idle | {"n_test", "student", "student_revision"}
    teacher: Teacher
    teacher_revision: TeacherRevision
    worked_examples: WorkedExamples

    @property
    def folders(self) -> list[Folder]:
        """The attributions of all strategies."""
        reads = [self.build / "responses" / strategy for strategy in self.strategies]
        return [Folder(self.output / "attribution", ["attribution.attributions"], reads, {})]


RUNS: dict[str, type[Run]] = {
    run.stage: run
    for run in (
        GenerateRun, PromptSignalsRun, DistillRun, EvaluateRun, CompareRun, AttentionRun, AuditRun,
        ClaimsRun, LadderRun, DoctorRun, RelatedRun, SearchRun, AttributionRun
    )
}  # fmt: skip
