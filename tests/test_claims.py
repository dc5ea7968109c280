import numpy as np
import pandas as pd
import pytest

from response_priming import arms, artifacts, claims, params, paths, style
from response_priming.audit import findings
from response_priming.claims import SUPPORTED, UNSUPPORTED, UNTESTABLE
from response_priming.errors import InputError

ARMS = ["undistilled", "fine-tuned", "none", "teacher", "ground-truth", "confidence"]


def gains(*rows):
    """Rows of `tables.gains`: arm, baseline, points, low, high, p_holm; relative ones at a baseline of 40 %."""
    columns = ["arm", "baseline", "points", "low", "high", "p_holm", "differ"]
    table = pd.DataFrame([(*row, 40)[:7] for row in rows], columns=columns)
    relative = {f"relative{end}": table[key] / 40 for end, key in (("", "points"), ("_low", "low"), ("_high", "high"))}
    return table.assign(title=table["arm"], baseline_title=table["baseline"], wins=30, losses=10, seeds=1, **relative)


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (("teacher", "none", 8, 3, 13, 0.01), SUPPORTED),
        (("teacher", "none", 8, 3, 13, 0.06), UNSUPPORTED),
        (("teacher", "none", 8, -1, 13, 0.01), UNSUPPORTED),
        (("teacher", "none", -8, -13, -3, 0.01), UNSUPPORTED),
        (("teacher", "none", 8, 3, 13, 0.01, 5), UNTESTABLE),
    ],
)
def test_a_gain_needs_its_interval_and_its_p(row, verdict):
    assert claims.gain(gains(row))[1] == verdict


def test_the_best_of_several_primed_arms_is_taken():
    table = gains(("teacher", "none", 2, -3, 7, 0.8), ("confidence", "none", 9, 4, 14, 0.01))
    text, verdict = claims.gain_claims(table, 0.55)["priming"]
    assert text.startswith("confidence over none: +9.0 points (4.0 to 14.0), 30 wins, 10 losses, p (Holm) 0.010")
    assert verdict == SUPPORTED


UNPRIMED_ARMS = ["constant-prefix", "shuffled", "published-none", "published-teacher"]


def test_controls_and_arms_as_released_are_no_gain_of_priming():
    lead = [(arm, "none", 30, 20, 40, 0.001) for arm in UNPRIMED_ARMS]
    found = claims.gain_claims(gains(("teacher", "none", 2, -3, 7, 0.8), *lead), 0.55)
    assert found["priming"][0].startswith("teacher over none")
    assert found["priming"][1] == UNSUPPORTED
    assert claims.gain_claims(gains(*lead), 0.55)["priming"] == claims.ABSENT


def test_only_primed_arms_are_set_against_the_fine_tuned_one():
    answers = pd.DataFrame({"problem_id": ["a", "b"], "seed": 0, "hash-correct": [True, False]})
    scores = dict.fromkeys([*ARMS, *UNPRIMED_ARMS], answers)
    assert list(claims.over_fine_tuning(scores, "hash", seed=0)["arm"]) == ["teacher", "ground-truth", "confidence"]


@pytest.mark.parametrize(
    ("points", "low", "high", "p", "verdict"),
    [
        (20, 12, 28, 0.001, SUPPORTED),  # 30 to 70 %
        (8, 3, 13, 0.001, UNSUPPORTED),  # 7.5 to 32.5 %: a gain, but not of 55 %
        (8, -20, 40, 0.5, UNSUPPORTED),  # reaches 55 %, but is no gain
    ],
)
def test_the_relative_gain_must_be_a_gain_and_reach_the_claimed_one(points, low, high, p, verdict):
    rows = gains(("ground-truth", "none", points, low, high, p))
    assert claims.relative_gain(rows, 0.55)[1] == verdict


def test_gains_that_were_not_run_are_not_testable():
    assert set(claims.gain_claims(gains(), 0.55).values()) == {claims.ABSENT}


def series(values, arms=ARMS):
    return pd.Series(values, index=arms, dtype=float)


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        ([1, 2, 3, 4, 5, 6], SUPPORTED),
        ([6, 5, 4, 3, 2, 1], UNSUPPORTED),
        ([1, 3, 2, 6, 4, 5], UNSUPPORTED),
        ([1, 1, 1, 1, 1, 1], UNTESTABLE),
    ],
)
def test_the_order_must_hold_beyond_chance(measured, verdict):
    assert claims.follows({"x": series([1, 2, 3, 4, 5, 6])}, series(measured), sign=1)[1] == verdict


def test_four_arms_cannot_show_an_order():
    assert claims.follows({"x": series([1, 2, 3, 4], ARMS[:4])}, series(range(6)), sign=1) == ("4 arms", UNTESTABLE)


def test_every_quantity_must_follow():
    falling, mixed = series([6, 5, 4, 3, 2, 1]), series([6, 1, 5, 2, 4, 3])
    measured = series([1, 2, 3, 4, 5, 6])
    assert claims.follows({"entropy": falling, "diagonal": falling}, measured, sign=-1)[1] == SUPPORTED
    assert claims.follows({"entropy": falling, "diagonal": mixed}, measured, sign=-1)[1] == UNSUPPORTED


def answered(probabilities):
    return pd.DataFrame({"problem_id": range(len(probabilities)), "sample": 0, "confidence": probabilities})


def test_confidence_is_compared_problem_by_problem():
    before = np.linspace(0.6, 0.95, 12)
    text, verdict = claims.confidence(answered(before), answered(before - np.tile([0.05, 0.04], 6)).sample(frac=1))
    assert verdict == SUPPORTED
    assert "difference -0.045" in text
    assert claims.confidence(answered(before), answered(before + np.tile([0.03, 0.04], 6)))[1] == UNSUPPORTED


# --- the stage ---


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A build folder that holds the audit and nothing else."""
    root = tmp_path_factory.mktemp("build")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", root)
        findings.audit(params.AuditRun())
    return root


def test_without_any_run_every_claim_is_shown_and_none_is_testable(audited, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", audited)
    found = claims.claims(params.ClaimsRun())
    assert set(found["verdict"]) == {UNTESTABLE}
    assert len(found) == len(arms.published()["claims"])
    html = style.printed(found, "claims").to_html()
    assert "55.0 % by the recount" in html
    assert "{" not in "".join(found["claim"] + found["audit"])


def test_without_the_audit_the_stage_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    with pytest.raises(InputError, match="audit: not made yet"):
        claims.claims(params.ClaimsRun())


def test_attention_without_a_comparison_decides_nothing(audited, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", audited)
    with artifacts.writing(audited / "laptop" / "attention", {}) as folder:
        (folder / "metrics.parquet").touch()
    assert set(claims.claims(params.ClaimsRun())["verdict"]) == {UNTESTABLE}
