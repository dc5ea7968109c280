"""The figures, printed tables and sentences of the studies: search, ladders, related methods, the doctor, two runs."""

from typing import Any

import numpy as np
import optuna
import pandas as pd
import seaborn as sns
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas.io.formats.style import Styler
from statsmodels.stats.proportion import proportion_confint

from response_priming import arms, paths, report, stats, style
from response_priming.studies.search import trials
from response_priming.studies.two_runs import ABSENT, FinishedRun, claims, differing, differing_code, same_problems

DONE, PRUNED = sns.color_palette("colorblind")[0], "0.5"


# --- the search ---


def history_figure(study: optuna.Study) -> Figure:
    """Accuracy of every trial in the order they ran, with its 95 % Wilson interval, and the best so far."""
    table, (figure, axes) = trials(study), style.panels(3.2)
    done, pruned = table.dropna(subset="accuracy"), table[table["accuracy"].isna()]
    asked = done["n"].to_numpy(float)
    low, high = proportion_confint(done["accuracy"] * asked, asked, method="wilson")
    ends = 100 * np.array([done["accuracy"] - low, high - done["accuracy"]]).clip(min=0)
    axes.errorbar(done["trial"], 100 * done["accuracy"], yerr=ends, fmt="o", color=DONE, capsize=3)
    axes.step(done["trial"], 100 * done["accuracy"].cummax(), where="post", color=DONE, alpha=0.5)
    axes.plot(pruned["trial"], np.full(len(pruned), 2.0), "x", color=PRUNED)
    if len(pruned):
        label = (pruned["trial"].iloc[-1], 2.0)
        axes.annotate("pruned", label, (6, 3), textcoords="offset points", color=PRUNED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="Trial", ylabel=_accuracy_label(done), ylim=(0, 100))
    return figure


def surface_figure(study: optuna.Study) -> Figure:
    """Accuracy over alpha and temperature, interpolated between the trials that ran to their end (see `history_figure`
    for how sure each is); crosses are pruned trials."""
    table, (figure, axes) = trials(study), style.panels(4)
    done, pruned = table.dropna(subset="accuracy"), table[table["accuracy"].isna()]
    x, y, color = done["alpha"], done["kd_temperature"], 100 * done["accuracy"]
    between = Normalize(color.min(), color.max())
    if len(done) > 2:
        axes.tricontourf(x, y, color, levels=10, cmap="cividis", norm=between, alpha=0.6)
    points = axes.scatter(x, y, c=color, cmap="cividis", norm=between, edgecolor="black")
    axes.plot(pruned["alpha"], pruned["kd_temperature"], "x", color=PRUNED)
    axes.set(xlabel="Weight of the hard loss (alpha)", ylabel="Temperature", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    figure.colorbar(points, label=_accuracy_label(done))
    return figure


def shown_trials(study: optuna.Study) -> Styler:
    """All trials as the notebook prints them."""
    table = trials(study)
    numbers = {str(name): "{:.3f}" for name in table.select_dtypes("float")} | {"n": "{}", "learning_rate": "{:.2g}"}
    return style.printed(table, "trials", {str(name): (str(name), numbers.get(str(name))) for name in table})


def _accuracy_label(done: pd.DataFrame) -> str:
    return f"Accuracy on {int(done['n'].max()) if len(done) else 0}\nvalidation problems (%)"


# --- the ladders ---


def ladder_figure(table: pd.DataFrame) -> Figure:
    """Accuracy and share of finished answers of every rung, the undistilled student at the top."""
    drawn, panels = style.panels(0.8 + style.row_height(table["title"]) * len(table), 1, 2, sharey=True)
    for axes, name, color in zip(panels, ("accuracy", "finished"), ("C0", "C1"), strict=True):
        looks = [{"color": color, "marker": "o"}] * len(table)
        style.dots(axes, table, looks, value=name, low=f"{name}_low", high=f"{name}_high")
        axes.plot(100 * table[name], range(len(table)), color="0.8", zorder=0)
        axes.set(xlim=(-5, 105), xticks=(0, 50, 100), xlabel=f"{name.capitalize()} (%)")
    return drawn


def shown_ladder(table: pd.DataFrame) -> Styler:
    """The rungs as the notebook prints them: per cent, and one column for an interval."""
    return style.printed(table.assign(accuracy=100 * table["accuracy"], finished=100 * table["finished"]), "ladder")


# --- related methods ---


def related_figure(table: pd.DataFrame) -> Figure:
    """Accuracy against the CPU seconds of a student's making, with 95 % intervals; a control, hollow, is joined to its
    method, and the arms that all are compared with are grey."""
    drawn, axes = style.panels(3.6)
    made = table.dropna(subset="accuracy")
    places = made.assign(y=100 * made["accuracy"]).set_index("row")[["cpu_seconds", "y"]]
    methods, markers = list(made.loc[made["source"].notna(), "row"]), iter("sD^v")
    for row in made.to_dict("records"):
        method, (x, y) = row["of"] or row["row"], places.loc[row["row"]]
        known = method in methods
        look = {
            "color": f"C{methods.index(method) % 10}" if known else "0.4",
            "marker": "o" if known else next(markers),
        }
        if row["of"]:
            axes.plot(*zip((x, y), places.loc[method], strict=True), color=look["color"], linewidth=0.8, linestyle=":")
        look |= {"markerfacecolor": "white"} if row["of"] else {"label": row["title"]}
        ends = [[max(y - 100 * row["low"], 0)], [max(100 * row["high"] - y, 0)]]
        axes.errorbar(x, y, yerr=ends, linestyle="none", capsize=3, **look)
    axes.set(xlabel="CPU seconds of a student's making", ylabel="Accuracy (%)")
    axes.set_xlim(left=0)
    handles, named = axes.get_legend_handles_labels()
    style.legend(drawn, dict(zip(named, handles, strict=True)))
    return drawn


def advice(table: pd.DataFrame, gains: pd.DataFrame) -> str:
    """What somebody who has to choose can act on, in Markdown, of the two tables of `related.compare`."""
    made = table.dropna(subset="accuracy").astype({"n": int})
    rows = {row["row"]: row for row in made.to_dict("records")}
    methods = made[made["source"].notna()].sort_values("accuracy", ascending=False, kind="stable").to_dict("records")
    tuned, kd = rows[arms.FINE_TUNED], next(rows[arm] for arm in rows if arms.is_distilled(arm))
    controlled = [row for row in methods if not np.isnan(row.get("control_points", np.nan))]
    values = {
        "tuned": tuned,
        "kd": kd,
        "methods": methods,
        "ahead": [row for row in methods if row["accuracy"] > tuned["accuracy"]],
        # What learns from solutions has no teacher whose responses could be right.
        "taught": [row for row in methods if not np.isnan(row["teacher_accuracy"])],
        "smaller": [row for row in methods if row["active"] < kd["active"]],
        "controlled": controlled,
        "adds": [row for row in controlled if row["control_low"] > 0],
        "behind": [row for row in controlled if row["control_points"] < 0],
        "lacks": "; ".join(dict.fromkeys(gains["lacks"][gains["lacks"] != ""])),
    }
    return style.words("related.md.jinja", values).strip()


# --- the doctor ---


def shown_checks(checks: pd.DataFrame) -> Styler:
    """All numbers of the doctor, a row a check with its healthy range, a column a student; a star: not healthy."""
    looks, rows = arms.read_yaml(paths.REPORT / "doctor.yaml")["checks"], []
    for row in checks.to_dict("records"):
        title, form = looks[row["check"]]
        value, low, high = (form.format(row[key]) if np.isfinite(row[key]) else "" for key in ("value", "low", "high"))
        # That of a loss is each student's own.
        healthy = f"{low} to {high}" if low and row["check"] != "reloaded" else ""
        student = f"{arms.title(row['arm'])}, seed {row['seed']}" if row["arm"] else "undistilled"
        rows.append((title, healthy, student, value + " *" * bool(row["finding"])))
    table = pd.DataFrame(rows, columns=["check", "healthy", "student", "value"])
    wide = table.pivot(index=["check", "healthy"], columns="student", values="value").fillna("")
    wide = wide.reindex(table["check"].unique(), level="check")[table["student"].unique()]
    return style.printed(wide.reset_index(), "checks")


def shown_findings(checks: pd.DataFrame) -> Styler:
    """What the doctor found, and what to change, as the notebook prints it."""
    return style.printed(report.findings(checks), "findings")


# --- two runs; sentences are Markdown ---


def describe(a: FinishedRun, b: FinishedRun, found: pd.DataFrame) -> dict[str, str]:
    """What report/two-runs.md.jinja says of two runs and their accuracies (see `two_runs.accuracies`), in Markdown.

    `runs`: what is compared, with links to the runs' own pages from the folder that this runs in. `parameters`: whether
    any differ, and what else may make a difference: other code, and what cannot be looked at. `accuracies`: what the
    two of an arm rest on, and which arms differ. `claims`: how many verdicts both have, and how many differ.
    """
    tested = found.dropna(subset="p")
    tested = tested.set_index(tested["title"].map(style.verbatim))
    clear = tested[tested["p"] < stats.SIGNIFICANT]
    values = {
        "a": a,
        "b": b,
        "differing": differing(a, b),
        "code": differing_code(a, b),
        "lost": [f"{side}'s `{part}`" for side, run in (("A", a), ("B", b)) for part in run.lost],
        "same": same_problems(a, b),
        "shared": len(a.problems.merge(b.problems)),
        "points": tested["points"].astype(float),
        "clear": clear["points"].astype(float),
        "verdicts": claims(a, b),
    }
    parts = ("runs", "parameters", "accuracies", "claims")
    return {part: style.words("two-runs.md.jinja", values | {"part": part}).strip() for part in parts}


def shown_parameters(a: FinishedRun, b: FinishedRun) -> Styler | None:
    """The parameters that differ, as the notebook prints them; None where none does."""
    found = differing(a, b)
    return style.printed(found, "parameters") if len(found) else None


def shown_accuracies(found: pd.DataFrame) -> Styler:
    """Both accuracies of every arm and their difference, as the notebook prints them."""
    return style.printed(found.dropna(axis="columns", how="all"), "accuracies")


def accuracies_figure(found: pd.DataFrame) -> Figure:
    """Both accuracies of every arm with their intervals: A filled, B hollow below it."""
    sides = {side: {side: "accuracy", f"{side}_low": "low", f"{side}_high": "high"} for side in "ab"}
    rows = [found[["arm", "title", *names]].rename(columns=names).assign(side=side) for side, names in sides.items()]
    table = pd.concat(rows).dropna().sort_index(kind="stable")
    looks: list[dict[str, Any]] = [
        {"color": style.color(arm), "marker": style.marker(arm), "markersize": 7}
        | ({"markerfacecolor": "white"} if side == "b" else {})
        for arm, side in zip(table["arm"], table["side"], strict=True)
    ]
    # Each arm's own row or rows, named at its first one.
    table["title"] = table["title"].where(~table["arm"].duplicated(), "")
    figure, axes = style.panels(0.8 + max(0.45, style.row_height(table["title"]) * 0.6) * len(table))
    style.dots(axes, table, looks, value="accuracy")
    for y, (side, share) in enumerate(zip(table["side"].str.upper(), 100 * table["accuracy"], strict=True)):
        axes.annotate(f"{side} {share:.1f}", (share, y), (0, 7), textcoords="offset points", ha="center")
    axes.set(xlim=(0, 100))
    figure.supxlabel("Accuracy on test problems (%)")
    return figure


def shown_claims(a: FinishedRun, b: FinishedRun) -> Styler | None:
    """The verdict on each claim in both runs, as the notebook prints it; None where there are none."""
    found = claims(a, b).fillna(ABSENT)
    return style.printed(found, "claims") if len(found) else None
