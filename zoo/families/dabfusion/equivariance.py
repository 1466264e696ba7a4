"""Equivariance losses: the regions of a transformed image are the transformed regions (FOMM, MRAA, LFDM)."""

import torch
from torch import Tensor

from zoo.diffusion.batch_random import BatchRandom
from zoo.diffusion.losses import GLOBAL_RANDOM
from zoo.families.dabfusion.blocks import coordinate_grid, warp
from zoo.families.dabfusion.regions import Regions


class RandomTPS:
    """A random smooth map of the plane for each of B images: affine plus a thin-plate spline (FOMM sec. 3.3)."""

    def __init__(
        self,
        num_images: int,
        device: torch.device,
        affine_std: float = 0.05,
        spline_std: float = 0.005,
        points_per_side: int = 5,
        random: BatchRandom = GLOBAL_RANDOM,
    ):
        self.theta = torch.eye(2, 3, device=device) + affine_std * random.randn(num_images, 2, 3, device=device)
        self.control_points = coordinate_grid(points_per_side, points_per_side, self.theta).flatten(0, 1)
        self.control_params = spline_std * random.randn(num_images, 1, points_per_side**2, device=device)

    def __call__(self, coordinates: Tensor) -> Tensor:
        """Map (B, N, 2) -> (B, N, 2)."""
        # the L1 distance, as in the public code
        distances = (coordinates[:, :, None] - self.control_points).abs().sum(-1)
        spline = (self.control_params * distances**2 * torch.log(distances + 1e-6)).sum(-1, keepdim=True)
        linear = torch.einsum("bcd,bnd->bnc", self.theta[..., :2], coordinates)
        return linear + self.theta[:, None, :, 2] + spline

    def jacobian(self, coordinates: Tensor) -> Tensor:
        """Return the Jacobians of the map: (B, N, 2) -> (B, N, 2, 2)."""
        offsets = coordinates[:, :, None] - self.control_points
        distances = offsets.abs().sum(-1)
        # d/ds of s^2 log(s + e), times ds/dx = sign(x)
        slopes = self.control_params * (2 * distances * torch.log(distances + 1e-6) + distances**2 / (distances + 1e-6))
        spline = (slopes[..., None] * offsets.sign()).sum(2)  # (B, N, 2), the same for both output coordinates
        return self.theta[:, None, :, :2] + spline[:, :, None]

    def transform_images(self, x: Tensor) -> Tensor:
        """Return images (B, 3, H, W) warped by the map."""
        grid = coordinate_grid(*x.shape[2:], x)
        flow = self(grid.flatten(0, 1).expand(len(x), -1, 2))
        return warp(x, flow.unflatten(1, grid.shape[:2]), padding_mode="reflection")


def equivariance_losses(regions: Regions, transformed: Regions, transform: RandomTPS) -> tuple[Tensor, Tensor]:
    """Return the errors of region centres and of region axes in transformed images (FOMM eq. 10 and 11)."""
    shift = (regions.shift - transform(transformed.shift)).abs().mean()
    jacobian = transform.jacobian(transformed.shift)
    residual = torch.linalg.inv(regions.affine) @ jacobian @ transformed.affine
    residual = residual * torch.sign(residual[:, :, :1, :1])
    return shift, (torch.eye(2, device=residual.device) - residual).abs().mean()
