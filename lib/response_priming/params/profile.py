"""Parameters: one pydantic schema that profiles (`params/NAME.yaml`) and executed notebooks are validated against.

A profile is nested by section. A notebook sees one stage's sections flattened, as papermill injects them:
`GenerateRun`, `DistillRun` and so on. The sections themselves, with every default, are in `sections`.
"""

import hashlib
import json
import os
from pathlib import Path, PurePath
from typing import Any, ClassVar, NotRequired, Self, TypedDict, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from response_priming import paths
from response_priming.errors import InputError
from response_priming.params.sections import (
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
    Section,
    Seeds,
    Signal,
    first_problem,
)

UNDISTILLED, FINE_TUNED = "undistilled", "fine-tuned"
CONTROLS = (UNDISTILLED, FINE_TUNED)  # the arms without a teacher
UNPRIMED, SHUFFLED = "none", "shuffled"
NEUTRAL = "constant-prefix"  # the control with as many words as a prefix, which say nothing
RELEASED = "published-"  # begins the name of an arm that is trained as the released code did


class Run(BaseModel):
    """What every notebook is given. `explored` is true once a value differs from the profile's (see `collect`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: ClassVar[str]
    profile: str = Field("laptop", description="parameter set, params/PROFILE.yaml")
    seed: int = Field(0, ge=0, description="seed of the problems")

    @property
    def build(self) -> Path:
        """Where this profile's artefacts are."""
        return paths.BUILD / self.profile

    @property
    def explored(self) -> bool:
        """Whether any value differs from the profile's own, as after an edit in JupyterLab."""
        return self != load(self.profile).run(self.stage, **self.item)

    @property
    def output(self) -> Path:
        """Where this run writes. An explored run writes aside, so that it never passes for the profile's result."""
        if not self.explored:
            return self.build
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8]
        return self.build / "explored" / digest

    @property
    def item(self) -> dict[str, str]:
        """The strategy or arm this run is for."""
        return {}


class GenerateRun(Signal, Generate, Model, Problems, Run):
    """Parameters of notebooks/generate.ipynb."""

    stage = "generate"
    strategy: str = Field("none", description="priming prefix, a name in params/prompts.yaml")

    @property
    def item(self) -> dict[str, str]:
        """The strategy."""
        return {"strategy": self.strategy}


class PromptSignalsRun(GenerateRun):
    """Parameters of notebooks/prompt-signals.ipynb."""

    stage = "prompt-signals"


class SeedsRun(Run):
    """What all notebooks about students share: every trained arm has one student for each seed."""

    seeds: Seeds = Field([0], description="training seeds (initial LoRA weights, data order): one student each")

    def seeds_of(self, arm: str) -> list[int]:
        """The seeds of an arm's students; the undistilled student is one, filed under the first seed."""
        return self.seeds[:1] if arm == UNDISTILLED else self.seeds

    def student_of(self, arm: str, seed: int) -> Path:
        """Where a trained arm's student is read from: an adapter, or all weights."""
        return self.build / "students" / arm / f"seed-{seed}"

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
    """Parameters of notebooks/distill.ipynb. `watched`: whether that notebook shows what became of the student."""

    stage = "distill"
    watched: ClassVar[bool] = True


class EvaluateRun(Evaluate, ArmRun):
    """Parameters of notebooks/evaluate.ipynb."""

    stage = "evaluate"


class NamedArms(Run):
    """What the notebooks that look at several arms share."""

    arms: list[str] = Field(
        ["undistilled", "fine-tuned", "none", "teacher", "ground-truth", "confidence"],
        description="arms, in the order of tables and figures",
    )

    @property
    def strategies(self) -> list[str]:
        """The strategies whose responses some of the arms learn from."""
        return load(self.profile).model_copy(update={"arms": self.arms}).strategies


class ArmsRun(NamedArms, SeedsRun):
    """What the notebooks that look at the students of several arms share."""


class CompareRun(Evaluate, Problems, ArmsRun):
    """Parameters of notebooks/compare.ipynb."""

    stage = "compare"


class AttentionRun(Attention, Model, Problems, ArmsRun):
    """Parameters of notebooks/attention-visualize.ipynb."""

    stage = "attention-visualize"
    rule: Rule = cast("Any", Evaluate.model_fields["rule"])


class AuditRun(Audit, Run):
    """Parameters of notebooks/audit.ipynb."""

    stage = "audit"


class ClaimsRun(CompareRun):
    """Parameters of notebooks/claims.ipynb: those of the comparison, which it reads."""

    stage = "claims"


class LadderRun(Ladder, Evaluate, Distill, Model, Problems, Run):
    """Parameters of notebooks/ladder.ipynb."""

    stage = "ladder"


class SearchRun(Search, Evaluate, Distill, Model, Problems, Run):
    """Parameters of notebooks/search.ipynb."""

    stage = "search"
    worked_examples: int = cast("Any", Generate.model_fields["worked_examples"])


class AttributionRun(Attribution, Model, Problems, NamedArms):
    """Parameters of notebooks/attribution.ipynb."""

    stage = "attribution"
    teacher: str = cast("Any", Generate.model_fields["teacher"])
    teacher_revision: str | None = cast("Any", Generate.model_fields["teacher_revision"])
    worked_examples: int = cast("Any", Generate.model_fields["worked_examples"])


RUNS: dict[str, type[Run]] = {
    run.stage: run
    for run in (
        GenerateRun, PromptSignalsRun, DistillRun, EvaluateRun, CompareRun, AttentionRun, AuditRun,
        ClaimsRun, LadderRun, SearchRun, AttributionRun
    )
}  # fmt: skip


class Profile(Section):
    """A full parameter set: `params/NAME.yaml`."""

    name: str
    seed: int = cast("Any", Run.model_fields["seed"])
    seeds: Seeds = cast("Any", SeedsRun.model_fields["seeds"])
    arms: list[str] = cast("Any", ArmsRun.model_fields["arms"])
    problems: Problems = Problems()
    model: Model = Model()
    generate: Generate = Generate()
    distill: Distill = Distill()
    evaluate: Evaluate = Evaluate()
    attention: Attention = Attention()
    audit: Audit = Audit()
    ladder: Ladder = Ladder()
    search: Search = Search()
    attribution: Attribution = Attribution()
    overrides: dict[str, dict[str, Any]] = Field({}, description="per arm: values of `distill` that differ there")

    @model_validator(mode="after")
    def _arms_are_known(self) -> Self:
        known = known_arms()
        for where, arms in (("arms", self.arms), ("overrides", list(self.overrides))):
            for arm in arms:
                if arm not in known:
                    raise ValueError(f"{where}: unknown arm {arm!r}; known: {', '.join(known)}")
        if len(set(self.arms)) < len(self.arms) or not self.arms:
            raise ValueError("arms: must be one or more different names")
        for arm in (*self.arms, *self.overrides):
            self.distill_of(arm)
        for section, name in (("ladder", self.ladder.ladder_strategy), ("search", self.search.search_strategy)):
            if name not in strategies():
                raise ValueError(f"{section}.{section}_strategy = {name!r}: unknown; known: {', '.join(strategies())}")
        return self

    @property
    def strategies(self) -> list[str]:
        """The strategies under which the teacher answers, because an arm learns from its responses."""
        return self._strategies("responses")

    @property
    def scored(self) -> list[str]:
        """The strategies whose prompts the teacher scores, because an arm learns from these signals."""
        return self._strategies("prompt-signals")

    def _strategies(self, store: str) -> list[str]:
        stores = [store_of(arm, self.distill_of(arm)) for arm in self.arms]
        return list(dict.fromkeys(found.name for found in stores if found and found.parent.name == store))

    @property
    def trained(self) -> list[str]:
        """The arms that are trained."""
        return [arm for arm in self.arms if arm != UNDISTILLED]

    def distill_of(self, arm: str) -> Distill:
        """The distill section with what is this arm's own: the released training, where its name says so, overrides."""
        own = self.distill.as_released if arm.startswith(RELEASED) else {}
        try:
            return Distill.model_validate(self.distill.model_dump() | own | self.overrides.get(arm, {}))
        except ValidationError as error:
            raise ValueError(f"overrides.{arm}.{first_problem(error, Distill)}") from None

    def run(self, stage: str, **item: str) -> Run:
        """The flat parameters of one stage for one strategy or arm."""
        sections = (
            self.problems,
            self.model,
            self.generate,
            self.distill_of(item.get("arm", item.get("strategy", ""))),
            self.evaluate,
            self.attention,
            self.audit,
            self.ladder,
            self.search,
            self.attribution,
        )
        values = {"profile": self.name, "seed": self.seed, "seeds": self.seeds, "arms": self.arms} | item
        for section in sections:
            values |= section.model_dump()
        fields = RUNS[stage].model_fields
        return RUNS[stage].model_validate({key: value for key, value in values.items() if key in fields})


class Strategy(TypedDict):
    """An entry of params/prompts.yaml; `control`: of this project, to compare the paper's with."""

    title: str
    prefix: str
    source: str
    control: NotRequired[bool]


def strategies() -> dict[str, Strategy]:
    """The strategies of params/prompts.yaml by name."""
    return cast("dict[str, Strategy]", _read_yaml(paths.PARAMS / "prompts.yaml")["strategies"])


def known_arms() -> list[str]:
    """All arms that a profile may name."""
    return [*CONTROLS, *strategies(), SHUFFLED, *(f"{RELEASED}{name}" for name in strategies())]


def is_primed(arm: str) -> bool:
    """Whether an arm is one of the paper's primed ones, which a claim about priming may rest on."""
    strategy = strategies().get(arm)
    return strategy is not None and arm != UNPRIMED and not strategy.get("control", False)


def store_of(arm: str, distill: Distill) -> PurePath | None:
    """Where below build/PROFILE/ an arm's teacher is read from; None for an arm without one."""
    if arm in CONTROLS:
        return None
    strategy = UNPRIMED if arm == SHUFFLED else arm.removeprefix(RELEASED)
    return PurePath("responses" if "teacher-answers" in distill.repaired else "prompt-signals", strategy)


def profiles() -> list[str]:
    """Names of the parameter sets in params/."""
    data_files = ("prompts", "published-results")
    return sorted(path.stem for path in paths.PARAMS.glob("*.yaml") if path.stem not in data_files)


def load(name: str) -> Profile:
    """Read and validate `params/NAME.yaml`.

    GSM8K_DIR, where set, becomes `problems.data_dir` of a GSM8K profile; PUBLISHED_LOGS becomes `audit.logs_dir`. Where
    relative they start at the project's folder, so that make and notebooks agree on them.

    Raises:
        InputError: no such profile, or a key or value outside the schema.
    """
    if name not in profiles():
        raise InputError(f"params/{name}.yaml: no such profile; there are: {', '.join(profiles())}")
    content = _read_yaml(paths.PARAMS / f"{name}.yaml")
    if "name" in content:
        raise InputError(f"params/{name}.yaml: name = {content['name']!r}: unknown key; a profile is named by its file")
    problems = content.get("problems")
    if os.environ.get("GSM8K_DIR") and isinstance(problems, dict) and problems.get("dataset") == "gsm8k":
        problems["data_dir"] = str((paths.ROOT / os.environ["GSM8K_DIR"]).resolve())
    if os.environ.get("PUBLISHED_LOGS") and isinstance(content.setdefault("audit", {}), dict):
        content["audit"]["logs_dir"] = str((paths.ROOT / os.environ["PUBLISHED_LOGS"]).resolve())
    try:
        return Profile.model_validate({"name": name} | content)
    except ValidationError as error:
        raise InputError(f"params/{name}.yaml: {first_problem(error, Profile)}") from None


def collect(stage: str, namespace: dict[str, Any]) -> Any:
    """A notebook's parameters as one validated object; says so when they differ from the profile's own.

    Args:
        stage: the notebook's stem.
        namespace: the notebook's `globals()`.
    """
    run_type = RUNS[stage]
    try:
        run = run_type.model_validate({key: namespace[key] for key in run_type.model_fields if key in namespace})
    except ValidationError as error:
        raise InputError(f"{stage}.ipynb: {first_problem(error, run_type)}") from None
    if run.explored:
        print(f"Exploring: parameters differ from profile {run.profile}; results go to {paths.shown(run.output)}")
    return run


def parameters_cell(stage: str) -> str:
    """The source of a notebook's `parameters` cell, so that names, defaults and meanings come from the schema."""
    lines = [
        "# The defaults of profile laptop. Change any value and run on: results then go to build/PROFILE/explored/."
    ]
    for name, field in RUNS[stage].model_fields.items():
        default = field.get_default()
        written = json.dumps(default) if isinstance(default, str | list) else repr(default)
        lines.append(f"{name} = {written}  # {field.description}")
    return "\n".join(lines)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{paths.shown(path)}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{paths.shown(path)}: must be a mapping of sections, is a {type(content).__name__}")
    return content
