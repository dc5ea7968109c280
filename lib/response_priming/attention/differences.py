"""What the numbers of all heads come to: differences, a permutation test, the means' table, and the prose.

`metrics` is always the table of `results.Analysis`. Arms are means over their seeds.
"""

from typing import Any

import numpy as np
import pandas as pd
import yaml
from pandas.io.formats.style import Styler
from statsmodels.stats.multitest import multipletests

from response_priming import artifacts, params, paths, stats, style
from response_priming.attention.metrics import EVERY, PAPER

# What the students read after the prompt is the data set's solution.
REGION_TITLES = {"prompt": "Prompt", "response": "Solution"}
HEAD = ["prompt", "region", "layer", "head"]
TESTED = ["region", "metric", "unprimed", "difference", "low", "high", "p_prompts", "p_holm", "p_students"]
TESTS: style.Columns = {
    "region": ("region", None),
    "metric": ("number", None),
    "unprimed": ("unprimed", "{:.4f}"),
    "difference": ("difference", "{:+.4f}"),
    "interval": ("95 % interval", "{}"),
    "p_holm": ("p (prompts)", style.p_value),
    "p_students": ("p (students)", style.p_value),
}


def against(metrics: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The numbers minus the reference arm's for the same prompt, region, layer and head; its own are then around 0."""
    values = metrics.set_index([*HEAD, "arm", "seed"])[list(EVERY)]
    return values.sub(values.xs(reference, level="arm").groupby(HEAD).mean()).reset_index()


def primed(metrics: pd.DataFrame, arms: list[str], *, seed: int) -> pd.DataFrame:
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
    groups = {"unprimed": [params.UNPRIMED], "primed": [arm for arm in arms if params.is_primed(arm)]}
    if params.UNPRIMED not in arms or not groups["primed"]:
        return pd.DataFrame(columns=TESTED).astype(dict.fromkeys(TESTED[2:], float))
    means = metrics.groupby(["region", "arm", "seed", "prompt"], sort=False)[list(EVERY)].mean()
    rows = [
        (region, metric, *_compare(table[metric].unstack("prompt"), groups, seed))
        for region, table in means.groupby("region", sort=False)
        for metric in EVERY
    ]
    table = pd.DataFrame(rows, columns=[name for name in TESTED if name != "p_holm"])
    known = table["p_prompts"].notna()
    table["p_holm"] = np.nan
    if known.any():
        table.loc[known, "p_holm"] = multipletests(table.loc[known, "p_prompts"], method="holm")[1]
    return table[TESTED]


def _compare(values: pd.DataFrame, groups: dict[str, list[str]], seed: int) -> tuple[float, ...]:
    """The numbers of one row of `primed`, from values [students, prompts]."""
    arm = values.index.get_level_values("arm")
    new, old = (values[arm.isin(groups[name])].to_numpy() for name in ("primed", "unprimed"))
    by_prompt = new.mean(axis=0) - old.mean(axis=0)
    # Differences and values around zero: else rounding, large beside a small difference, would decide on ties.
    by_student = new.mean(axis=1) - old.mean(), old.mean(axis=1) - old.mean()
    p_prompts, p_students = (
        stats.permuted((by_prompt,), "samples", seed),
        stats.permuted(by_student, "independent", seed),
    )
    return float(old.mean()), float(by_prompt.mean()), *stats.t_interval(by_prompt), p_prompts, p_students


def means(metrics: pd.DataFrame, arms: list[str]) -> pd.DataFrame:
    """Means over seeds, prompts, layers and heads, a row a region and arm; beside them the published ones, NaN where
    there is none."""
    table = metrics.groupby(["region", "arm"])[list(EVERY)].mean()
    regions = list(dict.fromkeys(metrics["region"]))
    table = table.reindex(pd.MultiIndex.from_product([regions, arms], names=["region", "arm"])).rename(columns=EVERY)
    for metric, values in _published().items():
        # The released analysis reads prompts alone.
        printed = pd.Series({("prompt", arm): value for arm, value in values.items()}, dtype=float)
        table[f"{PAPER[metric]}, published"] = printed.reindex(table.index)
    return table.rename(index=style.title, level="arm").rename_axis(["Region", "Student"]).reset_index()


def shown_means(table: pd.DataFrame) -> Styler:
    """`means` as the paper prints it."""
    columns: style.Columns = {name: (name.lower(), None) for name in ("Region", "Student")}
    columns |= {str(name): (str(name), "{:.4f}") for name in table if name not in columns}
    return style.printed(table.replace({"Region": REGION_TITLES}), "attention", columns)


def shown_tests(tests: pd.DataFrame) -> Styler:
    """`primed` as the paper prints it; without the test over students where there are too few for one."""
    ends = zip(tests["low"], tests["high"], strict=True)
    intervals = ["" if np.isnan(low) else f"{low:+.4f} to {high:+.4f}" for low, high in ends]
    words: dict[str, Any] = {
        "region": tests["region"].map(REGION_TITLES),
        "metric": tests["metric"].map(EVERY),
        "interval": intervals,
    }
    columns = {name: look for name, look in TESTS.items() if name != "p_students" or tests[name].notna().any()}
    return style.printed(tests.assign(**words), "attention-test", columns)


def _published() -> dict[str, dict[str, float]]:
    """The published means of params/published-results.yaml: metric -> arm -> value; empty where it has none."""
    file = paths.PARAMS / "published-results.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
    return dict(content.get("attention", {}))


def with_accuracy(run: params.AttentionRun, metrics: pd.DataFrame, heads: pd.DataFrame) -> pd.DataFrame:
    """For every student and each of `heads` (columns layer and head): its accuracy, and how far it moved the head.

    Columns: arm, seed, accuracy (a fraction), layer, head, and for each number the change against the first arm, mean
    over prompts, in the last region that was read.

    Raises:
        InputError: a student is not scored yet.
    """
    last = metrics[metrics["region"] == metrics["region"].iloc[-1]].merge(heads[["layer", "head"]])
    changes = against(last, run.arms[0])
    changes = changes.groupby(["arm", "seed", "layer", "head"], sort=False)[list(EVERY)].mean().reset_index()
    students = changes[["arm", "seed"]].drop_duplicates().itertuples(index=False)
    scored = [(arm, seed, _accuracy(run, arm, seed)) for arm, seed in students]
    return changes.merge(pd.DataFrame(scored, columns=["arm", "seed", "accuracy"]))


def _accuracy(run: params.AttentionRun, arm: str, seed: int) -> float:
    folder = run.scores_of(arm, seed)
    artifacts.read(folder)
    return float(pd.read_parquet(folder / "answers.parquet")[f"{run.rule}-correct"].mean())


def variables(metrics: pd.DataFrame, divergent: pd.DataFrame, tests: pd.DataFrame) -> dict[str, str]:
    """What the manuscript says of attention, as text; every key is always there."""
    region = str(metrics["region"].iloc[-1])
    by_arm = metrics[metrics["region"] == region].groupby("arm")[list(EVERY)].mean()
    sizes = {f"attention_{name}s": str(metrics[name].nunique()) for name in ("prompt", "layer", "head")}
    return {
        **sizes,
        "attention_region": {"prompt": "the prompt's tokens", "response": "the solution's tokens"}[region],
        "attention_sink": _range(by_arm["sink"]),
        "divergent_layer": str(divergent["layer"].iloc[0]),
        "divergent_head": str(divergent["head"].iloc[0]),
        **_largest_change(by_arm),
        "attention_test": _verdict(tests),
        "attention_seeds": _seeds_clause(tests),
    }


def _range(shares: pd.Series) -> str:
    return f"{100 * shares.min():.1f} % to {100 * shares.max():.1f} %"


def _largest_change(by_arm: pd.DataFrame) -> dict[str, str]:
    """Which of the paper's numbers moved furthest from the undistilled student's, relative to it, and in which arm."""
    keys = ("attention_change_metric", "attention_change_arm", "attention_change")
    if params.UNDISTILLED not in by_arm.index or len(by_arm) < 2:
        return dict.fromkeys(keys, style.NOT_RUN)
    base = by_arm.loc[params.UNDISTILLED, list(PAPER)]
    change = (by_arm[list(PAPER)] / base - 1).drop(index=params.UNDISTILLED)
    metric = str(change.abs().max().idxmax())
    arm = str(change[metric].abs().idxmax())
    name = PAPER[metric].partition(" (")[0]
    values = (name[0].lower() + name[1:], style.title(arm), f"{100 * change[metric].to_dict()[arm]:+.1f} %")
    return dict(zip(keys, values, strict=True))


def _verdict(tests: pd.DataFrame) -> str:
    known = tests.dropna(subset="p_holm")
    if known.empty:
        return "cannot be tested here: that takes a primed and an unprimed student, and two prompts or more"
    differing = int((known["p_holm"] < stats.SIGNIFICANT).sum())
    return (
        f"differs from the unprimed one's in {differing} of {len(known)} comparisons (smallest corrected p: "
        f"{known['p_holm'].min():.2g})"
    )


def _seeds_clause(tests: pd.DataFrame) -> str:
    known = tests["p_students"].dropna()
    if known.empty:
        return "With one training seed an arm, it cannot be told whether another training run would show the same."
    return (
        "When the labels of whole students are exchanged instead, which is what the claim is about, the smallest of "
        f"{len(known)} p is {known.min():.2g}."
    )
