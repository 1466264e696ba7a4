"""Where the figure of a picture is, and what the picture would be without it, in the latents of an autoencoder."""

import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn


class FigureFinder(nn.Module):
    """A small U-Net, diffusers', from a picture's latents to where its figure is."""

    def __init__(self, latent_channels: int, channels: tuple[int, ...] = (32, 64, 96)):
        super().__init__()
        depth = len(channels)
        self.net = UNet2DModel(
            in_channels=latent_channels,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=channels,
            down_block_types=("DownBlock2D",) * depth,
            up_block_types=("UpBlock2D",) * depth,
            attention_head_dim=32,
            norm_num_groups=8,
        )

    def forward(self, latents: Tensor) -> Tensor:
        """(N, C, h, w), h and w multiples of 4 -> logits (N, 1, h, w)"""
        return self.net(latents, 0).sample

    def error(self, latents: Tensor, parts: Tensor) -> Tensor:
        """Of finding the figures of latents (N, C, h, w), whose body parts are (N, H, W), 0 where there is no body."""
        wanted = figure_of(parts, latents.shape[2:])
        return F.binary_cross_entropy_with_logits(self(latents).float(), wanted)


def figure_of(parts: Tensor, size: tuple[int, int]) -> Tensor:
    """Parts (N, H, W) -> (N, 1, h, w): 1 where there is a body, or beside one, whose latents know of it; else 0."""
    there = F.adaptive_max_pool2d((parts > 0).float()[:, None], size)
    return F.max_pool2d(there, 3, 1, 1)


def without(latents: Tensor, figure: Tensor) -> Tensor:
    """Latents (N, C, h, w) with what is around it in place of the figure (N, 1, h, w) in 0..1.

    Where there is nothing to be seen of the ground, its average over a square of two by two is taken, or over squares
    of such squares.
    """
    return _filled(latents, 1 - figure)


def _filled(seen: Tensor, share: Tensor) -> Tensor:
    """seen (N, C, h, w), of which `share` (N, 1, h, w) is known."""
    if max(seen.shape[2:]) == 1:
        return seen
    coarse_share = F.avg_pool2d(share, 2, ceil_mode=True)
    coarse = F.avg_pool2d(seen * share, 2, ceil_mode=True) / coarse_share.clamp(min=1e-4)
    around = F.interpolate(_filled(coarse, (2 * coarse_share).clamp(max=1)), seen.shape[2:], mode="bilinear")
    return seen * share + around * (1 - share)
