"""What the regions learn by, beside what is rebuilt: they follow the picture when it is bent (MRAA, LFDM)."""

import torch
from torch import Tensor

from zoo.families.dabfusion.blocks import grid, warp
from zoo.families.dabfusion.regions import Regions


class Bend:
    """A random smooth map of the plane for each of B pictures: affine and a thin-plate spline (FOMM's equivariance)."""

    def __init__(self, count: int, device: torch.device, affine: float = 0.05, spline: float = 0.005, points: int = 5):
        """affine, spline: standard deviations; points: control points to a side."""
        self.theta = torch.eye(2, 3, device=device) + affine * torch.randn(count, 2, 3, device=device)
        self.points = grid(points, points, self.theta).flatten(0, 1)
        self.strength = spline * torch.randn(count, 1, points**2, device=device)

    def __call__(self, places: Tensor) -> Tensor:
        """(B, N, 2) -> (B, N, 2)"""
        apart = (places[:, :, None] - self.points).abs().sum(-1)  # the public code's distance is this one
        lift = (self.strength * apart**2 * torch.log(apart + 1e-6)).sum(-1, keepdim=True)
        return torch.einsum("bcd,bnd->bnc", self.theta[..., :2], places) + self.theta[:, None, :, 2] + lift

    def slope(self, places: Tensor) -> Tensor:
        """The map's Jacobian. (B, N, 2) -> (B, N, 2, 2)"""
        apart = places[:, :, None] - self.points
        size = apart.abs().sum(-1)
        # d/ds of s^2 log(s + e), times ds/dx = sign(x)
        rate = self.strength * (2 * size * torch.log(size + 1e-6) + size**2 / (size + 1e-6))
        lift = (rate[..., None] * apart.sign()).sum(2)  # (B, N, 2), the same for both coordinates
        return self.theta[:, None, :, :2] + lift[:, :, None]

    def picture(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) bent."""
        places = grid(*x.shape[2:], x)
        bent = self(places.flatten(0, 1).expand(len(x), -1, 2))
        return warp(x, bent.unflatten(1, places.shape[:2]), padding="reflection")


def equivariance(regions: Regions, bent: Regions, bend: Bend) -> tuple[Tensor, Tensor]:
    """How far the regions of a bent picture are from the bent regions: of centres, and of axes (FOMM eq. 10 and 11)."""
    shift = (regions.shift - bend(bent.shift)).abs().mean()
    turn = torch.linalg.inv(regions.affine) @ bend.slope(bent.shift) @ bent.affine
    turn = turn * torch.sign(turn[:, :, :1, :1])
    return shift, (torch.eye(2, device=turn.device) - turn).abs().mean()
