"""Intervals and tests against closed forms, hand enumeration, and values whose answer is plain."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from zoo.metrics.statistics import (
    bootstrap_indices,
    bootstrap_interval,
    bootstrap_p_value,
    bootstrap_sets,
    holm,
    paired_p_value,
    set_interval,
)


def test_a_means_interval_is_as_wide_as_theory_says():
    """Close to mean +- 1.96 standard errors for many normal values; the same twice; NaN left out and counted."""
    values = np.random.default_rng(0).normal(3, 2, 400)
    mean, low, high, n = bootstrap_interval(np.append(values, [np.nan, np.nan]))
    half = 1.96 * values.std(ddof=0) / np.sqrt(400)
    assert (mean, n) == (values.mean(), 400)
    assert mean - low == pytest.approx(half, rel=0.05) and high - mean == pytest.approx(half, rel=0.05)
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """95% of intervals hold the true mean: between 91% and 98% of 300, of 40 values each."""
    rng = np.random.default_rng(1)
    found = [bootstrap_interval(rng.normal(0, 1, 40), num_resamples=1000) for _ in range(300)]
    assert 0.91 < np.mean([low <= 0 <= high for _, low, high, _ in found]) < 0.98


def test_infinite_and_missing_values():
    """PSNR of equal pictures: the mean is infinite and says so; nothing at all is refused."""
    assert bootstrap_interval([np.inf, np.inf]) == (np.inf, np.inf, np.inf, 2)
    assert bootstrap_interval([1.0, np.inf])[:3] == (np.inf, np.inf, np.inf)
    assert np.isnan(bootstrap_interval([-np.inf, np.inf]).mean)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([np.nan])


def test_sign_flips_by_hand():
    """Small sets are enumerated: the share of the 2^N sign patterns whose mean is as far from zero."""
    assert paired_p_value(np.ones(5)) == pytest.approx(2 / 2**5)
    differences = np.array([0.5, -0.2, 1.1, 0.7, -0.1, 0.3, 0.9, 0.4])
    flipped = [np.mean(np.array(signs) * differences) for signs in product([1, -1], repeat=8)]
    share = np.mean(np.abs(flipped) >= differences.mean() - 1e-12)
    assert paired_p_value(np.append(differences, np.nan)) == pytest.approx(share)
    assert (
        paired_p_value(np.zeros(9)) == 1 and np.isnan(paired_p_value([1.0])) and np.isnan(paired_p_value([1.0, np.inf]))
    )


def test_p_values_of_nothing_are_spread_evenly():
    """Where there is no difference, p falls below 0.05 once in twenty."""
    rng = np.random.default_rng(2)
    low = np.mean([paired_p_value(rng.normal(0, 1, 16)) < 0.05 for _ in range(100)])
    assert 0.01 < low < 0.1
    assert paired_p_value(rng.normal(1, 1, 64)) < 0.001


def test_holm_by_hand():
    """Holm 1979: the smallest times m, the next times m - 1, never falling; NaN takes no part."""
    assert holm([0.01, 0.04, np.nan, 0.03, 0.005])[[0, 1, 3, 4]] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(holm([0.01, np.nan])[1]) and holm([0.01, np.nan])[0] == 0.01
    assert holm([0.6, 0.9]).tolist() == [1, 1]


def test_a_sets_value_that_is_a_mean_gets_a_means_interval():
    """What draws of a set give for the mean is what the mean's own bootstrap gives."""
    values = np.random.default_rng(3).normal(5, 1, 200)
    drawn = bootstrap_sets(lambda indices: {"mean": values[indices].mean()}, 200, num_resamples=2000)["mean"]
    assert set_interval(values.mean(), drawn, 200) == pytest.approx(tuple(bootstrap_interval(values)), abs=0.02)


def test_a_distances_interval_is_freed_of_the_resamplings_bias():
    """The variance's negative: resamples of few give too small a variance, by (n - 1) / n; the interval holds it."""
    rng = np.random.default_rng(4)
    values = rng.normal(0, 1, 10)
    drawn = bootstrap_sets(lambda indices: {"spread": values[indices].var()}, 10, num_resamples=1000)["spread"]
    assert drawn.mean() == pytest.approx(values.var() * 0.9, rel=0.05)
    found = set_interval(values.var(), drawn, 10)
    assert found.low < values.var() < found.high and found.high - found.low == pytest.approx(
        np.subtract(*np.quantile(drawn, [0.975, 0.025])), rel=1e-6
    )
    assert set_interval(0.1, np.array([0.0, 1.0, 2.0, 5.0]), 4).low == 0  # a distance has no negative bound
    assert set_interval(-0.1, np.array([-1.0, 1.0, 0.5, 0.0]), 4).low < -0.1


def test_the_test_of_a_sets_difference():
    """Wald: two standard deviations off is p = 0.0455; no spread and no difference is no evidence."""
    drawn = np.random.default_rng(5).normal(2, 1, 4000)
    assert bootstrap_p_value(2 * drawn.std(ddof=1), drawn) == pytest.approx(2 * stats.norm.sf(2))
    assert bootstrap_p_value(0.0, np.zeros(50)) == 1 and bootstrap_p_value(1.0, np.ones(50)) == 0
    assert np.isnan(bootstrap_p_value(1.0, np.ones(5))) and np.isnan(bootstrap_p_value(np.nan, np.ones(50)))


def test_resamples_are_the_same_for_every_row():
    """Rows are compared on equal resamples, so they are a function of the count alone."""
    assert np.array_equal(bootstrap_indices(7, 20), bootstrap_indices(7, 20))
    assert bootstrap_indices(7, 5000).min() == 0 and bootstrap_indices(7, 5000).max() == 6
