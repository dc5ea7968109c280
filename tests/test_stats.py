import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest
from statsmodels.stats.proportion import confint_proportions_2indep, test_proportions_2indep

from response_priming import stats

# --- the accuracy of one arm ---


@given(arrays(bool, st.tuples(st.integers(1, 4), st.integers(2, 30))))
def test_interval_is_within_0_and_1_and_holds_the_accuracy(right):
    low, high = stats.accuracy_interval(right)
    assert 0 <= low <= right.mean() <= high <= 1
    assert high > low


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


# --- two arms on the same problems ---


def random_pair(count=200, seeds=1):
    rng = np.random.default_rng(1)
    return rng.random((seeds, count)) < 0.6, rng.random((seeds, count)) < 0.4


def test_relative_gain_is_a_share_of_the_baseline():
    new, old = np.array([[True] * 6 + [False] * 4]), np.array([[True] * 4 + [False] * 6])
    found = stats.paired(new, old, seed=0)
    assert found["points"] == pytest.approx(20)
    assert found["relative"] == pytest.approx(0.5)
    assert found["relative_low"] <= 0.5 <= found["relative_high"]


@pytest.mark.parametrize(("solved", "relative"), [(4, np.inf), (0, 0)])
def test_relative_gain_over_a_baseline_that_solves_nothing(solved, relative):
    new = np.array([[True] * solved + [False] * (10 - solved)])
    found = stats.paired(new, np.zeros((1, 10), bool), seed=0)
    assert found["relative"] == relative
    assert not np.isnan([found["relative_low"], found["relative_high"]]).any()


def test_swapped_arms_turn_the_sign_and_keep_the_p():
    new, old = random_pair()
    found, swapped = stats.paired(new, old, seed=0), stats.paired(old, new, seed=0)
    assert swapped["points"] == -found["points"]
    assert (swapped["wins"], swapped["losses"]) == (found["losses"], found["wins"])
    assert swapped["p"] == found["p"]


def test_counts_are_paired_as_the_answers_they_count():
    new, old = random_pair()
    counts = [int(cell.sum()) for cell in (new & old, new & ~old, ~new & old)]
    found, expected = stats.paired_counts(new.size, *counts, seed=0), stats.paired(new, old, seed=0)
    same = [key for key in stats.PAIRED if not key.endswith(("low", "high"))]
    assert {key: found[key] for key in same} == pytest.approx({key: expected[key] for key in same})
    assert (found["low"], found["high"]) == pytest.approx((expected["low"], expected["high"]), abs=1.0)


def test_p_is_the_sign_test_on_the_problems_that_only_one_arm_got():
    found = stats.paired(*random_pair(), seed=0)
    assert found["p"] == pytest.approx(binomtest(found["wins"], found["wins"] + found["losses"]).pvalue)
    assert found["differ"] == found["wins"] + found["losses"]


def test_interval_is_paired():
    """The same two accuracies are told apart better where both arms fail on the same problems."""
    old = np.arange(200)[None] % 2 == 0
    nested, opposed = old.copy(), ~old
    nested[:, 1:21:2] = opposed[:, 0:20:2] = True
    found = [stats.paired(new, old, seed=0) for new in (nested, opposed)]
    widths = [one["high"] - one["low"] for one in found]
    assert nested.mean() == opposed.mean()
    assert widths[0] < widths[1] / 2


def test_interval_repeats_with_its_seed():
    assert stats.paired(*random_pair(), seed=3) == stats.paired(*random_pair(), seed=3)


def test_identical_arms_gain_nothing_and_stay_finite():
    same = np.array([[True, False, True]])
    found = stats.paired(same, same, seed=0)
    assert found == dict.fromkeys(stats.PAIRED, 0) | {"n": 3, "seeds": 1, "p": 1}


def test_students_are_paired_by_seed():
    """Each seed's pair differs on two problems; the pools of both arms differ in no problem."""
    new = np.array([[True, True, False, False], [False, False, True, True]])
    found = stats.paired(new, new[::-1], seed=0)
    assert (found["wins"], found["losses"], found["differ"], found["points"]) == (4, 4, 4, 0)


def test_one_baseline_student_meets_every_seed():
    new, old = random_pair(seeds=3)
    found = stats.paired(new, old[:1], seed=0)
    assert found == stats.paired(new, np.repeat(old[:1], 3, axis=0), seed=0)
    assert found["points"] == pytest.approx(100 * (new.mean() - old[0].mean()))


def test_p_of_several_seeds_is_that_of_the_least_significant_one():
    new, old = random_pair(seeds=3)
    singles = [stats.paired(new[[seed]], old[[seed]], seed=0) for seed in range(3)]
    found = stats.paired(new, old, seed=0)
    assert found["p"] == max(one["p"] for one in singles)
    assert found["differ"] == min(one["differ"] for one in singles)
    assert found["wins"] == sum(one["wins"] for one in singles)


def test_students_that_differ_widen_the_interval_of_the_gain():
    rng = np.random.default_rng(2)
    old = rng.random((1, 200)) < 0.4
    widths = []
    for levels in ([0.6, 0.6, 0.6, 0.6], [0.3, 0.5, 0.7, 0.9]):
        new = rng.random((4, 200)) < np.array(levels)[:, None]
        found = stats.paired(new, old, seed=0)
        widths.append(found["high"] - found["low"])
    assert widths[1] > 1.5 * widths[0]


# --- two runs ---

score_test = test_proportions_2indep
del test_proportions_2indep  # pytest would take it for a test
shares = st.tuples(st.integers(2, 60), st.integers(0, 60)).map(lambda pair: (pair[0], min(pair)))


def right_share(share, *, n=60, seeds=1, draw=0):
    """Right or wrong, bool [seeds, n], the same problems drawn right for the same `draw`."""
    return np.random.default_rng(draw).random((seeds, n)) < share


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=40, deadline=None)
@given(shares, shares)
def test_independent_samples_of_one_student_are_statsmodels(first, second):
    """Each sample: n, and how many of them are right."""
    (n_old, old), (n_new, new) = first, second
    found = stats.difference(np.arange(n_old)[None] < old, np.arange(n_new)[None] < new, same=False)
    expected = confint_proportions_2indep(new, n_new, old, n_old, method="newcomb", compare="diff")
    assert (found["low"], found["high"]) == pytest.approx([100 * end for end in expected])
    assert found["points"] == pytest.approx(100 * (new / n_new - old / n_old))
    if 0 < old + new < n_old + n_new:
        assert found["p"] == pytest.approx(score_test(new, n_new, old, n_old, method="score").pvalue)
    else:
        assert found["p"] == 1


def test_of_several_students_the_least_significant_pair_counts():
    old, new = right_share(0.3, seeds=2), right_share(0.6, n=80, seeds=3, draw=1)
    found = stats.difference(old, new, same=False)
    pairs = [score_test(b.sum(), 80, a.sum(), 60, method="score").pvalue for a in old for b in new]
    assert found["p"] == max(pairs)
    one = stats.difference(old[:1], new[:1], same=False)
    assert found["low"] < found["points"] < found["high"]
    assert not one["paired"]


@pytest.mark.parametrize(
    ("seeds", "paired"), [((1, 1), True), ((3, 3), True), ((1, 3), True), ((3, 1), True), ((2, 3), False)]
)
def test_students_are_paired_where_each_has_one_to_meet(seeds, paired):
    old, new = (right_share(0.5, seeds=several, draw=several) for several in seeds)
    assert stats.difference(old, new, same=True)["paired"] is paired


def test_turning_the_runs_round_turns_the_difference_round():
    old, new = right_share(0.3, seeds=3), right_share(0.5, draw=1)
    found, turned = stats.difference(old, new, same=True), stats.difference(new, old, same=True)
    assert [found[key] for key in ("points", "low", "high", "only_a", "only_b", "p")] == pytest.approx(
        [-turned["points"], -turned["high"], -turned["low"], turned["only_b"], turned["only_a"], turned["p"]]
    )


# --- means and ranks ---


def test_the_interval_is_students():
    assert stats.t_interval(pd.Series([1.0, 3.0])) == pytest.approx((2 - 12.706205, 2 + 12.706205))
    assert np.isnan(stats.t_interval(pd.Series([1.0]))).all()


@pytest.mark.parametrize(("second", "rho"), [([1, 2, 3, 4, 5], 1), ([5, 4, 3, 2, 1], -1)])
def test_rank_correlation_of_five_ranked_alike_has_two_of_all_orders_as_far_out(second, rho):
    assert stats.rank_correlation([1, 3, 4, 8, 9], second) == (pytest.approx(rho), pytest.approx(2 / 120))
