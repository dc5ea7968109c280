"""The sections of a profile: every parameter with its default, its limits and its meaning.

Defaults live here alone; they are the `laptop` profile, and every other profile names what differs.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from response_priming.errors import first_problem
from response_priming.params.base import Section
from response_priming.params.divergences import DIVERGENCES, Divergence
from response_priming.params.fields import (
    Day,
    Dtype,
    Engine,
    Range,
    Rule,
    RuleName,
    SomeSeeds,
    Strategy,
    Teacher,
    TeacherRevision,
    WorkedExamples,
    is_on_hub,
    one_of,
)  # fmt: skip
from response_priming.params.hardware import precision_of
from response_priming.params.released import RELEASED_TRAINING, REPAIRS, Repair

# What a search varies, and the parameter with its range or choices.
SEARCHED = {
    "alpha": "alpha_range",
    "kd_temperature": "temperature_range",
    "learning_rate": "learning_rate_range",
    "divergence": "divergences",
}

# What shapes the soft loss alone, which takes a teacher's distributions.
SOFT = ("alpha", "kd_temperature", "divergence", "divergence_share")


class Problems(Section):
    """Where the problems come from, and how many."""

    dataset: Literal["procedural", "gsm8k", "local"] = Field(
        "procedural", description="source of the problems; local: those of data_dir"
    )
    data_dir: str | None = Field(
        None, description="folder with train.jsonl and test.jsonl, in GSM8K's form; None: the hub's GSM8K"
    )
    dataset_revision: str = Field(
        "e53f048856ff4f594e959d75785d2c2d37b678ee", description="commit of openai/gsm8k on the hub"
    )
    allow_leaked: bool = Field(False, description="go on although questions of test are in train, too")
    n_train: int = Field(160, ge=1, le=1_000_000, description="problems the teacher answers and students train on")
    n_test: int = Field(200, ge=1, le=1_000_000, description="held-out problems every arm is scored on")
    largest_operand: int = Field(20, ge=5, le=999, description="largest number in a procedural problem")
    two_step_share: float = Field(0.25, ge=0, le=1, description="share of procedural problems with two operations")

    def ignored(self) -> dict[str, str]:
        """See `Section.ignored`."""
        if self.dataset == "procedural":
            return dict.fromkeys(("data_dir", "dataset_revision", "allow_leaked"), "dataset 'procedural' is made here")
        made = dict.fromkeys(("largest_operand", "two_step_share"), "only dataset 'procedural' is made here")
        return made | ({"dataset_revision": "dataset 'local' is a folder"} if self.dataset == "local" else {})

    @model_validator(mode="after")
    def _local_problems_have_a_folder(self) -> Self:
        if self.dataset == "local" and not self.data_dir:
            raise ValueError("data_dir = None: dataset 'local' needs a folder with train.jsonl and test.jsonl")
        return self


class Model(Section):
    """The student, and what its prompts and the teacher's share."""

    student: str = Field("embedded", description="`embedded`, a hub id, or a folder with a transformers model")
    student_revision: str | None = Field(None, description="commit of the student on the hub")
    dtype: Dtype = Field(
        "auto", description="precision of weights and products; auto: bfloat16 where units multiply it, else float32"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda where there is one, else cpu")
    system_prompt: str = Field("You solve word problems.", description="system message of every prompt")
    prompt_date: Day = Field(
        "2024-07-26", description="today, for chat templates that print it, as Llama 3.2's; so prompts stay the same"
    )

    def ignored(self) -> dict[str, str]:
        """See `Section.ignored`."""
        return {} if is_on_hub(self.student) else {"student_revision": "the student is not of the hub"}

    @property
    def precision(self) -> str:
        """What `dtype` is on this machine (see `hardware.precision_of`)."""
        return precision_of(self.dtype, self.device)


class Generate(Section):
    """How the teacher answers."""

    teacher: Teacher
    teacher_revision: TeacherRevision
    engine: Engine = Field("transformers", description="what runs the teacher")
    teacher_quantization: Literal["none", "nf4", "int8", "awq", "gptq", "fp8"] = Field(
        "none", description="format of the teacher's weights; none: as its checkpoint is stored"
    )
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share each layer of the teacher (vllm)")
    pipeline_parallel: int = Field(1, ge=1, description="groups of GPUs that share out the teacher's layers (vllm)")
    server_url: str | None = Field(None, description="engine server: its address, as http://localhost:8000/v1")
    worked_examples: WorkedExamples
    response_tokens: int = Field(32, ge=1, description="longest response of the teacher (tokens)")
    generate_batch: int = Field(64, ge=1, description="prompts answered at once")
    top_k: int | Literal["all"] = Field(
        64, description="teacher probabilities kept at each response token; `all`: the whole vocabulary"
    )
    temperature: float = Field(0.0, ge=0, le=10, description="of the teacher's decoding; 0: greedy")
    samples: int = Field(1, ge=1, le=256, description="responses to each problem; the majority's answer trains")
    keep_finished: bool = Field(False, description="only responses that ended within the budget train")
    keep_right: bool = Field(False, description="only responses with the right answer train")
    answer_rule: RuleName = Field("last-number", description="extraction rule of keep_right and of the majority")

    @field_validator("top_k", mode="before")
    @classmethod
    def _count_or_all(cls, value: object) -> object:
        if value != "all" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{value!r} is neither a number from 1 nor 'all'")
        return value

    def ignored(self) -> dict[str, str]:
        """See `Section.ignored`."""
        words = f"engine {self.engine!r} knows none"
        found = {} if self.engine in ("vllm", "ray") else dict.fromkeys(("tensor_parallel", "pipeline_parallel"), words)
        found |= {} if self.engine == "server" else {"server_url": words}
        return found | ({} if is_on_hub(self.teacher) else {"teacher_revision": "the teacher is not of the hub"})

    @model_validator(mode="after")
    def _server_has_an_address(self) -> Self:
        if self.engine == "server" and not self.server_url:
            raise ValueError("server_url = None: engine 'server' needs one, as http://localhost:8000/v1")
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and not self.temperature:
            raise ValueError(f"samples = {self.samples} needs a temperature above 0; greedy samples are all the same")
        return self


class Cluster(Section):
    """What engine `ray` spreads over a cluster: replicas of another engine, for teacher and students alike."""

    replica_engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="engine ray: what runs a model in each replica"
    )
    replicas: int = Field(0, ge=0, description="engine ray: how many; 0: as many as the cluster has room for")

    def inside(self, engine: str) -> str:
        """What answers: the engine, or of `ray` that of its replicas."""
        return self.replica_engine if engine == "ray" else engine


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
    repairs: list[Repair] = Field([], description="deviations of alignment published that are undone: see examples.py")
    alpha: float = Field(0.5, ge=0, le=1, description="weight of the hard loss; 1 - alpha weighs the soft one")
    kd_temperature: float = Field(1.0, gt=0, le=100, description="softens both distributions in the soft loss")
    divergence: Annotated[str, one_of(DIVERGENCES)] = Field("forward-kl", description="soft loss")
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
    lora_dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout on the LoRA input; above 0, micro_batch and processes change the result"
    )
    lora_targets: list[str] = Field(
        ["q_proj", "k_proj", "v_proj", "o_proj"], min_length=1, description="adapted projections"
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="optimiser of what is trained")
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
    train_processes: int = Field(
        1, ge=1, description="processes that train a student together, a GPU each, started by `accelerate launch`"
    )
    held_out: float = Field(0.1, ge=0, lt=1, description="share of the train problems kept for the validation curve")
    evaluate_every: int = Field(
        20, ge=1, description="optimiser steps between points of the validation curve; a finished student keeps its own"
    )
    save_every: int = Field(
        20, ge=1, description="optimiser steps between checkpoints, from which a killed run goes on"
    )
    train_tokens: int = Field(256, ge=8, description="longest prompt plus response; longer ones are refused (tokens)")

    def ignored(self) -> dict[str, str]:
        """See `Section.ignored`."""
        found: dict[str, str] = {}
        if self.signal == "text":
            found |= dict.fromkeys(SOFT, "signal 'text' has no distributions")
        if self.divergence in ("forward-kl", "reverse-kl", "symmetric-kl"):
            found["divergence_share"] = f"divergence {self.divergence!r} mixes none"
        if self.optimizer == "adamw":
            found["momentum"] = "optimizer 'adamw' has none"
        if self.schedule == "one-epoch" and self.warmup_steps:
            found["warmup_steps"] = "schedule 'one-epoch' has none"
        if self.adapter == "full":
            found |= dict.fromkeys(("lora_r", "lora_alpha", "lora_dropout", "lora_targets"), "adapter 'full' has none")
        return found

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
    def soft_loss(self) -> Divergence:
        """The divergence as it is computed, and in words."""
        return DIVERGENCES[self.divergence]

    @property
    def by_dropout(self) -> dict[str, Any]:
        """What decides the result where there is dropout, whose masks are drawn a forward pass at a time."""
        return {"micro_batch": self.micro_batch} if self.lora_dropout and self.train_batch > 1 else {}

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
    evaluate_engine: Literal["transformers", "vllm", "ray"] = Field(
        "transformers", description="what runs the students"
    )
    evaluate_batch: int = Field(64, ge=1, description="prompts answered at once")
    rule: Rule


class Attention(Section):
    """How the students' attention is compared."""

    attention_prompts: int = Field(12, ge=1, description="test problems whose maps are measured")
    with_solution: bool = Field(True, description="students read the problem's solution too, the same text for all")
    skip_layers: int = Field(0, ge=0, description="last layers left out; the released analysis leaves out 1")
    attention_tokens: int = Field(1024, ge=2, description="longest text; memory grows with its square (tokens)")
    heatmaps: int = Field(2, ge=1, le=12, description="most divergent heads shown as maps")
    chosen_heads: list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]] = Field(
        [], description="heads shown as maps instead, as [layer, head]"
    )
    heatmap_tokens: int = Field(24, ge=2, le=64, description="tokens shown in a map: the first and the last ones")
    explorer_prompts: int = Field(2, ge=1, description="problems whose maps are kept for heatmaps and the explorer")
    explorer_tokens: int = Field(96, ge=2, le=512, description="tokens kept of each: the first and the last ones")

    def ignored(self) -> dict[str, str]:
        """See `Section.ignored`."""
        found = {"heatmaps": "chosen_heads are shown"} if self.chosen_heads else {}
        more = self.explorer_prompts > self.attention_prompts
        return found | ({"explorer_prompts": f"attention_prompts = {self.attention_prompts}"} if more else {})


class Audit(Section):
    """What the audit of the published study counts."""

    logs_dir: str | None = Field(None, description="folder with the released response logs; None: the recorded counts")
    disputed: str | None = Field(
        None, description="file with the numbers of test problems whose answers are disputed, from 0, one a line"
    )

    def ignored(self) -> dict[str, str]:
        """See `Section.ignored`."""
        return {} if self.logs_dir else {"disputed": "recorded counts name no problem; it needs audit.logs_dir"}


class Ladder(Section):
    """The way from the released procedure to the repaired one, a repair at a time."""

    ladder_strategy: Strategy = Field("ground-truth", description="strategy of every rung")
    ladder_test: int = Field(100, ge=1, description="test problems that every rung is scored on")
    ladder_seeds: SomeSeeds = Field([0], description="training seeds of every rung")


class Doctor(Section):
    """Why distillation loses to fine-tuning: every student looked at, and the way from the one to the other."""

    doctor_rungs: bool = Field(True, description="train what is between KD and fine-tuning; the teacher answers anew")
    doctor_strategy: Strategy = Field("none", description="strategy that this way starts from")
    doctor_examples: int = Field(16, ge=0, le=16, description="worked examples of the rung whose teacher sees more")


class Related(Section):
    """Related methods of distillation, each beside its controls, on the same problems and by the same evaluation."""

    related_methods: list[str] = Field(
        [
            "feature-alignment",
            "okd",
            "elad",
            "retrikt",
            "minillm",
            "moebert",
            "self-features",
            "l2a",
            "on-policy-priming",
            "lrp",
        ],
        min_length=1,
        description="rows of the table, files of methods/; those that are not built yet say so",
    )
    related_strategy: Strategy = Field("none", description="strategy whose responses the methods learn from")
    related_seeds: SomeSeeds = Field([0], description="training seeds of every row")
    related_controls: int = Field(1, ge=0, description="controls of each method that are trained")
    related_explained: int = Field(12, ge=1, description="train problems whose answers are explained (lrp)")


class Search(Section):
    """Search for training values on the validation split."""

    search_strategy: Strategy = Field("none", description="strategy whose responses every trial learns from")
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
                    raise ValueError(f"{name}: {first_problem(error, Distill)}") from None
            if name.endswith("_range") and not values[0] < values[1]:
                raise ValueError(f"{name} = {values}: the first number must be below the second")
        return self


class Attribution(Section):
    """How the teacher's responses are attributed to its prompt."""

    attribution_problems: int = Field(4, ge=1, description="problems whose responses are attributed")
    gradient_steps: int = Field(16, ge=1, description="steps of integrated gradients")
    random_orders: int = Field(2, ge=1, description="random orders that a deletion curve is compared with")
