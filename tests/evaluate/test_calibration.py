import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from response_priming.evaluate import calibration

RULE = "hash"


def answers(logprobs, right, response=""):
    return pd.DataFrame({"mean_logprob": logprobs, f"{RULE}-correct": right, "response": response, "seed": 0})


def calibrated(count, seed=0):
    """Answers that are right as often as their confidence says."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.05, 0.95, count)
    return answers(np.log(confidence), rng.random(count) < confidence)


# --- confidence ---


def test_confidence_that_always_tells_has_auroc_1():
    found = calibration.separation(answers([-1, -2, -5, -6], [True, True, False, False]), RULE)
    assert (found["logprob_correct"], found["logprob_incorrect"], found["auroc"]) == (-1.5, -5.5, 1)
    assert (found["auroc_low"], found["auroc_high"]) == (1, 1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 0), st.booleans()), min_size=4))
def test_auroc_is_the_share_of_pairs_in_the_right_order(pairs):
    logprobs, right = zip(*pairs, strict=True)
    right_ones = [value for value, one in pairs if one]
    wrong_ones = [value for value, one in pairs if not one]
    ordered = [(a > b) + (a == b) / 2 for a in right_ones for b in wrong_ones]
    found = calibration.separation(answers(logprobs, right), RULE)
    assert found["auroc"] == pytest.approx(np.mean(ordered) if ordered else np.nan, nan_ok=True)


def test_confidence_that_tells_nothing_has_an_interval_around_a_half():
    rng = np.random.default_rng(0)
    found = calibration.separation(answers(rng.normal(size=400), rng.random(400) < 0.5), RULE)
    assert found["auroc_low"] < 0.5 < found["auroc_high"]
    assert found["p"] > 0.05


@pytest.mark.parametrize("right", [True, False])
def test_without_right_or_wrong_answers_there_is_nothing_to_tell_apart(right):
    found = calibration.separation(answers([-1.0, -2.0], [right, right]), RULE)
    assert np.isnan([found["auroc"], found["auroc_low"], found["p"]]).all()


def test_reliability_bins_hold_all_answers_in_order_of_confidence():
    table = calibrated(95)
    found = calibration.reliability(table, RULE)
    assert found["n"].sum() == 95
    assert found["n"].between(9, 10).all()
    assert found["confidence"].is_monotonic_increasing
    assert (found["n"] * found["accuracy"]).sum() == pytest.approx(table[f"{RULE}-correct"].sum())
    assert found["accuracy"].between(found["low"], found["high"]).all()


def test_equal_confidences_and_few_answers_are_binned_too():
    found = calibration.reliability(answers([-1.0] * 3, [True, False, True]), RULE)
    assert found["n"].tolist() == [1, 1, 1]


def test_calibrated_answers_have_a_small_error_and_boastful_ones_theirs():
    assert calibration.calibration_error(calibrated(5000), RULE) < 0.05
    assert calibration.calibration_error(answers([0.0] * 10, [True] * 3 + [False] * 7), RULE) == pytest.approx(0.7)


def scores():
    """Answers of several arms, of which the last one is always right."""
    rng = np.random.default_rng(0)
    made = {}
    for shift, arm in enumerate(["undistilled", "fine-tuned", "none", "teacher"]):
        logprobs = -rng.gamma(2, 0.3, 60)
        made[arm] = answers(logprobs, rng.random(60) < expit(2 * logprobs + shift))
    return made | {"confidence": answers([-1.0] * 3, [True] * 3)}


def test_table_has_a_row_for_each_arm():
    found = calibration.calibration_table(scores(), RULE)
    assert list(found["arm"]) == list(scores())
    assert found[["n", "seeds"]].to_numpy().tolist() == [[60, 1]] * 4 + [[3, 1]]
    assert found["calibration_error"].between(0, 1).all()
    assert found["auroc"].isna().tolist() == [False] * 4 + [True]
