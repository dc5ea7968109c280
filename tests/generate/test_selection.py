import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from response_priming.generate import selection
from response_priming.params import sections


def answered(*texts, unfinished=(), samples=1):
    """Responses to problems whose right answer is 7; those at the positions `unfinished` were cut off."""
    rows = [(f"train-{n // samples}", n % samples, n not in unfinished, text) for n, text in enumerate(texts)]
    return pd.DataFrame(rows, columns=["problem_id", "sample", "finished", "text"])


def kept(table, **values):
    right = dict.fromkeys(table["problem_id"], "7")
    return selection.select(table, right, sections.Generate(**values))["kept"].tolist()


def test_without_filters_all_are_kept():
    assert kept(answered("7", "8", "no number", unfinished=[1])) == [True, True, True]


def test_unfinished_ones_are_dropped():
    assert kept(answered("7", "8", "9", unfinished=[1]), keep_finished=True) == [True, False, True]


def test_wrong_ones_are_dropped_and_right_is_by_number():
    assert kept(answered("7", "8", "7.0", "none"), keep_right=True) == [True, False, True, False]


def test_filters_add_up():
    table = answered("7", "7", "8", unfinished=[1])
    assert kept(table, keep_right=True, keep_finished=True) == [True, False, False]


@pytest.mark.parametrize(("rule", "expected"), [("hash", [True, False]), ("last-number", [False, True])])
def test_right_is_by_the_rule_chosen(rule, expected):
    assert kept(answered("#### 7 and 8", "#### 8 and 7"), keep_right=True, answer_rule=rule) == expected


def test_of_several_samples_the_first_with_the_majoritys_answer_is_kept():
    table = answered("8", "9", "9.0", "5", "5", "6", samples=3)
    assert kept(table, samples=3, temperature=1) == [False, True, False, True, False, False]


def test_filters_go_before_the_vote():
    table = answered("8", "8", "7", "8", "9", "6", samples=3)
    assert kept(table, samples=3, temperature=1, keep_right=True) == [False, False, True, False, False, False]


def test_counts_add_up():
    table = answered("7", "8", "7", unfinished=[2])
    selected = selection.select(table, dict.fromkeys(table["problem_id"], "7"), sections.Generate(keep_right=True))
    expected = {"problems": 3, "responses": 3, "finished": 2, "right": 2, "kept": 2, "dropped": 1}
    assert selection.counts(selected) == expected


@pytest.mark.parametrize(
    ("answers", "position"),
    [(["1"], 0), (["1", "2"], 0), (["1", "2", "2"], 1), (["1", "2", "2.0", "1"], 0), ([None, "3"], 1), ([None] * 2, 0)],
)
def test_the_majority_is_the_most_frequent_and_ties_go_to_the_first(answers, position):
    assert selection.majority(answers) == position


@given(st.lists(st.one_of(st.none(), st.integers(0, 3).map(str)), min_size=1, max_size=9))
def test_no_answer_is_more_frequent_than_the_majority(answers):
    winner = answers[selection.majority(answers)]
    votes = [answer for answer in answers if answer is not None]
    assert not votes or all(votes.count(winner) >= votes.count(other) for other in votes)
