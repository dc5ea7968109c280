"""Stage distill: train one arm's student on responses, or on the data set's solutions.

Trained on: what `methods.examples` says, by default the bare question and a response token by token, the closing
end-of-sequence token included. A killed run goes on from its last checkpoint and ends with the same weights. Under
`accelerate launch`, all processes run the stage together; the first one writes.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase, TrainerCallback, set_seed

from response_priming import artifacts, models, params, paths, progress, provenance
from response_priming.distill.beside import Beside
from response_priming.distill.trainer import DistillTrainer, forget_peak
from response_priming.errors import InputError
from response_priming.methods.base import method_of
from response_priming.methods.examples import prepare

SPEED = ["tokens_per_second", "peak_mib"]  # of a step, and others in every training
METHOD = "method.json"
# Tables of a snapshot, and the column of each that changes in training.
SNAPSHOT = {"positions.parquet": "divergence", "samples.parquet": "answer"}


@dataclass(frozen=True)
class _Job:
    """A student to train: checkpoints go to `work`, and what is complete to `folder`."""

    run: params.DistillRun
    seed: int
    work: Path
    folder: Path
    callbacks: Sequence[TrainerCallback]
    took: artifacts.Stopwatch


def train(run: params.DistillRun) -> pd.DataFrame:
    """The loss curves of the arm's students, one row an optimiser step; trains those that are not there already.

    Columns: seed, step, loss, hard, soft (nats per scored position; soft is NaN without a teacher), grad_norm (before
    clipping), learning_rate, tokens_per_second, peak_mib. Each student lands in `students/ARM/seed-N` beside its curve.
    """
    return pd.concat([train_one(run, seed).assign(seed=seed) for seed in run.seeds], ignore_index=True)


def validation(run: params.DistillRun) -> pd.DataFrame:
    """Losses on held-out problems, from step 0, before the first, to the last, as often as they were measured.

    Columns: seed, step, and in nats per scored position gold_hard (on the data set's solutions), response_hard and
    response_soft (on the teacher's responses; NaN without a teacher).
    """
    return _of_all_seeds(run, "validation.parquet")


def by_position(run: params.DistillRun) -> pd.DataFrame:
    """Mean divergence to the teacher at each position of the held-out responses.

    Columns: seed, position (from 0), tokens (how many responses reach it), before, after (nats, times T^2).
    """
    return _of_all_seeds(run, "positions.parquet")


def samples(run: params.DistillRun) -> pd.DataFrame:
    """What the students answer to some held-out problems: seed, problem_id, question, wanted, before, after."""
    return _of_all_seeds(run, "samples.parquet")


def of_method(run: params.DistillRun) -> list[dict[str, Any]]:
    """What is noted of each student that a related method made: its `active` parameters, the tokens `spent` in
    training, and the numbers of its `mechanism`, `before` and `after`."""
    return [json.loads((folder.path / METHOD).read_text(encoding="utf-8")) for folder in run.folders]


def _of_all_seeds(run: params.DistillRun, file: str) -> pd.DataFrame:
    parts = [pd.read_parquet(folder.path / file).assign(seed=folder.more["train_seed"]) for folder in run.folders]
    return pd.concat(parts, ignore_index=True)


def train_one(run: params.DistillRun, seed: int, callbacks: Sequence[TrainerCallback] = ()) -> pd.DataFrame:
    """The loss curve of the student with this seed (see `train`); `callbacks` watch the training."""
    made = next(folder for folder in run.folders if folder.more["train_seed"] == seed)
    folder, recipe = made.path, artifacts.recipe(run, made)
    if not artifacts.is_current(folder, recipe):
        processes = PartialState(cpu=params.device_of(run.device) == "cpu")
        if run.watched and processes.num_processes == 1 < run.train_processes:
            raise InputError(
                f"distill.train_processes = {run.train_processes}: this is one; `make paper CLUSTER=...` starts all, "
                f"or `accelerate launch --num_processes {run.train_processes} -m response_priming distill --profile "
                f"{run.profile} --arm {run.arm}`"
            )
        # Checkpoints wait there until the student is complete; those of another recipe are not touched.
        work = folder.with_name(f".{folder.name}.checkpoints-{artifacts.key(recipe)}")
        first = processes.is_main_process
        with artifacts.locked(folder) if first else contextlib.nullcontext():
            if first:
                artifacts.restored(folder, recipe)
                work.mkdir(parents=True, exist_ok=True)
            processes.wait_for_everyone()
            if not artifacts.is_current(folder, recipe):
                # A killed process's seconds are those of its last checkpoint.
                sealed = [artifacts.manifest(path) or {} for path in work.glob("checkpoint-*")]
                took = artifacts.Stopwatch(max(sealed, key=lambda one: one.get("cpu_seconds", 0.0), default=None))
                written = artifacts.writing(folder, recipe, took) if first else contextlib.nullcontext(work)
                with written as aside, progress.part("seed", seed, run.seeds):
                    own = run.model_copy(update={"seeds": [seed]})
                    _train(_Job(own, seed, work, aside, callbacks, took), processes)
            if first:
                shutil.rmtree(work)
            processes.wait_for_everyone()
    speed = pd.read_parquet(folder / artifacts.MEASURED / "speed.parquet")
    return pd.read_parquet(folder / "losses.parquet").merge(speed, on="step")


def _train(job: _Job, processes: PartialState) -> None:
    micro_batch = _micro_batch(job.run, processes.num_processes)
    while True:
        try:
            return _attempt(job, micro_batch)
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            if micro_batch == 1 or processes.num_processes > 1 or job.run.lora_dropout:
                raise InputError(
                    f"distill.micro_batch = {micro_batch}: out of memory; a smaller one, gradient_checkpointing: true "
                    "or adapter: qlora take less"
                ) from None
        micro_batch //= 2
        same = f"a step is still {job.run.train_batch} responses"
        progress.say(f"Out of memory: going on with micro_batch = {micro_batch}; {same}.")


def _micro_batch(run: params.DistillRun, count: int) -> int:
    """The run's, or the largest divisor of it with which `count` processes share a step evenly."""
    if count > 1 and run.method and not method_of(run).parallel:
        raise InputError(f"method {run.method['name']!r}: is trained by one process, and there are {count}")
    if run.train_batch % count:
        raise InputError(f"distill.train_batch = {run.train_batch}: {count} processes cannot share it evenly")
    return math.gcd(run.micro_batch, run.train_batch // count)


def _attempt(job: _Job, micro_batch: int) -> None:
    run, method = job.run, method_of(job.run)
    set_seed(job.seed)
    forget_peak()
    model, tokenizer = method.student()
    data = prepare(run, tokenizer)
    held_out: Any = next((data.validation[name] for name in ("response", "gold") if name in data.validation), [])
    if not run.watched:
        data.validation.pop("response", None)
    checkpoints = sorted(job.work.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in checkpoints:
        if not artifacts.manifest(path) or artifacts.damaged(path):
            shutil.rmtree(path, ignore_errors=True)  # a kill cut it short
    last = next((str(path) for path in reversed(checkpoints) if path.exists()), None)
    trainer = DistillTrainer(
        method,
        data,
        model=model,
        tokenizer=tokenizer,
        seed=job.seed,
        micro_batch=micro_batch,
        folder=job.work,
        resumed=last is not None,
        callbacks=[*([Beside(method, last)] if run.method else []), _Sealed(job.took), *job.callbacks],
    )
    begun = job.work / "mechanism.json"
    if run.method and not begun.exists():
        paths.write(begun, json.dumps(trainer.mechanism(held_out)))
    with contextlib.closing(trainer.progress.bar):
        trainer.train(resume_from_checkpoint=last)
    if not all(weight.isfinite().all() for weight in model.parameters() if weight.requires_grad):
        raise InputError(f"distill, {job.run.arm}, seed {job.seed}: weights are not finite; lower learning_rate")
    trainer.save_model(str(job.folder))
    if run.method:
        measured = {"before": json.loads(begun.read_text()), "after": trainer.mechanism(held_out)}
        found = {"active": method.active(model), "spent": method.spent, "mechanism": measured}
        (job.folder / METHOD).write_text(json.dumps(found), encoding="utf-8")
    if trainer.is_world_process_zero():
        _finish(job, trainer, tokenizer)


class _Sealed(TrainerCallback):
    """Writes each checkpoint's manifest once all its files are on disk: without one, a kill cut it short. It also says
    what the training took so far."""

    def __init__(self, took: artifacts.Stopwatch) -> None:
        self.took = took

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if state.is_world_process_zero:
            artifacts.seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.took.seconds())


def _finish(job: _Job, trainer: DistillTrainer, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write what a student's folder holds beside its weights."""
    for file, value in SNAPSHOT.items() if job.run.watched else ():
        was, now = (pd.read_parquet(trainer.snapshot_at(step) / file) for step in (0, job.run.train_steps))
        both = was.rename(columns={value: "before"}).assign(after=now[value])
        both.to_parquet(job.folder / file, index=False)
    curve, measured = trainer.curve(), job.folder / artifacts.MEASURED
    measured.mkdir()
    curve[["step", *SPEED]].to_parquet(measured / "speed.parquet", index=False)
    curve.drop(columns=SPEED).to_parquet(job.folder / "losses.parquet", index=False)
    trainer.validation().to_parquet(job.folder / "validation.parquet", index=False)
    trainer.state.save_to_json(str(measured / "trainer_state.json"))
    config = job.folder / "adapter_config.json"
    if config.exists():
        # peft lists modules in the order of a set, which is another one in every process.
        content = json.loads(config.read_text(encoding="utf-8"))
        content["target_modules"] = sorted(content["target_modules"])
        config.write_text(json.dumps(content, indent=2), encoding="utf-8")
    if job.run.adapter == "full":
        tokenizer.save_pretrained(job.folder)
    (job.folder / "training_args.bin").unlink()
    (job.folder / "README.md").write_text(card(job.run, job.seed, curve), encoding="utf-8")


def card(run: params.DistillRun, seed: int, curve: pd.DataFrame) -> str:
    """The model card in Markdown: what the student is, what it was made from and with, and how to use it.

    Args:
        curve: as `train` returns it.
    """
    here = jinja2.PackageLoader("response_priming", "distill")
    environment = jinja2.Environment(
        loader=here, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template("card.md.jinja").render(
        run=run,
        seed=seed,
        own=method_of(run).runs_on is not None,
        base=models.PACKAGE if run.student == provenance.EMBEDDED else run.student,
        teacher=run.store.relative_to(run.build) if run.store else None,
        loss=curve["loss"].iloc[-1],
        versions=provenance.summary(run),
    )
