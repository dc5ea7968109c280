"""The tables of the comparison that follow from the arms' graded answers alone, as pure functions.

`scores` is always arm -> its graded answers (see `evaluate.answer`), in the order of the table and the same problems in
the same order for every arm. An arm with several students has one block of all problems for each `seed`. Shares are
fractions; differences are in percentage points.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from response_priming import figures, params, scoring
from response_priming.extraction import RULES
from response_priming.verdicts import UNPRIMED


def accuracy(scores: Mapping[str, pd.DataFrame], rule: str, published: Mapping[str, float]) -> pd.DataFrame:
    """One row an arm: `scoring.summary`, and its `published` accuracy, NaN where there is none."""
    return pd.DataFrame(
        {
            "arm": arm,
            "title": figures.title(arm),
            **scoring.summary(answers, rule),
            "published": published.get(arm, np.nan),
        }
        for arm, answers in scores.items()
    )


def gains(scores: Mapping[str, pd.DataFrame], rule: str, *, seed: int) -> pd.DataFrame:
    """Every trained arm against the undistilled student, every primed arm or control against the unprimed one, and
    every primed arm against the one with neutral words.

    The columns of `paired`, and `p_holm`: p corrected for all pairs of the table.
    """
    right = {arm: scoring.by_student(answers, rule) for arm, answers in scores.items()}
    pairs = [(arm, params.UNDISTILLED) for arm in scores if arm != params.UNDISTILLED]
    pairs += [(arm, _unprimed(arm)) for arm in scores if arm not in params.CONTROLS and arm != _unprimed(arm)]
    pairs += [(arm, params.NEUTRAL) for arm in scores if params.is_primed(arm)]
    rows = [
        {"arm": arm, "title": figures.title(arm), "baseline": baseline, "baseline_title": figures.title(baseline)}
        | paired(right[arm], right[baseline], seed=seed)
        for arm, baseline in pairs
        if baseline in scores
    ]
    columns = ["arm", "title", "baseline", "baseline_title", *PAIRED]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=multipletests(table["p"], method="holm")[1] if rows else [])


RELATIVE = ("relative", "relative_low", "relative_high")
PAIRED = ("n", "seeds", "points", "low", "high", *RELATIVE, "wins", "losses", "differ", "p")


def _unprimed(arm: str) -> str:
    """The arm without a prefix that is trained in the same way."""
    return f"{params.RELEASED}{UNPRIMED}" if arm.startswith(params.RELEASED) else UNPRIMED


def paired(new: Any, old: Any, *, seed: int) -> dict[str, Any]:
    """How much more often `new` is right than `old`, bool [seeds, problems] each; `old` may be of one student.

    Paired are the answers to one problem of the two students with one seed, which began from the same weights and
    took the problems in the same order; a baseline of one student meets the student of every seed.

    `n`: problems; `seeds`: students of the arm. `points`: difference in percentage points. `relative`: the same as a
    share of the baseline's accuracy, infinite where that is 0 and the difference is not. `low`, `high`, `relative_low`,
    `relative_high`: their 95 % intervals by a percentile bootstrap (9,999 resamples; unlike BCa it exists even where
    all pairs are equal) that draws problems anew and, of several seeds, seeds as well. `wins`, `losses`: how often only
    the arm's, or only the baseline's, student solves a problem, all seeds together. `differ`: the problems on which the
    two students of a seed differ, and `p`: McNemar's exact test on these; of several seeds the fewest and the largest
    p, so p is small if every seed's is.
    """
    old = np.broadcast_to(old, new.shape)

    def gain(problems: Any, seeds: Any = np.zeros(1, int), axis: int = -1) -> Any:  # noqa: ARG001, B008
        cells = seeds[..., :, None], problems[..., None, :]
        now, before = (right[cells].mean(axis=(-1, -2)) for right in (new, old))
        return np.stack([100 * (now - before), np.where(now == before, 0, now / before - 1)])

    drawn = [np.arange(size) for size in new.shape[::-1] if size > 1]
    rng = np.random.default_rng(seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        points, relative = gain(np.arange(new.shape[1]), np.arange(new.shape[0]))
        resampled = bootstrap(drawn, gain, paired=False, vectorized=True, method="percentile", batch=500, rng=rng)
    (low, relative_low), (high, relative_high) = resampled.confidence_interval
    wins, losses = (new & ~old).sum(axis=1), (~new & old).sum(axis=1)
    tests = [mcnemar([[0, won], [lost, 0]], exact=True).pvalue for won, lost in zip(wins, losses, strict=True)]
    values = map(float, (points, low, high, relative, relative_low, relative_high))
    counts = map(int, (wins.sum(), losses.sum(), (wins + losses).min()))
    size = new.shape[1], new.shape[0]
    return dict(zip(PAIRED, (*size, *values, *counts, float(max(tests))), strict=True))


def rules(scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row an arm and extraction rule: the counts and the accuracy of `scoring.summary`, with its interval."""
    kept = ("n", "seeds", "correct", "accuracy", "low", "high")
    rows = (
        {"arm": arm, "title": figures.title(arm), "rule": rule, **scoring.summary(answers, rule)}
        for arm, answers in scores.items()
        for rule in RULES
    )
    return pd.DataFrame(rows)[["arm", "title", "rule", *kept]]


def samples(scores: Mapping[str, pd.DataFrame], rule: str, *, count: int = 2) -> pd.DataFrame:
    """What every arm's first student answered to the first `count` test problems: the first ones, not chosen ones."""
    tables = [answers.head(count).assign(arm=arm, title=figures.title(arm)) for arm, answers in scores.items()]
    table = pd.concat(tables).sort_index(kind="stable").rename(columns={f"{rule}-correct": "correct"})
    return table[["question", "answer", "arm", "title", "response", "correct"]].reset_index(drop=True)
