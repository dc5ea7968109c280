"""What a distillation step costs beside plain fine-tuning and TRL's trainer, and memory beside the number of responses.

    python benchmarks/distill.py           # writes results/distill.md; TRL's line where trl is installed

The embedded model, LoRA as in profile laptop, 8 sequences of 70 prompt and 30 response tokens. `kd` is stage distill's
step with a signal, `fine-tuned` the same without one; `plain` is the Hugging Face trainer with the model's own loss;
`gkd` TRL's GKDTrainer, off-policy, which cannot use a cached signal and holds its teacher (here the same model) in
memory. Trainers take turns; a step is the median over steps and repeats.
"""

import functools
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from peft import get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments

from response_priming import artifacts, engines, models, params, paths, problems
from response_priming.distill.trainer import DistillTrainer
from response_priming.engines.base import pack
from response_priming.generate import store
from response_priming.methods import examples, student
from response_priming.methods.base import Method
from response_priming.methods.losses import IGNORED

SIGNAL = ("scored", *engines.Signal._fields)
RESULTS = Path(__file__).parent / "results" / "distill.md"
PROMPT, RESPONSE, K, BATCH, STEPS, REPEATS, VOCABULARY = 70, 30, 64, 8, 5, 3, 49_152


class Clock(TrainerCallback):
    """Seconds of each step but the first."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.monotonic()

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        if state.global_step > 1:
            self.seconds.append(time.monotonic() - self.start)


def run_of(**values: Any) -> params.DistillRun:
    run = params.load("laptop").run("distill", arm="none")
    quiet = {"held_out": 0.0, "evaluate_every": 10_000, "save_every": 10_000, "train_steps": STEPS, "warmup_steps": 0}
    return params.DistillRun.model_validate(run.model_dump() | quiet | values)


def example() -> dict[str, Any]:
    random = np.random.default_rng(0)
    tokens = random.integers(3, VOCABULARY, PROMPT + RESPONSE).tolist()
    return {
        "problem_id": "p",
        "input_ids": tokens[:-1],
        "positions": list(range(PROMPT - 1, PROMPT + RESPONSE - 1)),
        "labels": tokens[PROMPT:],
        "scored": [True] * RESPONSE,
        "top_ids": np.stack([random.permutation(VOCABULARY)[:K] for _ in range(RESPONSE)]),
        "top_logprobs": np.full((RESPONSE, K), -4.5, np.float32),
        "tail_logprobs": np.full(RESPONSE, -1.3, np.float32),
    }


class Same(list[Any]):
    """As many items as asked for, all the same."""


def ours(folder: Path, clock: Clock, *, signal: bool = True) -> None:
    run = run_of()
    model, tokenizer = student.load(run)
    row = example() if signal else {key: value for key, value in example().items() if key not in SIGNAL}
    data = examples.TrainingData(Same([[row]] * 32), [], {})  # type: ignore[arg-type]
    parts: dict[str, Any] = {"model": model, "tokenizer": tokenizer, "folder": folder, "callbacks": [clock]}
    DistillTrainer(Method(run), data, seed=0, micro_batch=BATCH, **parts).train()


def lora() -> Any:
    base, _ = models.load("embedded", dtype="bfloat16", device="cpu")
    return get_peft_model(base, student.lora_config(run_of(), base))


def whole_rows(rows: list[Any]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([row["input_ids"] + row["labels"][-1:] for row in rows])
    labels = ids.clone()
    labels[:, :PROMPT] = IGNORED
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def settings(folder: Path, kind: type[TrainingArguments], **more: Any) -> Any:
    return kind(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        use_cpu=True,
        **more,
    )


def plain(folder: Path, clock: Clock) -> None:
    arguments = settings(folder, TrainingArguments)
    rows: Any = [example()] * BATCH * STEPS
    Trainer(lora(), arguments, data_collator=whole_rows, train_dataset=rows, callbacks=[clock]).train()


def gkd(folder: Path, clock: Clock) -> None:
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer  # type: ignore[import-not-found]

    teacher, tokenizer = models.load("embedded", dtype="bfloat16", device="cpu")
    row = {key: value for key, value in example().items() if key in ("input_ids", "labels")}
    arguments = settings(folder, GKDConfig, lmbda=0.0, bf16=False, gradient_checkpointing=False)
    GKDTrainer(
        lora(),
        teacher,
        arguments,
        data_collator=whole_rows,
        train_dataset=Dataset.from_list([row] * BATCH * STEPS),
        processing_class=tokenizer,
        callbacks=[clock],
    ).train()


def seconds() -> dict[str, float]:
    ways: dict[str, Callable[[Path, Clock], None]] = {
        "kd": ours,
        "fine-tuned": functools.partial(ours, signal=False),
        "plain": plain,
        "gkd": gkd,
    }
    clocks = {name: Clock() for name in ways}
    for _ in range(REPEATS):
        for name, way in list(ways.items()):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    way(Path(folder), clocks[name])
                except ImportError as error:
                    print(f"{name}: {error}")
                    del ways[name]
    return {name: statistics.median(clocks[name].seconds) for name in ways}


def memory(count: int) -> dict[str, int]:
    """What a process that prepares and reads `count` responses takes; the student comes on top, whatever the count."""
    with tempfile.TemporaryDirectory() as place:
        for task in ("write", "read"):
            command = [sys.executable, __file__, task, str(count), place]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(task: str, count: int, place: str) -> None:
    paths.BUILD = Path(place)
    params.Run.explored = False  # type: ignore[assignment,method-assign]
    run, tokenizer = run_of(n_train=count, largest_operand=300), models.tokenizer("embedded")
    if task == "write":
        write(run, tokenizer)
        return
    items = examples.prepare(run, tokenizer).items
    for index in range(len(items)):
        items[index]
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({key: int(lines[key].split()[0]) // 2**10 for key in ("RssAnon", "RssFile")}))


def write(run: params.DistillRun, tokenizer: Any) -> None:
    with artifacts.writing(run.build / "responses" / "none", {}) as aside:
        asked = problems.load(run, "train", run.n_train, seed=run.seed)
        for first in range(0, len(asked), 250):
            rows = [answered(problem, tokenizer) for problem in asked[first : first + 250]]
            store.write_shard(aside / store.shard_name(first), rows, vocabulary=VOCABULARY)
        pd.DataFrame({"kept": [True] * len(asked)}).to_parquet(aside / store.KEPT)


def answered(problem: problems.Problem, tokenizer: Any) -> store.Answered:
    row = example()
    tokens = tokenizer(problem.worked)["input_ids"][:RESPONSE]
    signal = pack(*(row[key][: len(tokens)] for key in engines.Signal._fields))
    response = engines.Response(tokens, tokenizer.decode(tokens), True, signal)
    return store.Answered(problem.id, 0, problem.id, PROMPT, response)


def main() -> None:
    if len(sys.argv) == 4:
        child(sys.argv[1], int(sys.argv[2]), sys.argv[3])
        return
    found = seconds()
    print(found, flush=True)
    taken = {count: memory(count) for count in (1000, 4000)}
    lines = [
        "# The cost of a distillation step",
        "",
        f"`python benchmarks/distill.py`: {BATCH} x ({PROMPT} + {RESPONSE}) tokens, embedded model, bf16, LoRA; "
        f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, transformers "
        f"{transformers.__version__}. Median of {REPEATS} x {STEPS - 1} steps, trainers in turn.",
        "",
        "| trainer | s a step | beside fine-tuned | beside plain |",
        "|---|---|---|---|",
        *(
            f"| {name} | {value:.2f} | {value / found['fine-tuned']:.2f} | {value / found['plain']:.2f} |"
            for name, value in found.items()
        ),
        "",
        "Memory (MiB) of a process that has prepared and read all responses, of its own and of mapped files, which the "
        "system drops when it needs room:",
        "",
        "| responses | own | mapped |",
        "|---|---|---|",
        *(f"| {count:,} | {mib['RssAnon']} | {mib['RssFile']} |" for count, mib in taken.items()),
    ]
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
