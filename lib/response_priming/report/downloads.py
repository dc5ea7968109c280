"""Downloads: the results as CSV files beside the page; report/_downloads.md says what each of them holds.

Accuracies come with n, the number of seeds and their interval; shares are fractions, differences percentage points.
"""

import shutil
from pathlib import Path

import pandas as pd

from response_priming import params, paths, stats
from response_priming.attention.results import EVERY

FOLDER = "results"
# Written by the stages as they are.
COPIED = {
    "comparison": ("accuracy", "gains", "rules", "teacher", "steps", "calibration", "losses", "samples"),
    "audit": ("published", "rules", "decomposition", "tests", "discrepancies"),
    "claims": ("claims",),
}


def write(profile: params.Profile, folder: Path) -> None:
    """Write all files into `folder`/results: the stages' tables, and attention's, which are too large, in short."""
    build, results = paths.BUILD / profile.name, folder / FOLDER
    results.mkdir()
    for stage, names in COPIED.items():
        for name in names:
            prefix = "audit-" if stage == "audit" else ""
            shutil.copyfile(build / stage / f"{name}.csv", results / f"{prefix}{name}.csv")
    metrics, heads, tests = (
        pd.read_parquet(build / "attention" / f"{name}.parquet") for name in ("metrics", "divergent", "tests")
    )
    size = {"n": metrics["prompt"].nunique(), "seeds": metrics["seed"].nunique()}
    made = {"layers": by_layer(metrics), "heads": heads.rename(columns={"seeds": "between_seeds"}).assign(**size)}
    for name, table in (made | {"tests": tests.assign(**size)}).items():
        table.to_csv(results / f"attention-{name}.csv", index=False)


def by_layer(metrics: pd.DataFrame) -> pd.DataFrame:
    """Every number of every arm by region and layer: its mean over heads, seeds and prompts, and its 95 % t-interval
    over the `n` prompts."""
    keys = ["region", "arm", "layer"]
    prompts = metrics.groupby([*keys, "prompt"], sort=False)[list(EVERY)].mean().reset_index()
    rows = prompts.melt([*keys, "prompt"], var_name="number").dropna().groupby([*keys, "number"], sort=False)["value"]
    table = rows.agg(n="size", mean="mean", interval=stats.t_interval).reset_index()
    table["low"], table["high"] = zip(*table.pop("interval"), strict=True)
    return table.assign(seeds=table["arm"].map(metrics.groupby("arm")["seed"].nunique()))
