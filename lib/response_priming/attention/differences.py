"""Differences between arms in the numbers of all heads, with a permutation test; means, and a summary.

`metrics` is always the table of `results.Analysis`. Arms are means over their seeds.
"""

from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd

from response_priming import arms, artifacts, stats
from response_priming.attention.results import EVERY, PAPER

if TYPE_CHECKING:
    from response_priming import params

HEAD = ["prompt", "region", "layer", "head"]
TESTED = ["region", "metric", "unprimed", "difference", "low", "high", "p_prompts", "p_holm", "p_students"]


def against(metrics: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The numbers minus the reference arm's for the same prompt, region, layer and head; its own are then around 0."""
    values = metrics.set_index([*HEAD, "arm", "seed"])[list(EVERY)]
    return values.sub(values.xs(reference, level="arm").groupby(HEAD).mean()).reset_index()


def primed(metrics: pd.DataFrame, names: list[str], *, seed: int) -> pd.DataFrame:
    """Do the students of primed teachers differ from the unprimed one? A row a region and number.

    A student's value on a prompt is its mean over layers and heads. `unprimed`: the unprimed students' mean;
    `difference`: primed minus unprimed, with `low` and `high`, its 95 % t-interval over prompts.

    `p_prompts`, and `p_holm` corrected for all rows: within each prompt the two labels are exchanged at random. What is
    permuted are prompts, so a small p says that *these* students read such prompts differently, and any two networks
    do with prompts enough; it says nothing of what another training run would give. `p_students` permutes what the
    claim is about, the label of each trained student, and is NaN with fewer than two seeds: no test can tell then.
    Both are two-sided permutation tests (Ernst 2004), exact up to 9,999 permutations. NaN for a single prompt.

    The table is empty where the run lacks the unprimed arm or any primed one.
    """
    groups = {"unprimed": [arms.UNPRIMED], "primed": [arm for arm in names if arms.is_primed(arm)]}
    if arms.UNPRIMED not in names or not groups["primed"]:
        return pd.DataFrame(columns=TESTED).astype(dict.fromkeys(TESTED[2:], float))
    means = metrics.groupby(["region", "arm", "seed", "prompt"], sort=False)[list(EVERY)].mean()
    rows = []
    for (region, table), metric in product(means.groupby("region", sort=False), EVERY):
        values = table[metric].unstack("prompt")  # [students, prompts]
        arm = values.index.get_level_values("arm")
        new, old = (values[arm.isin(groups[name])].to_numpy() for name in ("primed", "unprimed"))
        by_prompt = new.mean(axis=0) - old.mean(axis=0)
        # Differences and values around zero: else rounding, large beside a small difference, would decide on ties.
        by_student = new.mean(axis=1) - old.mean(), old.mean(axis=1) - old.mean()
        p_prompts = stats.permuted((by_prompt,), "samples", seed)
        p_students = stats.permuted(by_student, "independent", seed)
        found = float(old.mean()), float(by_prompt.mean()), *stats.t_interval(by_prompt), p_prompts, p_students
        rows.append((region, metric, *found))
    tests = pd.DataFrame(rows, columns=[name for name in TESTED if name != "p_holm"])
    return tests.assign(p_holm=stats.holm(tests["p_prompts"]))[TESTED]


def means(metrics: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Means over seeds, prompts, layers and heads, a row a region and arm; beside them the published ones, NaN where
    there is none."""
    table = metrics.groupby(["region", "arm"])[list(EVERY)].mean()
    regions = list(dict.fromkeys(metrics["region"]))
    table = table.reindex(pd.MultiIndex.from_product([regions, names], names=["region", "arm"])).rename(columns=EVERY)
    for metric, values in arms.published().get("attention", {}).items():
        # The released analysis reads prompts alone.
        printed = pd.Series({("prompt", arm): value for arm, value in values.items()}, dtype=float)
        table[f"{PAPER[metric]}, published"] = printed.reindex(table.index)
    return table.rename(index=arms.title, level="arm").rename_axis(["Region", "Student"]).reset_index()


def by_layer(metrics: pd.DataFrame) -> pd.DataFrame:
    """Every number of every arm by region and layer: its mean over heads, seeds and prompts, and its 95 % t-interval
    over the `n` prompts."""
    keys = ["region", "arm", "layer"]
    prompts = metrics.groupby([*keys, "prompt"], sort=False)[list(EVERY)].mean().reset_index()
    rows = prompts.melt([*keys, "prompt"], var_name="number").dropna().groupby([*keys, "number"], sort=False)["value"]
    table = rows.agg(n="size", mean="mean", interval=stats.t_interval).reset_index()
    table["low"], table["high"] = zip(*table.pop("interval"), strict=True)
    return table.assign(seeds=table["arm"].map(metrics.groupby("arm")["seed"].nunique()))


def with_accuracy(run: "params.AttentionRun", metrics: pd.DataFrame, heads: pd.DataFrame) -> pd.DataFrame:
    """For every student and each of `heads` (columns layer and head): its accuracy, and how far it moved the head.

    Columns: arm, seed, accuracy (a fraction), layer, head, and for each number the change against the first arm, mean
    over prompts, in the last region that was read.

    Raises:
        InputError: a student is not scored yet.
    """
    last = metrics[metrics["region"] == metrics["region"].iloc[-1]].merge(heads[["layer", "head"]])
    changes = against(last, run.arms[0])
    changes = changes.groupby(["arm", "seed", "layer", "head"], sort=False)[list(EVERY)].mean().reset_index()
    scored = []
    for arm, seed in changes[["arm", "seed"]].drop_duplicates().itertuples(index=False):
        folder = run.scores_of(arm, seed)
        artifacts.read(folder)
        right = pd.read_parquet(folder / "answers.parquet")[f"{run.rule}-correct"]
        scored.append((arm, seed, float(right.mean())))
    return changes.merge(pd.DataFrame(scored, columns=["arm", "seed", "accuracy"]))


def summary(metrics: pd.DataFrame, divergent: pd.DataFrame, tests: pd.DataFrame) -> dict[str, Any]:
    """What the manuscript says of attention, in numbers; tables are those of `results.Analysis`.

    `prompts`, `layers`, `heads`: how many were read. `region`: the last one, of which are `sink`, every arm's share of
    the first token, and `change`: which of the paper's numbers moved furthest from the undistilled student's, in which
    arm, and by which share of it (None without that student or another). `divergent`: layer and head that differ most.
    `tests`, `students`: the known p over prompts, corrected, and over students; of the former, `differing` are small.
    """
    region = str(metrics["region"].iloc[-1])
    by_arm = metrics[metrics["region"] == region].groupby("arm")[list(EVERY)].mean()
    known, change = tests["p_holm"].dropna(), None
    if arms.UNDISTILLED in by_arm.index and len(by_arm) > 1:
        moved = (by_arm / by_arm.loc[arms.UNDISTILLED] - 1)[list(PAPER)].drop(index=arms.UNDISTILLED)
        metric = str(moved.abs().max().idxmax())
        arm = str(moved[metric].abs().idxmax())
        name = PAPER[metric].partition(" (")[0].lower()
        change = {"metric": name, "arm": arm, "share": moved[metric].to_dict()[arm]}
    return {
        **{f"{name}s": metrics[name].nunique() for name in ("prompt", "layer", "head")},
        "region": region,
        "sink": list(by_arm["sink"]),
        "change": change,
        "divergent": divergent[["layer", "head"]].iloc[0].to_dict(),
        "tests": list(known),
        "differing": int((known < stats.SIGNIFICANT).sum()),
        "students": list(tests["p_students"].dropna()),
    }
