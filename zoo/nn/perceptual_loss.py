"""How alike two pictures look, at every scale: what autoencoders learn by."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import vgg19

from zoo.nn.weights.loading import load_foreign

SCALES = (1, 2, 4, 8)  # a picture and its halves
LAYERS = (2, 7, 12, 21, 30)  # VGG-19 is cut behind the first ReLU of each of its five sizes


class Likeness(nn.Module):
    """How unlike two pictures are, over the scales: VGG-19 features, each layer's mean difference times 10.

    DabFusion's eq. 2.

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


class Shrink(nn.Module):
    """Blur by a Gaussian and keep every `factor`-th pixel."""

    def __init__(self, channels: int, factor: int):
        super().__init__()
        sigma = (factor - 1) / 2
        radius = round(sigma * 4)
        bell = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2)) if sigma else torch.ones(1)
        kernel = torch.outer(bell, bell)
        self.register_buffer("weight", (kernel / kernel.sum()).repeat(channels, 1, 1, 1))
        self.factor, self.radius = factor, radius

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/factor, W/factor)"""
        if self.factor == 1:
            return x
        row = self.weight.sum(2, keepdim=True)  # the kernel is the product of a row and the same column
        x = F.conv2d(x, row, stride=(1, self.factor), padding=(0, self.radius), groups=len(row))
        return F.conv2d(x, row.mT, stride=(self.factor, 1), padding=(self.radius, 0), groups=len(row))
