"""Perceptual loss at several scales: the reconstruction loss of the autoencoders."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import vgg19

from zoo.nn.weights.loading import load_strict

SCALES = (1, 2, 4, 8)  # factors by which images are downsampled
# indices in VGG-19's `features`, which are cut after the first ReLU of each of the five resolutions
SLICE_ENDS = (2, 7, 12, 21, 30)


class PerceptualLoss(nn.Module):
    """Mean absolute difference of VGG-19 features, summed over layers and scales, times `weight` (DabFusion eq. 2).

    vgg_weights: file of torchvision's vgg19. Without it a substitute is used that needs no file: the images themselves
    and the differences of neighbouring pixels take the place of the features. It does not see texture.
    """

    def __init__(self, vgg_weights: str | None = None, weight: float = 10.0):
        super().__init__()
        self.weight = weight
        self.downsamples = nn.ModuleList(AntiAliasDownsample(3, factor) for factor in SCALES)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])
        self.slices = None
        if vgg_weights is not None:
            network = vgg19()
            load_strict(network, vgg_weights)
            cuts = (0, *SLICE_ENDS)
            self.slices = nn.ModuleList(
                network.features[start:stop] for start, stop in zip(cuts[:-1], cuts[1:], strict=True)
            )
        self.requires_grad_(False).eval()

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the compared features of images (B, 3, H, W) in [0, 1]."""
        if self.slices is None:
            return [x, 2 * x.diff(dim=2), 2 * x.diff(dim=3)]
        x, features = (x - self.mean) / self.std, []
        for layers in self.slices:
            x = layers(x)
            features.append(x)
        return features

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Two (B, 3, H, W) in [0, 1] -> scalar."""
        total_loss = output.new_zeros(())
        for downsample in self.downsamples:
            with torch.no_grad():
                all_target_features = self.features(downsample(target))
            for output_features, target_features in zip(
                self.features(downsample(output)), all_target_features, strict=True
            ):
                total_loss = total_loss + F.l1_loss(output_features, target_features)
        return self.weight * total_loss


class AntiAliasDownsample(nn.Module):
    """Gaussian blur, then every `factor`-th pixel (FOMM's AntiAliasInterpolation2d)."""

    def __init__(self, channels: int, factor: int):
        super().__init__()
        sigma = (factor - 1) / 2
        radius = round(sigma * 4)  # pixels, of the kernel
        gaussian = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2)) if sigma else torch.ones(1)
        kernel = torch.outer(gaussian, gaussian)
        self.register_buffer("weight", (kernel / kernel.sum()).repeat(channels, 1, 1, 1))
        self.factor, self.radius = factor, radius

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/factor, W/factor)."""
        if self.factor == 1:
            return x
        row_kernel = self.weight.sum(2, keepdim=True)  # the kernel is the outer product of a normalised row with itself
        x = F.conv2d(x, row_kernel, stride=(1, self.factor), padding=(0, self.radius), groups=len(row_kernel))
        return F.conv2d(x, row_kernel.mT, stride=(self.factor, 1), padding=(self.radius, 0), groups=len(row_kernel))
