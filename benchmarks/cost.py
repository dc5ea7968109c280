"""What `make cost` says, beside what finished runs took.

    python benchmarks/cost.py build/laptop build/laptop-full    # seconds; writes benchmarks/results/cost.md

Of each run results/compute.csv of its page is read: processors' seconds, and tokens, stage by stage. Notebooks run on a
thread each, so hours of the estimate are hours of a processor. What a CPU reaches was chosen by these very runs.
"""

import sys
from pathlib import Path

import pandas as pd

from response_priming import params, provenance
from response_priming.machines import cost

RESULTS = Path(__file__).with_name("results")


def rows(build: Path) -> list[str]:
    """A line of the table for each stage of a finished run."""
    took = pd.read_csv(build / "report" / "results" / "compute.csv").set_index("stage")
    lines = []
    for stage in cost.estimate(params.load(build.name), None).stages:
        low, high = stage.seconds
        seconds, tokens = took["cpu_seconds"][stage.name], took["tokens_read"][stage.name]
        read = f"{stage.read:,.0f} / {tokens:,.0f}" if pd.notna(tokens) else ""
        cells = [build.name, stage.name, f"{low:,.0f} to {high:,.0f}", f"{seconds:,.0f}", read]
        lines.append("| " + " | ".join([*cells, "yes" if low <= seconds <= high else "no"]) + " |")
    return lines


def main(builds: list[Path]) -> None:
    """Print the table and write it."""
    made = provenance.here()
    head = ["run", "stage", "estimate (s)", "took (CPU s)", "tokens of prompts, estimate / counted", "inside"]
    lines = [
        "# The price before the run, and what it was",
        "",
        f"`python benchmarks/cost.py`; {made['machine']}; float32.",
        "",
    ]
    lines += [
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
        *(line for build in builds for line in rows(build)),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    (RESULTS / "cost.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
