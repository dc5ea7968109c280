"""The figures of stage compare. None is made by pyplot, which would show it a second time in a notebook."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from response_priming import style
from response_priming.compare.comparison import Comparison


def accuracy_figure(found: Comparison) -> Figure:
    """Accuracy of every arm with its interval, and the paper's printed value as a hollow marker."""
    table = found.accuracy
    arms = list(table["arm"])
    figure = Figure(figsize=(7, 0.8 + 0.55 * len(arms)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(table.to_dict("records")):
        x, low, high, printed = (100 * row[key] for key in ("accuracy", "low", "high", "published"))
        look: dict[str, Any] = {
            "color": style.color(row["arm"]),
            "marker": style.marker(row["arm"]),
            "markersize": 7,
        }
        axes.errorbar(x, y, xerr=[[x - low], [high - x]], capsize=3, **look)
        axes.annotate(f"{x:.1f}", (x, y), (0, 7), textcoords="offset points", ha="center", fontsize="small")
        if not np.isnan(printed):
            axes.plot(printed, y, linestyle="", markerfacecolor="none", **look)
            label = f"paper {printed:.1f}"
            axes.annotate(label, (printed, y), (0, -14), textcoords="offset points", ha="center", fontsize="small")
    axes.set_yticks(range(len(arms)), labels=list(table["title"]))
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"Accuracy on {table['n'].iloc[0]} test problems (%), rule {found.variables['rule']}")
    return figure


def loss_figure(found: Comparison) -> Figure:
    """Hard and soft loss of every trained arm by optimiser step: means over seeds, and bands from the lowest to the
    highest of them; a panel is left out where no arm has that loss."""
    panels = [name for name in ("hard", "soft") if found.losses[name].notna().any()] or ["hard"]
    figure = Figure(figsize=(7, 2.7 * len(panels) + 0.3), layout="constrained")
    for axes, name in zip(figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0], panels, strict=True):
        steps = found.losses.dropna(subset=name).groupby(["arm", "step"], sort=False)[name].agg(["mean", "min", "max"])
        ends = {}
        for arm, curve in steps.groupby("arm", sort=False):
            curve = curve.droplevel("arm")
            look: dict[str, Any] = {"color": style.color(str(arm))}
            axes.fill_between(curve.index, curve["min"], curve["max"], alpha=0.15, linewidth=0, **look)
            axes.plot(curve["mean"], marker=style.marker(str(arm)), markersize=4, markevery=0.1, **look)
            ends[str(arm)] = (float(curve.index[-1]), float(curve["mean"].iloc[-1]))
        axes.set_title(f"{name.capitalize()} loss")
        axes.set_ylabel("Nats per response token")
        style.name_points(axes, ends, gap=0.1)
    figure.axes[-1].set_xlabel("Optimiser step")
    return figure
