"""The Frechet distance between two sets of features."""

import numpy as np

MIN_RELATIVE_DISTANCE = 1e-12  # relative to the covariances' traces: rounding error for equal sets


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance between Gaussians fitted to x (N, D) and y (M, D) (Heusel et al. 2017, eq. 6).

    |m_x - m_y|^2 + Tr(C_x + C_y - 2 (C_x C_y)^(1/2)), unbiased covariances, in float64. NaN where a set has fewer than
    two samples. It is biased upwards for few samples: compare only equal numbers of samples.
    """
    assert x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1], f"{x.shape} and {y.shape}"
    if min(len(x), len(y)) < 2:
        return float("nan")
    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_difference = ((x.mean(0) - y.mean(0)) ** 2).sum()
    # C = A'A with A the centred samples over sqrt(N - 1). The eigenvalues of A'A B'B are the squared singular values of
    # AB', so the trace of the root is their sum. torchmetrics takes eigenvalues of a non-symmetric matrix, for which
    # LAPACK fails where samples repeat, as in a bootstrap
    a, b = (_reduce_rows((samples - samples.mean(0)) / np.sqrt(len(samples) - 1)) for samples in (x, y))
    spread = (a**2).sum() + (b**2).sum()
    distance = mean_difference + spread - 2 * np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(distance) if distance > MIN_RELATIVE_DISTANCE * spread else 0.0


def _reduce_rows(samples: np.ndarray) -> np.ndarray:
    """Reduce A (N, D) to (min(N, D), D) with the same A'A."""
    return np.linalg.qr(samples, mode="r") if len(samples) > samples.shape[1] else samples
