"""The results as CSV files beside the page, each with a line that says what it holds.

Accuracies come with n, the number of seeds and their interval; shares are fractions, differences percentage points.
"""

import shutil
from pathlib import Path

import pandas as pd

from response_priming import params, paths, stats
from response_priming.attention.metrics import EVERY

FOLDER = "results"
# Written by the stages as they are: the file, and what a row of it is.
COPIED = {
    "comparison/accuracy": "accuracy of every arm, with its 95 % interval",
    "comparison/gains": "differences between two arms, with their 95 % intervals and tests",
    "comparison/rules": "accuracy of every arm by every extraction rule, with its 95 % interval",
    "comparison/teacher": "the teacher's own accuracy under each strategy, with its 95 % interval",
    "comparison/steps": "whether the calculations in the answers are right, with 95 % intervals",
    "comparison/calibration": "how well the students know when they are right, with 95 % intervals",
    "comparison/losses": "the training losses of every student, step by step",
    "comparison/samples": "what every arm answered to the first test problems",
    "audit/published": "the printed results beside a recount of the released logs",
    "audit/rules": "accuracy of the released responses by every rule, with its 95 % interval",
    "audit/decomposition": "what the released accuracies are made of",
    "audit/tests": "differences between the released arms, with their 95 % intervals and tests",
    "audit/discrepancies": "where the paper, its code and its logs part",
    "claims/claims": "the paper's claims and what is left of them",
}
# Made here, from tables that are too large for a page's side.
ATTENTION = {
    "attention-layers": "attention of every arm by layer, means over heads, seeds and prompts, with 95 % intervals",
    "attention-heads": "the variance of every head's maps across arms",
    "attention-tests": "students of primed teachers against those of the unprimed one",
}


def write(profile: params.Profile, folder: Path) -> str:
    """Write all files into `folder`/results; returns the list of them in Markdown, linked from the page beside it."""
    build, results = paths.BUILD / profile.name, folder / FOLDER
    results.mkdir()
    for source in COPIED:
        shutil.copyfile(build / f"{source}.csv", results / f"{_stem(source)}.csv")
    metrics, heads, tests = (
        pd.read_parquet(build / "attention" / f"{name}.parquet") for name in ("metrics", "divergent", "tests")
    )
    size = {"n": metrics["prompt"].nunique(), "seeds": metrics["seed"].nunique()}
    made = by_layer(metrics), heads.rename(columns={"seeds": "between_seeds"}).assign(**size), tests.assign(**size)
    for name, table in zip(ATTENTION, made, strict=True):
        table.to_csv(results / f"{name}.csv", index=False)
    texts = {_stem(source): text for source, text in COPIED.items()} | ATTENTION
    return "".join(f"- [{name}.csv]({FOLDER}/{name}.csv): {text}\n" for name, text in texts.items())


def _stem(source: str) -> str:
    """`comparison/accuracy` -> `accuracy`, `audit/rules` -> `audit-rules`, `claims/claims` -> `claims`."""
    stage, name = source.split("/")
    return name if stage in ("comparison", name) else f"{stage}-{name}"


def by_layer(metrics: pd.DataFrame) -> pd.DataFrame:
    """Every number of every arm by region and layer: its mean over heads, seeds and prompts, and its 95 % t-interval
    over the `n` prompts."""
    keys = ["region", "arm", "layer"]
    prompts = metrics.groupby([*keys, "prompt"], sort=False)[list(EVERY)].mean().reset_index()
    rows = prompts.melt([*keys, "prompt"], var_name="number").dropna().groupby([*keys, "number"], sort=False)["value"]
    table = rows.agg(n="size", mean="mean", interval=stats.t_interval).reset_index()
    table["low"], table["high"] = zip(*table.pop("interval"), strict=True)
    return table.assign(seeds=table["arm"].map(metrics.groupby("arm")["seed"].nunique()))
