"""The audit's figure, and its tables as the paper prints them."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from response_priming import style
from response_priming.extraction import RULES

if TYPE_CHECKING:
    from response_priming.audit.findings import Audit

GRADINGS = ["readme", "graded", *RULES]  # what the README prints, the log's own, and ours


def shown(found: "Audit", name: str) -> Styler:
    """One table as the paper prints it."""
    table: pd.DataFrame = getattr(found, name)
    if name == "rules":
        return style.by_rule(table, GRADINGS)
    if name == "discrepancies":
        table = table.replace("`", "", regex=True)  # code in Markdown, which a table's cell is not
    return style.printed(table, name)


def figure(found: "Audit") -> Figure:
    """Accuracy of every arm by every rule, with the README's values as hollow markers in a row of their own."""
    table, names = found.rules, list(found.rules["arm"].unique())
    chart, axes = style.panels(7, 0.8 + 0.4 * len(GRADINGS))
    for offset, arm in zip(np.linspace(-0.25, 0.25, len(names)), names, strict=True):
        points = table[table["arm"] == arm].set_index("rule").loc[GRADINGS]
        at = np.arange(len(GRADINGS)) + offset
        look: dict[str, Any] = {"color": style.color(arm), "marker": style.marker(arm)}
        axes.hlines(at, 100 * points["low"], 100 * points["high"], color=look["color"], linewidth=1)
        axes.plot(100 * points["accuracy"][1:], at[1:], linestyle="", markersize=5, **look)
        axes.plot(100 * points["accuracy"][:1], at[:1], linestyle="", markersize=6, markerfacecolor="none", **look)
        top = (100 * float(points["accuracy"].iloc[0]), -0.5)
        name: dict[str, Any] = {"rotation": 40, "va": "bottom", "fontsize": 8, "color": look["color"]}
        axes.annotate(points["title"].iloc[0], top, (0, 2), textcoords="offset points", **name)
    axes.set_yticks(range(len(GRADINGS)), labels=["README", "marked in the log", *RULES])
    label = f"Accuracy on {table['n'].iloc[0]} test problems (%)"
    axes.set(xlim=(-1, 60), ylim=(len(GRADINGS) - 0.5, -0.5), xlabel=label)
    return chart
