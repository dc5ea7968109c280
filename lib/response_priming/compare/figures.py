"""The figures and printed tables of stage compare."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from pandas.io.formats.style import Styler

from response_priming import arms, style

if TYPE_CHECKING:
    from response_priming.compare.comparison import Comparison


def shown(found: "Comparison", name: str) -> Styler:
    """One table as the paper prints it: titles for arms, per cent for shares, one column for an interval."""
    table: pd.DataFrame = getattr(found, name)
    if name == "rules":
        return style.by_rule(table, table["rule"].unique())
    if "covers" in table and (table["seeds"] == 1).all():
        table = table.drop(columns=["seeds", "spread", "covers"])
    if "lacks" in table and table["lacks"].nunique(dropna=False) == 1:
        table = table.drop(columns="lacks")  # which the prose says
    if name == "samples":
        table = table.assign(correct=table["correct"].map({True: "yes", False: "no"}))
        table.loc[table["question"].duplicated(), ["question", "answer"]] = ""
    return style.printed(table, name)


def accuracy_figure(found: "Comparison") -> Figure:
    """Accuracy of every arm with its interval."""
    table = found.accuracy
    figure, axes = style.panels(0.8 + style.row_height(table["title"]) * len(table))
    looks: Any = [{"color": style.color(arm), "marker": style.marker(arm), "markersize": 7} for arm in table["arm"]]
    style.dots(axes, table, looks, value="accuracy")
    for y, x in enumerate(100 * table["accuracy"]):
        axes.annotate(f"{x:.1f}", (x, y), (0, 7), textcoords="offset points", ha="center")
    axes.set(xlim=(0, 100))
    figure.supxlabel(f"Accuracy on {table['n'].iloc[0]} test problems (%),\nrule {found.variables['rule']}")
    return figure


def loss_figure(found: "Comparison") -> Figure:
    """How far the hard and the soft loss of every trained arm fell: means over seeds of the first tenth of the steps,
    hollow, and of the last, with a bar from the lowest to the highest seed; no panel where no arm has that loss."""
    names = [name for name in ("hard", "soft") if found.losses[name].notna().any()] or ["hard"]
    drawn = {name: found.losses.dropna(subset=name) for name in names}
    rows = [len(losses["arm"].unique()) for losses in drawn.values()]
    pitch, shared = style.row_height(map(arms.title, found.losses["arm"].unique())), {"squeeze": False, "sharex": True}
    shape: dict[str, Any] = {"gridspec_kw": {"height_ratios": [max(1, count) for count in rows]}}
    figure, panels = style.panels(1.0 + 0.4 * len(names) + pitch * sum(rows), len(names), **shared, **shape)
    for axes, (name, losses) in zip(panels[:, 0], drawn.items(), strict=True):
        tenth = np.ceil(losses["step"].max() / 10) if len(losses) else 0
        first, last = losses["step"] <= tenth, losses["step"] > losses["step"].max() - tenth
        before = losses[first].groupby("arm")[name].mean()
        seeds = losses[last].groupby(["arm", "seed"])[name].mean().groupby("arm")
        names_of = list(losses["arm"].unique())
        for y, arm in enumerate(names_of):
            low, mean, high = (seeds.agg(one)[arm] for one in ("min", "mean", "max"))
            look: dict[str, Any] = {"color": style.color(arm), "marker": style.marker(arm), "markersize": 7}
            axes.plot([before[arm], mean], [y, y], color=look["color"], linewidth=1)
            axes.plot(before[arm], y, markerfacecolor="white", **look)
            axes.errorbar(mean, y, xerr=[[mean - low], [high - mean]], capsize=3, **look)
        style.name_rows(axes, map(arms.title, names_of))
        axes.set(title=f"{name.capitalize()} loss", xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    figure.supxlabel("Nats per response token, in the first (hollow)\nand the last (filled) tenth of the steps")
    return figure
