"""Calibration: does a student know when it is right?

The released analysis compared the mean maximum *logit* of right and wrong answers. A logit has no scale of its own, so
here it is the log-probability: the mean over a response's tokens, `mean_logprob` (nats). Under greedy decoding the
token taken is the most likely one, so this is both the mean maximum log-probability, that figure's analogue, and the
response's own log-probability per token. `confidence` is its exponential, the geometric mean of the tokens'
probabilities.

`scores` is arm -> its graded answers (see `evaluate.answer`); answers of several seeds are taken together.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from scipy.stats import bootstrap, mannwhitneyu
from statsmodels.stats.proportion import proportion_confint

from response_priming import style

COLUMNS: style.Columns = {
    "title": ("student", None),
    "logprob_correct": ("right (nats)", "{:.3f}"),
    "logprob_incorrect": ("wrong (nats)", "{:.3f}"),
    "auroc": ("AUROC", "{:.1%}"),
    "interval": ("95 % interval", "{}"),
    "p": ("p", style.p_value),
    "calibration_error": ("calibration error", "{:.1%}"),
}


def table(scores: Mapping[str, pd.DataFrame], rule: str) -> pd.DataFrame:
    """One row an arm: `n` answers, of so many `seeds`, the columns of `separation`, and `calibration_error`."""
    return pd.DataFrame(
        {
            "arm": arm,
            "title": style.title(arm),
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
    are right or all wrong; no interval with a single right or wrong one.
    """
    right = answers[f"{rule}-correct"].to_numpy(bool)
    groups = [answers.loc[rows, "mean_logprob"].to_numpy(float) for rows in (right, ~right)]
    found = {
        f"logprob_{name}": group.mean() if len(group) else np.nan for name, group in zip(KINDS, groups, strict=True)
    }
    found |= dict.fromkeys(("auroc", "auroc_low", "auroc_high", "p"), np.nan)
    if all(len(group) for group in groups):
        found |= {"auroc": float(_auroc(*groups)), "p": float(mannwhitneyu(*groups).pvalue)}
    if all(len(group) > 1 for group in groups):
        rng = np.random.default_rng(seed)
        drawn = bootstrap(groups, _auroc, n_resamples=999, method="percentile", vectorized=True, batch=100, rng=rng)
        found |= dict(zip(("auroc_low", "auroc_high"), map(float, drawn.confidence_interval), strict=True))
    return found


KINDS = ("correct", "incorrect")


def _auroc(right: Any, wrong: Any, axis: int = -1) -> Any:
    pairs = right.shape[axis] * wrong.shape[axis]
    return mannwhitneyu(right, wrong, axis=axis, method="asymptotic").statistic / pairs


def reliability(answers: pd.DataFrame, rule: str, *, bins: int = 10) -> pd.DataFrame:
    """The answers in at most `bins` bins of equal size by confidence, least confident first.

    Columns: `n`; `confidence`, its mean; `accuracy` with `low` and `high`, its 95 % Wilson interval.
    """
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


def shown_calibration(found: pd.DataFrame) -> Styler:
    """The table as the paper prints it."""
    ends = zip(100 * found["auroc_low"], 100 * found["auroc_high"], strict=True)
    intervals = ["" if np.isnan(low) else style.interval(low, high) for low, high in ends]
    return style.printed(found.assign(interval=intervals), "calibration", COLUMNS)


# --- figures ---


def reliability_figure(scores: Mapping[str, pd.DataFrame], rule: str) -> Figure:
    """Accuracy against confidence, a panel an arm: on the diagonal, a student knows how often it is right."""
    arms = list(scores)
    figure = Figure(figsize=(2.6 * min(len(arms), 3) + 0.6, 2.7 * -(-len(arms) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(arms) // 3), min(len(arms), 3), squeeze=False, sharex=True, sharey=True)
    for axes, arm in zip(panels.flat, arms, strict=False):
        found = reliability(scores[arm], rule)
        errors = [100 * (found["accuracy"] - found["low"]), 100 * (found["high"] - found["accuracy"])]
        look: dict[str, Any] = {"color": style.color(arm), "marker": style.marker(arm)}
        axes.plot([0, 100], [0, 100], color="grey", linestyle=":", linewidth=1)
        axes.errorbar(100 * found["confidence"], 100 * found["accuracy"], yerr=errors, capsize=2, markersize=4, **look)
        axes.set_title(style.title(arm))
        axes.set(xlim=(0, 100), ylim=(0, 100))
    for axes in panels.flat[len(arms) :]:
        axes.remove()
    figure.supxlabel("Confidence: geometric mean of the tokens' probabilities (%)", fontsize="medium")
    figure.supylabel("Accuracy (%)", fontsize="medium")
    return figure


def confidence_figure(scores: Mapping[str, pd.DataFrame], rule: str) -> Figure:
    """Mean log-probability of right and of wrong answers of every arm, as boxes."""
    figure = Figure(figsize=(7, 0.9 + 0.6 * len(scores)), layout="constrained")
    axes = figure.subplots()
    for y, answers in enumerate(scores.values()):
        right = answers[f"{rule}-correct"].to_numpy(bool)
        for kind, rows, offset, hatch in zip(KINDS, (right, ~right), (-0.18, 0.18), ("", "///"), strict=True):
            values = answers.loc[rows, "mean_logprob"].dropna()
            look = {"facecolor": "white" if hatch else "lightgrey", "hatch": hatch}
            box: dict[str, Any] = {"orientation": "horizontal", "widths": 0.3, "patch_artist": True, "boxprops": look}
            drawn = axes.boxplot(
                values, positions=[y + offset], manage_ticks=False, medianprops={"color": "black"}, **box
            )
            drawn["boxes"][0].set_label(kind if y == 0 else None)
    axes.set_yticks(range(len(scores)), labels=[style.title(arm) for arm in scores])
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.set_xlabel("Mean log-probability of a response's tokens (nats)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure
