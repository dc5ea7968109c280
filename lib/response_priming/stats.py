"""Statistics: every interval, paired difference, test and correction of the suite, as pure functions of arrays."""

from itertools import product
from typing import Any

import numpy as np
import scipy.stats
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint, test_proportions_2indep

# What `paired` and `difference` give.
RELATIVE = ("relative", "relative_low", "relative_high")
PAIRED = ("n", "seeds", "points", "low", "high", *RELATIVE, "wins", "losses", "differ", "p")
DIFFERENCE = ("paired", "points", "low", "high", "only_a", "only_b", "p")
SIGNIFICANT = 0.05
# With fewer problems on which two arms disagree, McNemar's exact p cannot fall below 0.05: 2 * 0.5 ** 5 = 0.0625.
FEWEST_DISAGREEMENTS = 6


def accuracy_interval(right: Any) -> tuple[float, float]:
    """The ends of the 95 % interval of the accuracy of `right` [seeds, problems].

    One seed: Wilson's (1927), over problems alone. Several: the mean's, with standard errors clustered both by problem
    and by seed (Cameron, Gelbach & Miller 2011) and Student's t with one degree of freedom less than there are seeds,
    so it covers another draw of both; two seeds say little, and it shows. Where noise makes that narrower than
    clustering by problem or by seed alone, or leaves it no variance at all, the widest of the three.
    """
    accuracy = float(right.mean())
    if len(right) == 1 or accuracy in (0, 1):
        # Equal outcomes have no variance to estimate; Wilson's interval for one student is then the widest there is.
        low, high = proportion_confint(accuracy * right.shape[1], right.shape[1], alpha=0.05, method="wilson")
    else:
        seeds, problems = np.indices(right.shape).reshape(2, -1)
        model = sm.OLS(right.ravel().astype(float), np.ones(right.size))
        clusterings = [np.column_stack([problems, seeds]), problems, seeds]
        with np.errstate(invalid="ignore"):
            fits = [model.fit(cov_type="cluster", cov_kwds={"groups": one}, use_t=True) for one in clusterings]
            low, high = max((fit.conf_int(alpha=0.05)[0] for fit in fits), key=lambda ends: np.nan_to_num(np.ptp(ends)))
    # Rounding can leave an accuracy of 0 or 1 just outside its interval.
    return max(0.0, min(float(low), accuracy)), min(1.0, max(float(high), accuracy))


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


def paired_counts(n: int, both: int, wins: int, losses: int, *, seed: int) -> dict[str, Any]:
    """`paired` of two arms with a student each, from the numbers of problems, of `n` in all, that `both` solve, that
    only the first does (`wins`) and only the second (`losses`)."""
    outcomes = [(True, True), (True, False), (False, True), (False, False)]
    new, old = np.repeat(outcomes, [both, wins, losses, n - both - wins - losses], axis=0).T
    return paired(new[None], old[None], seed=seed)


def holm(p: Any) -> NDArray[np.float64]:
    """Each p corrected for all of them (Holm 1979); NaN stays NaN and counts for none."""
    corrected = np.array(p, np.float64)
    known = ~np.isnan(corrected)
    if known.any():
        corrected[known] = multipletests(corrected[known], method="holm")[1]
    return corrected


def t_interval(values: Any) -> tuple[float, float]:
    """95 % t-interval of the mean; NaN for a single value."""
    half = scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, len(values) - 1) if len(values) > 1 else np.nan
    return float(np.mean(values) - half), float(np.mean(values) + half)


def permuted(samples: tuple[NDArray[Any], ...], how: str, seed: int) -> float:
    """The p of a difference in means; of one sample, of paired differences, whose signs are what is exchanged."""
    if min(map(len, samples)) < 2:
        return float("nan")

    def difference_of_means(new: NDArray[Any], old: NDArray[Any] | float = 0.0, axis: int = -1) -> Any:
        return np.mean(new, axis=axis) - np.mean(old, axis=axis if np.ndim(old) else None)

    options = {"permutation_type": how, "vectorized": True, "rng": np.random.default_rng(seed)}
    return float(scipy.stats.permutation_test(samples, difference_of_means, **options).pvalue)


def significant(gain: Any) -> bool:
    """Whether a gain (a row of `tables.gains`) is one: its 95 % interval lies above 0, and its Holm-corrected p, of
    several seeds that of the least significant one, is below 0.05."""
    return bool(gain["low"] > 0 and gain["p_holm"] < SIGNIFICANT)


def rank_correlation(first: Any, second: Any) -> tuple[float, float]:
    """Spearman's correlation and its two-sided permutation p, exact for up to seven pairs."""
    ranks = scipy.stats.rankdata(second)
    with np.errstate(invalid="ignore"):  # NaN where all ranks are one
        test = scipy.stats.permutation_test(
            (scipy.stats.rankdata(first),),
            lambda shuffled: np.corrcoef(shuffled, ranks)[0, 1],
            permutation_type="pairings",
            vectorized=False,
            rng=np.random.default_rng(0),
        )
    return float(test.statistic), float(test.pvalue)


def difference(old: Any, new: Any, *, same: bool) -> dict[str, Any]:
    """How much more often `new` is right than `old`, bool [seeds, problems] each.

    `paired`: the problems are the `same` ones, and each student has one to meet: both arms have as many, or one of them
    has a single one. Then `points`, `low`, `high`, `p` are those of `paired`, and `only_a`, `only_b` count the
    answers that only one of the two got right. Else the samples are independent: the interval is Newcombe's hybrid
    score interval (1998, method 10) on those of `accuracy_interval`, p that of the score test, and of several students
    the largest p of any two.
    """
    if same and (len(old) == len(new) or 1 in (len(old), len(new))):
        backwards = len(old) > len(new)
        found = paired(*((old, new) if backwards else (new, old)), seed=0)
        points, low, high, won, lost = (found[key] for key in ("points", "low", "high", "wins", "losses"))
        if backwards:
            points, low, high, won, lost = -points, -high, -low, lost, won
        return dict(zip(DIFFERENCE, (True, points, low, high, lost, won, found["p"]), strict=True))
    before, after = old.mean(), new.mean()
    (old_low, old_high), (new_low, new_high) = accuracy_interval(old), accuracy_interval(new)
    points = after - before
    low = points - np.hypot(after - new_low, old_high - before)
    high = points + np.hypot(new_high - after, before - old_low)
    with np.errstate(divide="ignore", invalid="ignore"):  # of the odds ratio, which comes along
        tests = [
            test_proportions_2indep(two.sum(), two.size, one.sum(), one.size, method="score").pvalue
            for one, two in product(old, new)
        ]
    # Where all answers of both are right, or all wrong, there is no variance to test with, and no difference.
    p = float(np.nan_to_num(tests, nan=1.0).max())
    return {"paired": False, "points": 100 * points, "low": 100 * low, "high": 100 * high, "p": p}


def ratio_interval(by_problem: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95 % of the ratio of sums; NaN with fewer than two problems."""
    if len(by_problem) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    ends = bootstrap(by_problem.T, ratio, paired=True, method="percentile", batch=500, rng=rng).confidence_interval
    return float(ends.low), float(ends.high)


def ratio(right: NDArray[Any], steps: NDArray[Any], axis: int = -1) -> Any:
    """The sum of `right` over that of `steps`, along the axis; NaN where there are none."""
    total = steps.sum(axis=axis)
    return np.divide(right.sum(axis=axis), total, out=np.full(np.shape(total), np.nan), where=total > 0)
