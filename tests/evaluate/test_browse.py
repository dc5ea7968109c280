"""The widget, without a browser: what it shows follows its controls."""

import ipywidgets
import pandas as pd
import pytest
from tests.attention.test_widgets import controls

from response_priming import scoring
from response_priming.errors import InputError
from response_priming.evaluate import browse

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


def test_browsing_shows_one_answer_and_filters():
    widget = browse.widget(ANSWERS, "last-number")
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
    widget = browse.widget(ANSWERS.head(1), "last-number")
    controls(widget, ipywidgets.Dropdown)[0].value = "wrong"
    assert controls(widget, ipywidgets.HTML)[0].value == "<p>None.</p>"


def test_an_unknown_rule_is_named():
    with pytest.raises(InputError, match=r"^rule = 'first': allowed: hash, "):
        browse.widget(ANSWERS, "first")
