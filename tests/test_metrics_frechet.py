"""The Frechet distance against closed forms and against scipy's matrix root."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from zoo.metrics.frechet import frechet_distance


def exact(rng: np.random.Generator, count: int, mean: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Samples (count, D) whose mean is `mean` and whose covariance is root root^T, both to the last digit."""
    drawn = rng.normal(size=(count, len(mean)))
    drawn -= drawn.mean(0)
    drawn = np.linalg.qr(drawn)[0] * np.sqrt(count - 1)
    return drawn @ root.T + mean


def by_scipy(x: np.ndarray, y: np.ndarray) -> float:
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)


def test_gaussians_of_known_mean_and_covariance():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    a, b = rng.uniform(0.1, 3, 16), rng.uniform(0.1, 3, 16)  # standard deviations along the same axes
    shift = rng.normal(size=16)
    x = exact(rng, 60, np.full(16, 1000.0), turn * a)
    y = exact(rng, 40, 1000.0 + shift, turn * b)
    assert frechet_distance(x, y) == pytest.approx((shift**2).sum() + ((a - b) ** 2).sum(), rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert np.isnan(frechet_distance(x[:1], y))


@pytest.mark.parametrize(("count", "size"), [(200, 64), (400, 100), (24, 300)])  # the last: fewer samples than features
def test_it_is_what_scipy_says(count: int, size: int):
    rng = np.random.default_rng(size)
    mix = rng.normal(size=(size, size)) / np.sqrt(size)
    x = rng.normal(size=(count, size)) @ mix
    y = rng.normal(size=(count + 7, size)) @ (mix + 0.3 * np.eye(size)) + 0.2
    assert frechet_distance(x, y) == pytest.approx(by_scipy(x, y), rel=1e-4)
    assert frechet_distance(x, y) == frechet_distance(x, y)
