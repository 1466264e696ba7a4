"""How sure a mean is: bootstrap intervals, plain and paired."""

import numpy as np


def interval(values: np.ndarray, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): the mean of `values` (N,) and its percentile bootstrap interval; nan values are left out.

    Give differences of paired values for a paired comparison. Raises ValueError where nothing is left.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        raise ValueError("no values to average")
    drawn = np.random.default_rng(seed).choice(values, (draws, len(values))).mean(1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)
