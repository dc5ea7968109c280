"""What a profile takes, before anything runs: tokens, memory, GPUs, bytes, hours and money, from the models' configs.

Hours are a range, from what a well-used machine reaches to what a badly used one does; prompts are as long as the
data's, responses from as long as its solutions to the budget. No weights are read and nothing is computed, so it takes
a second. `benchmarks/cost.py` sets it beside finished runs.
"""

import bisect
import functools
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean

import psutil

from response_priming import params
from response_priming.errors import InputError
from response_priming.machines.measured import Measured
from response_priming.machines.sizes import BYTES, Architecture, architecture
from response_priming.machines.tokens import Texts

GB = 1e9
USABLE = 0.9  # of a GPU's memory; vLLM's own default
# GPUs by name: memory (GB), dense bf16 products (TFLOP/s) and memory bandwidth (TB/s), from their makers' data sheets.
GPUS = {
    "l4": (24, 121, 0.3), "l40s": (48, 362, 0.86), "a100": (80, 312, 2.0), "h100": (80, 989, 3.35),
    "h200": (141, 989, 4.8), "b200": (180, 2250, 7.7),
}  # fmt: skip
# What share of the products, or of the bandwidth, is reached: well and badly. By transformers, a step of decoding also
# waits for Python, so many seconds a layer.
REACHED = {"read": (0.55, 0.25), "write": (0.7, 0.25), "train": (0.5, 0.2)}
WAITS = {"transformers": (0.0004, 0.0012)}
# TFLOP/s and TB/s of one thread with AVX-512, in float32 (benchmarks/results/cost.md); other vectors are half as wide.
CPU = (0.5, 0.02)
STORED = (3.3, 9)  # bytes a candidate and a token of a stored signal (benchmarks/results/store.md)
ANSWER = 250.0  # bytes of an answer and its scores (of laptop-full: 234)
# What makes a stage fit, the mildest first: its batch, then one of these sets of parameters.
BATCHES = {"generate": "generate.generate_batch", "evaluate": "evaluate.evaluate_batch"}
_PARALLEL = [("generate.tensor_parallel", 2**power) for power in range(1, 7)]
_AGAIN, _SINGLE = ("distill.gradient_checkpointing", True), ("distill.micro_batch", 1)
CHANGES: dict[str, list[tuple[tuple[str, object], ...]]] = {
    "generate": [*((one,) for one in _PARALLEL), *((("generate.engine", "vllm"), one) for one in _PARALLEL)],
    "distill": [(_AGAIN,), (_SINGLE,), (_AGAIN, _SINGLE), (("distill.adapter", "qlora"), _AGAIN, _SINGLE)],
    "evaluate": [],
}
NONE_KNOWN = "none that is known; a smaller model, or larger GPUs"


@dataclass(frozen=True)
class Machine:
    """So many GPUs of a name, or a CPU, and what runs a model on it."""

    gpu: str | None
    count: int = 1
    engine: str = ""

    def products(self, flops: float, what: str, end: int) -> float:
        """Seconds of so many products, well (`end` 0) or badly (1) done."""
        of_cpu = CPU[0] if "avx512f" in params.cpu_flags() else CPU[0] / 2
        return flops / (1e12 * (GPUS[self.gpu][1] if self.gpu else of_cpu) * self.count * REACHED[what][end])

    def reading(self, model: Architecture, tokens: float, end: int) -> float:
        """Seconds of a forward pass over so many tokens."""
        return self.products(2 * model.computed * tokens, "read", end)

    def writing(self, model: Architecture, weights: float, tokens: float, rows: int, end: int) -> float:
        """Seconds of decoding so many tokens, so many rows at once: a step reads all `weights` (bytes), or computes a
        token of each row, whichever takes longer."""
        bandwidth = 1e12 * (GPUS[self.gpu][2] if self.gpu else CPU[1]) * self.count * REACHED["write"][end]
        step = max(weights / bandwidth, self.reading(model, rows, end))
        return tokens / rows * (step + model.num_hidden_layers * WAITS.get(self.engine, (0.0, 0.0))[end])

    def answering(
        self, model: Architecture, weights: float, read: float, written: tuple[float, float], rows: int
    ) -> tuple[float, float]:
        """Seconds, the least and the most, of reading prompts and decoding from the least to the most tokens."""
        low, high = (
            self.reading(model, read, end) + self.writing(model, weights, written[end], rows, end) for end in (0, 1)
        )
        return low, high


@dataclass
class Stage:
    """What one kind of notebook takes, all of them together: counts of items and tokens, bytes, GPUs, hours."""

    name: str
    items: int
    read: float
    written: tuple[float, float]
    weights: float
    working: float  # cache, or what training keeps: bytes beside the weights
    gpus: int  # given to it
    needed: int  # of the chosen size
    stored: float  # bytes
    seconds: tuple[float, float]
    measured: bool = False


@dataclass
class Cost:
    """The stages, on which kind of GPU, if any, its `memory` or the machine's (bytes), the mildest `change` by which
    the first stage that does not fit would, and the largest risk."""

    stages: list[Stage]
    gpu: str | None
    memory: float
    measured: Measured | None = None
    change: str = ""
    risk: str = ""

    @property
    def on(self) -> str:
        """What it runs on, in words."""
        return self.gpu or "this machine's CPU"

    @property
    def hours(self) -> tuple[float, float]:
        """GPU hours of all stages, or hours of the CPU: the least and the most."""
        low, high = (sum(stage.seconds[end] * stage.gpus for stage in self.stages) / 3600 for end in (0, 1))
        return low, high


def estimate(profile: params.Profile, gpu: str | None, measured: Measured | None = None) -> Cost:
    """What the profile takes on such GPUs; without one, on H100s where it asks for GPUs, else on this machine's CPU.

    Args:
        measured: seconds that were measured here, in place of those that are guessed from data sheets.

    Raises:
        InputError: there is no such GPU, or a model's config is not to be had.
    """
    if gpu and gpu not in GPUS:
        raise InputError(f"gpu = {gpu!r}: unknown; allowed: {', '.join(GPUS)}")
    if measured:
        gpu = measured.gpu
    elif not gpu and profile.model.device == "cuda":
        gpu = "h100"
    memory = GB * GPUS[gpu][0] if gpu else float(psutil.virtual_memory().total)
    cost = Cost(_stages(profile, gpu, memory), gpu, memory, measured)
    for stage in cost.stages:
        if measured and (seconds := measured.seconds(profile, stage.name)):
            stage.seconds, stage.measured = seconds, True
            stage.written = measured.written(profile, stage.name) or stage.written
    if tight := next((stage for stage in cost.stages if stage.needed > stage.gpus), None):
        cost.change = _change(profile, gpu, memory, tight)
    cost.risk = _risk(profile, cost)
    return cost


def _stages(profile: params.Profile, gpu: str | None, memory: float) -> list[Stage]:
    fast = "bfloat16" if gpu or params.multiplies_bf16(params.cpu_flags()) else "float32"
    dtype = {"auto": fast}.get(profile.model.dtype, profile.model.dtype)
    student, texts = architecture(profile.model.student, profile.model.student_revision), Texts.of(profile)
    found = [_evaluate(profile, gpu, memory, dtype, student, texts)]
    if profile.trained:
        response = min(profile.generate.response_tokens, texts.solution)
        tokens = texts.beginning() + texts.question + response
        found.insert(0, _distill(profile, gpu, memory, dtype, student, tokens))
    if profile.strategies:
        found.insert(0, _generate(profile, gpu, memory, dtype, texts))
    return found


def _change(profile: params.Profile, gpu: str | None, memory: float, tight: Stage) -> str:
    """The mildest change known by which a stage would fit, in words."""

    def fits(*changes: tuple[str, object]) -> bool:
        with suppress(InputError):
            changed = functools.reduce(lambda so_far, one: so_far.changed(*one), changes, profile)
            return any(one.name == tight.name and one.needed <= one.gpus for one in _stages(changed, gpu, memory))
        return False

    if batch := BATCHES.get(tight.name):
        section, key = batch.split(".")
        sizes = range(1, getattr(getattr(profile, section), key))
        if largest := bisect.bisect_left(sizes, True, key=lambda size: not fits((batch, size))):
            return f"{batch} = {largest}"
    chosen = next((changes for changes in CHANGES[tight.name] if fits(*changes)), ())
    return " and ".join(f"{parameter} = {value}" for parameter, value in chosen) or NONE_KNOWN


def _generate(profile: params.Profile, gpu: str | None, memory: float, dtype: str, texts: Texts) -> Stage:
    asked, teacher = profile.generate, architecture(profile.generate.teacher, profile.generate.teacher_revision)
    bare, beginning = (
        fmean(texts.beginning(name, shown) for name in profile.strategies) for shown in (0, asked.worked_examples)
    )
    prompt = beginning + texts.question
    n = profile.problems.n_train * asked.samples * len(profile.strategies)
    written = (n * min(texts.solution, asked.response_tokens), n * float(asked.response_tokens))
    weights, rows = teacher.weights(asked.teacher_quantization, dtype), min(asked.generate_batch, n)
    working = rows * (prompt + asked.response_tokens) * teacher.cache(dtype)
    given = asked.tensor_parallel * asked.pipeline_parallel
    # The worked examples that all prompts of a strategy begin with are read once.
    read = n * (bare + texts.question) + len(profile.strategies) * (beginning - bare)
    engine = profile.cluster.inside(asked.engine)
    seconds = Machine(gpu, given, engine).answering(teacher, weights, read, written, rows)
    kept = teacher.vocab_size * 2 if asked.top_k == "all" else asked.top_k * STORED[0] + STORED[1]
    need = _gpus(weights + working, memory)
    return Stage("generate", n, n * prompt, written, weights, working, given, need, written[1] * kept, seconds)


def _distill(
    profile: params.Profile, gpu: str | None, memory: float, dtype: str, student: Architecture, tokens: float
) -> Stage:
    runs, on = [profile.distill_of(arm) for arm in profile.trained for _ in profile.seeds], Machine(gpu)
    read = low = high = stored = weights = working = 0.0
    for one in runs:
        learnt = one.train_steps * one.train_batch * min(tokens, one.train_tokens)
        full = one.adapter == "full"
        trained = student.parameters if full else student.adapter(one.lora_r, one.lora_targets)
        # Forward, backward through what is kept, and gradients of what is trained; once more forward where nothing is.
        passes = (6 if full else 4) + (2 if one.gradient_checkpointing else 0)
        flops = passes * student.computed * learnt
        low, high = (so_far + on.products(flops, "train", end) for end, so_far in enumerate((low, high)))
        read += learnt
        held = student.weights("nf4" if one.adapter == "qlora" else "none", dtype)
        size = BYTES[dtype] if full else 4  # an adapter is trained in float32
        longest = min(float(one.train_tokens), 2 * tokens)
        kept = student.activations(int(one.micro_batch * longest), dtype, again=one.gradient_checkpointing)
        beside = 3 * trained * size + kept  # gradient and both moments of the optimiser
        weights, working = max((weights, working), (held, beside), key=sum)
        stored += trained * size
    need = _gpus(weights + working, memory)
    return Stage("distill", len(runs), read, (0, 0), weights, working, 1, need, stored, (low, high))


def _evaluate(
    profile: params.Profile, gpu: str | None, memory: float, dtype: str, student: Architecture, texts: Texts
) -> Stage:
    asked, students = profile.evaluate, sum(len(profile.seeds) if arm in profile.trained else 1 for arm in profile.arms)
    n = students * profile.problems.n_test
    written = (n * min(texts.solution, asked.answer_tokens), n * float(asked.answer_tokens))
    weights, rows = student.weights("none", dtype), min(asked.evaluate_batch, n)
    prompt = texts.beginning() + texts.question
    working = rows * (prompt + asked.answer_tokens) * student.cache(dtype)
    engine = profile.cluster.inside(asked.evaluate_engine)
    seconds = Machine(gpu, engine=engine).answering(student, weights, n * prompt, written, rows)
    need = _gpus(weights + working, memory)
    return Stage("evaluate", n, n * prompt, written, weights, working, 1, need, n * ANSWER, seconds)


def _gpus(needed: float, memory: float) -> int:
    """GPUs of such a size that hold so many bytes: a power of two, as heads are shared out evenly."""
    return int(2 ** max(0, math.ceil(math.log2(needed / (USABLE * memory)))))


def _risk(profile: params.Profile, cost: Cost) -> str:
    """The largest single risk, in a sentence."""
    if tight := next((stage for stage in cost.stages if stage.needed > stage.gpus), None):
        return f"{tight.name} does not fit"
    solution = Texts.of(profile).solution
    for key, budget in (
        ("generate.response_tokens", profile.generate.response_tokens),
        ("evaluate.answer_tokens", profile.evaluate.answer_tokens),
    ):
        if budget < 1.5 * solution and (key.startswith("evaluate") or profile.strategies):
            return f"{key} = {budget}: solutions take {solution:.0f} tokens on average, so many responses may be cut"
    fullest = max(cost.stages, key=lambda stage: (stage.weights + stage.working) / (stage.gpus * cost.memory))
    share = (fullest.weights + fullest.working) / (fullest.gpus * USABLE * cost.memory)
    if share > 0.85:
        return f"{fullest.name} takes {100 * share:.0f} % of the usable memory: a longer prompt than these may not fit"
    widest = max(cost.stages, key=lambda stage: (stage.seconds[1] - stage.seconds[0]) * stage.gpus)
    low, high = (second * widest.gpus / 3600 for second in widest.seconds)
    return f"{widest.name} has the widest range of hours, {low:,.2f} to {high:,.2f}: a slow engine costs most there"


def shown(cost: Cost, price: float) -> list[str]:
    """The estimate as lines of text; `price`: of an hour of one GPU."""
    rows = [("stage", "items", "read", "written", "weights", "beside", "GPUs", "needed", "stored", "hours")]
    for one in cost.stages:
        written, hours = dict.fromkeys(map(_count, one.written)), [f"{end / 3600:,.2f}" for end in one.seconds]
        sizes = _bytes(one.weights), _bytes(one.working), str(one.gpus), str(one.needed), _bytes(one.stored)
        counts = f"{one.items:,}", _count(one.read), " to ".join(written)
        rows.append((one.name, *counts, *sizes, " to ".join(hours)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        name.ljust(widths[0]) + "".join(cell.rjust(2 + width) for cell, width in zip(cells, widths[1:], strict=True))
        for name, *cells in rows
    ]
    low, high = cost.hours
    money = f"; at {price:g} an hour {price * low:,.0f} to {price * high:,.0f}" if price else ""
    of = "GPU hours" if cost.gpu else "hours of a processor"
    if not cost.gpu and (cores := os.cpu_count() or 1) > 1:
        of += f", {low / cores:,.2f} to {high / cores:,.2f} by the clock on its {cores}"
    total = f"On {cost.on} ({_bytes(cost.memory)}): {low:,.2f} to {high:,.2f} {of}{money}."
    return [*lines, total, *([_measured(cost, cost.measured)] if cost.measured else []), f"Largest risk: {cost.risk}."]


def _measured(cost: Cost, measured: Measured) -> str:
    """What was measured, on what, and when."""
    lacking = [stage.name for stage in cost.stages if not stage.measured]
    but = f", but for {' and '.join(lacking)}, which did not run" if lacking else ""
    return f"Measured{but}: {measured.on}; {measured.when} UTC; within {100 * measured.spread:.0f} %."


def _count(tokens: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if tokens >= size:
            return f"{tokens / size:.1f} {unit}"
    return f"{tokens:.0f}"


def _bytes(size: float) -> str:
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"
