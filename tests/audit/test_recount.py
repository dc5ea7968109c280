import made_logs
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from response_priming import arms
from response_priming.audit import recount, released
from response_priming.extraction import RULES

FACTS = arms.published()
RECORDED = FACTS["recount"]
# What the paper's README and a recount by hand of its logs give: graded, boxed-first, with a boxed number.
EXPECTED = {
    "undistilled": (161, 120, 409),
    "fine-tuned": (303, 330, 260),
    "none": (404, 411, 412),
    "confidence": (None, 508, 478),
    "teacher": (558, 561, 559),
    "ground-truth": (635, 637, 663),
}


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """The counts of the made-up logs."""
    return recount.count(released.read(made_logs.write(tmp_path_factory.mktemp("logs"))))


def test_counts_of_one_arm(counts):
    found = counts["arms"]["teacher"]
    assert (counts["n"], found["cap"], found["capped"], found["capped_correct"]) == (4, 60, 2, 0)
    assert (found["boxed"], found["boxed_correct"], found["correct"]["boxed-first"]) == (2, 1, 2)
    assert (found["graded"], found["graded_otherwise"]) == (3, 1)
    assert (found["correct"]["last-number"], found["answered"]["last-number"], found["correct"]["hash"]) == (2, 3, 0)


def test_a_log_without_grades_counts_none(counts):
    assert counts["arms"]["confidence"]["graded"] is None
    same = counts["arms"]["confidence"] | {"graded": 3, "graded_otherwise": 1}
    assert same == counts["arms"]["teacher"]


def test_only_right_counts_problems_that_another_arm_gets_wrong(tmp_path):
    other = made_logs.tables()["base-KD.csv"].assign(model_answer=["6", "1,200", "8", "3"])
    found = recount.count(released.read(made_logs.write(tmp_path, {"base-KD.csv": other})))["only_right"]
    assert (found["none"]["teacher"], found["teacher"]["none"], found["teacher"]["ground-truth"]) == (2, 1, 0)


def test_equal_counts_have_no_differences(counts):
    assert recount.differences(counts, counts) == []


def test_a_difference_is_named_with_both_values(counts):
    changed = {**counts, "n": 5, "arms": {**counts["arms"], "new": 1}}
    assert recount.differences(counts, changed) == ["n = 4 (recorded: 5)", "arms.new = None (recorded: 1)"]


def test_rows_have_every_arm_by_every_rule_and_both_printed_ones(counts):
    rows = pd.DataFrame(recount.rows(counts, FACTS))
    assert len(rows) == len(released.LOGS) * (len(RULES) + 2)
    assert list(rows)[:2] == ["arm", "rule"]
    confidence = rows[(rows["arm"] == "confidence") & (rows["rule"] == "graded")].iloc[0]
    assert confidence[["answered", "correct", "accuracy", "low", "high"]].isna().all()


@given(st.integers(0, 1319))
def test_an_interval_holds_its_accuracy(correct):
    row = recount._row("none", "hash", 1319, 1319, correct)
    assert row["low"] <= row["accuracy"] <= row["high"]


# --- the record ---


def test_the_record_is_of_the_rules_and_arms_there_are():
    for found in RECORDED["arms"].values():
        assert list(found["correct"]) == list(found["answered"]) == list(RULES)
    assert set(RECORDED["arms"]) == set(released.LOGS) == set(FACTS["arms"])


@pytest.mark.parametrize("arm", EXPECTED)
def test_the_record_has_the_known_counts(arm):
    found = RECORDED["arms"][arm]
    assert (found["graded"], found["correct"]["boxed-first"], found["boxed"]) == EXPECTED[arm]


def test_the_record_fits_together():
    correct = {arm: found["correct"]["boxed-first"] for arm, found in RECORDED["arms"].items()}
    for arm, others in RECORDED["only_right"].items():
        for other, number in others.items():
            assert correct[arm] - number == correct[other] - RECORDED["only_right"][other][arm]


@pytest.mark.skipif(not made_logs.REAL.is_dir(), reason=made_logs.NO_LOGS)
def test_the_released_logs_count_as_recorded():
    assert recount.differences(recount.count(released.read(made_logs.REAL)), RECORDED) == []


# --- tables ---


def test_pairs_are_tested_on_the_counts_of_the_record():
    tests = recount.tabulate(RECORDED, FACTS)["tests"].set_index(["arm", "baseline"])
    assert len(tests) == 15
    row = tests.loc[("ground-truth", "none")]
    assert (row["wins"], row["losses"]) == (395, 169)
    assert row["points"] == pytest.approx(100 * (637 - 411) / 1319)
    assert row["relative_low"] < row["relative"] < row["relative_high"]
    assert (tests["p"] >= tests["alone_p"]).all()
    assert ((tests["p"] < 0.05) == (tests["low"] * tests["high"] > 0)).all()


@pytest.mark.parametrize("arm", released.LOGS)
def test_factors_make_up_the_accuracy(arm):
    share = recount.shares(RECORDED, arm)
    boxed = share["boxed_share"] * share["boxed_right"]
    assert boxed + (1 - share["boxed_share"]) * share["unboxed_right"] == pytest.approx(share["accuracy"])


def test_boxing_explains_all_where_boxed_answers_are_equally_right():
    one, other = ({"boxed_share": share, "boxed_right": 0.8, "unboxed_right": 0.1} for share in (0.5, 0.3))
    assert recount.boxing(one, other) == pytest.approx(100 * 0.2 * 0.7)
    assert recount.boxing(one, one) == 0
