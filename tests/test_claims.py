import numpy as np
import pandas as pd
import pytest

from response_priming import arms, artifacts, claims, params, paths, style
from response_priming.audit import findings
from response_priming.errors import InputError
from response_priming.evaluate.verdicts import SUPPORTED, UNSETTLED, UNSUPPORTED, UNTESTABLE

ARMS = ["undistilled", "fine-tuned", "none", "teacher", "ground-truth", "confidence"]


def gains(*rows):
    """Rows of `tables.gains`: arm, baseline, points, and, alone, half the interval's width; corrected, it is twice as
    wide. Relative ones at a baseline of 40 %."""
    table = pd.DataFrame([(*row, {})[:5] for row in rows], columns=["arm", "baseline", "points", "half", "changed"])
    for key, half in (("", 2 * table["half"]), ("alone_", table["half"])):
        table = table.assign(**{f"{key}low": table["points"] - half, f"{key}high": table["points"] + half})
    relative = {f"relative{end}": table[key] / 40 for end, key in
                (("", "points"), ("_low", "alone_low"), ("_high", "alone_high"))}  # fmt: skip
    named = table.assign(title=table["arm"], baseline_title=table["baseline"], p=0.02, alone_p=0.01, **relative)
    sizes = {"differ": 40, "seeds": 3, "clusters": 200, "detectable": 7.0}
    return pd.DataFrame([row | sizes | row["changed"] for row in named.to_dict("records")], columns=[*named, *sizes])


def primary(points, half, neutral=9, **changed):
    return gains(
        ("ground-truth", "none", points, half, changed), ("ground-truth", "constant-prefix", neutral, 4, changed)
    )


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (("teacher", "none", 8, 3), SUPPORTED),
        (("teacher", "none", 8, 5), UNSUPPORTED),  # alone its interval lies above 0, corrected it does not
        (("teacher", "none", -8, 3), UNSUPPORTED),
        (("teacher", "none", 8, 3, {"differ": 5}), UNTESTABLE),
        (("teacher", "none", 8, 3, {"seeds": 2}), UNSETTLED),
        (("teacher", "none", 8, 3, {"clusters": 3}), UNSETTLED),
    ],
)
def test_a_gain_is_judged_by_its_corrected_interval(row, verdict):
    assert claims.gain(gains(row))[1] == verdict


def test_the_best_of_several_primed_arms_is_taken_and_corrected():
    table = gains(("teacher", "fine-tuned", 2, 3), ("confidence", "fine-tuned", 9, 5))
    text, verdict = claims.gain_claims(table, 0.55)["over-fine-tuning"]
    assert text.startswith(
        "confidence over fine-tuned: +9.0 points (-1.0 to 19.0), corrected p 0.020, 3 students an arm"
    )
    assert text.endswith("7.0 points would have been found four times in five")
    assert verdict == UNSUPPORTED


@pytest.mark.parametrize(
    ("table", "verdict"),
    [
        (primary(8, 5), SUPPORTED),  # chosen beforehand, so not corrected
        (primary(8, 9), UNSUPPORTED),
        (primary(8, 5, neutral=3), UNSUPPORTED),  # neutral words do about as well
        (primary(8, 5, seeds=1), UNSETTLED),
        (primary(-8, 5, seeds=2), UNSETTLED),
        (primary(8, 5, clusters=3), UNSETTLED),
        (primary(8, 5).iloc[:1], UNSETTLED),  # neutral words were not run
        (primary(8, 5, differ=3), UNTESTABLE),
        (primary(8, 5).iloc[1:], UNTESTABLE),
    ],
)
def test_priming_is_a_claim_about_ground_truth_over_both_no_prompt_and_neutral_words(table, verdict):
    lead = gains(("teacher", "none", 30, 1), ("teacher", "constant-prefix", 30, 1))
    assert claims.gain_claims(pd.concat([table, lead]), 0.55)["priming"][1] == verdict


def test_what_is_not_settled_says_what_it_would_take():
    text, verdict = claims.gain_claims(primary(8, 5, seeds=1), 0.55)["priming"]
    assert verdict == UNSETTLED
    assert "one student an arm; students an arm: 1 of 3 needed" in text


UNPRIMED_ARMS = ["constant-prefix", "shuffled", "published-none", "published-teacher"]


def test_controls_and_arms_as_released_are_no_gain_of_priming():
    lead = [(arm, "fine-tuned", 30, 1) for arm in UNPRIMED_ARMS]
    found = claims.gain_claims(gains(("teacher", "fine-tuned", 2, 5), *lead), 0.55)
    assert found["over-fine-tuning"][0].startswith("teacher over fine-tuned")
    assert claims.gain_claims(gains(*lead), 0.55)["over-fine-tuning"] == claims.ABSENT


@pytest.mark.parametrize(
    ("points", "half", "verdict"),
    [
        (20, 8, SUPPORTED),  # 30 to 70 %
        (8, 5, UNSUPPORTED),  # 7.5 to 32.5 %: a gain, but not of 55 %
        (8, 28, UNSUPPORTED),  # reaches 55 %, but is no gain
    ],
)
def test_the_relative_gain_must_be_a_gain_and_reach_the_claimed_one(points, half, verdict):
    assert claims.gain_claims(primary(points, half), 0.55)["relative-gain"][1] == verdict


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
