"""Downloads: the results as CSV files beside the page; report/_downloads.md says what each of them holds.

Accuracies come with n, the number of seeds and their interval; shares are fractions, differences percentage points.
"""

import shutil
from pathlib import Path

import pandas as pd

from response_priming import attention, paths

FOLDER = "results"
FACTS = "published-results.yaml"  # what was read in the released study
# Written by the stages as they are.
COPIED = {
    "comparison": (
        "accuracy", "lengths", "gains", "rules", "slices", "teacher", "steps", "calibration", "losses", "samples",
        "leakage"
    ),
    "audit": ("published", "rules", "decomposition", "tests", "discrepancies", "cleaned"),
    "claims": ("claims",),
}  # fmt: skip


def write(build: Path, folder: Path) -> None:
    """Write all files into `folder`/results: the tables of build/PROFILE/, and attention's in short."""
    results = folder / FOLDER
    results.mkdir()
    shutil.copyfile(paths.PARAMS / FACTS, results / FACTS)
    for stage, names in COPIED.items():
        for name in names:
            prefix = "audit-" if stage == "audit" else ""
            shutil.copyfile(build / stage / f"{name}.csv", results / f"{prefix}{name}.csv")
    metrics, heads, tests = (
        pd.read_parquet(build / "attention" / f"{name}.parquet") for name in ("metrics", "divergent", "tests")
    )
    size = {"n": metrics["prompt"].nunique(), "seeds": metrics["seed"].nunique()}
    heads = heads.rename(columns={"seeds": "between_seeds"})
    made = {"layers": attention.by_layer(metrics), "heads": heads.assign(**size), "tests": tests.assign(**size)}
    for name, table in made.items():
        table.to_csv(results / f"attention-{name}.csv", index=False)
