"""Stage distill: train one arm's student, a LoRA adapter, on responses or on the dataset's solutions.

Trained on: the bare question as the prompt, and a response token by token. The loss sees response tokens only, each
predicted from the position before it, the closing end-of-sequence token included.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from response_priming import alignment, losses, manifest, models, params, problems, responses
from response_priming.errors import InputError

LOGGED = ("loss", "hard", "soft", "grad_norm", "learning_rate")


def train(run: params.DistillRun) -> pd.DataFrame:
    """The loss curves of the arm's students, one row an optimiser step; trains those that are not there already.

    Columns: seed, step, loss, hard, soft (nats per response token; soft is NaN without a teacher), grad_norm,
    learning_rate. Each adapter lands in `students/ARM/seed-N` beside its curve.
    """
    return pd.concat([train_one(run, seed).assign(seed=seed) for seed in run.seeds], ignore_index=True)


def train_one(run: params.DistillRun, seed: int, callbacks: Sequence[TrainerCallback] = ()) -> pd.DataFrame:
    """The loss curve of the student with this seed (see `train`); `callbacks` watch the training."""
    folder = run.output / "students" / run.arm / f"seed-{seed}"
    store = alignment.store(run)
    recipe = manifest.recipe(
        "distill",
        run.model_dump(exclude={"profile", "seeds", "n_test", "micro_batch", "data_dir"})
        | {
            "train_seed": seed,
            "data": problems.fingerprint(run),
            "model": models.fingerprint(run.student, run.student_revision),
        },
        [store] if store else [],
        code="distill",
    )
    if not manifest.is_current(folder, recipe):
        with manifest.writing(folder, recipe) as aside:
            _train(run, seed, store, aside, callbacks)
    return pd.read_parquet(folder / "losses.parquet")


def examples(run: params.DistillRun, tokenizer: PreTrainedTokenizerBase) -> alignment.Examples:
    """What the arm's students are trained on (see `alignment`)."""
    store = alignment.store(run)
    return alignment.build_examples(run, tokenizer, responses.dataset(store) if store else None)


def _train(
    run: params.DistillRun, seed: int, store: Path | None, folder: Path, callbacks: Sequence[TrainerCallback]
) -> None:
    set_seed(seed)
    base, tokenizer = models.load(run.student, revision=run.student_revision, dtype=run.dtype, device=run.device)
    model = get_peft_model(base, lora_config(run, base))
    recorder = _Curve(run.train_steps, has_teacher=store is not None)
    trainer = DistillTrainer(
        run,
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "trainer"),
            max_steps=run.train_steps,
            per_device_train_batch_size=run.micro_batch,
            gradient_accumulation_steps=run.train_batch // run.micro_batch,
            learning_rate=run.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=run.warmup_steps,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=base.device.type == "cuda",
            use_cpu=base.device.type == "cpu",
            seed=seed,
        ),
        train_dataset=cast("Any", examples(run, tokenizer)),
        data_collator=lambda batch: alignment.collate(batch, int(cast("int", tokenizer.pad_token_id))),
        optimizer_cls_and_kwargs=optimizer_of(run),
        callbacks=[recorder, *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.save_pretrained(str(folder))
    recorder.frame().to_parquet(folder / "losses.parquet", index=False)
    trainer.state.save_to_json(str(folder / "trainer_state.json"))


def lora_config(run: params.DistillRun, base: torch.nn.Module) -> LoraConfig:
    """The adapter's configuration; `InputError` where the model lacks a target."""
    linear = {name.rpartition(".")[2] for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)}
    missing = set(run.lora_targets) - linear
    if missing:
        raise InputError(
            f"distill.lora_targets = {sorted(missing)}: {run.student} has no such layers; it has {sorted(linear)}"
        )
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=run.lora_r,
        lora_alpha=run.lora_alpha,
        lora_dropout=run.lora_dropout,
        target_modules=run.lora_targets,
    )


def optimizer_of(run: params.DistillRun) -> tuple[type[torch.optim.Optimizer], dict[str, float]]:
    """Optimiser class and arguments, as `Trainer` takes them."""
    common = {"lr": run.learning_rate, "weight_decay": run.weight_decay}
    if run.optimizer == "sgd":
        return torch.optim.SGD, common | {"momentum": run.momentum}
    return torch.optim.AdamW, common


class DistillTrainer(Trainer):
    """The Hugging Face trainer with the distillation objective.

    The loss is divided by the number of response tokens of the whole optimiser step, so gradient accumulation does not
    change it.
    """

    def __init__(self, run: params.DistillRun, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.run = run
        # Makes the trainer count the labels of all micro-batches of a step and hand the number to `compute_loss`.
        self.model_accepts_loss_kwargs = True
        self._sums = {"hard": 0.0, "soft": 0.0}

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """The run's schedule; `one-epoch` is the released code's cosine (commit b869e93), which rises in epoch two."""
        if self.run.schedule == "one-epoch":
            epoch = math.ceil(len(cast("Any", self.train_dataset)) / self.run.train_batch)
            chosen = cast("torch.optim.Optimizer", optimizer or self.optimizer)
            self.lr_scheduler = LambdaLR(chosen, lambda step: (1 + math.cos(math.pi * step / epoch)) / 2)
        return cast("LambdaLR", self.lr_scheduler or super().create_scheduler(num_training_steps, optimizer))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,  # noqa: ARG002
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The step's share of the objective: sums over this micro-batch's response tokens / tokens of the step."""
        labels = inputs["labels"]
        read = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        rows = torch.arange(len(labels), device=labels.device)[:, None]
        logits = model(**read).logits[rows, inputs["positions"]]
        tokens = cast("int", num_items_in_batch)
        hard = losses.hard_loss(logits, labels) / tokens
        self._sums["hard"] += hard.item()
        if "top_ids" not in inputs:
            return hard
        teacher = inputs["top_ids"], inputs["top_logprobs"], inputs["scored"]
        divergence, temperature = self.run.divergence, self.run.kd_temperature
        soft = losses.soft_loss(logits, *teacher, divergence=divergence, temperature=temperature) / tokens
        self._sums["soft"] += soft.item()
        return self.run.alpha * hard + (1 - self.run.alpha) * soft

    def log(self, logs: dict[str, float], *arguments: Any) -> None:
        """Add the two parts of the loss to the step's log."""
        if "loss" in logs:
            logs |= self._sums
            self._sums = {"hard": 0.0, "soft": 0.0}
        super().log(logs, *arguments)


class _Curve(TrainerCallback):
    """Keeps every step's log and shows progress."""

    def __init__(self, steps: int, has_teacher: bool) -> None:
        self.has_teacher = has_teacher
        self.rows: list[dict[str, float]] = []
        self.progress = tqdm(total=steps, unit="step", mininterval=2, leave=False)

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        if logs and "hard" in logs:
            row = {"step": len(self.rows) + 1} | {key: logs[key] for key in LOGGED}
            self.rows.append(row | ({} if self.has_teacher else {"soft": float("nan")}))
            self.progress.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
            self.progress.update(1)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.progress.close()

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)
