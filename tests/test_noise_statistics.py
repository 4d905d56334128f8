"""Estimates, running ratios and intervals from recorded numbers alone."""

import itertools

import numpy as np
import pytest

from fitcore.noise.results import NoiseCurve
from fitcore.noise.statistics import estimate, fieller, lost_digits, running_ratio, student_t


def test_estimates_are_unbiased_for_examples_and_micro_batches():
    random = np.random.default_rng(0)
    mean, deviation = np.array([0.3, -0.2, 0.1]), np.array([1.0, 0.5, 2.0])
    truth = (deviation**2).sum(), (mean**2).sum()
    g = mean + deviation * random.normal(size=(20_000, 12, 3))
    for k in (12, 4, 2):  # units; 12: the examples themselves
        parts = g.reshape(len(g), k, 12 // k, 3).mean(2)
        center = parts.mean(1)
        found = estimate(((parts - center[:, None]) ** 2).sum((1, 2)), (center**2).sum(1), k, 12 // k)
        for values, true in zip(found, truth):
            assert abs(values.mean() - true) < 4 * values.std() / np.sqrt(len(values))


def test_one_unit_has_no_variance():
    trace, norm = estimate([0.0, 2.0], [1.0, 1.0], [1, 3])
    assert np.isnan(trace[0])
    assert np.isnan(norm[0])
    assert trace[1] == 1.0
    assert norm[1] == pytest.approx(1 - 1 / 3)


def test_a_running_ratio_divides_averages_and_is_the_exponential_average_with_bias_correction():
    random = np.random.default_rng(1)
    a, b = 5 + random.normal(size=300), 2 + 0.5 * random.normal(size=300)
    top = bottom = weight = 0.0
    for x, y in zip(a, b):
        top, bottom, weight = 0.9 * top + 0.1 * x, 0.9 * bottom + 0.1 * y, 0.9 * weight + 0.1
    ratio = running_ratio(a, b, 1.0, decay=0.9)
    assert ratio.numerator[-1] == pytest.approx(top / weight)
    assert ratio.denominator[-1] == pytest.approx(bottom / weight)
    assert ratio.value[-1] == pytest.approx(top / bottom)
    plain = running_ratio(a, b, 1.0)
    assert plain.value[-1] == pytest.approx(a.mean() / b.mean())
    assert plain.low[-1] < a.mean() / b.mean() < plain.high[-1]


def test_weights_count_and_what_is_not_finite_is_left_out():
    a, b, w = np.array([1.0, 3.0, np.nan, 5.0]), np.array([1.0, 1.0, 1.0, 3.0]), np.array([1.0, 2.0, 1.0, 0.0])
    ratio = running_ratio(a, b, w)
    assert ratio.numerator.tolist() == pytest.approx([1.0, 7 / 3, 7 / 3, 7 / 3])


def test_a_denominator_that_may_be_zero_leaves_the_ratio_undetermined():
    random = np.random.default_rng(2)
    ratio = running_ratio(10 + random.normal(size=50), random.normal(size=50), 1.0)
    assert ratio.undetermined[-1]
    assert np.isnan(ratio.value[-1])
    assert ratio.low[-1] > 0  # the numerator is known, so the ratio is known to be large
    assert ratio.high[-1] == np.inf


def test_a_denominator_below_zero_says_nothing_of_the_ratio():
    """As |G|^2^ of few data is where the weights fit them: no noise scale is negative."""
    random = np.random.default_rng(2)
    ratio = running_ratio(10 + random.normal(size=50), -2 + 0.1 * random.normal(size=50), 1.0)
    assert ratio.denominator[-1] < 0
    assert np.isnan(ratio.value).all()
    assert (ratio.low[-1], ratio.high[-1]) == (-np.inf, np.inf)
    assert ratio.undetermined.all()


@pytest.mark.parametrize(("n", "k"), [(2, 2), (4, 4), (4, 2), (5, 5), (6, 3), (6, 6)])
def test_over_all_batches_of_few_rows_the_estimates_are_those_of_all_rows(n, k):
    """Of n of 6 rows, without replacement, cut into k parts: each batch there is, once in each order."""
    g = np.random.default_rng(0).normal(size=(6, 3))
    g -= 0.95 * g.mean(0)  # as weights that fit their data have it: the mean gradient is small beside the rows'
    batches = np.array(list(itertools.permutations(range(6), n)))
    parts = g[batches].reshape(len(batches), k, n // k, 3).mean(2)
    center = parts.mean(1)
    trace, norm = estimate(((parts - center[:, None]) ** 2).sum((1, 2)), (center**2).sum(1), k, n // k)
    variance, truth = g.var(0, ddof=1).sum(), (g.mean(0) ** 2).sum()
    assert trace.mean() == pytest.approx(variance)
    assert norm.mean() == pytest.approx(truth - variance / 6)
    assert norm.mean() < 0
    ones = np.ones(len(batches))
    curve = NoiseCurve(trace, norm, ones, ones, ones, ones, decay=1.0, confidence=0.95, population=6)
    assert curve.over().denominator == pytest.approx(truth)
    unknown = NoiseCurve(trace, norm, ones, ones, ones, ones, decay=1.0, confidence=0.95, population=np.inf)
    assert unknown.over().denominator == pytest.approx(truth - variance / 6)


def test_fieller_is_the_set_of_ratios_that_fit():
    a, b, vaa, vbb, vab, t = 3.0, 2.0, 0.04, 0.09, 0.01, 2.0
    low, high = fieller(a, b, vaa, vbb, vab, t)
    for r, inside in ((low - 1e-6, False), (low + 1e-6, True), (high - 1e-6, True), (high + 1e-6, False)):
        assert ((a - r * b) ** 2 <= t**2 * (vaa - 2 * r * vab + r**2 * vbb)) == inside
    assert fieller(0.1, 0.1, 1.0, 1.0, 0.0, 2.0) == (-np.inf, np.inf)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (30, 2.0423), (1e6, 1.96)]
)
def test_quantiles_of_student(freedom, quantile):
    assert student_t(0.975, freedom) == pytest.approx(quantile, rel=2e-3)


def test_intervals_cover():
    random = np.random.default_rng(3)
    runs, steps, true = 2000, 50, 2.5
    b = 2 + 2.0 * random.normal(size=(steps, runs))
    a = 5 + 1.5 * random.normal(size=(steps, runs)) + 0.5 * (b - 2)
    ratio = running_ratio(a, b, 1.0)
    assert 0.93 < ((ratio.low[-1] <= true) & (true <= ratio.high[-1])).mean() < 0.97


def test_lost_digits():
    assert lost_digits(1.0, 0.0, 8) == 0
    assert lost_digits(8.0, 999.0, 8) == pytest.approx(3)
