"""What is shown of the answers, without a browser: tables and figures, and a widget that follows its controls."""

from io import StringIO

import ipywidgets
import pandas as pd
import pytest
from tests.evaluate.test_calibration import RULE, scores

from response_priming import arms, scoring
from response_priming.errors import InputError
from response_priming.evaluate import figures

ANSWERS = scoring.grade(
    pd.DataFrame(
        {
            "problem_id": ["test-0", "test-1", "test-2"],
            "question": ["1 + 1?", "2 + 2?", "<b>3</b>?"],
            "answer": ["2", "4", "3"],
            "response": ["It is 2", "It is 5", "<script>"],
            "finished": [True, True, False],
        }
    )
)


def controls(widget, kind):
    found = [widget] if isinstance(widget, kind) else []
    return found + [one for child in getattr(widget, "children", ()) for one in controls(child, kind)]


def test_browsing_shows_one_answer_and_filters():
    widget = figures.browse(ANSWERS, "last-number")
    (which,), (number,), (text,) = (
        controls(widget, kind) for kind in (ipywidgets.Dropdown, ipywidgets.BoundedIntText, ipywidgets.HTML)
    )
    assert "test-0: right" in text.value
    which.value = "wrong"
    assert number.max == 2
    assert "test-1: wrong; last-number finds 5, right is 4" in text.value
    number.value = 2
    assert "test-2: wrong; last-number finds no number, right is 3; cut at the limit" in text.value
    assert "<script>" not in text.value


def test_browsing_nothing_says_so():
    widget = figures.browse(ANSWERS.head(1), "last-number")
    controls(widget, ipywidgets.Dropdown)[0].value = "wrong"
    assert controls(widget, ipywidgets.HTML)[0].value == "<p>None.</p>"


def test_an_unknown_rule_is_named():
    with pytest.raises(InputError, match=r"^rule 'first': unknown; allowed: hash, "):
        figures.browse(ANSWERS, "first")


def test_reliability_figure_has_a_panel_for_each_arm():
    figure = figures.reliability_figure(scores(), RULE)
    assert [axes.get_title() for axes in figure.axes] == [arms.title(arm) for arm in scores()]
    confidence, accuracy = (line.get_ydata() for line in figure.axes[0].lines[:2])
    assert len(confidence) == len(accuracy)
    figure.savefig(StringIO(), format="svg")


def test_confidence_figure_names_each_arm_and_kind():
    figure = figures.confidence_figure(scores(), RULE)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(map(arms.title, scores()))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["correct", "incorrect"]
    figure.savefig(StringIO(), format="svg")
