"""What the response store costs: bytes a token, speed of the reader, and memory of the stage by number of problems.

    python benchmarks/store.py        # about three minutes on one core; writes benchmarks/results/store.md

Sizes and speeds are of made-up signals with Llama 3.1's vocabulary: random token ids, which do not compress, and
Zipf-like probabilities whose exponent varies from token to token as those of a language model do. Memory is the peak
resident size of whole processes that run the generate stage with a tiny random model.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from response_priming import artifacts, paths, provenance
from response_priming.engines import Response, pack
from response_priming.generate import store as responses

RESULTS = Path(__file__).with_name("results") / "store.md"
VOCABULARY, K, TOKENS, SHARD, SHARDS, BATCH = 128_256, 64, 200, 64, 8, 8
DENSE_BYTES = 2 * VOCABULARY
REPEATS = 5


def signal(tokens: int, random: np.random.Generator) -> Response:
    """A response of random tokens with a Zipf-like signal over random ids."""
    exponent = random.uniform(0.8, 5.0, (tokens, 1))
    ranked = -exponent * np.log(np.arange(1, 2049)) + random.normal(0, 0.3, (tokens, 2048))
    ranked = -np.sort(-ranked)
    ranked -= np.log(np.exp(ranked).sum(-1, keepdims=True))
    ids = np.stack([random.choice(VOCABULARY, K, replace=False) for _ in range(tokens)])
    tail = np.log(np.exp(ranked[:, K:]).sum(-1))
    return Response(ids[:, 0].tolist(), "word " * tokens, True, pack(ids, ranked[:, :K], tail))


def write(folder: Path) -> float:
    """Write a store of equally long responses; returns the seconds that its shards took."""
    random = np.random.default_rng(0)
    seconds = 0.0
    with artifacts.writing(folder, {}) as aside:
        for first in range(0, SHARDS * SHARD, SHARD):
            rows = [
                responses.Answered(f"train-{first + n}", 0, f"{first + n:032x}", 100, signal(TOKENS, random))
                for n in range(SHARD)
            ]
            start = time.perf_counter()
            responses.write_shard(aside / responses.shard_name(first), rows, vocabulary=VOCABULARY)
            seconds += time.perf_counter() - start
        pd.DataFrame({"kept": [True] * SHARDS * SHARD}).to_parquet(aside / responses.KEPT)
    return seconds


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The signals of rows as a batch, padded on the right to its longest response."""
    flat = {name: [torch.from_numpy(row[name]).float() for row in rows] for name in responses.SIGNAL}
    return {name: torch.nn.utils.rnn.pad_sequence(values, batch_first=True) for name, values in flat.items()}


def reading(folder: Path) -> list[float]:
    """Tokens a second into padded batches of rows in random order, once for each repeat."""
    data = responses.dataset(folder)
    speeds = []
    for repeat in range(REPEATS):
        order = np.random.default_rng(repeat).permutation(len(data))
        start = time.perf_counter()
        for at in range(0, len(order), BATCH):
            padded(data.__getitems__(order[at : at + BATCH].tolist()))
        speeds.append(len(data) * TOKENS / (time.perf_counter() - start))
    return speeds


def peak_of_stage(model: Path, problems: int) -> float:
    """Peak resident memory (MiB) of a process that generates for so many problems."""
    with tempfile.TemporaryDirectory() as build:
        command = [sys.executable, __file__, "stage", str(model), build, str(problems)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(output.splitlines()[-1]))


def stage(model: str, build: str, problems: int) -> None:
    """What such a process does."""
    from response_priming import params
    from response_priming.generate import teacher

    torch.set_num_threads(1)
    paths.BUILD = Path(build)
    params.Run.explored = False  # type: ignore[method-assign, assignment]
    profile = params.load("laptop").run("generate", strategy="none").model_dump()
    sizes = {"n_train": problems, "largest_operand": 200, "worked_examples": 0, "response_tokens": 4}
    run = params.GenerateRun.model_validate(
        profile | sizes | {"teacher": model, "student": model, "dtype": "float32", "device": "cpu"}
    )
    teacher.respond(run)
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    import tiny

    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store"
        wrote = write(store)
        total = SHARDS * SHARD * TOKENS
        size = sum(shard.stat().st_size for shard in store.glob("shard-*")) / total
        speeds = reading(store)
        model = tiny.save_model(Path(scratch) / "model")
        peaks = {problems: [peak_of_stage(model, problems) for _ in range(3)] for problems in (1000, 4000)}
    few, many = (statistics.median(values) for values in peaks.values())
    made = provenance.here()
    versions = ", ".join(
        f"{name} {version}" for name, version in {**made["packages"], "pyarrow": pa.__version__}.items()
    )
    speed = f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})"
    growth = f"{many:.0f} ({100 * (many / few - 1):+.1f} %)"
    RESULTS.write_text(
        f"""# The response store

`python benchmarks/store.py`; {made["machine"]}, one core used; Python {made["python"]}; {versions}.

| what | measured | wanted |
|---|---|---|
| bytes a token on disk, k = {K}, vocabulary {VOCABULARY:,}, everything included | {size:.0f} | at most 400 |
| times smaller than dense bf16 ({DENSE_BYTES:,} bytes a token) | {DENSE_BYTES / size:.0f} | at least 650 |
| writing shards (tokens/s) | {total / wrote:,.0f} | |
| reading padded batches of {BATCH} rows in random order (tokens/s), median of {REPEATS} | {speed} | at least 50,000 |
| peak memory of `generate`, 1,000 problems, median of 3 (MiB) | {few:.0f} | |
| peak memory of `generate`, 4,000 problems, median of 3 (MiB) | {growth} | within 5 % |

Sizes and speeds: {total:,} tokens in {SHARDS} shards, random ids, Zipf-like probabilities (exponents 0.8 to 5). The
reader is `store.dataset`. Memory: a tiny random model, so that the stage and not the
weights would show; peak resident size of the whole process.
""",
        encoding="utf-8",
    )
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["stage"]:
        stage(*sys.argv[2:4], int(sys.argv[4]))
    else:
        main()
