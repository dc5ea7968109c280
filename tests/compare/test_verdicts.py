import pandas as pd
import pytest

from response_priming import params
from response_priming.compare import verdicts
from response_priming.report import prose


def gain(points, p_holm=0.01, differ=40, half_width=4.0, seeds=1):
    values = {"points": points, "low": points - half_width, "p_holm": p_holm, "differ": differ}
    return pd.Series(values | {"seeds": seeds}, dtype=object)


ARM = pd.Series({"low": 0.40, "high": 0.54})


@pytest.mark.parametrize(
    ("found", "clause"),
    [
        (gain(14.5), "beats the undistilled student by more than the width of its interval"),
        (gain(13.5), "beats the undistilled student significantly but by less than the width of its interval"),
        (gain(14.5, half_width=15.0), "does not beat the undistilled student"),
        (gain(14.5, p_holm=0.05), "does not beat the undistilled student"),
        (gain(-14.5), "does not beat the undistilled student"),
        (None, "not run"),
    ],
)
def test_beats_undistilled(found, clause):
    assert verdicts.beats_undistilled(ARM, found) == clause


@pytest.mark.parametrize(
    ("found", "start"),
    [
        (gain(5.0), "supported"),
        (gain(5.0, p_holm=0.05), "not supported"),
        (gain(-5.0), "not supported"),
        (gain(5.0, half_width=5.0), "not supported"),
        (gain(0.1, differ=5), "not testable"),
        (None, "not testable"),
    ],
)
def test_priming_verdict(found, start):
    assert verdicts.priming_verdict(found).startswith(f"{start} here")


@pytest.mark.parametrize("points", [5.0, -5.0])
def test_the_verdict_on_priming_says_how_many_training_seeds_it_rests_on(points):
    assert " here, with one training seed: " in verdicts.priming_verdict(gain(points))
    assert " here, with 3 training seeds: " in verdicts.priming_verdict(gain(points, seeds=3))


def accuracy_of(**shares):
    rows = [
        {"arm": arm.replace("_", "-"), "accuracy": share, "low": share - 0.05, "high": share + 0.05}
        for arm, share in shares.items()
    ]
    return pd.DataFrame(rows, columns=["arm", "accuracy", "low", "high"])


def test_best_is_the_most_accurate_of_the_arms_asked_for():
    table = accuracy_of(undistilled=0.9, none=0.3, teacher=0.5, confidence=0.5)
    assert verdicts.best(table, ["none", "teacher", "confidence"]) == "teacher"
    assert verdicts.best(table, ["none"]) == "none"
    assert verdicts.best(table, []) is None


GAINS = [
    "arm",
    "baseline",
    "points",
    "low",
    "high",
    "relative",
    "relative_low",
    "relative_high",
    "differ",
    "p_holm",
    "seeds",
]


def texts(arms, accuracy, gains=(), teacher=()):
    run = params.CompareRun(arms=arms)
    gains = pd.DataFrame(gains, columns=GAINS)
    teacher = pd.DataFrame(teacher, columns=["title", "accuracy"])
    return verdicts.variables(run, accuracy, gains, teacher, {"student": "embedded"})


def test_every_text_of_the_manuscript_is_there_whatever_arms_were_run():
    found = texts(["undistilled"], accuracy_of(undistilled=0.2))
    assert set(prose.COMPARISON) <= set(found)
    assert found["best_kd_arm"] == found["primed_gain"] == found["teacher_best_accuracy"] == "not run"


def test_texts_carry_their_units():
    found = texts(
        ["undistilled", "none", "teacher"],
        accuracy_of(undistilled=0.185, none=0.4, teacher=0.505),
        [
            ("none", "undistilled", 21.5, 15, 28, 1.16, 0.7, 1.9, 70, 1e-7, 1),
            ("teacher", "undistilled", 32.0, 25, 39, 1.73, 1.2, 2.4, 76, 1e-9, 1),
            ("teacher", "none", 10.5, 2, 19, 0.26, 0.04, 0.52, 59, 0.0123, 1),
        ],
        [("KD, no prompt", 0.6), ("KD, Teacher", 0.7)],
    )
    assert found["undistilled_accuracy"] == "18.5 %"
    assert found["undistilled_interval"] == "13.5 to 23.5 %"
    assert found["best_kd_arm"] == found["best_primed_arm"] == found["teacher_best_strategy"] == "KD, Teacher"
    assert (found["best_kd_gain"], found["best_kd_p"]) == ("32.0 points", "p < 0.001")
    assert (found["primed_gain_interval"], found["primed_p"]) == ("2.0 to 19.0 points", "p = 0.012")
    assert (found["primed_relative_gain"], found["primed_relative_gain_interval"]) == ("26.0 %", "4.0 to 52.0 %")
    assert found["teacher_worst_accuracy"] == "60.0 %"
    assert found["student"].startswith("SmolLM2")


def test_neutral_words_are_set_against_the_best_primed_arm_where_they_were_tried():
    arms, accuracy = ["none", "teacher"], accuracy_of(none=0.4, teacher=0.5, constant_prefix=0.45)
    assert "not tested" in texts(arms, accuracy[:2])["neutral_words"]
    pair = ("teacher", "constant-prefix", 5.0, -1, 11, 0.1, -0.02, 0.2, 59, 0.2, 3)
    said = texts([*arms, "constant-prefix"], accuracy, [pair])["neutral_words"]
    assert "scores 45.0 % (interval: 40.0 to 50.0 %)" in said
    assert "gain over it is 5.0 points (interval: -1.0 to 11.0 points; corrected McNemar test: p = 0.200)" in said


def test_a_control_or_an_arm_as_released_is_never_the_best_primed_one():
    accuracy = accuracy_of(none=0.3, teacher=0.4, shuffled=0.9, constant_prefix=0.9, published_confidence=0.9)
    found = texts(list(accuracy["arm"]), accuracy)
    assert found["best_primed_arm"] == found["best_kd_arm"] == "KD, Teacher"
