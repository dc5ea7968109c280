"""Stage audit: the released response logs counted anew, beside the README's figures and the logs' own grading.

Everything here follows from a few counts. They are recorded in params/published-results.yaml, so the audit can be shown
without the logs, which have no licence and are not part of this project; where a folder of logs is given, they are
counted again, and whether the two agree is said.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from response_priming import artifacts, params, paths, style
from response_priming.audit import discrepancies, recount, released
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
        "interval": ("95 % interval", "{}"),
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
        "interval": ("95 % interval", "{}"),
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


@dataclass(frozen=True)
class Audit:
    """What `audit` found: the tables of `recount.tabulate` and `discrepancies.table`, and the values for prose."""

    published: pd.DataFrame
    rules: pd.DataFrame
    decomposition: pd.DataFrame
    tests: pd.DataFrame
    discrepancies: pd.DataFrame
    variables: dict[str, str]

    def shown(self, name: str) -> Styler:
        """One table as the paper prints it."""
        table: pd.DataFrame = getattr(self, name)
        if name == "rules":
            table = table.pivot(index="title", columns="rule", values="accuracy").loc[table["title"].unique()]
            table = table.reset_index()
        if name == "discrepancies":
            table = table.replace("`", "", regex=True)  # code in Markdown, which a table's cell is not
        if "low" in table:
            scale = 1 if name == "tests" else 100
            table = table.assign(interval=list(map(style.interval, scale * table["low"], scale * table["high"])))
        return style.printed(table, name, COLUMNS[name])


def audit(run: params.AuditRun) -> Audit:
    """The audit of `run.logs_dir`, or of the recorded counts where that is None; computed unless it is there already.

    Raises:
        InputError: the folder is not one with the released logs (see `released.read`).
    """
    folder, facts = run.output / "audit", published()
    logs = released.fingerprint(Path(run.logs_dir)) if run.logs_dir else None
    recipe = artifacts.recipe("audit", {"logs": logs, "published": facts}, [], code=["audit.findings"])
    if not artifacts.is_current(folder, recipe):
        found = recount.count(released.read(Path(run.logs_dir))) if run.logs_dir else None
        made = recount.tabulate(found or facts["recount"], facts)
        texts = discrepancies.values(found or facts["recount"], facts, made["tests"])
        texts["source"] = source(found, facts["recount"])
        made["discrepancies"] = discrepancies.table(facts, texts)
        with artifacts.writing(folder, recipe) as aside:
            for name, table in made.items():
                table.to_csv(aside / f"{name}.csv", index=False)
            named = {f"released_{key}": text for key, text in texts.items()}
            (aside / "variables.json").write_text(json.dumps(named, indent=1), encoding="utf-8")
    # Only empty fields are missing values: an arm is called "none".
    read = {name: pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=[""]) for name in COLUMNS}
    return Audit(**read, variables=json.loads((folder / "variables.json").read_text(encoding="utf-8")))


def published() -> dict[str, Any]:
    """params/published-results.yaml: printed figures, facts about the released code, and the recorded recount."""
    content: dict[str, Any] = yaml.safe_load((paths.PARAMS / "published-results.yaml").read_text(encoding="utf-8"))
    return content


def source(found: recount.Counts | None, recorded: recount.Counts) -> str:
    """A sentence that says where the counts come from, and whether a recount equals the record."""
    if found is None:
        return "The counts are the recorded ones: no copy of the logs was given, so nothing was counted again."
    differing = recount.differences(found, recorded)
    if not differing:
        return "The counts were made anew from a copy of the logs, and every one equals the recorded one."
    return (
        f"The counts were made anew from a copy of the logs, and {len(differing)} of them differ from the recorded "
        f"ones, first {differing[0]}: this copy or the rules are not those of the record."
    )


def figure(found: Audit) -> Figure:
    """Accuracy of every arm by every rule, with the README's values as hollow markers in a row of their own."""
    table, arms = found.rules, list(found.rules["arm"].unique())
    rules = ["readme", "graded", *RULES]
    chart = Figure(figsize=(7, 0.8 + 0.4 * len(rules)), layout="constrained")
    axes = chart.subplots()
    for offset, arm in zip(np.linspace(-0.25, 0.25, len(arms)), arms, strict=True):
        points = table[table["arm"] == arm].set_index("rule").loc[rules]
        at = np.arange(len(rules)) + offset
        look: dict[str, Any] = {"color": style.color(arm), "marker": style.marker(arm)}
        axes.hlines(at, 100 * points["low"], 100 * points["high"], color=look["color"], linewidth=1)
        axes.plot(100 * points["accuracy"][1:], at[1:], linestyle="", markersize=5, **look)
        axes.plot(100 * points["accuracy"][:1], at[:1], linestyle="", markersize=6, markerfacecolor="none", **look)
        top = (100 * float(points["accuracy"].iloc[0]), -0.5)
        name: dict[str, Any] = {"rotation": 40, "va": "bottom", "fontsize": 8, "color": look["color"]}
        axes.annotate(style.title(arm), top, (0, 2), textcoords="offset points", **name)
    axes.set_yticks(range(len(rules)), labels=["README", "marked in the log", *RULES])
    axes.set_ylim(len(rules) - 0.5, -0.5)
    axes.set_xlim(-1, 60)
    axes.set_xlabel(f"Accuracy on {table['n'].iloc[0]} test problems (%)")
    return chart
