"""Parameters: one pydantic schema that profiles (`params/NAME.yaml`) and executed notebooks are validated against.

A profile is nested by section. A notebook sees one stage's sections flattened, as papermill injects them:
`GenerateRun`, `DistillRun` and so on. Defaults live here alone; they are the `laptop` profile, and every other profile
names what differs.
"""

import hashlib
import json
import os
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Literal, NotRequired, Self, TypedDict, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from response_priming import paths
from response_priming.errors import InputError

UNDISTILLED, FINE_TUNED = "undistilled", "fine-tuned"
CONTROLS = (UNDISTILLED, FINE_TUNED)  # the arms without a teacher
UNPRIMED, SHUFFLED = "none", "shuffled"
RELEASED = "published-"  # begins the name of an arm that is trained as the released code did

Repair = Literal[
    "pairing", "prefix-offset", "bos", "eos", "teacher-answers", "positions", "template", "truncation"
]  # fmt: skip
REPAIRS: tuple[Repair, ...] = get_args(Repair)
# The released code's training (commit b869e93), apart from its number of steps.
RELEASED_TRAINING: dict[str, Any] = {
    "alignment": "published",
    "alpha": 0.6093348343631224,
    "kd_temperature": 5.942267335064758,
    "divergence": "reverse-kl",
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "optimizer": "sgd",
    "learning_rate": 5.0e-6,
    "momentum": 0.9,
    "weight_decay": 1.0e-2,
    "schedule": "one-epoch",
    "warmup_steps": 0,
    "train_batch": 1,
    "micro_batch": 1,
    "held_out": 0.0,
}

# What a search varies, and the parameter with its range or choices.
SEARCHED = {
    "alpha": "alpha_range",
    "kd_temperature": "temperature_range",
    "learning_rate": "learning_rate_range",
    "divergence": "divergences",
}

Dtype = Literal["bfloat16", "float16", "float32"]
Range = Annotated[list[float], Field(min_length=2, max_length=2)]
Rule = Literal["hash", "boxed-first", "last-number"]


# Where the teacher runs, and how much of it at once, decides no response.
PLACEMENT = frozenset({"generate_batch", "tensor_parallel", "pipeline_parallel", "server_url"})


class Section(BaseModel):
    """One section of a profile: unknown keys are refused, values are not changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problems(Section):
    """Where the problems come from, and how many."""

    dataset: Literal["procedural", "gsm8k"] = Field("procedural", description="source of the problems")
    data_dir: str | None = Field(None, description="folder with GSM8K's train.jsonl and test.jsonl; None: the hub")
    dataset_revision: str = Field(
        "e53f048856ff4f594e959d75785d2c2d37b678ee", description="commit of openai/gsm8k on the hub"
    )
    n_train: int = Field(160, ge=1, description="problems the teacher answers and students train on")
    n_test: int = Field(200, ge=1, description="held-out problems every arm is scored on")
    largest_operand: int = Field(20, ge=5, le=999, description="largest number in a procedural problem")
    two_step_share: float = Field(0.25, ge=0, le=1, description="share of procedural problems with two operations")


class Model(Section):
    """The student, and what its prompts and the teacher's share."""

    student: str = Field("embedded", description="`embedded`, a hub id, or a folder with a transformers model")
    student_revision: str | None = Field(None, description="commit of the student on the hub")
    dtype: Dtype = Field("bfloat16", description="precision of teacher and student weights")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")
    system_prompt: str = Field("You solve word problems.", description="system message of every prompt")


class Generate(Section):
    """How the teacher answers."""

    teacher: str = Field("embedded", description="`embedded`, a hub id, or a folder with a transformers model")
    teacher_revision: str | None = Field(None, description="commit of the teacher on the hub")
    engine: Literal["transformers", "vllm", "server"] = Field("transformers", description="what runs the teacher")
    teacher_quantization: Literal["none", "nf4", "int8", "awq", "gptq", "fp8"] = Field(
        "none", description="format of the teacher's weights; none: as its checkpoint is stored"
    )
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share each layer of the teacher (vllm)")
    pipeline_parallel: int = Field(1, ge=1, description="groups of GPUs that share out the teacher's layers (vllm)")
    server_url: str | None = Field(None, description="engine server: its address, as http://localhost:8000/v1")
    worked_examples: int = Field(4, ge=0, le=16, description="solved validation problems shown to the teacher first")
    response_tokens: int = Field(32, ge=1, description="longest response of the teacher (tokens)")
    generate_batch: int = Field(64, ge=1, description="prompts answered at once")
    top_k: int | Literal["all"] = Field(
        64, description="teacher probabilities kept at each response token; `all`: the whole vocabulary"
    )
    temperature: float = Field(0.0, ge=0, le=10, description="of the teacher's decoding; 0: greedy")
    samples: int = Field(1, ge=1, le=256, description="responses to each problem; the majority's answer trains")
    keep_finished: bool = Field(False, description="only responses that ended within the budget train")
    keep_right: bool = Field(False, description="only responses with the right answer train")
    answer_rule: Rule = Field("last-number", description="extraction rule of keep_right and of the majority")

    @field_validator("top_k", mode="before")
    @classmethod
    def _count_or_all(cls, value: object) -> object:
        if value != "all" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{value!r} is neither a number from 1 nor 'all'")
        return value

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and not self.temperature:
            raise ValueError(f"samples = {self.samples} needs a temperature above 0; greedy samples are all the same")
        return self


class Signal(Section):
    """What of a response reaches the student; generate refuses early what distill could not use."""

    signal: Literal["tokens", "text"] = Field(
        "tokens", description="tokens: the teacher's, with its signal; text: tokenised anew, without signal"
    )


class Distill(Signal):
    """How a student is trained."""

    alignment: Literal["response", "published"] = Field(
        "response", description="which positions of teacher and student meet; published: as in the released code"
    )
    repairs: list[Repair] = Field([], description="deviations of alignment published that are undone: see alignment.py")
    alpha: float = Field(0.5, ge=0, le=1, description="weight of the hard loss; 1 - alpha weighs the soft one")
    kd_temperature: float = Field(1.0, gt=0, le=100, description="softens both distributions in the soft loss")
    divergence: Literal["forward-kl", "reverse-kl", "jsd", "skew-kl", "skew-reverse-kl"] = Field(
        "forward-kl", description="soft loss"
    )
    divergence_share: float = Field(
        0.5, gt=0, lt=1, description="jsd: beta; skew-*: share of the first distribution in the second (DistiLLM: 0.1)"
    )
    hard_labels: Literal["response", "gold"] = Field(
        "response", description="hard loss on: the teacher's response, or the data set's solution as a second sequence"
    )
    adapter: Literal["lora", "qlora", "full"] = Field(
        "lora", description="what is trained: LoRA matrices, the same on 4-bit (NF4) weights, or all weights"
    )
    lora_r: int = Field(8, ge=1, description="rank of the LoRA matrices")
    lora_alpha: int = Field(16, ge=1, description="LoRA scale; the update is multiplied by lora_alpha / lora_r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the LoRA input")
    lora_targets: list[str] = Field(
        ["q_proj", "k_proj", "v_proj", "o_proj"], min_length=1, description="adapted projections"
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="optimiser of the LoRA weights")
    learning_rate: float = Field(1.0e-3, gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd; adamw ignores it")
    weight_decay: float = Field(0.0, ge=0, description="decoupled for adamw, L2 for sgd")
    schedule: Literal["cosine", "one-epoch"] = Field(
        "cosine", description="cosine: down to 0 at the last step; one-epoch: down in one epoch, then up again"
    )
    warmup_steps: int = Field(5, ge=0, description="steps of linear warm-up before schedule cosine")
    train_steps: int = Field(40, ge=1, description="optimiser steps, the same for every trained arm")
    train_batch: int = Field(8, ge=1, description="responses in one optimiser step")
    micro_batch: int = Field(8, ge=1, description="responses in one forward pass; divides train_batch")
    gradient_checkpointing: bool = Field(False, description="compute activations twice instead of keeping them")
    held_out: float = Field(0.1, ge=0, lt=1, description="share of the train problems kept for the validation curve")
    evaluate_every: int = Field(20, ge=1, description="optimiser steps between points of the validation curve")
    save_every: int = Field(
        20, ge=1, description="optimiser steps between checkpoints, from which a killed run goes on"
    )
    train_tokens: int = Field(256, ge=8, description="longest prompt plus response; longer ones are refused (tokens)")

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> Self:
        if self.train_batch % self.micro_batch:
            raise ValueError(f"micro_batch = {self.micro_batch} does not divide train_batch = {self.train_batch}")
        return self

    @model_validator(mode="after")
    def _repairs_have_an_object(self) -> Self:
        if self.repairs and self.alignment != "published":
            raise ValueError(f"repairs = {self.repairs}: only alignment 'published' has something to repair")
        return self

    @property
    def repaired(self) -> frozenset[Repair]:
        """The released code's deviations that this training does not have."""
        return frozenset(REPAIRS if self.alignment == "response" else self.repairs)

    @property
    def as_released(self) -> dict[str, Any]:
        """This section's values where it is trained as the released code did, on as many examples."""
        return RELEASED_TRAINING | {"train_steps": self.train_steps * self.train_batch}


class Evaluate(Section):
    """How every arm is scored; there is no per-arm value here on purpose."""

    answer_tokens: int = Field(96, ge=1, description="longest answer of a student (tokens)")
    evaluate_engine: Literal["transformers", "vllm"] = Field("transformers", description="what runs the students")
    evaluate_batch: int = Field(64, ge=1, description="prompts answered at once")
    rule: Rule = Field("last-number", description="extraction rule of the headline accuracy")


class Attention(Section):
    """How the students' attention is compared."""

    attention_prompts: int = Field(4, ge=1, description="test problems whose maps are averaged")
    heatmaps: int = Field(3, ge=1, le=12, description="most divergent heads shown as maps")


class Ladder(Section):
    """The way from the released procedure to the repaired one, a repair at a time."""

    ladder_strategy: str = Field("ground-truth", description="strategy of every rung")
    ladder_test: int = Field(100, ge=1, description="test problems that every rung is scored on")
    ladder_seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="training seeds of every rung"
    )


class Search(Section):
    """Search for training values on the validation split."""

    search_strategy: str = Field("none", description="strategy whose responses every trial learns from")
    trials: int = Field(12, ge=1, description="trials in all, pruned ones included")
    trial_steps: int = Field(20, ge=1, description="optimiser steps of a trial")
    trial_checks: int = Field(4, ge=1, description="validation losses in a trial, at each of which it may be pruned")
    validation_problems: int = Field(60, ge=1, description="validation problems that a trial is scored on")
    alpha_range: Range = Field([0.0, 1.0], description="least and greatest alpha")
    temperature_range: Range = Field([1.0, 6.0], description="least and greatest kd_temperature")
    learning_rate_range: Range = Field([2.0e-4, 5.0e-3], description="least and greatest learning_rate")
    divergences: list[str] = Field(
        ["forward-kl", "reverse-kl", "jsd"], min_length=1, description="values of divergence to choose from"
    )

    @model_validator(mode="after")
    def _values_are_allowed(self) -> Self:
        for key, name in SEARCHED.items():
            values = getattr(self, name)
            for value in values:
                try:
                    Distill.model_validate({key: value})
                except ValidationError as error:
                    raise ValueError(f"{name}: {_first_problem(error, Distill)}") from None
            if name.endswith("_range") and not values[0] < values[1]:
                raise ValueError(f"{name} = {values}: the first number must be below the second")
        return self


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

    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="training seeds (initial LoRA weights, data order): one student each"
    )

    def seeds_of(self, arm: str) -> list[int]:
        """The seeds of an arm's students; the undistilled student is one, filed under the first seed."""
        return self.seeds[:1] if arm == UNDISTILLED else self.seeds

    def adapter_of(self, arm: str, seed: int) -> Path:
        """Where the adapter of a trained arm is read from."""
        return self.build / "students" / arm / f"seed-{seed}"

    def scores_of(self, arm: str, seed: int) -> Path:
        """Where the answers of an arm's student are read from."""
        return self.build / "scores" / arm / f"seed-{seed}"

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: must be different numbers")
        return self


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


class EvaluateRun(Evaluate, ArmRun):
    """Parameters of notebooks/evaluate.ipynb."""

    stage = "evaluate"


class ArmsRun(SeedsRun):
    """What the notebooks that look at all arms together share."""

    arms: list[str] = Field(
        ["undistilled", "fine-tuned", "none", "teacher", "ground-truth", "confidence"],
        description="arms, in the order of tables and figures",
    )


class CompareRun(Evaluate, Problems, ArmsRun):
    """Parameters of notebooks/compare.ipynb."""

    stage = "compare"

    @property
    def strategies(self) -> list[str]:
        """The strategies whose responses some of the arms learn from."""
        return load(self.profile).model_copy(update={"arms": self.arms}).strategies


class AttentionRun(Attention, Model, Problems, ArmsRun):
    """Parameters of notebooks/attention-visualize.ipynb."""

    stage = "attention-visualize"


class LadderRun(Ladder, Evaluate, Distill, Model, Problems, Run):
    """Parameters of notebooks/repair-ladder.ipynb."""

    stage = "repair-ladder"


class SearchRun(Search, Evaluate, Distill, Model, Problems, Run):
    """Parameters of notebooks/search.ipynb."""

    stage = "search"
    worked_examples: int = cast("Any", Generate.model_fields["worked_examples"])


RUNS: dict[str, type[Run]] = {
    run.stage: run
    for run in (
        GenerateRun, PromptSignalsRun, DistillRun, EvaluateRun, CompareRun, AttentionRun, LadderRun, SearchRun
    )
}  # fmt: skip


class Profile(Section):
    """A full parameter set: `params/NAME.yaml`."""

    name: str
    seed: int = cast("Any", Run.model_fields["seed"])
    seeds: list[Annotated[int, Field(ge=0)]] = cast("Any", SeedsRun.model_fields["seeds"])
    arms: list[str] = cast("Any", ArmsRun.model_fields["arms"])
    problems: Problems = Problems()
    model: Model = Model()
    generate: Generate = Generate()
    distill: Distill = Distill()
    evaluate: Evaluate = Evaluate()
    attention: Attention = Attention()
    ladder: Ladder = Ladder()
    search: Search = Search()
    overrides: dict[str, dict[str, Any]] = Field({}, description="per arm: values of `distill` that differ there")

    @model_validator(mode="after")
    def _arms_are_known(self) -> Self:
        known = [*CONTROLS, *strategies(), SHUFFLED, *(f"{RELEASED}{name}" for name in strategies())]
        for where, arms in (("arms", self.arms), ("overrides", list(self.overrides))):
            for arm in arms:
                if arm not in known:
                    raise ValueError(f"{where}: unknown arm {arm!r}; known: {', '.join(known)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: must be different numbers")
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
        """The arms that have an adapter."""
        return [arm for arm in self.arms if arm != UNDISTILLED]

    def distill_of(self, arm: str) -> Distill:
        """The distill section with what is this arm's own: the released training, where its name says so, overrides."""
        own = self.distill.as_released if arm.startswith(RELEASED) else {}
        try:
            return Distill.model_validate(self.distill.model_dump() | own | self.overrides.get(arm, {}))
        except ValidationError as error:
            raise ValueError(f"overrides.{arm}.{_first_problem(error, Distill)}") from None

    def run(self, stage: str, **item: str) -> Run:
        """The flat parameters of one stage for one strategy or arm."""
        sections = (
            self.problems,
            self.model,
            self.generate,
            self.distill_of(item.get("arm", item.get("strategy", ""))),
            self.evaluate,
            self.attention,
            self.ladder,
            self.search,
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
    """Read and validate `params/NAME.yaml`. GSM8K_DIR, where set, becomes `problems.data_dir` of a GSM8K profile.

    A relative GSM8K_DIR starts at the project's folder, so that make and notebooks agree on it.

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
    try:
        return Profile.model_validate({"name": name} | content)
    except ValidationError as error:
        raise InputError(f"params/{name}.yaml: {_first_problem(error, Profile)}") from None


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
        raise InputError(f"{stage}.ipynb: {_first_problem(error, run_type)}") from None
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


def _first_problem(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first problem in one line: key, value and what is allowed."""
    problem = error.errors()[0]
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        for section in problem["loc"][:-1]:
            schema = cast("type[BaseModel]", schema.model_fields[str(section)].annotation)
        return f"{key} = {problem['input']!r}: unknown key; allowed: {', '.join(schema.model_fields)}"
    if problem["type"] == "value_error":
        message = str(problem["ctx"]["error"])
        return f"{key}: {message}" if key else message
    return f"{key} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
