"""Calibration: does a student know when it is right?

The released analysis compared the mean maximum *logit* of right and wrong answers. A logit has no scale of its own, so
here it is the log-probability: the mean over a response's tokens, `mean_logprob` (nats). Under greedy decoding the
token taken is the most likely one, so this is both the mean maximum log-probability, that figure's analogue, and the
response's own log-probability per token. `confidence` is its exponential, the geometric mean of the tokens'
probabilities.

`scores` is arm -> its graded answers (see `evaluate.answer`); answers of several seeds are taken together.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, mannwhitneyu
from statsmodels.stats.proportion import proportion_confint

from response_priming import arms, stats

KINDS = ("correct", "incorrect")


def calibration_table(scores: Mapping[str, pd.DataFrame], rule: str) -> pd.DataFrame:
    """One row an arm: `n` answers, of so many `seeds`, the columns of `separation`, and `calibration_error`."""
    return pd.DataFrame(
        {
            "arm": arm,
            "title": arms.title(arm),
            "n": len(answers),
            "seeds": answers["seed"].nunique(),
            **separation(answers, rule),
            "calibration_error": calibration_error(answers, rule),
        }
        for arm, answers in scores.items()
    )


def separation(answers: pd.DataFrame, rule: str, *, seed: int = 0) -> dict[str, float]:
    """How well confidence tells right answers from wrong ones.

    `logprob_correct` and `logprob_incorrect`: means of `mean_logprob`. `auroc`: the probability that a right answer has
    the higher one, ties counting half, with `auroc_low` and `auroc_high`, its 95 % interval (percentile bootstrap, 999
    resamples of right and of wrong answers), and `p` of the Mann-Whitney test that it is 0.5. NaN where all answers
    are right or all wrong; no interval with a single right or wrong one. Answers that were set aside are left out.
    """
    answers = answers.dropna(subset="mean_logprob")
    right = answers[f"{rule}-correct"].to_numpy(bool)
    groups = [answers.loc[rows, "mean_logprob"].to_numpy(float) for rows in (right, ~right)]
    found = {
        f"logprob_{name}": group.mean() if len(group) else np.nan for name, group in zip(KINDS, groups, strict=True)
    }
    found |= dict.fromkeys(("auroc", "auroc_low", "auroc_high", "p"), np.nan)
    if all(len(group) for group in groups):
        found |= {"auroc": float(stats.auroc(*groups)), "p": float(mannwhitneyu(*groups).pvalue)}
    if all(len(group) > 1 for group in groups):
        rng = np.random.default_rng(seed)
        drawn = bootstrap(
            groups, stats.auroc, n_resamples=999, method="percentile", vectorized=True, batch=100, rng=rng
        )
        found |= dict(zip(("auroc_low", "auroc_high"), map(float, drawn.confidence_interval), strict=True))
    return found


def reliability(answers: pd.DataFrame, rule: str, *, bins: int = 10) -> pd.DataFrame:
    """The answers in at most `bins` bins of equal size by confidence, least confident first.

    Columns: `n`; `confidence`, its mean; `accuracy` with `low` and `high`, its 95 % Wilson interval. Answers that were
    set aside are left out.
    """
    answers = answers.dropna(subset="mean_logprob")
    confidence, right = np.exp(answers["mean_logprob"]), answers[f"{rule}-correct"].astype(float)
    place = pd.qcut(confidence.rank(method="first"), min(bins, len(answers)), labels=False)
    grouped = pd.DataFrame({"confidence": confidence, "right": right}).groupby(place)
    found = grouped.agg(n=("right", "size"), confidence=("confidence", "mean"), accuracy=("right", "mean"))
    low, high = proportion_confint(grouped["right"].sum(), found["n"], method="wilson")
    return found.assign(low=np.minimum(low, found["accuracy"]), high=np.maximum(high, found["accuracy"]))


def calibration_error(answers: pd.DataFrame, rule: str) -> float:
    """Expected calibration error: the mean distance of accuracy and confidence over the bins of `reliability`, weighted
    by their sizes (Guo et al. 2017, arXiv 1706.04599, there with bins of equal width)."""
    found = reliability(answers, rule)
    return float(np.average((found["accuracy"] - found["confidence"]).abs(), weights=found["n"]))
