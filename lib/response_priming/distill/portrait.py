"""What a student is like at some moment: its divergence to the teacher along a response, and what it answers; and the
figures of its training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerState, TrainingArguments

from response_priming import params, problems, prompts
from response_priming.distill.trainer import DistillTrainer

SAMPLES, SAMPLE_TOKENS = 3, 40  # problems, and tokens at most
NO_SUMS: dict[str, list[float]] = {"soft": [], "soft_tokens": []}
TRAINED = {"hard": "hard: cross-entropy", "soft": "soft: divergence to the teacher"}
HELD_OUT = {
    "gold_hard": "cross-entropy, solutions",
    "response_hard": "cross-entropy, responses",
    "response_soft": "divergence to the teacher",
}
COSTS = {"grad_norm": "Gradient norm", "tokens_per_second": "Tokens per second", "peak_mib": "Peak memory (MiB)"}
FILES = {"positions.parquet": "divergence", "samples.parquet": "answer"}


class Portrait(TrainerCallback):
    """Draws the student as it is validated before its first step and after its last, below the trainer's folder."""

    def __init__(
        self, run: params.DistillRun, tokenizer: PreTrainedTokenizerBase, held_out: Sequence[problems.Problem]
    ) -> None:
        self.run, self.tokenizer, self.asked = run, tokenizer, list(held_out[:SAMPLES])
        self.trainer: DistillTrainer | None = None

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Before the checkpoint of the same step is written, so that a resumed training finds both."""
        if self.trainer is not None and state.global_step in (0, state.max_steps):
            folder = drawn_at(Path(str(args.output_dir)), state.global_step)
            write(self.run, self.trainer, self.tokenizer, self.asked, folder)


def drawn_at(work: Path, step: int) -> Path:
    """Where below a trainer's folder the student of this step is drawn."""
    return work / f"portrait-{step}"


def write(
    run: params.DistillRun,
    trainer: DistillTrainer,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[problems.Problem],
    folder: Path,
) -> None:
    """Write `positions.parquet` (position, tokens, divergence) and `samples.parquet` (problem_id, ..., answer).

    The divergence is that of the trainer's last validation.
    """
    sums = trainer.positions.get("response", pd.DataFrame(NO_SUMS))
    seen = sums["soft_tokens"] > 0
    positions = pd.DataFrame(
        {
            "position": sums.index[seen],
            "tokens": sums["soft_tokens"][seen].astype(int),
            "divergence": (sums["soft"] / sums["soft_tokens"])[seen],
        }
    )
    # FSDP2 gathers weights for each forward pass; else sharded ones are not there to be decoded with.
    sharded = (trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2) or trainer.is_deepspeed_enabled
    answers = [""] * len(asked) if sharded else _answers(run, trainer.model, tokenizer, asked)
    samples = [
        {"problem_id": problem.id, "question": problem.question, "wanted": problem.worked, "answer": answer}
        for problem, answer in zip(asked, answers, strict=True)
    ]
    if trainer.is_world_process_zero():
        folder.mkdir(exist_ok=True)
        positions.to_parquet(folder / "positions.parquet", index=False)
        pd.DataFrame(samples, columns=["problem_id", "question", "wanted", "answer"]).to_parquet(
            folder / "samples.parquet", index=False
        )


def join(before: Path, after: Path, folder: Path) -> None:
    """Write to `folder` what was, from the folder `before`, beside what is, from `after`."""
    for file, value in FILES.items():
        was, now = (pd.read_parquet(source / file) for source in (before, after))
        both = was.rename(columns={value: "before"}).assign(after=now[value])
        both.to_parquet(folder / file, index=False)


def _answers(
    run: params.DistillRun, model: Any, tokenizer: PreTrainedTokenizerBase, asked: Sequence[problems.Problem]
) -> list[str]:
    if not asked:
        return []
    model.eval()
    encoded = [prompts.encode(tokenizer, prompts.bare(problem.question, run.system_prompt)) for problem in asked]
    batch = tokenizer.pad({"input_ids": encoded}, padding_side="left", return_tensors="pt").to(model.device)
    output = model.generate(**batch, max_new_tokens=SAMPLE_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    answers = output[:, batch["input_ids"].shape[1] :]
    return [str(text) for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]


def figure(positions: pd.DataFrame) -> Figure:
    """Divergence along a response, before and after, means over seeds; `positions` as `distill.by_position`."""
    drawn = Figure(figsize=(6, 3), layout="constrained")
    axes = drawn.subplots()
    means = positions.groupby("position")[["before", "after"]].mean()
    for name, marker in zip(means, "os", strict=True):
        axes.plot(means.index, means[name], label=name, marker=marker, markersize=4)
    axes.set(xlabel="Position in the response (tokens)", ylabel="Divergence (nats)", ylim=(0, None))
    axes.legend()
    if means.empty:
        axes.set_title("No held-out response: nothing to compare")
    return drawn


def losses_figure(curve: pd.DataFrame, validated: pd.DataFrame) -> Figure:
    """Losses in training and on held-out problems, means over seeds; `distill.train` and `distill.validation`."""
    drawn = Figure(figsize=(9, 3.4), layout="constrained")
    panels = drawn.subplots(1, 2, sharey=True)
    for axes, table, names in zip(panels, (curve, validated), (TRAINED, HELD_OUT), strict=True):
        means = table.groupby("step")[list(names)].mean().dropna(axis="columns", how="all")
        for name, marker in zip(means, "os^", strict=False):
            axes.plot(means.index, means[name], label=names[str(name)], marker=marker, markersize=4, markevery=0.1)
        axes.set(xlabel="Optimiser step", ylim=(0, None))
        if axes.lines:
            axes.legend()
    panels[0].set(title="Training", ylabel="Nats per position")
    panels[1].set(title="Held-out problems" if len(validated) else "No held-out problems")
    return drawn


def cost_figure(curve: pd.DataFrame) -> Figure:
    """Gradient norm before clipping, speed and memory of every step, means over seeds."""
    drawn = Figure(figsize=(9, 2.6), layout="constrained")
    means = curve.groupby("step")[list(COSTS)].mean()
    for axes, (name, title) in zip(drawn.subplots(1, 3), COSTS.items(), strict=True):
        axes.plot(means.index, means[name])
        axes.set(title=title, xlabel="Optimiser step", ylim=(0, None))
    return drawn
