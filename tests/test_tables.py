import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from response_priming import evaluate, tables
from response_priming.extraction import RULES

RULE = "last-number"


def arm(*right):
    """Graded answers of one arm: right or wrong on each problem."""
    count = len(right)
    return evaluate.grade(
        pd.DataFrame(
            {
                "problem_id": [f"test-{number}" for number in range(count)],
                "question": [f"Question {number}?" for number in range(count)],
                "answer": ["7"] * count,
                "response": ["#### 7" if one else "#### 8" for one in right],
                "tokens": [5] * count,
                "finished": [True] * count,
            }
        )
    )


@pytest.fixture
def scores():
    return {
        "undistilled": arm(*[False] * 30, *[True] * 10),
        "fine-tuned": arm(*[True] * 10, *[False] * 20, *[True] * 10),
        "none": arm(*[True] * 20, *[False] * 20),
        "teacher": arm(*[True] * 40),
    }


# --- accuracy ---


def test_accuracy_keeps_the_order_of_the_arms(scores):
    assert list(tables.accuracy(scores, RULE, {})["arm"]) == list(scores)


def test_published_accuracy_is_missing_where_the_paper_has_none(scores):
    table = tables.accuracy(scores, RULE, {"teacher": 0.423}).set_index("arm")
    assert table.loc["teacher", "published"] == 0.423
    assert table["published"].isna().sum() == 3


# --- gains ---


def test_gains_pair_trained_with_undistilled_and_primed_with_unprimed(scores):
    table = tables.gains(scores, RULE, seed=0)
    assert list(zip(table["arm"], table["baseline"], strict=True)) == [
        ("fine-tuned", "undistilled"),
        ("none", "undistilled"),
        ("teacher", "undistilled"),
        ("teacher", "none"),
    ]


def test_gain_is_the_difference_of_the_accuracies_in_points(scores):
    accuracy = tables.accuracy(scores, RULE, {}).set_index("arm")["accuracy"]
    for row in tables.gains(scores, RULE, seed=0).itertuples():
        assert row.points == pytest.approx(100 * (accuracy[row.arm] - accuracy[row.baseline]))
        assert row.low <= row.points <= row.high
        assert row.wins - row.losses == round(row.points * 40 / 100)


def test_holm_never_lowers_a_p_and_raises_the_smallest_by_the_number_of_pairs(scores):
    table = tables.gains(scores, RULE, seed=0)
    assert (table["p_holm"] >= table["p"]).all()
    assert table["p_holm"].min() == pytest.approx(min(1, 4 * table["p"].min()))


@pytest.mark.parametrize("arms", [["undistilled"], ["teacher"], ["fine-tuned", "none"]])
def test_without_a_baseline_gains_are_an_empty_table_with_its_columns(scores, arms):
    full = tables.gains(scores, RULE, seed=0)
    table = tables.gains({name: scores[name] for name in arms}, RULE, seed=0)
    assert table.empty
    assert list(table) == list(full)


def random_pair(count=200):
    rng = np.random.default_rng(1)
    return rng.random(count) < 0.6, rng.random(count) < 0.4


def test_swapped_arms_turn_the_sign_and_keep_the_p():
    new, old = random_pair()
    points, _, _, wins, losses, p = tables.paired(new, old, seed=0)
    swapped = tables.paired(old, new, seed=0)
    assert (swapped[0], swapped[3], swapped[4], swapped[5]) == (-points, losses, wins, p)


def test_p_is_the_sign_test_on_the_problems_that_only_one_arm_got():
    new, old = random_pair()
    *_, wins, losses, p = tables.paired(new, old, seed=0)
    assert p == pytest.approx(binomtest(wins, wins + losses).pvalue)


def test_interval_is_paired():
    """The same two accuracies are told apart better where both arms fail on the same problems."""
    old = np.arange(200) % 2 == 0
    nested, opposed = old.copy(), ~old
    nested[1:21:2] = opposed[0:20:2] = True
    widths = [np.subtract(*tables.paired(new, old, seed=0)[2:0:-1]) for new in (nested, opposed)]
    assert nested.mean() == opposed.mean()
    assert widths[0] < widths[1] / 2


def test_interval_repeats_with_its_seed():
    assert tables.paired(*random_pair(), seed=3) == tables.paired(*random_pair(), seed=3)


def test_identical_arms_gain_nothing_and_stay_finite():
    same = np.array([True, False, True])
    assert tables.paired(same, same, seed=0) == (0, 0, 0, 0, 0, 1)


# --- rules and samples ---


def test_rules_table_has_an_accuracy_for_every_rule(scores):
    table = tables.rules(scores).set_index("arm")
    assert set(RULES) <= set(table)
    assert (table.loc["none", list(RULES)] == 0.5).all()


def test_samples_are_the_first_problems_with_every_arm(scores):
    table = tables.samples(scores, RULE, count=2)
    assert list(table["question"]) == ["Question 0?"] * 4 + ["Question 1?"] * 4
    assert list(table["arm"]) == 2 * list(scores)
    assert list(table["correct"][:4]) == [False, True, True, True]


def test_an_arm_as_released_is_compared_with_the_unprimed_one_as_released_and_a_control_with_the_unprimed():
    scores = dict.fromkeys(["none", "shuffled", "published-none", "published-teacher"], arm(True, False, True))
    table = tables.gains(scores, RULE, seed=0)
    assert list(zip(table["arm"], table["baseline"], strict=True)) == [
        ("shuffled", "none"),
        ("published-teacher", "published-none"),
    ]
