"""The Hugging Face trainer with a method's loss: batches, counting, logging, validation, snapshots, stopping."""

import contextlib
import ctypes
import gc
import itertools
import math
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from response_priming import progress, prompts
from response_priming.errors import InputError
from response_priming.methods.base import Method
from response_priming.methods.examples import collate, stream, targets

if TYPE_CHECKING:
    from response_priming import params
    from response_priming.methods.examples import TrainingData

LOGGED = ("loss", "hard", "soft", "grad_norm", "learning_rate", "tokens_per_second", "peak_mib")
SAMPLES, SAMPLE_TOKENS = 3, 40  # problems that a snapshot shows the answers to, and tokens at most
VALIDATED = ("gold_hard", "response_hard", "response_soft")


class DistillTrainer(Trainer):
    """Sums over scored positions, divided by their number in the whole optimiser step, over all processes.

    So neither gradient accumulation nor data parallelism changes the loss.
    """

    def __init__(
        self,
        method: Method,
        data: "TrainingData",
        *,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        micro_batch: int,
        folder: Path,
        resumed: bool = False,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """See `Trainer`.

        Args:
            micro_batch: items in one forward pass of one process.
            folder: where checkpoints go.
            resumed: the training goes on from a checkpoint, so the validation before its first step is done.
        """
        run = method.run
        self.run, self.method, self.data, self.reader, self.micro_batch = run, method, data, tokenizer, micro_batch
        arguments = _arguments(run, seed, micro_batch, folder, cpu=next(model.parameters()).device.type == "cpu")
        arguments.eval_on_start = run.watched and not resumed
        self.progress = _Progress(self, run.train_steps, shown=arguments.process_index == 0)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=cast("Any", stream(data.items, count=run.train_steps * run.train_batch, seed=seed)),
            eval_dataset=cast("Any", data.validation),
            data_collator=lambda items: collate(list(itertools.chain(*items)), cast("int", tokenizer.pad_token_id)),
            optimizer_cls_and_kwargs=optimizer_of(run),
            callbacks=[self.progress, *callbacks],
        )
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = True
        self.positions: dict[str, pd.DataFrame] = {}
        self._sums = torch.zeros(4, dtype=torch.float64)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The micro-batches of a step, and the numbers of its hard and soft targets over all processes."""
        self._begun = time.monotonic()
        batches, row = list(itertools.islice(epoch_iterator, num_batches)), 0
        for place, batch in enumerate(batches):
            at = {"seed": self.args.seed, "step": self.state.global_step, "item": row}
            row += len(batch["problem_ids"])
            with torch.no_grad(), self.compute_loss_context_manager():
                batches[place] = dict(self.method.batch(cast("torch.nn.Module", self.model), batch, **at))
        counted = [[wanted.sum().item() for wanted in targets(batch)] for batch in batches]
        self.problems = [name for batch in batches for name in batch["problem_ids"]]
        return batches, self.accelerator.reduce(torch.tensor(counted, device=device).sum(0), "sum")

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: ARG002
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """This micro-batch's share of the step's objective, times the processes, since they average gradients."""
        hard_tokens, soft_tokens = num_items_in_batch.clamp(min=1)
        loss = self.method.loss(model, inputs, hard_tokens=hard_tokens, soft_tokens=soft_tokens)
        parts = loss.total.detach(), loss.hard.sum() / hard_tokens, loss.soft.sum() / soft_tokens
        self._sums += torch.tensor([*(part.item() for part in parts), inputs["attention_mask"].sum().item()])
        if not math.isfinite(float(self._sums[0])):
            raise self.diverged("the loss is not finite", inputs["problem_ids"])
        return cast("Tensor", loss.total * self.accelerator.num_processes)

    def diverged(self, what: str, problems: Sequence[str]) -> InputError:
        """The error that stops a training before it spoils the weights."""
        return InputError(
            f"distill, step {self.state.global_step + 1}: {what}; problems: {', '.join(dict.fromkeys(problems))}; "
            "the last checkpoint is from before, and a lower learning_rate may help"
        )

    def log(self, logs: dict[str, float], *arguments: Any) -> None:
        """Add to the step's log the parts of the loss, the speed and the memory."""
        if "loss" in logs:
            seconds = time.monotonic() - self._begun
            sums = self.accelerator.reduce(self._sums.float().to(self.args.device), "sum").tolist()
            logs |= dict(zip(("loss", "hard", "soft", "tokens_per_second"), sums, strict=True))
            logs |= {"tokens_per_second": sums[3] / seconds, "peak_mib": peak_mib()}
            self._sums.zero_()
        super().log(logs, *arguments)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """The run's schedule; `one-epoch` is the released code's cosine (commit b869e93), which rises in epoch two."""
        if self.run.schedule == "one-epoch":
            epoch = math.ceil(len(self.data.items) / self.run.train_batch)
            chosen = cast("torch.optim.Optimizer", optimizer or self.optimizer)
            self.lr_scheduler = LambdaLR(chosen, lambda step: (1 + math.cos(math.pi * step / epoch)) / 2)
        return cast("LambdaLR", self.lr_scheduler or super().create_scheduler(num_training_steps, optimizer))

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean losses on each of the held-out sets, logged as `NAME_hard` and, with a teacher, `NAME_soft`.

        What they are means of stays in `positions` until the next time (see `by_position`). Before the first step and
        after the last there is a `snapshot`, ahead of that step's checkpoint, so that a resumed training finds both.
        """
        metrics = {}
        for name, some in cast("dict[str, Any]", self.eval_dataset).items():
            self.positions[name] = self.by_position(some)
            sums = self.positions[name].sum()
            metrics[f"{name}_hard"] = sums["hard"] / max(sums["hard_tokens"], 1)
            if sums["soft_tokens"]:
                metrics[f"{name}_soft"] = sums["soft"] / sums["soft_tokens"]
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.run.watched and self.state.global_step in (0, self.state.max_steps):
            self.snapshot(self.snapshot_at(self.state.global_step))
        return metrics

    def mechanism(self, some: Any) -> dict[str, float]:
        """What the method says of the student over some examples (see `Method.mechanism`)."""
        model = cast("torch.nn.Module", self.model).eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.method.mechanism(model, self._batches(some))

    def _batches(self, some: Any) -> Iterator[dict[str, Any]]:
        """Some examples, a micro-batch at a time."""
        for start in range(0, len(some), self.micro_batch):
            places = range(start, min(start + self.micro_batch, len(some)))
            batch = self.data_collator(cast("Any", [[some[place]] for place in places]))
            yield cast("dict[str, Any]", self._prepare_inputs(batch))

    @torch.no_grad()
    def by_position(self, some: Any) -> pd.DataFrame:
        """Sums of `hard` and `soft` over some examples, and what they are sums of (`*_tokens`), one row a position."""
        model = self.model_wrapped.eval()
        width = max((len(example["labels"]) for example in some), default=0)
        sums = torch.zeros(4, width, dtype=torch.float64)
        for batch in self._batches(some):
            with self.compute_loss_context_manager():
                loss = Method(self.run).loss(model, batch)
            for total, values in zip(sums, (loss.hard, loss.soft, *targets(batch)), strict=True):
                total[: values.shape[1]] += values.sum(0).cpu()
        return pd.DataFrame(sums.T.numpy(), columns=["hard", "soft", "hard_tokens", "soft_tokens"])

    def snapshot_at(self, step: int) -> Path:
        """Where the snapshot of this step is."""
        return Path(str(self.args.output_dir)) / f"snapshot-{step}"

    def snapshot(self, folder: Path) -> None:
        """Write what the student is like now.

        `positions.parquet` (position, tokens, divergence) is of the last validation, along a response;
        `samples.parquet` (problem_id, question, wanted, answer) of what it answers to some held-out problems.
        """
        sums = self.positions.get("response", pd.DataFrame(columns=["soft", "soft_tokens"], dtype=float))
        sums = sums[sums["soft_tokens"] > 0]
        positions = pd.DataFrame({"position": sums.index, "tokens": sums["soft_tokens"].astype(int)})
        positions["divergence"] = sums["soft"] / sums["soft_tokens"]
        asked = self.data.held_out[:SAMPLES]
        answers = [""] * len(asked)
        # FSDP2 gathers weights for each forward pass; else sharded ones are not there to be decoded with.
        sharded = (self.is_fsdp_enabled and not self.accelerator.is_fsdp2) or self.is_deepspeed_enabled
        if asked and not sharded:
            model, end = cast("Any", self.model).eval(), self.reader.pad_token_id
            chats = [prompts.bare(problem.question, self.run.system_prompt) for problem in asked]
            encoded = {"input_ids": [prompts.encode(self.reader, chat, self.run.prompt_date) for chat in chats]}
            batch = self.reader.pad(encoded, padding_side="left", return_tensors="pt").to(model.device)
            output = model.generate(**batch, max_new_tokens=SAMPLE_TOKENS, do_sample=False, pad_token_id=end)
            answers = self.reader.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        rows = [(p.id, p.question, p.worked, answer) for p, answer in zip(asked, answers, strict=True)]
        if self.is_world_process_zero():
            folder.mkdir(exist_ok=True)
            positions.to_parquet(folder / "positions.parquet", index=False)
            samples = pd.DataFrame(rows, columns=["problem_id", "question", "wanted", "answer"])
            samples.to_parquet(folder / "samples.parquet", index=False)

    def curve(self) -> pd.DataFrame:
        """The log so far, one row an optimiser step: `step` and LOGGED; `soft` is NaN without a teacher."""
        curve = self._logged("loss", LOGGED)
        return curve if self.run.store else curve.assign(soft=np.nan)

    def validation(self) -> pd.DataFrame:
        """The validation so far, one row each time, from step 0, before the first: `step` and VALIDATED."""
        return self._logged("gold_hard", VALIDATED)

    def _logged(self, key: str, columns: Sequence[str]) -> pd.DataFrame:
        rows = [entry for entry in self.state.log_history if key in entry]
        # A resumed run may validate again where it goes on.
        return pd.DataFrame(rows, columns=["step", *columns]).drop_duplicates("step", ignore_index=True)


def _arguments(run: "params.DistillRun", seed: int, micro_batch: int, folder: Path, *, cpu: bool) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=run.train_steps,
        per_device_train_batch_size=micro_batch,
        learning_rate=run.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=run.warmup_steps,
        bf16=run.adapter == "full" and run.precision == "bfloat16",
        gradient_checkpointing=run.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        train_sampling_strategy="sequential",
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=run.evaluate_every,
        save_steps=run.save_every,
        save_total_limit=2,
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=not cpu,
        use_cpu=cpu,
        seed=seed,
    )
    arguments.gradient_accumulation_steps = run.train_batch // (micro_batch * arguments.world_size)
    # One process drives one device: several GPUs are several processes (`accelerate launch`).
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def optimizer_of(run: "params.DistillRun") -> tuple[type[torch.optim.Optimizer], dict[str, float]]:
    """Optimiser class and arguments, as `Trainer` takes them."""
    common = {"lr": run.learning_rate, "weight_decay": run.weight_decay}
    if run.optimizer == "sgd":
        return torch.optim.SGD, common | {"momentum": run.momentum}
    return torch.optim.AdamW, common


def peak_mib() -> float:
    """The most memory so far: of the GPU where there is one, else of this process (MiB)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def forget_peak() -> None:
    """Measure `peak_mib` from now on, as far as the system lets a process do so; what was freed before is no part."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # other systems than Linux with glibc
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


class _Progress(TrainerCallback):
    """Shows progress, validates after the last step, and lets no gradient that is not finite reach the weights."""

    def __init__(self, trainer: DistillTrainer, steps: int, *, shown: bool) -> None:
        self.trainer = trainer
        self.bar = progress.Bar(steps, "step", shown=shown)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._advance()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        model = cast("torch.nn.Module", self.trainer.model)
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if not torch.nn.utils.get_total_norm(gradients).isfinite():
            raise self.trainer.diverged("the gradient is not finite", self.trainer.problems)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        state, control = self.trainer.state, self.trainer.control
        if state.global_step == state.max_steps:
            control.should_evaluate = self.trainer.run.watched

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        if logs and "hard" in logs:
            self.bar.set_postfix({key: f"{logs[key]:.3f}" for key in ("hard", "soft")}, refresh=False)
            self._advance()

    def _advance(self) -> None:
        self.bar.update(self.trainer.state.global_step - self.bar.n)
