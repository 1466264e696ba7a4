"""Uncertainty of values: bootstrap intervals, paired tests, and the correction for multiple tests.

All functions are deterministic: seeds are fixed, so that equal values give equal intervals.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE_LEVEL = 0.95
NUM_RESAMPLES = 10_000  # of a mean of clips' values
NUM_SET_RESAMPLES = 200  # of a set's value, which is more expensive


class Interval(NamedTuple):
    """An estimate (a mean, or a set's value), its bootstrap interval, and the number of clips."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap_indices(count: int, num_resamples: int, seed: int = 0) -> np.ndarray:
    """(draws, count) indices: `count` clips drawn with replacement, `draws` times."""
    return np.random.default_rng(seed).integers(0, count, (num_resamples, count))


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    level: float = CONFIDENCE_LEVEL,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of `values` (N,) and its percentile bootstrap interval; NaN values are left out.

    For a paired comparison, pass differences of paired values. Raises ValueError where all values are NaN.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        raise ValueError("no values to average")
    if not np.isfinite(values).all():  # resamples with the infinite value have an infinite mean: no width
        mean = float(values.mean()) if len(set(values[np.isinf(values)])) == 1 else float("nan")
        return Interval(mean, mean, mean, len(values))
    low, high = np.quantile(
        values[bootstrap_indices(len(values), num_resamples, seed)].mean(1), _quantile_levels(level)
    )
    return Interval(float(values.mean()), float(low), float(high), len(values))


def bootstrap_sets(
    statistic: Callable[[np.ndarray], Mapping[str, float]],
    count: int,
    num_resamples: int = NUM_SET_RESAMPLES,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Evaluate a set's statistics on bootstrap resamples: name -> (draws,) values.

    statistic: indices (count,) -> name -> value of the set of these clips.
    """
    draws = [statistic(indices) for indices in bootstrap_indices(count, num_resamples, seed)]
    return {name: np.array([draw[name] for draw in draws]) for name in draws[0]}


def set_interval(value: float, resampled: np.ndarray, count: int, level: float = CONFIDENCE_LEVEL) -> Interval:
    """A set's value with the interval that its resampled values span around it.

    A resampled set contains some clips twice, which biases distances between distributions upwards. The interval is
    the percentile interval, shifted so that the resamples' mean is the value. Where no resampled
    value is negative, the lower bound is not negative.
    """
    resampled = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or len(resampled) == 0:
        return Interval(float(value), float(value), float(value), count)
    low, high = np.quantile(resampled, _quantile_levels(level)) - resampled.mean() + value
    if value >= 0 and resampled.min() >= 0:
        low = max(low, 0.0)
    return Interval(float(value), float(low), float(high), count)


def paired_p_value(differences: np.ndarray, seed: int = 0) -> float:
    """Two-sided p value of the mean of paired differences (N,), by a permutation test with sign flips.

    Exact up to 13 clips, else of 9,999 random flips (scipy.stats.permutation_test). NaN differences are left out; NaN
    where fewer than two are left or one is infinite.
    """
    differences = np.asarray(differences, np.float64)
    differences = differences[~np.isnan(differences)]
    if len(differences) < 2 or not np.isfinite(differences).all():
        return float("nan")
    if not differences.any():
        return 1.0
    test = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9_999, rng=np.random.default_rng(seed)
    )
    return float(test.pvalue)


def bootstrap_p_value(difference: float, resampled: np.ndarray) -> float:
    """Two-sided p of a difference between two sets' values, from its paired resampled values (draws,).

    Wald's test with the bootstrap's standard deviation: a sign-flip test would need a value per clip. NaN
    for fewer than ten finite resampled values.
    """
    resampled = resampled[np.isfinite(resampled)]
    if not np.isfinite(difference) or len(resampled) < 10:
        return float("nan")
    std = resampled.std(ddof=1)
    if std == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stats.norm.sf(abs(difference) / std))


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's (1979) step-down correction of p values tested together; NaN stays NaN and does not count as a test.

    The k-th smallest of m is multiplied by m - k + 1, never below the one before it, at most 1.
    """
    p = np.asarray(p, np.float64)
    corrected = np.full_like(p, np.nan)
    order = np.argsort(p, kind="stable")[: int((~np.isnan(p)).sum())]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return corrected


def _quantile_levels(level: float) -> list[float]:
    return [(1 - level) / 2, (1 + level) / 2]
