"""How generation over replicas scales: one and two workers here, a model of it, and what that says of 8 to 512 GPUs.

    python benchmarks/scaling.py        # about ten minutes on two cores; writes results/scaling.md

A batch takes a replica `work` seconds. Of the driver it takes `share` seconds, to send it, take it in and write it
down. With W replicas n batches then take

    max(ceil(n / W) * (work + wait), n * share),

where `wait` is what a replica loses between two batches. `work` is measured in this process, `share` and `wait` with
replicas that answer at once, or sleep for a known time, with signals as large as a real model's. The fit is checked
against one and two replicas of the real model.

For a cluster `work` is what `make cost` says of profile paper on H100s, since no such machine was at hand; `share`
grows with the tokens of a response. Assumed: nodes are alike, the network is never full, nothing dies.
"""

import argparse
import importlib.metadata
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import torch

from response_priming import engines, models, params, provenance
from response_priming.engines.base import Request, pack
from response_priming.engines.ray import RayEngine
from response_priming.generate.store import Answered, write_shard
from response_priming.machines import cost

RESULTS = Path(__file__).with_name("results") / "scaling.md"
BATCH, TOKENS, K, VOCABULARY = 16, 32, 64, 49152
GPUS = (8, 64, 512)


class Sleeper(engines.Engine):
    """Answers a batch after so many milliseconds (`batch` of the setup), with a signal of a real one's size."""

    context, vocabulary = None, VOCABULARY

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        draw = np.random.default_rng(0)
        tops = -np.sort(draw.exponential(size=(TOKENS, K)))
        self.signal = pack(draw.integers(0, VOCABULARY, (TOKENS, K)), tops, np.full(TOKENS, -3.0))

    @classmethod
    def open(cls, setup: engines.Setup) -> "Sleeper":
        """See `Engine.open`."""
        return cls(setup.batch / 1000)

    def describe(self) -> dict[str, object]:
        """See `Engine.describe`."""
        return {}

    def fulfil(self, request: Request) -> Iterator[tuple[int, engines.Response]]:
        """See `Engine.fulfil`."""
        time.sleep(self.seconds)
        for index in range(len(request.prompts)):
            yield index, engines.Response([1] * TOKENS, "x" * 80, True, self.signal, np.zeros(TOKENS, np.float16))

    def score(self, *_: object, **__: object) -> Iterator[tuple[int, engines.Signal]]:
        """See `Engine.score`."""
        raise NotImplementedError


def batches(count: int, prompts: list[list[int]]) -> Iterator[Request]:
    """So many requests."""
    for number in range(count):
        some = [prompts[(number * BATCH + place) % len(prompts)] for place in range(BATCH)]
        yield Request(some, TOKENS, K, 0.0, number)


def written(engine: engines.Engine, requests: Iterator[Request], folder: Path) -> tuple[float, float, int]:
    """Seconds and the driver's CPU seconds of answering and writing them all, and its memory at the end (bytes)."""
    begun, process = time.monotonic(), psutil.Process()
    used, waiting = sum(process.cpu_times()[:2]), dict[int, list[Answered]]()
    for number, index, response in engine.respond_to(requests):
        rows = waiting.setdefault(number, [])
        rows.append(Answered(f"{number}-{index}", 0, str(index), 200, response))
        if len(rows) == BATCH:
            write_shard(folder / f"{number}.parquet", waiting.pop(number), vocabulary=VOCABULARY)
    took = time.monotonic() - begun
    return took, sum(process.cpu_times()[:2]) - used, process.memory_info().rss


def run_of(count: int, engine: engines.Engine, prompts: list[list[int]]) -> tuple[float, float, int]:
    """See `written`; into a folder that goes."""
    with tempfile.TemporaryDirectory() as folder:
        return written(engine, batches(count, prompts), Path(folder))


def spread(kind: type[engines.Engine], replicas: int, **how: int) -> RayEngine:
    """Replicas of an engine with the embedded model's setup, all of them open."""
    setup = engines.Setup("embedded", dtype="float32", device="cpu", replicas=replicas, **how)
    engine = RayEngine.of(kind, setup)
    while any(seat.about is None for seat in engine.replicas.seats):
        for seat in engine.replicas._ready():
            list(engine.replicas._take(seat))
    return engine


def predicted(count: int, replicas: int, work: float, wait: float, share: float) -> tuple[float, str]:
    """Seconds of so many batches, and what they wait for."""
    answering, driver = math.ceil(count / replicas) * (work + wait), count * share
    rounds = f"{count / replicas:.1f} batches a replica"
    return max(answering, driver), "the driver" if driver > answering else rounds


def measure(count: int, times: int) -> dict[str, list[float]]:
    """Seconds a batch, several times: `work` in this process, `one` and `two` replicas of the real model; `share` of
    the driver's CPU, and `wait` of a replica that sleeps."""
    import ray

    prompts = [[1, *range(100, 299)]] * BATCH
    found: dict[str, list[float]] = {name: [] for name in ("work", "one", "two", "share", "wait")}
    kind, setup = engines.require("transformers"), engines.Setup("embedded", dtype="float32", device="cpu", batch=BATCH)
    alone = kind.open(setup)
    fast, slow = spread(Sleeper, 1, batch=0), 0.5
    for _ in range(times):
        found["work"].append(run_of(count, alone, prompts)[0] / count)
        many = 40
        found["share"].append(run_of(many, fast, prompts)[1] / many)
    ray.shutdown()
    sleeping = spread(Sleeper, 1, batch=int(1000 * slow))
    for _ in range(times):
        found["wait"].append(run_of(10, sleeping, prompts)[0] / 10 - slow)
    ray.shutdown()
    for name, replicas in (("one", 1), ("two", 2)):
        real = spread(kind, replicas, batch=BATCH)
        found[name] += [run_of(count, real, prompts)[0] / count for _ in range(times)]
        ray.shutdown()
    return found


def cluster(share: float, wait: float) -> list[str]:
    """Lines of the table for the paper's teacher on 8 to 512 GPUs."""
    profile = params.load("paper")
    stage = next(one for one in cost.estimate(profile, "h100").stages if one.name == "generate")
    size = profile.generate.generate_batch
    count = math.ceil(stage.items / size)
    each = profile.generate.tensor_parallel * profile.generate.pipeline_parallel
    lines = []
    for gpus in GPUS:
        for work, tokens in zip((second / count for second in stage.seconds), stage.written, strict=True):
            taken = share / (BATCH * TOKENS) * size * tokens / stage.items
            seconds, waits = predicted(count, gpus // each, work, wait, taken)
            ideal = count * work / (gpus // each)
            cells = (
                f"{gpus}",
                f"{gpus // each}",
                f"{work:,.0f} s",
                f"{1000 * taken:,.0f} ms",
                f"{seconds / 3600:,.2f} h",
            )
            lines.append(f"| {' | '.join([*cells, f'{100 * ideal / seconds:.0f} %', waits])} |")
    return lines


def main(count: int, times: int) -> None:
    """Measure, fit, predict, and write the page."""
    torch.set_num_threads(1)
    models.tokenizer("embedded")
    measured = measure(count, times)
    middle = {name: statistics.median(values) for name, values in measured.items()}
    work, wait, share = middle["work"], middle["wait"], middle["share"]
    lines = [
        "# How generation over replicas scales",
        "",
        f"`python benchmarks/scaling.py --count {count} --times {times}`; {provenance.here()['machine']}; Ray "
        f"{importlib.metadata.version('ray')}; batches of {BATCH} problems, {TOKENS} tokens each, top {K}.",
        "",
        "| measured, seconds a batch | median | all |",
        "|---|---|---|",
        *(
            f"| {name} | {middle[name]:.3f} | {', '.join(f'{one:.3f}' for one in measured[name])} |"
            for name in measured
        ),
        "",
        f"One replica takes {middle['one'] / work:.2f} times this process; two are {middle['one'] / middle['two']:.2f} "
        f"times as fast as one. By the model: {(work + wait) / work:.2f} and "
        f"{predicted(count, 1, work, wait, share)[0] / predicted(count, 2, work, wait, share)[0]:.2f}.",
        "",
        "What it says of profile `paper` on H100s, by the lower and the upper end of `make cost`:",
        "",
        "| GPUs | replicas | a batch | of it the driver | all batches | of ideal | what it waits for |",
        "|---|---|---|---|---|---|---|",
        *cluster(share, wait),
        "",
        "Assumed: nodes are alike, the network is never full, nothing dies; the driver writes one batch after the "
        "other, and its part grows with tokens.",
        "",
    ]
    RESULTS.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12, help="batches")
    parser.add_argument("--times", type=int, default=3)
    main(**vars(parser.parse_args()))
