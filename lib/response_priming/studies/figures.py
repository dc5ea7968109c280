"""The figures, printed tables and sentences of the studies: of the search, of the ladder, and of two runs."""

import os
from typing import Any
from urllib.parse import quote

import numpy as np
import optuna
import pandas as pd
import seaborn as sns
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas.io.formats.style import Styler
from statsmodels.stats.proportion import proportion_confint

from response_priming import stats, style
from response_priming.studies import two_runs
from response_priming.studies.search import trials
from response_priming.studies.two_runs import ABSENT, FinishedRun

DONE, PRUNED = sns.color_palette("colorblind")[0], "0.5"
SIDES: style.Columns = {"a": ("A", None), "b": ("B", None)}


# --- the search ---


def history_figure(study: optuna.Study) -> Figure:
    """Accuracy of every trial in the order they ran, with its 95 % Wilson interval, and the best so far."""
    table, figure = trials(study), Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    done, pruned = table.dropna(subset="accuracy"), table[table["accuracy"].isna()]
    asked = done["n"].to_numpy(float)
    low, high = proportion_confint(done["accuracy"] * asked, asked, method="wilson")
    ends = 100 * np.array([done["accuracy"] - low, high - done["accuracy"]]).clip(min=0)
    axes.errorbar(done["trial"], 100 * done["accuracy"], yerr=ends, fmt="o", color=DONE, capsize=3)
    axes.step(done["trial"], 100 * done["accuracy"].cummax(), where="post", color=DONE, alpha=0.5)
    axes.plot(pruned["trial"], np.full(len(pruned), 2.0), "x", color=PRUNED)
    if len(pruned):
        label = (pruned["trial"].iloc[-1], 2.0)
        axes.annotate("pruned", label, (6, 3), textcoords="offset points", color=PRUNED, fontsize="small")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="Trial", ylabel=_accuracy_label(done), ylim=(0, 100))
    return figure


def surface_figure(study: optuna.Study) -> Figure:
    """Accuracy over alpha and temperature, interpolated between the trials that ran to their end (see `history_figure`
    for how sure each is); crosses are pruned trials."""
    table, figure = trials(study), Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
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
    return f"Accuracy on {int(done['n'].max()) if len(done) else 0} validation problems (%)"


# --- the ladder ---


def ladder_figure(table: pd.DataFrame) -> Figure:
    """Accuracy and share of finished answers of every rung, the undistilled student at the top."""
    drawn = Figure(figsize=(9, 0.9 + 0.36 * len(table)), layout="constrained")
    panels = drawn.subplots(1, 2, sharey=True)
    for axes, name, color in zip(panels, ("accuracy", "finished"), ("C0", "C1"), strict=True):
        looks = [{"color": color, "marker": "o"}] * len(table)
        style.dots(axes, table, looks, value=name, low=f"{name}_low", high=f"{name}_high")
        axes.plot(100 * table[name], range(len(table)), color="0.8", zorder=0)
        axes.set(xlim=(-2, 102), xlabel=f"{name.capitalize()} (%)")
    return drawn


def shown_ladder(table: pd.DataFrame) -> Styler:
    """The rungs as the notebook prints them: per cent, and one column for an interval."""
    columns: style.Columns = {"title": ("rung", None), "n": ("n", "{}")}
    for name in ("accuracy", "finished"):
        columns |= {
            name: (f"{name} (%)", lambda share: f"{100 * share:.1f}"),
            (f"{name}_low", f"{name}_high"): (f"{name}, 95 % interval", 100),
        }
    columns |= {"mean_tokens": ("mean tokens", "{:.1f}"), "seconds": ("seconds", "{:.0f}")}
    return style.printed(table, "ladder", columns)


# --- two runs; sentences are Markdown ---


def describe_runs(a: FinishedRun, b: FinishedRun) -> str:
    """What is compared, with links to the runs' own pages, from the folder that this runs in."""
    links = [
        f"[{side}, profile {run.profile}]({quote(os.path.relpath(run.page))})"
        for side, run in (("A", a), ("B", b))
        if run.page
    ]
    return f"A is `{a.name}` and B is `{b.name}`." + (f" Their own pages: {', '.join(links)}." if links else "")


def shown_origins(a: FinishedRun, b: FinishedRun) -> Styler:
    """Where both come from, as the notebook prints it."""
    return style.printed(two_runs.origins(a, b), "origins", {"what": ("", None)} | SIDES)


def describe_parameters(a: FinishedRun, b: FinishedRun) -> str:
    """Whether any differ, and what else may make a difference: other code, and what cannot be looked at."""
    said = ["None: the manifests record the same."] if two_runs.differing(a, b).empty else []
    if code := ", ".join(f"`{name}`" for name in two_runs.differing_code(a, b)):
        said.append(f"The code that made the answers differs as well, and may be what makes a difference: {code}.")
    if lost := ", ".join(f"{side}'s `{part}`" for side, run in (("A", a), ("B", b)) for part in run.lost):
        said.append(f"Without a manifest, and so not looked at: {lost}.")
    return "\n\n".join(said)


def shown_parameters(a: FinishedRun, b: FinishedRun) -> Styler | None:
    """The parameters that differ, as the notebook prints them; None where none does."""
    found = two_runs.differing(a, b)
    columns = {"parameter": ("parameter", None), "where": ("stage", None)} | SIDES
    return style.printed(found, "parameters", columns) if len(found) else None


def describe_accuracies(found: pd.DataFrame, a: FinishedRun, b: FinishedRun) -> str:
    """What the two accuracies of an arm rest on (see `two_runs.accuracies`), and which arms differ."""
    sizes = [
        f"{side}: n = {len(run.problems):,} test problems, {run.seeds} training seed{'s' if run.seeds > 1 else ''}"
        for side, run in (("A", a), ("B", b))
    ]
    said = ["; ".join(sizes), f"Right is what rule `{a.rule}` says"]
    if a.rule != b.rule:
        said[-1] += f", also for B; to see both by B's own rule, `{b.rule}`, exchange A and B"
    if two_runs.same_problems(a, b):
        unless = " unless the numbers of its students do not match" if found["paired"].eq(False).any() else ""
        said.append(f"Both asked the same problems, so an arm is compared in pairs, problem by problem{unless}")
    else:
        shared = len(a.problems.merge(b.problems))
        also = f"; {shared} are in both, which makes the intervals rather too wide" if shared else ""
        said.append(f"They asked different problems, so the accuracies of an arm are of independent samples{also}")
    tested = found.dropna(subset="p")
    clear = tested[(tested["p_holm"] < stats.SIGNIFICANT) & (tested["low"] * tested["high"] > 0)]
    named = "; ".join(f"{style.verbatim(row['title'])} {row['points']:+.1f} points" for _, row in clear.iterrows())
    if tested.empty:
        said.append("No arm is in both")
    else:
        points = tested.set_index(tested["title"].map(style.verbatim))["points"].astype(float)
        differing = _count("arm", len(tested), len(clear))
        said += [
            f"{differing} by interval and corrected p{f': {named}' if named else ''}",
            f"B minus A lies between {points.min():+.1f} points ({points.idxmin()}) and {points.max():+.1f} points "
            f"({points.idxmax()})",
        ]
    return "\n".join(f"- {sentence}." for sentence in said)


def _count(what: str, both: int, differ: int) -> str:
    """`Both have 6 arms, of which 1 differs`."""
    several, verb = "s" if both != 1 else "", "differ" if differ > 1 else "differs"
    return f"Both have {both} {what}{several}, of which {differ or 'none'} {verb}"


def shown_accuracies(found: pd.DataFrame) -> Styler:
    """Both accuracies of every arm and their difference, as the notebook prints them."""
    columns: style.Columns = {"title": ("student", None)}
    for side in "ab":
        columns |= {side: (side.upper(), "{:.1%}"), (f"{side}_low", f"{side}_high"): ("95 % interval", 100)}
    columns |= {"points": ("B minus A (points)", "{:+.1f}"), ("low", "high"): ("95 % interval", 1)}
    if found["paired"].eq(True).any():
        columns |= {"only_a": ("only A", "{:.0f}"), "only_b": ("only B", "{:.0f}")}
    return style.printed(found, "accuracies", columns | {"p_holm": ("p (Holm)", style.p_value)})


def accuracies_figure(found: pd.DataFrame) -> Figure:
    """Both accuracies of every arm with their intervals: A filled, B hollow below it."""
    sides = {side: {side: "accuracy", f"{side}_low": "low", f"{side}_high": "high"} for side in "ab"}
    rows = [found[["arm", "title", *names]].rename(columns=names).assign(side=side) for side, names in sides.items()]
    table = pd.concat(rows).dropna().sort_index(kind="stable")
    label = table["side"].str.upper() + (100 * table["accuracy"]).map(" {:.1f}".format)
    first = ~table["arm"].duplicated()
    table["title"] = table["title"].where(first, "") + "   " + label
    looks: list[dict[str, Any]] = [
        {"color": style.color(arm), "marker": style.marker(arm), "markersize": 7}
        | ({"markerfacecolor": "white"} if side == "b" else {})
        for arm, side in zip(table["arm"], table["side"], strict=True)
    ]
    figure = Figure(figsize=(7, 0.8 + 0.35 * len(table)), layout="constrained")
    axes = figure.subplots()
    style.dots(axes, table, looks, value="accuracy")
    axes.set(xlim=(0, 100), xlabel="Accuracy on test problems (%)")
    return figure


def describe_claims(a: FinishedRun, b: FinishedRun) -> str:
    """How many verdicts on claims of the paper both have, and how many differ."""
    found = two_runs.claims(a, b)
    both = found.dropna()
    if found.empty:
        return "Neither run has verdicts on them; `make paper` makes them."
    if both.empty:
        return "Only one of them has verdicts."
    return f"{_count('verdict', len(both), int((both['a'] != both['b']).sum()))}."


def shown_claims(a: FinishedRun, b: FinishedRun) -> Styler | None:
    """The verdict on each claim in both runs, as the notebook prints it; None where there are none."""
    found = two_runs.claims(a, b).fillna(ABSENT)
    columns: style.Columns = {"claim": ("claim of the paper", None)} | SIDES
    return style.printed(found, "claims", columns) if len(found) else None
