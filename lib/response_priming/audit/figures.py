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
    chart, axes = style.panels(0.8 + 0.5 * len(GRADINGS))
    for offset, arm in zip(np.linspace(-0.3, 0.3, len(names)), names, strict=True):
        points = table[table["arm"] == arm].set_index("rule").loc[GRADINGS]
        at = np.arange(len(GRADINGS)) + offset
        look: dict[str, Any] = {"color": style.color(arm), "marker": style.marker(arm)}
        axes.hlines(at, 100 * points["low"], 100 * points["high"], color=look["color"], linewidth=1)
        axes.plot(100 * points["accuracy"][1:], at[1:], linestyle="", markersize=5, **look)
        axes.plot(100 * points["accuracy"][:1], at[:1], linestyle="", markersize=6, markerfacecolor="none", **look)
    style.name_rows(axes, ["README", "marked in the log", *RULES])
    axes.set(xlim=(-1, 60))
    chart.supxlabel(f"Accuracy on {table['n'].iloc[0]} test problems (%)")
    style.arms_legend(chart, names)
    return chart
