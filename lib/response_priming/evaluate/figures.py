"""The figures of evaluate, and a way to leaf through the answers.

`scores` is arm -> its graded answers (see `evaluate.answer`); answers of several seeds are taken together.
"""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from response_priming import arms, scoring, style
from response_priming.evaluate.calibration import KINDS, reliability


def browse(answers: pd.DataFrame, rule: str) -> ipywidgets.Widget:
    """Leaf through graded answers (see `scoring.grade`) with a column `question`: all, the right or the wrong ones.

    Raises:
        InputError: there is no such rule.
    """
    scoring.known([rule])
    right = answers[f"{rule}-correct"].astype(bool)
    groups = {"all": answers, "right": answers[right], "wrong": answers[~right]}
    counted = [(f"{name} ({len(group)})", name) for name, group in groups.items()]
    which = ipywidgets.Dropdown(options=counted, description="Show")
    number = ipywidgets.BoundedIntText(value=1, min=1, max=max(1, len(answers)), description="Number")
    text = ipywidgets.HTML()

    def show(_: Any = None) -> None:
        group = groups[which.value]
        number.max = max(1, len(group))
        if group.empty:
            text.value = "<p>None.</p>"
            return
        answer = group.iloc[number.value - 1]
        verdict = "right" if answer[f"{rule}-correct"] else "wrong"
        found = "no number" if pd.isna(answer[rule]) else answer[rule]
        ended = "ended by itself" if answer["finished"] else "cut at the limit"
        about = f"{answer['problem_id']}: {verdict}; {rule} finds {found}, right is {answer['answer']}; {ended}"
        look = "white-space: pre-wrap; line-height: 1.4; margin: 0 0 0.8em"
        text.value = f"<b>{escape(about)}</b><br>" + "".join(
            f'<small>{name.capitalize()}</small><pre style="{look}">{escape(answer[name])}</pre>'
            for name in ("question", "response")
        )

    for control in (which, number):
        control.observe(show, names="value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox([which, number]), text])


def reliability_figure(scores: Mapping[str, pd.DataFrame], rule: str) -> Figure:
    """Accuracy, and confidence as a dotted line, of each tenth of the answers by confidence, a panel an arm. What lies
    between the two is overconfidence; where accuracy rises to the right, the student knows which answers are right."""
    names, columns = list(scores), min(len(scores), 2)
    rows, shared = math.ceil(len(names) / 2), {"sharex": True, "sharey": True}
    lines = max(style.wrapped(arms.title(arm)).count("\n") for arm in names)
    figure, panels = style.panels((1.6 + 0.2 * lines) * rows + 1, rows, columns, squeeze=False, **shared)
    for axes, arm in zip(panels.flat, names, strict=False):
        found = reliability(scores[arm], rule)
        place = np.arange(1, len(found) + 1)
        errors = [100 * (found["accuracy"] - found["low"]), 100 * (found["high"] - found["accuracy"])]
        look: dict[str, Any] = {"color": style.color(arm), "marker": style.marker(arm)}
        axes.plot(place, 100 * found["confidence"], color="0.3", linestyle=":")
        axes.errorbar(place, 100 * found["accuracy"], yerr=errors, capsize=2, markersize=4, **look)
        axes.set(title=style.wrapped(arms.title(arm)), ylim=(-3, 103), yticks=(0, 50, 100))
        axes.set_xticks(place[[0, -1]])
    for axes in panels.flat[len(names) :]:
        axes.remove()
    figure.supxlabel("Tenths of the answers, the most confident last;\ndotted: their confidence (%)")
    figure.supylabel("Accuracy (%)")
    return figure


def confidence_figure(scores: Mapping[str, pd.DataFrame], rule: str) -> Figure:
    """Mean log-probability of right and of wrong answers of every arm, as boxes."""
    titles = [arms.title(arm) for arm in scores]
    figure, axes = style.panels(0.8 + max(0.7, style.row_height(titles)) * len(scores))
    for y, answers in enumerate(scores.values()):
        right = answers[f"{rule}-correct"].to_numpy(bool)
        for kind, rows, offset, hatch in zip(KINDS, (right, ~right), (-0.18, 0.18), ("", "///"), strict=True):
            values = answers.loc[rows, "mean_logprob"].dropna()
            look: dict[str, Any] = {"boxprops": {"facecolor": "white" if hatch else "lightgrey", "hatch": hatch}}
            look |= {"medianprops": {"color": "black"}, "patch_artist": True, "label": kind if y == 0 else None}
            axes.boxplot(
                values, orientation="horizontal", positions=[y + offset], widths=0.3, manage_ticks=False, **look
            )
    style.name_rows(axes, titles)
    figure.supxlabel("Mean log-probability of a response's tokens\n(nats)")
    handles, kinds = axes.get_legend_handles_labels()
    style.legend(figure, dict(zip(kinds, handles, strict=True)))
    return figure


def lengths_figure(answers: pd.DataFrame, budget: int, arm: str) -> Figure:
    """How many answers of an arm are how long, up to its budget of tokens."""
    figure, axes = style.panels(2.6)
    axes.hist(answers["tokens"], bins=range(1, budget + 2), color=style.color(arm))
    axes.set(xlabel="Response length (tokens)", ylabel="Responses", xlim=(0, budget + 1))
    return figure
