"""The tables of the comparison that follow from the arms' graded answers alone, as pure functions.

`scores` is always arm -> its graded answers (see `evaluate.answer`), in the order of the table and the same problems in
the same order for every arm. Shares are fractions; differences are in percentage points.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from response_priming import evaluate, figures, params
from response_priming.extraction import RULES
from response_priming.verdicts import UNPRIMED


def accuracy(scores: Mapping[str, pd.DataFrame], rule: str, published: Mapping[str, float]) -> pd.DataFrame:
    """One row an arm: `evaluate.summary`, and its `published` accuracy, NaN where there is none."""
    return pd.DataFrame(
        {
            "arm": arm,
            "title": figures.title(arm),
            **evaluate.summary(answers, rule),
            "published": published.get(arm, np.nan),
        }
        for arm, answers in scores.items()
    )


def gains(scores: Mapping[str, pd.DataFrame], rule: str, *, seed: int) -> pd.DataFrame:
    """Every trained arm against the undistilled student, and every primed arm or control against the unprimed one.

    `points` (difference in percentage points) with `low` and `high`, its 95 % interval; `wins` and `losses` (problems
    that only the arm, or only the baseline, got right); `p` of McNemar's exact test and `p_holm`, corrected for all
    pairs of the table.
    """
    right = {arm: answers[f"{rule}-correct"].to_numpy(bool) for arm, answers in scores.items()}
    pairs = [(arm, params.UNDISTILLED) for arm in scores if arm != params.UNDISTILLED]
    pairs += [(arm, _unprimed(arm)) for arm in scores if arm not in params.CONTROLS and arm != _unprimed(arm)]
    pairs = [(arm, baseline) for arm, baseline in pairs if baseline in scores]
    columns = ["arm", "title", "baseline", "baseline_title", "points", "low", "high", "wins", "losses", "p"]
    rows = [
        (arm, figures.title(arm), baseline, figures.title(baseline), *paired(right[arm], right[baseline], seed=seed))
        for arm, baseline in pairs
    ]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=multipletests(table["p"], method="holm")[1] if rows else [])


def _unprimed(arm: str) -> str:
    """The arm without a prefix that is trained in the same way."""
    return f"{params.RELEASED}{UNPRIMED}" if arm.startswith(params.RELEASED) else UNPRIMED


def paired(new: NDArray[np.bool_], old: NDArray[np.bool_], *, seed: int) -> tuple[float, float, float, int, int, float]:
    """Difference in points, the ends of its 95 % interval, wins, losses, p; `new` and `old` [problems] are paired.

    The interval is the percentile one, which unlike BCa exists even where all pairs are equal.
    """
    percent = (100.0 * new, 100.0 * old)
    rng = np.random.default_rng(seed)
    ends = bootstrap(percent, _difference, paired=True, method="percentile", batch=500, rng=rng).confidence_interval
    both, wins, losses, neither = (int(cell.sum()) for cell in (new & old, new & ~old, ~new & old, ~new & ~old))
    p = float(mcnemar([[both, wins], [losses, neither]], exact=True).pvalue)
    return float(_difference(*percent)), float(ends.low), float(ends.high), wins, losses, p


def _difference(new: NDArray[Any], old: NDArray[Any], axis: int = -1) -> Any:
    return np.mean(new - old, axis=axis)


def rules(scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Accuracy of every arm by every extraction rule."""
    return pd.DataFrame(
        {"arm": arm, "title": figures.title(arm)} | {rule: answers[f"{rule}-correct"].mean() for rule in RULES}
        for arm, answers in scores.items()
    )


def samples(scores: Mapping[str, pd.DataFrame], rule: str, *, count: int = 2) -> pd.DataFrame:
    """What every arm answered to the first `count` test problems: the first ones, not chosen ones."""
    tables = [answers.head(count).assign(arm=arm, title=figures.title(arm)) for arm, answers in scores.items()]
    table = pd.concat(tables).sort_index(kind="stable").rename(columns={f"{rule}-correct": "correct"})
    return table[["question", "answer", "arm", "title", "response", "correct"]].reset_index(drop=True)
