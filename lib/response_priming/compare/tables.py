"""The tables of the comparison that follow from the arms' graded answers alone, as pure functions.

`scores` is always arm -> its graded answers (see `evaluate.answer`), in the order of the table and the same problems in
the same order for every arm. An arm with several students has one block of all problems for each `seed`. Shares are
fractions; differences are in percentage points.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from response_priming import arms, scoring, stats
from response_priming.extraction import RULES


def accuracy(scores: Mapping[str, pd.DataFrame], rule: str, published: Mapping[str, float]) -> pd.DataFrame:
    """One row an arm: `scoring.summary`, and its `published` accuracy, NaN where there is none."""
    return pd.DataFrame(
        {
            "arm": arm,
            "title": arms.title(arm),
            **scoring.summary(answers, rule),
            "published": published.get(arm, np.nan),
        }
        for arm, answers in scores.items()
    )


def teacher(graded: Mapping[str, pd.DataFrame], rule: str) -> pd.DataFrame:
    """One row a strategy: `scoring.summary` of the teacher's own graded responses under it."""
    rows = [{"arm": name, "title": arms.title(name), **scoring.summary(rows, rule)} for name, rows in graded.items()]
    return pd.DataFrame(rows, columns=["arm", "title", *scoring.SUMMARY])


def gains(scores: Mapping[str, pd.DataFrame], rule: str, *, seed: int) -> pd.DataFrame:
    """Every trained arm against the undistilled student, every primed arm or control against the unprimed one, and
    every primed arm against the one with neutral words; the columns of `gains_of`."""
    pairs = [(arm, arms.UNDISTILLED) for arm in scores if arm != arms.UNDISTILLED]
    pairs += [(arm, arms.unprimed(arm)) for arm in scores if arm not in arms.CONTROLS and arm != arms.unprimed(arm)]
    pairs += [(arm, arms.NEUTRAL) for arm in scores if arms.is_primed(arm)]
    return gains_of(pairs, scores, rule, seed=seed)


def gains_of(
    pairs: Sequence[tuple[str, str]], scores: Mapping[str, pd.DataFrame], rule: str, *, seed: int
) -> pd.DataFrame:
    """A row an arm and its baseline, as far as both have scores: the columns of `stats.paired`, and `p_holm`, which is
    p corrected for all pairs of the table."""
    right = {arm: scoring.by_student(answers, rule) for arm, answers in scores.items()}
    rows = [
        {"arm": arm, "title": arms.title(arm), "baseline": baseline, "baseline_title": arms.title(baseline)}
        | stats.paired(right[arm], right[baseline], seed=seed)
        for arm, baseline in pairs
        if baseline in scores
    ]
    table = pd.DataFrame(rows, columns=["arm", "title", "baseline", "baseline_title", *stats.PAIRED])
    return table.assign(p_holm=stats.holm(table["p"]))


def rules(scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row an arm and extraction rule: the counts and the accuracy of `scoring.summary`, with its interval."""
    rows = (
        {"arm": arm, "title": arms.title(arm), "rule": rule, **scoring.summary(answers, rule)}
        for arm, answers in scores.items()
        for rule in RULES
    )
    return pd.DataFrame(rows)[["arm", "title", "rule", "n", "seeds", "correct", "accuracy", "low", "high"]]


def samples(scores: Mapping[str, pd.DataFrame], rule: str, *, count: int = 2) -> pd.DataFrame:
    """What every arm's first student answered to the first `count` test problems: the first ones, not chosen ones."""
    tables = [answers.head(count).assign(arm=arm, title=arms.title(arm)) for arm, answers in scores.items()]
    table = pd.concat(tables).sort_index(kind="stable").rename(columns={f"{rule}-correct": "correct"})
    return table[["question", "answer", "arm", "title", "response", "correct"]].reset_index(drop=True)
