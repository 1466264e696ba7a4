"""The Frechet distance between two sets of features, whatever they are features of."""

import numpy as np
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance


class _Given(nn.Module):
    """Stands where torchmetrics has its network: the features are there already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance between Gaussians fitted to x (N, D) and y (M, D) (Heusel et al. 2017, eq. 6).

    |m_x - m_y|^2 + Tr(C_x + C_y - 2 (C_x C_y)^(1/2)), unbiased covariances, in float64 by torchmetrics. NaN where a set
    has fewer than two samples. It is biased upwards when samples are few: compare only values from equally many.
    """
    assert x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1], f"{x.shape} and {y.shape}"
    if min(len(x), len(y)) < 2:
        return float("nan")
    both = np.concatenate([x, y]).astype(np.float64)
    both -= both.mean(0)  # torchmetrics adds up squares: far from zero they would lose digits
    if len(both) < both.shape[1]:  # in the space the samples span, nothing changes but the time it takes
        both = np.linalg.qr(both.T, mode="r").T
    metric = FrechetInceptionDistance(_Given(both.shape[1])).set_dtype(torch.float64)
    metric.update(torch.from_numpy(both[: len(x)]), real=True)
    metric.update(torch.from_numpy(both[len(x) :]), real=False)
    return max(0.0, float(metric.compute()))  # rounding may leave equal sets a hair below
