"""What the comparison's tables say, as text for prose: numbers with their units, and clauses by rules fixed beforehand.

Every key of `variables` is always there, so that one manuscript fits all profiles; "not run" fills what lacks an arm.
"""

from typing import Any

import pandas as pd

from response_priming import params, stats, style

Row = Any  # one row of a table, a pandas Series of mixed types
DATASETS = {
    "procedural": "procedural one- and two-step word problems",
    "gsm8k": "GSM8K",
    "local": "the word problems of a folder",
}
MODELS = {"embedded": "SmolLM2-135M-Instruct (4-bit weights)"}


def variables(
    run: params.CompareRun, accuracy: pd.DataFrame, gains: pd.DataFrame, teacher: pd.DataFrame, models: dict[str, str]
) -> dict[str, str]:
    """All values that the manuscript may name.

    Args:
        accuracy: `tables.accuracy`.
        gains: `tables.gains`.
        teacher: `compare.teacher_table`.
        models: names of the `teacher` and the `student`, and their `precision`, as the run's artefacts record them.
    """
    primed_arms = [arm for arm in run.arms if params.is_primed(arm)]
    kd, primed = best(accuracy, [params.UNPRIMED, *primed_arms]), best(accuracy, primed_arms)
    kd_gain, primed_gain = _pair(gains, kd, params.UNDISTILLED), _pair(gains, primed, params.UNPRIMED)
    ranked = [row for _, row in teacher.sort_values("accuracy", kind="stable").iterrows()]
    values = {"profile": run.profile, "seed": str(run.seed), "dataset": DATASETS[run.dataset], "rule": run.rule}
    values |= {"n_train": str(run.n_train), "n_test": str(run.n_test)}
    values |= {
        key: MODELS.get(models.get(key, style.NOT_RUN), models.get(key, style.NOT_RUN))
        for key in ("teacher", "student")
    }
    values["precision"] = models.get("precision", style.NOT_RUN)
    values |= _scored("undistilled", _row(accuracy, params.UNDISTILLED))
    values |= _scored("fine_tuned", _row(accuracy, params.FINE_TUNED)) | _scored(
        "none", _row(accuracy, params.UNPRIMED)
    )
    values |= _scored("best_kd", _row(accuracy, kd)) | _gained("best_kd", kd_gain)
    values |= _scored("best_primed", _row(accuracy, primed)) | _gained("primed", primed_gain)
    values["beats_undistilled"] = beats_undistilled(_row(accuracy, kd), kd_gain)
    values["priming_verdict"] = priming_verdict(primed_gain)
    values["neutral_words"] = neutral_words(_row(accuracy, params.NEUTRAL), _pair(gains, primed, params.NEUTRAL))
    for key, at in (("teacher_best", -1), ("teacher_worst", 0)):
        values[f"{key}_strategy"] = str(ranked[at]["title"]) if ranked else style.NOT_RUN
        values[f"{key}_accuracy"] = style.percent(ranked[at]["accuracy"]) if ranked else style.NOT_RUN
    return values


def best(accuracy: pd.DataFrame, arms: list[str]) -> str | None:
    """The most accurate of these arms, the first of them where several are; None without any."""
    table = accuracy[accuracy["arm"].isin(arms)]
    return str(table["arm"].iloc[int(table["accuracy"].argmax())]) if len(table) else None


def beats_undistilled(arm: Row | None, gain: Row | None) -> str:
    """A clause with the best KD arm as its subject.

    "Beats" where `significant` holds of its gain over the undistilled student; "by more than the width of its interval"
    where the gain is also wider than the arm's own 95 % interval.
    """
    if arm is None or gain is None:
        return style.NOT_RUN
    if not stats.significant(gain):
        return "does not beat the undistilled student"
    if gain["points"] > 100 * (arm["high"] - arm["low"]):
        return "beats the undistilled student by more than the width of its interval"
    return "beats the undistilled student significantly but by less than the width of its interval"


def priming_verdict(gain: Row | None) -> str:
    """Whether priming the teacher helped the student: the best primed arm against the unprimed one.

    Supported: `significant` holds. Not testable: one of the two was not run, or their students of some seed differ on
    so few problems that McNemar's exact test could not have come out significant. Not supported: else.
    """
    if gain is None:
        return "not testable here: a primed and an unprimed student are needed"
    if gain["differ"] < stats.FEWEST_DISAGREEMENTS:
        return "not testable here: the best primed and the unprimed student disagree on too few problems"
    students = f"here, with {style.seeds(gain)}: the best primed student is"
    if stats.significant(gain):
        return f"supported {students} more accurate than the unprimed one"
    return f"not supported {students} not significantly more accurate than the unprimed one"


def neutral_words(arm: Row | None, gain: Row | None) -> str:
    """A sentence on whether it is what the prefix says that matters: the best primed arm against neutral words."""
    if arm is None or gain is None:
        return "Whether neutral words before the question would do as well was not tested with this profile."
    control, found = _scored("control", arm), _gained("primed", gain)
    return (
        f"With neutral words in place of the prefix, the student scores {control['control_accuracy']} (interval: "
        f"{control['control_interval']}); the best primed student's gain over it is {found['primed_gain']} (interval: "
        f"{found['primed_gain_interval']}; corrected McNemar test: {found['primed_p']})."
    )


def _row(accuracy: pd.DataFrame, arm: str | None) -> Row | None:
    rows = accuracy[accuracy["arm"] == arm]
    return rows.iloc[0] if len(rows) else None


def _pair(gains: pd.DataFrame, arm: str | None, baseline: str) -> Row | None:
    rows = gains[(gains["arm"] == arm) & (gains["baseline"] == baseline)]
    return rows.iloc[0] if len(rows) else None


def _scored(key: str, row: Row | None) -> dict[str, str]:
    if row is None:
        return dict.fromkeys((f"{key}_arm", f"{key}_accuracy", f"{key}_interval"), style.NOT_RUN)
    return {
        f"{key}_arm": style.title(row["arm"]),
        f"{key}_accuracy": style.percent(row["accuracy"]),
        f"{key}_interval": f"{style.interval(100 * row['low'], 100 * row['high'])} %",
    }


def _gained(key: str, row: Row | None) -> dict[str, str]:
    if row is None:
        names = ("gain", "gain_interval", "relative_gain", "relative_gain_interval", "p")
        return dict.fromkeys((f"{key}_{name}" for name in names), style.NOT_RUN)
    relative = (100 * row["relative_low"], 100 * row["relative_high"])
    return {
        f"{key}_gain": f"{row['points']:.1f} points",
        f"{key}_gain_interval": f"{style.interval(row['low'], row['high'])} points",
        f"{key}_relative_gain": style.percent(row["relative"]),
        f"{key}_relative_gain_interval": f"{style.interval(*relative)} %",
        f"{key}_p": f"p {style.p_value(row['p_holm'])}"
        if row["p_holm"] < 0.001
        else f"p = {style.p_value(row['p_holm'])}",
    }
