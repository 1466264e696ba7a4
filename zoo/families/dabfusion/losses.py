"""What the autoencoder learns by: looking alike at every scale, and regions that follow the picture (MRAA, LFDM)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import vgg19

from zoo.families.dabfusion.blocks import Shrink, grid, warp
from zoo.families.dabfusion.regions import Regions
from zoo.nn.pretrained import load_foreign

SCALES = (1, 2, 4, 8)  # a picture and its halves
LAYERS = (2, 7, 12, 21, 30)  # VGG-19 is cut behind the first ReLU of each of its five sizes


class Likeness(nn.Module):
    """How unlike two pictures are, over the scales (eq. 2): VGG-19 features, each layer's mean difference times 10.

    vgg: torchvision's vgg19 weights. Without them, a substitute that needs no file: the pictures themselves and their
    differences between neighbours take the place of the features. It is blind to texture, of which there is little.
    """

    def __init__(self, vgg: str | None = None, weight: float = 10.0):
        super().__init__()
        self.weight = weight
        self.shrinks = nn.ModuleList(Shrink(3, factor) for factor in SCALES)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])
        self.slices = None
        if vgg is not None:
            network = vgg19()
            load_foreign(network, vgg)
            cuts = (0, *LAYERS)
            self.slices = nn.ModuleList(network.features[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True))
        self.requires_grad_(False).eval()

    def features(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> what is compared."""
        if self.slices is None:
            return [x, 2 * x.diff(dim=2), 2 * x.diff(dim=3)]
        x, found = (x - self.mean) / self.std, []
        for part in self.slices:
            x = part(x)
            found.append(x)
        return found

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        """Two (B, 3, H, W) in [0, 1] -> scalar"""
        total = made.new_zeros(())
        for shrink in self.shrinks:
            with torch.no_grad():
                wanted = self.features(shrink(true))
            for ours, theirs in zip(self.features(shrink(made)), wanted, strict=True):
                total = total + F.l1_loss(ours, theirs)
        return self.weight * total


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
