"""What engine `ray` gains and costs: two workers against one, its overhead, and the driver's memory.

    python benchmarks/cluster.py [PROBLEMS]     # 1000 by default: about 45 minutes on two cores

Each row is a process of its own that runs the generate stage with the laptop profile's values from an empty folder, and
is confined to so many cores with all that it starts. `alone` is engine transformers in the process, with one thread, as
each replica has. Rows `ruled` have replicas that compute nothing, so that what grows is the driver's. Clocks begin when
the libraries are imported, and end with the stage. Writes benchmarks/results/cluster.md, and says whether all shards
are the same.
"""

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from response_priming import provenance

RESULTS = Path(__file__).parent / "results" / "cluster.md"
COLUMNS = ("row", "problems", "cores", "clock (s)", "of it asking (s)", "CPU (s)", "driver's peak (MiB)")


def ruled() -> Any:
    """An engine that answers at once, with as much as the embedded model would give."""
    import numpy as np

    from response_priming import engines

    class Ruled(engines.Engine):
        vocabulary, context = 49152, 8192

        @classmethod
        def open(cls, setup: engines.Setup) -> "Ruled":  # noqa: ARG003
            return cls()

        def describe(self) -> dict[str, Any]:
            return {"engine": "ruled"}

        def fulfil(self, request: Any) -> Iterator[tuple[int, engines.Response]]:
            shape = (request.max_tokens, request.top_k)
            ids, some = np.random.default_rng(0).integers(0, self.vocabulary, shape), np.full(shape, -5.0)
            signal = engines.pack(ids, some, some[:, 0])
            for index in range(len(request.prompts)):
                yield index, engines.Response(ids[:, 0].tolist(), "3 + 4 = 7", True, signal, signal.tail_logprobs)

        def score(self, sequences: Sequence[list[int]], *, top_k: int) -> Iterator[tuple[int, engines.Signal]]:
            raise NotImplementedError

    return Ruled


def measure(row: str, problems: int, cores: int) -> dict[str, Any]:
    """One run in this process."""
    os.sched_setaffinity(0, range(cores))
    import psutil
    import torch

    from response_priming import artifacts, generate, params, paths
    from response_priming.engines import base
    from response_priming.engines import ray as cluster

    torch.set_num_threads(1)
    begun, asking = time.monotonic(), [0.0]
    kind = ruled() if row == "ruled" else None
    opened = base.open_engine

    def noticing(name: str, setup: base.Setup) -> base.Engine:
        engine = cluster.RayEngine.of(kind, setup) if kind else opened(name, setup)
        asking[0] = time.monotonic()
        return engine

    generate_engines = sys.modules["response_priming.engines"]
    generate_engines.open_engine = noticing  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as scratch:
        paths.BUILD = Path(scratch)
        run = params.load("laptop").run("generate", strategy="none")
        changed = {"n_train": problems, "engine": "transformers" if row == "alone" else "ray", "replicas": cores}
        run = type(run).model_validate(run.model_dump() | changed)
        generate.respond(run)
        ended = time.monotonic()
        shards = json.dumps(artifacts.read(run.folders[0].path)["outputs"], sort_keys=True)
    me = psutil.Process()
    cpu = sum(sum(one.cpu_times()[:2]) for one in (me, *me.children(recursive=True)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    numbers = [round(ended - begun, 1), round(ended - asking[0], 1), round(cpu, 1), round(peak)]
    return {"row": [row, problems, cores, *numbers], "shards": hashlib.sha256(shards.encode()).hexdigest()[:12]}


def main(problems: int) -> None:
    wanted = [("alone", problems, 1), ("ray", problems, 1), ("ray", problems, 2)]
    wanted += [("ruled", 1000, 2), ("ruled", 10_000, 2)]
    found = []
    for one in wanted:
        command = [sys.executable, __file__, "measure", *map(str, one)]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        found.append(json.loads(said))
        print(found[-1], flush=True)
    alone, one, two, few, many = (entry["row"] for entry in found)
    machine = ", ".join(provenance.here()["hardware"])
    same = len({entry["shards"] for entry in found[:3]}) == 1
    lines = [f"# Engine `ray` on {os.cpu_count()} cores", ""]
    lines += [f"By `python benchmarks/cluster.py {problems}`; {machine}.", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(map(str, entry['row']))} |" for entry in found]
    lines += [
        "",
        f"- Two workers on two cores: {one[3] / two[3]:.2f} times as fast as one on one core by the clock, "
        f"{one[4] / two[4]:.2f} times without what comes before the first request.",
        f"- One worker over the engine in the process, both on one core: {one[3] / alone[3] - 1:+.1%} by the clock "
        f"({one[4] / alone[4] - 1:+.1%} without what comes before), {one[5] / alone[5] - 1:+.1%} of processors.",
        f"- The driver's peak from {few[1]:,} to {many[1]:,} problems: {few[6]:,} to {many[6]:,} MiB.",
        f"- The shards of the first three rows are {'the same, byte for byte' if same else 'NOT the same'}.",
    ]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 1000)
