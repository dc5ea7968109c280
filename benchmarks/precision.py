"""bfloat16 against float32 on this CPU: matrix products of the embedded model, and a training step of profile laptop.

    python benchmarks/precision.py         # writes results/precision.json

One thread, as when two notebooks share two cores. The two precisions take turns; a figure is the median of the repeats,
in seconds of the processor, and a ratio is bfloat16's over float32's. `dtype: auto` rests on it (see `hardware`).
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from response_priming import params, provenance
from response_priming.methods import examples, losses, student

RESULTS = Path(__file__).parent / "results" / "precision.json"
REPEATS = 7
# Rows of a batch, and what a layer reads and writes: in training, in decoding, and at the output layer.
SHAPES = [(552, 576, 1536), (552, 1536, 576), (64, 576, 1536), (64, 576, 49152)]
KINDS = ("float32", "bfloat16")


def median_seconds(works: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Processor seconds of each piece of work; they take turns, after a warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(REPEATS + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            if repeat:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def products(rows: int, read: int, written: int) -> dict[str, Any]:
    """Speed of a product with a layer's weights, in GFLOP/s."""
    operands = {
        kind: (
            torch.randn(rows, read, dtype=getattr(torch, kind)),
            torch.randn(written, read, dtype=getattr(torch, kind)),
        )
        for kind in KINDS
    }
    seconds = median_seconds({kind: lambda pair=pair: pair[0] @ pair[1].T for kind, pair in operands.items()})  # type: ignore[misc]
    speeds = {kind: round(2 * rows * read * written / taken / 1e9, 1) for kind, taken in seconds.items()}
    return {"shape": [rows, read, written], **speeds, "ratio": round(seconds["bfloat16"] / seconds["float32"], 2)}


def step_of(dtype: str) -> Callable[[], None]:
    """A forward and a backward pass of arm fine-tuned over eight solutions."""
    run = params.load("laptop").run("distill", arm="fine-tuned")
    run = params.DistillRun.model_validate(run.model_dump() | {"dtype": dtype, "device": "cpu"})
    model, tokenizer = student.load(run)
    data = examples.prepare(run, tokenizer)
    items = list(itertools.chain(*(data.items[place] for place in range(run.micro_batch))))
    batch = examples.collate(items, int(tokenizer.pad_token_id))
    del batch["problem_ids"]
    tokens = (batch["labels"] != losses.IGNORED).sum()

    def step() -> None:
        model.train()(**batch, objective=run, hard_tokens=tokens).total.backward()

    return step


def main() -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    step = median_seconds({kind: step_of(kind) for kind in KINDS})
    has = torch.cpu.get_capabilities()
    made = provenance.here()
    found = {
        "products_gflops": [products(*shape) for shape in SHAPES],
        "training_step_seconds": {kind: round(seconds, 2) for kind, seconds in step.items()},
        "training_step_ratio": round(step["bfloat16"] / step["float32"], 2),
        "cpu": has.get("cpu_name", has["architecture"]),
        "used": torch.backends.cpu.get_cpu_capability(),
        "units": sorted(unit for unit in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "bf16") if has.get(unit)),
        "repeats": REPEATS,
        **{key: made[key] for key in ("machine", "python", "packages")},
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
