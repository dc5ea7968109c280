"""Leafing through graded responses in JupyterLab."""

from html import escape
from typing import Any

import ipywidgets
import pandas as pd

from response_priming.errors import InputError
from response_priming.extraction import RULES


def widget(answers: pd.DataFrame, rule: str) -> ipywidgets.Widget:
    """Leaf through graded answers (see `scoring.grade`) with a column `question`: all, the right or the wrong ones.

    Raises:
        InputError: there is no such rule.
    """
    if rule not in RULES:
        raise InputError(f"rule = {rule!r}: allowed: {', '.join(RULES)}")
    right = answers[f"{rule}-correct"].astype(bool)
    groups = {"all": answers, "right": answers[right], "wrong": answers[~right]}
    which = ipywidgets.Dropdown(
        options=[(f"{name} ({len(group)})", name) for name, group in groups.items()], description="Show"
    )
    number = ipywidgets.BoundedIntText(value=1, min=1, max=max(1, len(answers)), description="Number")
    text = ipywidgets.HTML()

    def show(_: Any = None) -> None:
        group = groups[which.value]
        number.max = max(1, len(group))
        text.value = _as_html(group.iloc[number.value - 1], rule) if len(group) else "<p>None.</p>"

    for control in (which, number):
        control.observe(show, names="value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox([which, number]), text])


def _as_html(answer: pd.Series, rule: str) -> str:
    verdict = "right" if answer[f"{rule}-correct"] else "wrong"
    found = "no number" if pd.isna(answer[rule]) else answer[rule]
    ended = "ended by itself" if answer["finished"] else "cut at the limit"
    about = f"{answer['problem_id']}: {verdict}; {rule} finds {found}, right is {answer['answer']}; {ended}"
    style = "white-space: pre-wrap; line-height: 1.4; margin: 0 0 0.8em"
    parts = {"Question": answer["question"], "Response": answer["response"]}
    shown = (f'<small>{name}</small><pre style="{style}">{escape(part)}</pre>' for name, part in parts.items())
    return f"<b>{escape(about)}</b><br>" + "".join(shown)
