"""Statistics: every interval, comparison of arms, test and correction of the suite, as pure functions of arrays.

Arms are compared by one procedure, `gains`. An arm's accuracy varies with the problems that were drawn and with the
students that were trained, which cross: every student answers all problems. A gain's variance has a part of each.

- Problems, or their templates: that of sums over such clusters of the students' mean (Liang & Zeger 1986).
- Students: what their accuracies differ by beyond what one student's answers do from problem to problem, by the method
  of moments. As in an analysis of variance all arms share it, in log-odds, so that three students an arm can tell it.

The reference is Student's t, with Satterthwaite's (1946) degrees of freedom. Several gains are corrected by the largest
standardised one (Hothorn, Bretz & Westfall 2008): its distribution without any effect, drawn with the gains' own
correlations, gives the critical value of every interval and every p, so p < 0.05 where the interval excludes 0 and
nowhere else. `benchmarks/coverage.py` measures what this covers.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy.stats import bootstrap
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

SIGNIFICANT, POWER = 0.05, 0.8
DRAWS = 20_000  # of the largest standardised gain
# Fewer problems or templates that all point one way could do so by chance: 2 * 0.5 ** 5 = 0.0625. Two students an arm
# hardly tell how much students differ.
FEWEST = {
    "seeds": (3, "students an arm"),
    "clusters": (6, "problems or templates"),
    "differ": (6, "problems on which the two differ"),
}
RELATIVE = ("relative", "relative_low", "relative_high")
# What `gains` gives, and what `answers_that_differ` does.
GAIN = (
    "n", "clusters", "seeds", "points", "low", "high", "p", "alone_low", "alone_high", "alone_p", *RELATIVE,
    "detectable", "needed_problems", "needed_seeds",
)  # fmt: skip
DIFFER = ("wins", "losses", "differ")


def accuracy_interval(right: Any, templates: Any = None) -> tuple[float, float]:
    """The ends of the 95 % interval of the accuracy of `right` [seeds, problems]; `templates`: of each problem.

    One seed: Wilson's (1927), over problems alone. Several: the mean's, with standard errors clustered both by problem
    and by seed (Cameron, Gelbach & Miller 2011) and Student's t with one degree of freedom less than there are seeds,
    so it covers another draw of both; two seeds say little, and it shows. Where noise makes that narrower than
    clustering by problem or by seed alone, or leaves it no variance at all, the widest of the three. Problems of one
    template are no independent ones: where there are templates, they are what is clustered by, of one seed as well.
    """
    accuracy, ends = float(right.mean()), []
    if accuracy not in (0, 1) and (len(right) > 1 or templates is not None):
        seeds, problems = np.indices(right.shape).reshape(2, -1)
        if templates is not None:
            problems = np.unique(templates, return_inverse=True)[1][problems]
        model = sm.OLS(right.ravel().astype(float), np.ones(right.size))
        clusterings = [problems, seeds, np.column_stack([problems, seeds])][: 3 if len(right) > 1 else 1]
        with np.errstate(invalid="ignore"):
            fits = [model.fit(cov_type="cluster", cov_kwds={"groups": one}, use_t=True) for one in clusterings]
            ends = [fit.conf_int(alpha=0.05)[0] for fit in fits]
    low, high = max(ends, key=lambda pair: np.nan_to_num(np.ptp(pair)), default=(accuracy, accuracy))
    if not high - low > 1e-9:
        # Outcomes that are equal, or that make up for each other, have no variance to estimate; Wilson's interval for
        # one student is then the widest there is.
        low, high = proportion_confint(accuracy * right.shape[1], right.shape[1], alpha=0.05, method="wilson")
    # Rounding can leave an accuracy of 0 or 1 just outside its interval.
    return max(0.0, min(float(low), accuracy)), min(1.0, max(float(high), accuracy))


# --- arms beside each other ---


class Sampled(NamedTuple):
    """How the accuracies of several arms vary with what was drawn.

    `accuracy` [arms]; `students` [arms], their numbers, 0 where the one student is no draw. `problems` [arms, arms]:
    covariance over another draw of the `n` problems, which are of `clusters`. `weights` [arms]: how much of the
    variance between students is in an arm's mean. `between`, `within`: that variance, and what of it single answers
    make, on `freedom` degrees of freedom; 0 where no arm has several students.
    """

    accuracy: NDArray[np.float64]
    students: NDArray[np.int64]
    problems: NDArray[np.float64]
    n: int
    clusters: int
    weights: NDArray[np.float64]
    between: float = 0.0
    within: float = 0.0
    freedom: float = 0.0


def sampled(right: Sequence[Any], labels: Sequence[Any] | None = None, *, untrained: Collection[int] = ()) -> Sampled:
    """What the answers of several arms, bool [students, problems] each, say of how their accuracies vary.

    Args:
        labels: for each arm, the template or the name of each of its problems: equal labels are one cluster, in
            whichever arms. None: all arms answered the same problems, each a cluster.
        untrained: places of arms whose one student is no draw.
    """
    labels = [np.arange(one.shape[1]) for one in right] if labels is None else labels
    names, places = np.unique(np.concatenate(labels), return_inverse=True)
    parts = np.split(places, np.cumsum([len(one) for one in labels])[:-1])
    few, sums, squares = len(names) / (len(names) - 1), [], np.zeros(4)
    accuracy, students = np.array([one.mean() for one in right]), np.array([len(one) for one in right])
    scale = (accuracy * (1 - accuracy)) ** 2  # what differs alike in log-odds differs so in accuracy
    for one, part, factor in zip(right, parts, scale, strict=True):
        levels, answers = one.mean(axis=1) - one.mean(), one - one.mean(axis=1, keepdims=True)
        common = answers.mean(axis=0)
        sums.append(np.bincount(part, common, len(names)) / len(part))
        own = [np.bincount(part, row, len(names)) / len(part) for row in answers - common]
        shared = np.array([factor, factor**2]) * (len(one) - 1)
        squares += [np.sum(levels**2), few * np.sum(np.square(own)), *shared]
    drawn = np.where(np.isin(np.arange(len(right)), [*untrained]), 0, students)
    weights = np.divide(scale, drawn, out=np.zeros(len(right)), where=drawn > 0)
    # Arms with small squares say less of those of all.
    known = (*(squares[:2] / squares[2]), squares[2] ** 2 / squares[3]) if squares[2] else ()
    return Sampled(
        accuracy, drawn, few * np.array(sums) @ np.transpose(sums), len(parts[0]), len(names), weights, *known
    )


def counted(n: int, right: Any, only: Any) -> Sampled:
    """`sampled` of arms with one student each, from the numbers of problems, of `n`, that each gets right [arms], and
    that the first gets right and the second does not [arms, arms]."""
    share, both = np.asarray(right) / n, (np.asarray(right)[:, None] - only) / n
    covariance = (both - np.outer(share, share)) / (n - 1)
    return Sampled(share, np.ones(len(share), np.int64), covariance, n, n, np.zeros(len(share)))


def gains(
    arms: Sampled, pairs: Sequence[tuple[int, int]], *, seed: int, primary: Collection[int] = ()
) -> list[dict[str, Any]]:
    """How much more accurate the first arm of each pair is than the second, in the keys `GAIN`.

    `points`: difference in percentage points. `low`, `high`, `p`: 95 % interval and two-sided p, corrected for all
    pairs; `alone_low`, `alone_high`, `alone_p`: of this comparison as if it were the only one. `relative`: the
    difference as a share of the second's accuracy, infinite where that is 0 and the difference is not; its ends are
    Fieller's (1954), alone; -1 and infinity where the second's accuracy may be 0. `n`: problems; `clusters`; `seeds`:
    students of the arm that has fewer. With one in all arms, everything here covers another draw of problems alone.

    `detectable`: the smallest gain in points that this design finds 4 times in 5. `needed_problems`, `needed_seeds`:
    the fewest answers in all that would as often find the gain that was seen, were it the true one; NaN where students
    are too few to tell. Both are corrected, but for the pairs whose places are in `primary`.
    """
    if not pairs:
        return []
    new, old = np.transpose(pairs)
    signs = np.eye(len(arms.accuracy))[new] - np.eye(len(arms.accuracy))[old]
    gain, weights, excess = signs @ arms.accuracy, signs**2 @ arms.weights, arms.between - arms.within
    of_problems, of_students = np.maximum(np.einsum("ka,ab,kb->k", signs, arms.problems, signs), 0), weights * excess
    # An unbiased variance of students may be negative; it then makes up for half of that of problems at most.
    error = np.sqrt(np.maximum(of_problems + of_students, of_problems / 2))
    freedom = _freedom(arms, of_problems, weights, error**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        alone_p = 2 * scipy.stats.t.sf(np.where(gain == 0, 0, np.abs(gain) / error), freedom)
    covariance = signs @ (arms.problems + max(excess, 0) * np.diag(arms.weights)) @ signs.T
    largest, normal = _largest(covariance, seed), scipy.stats.norm.isf(alone_p / 2)
    p = np.maximum(alone_p, 1 - np.searchsorted(largest, normal) / DRAWS)
    bound = max(largest[-round(SIGNIFICANT * DRAWS)], scipy.stats.norm.isf(SIGNIFICANT / 2))
    alone, corrected = (scipy.stats.t.isf(tail, freedom) for tail in (SIGNIFICANT / 2, scipy.stats.norm.sf(bound)))
    rows = []
    for k, (a, b) in enumerate(pairs):
        ends = [100 * (gain[k] + sign * times[k] * error[k]) for times in (corrected, alone) for sign in (-1, 1)]
        luck = (error[k] ** 2 - of_problems[k]) / weights[k] if weights[k] else 0
        both = arms.problems[np.ix_([a, b], [a, b])] + luck * np.diag(arms.weights[[a, b]])
        relative = _relative(arms.accuracy[a], arms.accuracy[b], both, alone[k])
        students = int(min((number for number in arms.students[[a, b]] if number), default=1))
        margin = (alone if k in primary else corrected)[k] + scipy.stats.t.ppf(POWER, freedom[k])
        found = (gain[k] / margin) ** 2 if arms.freedom else 0
        needed = _needed(found, arms.n * of_problems[k], max(of_students[k], 0) * students, students)
        values = (100 * gain[k], *ends[:2], p[k], *ends[2:], alone_p[k], *relative, 100 * margin * error[k], *needed)
        rows.append(dict(zip(GAIN, (arms.n, arms.clusters, students, *map(float, values)), strict=True)))
    return rows


def _needed(variance: float, of_problem: float, of_student: float, students: int) -> tuple[float, float]:
    """The fewest answers, as problems and as students of an arm, that bring a gain's variance down to this; or NaN."""
    several = np.arange(max(students, FEWEST["seeds"][0]), 51)
    left = variance - of_student / several
    problems = np.divide(of_problem, left, out=np.full(len(left), np.inf), where=left > 1e-9)
    cheapest = int(np.argmin(problems * several))
    return (np.ceil(problems[cheapest]), several[cheapest]) if np.isfinite(problems[cheapest]) else (np.nan, np.nan)


def _freedom(arms: Sampled, of_problems: Any, weights: Any, variance: Any) -> Any:
    """Satterthwaite's degrees of freedom of a sum of mean squares."""
    each = arms.clusters - 1
    parts = of_problems**2 / each
    if arms.freedom:
        parts = parts + (weights * arms.between) ** 2 / arms.freedom
        parts = parts + (weights * arms.within) ** 2 / (arms.freedom * each)
    return np.divide(variance**2, parts, out=np.full(len(parts), float(each)), where=(parts > 0) & (variance > 0))


def _largest(covariance: Any, seed: int) -> NDArray[np.float64]:
    """`DRAWS` draws of the largest of several standardised gains, none of which is one, sorted."""
    variances = np.diag(covariance)  # of two arms that never differ, zero but for rounding, which may be below it
    sizes = np.sqrt(np.where(variances > 1e-12 * variances.max(), variances, 1))
    values, vectors = np.linalg.eigh(covariance / np.outer(sizes, sizes))
    draws = np.random.default_rng(seed).standard_normal((DRAWS, len(sizes)))
    return np.sort(np.abs(draws @ (vectors * np.sqrt(np.maximum(values, 0))).T).max(axis=1))


def _relative(new: float, old: float, covariance: Any, times: float) -> tuple[float, float, float]:
    """The gain as a share of `old`, with the ends of Fieller's interval."""
    if old == 0:
        return (np.inf if new else 0.0), (-1.0 if new else 0.0), (np.inf if new else 0.0)
    a, b, c = np.array([old**2, old * new, new**2]) - times**2 * covariance[[1, 0, 0], [1, 1, 0]]
    if a <= 0:
        return new / old - 1, -1.0, np.inf
    half = np.sqrt(max(b**2 - a * c, 0))
    return new / old - 1, float((b - half) / a) - 1, float((b + half) / a) - 1


def answers_that_differ(new: Any, old: Any) -> dict[str, int]:
    """How two arms' answers to the same problems differ, bool [students, problems] each.

    `wins`, `losses`: how often only the first's, or only the second's, student solves a problem: of the two students
    with one seed, or of any two where the arms have different numbers of them. `differ`: the problems of which either
    holds.
    """
    if len(new) != len(old):
        new, old = np.repeat(new, len(old), axis=0), np.tile(old, (len(new), 1))
    wins, losses = new & ~old, ~new & old
    return dict(zip(DIFFER, map(int, (wins.sum(), losses.sum(), (wins | losses).any(axis=0).sum())), strict=True))


def shortfall(gain: Any) -> str:
    """What a comparison lacks to be tested, with what it would take; empty where it lacks nothing."""
    few = ((gain[key], fewest, what) for key, (fewest, what) in FEWEST.items() if gain[key] < fewest)
    return "; ".join(f"{what}: {have} of {fewest} needed" for have, fewest, what in few)


def assumed(problems: int, drawn: Any, *, discordant: float, alike: float, student_sd: float) -> Sampled:
    """`sampled` of a design before it is run.

    Args:
        drawn: number of students of each arm, the same of all that are trained; 0 where the one student is no draw.
        discordant: share of the problems that just one of two arms' students solves.
        alike: correlation of two such differences on one problem, of two pairs of students.
        student_sd: standard deviation of students' accuracies (points), beyond what their single answers make.
    """
    drawn, students, single, luck = np.array(drawn), max(*drawn, 1), discordant / 2 / problems, (student_sd / 100) ** 2
    scale = np.where(drawn > 0, 0.5**4, 0)
    covariance = np.diag(np.where(drawn > 0, single * (alike + (1 - alike) / students), single))
    squares = np.array([luck + single * (1 - alike), single * (1 - alike)]) / 0.5**4
    known = (*squares, np.sum(drawn > 0) * (students - 1)) if students > 1 else ()
    return Sampled(np.full(len(drawn), 0.5), drawn, covariance, problems, problems, scale / students, *known)


# --- means, ranks and ratios ---


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


def auroc(high: Any, low: Any, axis: int = -1) -> Any:
    """The probability that one of `high` exceeds one of `low`, ties counting half (Mann and Whitney 1947)."""
    pairs = high.shape[axis] * low.shape[axis]
    return scipy.stats.mannwhitneyu(high, low, axis=axis, method="asymptotic").statistic / pairs


def permuted(samples: tuple[NDArray[Any], ...], how: str, seed: int) -> float:
    """The p of a difference in means; of one sample, of paired differences, whose signs are what is exchanged."""
    if min(map(len, samples)) < 2:
        return float("nan")

    def difference_of_means(new: NDArray[Any], old: NDArray[Any] | float = 0.0, axis: int = -1) -> Any:
        return np.mean(new, axis=axis) - np.mean(old, axis=axis if np.ndim(old) else None)

    options = {"permutation_type": how, "vectorized": True, "rng": np.random.default_rng(seed)}
    return float(scipy.stats.permutation_test(samples, difference_of_means, **options).pvalue)


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
