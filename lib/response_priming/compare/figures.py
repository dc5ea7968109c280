"""The figures and printed tables of stage compare."""

from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from response_priming import style

if TYPE_CHECKING:
    from response_priming.compare.comparison import Comparison


def shown(found: "Comparison", name: str) -> Styler:
    """One table as the paper prints it: titles for arms, per cent for shares, one column for an interval."""
    table: pd.DataFrame = getattr(found, name)
    if name == "rules":
        return style.by_rule(table, table["rule"].unique())
    if "covers" in table and (table["seeds"] == 1).all():
        table = table.drop(columns=["seeds", "spread", "covers"])
    if name == "samples":
        table = table.assign(correct=table["correct"].map({True: "yes", False: "no"}))
        table.loc[table["question"].duplicated(), ["question", "answer"]] = ""
    return style.printed(table, name)


def accuracy_figure(found: "Comparison") -> Figure:
    """Accuracy of every arm with its interval."""
    table = found.accuracy
    figure, axes = style.panels(7, 0.8 + 0.55 * len(table))
    looks: Any = [{"color": style.color(arm), "marker": style.marker(arm), "markersize": 7} for arm in table["arm"]]
    style.dots(axes, table, looks, value="accuracy")
    for y, x in enumerate(100 * table["accuracy"]):
        axes.annotate(f"{x:.1f}", (x, y), (0, 7), textcoords="offset points", ha="center", fontsize="small")
    label = f"Accuracy on {table['n'].iloc[0]} test problems (%), rule {found.variables['rule']}"
    axes.set(xlim=(0, 100), xlabel=label)
    return figure


def loss_figure(found: "Comparison") -> Figure:
    """Hard and soft loss of every trained arm by optimiser step: means over seeds, and bands from the lowest to the
    highest of them; a panel is left out where no arm has that loss."""
    names = [name for name in ("hard", "soft") if found.losses[name].notna().any()] or ["hard"]
    figure, panels = style.panels(7, 2.7 * len(names) + 0.3, len(names), squeeze=False, sharex=True)
    for axes, name in zip(panels[:, 0], names, strict=True):
        steps = found.losses.dropna(subset=name).groupby(["arm", "step"], sort=False)[name].agg(["mean", "min", "max"])
        ends = {}
        for arm, curve in steps.groupby("arm", sort=False):
            curve = curve.droplevel("arm")
            look: dict[str, Any] = {"color": style.color(str(arm))}
            axes.fill_between(curve.index, curve["min"], curve["max"], alpha=0.15, linewidth=0, **look)
            axes.plot(curve["mean"], marker=style.marker(str(arm)), markersize=4, markevery=0.1, **look)
            ends[str(arm)] = (float(curve.index[-1]), float(curve["mean"].iloc[-1]))
        axes.set(title=f"{name.capitalize()} loss", ylabel="Nats per response token")
        style.name_points(axes, ends, gap=0.1)
    figure.axes[-1].set_xlabel("Optimiser step")
    return figure
