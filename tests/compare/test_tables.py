import pandas as pd
import pytest

from response_priming import scoring, stats
from response_priming.compare import tables
from response_priming.errors import InputError
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
    assert list(tables.accuracy(scores, RULE)["arm"]) == list(scores)


def test_accuracy_is_told_apart_by_the_number_of_calculations():
    answers = arm(True, False, True, False).assign(calculations=[1, 1, 2, 1])
    table = tables.lengths(tables.slices({"none": answers}), RULE)
    assert table[["arm", "calculations", "n", "correct"]].to_numpy().tolist() == [["none", 1, 3, 1], ["none", 2, 1, 1]]
    assert table["accuracy"].tolist() == [pytest.approx(1 / 3), 1]
    of_templates = tables.slices({"none": answers.assign(template=["a", "b", "c", "a"])})
    assert len(tables.lengths(of_templates, RULE)) == 2


def test_slices_have_every_student_and_an_interval_over_problems_alone():
    one, other = arm(*[True] * 30, *[False] * 10), arm(*[True] * 10, *[False] * 30)
    answers = pd.concat([one.assign(seed=3), other.assign(seed=8)]).assign(calculations=[1, 2] * 40)
    table = tables.slices({"none": answers, "undistilled": one.assign(seed=0, calculations=[1, 2] * 20)})
    assert len(table) == len(RULES) * (3 * 3 + 3)  # of all and of each length; of both students and of each
    chosen = table[(table["rule"] == RULE) & table["calculations"].isna() & (table["arm"] == "none")]
    assert chosen["seed"].fillna(-1).tolist() == [-1, 3, 8]
    assert chosen["accuracy"].tolist() == [0.5, 0.75, 0.25]
    both, first, second = chosen.to_dict("records")
    right = scoring.by_student(answers, RULE)
    assert (both["low"], both["high"]) == stats.accuracy_interval(right)
    # The students' mean is 1, 0.5 and 0 on a quarter, a half and a quarter of the problems: hardly a draw of problems.
    assert both["low"] < both["problems_low"] < 0.5 < both["problems_high"] < both["high"]
    for alone in (first, second):
        assert (alone["low"], alone["high"]) == (alone["problems_low"], alone["problems_high"])


# --- gains ---


def test_gains_pair_trained_with_undistilled_and_primed_with_unprimed(scores):
    table = tables.gains(scores, RULE, seed=0)
    assert list(zip(table["arm"], table["baseline"], strict=True)) == [
        ("fine-tuned", "undistilled"),
        ("none", "undistilled"),
        ("teacher", "undistilled"),
        ("teacher", "none"),
        ("none", "fine-tuned"),
        ("teacher", "fine-tuned"),
    ]


def test_primed_arms_are_compared_with_neutral_words_too(scores):
    table = tables.gains(scores | {"constant-prefix": scores["none"]}, RULE, seed=0)
    pairs = list(zip(table["arm"], table["baseline"], strict=True))
    assert [arm for arm, baseline in pairs if baseline == "constant-prefix"] == ["teacher"]
    assert ("constant-prefix", "none") in pairs


def test_gain_is_the_difference_of_the_accuracies_in_points(scores):
    accuracy = tables.accuracy(scores, RULE).set_index("arm")["accuracy"]
    for row in tables.gains(scores, RULE, seed=0).itertuples():
        assert row.points == pytest.approx(100 * (accuracy[row.arm] - accuracy[row.baseline]))
        assert row.low <= row.points <= row.high
        assert row.wins - row.losses == round(row.points * 40 / 100)


def test_gains_are_corrected_for_all_pairs(scores):
    table = tables.gains(scores, RULE, seed=0)
    assert (table["p"] >= table["alone_p"]).all()
    assert ((table["p"] < 0.05) == (table["low"] * table["high"] > 0)).all()
    alone = tables.gains({name: scores[name] for name in ("none", "teacher")}, RULE, seed=0).iloc[0]
    row = table.set_index(["arm", "baseline"]).loc[("teacher", "none")]
    assert row["low"] < alone["low"] <= alone["alone_low"] == row["alone_low"]


def test_each_gain_says_what_a_verdict_would_lack(scores):
    assert set(tables.gains(scores, RULE, seed=0)["lacks"]) == {"students an arm: 1 of 3 needed"}
    three = {name: pd.concat([answers.assign(seed=seed) for seed in range(3)]) for name, answers in scores.items()}
    assert set(tables.gains(three, RULE, seed=0)["lacks"]) == {""}


def test_problems_of_one_template_are_one_cluster(scores):
    templates = [f"story {number % 4}" for number in range(40)]
    told = {name: answers.assign(template=templates) for name, answers in scores.items()}
    row = tables.gains(told, RULE, seed=0).iloc[0]
    assert (row["n"], row["clusters"]) == (40, 4)
    assert "problems or templates: 4 of 6 needed" in row["lacks"]


@pytest.mark.parametrize(
    ("named", "said"), [(["one"] * 40, "0 of 40 problems have none, the others 1"), ([None, *["a"] * 39], "1 of 40")]
)
def test_templates_that_tell_no_problems_apart_are_refused(scores, named, said):
    with pytest.raises(InputError, match=f"template: {said}"):
        tables.gains({name: answers.assign(template=named) for name, answers in scores.items()}, RULE, seed=0)


@pytest.mark.parametrize("arms", [["undistilled"], ["teacher"], ["fine-tuned"]])
def test_without_a_baseline_gains_are_an_empty_table_with_its_columns(scores, arms):
    full = tables.gains(scores, RULE, seed=0)
    table = tables.gains({name: scores[name] for name in arms}, RULE, seed=0)
    assert table.empty
    assert list(table) == list(full)


# --- several seeds ---


def test_gains_read_the_seed_column(scores):
    blocks = [scores["teacher"].assign(seed=0), scores["none"].assign(seed=1)]
    many = {"undistilled": scores["undistilled"].assign(seed=0), "teacher": pd.concat(blocks, ignore_index=True)}
    (row,) = tables.gains(many, RULE, seed=0).to_dict("records")
    assert row["points"] == pytest.approx(100 * (0.75 - 0.25))
    assert tables.accuracy(many, RULE)["seeds"].tolist() == [1, 2]


# --- rules and samples ---


def test_rules_table_has_an_accuracy_for_every_rule(scores):
    table = tables.rules(tables.slices(scores))
    assert list(zip(table["arm"], table["rule"], strict=True)) == [(arm, rule) for arm in scores for rule in RULES]
    rows = table[table["arm"] == "none"]
    assert (rows["accuracy"] == 0.5).all()
    assert (rows["low"] < 0.5).all()
    assert (rows["high"] > 0.5).all()


def test_every_table_of_accuracies_or_differences_says_n_seeds_and_interval(scores):
    for table in (
        tables.accuracy(scores, RULE),
        tables.gains(scores, RULE, seed=0),
        tables.rules(tables.slices(scores)),
    ):
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
