import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from response_priming import stats
from response_priming.compare import tables
from response_priming.extraction import RULES
from response_priming.scoring import grade

RULE = "last-number"


def arm(*right):
    """Graded answers of one arm: right or wrong on each problem."""
    count = len(right)
    return grade(
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


def test_primed_arms_are_compared_with_neutral_words_too(scores):
    table = tables.gains(scores | {"constant-prefix": scores["none"]}, RULE, seed=0)
    pairs = list(zip(table["arm"], table["baseline"], strict=True))
    assert [arm for arm, baseline in pairs if baseline == "constant-prefix"] == ["teacher"]
    assert ("constant-prefix", "none") in pairs


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


def random_pair(count=200, seeds=1):
    rng = np.random.default_rng(1)
    return rng.random((seeds, count)) < 0.6, rng.random((seeds, count)) < 0.4


def test_relative_gain_is_a_share_of_the_baseline():
    new, old = np.array([[True] * 6 + [False] * 4]), np.array([[True] * 4 + [False] * 6])
    found = stats.paired(new, old, seed=0)
    assert found["points"] == pytest.approx(20)
    assert found["relative"] == pytest.approx(0.5)
    assert found["relative_low"] <= 0.5 <= found["relative_high"]


@pytest.mark.parametrize(("solved", "relative"), [(4, np.inf), (0, 0)])
def test_relative_gain_over_a_baseline_that_solves_nothing(solved, relative):
    new = np.array([[True] * solved + [False] * (10 - solved)])
    found = stats.paired(new, np.zeros((1, 10), bool), seed=0)
    assert found["relative"] == relative
    assert not np.isnan([found["relative_low"], found["relative_high"]]).any()


def test_swapped_arms_turn_the_sign_and_keep_the_p():
    new, old = random_pair()
    found, swapped = stats.paired(new, old, seed=0), stats.paired(old, new, seed=0)
    assert swapped["points"] == -found["points"]
    assert (swapped["wins"], swapped["losses"]) == (found["losses"], found["wins"])
    assert swapped["p"] == found["p"]


def test_counts_are_paired_as_the_answers_they_count():
    new, old = random_pair()
    counts = [int(cell.sum()) for cell in (new & old, new & ~old, ~new & old)]
    found, expected = stats.paired_counts(new.size, *counts, seed=0), stats.paired(new, old, seed=0)
    same = [key for key in stats.PAIRED if not key.endswith(("low", "high"))]
    assert {key: found[key] for key in same} == pytest.approx({key: expected[key] for key in same})
    assert (found["low"], found["high"]) == pytest.approx((expected["low"], expected["high"]), abs=1.0)


def test_p_is_the_sign_test_on_the_problems_that_only_one_arm_got():
    found = stats.paired(*random_pair(), seed=0)
    assert found["p"] == pytest.approx(binomtest(found["wins"], found["wins"] + found["losses"]).pvalue)
    assert found["differ"] == found["wins"] + found["losses"]


def test_interval_is_paired():
    """The same two accuracies are told apart better where both arms fail on the same problems."""
    old = np.arange(200)[None] % 2 == 0
    nested, opposed = old.copy(), ~old
    nested[:, 1:21:2] = opposed[:, 0:20:2] = True
    found = [stats.paired(new, old, seed=0) for new in (nested, opposed)]
    widths = [one["high"] - one["low"] for one in found]
    assert nested.mean() == opposed.mean()
    assert widths[0] < widths[1] / 2


def test_interval_repeats_with_its_seed():
    assert stats.paired(*random_pair(), seed=3) == stats.paired(*random_pair(), seed=3)


def test_identical_arms_gain_nothing_and_stay_finite():
    same = np.array([[True, False, True]])
    found = stats.paired(same, same, seed=0)
    assert found == dict.fromkeys(stats.PAIRED, 0) | {"n": 3, "seeds": 1, "p": 1}


# --- several seeds ---


def test_students_are_paired_by_seed():
    """Each seed's pair differs on two problems; the pools of both arms differ in no problem."""
    new = np.array([[True, True, False, False], [False, False, True, True]])
    found = stats.paired(new, new[::-1], seed=0)
    assert (found["wins"], found["losses"], found["differ"], found["points"]) == (4, 4, 4, 0)


def test_one_baseline_student_meets_every_seed():
    new, old = random_pair(seeds=3)
    found = stats.paired(new, old[:1], seed=0)
    assert found == stats.paired(new, np.repeat(old[:1], 3, axis=0), seed=0)
    assert found["points"] == pytest.approx(100 * (new.mean() - old[0].mean()))


def test_p_of_several_seeds_is_that_of_the_least_significant_one():
    new, old = random_pair(seeds=3)
    singles = [stats.paired(new[[seed]], old[[seed]], seed=0) for seed in range(3)]
    found = stats.paired(new, old, seed=0)
    assert found["p"] == max(one["p"] for one in singles)
    assert found["differ"] == min(one["differ"] for one in singles)
    assert found["wins"] == sum(one["wins"] for one in singles)


def test_students_that_differ_widen_the_interval_of_the_gain():
    rng = np.random.default_rng(2)
    old = rng.random((1, 200)) < 0.4
    widths = []
    for levels in ([0.6, 0.6, 0.6, 0.6], [0.3, 0.5, 0.7, 0.9]):
        new = rng.random((4, 200)) < np.array(levels)[:, None]
        found = stats.paired(new, old, seed=0)
        widths.append(found["high"] - found["low"])
    assert widths[1] > 1.5 * widths[0]


def test_gains_read_the_seed_column(scores):
    blocks = [scores["teacher"].assign(seed=0), scores["none"].assign(seed=1)]
    many = {"undistilled": scores["undistilled"].assign(seed=0), "teacher": pd.concat(blocks, ignore_index=True)}
    (row,) = tables.gains(many, RULE, seed=0).to_dict("records")
    assert row["points"] == pytest.approx(100 * (0.75 - 0.25))
    assert tables.accuracy(many, RULE, {})["seeds"].tolist() == [1, 2]


# --- rules and samples ---


def test_rules_table_has_an_accuracy_for_every_rule(scores):
    table = tables.rules(scores)
    assert list(zip(table["arm"], table["rule"], strict=True)) == [(arm, rule) for arm in scores for rule in RULES]
    rows = table[table["arm"] == "none"]
    assert (rows["accuracy"] == 0.5).all()
    assert (rows["low"] < 0.5).all()
    assert (rows["high"] > 0.5).all()


def test_every_table_of_accuracies_or_differences_says_n_seeds_and_interval(scores):
    for table in (tables.accuracy(scores, RULE, {}), tables.gains(scores, RULE, seed=0), tables.rules(scores)):
        assert {"n", "seeds", "low", "high"} <= set(table)
        assert (table["n"] == len(scores["none"])).all()


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
