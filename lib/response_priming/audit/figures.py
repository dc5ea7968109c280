"""The audit's figure, and its tables as the paper prints them."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from response_priming import arms, style
from response_priming.audit.findings import Audit
from response_priming.extraction import RULES

# For each table as the paper prints it: column -> heading and format.
COLUMNS: dict[str, style.Columns] = {
    "published": {
        "title": ("student", None),
        "readme": ("README", "{:.2%}"),
        "readme_count": ("its count", "{:.0f}"),
        "readme_share": ("count / n", "{:.2%}"),
        "graded": ("marked in the log", "{:.0f}"),
        "correct": ("recount", "{:.0f}"),
        "accuracy": ("recount / n", "{:.1%}"),
        ("low", "high"): ("95 % interval", 100),
        "boxed": ("boxed", "{:.0f}"),
    },
    "rules": {"title": ("student", None)} | {
        rule: (style.wrapping(rule), "{:.1%}") for rule in ("readme", "graded", *RULES)
    },
    "decomposition": {
        "title": ("student", None),
        "accuracy": ("accuracy", "{:.1%}"),
        "boxed_share": ("boxed", "{:.1%}"),
        "boxed_right": ("if boxed", "{:.1%}"),
        "unboxed_right": ("if not", "{:.1%}"),
        "cap": ("cap", "{:.0f}"),
        "capped_share": ("capped", "{:.1%}"),
        "finished": ("finished", "{:.0f}"),
        "finished_right": ("if finished", "{:.1%}"),
        "gain": ("gain (points)", "{:+.1f}"),
        "boxing_points": ("by boxing", "{:+.1f}"),
    },
    "tests": {
        "title": ("student", None),
        "baseline_title": ("compared with", None),
        "points": ("gain (points)", "{:+.1f}"),
        ("low", "high"): ("95 % interval", 1),
        "relative": ("relative gain", "{:+.1%}"),
        "wins": ("wins", "{:.0f}"),
        "losses": ("losses", "{:.0f}"),
        "p": ("p", style.p_value),
        "p_holm": ("p (Holm)", style.p_value),
    },
    "discrepancies": {
        key: (key, None) for key in ("no.", "published", "found", "how to check", "what follows")
    },
}  # fmt: skip


def shown(found: Audit, name: str) -> Styler:
    """One table as the paper prints it."""
    table: pd.DataFrame = getattr(found, name)
    if name == "rules":
        table = table.pivot(index="title", columns="rule", values="accuracy").loc[table["title"].unique()].reset_index()
    if name == "discrepancies":
        table = table.replace("`", "", regex=True)  # code in Markdown, which a table's cell is not
    return style.printed(table, name, COLUMNS[name])


def figure(found: Audit) -> Figure:
    """Accuracy of every arm by every rule, with the README's values as hollow markers in a row of their own."""
    table, names = found.rules, list(found.rules["arm"].unique())
    rules = ["readme", "graded", *RULES]
    chart = Figure(figsize=(7, 0.8 + 0.4 * len(rules)), layout="constrained")
    axes = chart.subplots()
    for offset, arm in zip(np.linspace(-0.25, 0.25, len(names)), names, strict=True):
        points = table[table["arm"] == arm].set_index("rule").loc[rules]
        at = np.arange(len(rules)) + offset
        look: dict[str, Any] = {"color": style.color(arm), "marker": style.marker(arm)}
        axes.hlines(at, 100 * points["low"], 100 * points["high"], color=look["color"], linewidth=1)
        axes.plot(100 * points["accuracy"][1:], at[1:], linestyle="", markersize=5, **look)
        axes.plot(100 * points["accuracy"][:1], at[:1], linestyle="", markersize=6, markerfacecolor="none", **look)
        top = (100 * float(points["accuracy"].iloc[0]), -0.5)
        name: dict[str, Any] = {"rotation": 40, "va": "bottom", "fontsize": 8, "color": look["color"]}
        axes.annotate(arms.title(arm), top, (0, 2), textcoords="offset points", **name)
    axes.set_yticks(range(len(rules)), labels=["README", "marked in the log", *RULES])
    axes.set_ylim(len(rules) - 0.5, -0.5)
    axes.set_xlim(-1, 60)
    axes.set_xlabel(f"Accuracy on {table['n'].iloc[0]} test problems (%)")
    return chart
