"""Normalisation of music features: raw values of an encoder differ by orders of magnitude (MFCC: hundreds)."""

import torch
from torch import Tensor, nn


class FeatureNormalizer(nn.Module):
    """(x - mean) / std of each of D values, x clamped to the training music's range; the identity before it is fitted.

    Buffers mean, std, low, high (D,). It lies outside the network: published weights, which were trained on raw
    features, load strictly and get raw features.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("low", torch.full((dim,), -torch.inf))
        self.register_buffer("high", torch.full((dim,), torch.inf))

    def forward(self, music: Tensor) -> Tensor:
        """Normalise (B, L, D) to (B, L, D)."""
        return (music.clamp(self.low, self.high) - self.mean) / self.std

    def running_moments(self) -> "RunningMoments":
        """Start a pass over the training music: `add` each batch, then `finish`."""
        return RunningMoments(self)


class RunningMoments:
    """Running moments of music features, in float64."""

    def __init__(self, normalizer: FeatureNormalizer):
        dim = len(normalizer.mean)
        self.normalizer, self.count = normalizer, 0
        self.total, self.squares = torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64)
        self.low, self.high = torch.full((dim,), torch.inf), torch.full((dim,), -torch.inf)

    def add(self, music: Tensor) -> None:
        """Add features (..., D)."""
        flat = music.reshape(-1, music.shape[-1]).cpu()
        self.count += len(flat)
        self.total += flat.double().sum(0)
        self.squares += flat.double().square().sum(0)
        self.low, self.high = torch.minimum(self.low, flat.amin(0)), torch.maximum(self.high, flat.amax(0))

    def finish(self) -> None:
        """Set the normaliser's buffers. Raises ValueError for no music at all, and for values that are not finite."""
        mean = self.total / max(self.count, 1)
        std = (self.squares / max(self.count, 1) - mean.square()).clamp(min=0).sqrt()
        if not self.count or not torch.isfinite(mean + std).all():
            raise ValueError(
                "cannot fit the music normaliser: the training data has no music, or features that are not finite"
            )
        # a constant feature carries no information: it becomes 0
        std = torch.where(std < 1e-6 * (1 + mean.abs()), 1.0, std)
        for name, value in (("mean", mean), ("std", std), ("low", self.low), ("high", self.high)):
            getattr(self.normalizer, name).copy_(value)
