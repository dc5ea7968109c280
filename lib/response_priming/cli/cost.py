"""What a profile takes, before anything runs: tokens, memory, GPUs, bytes, hours and money, from the models' configs.

Hours are a range, from what a well-used GPU reaches to what a badly used one does; prompts and responses are as long as
the data's, at most the budget. No weights are read and nothing is computed, so this takes a second.
"""

import math
from dataclasses import dataclass
from statistics import fmean

import psutil

from response_priming import arms, params, problems
from response_priming.cli.sizes import Architecture, architecture
from response_priming.errors import InputError

GB = 1e9
USABLE = 0.9  # of a GPU's memory; vLLM's own default
# GPUs by name: memory (GB), dense bf16 products (TFLOP/s) and memory bandwidth (TB/s), from their makers' data sheets.
GPUS = {
    "l4": (24, 121, 0.3), "a10": (24, 125, 0.6), "rtx-4090": (24, 165, 1.0), "l40s": (48, 362, 0.86),
    "a100": (80, 312, 2.0), "h100": (80, 989, 3.35), "h200": (141, 989, 4.8), "b200": (180, 2250, 8.0),
}  # fmt: skip
# What share of the products, or of the bandwidth, is reached: well and badly. By transformers, a step of decoding also
# waits for Python, so many seconds a layer.
REACHED = {"read": (0.55, 0.25), "write": (0.7, 0.25), "train": (0.5, 0.2)}
WAITS = {"transformers": (0.0004, 0.0012)}
CPU = (1.2, 0.02)  # TFLOP/s and TB/s of a laptop's CPU, as far as it can be said of all of them
# Characters a token, of questions and of solutions (measured on GSM8K with the embedded model's tokenizer); tokens that
# a chat template adds to each turn, and to a prompt.
PER_TOKEN, TURN, HEAD = (3.9, 2.3), 5, 40
GSM8K = (235, 288)  # mean characters of its questions and solutions
STORED = (3.3, 9)  # bytes a candidate and a token of a stored signal (benchmarks/results/store.md)
ANSWER = 600.0  # bytes of an answer and its scores


@dataclass(frozen=True)
class Machine:
    """So many GPUs of a name, or a CPU, and what runs a model on it."""

    gpu: str | None
    count: int = 1
    engine: str = ""

    def products(self, flops: float, what: str, end: int) -> float:
        """Seconds of so many products, well (`end` 0) or badly (1) done."""
        return flops / (1e12 * (GPUS[self.gpu][1] if self.gpu else CPU[0]) * self.count * REACHED[what][end])

    def reading(self, model: Architecture, tokens: float, end: int) -> float:
        """Seconds of a forward pass over so many tokens."""
        return self.products(2 * model.computed * tokens, "read", end)

    def writing(self, model: Architecture, weights: float, tokens: float, rows: int, end: int) -> float:
        """Seconds of decoding so many tokens, so many rows at once: a step reads all `weights` (bytes), or computes a
        token of each row, whichever takes longer."""
        bandwidth = 1e12 * (GPUS[self.gpu][2] if self.gpu else CPU[1]) * self.count * REACHED["write"][end]
        step = max(weights / bandwidth, self.reading(model, rows, end))
        return tokens / rows * (step + model.num_hidden_layers * WAITS.get(self.engine, (0.0, 0.0))[end])


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
    fits: int  # needed of the chosen size
    stored: float  # bytes
    seconds: tuple[float, float]
    change: str = ""  # the smallest one that makes it fit


@dataclass
class Cost:
    """The stages, on which kind of GPU, if any, its `memory` or the machine's (bytes), and the largest risk."""

    stages: list[Stage]
    gpu: str | None
    memory: float
    risk: str = ""

    @property
    def on(self) -> str:
        """What it runs on, in words."""
        return self.gpu or "this machine's CPU"

    @property
    def change(self) -> str:
        """The smallest change by which the first stage that does not fit would."""
        return next((stage.change for stage in self.stages if stage.change), "")

    @property
    def hours(self) -> tuple[float, float]:
        """GPU hours of all stages, or hours of the CPU: the least and the most."""
        low, high = (sum(stage.seconds[end] * stage.gpus for stage in self.stages) / 3600 for end in (0, 1))
        return low, high


def estimate(profile: params.Profile, gpu: str | None) -> Cost:
    """What the profile takes on such GPUs, or on this machine's CPU where it asks for none.

    Raises:
        InputError: there is no such GPU, or a model's config is not to be had.
    """
    if gpu and gpu not in GPUS:
        raise InputError(f"gpu = {gpu!r}: unknown; allowed: {', '.join(GPUS)}")
    if not gpu and profile.model.device == "cuda":
        gpu = "h100"
    cost = Cost([], gpu, GB * GPUS[gpu][0] if gpu else psutil.virtual_memory().total)
    dtype = {"auto": "bfloat16" if gpu else "float32"}.get(profile.model.dtype, profile.model.dtype)
    student = architecture(profile.model.student, profile.model.student_revision)
    question, solution = lengths(profile.problems, profile.seed)
    bare = HEAD + len(profile.model.system_prompt) / PER_TOKEN[0] + TURN + question
    if profile.strategies:
        cost.stages.append(_generate(profile, cost, dtype, bare, question, solution))
    response = min(profile.generate.response_tokens, solution)
    trained = [(arm, profile.distill_of(arm)) for arm in profile.trained]
    if trained:
        cost.stages.append(_distill(profile, cost, dtype, student, bare + response))
    cost.stages.append(_evaluate(profile, cost, dtype, student, bare, solution))
    cost.risk = _risk(profile, cost, solution)
    return cost


def lengths(source: params.Problems, seed: int) -> tuple[float, float]:
    """Mean tokens of a question and of a solution; of GSM8K, where it is not at hand, as measured."""
    if source.dataset == "gsm8k" and source.data_dir is None:
        characters: tuple[float, float] = GSM8K
    else:
        some = problems.some(source, "train", min(100, source.n_train), seed=seed)
        characters = (fmean(len(one.question) for one in some), fmean(len(one.worked) for one in some))
    return characters[0] / PER_TOKEN[0], characters[1] / PER_TOKEN[1]


def _generate(profile: params.Profile, cost: Cost, dtype: str, bare: float, question: float, solution: float) -> Stage:
    asked, teacher = profile.generate, architecture(profile.generate.teacher, profile.generate.teacher_revision)
    prefix = sum(len(arms.strategies()[name]["prefix"]) for name in profile.strategies) / len(profile.strategies)
    shown = asked.worked_examples * (question + solution + 2 * TURN)
    prompt = bare + shown + prefix / PER_TOKEN[0] * (1 + asked.worked_examples)
    n = profile.problems.n_train * asked.samples * len(profile.strategies)
    written = (n * min(solution, asked.response_tokens), n * float(asked.response_tokens))
    weights = teacher.weights(asked.teacher_quantization, dtype)
    working = min(asked.generate_batch, n) * (prompt + asked.response_tokens) * teacher.cache(dtype)
    given = asked.tensor_parallel * asked.pipeline_parallel
    need = _gpus(weights + working, cost.memory)
    change = ""
    if need > given:
        room = given * USABLE * cost.memory - weights
        fit = int(room // ((prompt + asked.response_tokens) * teacher.cache(dtype)))
        if fit >= 1:
            change = f"generate.generate_batch = {fit}"
        elif asked.engine == "vllm":
            change = f"generate.tensor_parallel = {need}"
        else:
            change = f"generate.engine: vllm with generate.tensor_parallel = {need}"
    on = Machine(cost.gpu, given, asked.engine)
    low, high = (
        on.reading(teacher, n * prompt, end)
        + on.writing(teacher, weights, written[end], min(asked.generate_batch, n), end)
        for end in (0, 1)
    )
    kept = teacher.vocab_size * 2 if asked.top_k == "all" else asked.top_k * STORED[0] + STORED[1]
    stored = written[1] * kept
    return Stage("generate", n, n * prompt, written, weights, working, given, need, stored, (low, high), change)


def _distill(profile: params.Profile, cost: Cost, dtype: str, student: Architecture, tokens: float) -> Stage:
    runs = [profile.distill_of(arm) for arm in profile.trained for _ in profile.seeds]
    on, change = Machine(cost.gpu), ""
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
        # Gradient and both moments of the optimiser, in the weights' precision.
        state = 3 * trained * (4 if dtype == "float32" else 2 if full else 4)
        longest = min(float(one.train_tokens), 2 * tokens)
        kept = student.activations(int(one.micro_batch * longest), dtype, again=one.gradient_checkpointing)
        if held + state + kept > weights + working:
            weights, working = held, state + kept
        stored += trained * (2 if full and dtype != "float32" else 4)
    need = _gpus(weights + working, cost.memory)
    if need > 1:
        change = (
            "distill.gradient_checkpointing = true" if not runs[0].gradient_checkpointing else "distill.micro_batch = 1"
        )
        if weights > USABLE * cost.memory:
            change = "distill.adapter = qlora"
    return Stage("distill", len(runs), read, (0, 0), weights, working, 1, need, stored, (low, high), change)


def _evaluate(
    profile: params.Profile,
    cost: Cost,
    dtype: str,
    student: Architecture,
    bare: float,
    solution: float,
) -> Stage:
    asked, students = profile.evaluate, sum(len(profile.seeds) if arm in profile.trained else 1 for arm in profile.arms)
    n = students * profile.problems.n_test
    written = (n * min(solution, asked.answer_tokens), n * float(asked.answer_tokens))
    weights = student.weights("none", dtype)
    working = min(asked.evaluate_batch, n) * (bare + asked.answer_tokens) * student.cache(dtype)
    need = _gpus(weights + working, cost.memory)
    on = Machine(cost.gpu, 1, asked.evaluate_engine)
    low, high = (
        on.reading(student, n * bare, end)
        + on.writing(student, weights, written[end], min(asked.evaluate_batch, n), end)
        for end in (0, 1)
    )
    change = f"evaluate.evaluate_batch = {max(1, asked.evaluate_batch // need)}" if need > 1 else ""
    return Stage("evaluate", n, n * bare, written, weights, working, 1, need, n * ANSWER, (low, high), change)


def _gpus(needed: float, memory: float) -> int:
    """GPUs of such a size that hold so many bytes: a power of two, as heads are shared out evenly."""
    return int(2 ** max(0, math.ceil(math.log2(needed / (USABLE * memory)))))


def _risk(profile: params.Profile, cost: Cost, solution: float) -> str:
    """The largest single risk, in a sentence."""
    for stage in cost.stages:
        if stage.change:
            return f"{stage.name} does not fit; the smallest change that does: {stage.change}"
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
    longest = max(cost.stages, key=lambda stage: stage.seconds[1] * stage.gpus)
    low, high = (second * longest.gpus / 3600 for second in longest.seconds)
    return f"{longest.name} has the widest range of hours, {low:,.1f} to {high:,.1f}: a slow engine costs most there"


def shown(cost: Cost, price: float) -> list[str]:
    """The estimate as lines of text; `price`: of an hour of one GPU."""
    rows = [("stage", "items", "read", "written", "weights", "beside", "GPUs", "needed", "stored", "hours")]
    for one in cost.stages:
        written, hours = dict.fromkeys(map(_count, one.written)), [f"{end / 3600:,.2f}" for end in one.seconds]
        sizes = _bytes(one.weights), _bytes(one.working), str(one.gpus), str(one.fits), _bytes(one.stored)
        counts = f"{one.items:,}", _count(one.read), " to ".join(written)
        rows.append((one.name, *counts, *sizes, " to ".join(hours)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        name.ljust(widths[0]) + "".join(cell.rjust(2 + width) for cell, width in zip(cells, widths[1:], strict=True))
        for name, *cells in rows
    ]
    low, high = cost.hours
    money = f"; at {price:g} an hour {price * low:,.0f} to {price * high:,.0f}" if price else ""
    of = "GPU hours" if cost.gpu else "hours"
    total = f"On {cost.on} ({_bytes(cost.memory)}): {low:,.2f} to {high:,.2f} {of}{money}."
    return [*lines, total, f"Largest risk: {cost.risk}."]


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
