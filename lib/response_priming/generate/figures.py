"""What the strategies' responses look like side by side: length, accuracy and certainty of the teacher.

Every figure and table looks at the first response to each problem, so that a problem counts once.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from response_priming import arms, artifacts, params, problems, scoring, style
from response_priming.generate.store import read

MEASURES = {"confidence": "Confidence", "entropy": "Entropy (nats)"}


def graded(run: params.GenerateRun) -> pd.DataFrame:
    """The graded first responses (see `scoring.grade_teacher`) of this run's strategy and of the others made alike.

    Others are those of the profile whose responses exist and differ in the strategy alone. Columns of their own:
    `strategy`, and `title`, its printed name.
    """
    asked, folder = problems.load(run, "train", run.n_train, seed=run.seed), run.output / "responses"
    tables = []
    for strategy in dict.fromkeys([*params.load(run.profile).strategies, run.strategy]):
        if _made_by(folder / strategy) == _made_by(folder / run.strategy):
            first = read(folder / strategy).query("sample == 0")
            table = scoring.grade_teacher(first, asked, run.answer_rule)
            tables.append(table.assign(strategy=strategy, title=arms.title(strategy)))
    return pd.concat(tables, ignore_index=True)


def _made_by(folder: Path) -> dict[str, Any]:
    """A store's recipe but for the strategy; an empty one where it is not made."""
    recipe = artifacts.read(folder)["recipe"] if (folder / artifacts.FILE).exists() else {"parameters": {}}
    shared = {key: value for key, value in recipe["parameters"].items() if key not in ("strategy", "prefixes")}
    return recipe | {"parameters": shared}


def table(answered: pd.DataFrame, rule: str) -> pd.DataFrame:
    """One row a strategy: `scoring.summary`, means of `confidence`, `entropy` and `covered`, and the published
    confidence, NaN where there is none."""
    published = arms.published()["teacher_confidence"]
    return pd.DataFrame(
        {
            "title": rows["title"].iloc[0],
            **scoring.summary(rows, rule),
            **rows[["confidence", "entropy", "covered"]].mean().to_dict(),
            "published_confidence": published.get(str(strategy), np.nan),
        }
        for strategy, rows in answered.groupby("strategy", sort=False)
    )


def samples(answered: pd.DataFrame, rule: str, *, count: int = 3) -> pd.DataFrame:
    """What every strategy's teacher answered to the first `count` problems: a row a problem, a column a strategy."""
    mark = answered[f"{rule}-correct"].map({True: " (right)", False: " (wrong)"})
    texts = answered.assign(response=answered["response"].str.strip() + mark)
    wide = texts.pivot_table(index="problem_id", columns="title", values="response", aggfunc="first", sort=False)
    return wide.head(count)


def lengths_figure(answered: pd.DataFrame, budget: int) -> Figure:
    """The share of responses up to each length, a line a strategy, and the budget."""
    figure, axes = style.panels(2.6)
    for strategy, rows in answered.groupby("strategy", sort=False):
        axes.ecdf(rows["tokens"], color=style.color(str(strategy)))
    axes.axvline(budget, color="0.5", linestyle="--", linewidth=1)
    axes.set(ylabel=f"Share, n = {answered['problem_id'].nunique()} each", xlim=(0, None))
    figure.supxlabel("Response length (tokens); dashed: the budget")
    style.arms_legend(figure, answered["strategy"].unique())
    return figure


def certainty_figure(answered: pd.DataFrame) -> Figure:
    """Mean confidence and entropy of every strategy with 95 % bootstrap intervals; hollow: the published confidence."""
    order = dict(answered[["strategy", "title"]].drop_duplicates().to_numpy())
    figure, axes = style.panels(0.8 + style.row_height(order.values()) * len(order), 1, 2, sharey=True)
    look = {"hue": "strategy", "palette": {name: style.color(name) for name in order}, "linestyle": "none"}
    for axis, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        sns.pointplot(answered, x=measure, y="strategy", errorbar=("ci", 95), seed=0, ax=axis, legend=False, **look)
        axis.set(xlabel=label, ylabel="")
        axis.margins(x=0.15)
        axis.locator_params(axis="x", nbins=3)
        style.name_rows(axis, order.values())
    for strategy, value in arms.published()["teacher_confidence"].items():
        if strategy in order:
            axes[0].plot(value, list(order).index(strategy), "o", markerfacecolor="none", color="0.2")
    figure.supxlabel(f"n = {answered['problem_id'].nunique()} problems; hollow: published")
    return figure
