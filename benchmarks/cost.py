"""What `make cost` says, beside what finished runs took, and short ones beside what it says once it has measured here.

    OMP_NUM_THREADS=1 python benchmarks/cost.py --settings      # an hour; adds to results/cost.json
    python benchmarks/cost.py build/laptop build/laptop-full    # seconds; writes results/cost.md, that file included

Of each run results/compute.csv of its page is read: processors' seconds, and tokens, stage by stage. Notebooks run on a
thread each, so hours of the estimate are hours of a processor. What a CPU reaches was chosen by these very runs.

Each setting is a profile in a copy of the project. A sample of it is measured, then its notebook is executed, and the
seconds of all processors are those that the plan keeps for the notebook: its start, its figures and all.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import times
import yaml

from response_priming import params, paths, provenance
from response_priming.machines import calibration, cost

RESULTS = Path(__file__).with_name("results")
MEASURED = RESULTS / "cost.json"
TAUGHT = {"arms": ["none"], "problems": {"n_train": 64}}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "as laptop": ("generate-none", TAUGHT | {"problems": {"n_train": 128}}),
    "generate_batch 8": ("generate-none", TAUGHT | {"generate": {"generate_batch": 8}}),
    "no worked examples": ("generate-none", TAUGHT | {"generate": {"worked_examples": 0}}),
    "12 steps": ("distill-none", TAUGHT | {"distill": {"train_steps": 12}}),
    "12 steps, micro_batch 4": ("distill-none", TAUGHT | {"distill": {"train_steps": 12, "micro_batch": 4}}),
    "8 steps, gradient_checkpointing": (
        "distill-none",
        TAUGHT | {"distill": {"train_steps": 8, "gradient_checkpointing": True}},
    ),
    "8 steps, adapter full": (
        "distill-none",
        TAUGHT | {"distill": {"train_steps": 8, "adapter": "full", "learning_rate": 1.0e-5}},
    ),
    "as laptop, 64 problems": ("evaluate-undistilled", {"arms": ["undistilled"], "problems": {"n_test": 64}}),
    "evaluate_batch 8": (
        "evaluate-undistilled",
        {"arms": ["undistilled"], "problems": {"n_test": 48}, "evaluate": {"evaluate_batch": 8}},
    ),
}


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


def measure(folder: Path) -> None:
    """Of each setting the estimate, once a sample is measured, and what its notebook then took (seconds).

    Rows that are in results/cost.json already stay.
    """
    paths.PARAMS, paths.BUILD = folder / "params", folder / "build"
    found = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else []
    for place, (name, (node, content)) in enumerate(SETTINGS.items()):
        stage = node.partition("-")[0]
        if (stage, name) in {(row["stage"], row["setting"]) for row in found}:
            continue
        # A folder of its own, so that no responses are there, but those that students learn from.
        own = "setting-distill" if stage == "distill" else f"setting-{place}"
        (paths.PARAMS / f"{own}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        profile = params.load(own)
        if stage == "distill":
            run(folder, "generate-none", own)
            # Of parameters that change no result a student would be found, and not trained.
            shutil.rmtree(paths.BUILD / own / "students", ignore_errors=True)
        sample = calibration.measure(profile)
        low, high = sample.seconds(profile, stage) or (0.0, 0.0)
        row = {"stage": stage, "setting": name, "low": round(low, 1), "high": round(high, 1)}
        found.append(row | {"took": run(folder, node, own), "on": sample.on})
        MEASURED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(line(found[-1]), flush=True)


def run(folder: Path, node: str, profile: str) -> float:
    """Execute a notebook in the copy; the seconds of all processors that it took."""
    command = [sys.executable, "-m", "response_priming", "run", node, "--profile", profile]
    environment = os.environ | {"PYTHONPATH": str(folder / "lib")}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return float(json.loads((paths.BUILD / profile / "plan" / f"{node}.json").read_text())["took"]["cpu_seconds"])


def line(row: dict[str, Any]) -> str:
    """A line of the table of settings."""
    middle = (row["low"] + row["high"]) / 2
    inside = "yes" if row["low"] <= row["took"] <= row["high"] else "no"
    seconds = f"{middle:,.0f} ({row['low']:,.0f} to {row['high']:,.0f})"
    cells = [
        row["stage"],
        row["setting"],
        seconds,
        f"{row['took']:,.0f}",
        f"{100 * (middle / row['took'] - 1):+.0f} %",
        inside,
    ]
    return "| " + " | ".join(cells) + " |"


def table(head: list[str], lines: list[str]) -> list[str]:
    """A table in Markdown."""
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *lines, ""]


def main(builds: list[Path]) -> None:
    """Print the tables and write them."""
    made, settings = provenance.here(), json.loads(MEASURED.read_text(encoding="utf-8"))
    head = ["run", "stage", "estimate (s)", "took (CPU s)", "tokens of prompts, estimate / counted", "inside"]
    lines = ["# The price before the run, and what it was", ""]
    lines += [f"`python benchmarks/cost.py`; {made['machine']}; float32.", ""]
    lines += table(head, [each for build in builds for each in rows(build)])
    lines += [f"`python benchmarks/cost.py --settings`, measured before each run; {settings[0]['on']}; float32.", ""]
    lines += table(["stage", "setting", "estimate (s)", "took (CPU s)", "off by", "inside"], [*map(line, settings)])
    text = "\n".join(lines[:-1]) + "\n"
    print(text)
    (RESULTS / "cost.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--settings"]:
        with tempfile.TemporaryDirectory() as place:
            times.copy_to(Path(place))
            measure(Path(place))
    else:
        main([Path(argument) for argument in sys.argv[1:]])
