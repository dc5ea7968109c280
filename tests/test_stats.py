import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ttest_1samp

from response_priming import stats

# --- the accuracy of one arm ---


@given(arrays(bool, st.tuples(st.integers(1, 4), st.integers(2, 30))))
def test_interval_is_within_0_and_1_and_holds_the_accuracy(right):
    low, high = stats.accuracy_interval(right)
    assert 0 <= low <= right.mean() <= high <= 1
    assert high > low


def test_students_that_make_up_for_each_other_leave_an_interval():
    low, high = stats.accuracy_interval(np.array([[False, True], [True, False]]))
    assert (low, high) == pytest.approx(stats.accuracy_interval(np.array([[False, True]])))


def random_students(seeds, problems, spread, generator):
    """Right or wrong [seeds, problems], where students differ in level by `spread` (log-odds)."""
    levels = generator.normal(0, spread, (seeds, 1)) + generator.normal(0, 1.5, problems)
    return generator.random((seeds, problems)) < 1 / (1 + np.exp(-levels))


def test_interval_of_several_seeds_is_the_two_way_clustered_one():
    right = random_students(4, 60, 0.3, np.random.default_rng(0))
    rows = [(float(right[seed, problem]), problem, seed) for problem in range(60) for seed in range(4)]
    outcomes, problem, seed = map(np.array, zip(*rows, strict=True))
    fit = sm.OLS(outcomes, np.ones(240)).fit(
        cov_type="cluster", cov_kwds={"groups": np.column_stack([seed, problem])}, use_t=True
    )
    assert stats.accuracy_interval(right) == pytest.approx(tuple(fit.conf_int()[0]))


def test_interval_of_several_seeds_covers_another_draw_of_both():
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        low, high = stats.accuracy_interval(random_students(3, 100, 0.4, generator))
        covered.append(low <= 0.5 <= high)
    assert np.mean(covered) > 0.92


def test_students_that_differ_widen_the_interval():
    generator = np.random.default_rng(0)
    widths = [
        np.subtract(*stats.accuracy_interval(random_students(5, 200, spread, generator))[::-1]) for spread in (0, 1)
    ]
    assert widths[1] > 2 * widths[0]


def test_templates_are_what_problems_are_drawn_by():
    """All problems of a template come out alike, so there are as many independent ones as templates."""
    templates = np.repeat(np.arange(8), 25)
    for right in (np.isin(templates, [0, 3, 5])[None], random_students(3, 200, 0.3, np.random.default_rng(0))):
        alone, clustered = (np.ptp(stats.accuracy_interval(right, labels)) for labels in (None, templates))
        assert clustered > 0
        assert (clustered > 3 * alone) == (len(right) == 1)


# --- arms beside each other ---


def one_gain(new, old, **options):
    return stats.gains(stats.sampled([new, old], **options), [(0, 1)], seed=0)[0]


def random_arms(levels=(0.4, 0.5, 0.6, 0.5), *, students=3, problems=80, draw=0):
    rng = np.random.default_rng(draw)
    return [rng.random((students, problems)) < level for level in levels]


def test_one_student_each_is_the_paired_t_test():
    new, old = random_arms((0.6, 0.4), students=1)
    found, difference = one_gain(new, old), new[0].astype(float) - old[0]
    test = ttest_1samp(difference, 0)
    assert found["alone_p"] == pytest.approx(test.pvalue)
    ends = [100 * end for end in test.confidence_interval(0.95)]
    assert (found["alone_low"], found["alone_high"]) == pytest.approx(tuple(ends))
    assert (found["low"], found["high"]) == pytest.approx(tuple(ends), abs=0.5)
    assert found["points"] == pytest.approx(100 * difference.mean())


def test_clusters_are_statsmodels():
    new, old = random_arms((0.6, 0.4), students=1)
    templates = np.arange(80) % 9
    found = one_gain(new, old, labels=[templates, templates])
    fit = sm.OLS(new[0].astype(float) - old[0], np.ones(80)).fit(
        cov_type="cluster", cov_kwds={"groups": templates, "use_correction": True, "df_correction": True}, use_t=True
    )
    # Statsmodels corrects for the number of problems as well, by 80 / 80 here, since one mean is all that is fitted.
    assert (found["alone_low"], found["alone_high"]) == pytest.approx(tuple(100 * fit.conf_int()[0]), rel=0.02)
    assert found["clusters"] == 9


def test_mean_squares_are_those_of_the_analysis_of_variance():
    (right,) = random_arms((0.5,), students=4)
    frame = pd.DataFrame({"y": right.ravel().astype(float), "s": np.repeat(range(4), 80), "p": np.tile(range(80), 4)})
    table = sm.stats.anova_lm(smf.ols("y ~ C(s) + C(p)", frame).fit())
    found, scale = stats.sampled([right]), (right.mean() * (1 - right.mean())) ** 2
    assert found.between * scale * 80 == pytest.approx(table["mean_sq"]["C(s)"])
    assert found.within * scale * 80 == pytest.approx(table["mean_sq"]["Residual"])
    assert 4 * 80 * found.problems[0, 0] == pytest.approx(table["mean_sq"]["C(p)"])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_interval_and_p_never_disagree(data):
    count, students = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 3))
    right = [data.draw(arrays(bool, (students, 12))) for _ in range(count)]
    pairs = [(new, old) for new in range(count) for old in range(new)]
    for row in stats.gains(stats.sampled(right), pairs, seed=0):
        for key in ("", "alone_"):
            outside = not row[f"{key}low"] <= 0 <= row[f"{key}high"]
            assert (row[f"{key}p"] < stats.SIGNIFICANT) == outside
        assert row["low"] <= row["alone_low"] <= row["points"] <= row["alone_high"] <= row["high"]
        assert row["p"] >= row["alone_p"]
        if row["alone_p"] < stats.SIGNIFICANT and row["relative_high"] < np.inf:
            assert (row["relative_low"] > 0) == (row["points"] > 0)


def test_arms_with_the_same_answers_are_compared_beside_others_whatever_rounding_leaves():
    none, one = np.zeros((1, 12), bool), np.eye(12, dtype=bool)[:1]
    for right in ([none] * 3 + [one] * 2, [one, one, none, none, one]):
        pairs = [(new, old) for new in range(5) for old in range(new)]
        for row in stats.gains(stats.sampled(right), pairs, seed=0):
            assert (row["points"] == 0) == (row["p"] == 1)


def test_more_comparisons_widen_the_intervals_and_the_same_one_twice_does_not():
    drawn = stats.sampled(random_arms())
    one, twice, three = (
        stats.gains(drawn, pairs, seed=0)[0] for pairs in ([(1, 0)], [(1, 0)] * 2, [(1, 0), (2, 0), (3, 0)])
    )
    assert twice["high"] == pytest.approx(one["high"], abs=0.2)
    assert three["high"] > one["high"] + 1
    assert three["alone_high"] == one["alone_high"]


@pytest.mark.parametrize(("solved", "relative"), [(4, np.inf), (0, 0)])
def test_relative_gain_over_a_baseline_that_solves_nothing(solved, relative):
    new = np.array([[True] * solved + [False] * (10 - solved)])
    found = one_gain(new, np.zeros((1, 10), bool))
    assert found["relative"] == relative
    assert not np.isnan([found["relative_low"], found["relative_high"]]).any()


def test_relative_gain_is_a_share_of_the_baseline():
    new, old = random_arms((0.6, 0.4), problems=300)
    found = one_gain(new, old)
    assert found["relative"] == pytest.approx(new.mean() / old.mean() - 1)
    assert found["relative_low"] < found["relative"] < found["relative_high"]


def test_swapped_arms_turn_the_sign_and_keep_the_p():
    new, old = random_arms((0.6, 0.4))
    found, turned = one_gain(new, old), one_gain(old, new)
    assert [turned["points"], turned["low"], turned["p"]] == pytest.approx(
        [-found["points"], -found["high"], found["p"]]
    )


def test_counts_are_compared_as_the_answers_they_count():
    right = random_arms(students=1)
    only = [[int((one & ~other).sum()) for other in right] for one in right]
    counts = stats.counted(80, [int(one.sum()) for one in right], np.array(only))
    pairs = [(1, 0), (2, 0), (3, 1)]
    for found, expected in zip(
        *(stats.gains(one, pairs, seed=0) for one in (counts, stats.sampled(right))), strict=True
    ):
        assert found == pytest.approx(expected, nan_ok=True)


def test_interval_is_paired():
    """The same two accuracies are told apart better where both arms fail on the same problems."""
    old = np.arange(200)[None] % 2 == 0
    nested, opposed = old.copy(), ~old
    nested[:, 1:21:2] = opposed[:, 0:20:2] = True
    widths = [np.subtract(found["high"], found["low"]) for found in (one_gain(new, old) for new in (nested, opposed))]
    assert nested.mean() == opposed.mean()
    assert widths[0] < widths[1] / 2


def test_other_problems_are_independent_samples():
    new, old = random_arms((0.6, 0.4), students=1, problems=200)
    apart = one_gain(new, old, labels=[np.arange(200), np.arange(200, 400)])
    error = np.sqrt(new.var(ddof=1) / 200 + old.var(ddof=1) / 200)
    assert apart["alone_high"] - apart["points"] == pytest.approx(100 * 1.966 * error, rel=0.01)


def test_identical_arms_gain_nothing_and_stay_finite():
    same = np.array([[True, False, True]])
    found = one_gain(same, same)
    assert (found["points"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)


def test_students_that_differ_widen_the_interval_of_the_gain():
    rng, old = np.random.default_rng(2), np.random.default_rng(3).random((1, 200)) < 0.4
    widths = []
    for levels in ([0.6, 0.6, 0.6, 0.6], [0.3, 0.5, 0.7, 0.9]):
        found = one_gain(rng.random((4, 200)) < np.array(levels)[:, None], old, untrained=[1])
        assert found["seeds"] == 4
        widths.append(found["high"] - found["low"])
    assert widths[1] > 2 * widths[0]


def test_students_of_other_arms_tell_of_one_that_has_a_single_one():
    """How much students differ is learnt from all arms; the untrained student is no draw."""
    rng = np.random.default_rng(0)
    right = [rng.random((1, 400)) < 0.5, *(rng.random((6, 400)) < rng.uniform(0.3, 0.7, (6, 1)) for _ in range(2))]
    trained, fixed = (
        stats.gains(stats.sampled(right, untrained=untrained), [(1, 0)], seed=0)[0] for untrained in ([], [0])
    )
    assert trained["high"] - trained["low"] > 1.5 * (fixed["high"] - fixed["low"])
    assert (trained["seeds"], fixed["seeds"]) == (1, 6)


def test_a_design_finds_what_it_says_it_does():
    """Of 200 problems with one student each and 30 % that differ: 2.8 standard errors."""
    drawn = stats.assumed(200, [0, 1, 1], discordant=0.3, alike=0.5, student_sd=2)
    (found,) = stats.gains(drawn, [(2, 1)], seed=0, primary=[0])
    assert found["detectable"] == pytest.approx(100 * 2.8 * np.sqrt(0.3 / 200), rel=0.02)
    more = [
        stats.gains(
            stats.assumed(size, [0, *[students] * 4], discordant=0.3, alike=0.5, student_sd=2), [(2, 1)], seed=0
        )
        for size, students in ((200, 3), (400, 3), (400, 5))
    ]
    sizes = [rows[0]["detectable"] for rows in more]
    assert sizes == sorted(sizes, reverse=True)


def test_what_was_seen_needs_fewer_problems_the_larger_it_is():
    found = [one_gain(*random_arms((level, 0.4), problems=200)) for level in (0.46, 0.8)]
    small, large = (one["needed_problems"] * one["needed_seeds"] for one in found)
    assert large < 3 * 200 < small
    assert np.isnan(one_gain(*random_arms((0.6, 0.4), students=1))["needed_problems"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"seeds": 1}, "students an arm: 1 of 3 needed"),
        ({"clusters": 3}, "problems or templates: 3 of 6 needed"),
        (
            {"seeds": 2, "differ": 5},
            "students an arm: 2 of 3 needed; problems on which the two differ: 5 of 6 needed",
        ),
    ],
)
def test_what_cannot_be_tested_says_what_it_would_take(changed, said):
    assert stats.shortfall({"seeds": 3, "clusters": 6, "differ": 6} | changed) == said


def test_answers_are_counted_student_by_student():
    """Each seed's pair differs on all four problems; the pools of both arms differ in no problem."""
    new = np.array([[True, True, False, False], [False, False, True, True]])
    assert stats.answers_that_differ(new, new[::-1]) == {"wins": 4, "losses": 4, "differ": 4}
    assert stats.answers_that_differ(new, new[:1]) == {"wins": 2, "losses": 2, "differ": 4}
    assert stats.answers_that_differ(new[[0, 1, 1]], new) == {"wins": 6, "losses": 6, "differ": 4}


@pytest.mark.parametrize(("students", "problems", "templates"), [(3, 60, None), (3, 120, 10), (5, 60, None)])
def test_intervals_cover_another_draw_of_problems_and_students(students, problems, templates):
    """A few of what benchmarks/coverage.py does."""
    rng, held = np.random.default_rng(0), []
    labels = None if templates is None else [np.arange(problems) % templates] * 3
    for _ in range(300):
        common = rng.normal(0, 1.5, problems)
        answers = [
            rng.random((students, problems)) < 1 / (1 + np.exp(-common - rng.normal(0, 0.4, (students, 1))))
            for _ in range(3)
        ]
        rows = stats.gains(stats.sampled(answers, labels), [(1, 0), (2, 0)], seed=0)
        held.append([row["alone_low"] <= 0 <= row["alone_high"] for row in rows])
    assert 0.92 < np.mean(held) < 0.98


# --- means and ranks ---


def test_the_interval_is_students():
    assert stats.t_interval(pd.Series([1.0, 3.0])) == pytest.approx((2 - 12.706205, 2 + 12.706205))
    assert np.isnan(stats.t_interval(pd.Series([1.0]))).all()


@pytest.mark.parametrize(("second", "rho"), [([1, 2, 3, 4, 5], 1), ([5, 4, 3, 2, 1], -1)])
def test_rank_correlation_of_five_ranked_alike_has_two_of_all_orders_as_far_out(second, rho):
    assert stats.rank_correlation([1, 3, 4, 8, 9], second) == (pytest.approx(rho), pytest.approx(2 / 120))
