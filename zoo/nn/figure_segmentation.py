"""Where the figure of a picture is, and what the picture would be without it, in the latents of an autoencoder."""

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

# DensePose's parts by the looks they share: trunk, hands, feet, upper and lower legs, upper and lower arms, head
REGIONS = ((1, 2), (3, 4), (5, 6), (7, 8, 9, 10), (11, 12, 13, 14), (15, 16, 17, 18), (19, 20, 21, 22), (23, 24))
HEAD = 7  # the head's among them


class FigureFinder(nn.Module):
    """A small U-Net, diffusers', from a picture's latents to where its figure is, and maybe which region of it."""

    fsdp_forward_methods = ("error",)  # from outside, beside forward

    def __init__(self, latent_channels: int, regions: bool = False, channels: tuple[int, ...] = (32, 64, 96)):
        super().__init__()
        depth = len(channels)
        self.regions, self.step = regions, 1 << (depth - 1)
        self.net = UNet2DModel(
            in_channels=latent_channels,
            out_channels=1 + regions * (1 + len(REGIONS)),
            layers_per_block=1,
            block_out_channels=channels,
            down_block_types=("DownBlock2D",) * depth,
            up_block_types=("UpBlock2D",) * depth,
            attention_head_dim=32,
            norm_num_groups=8,
        )

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, C, h, w) -> where the figure is (N, 1, h, w), see `figure_of`; and shares of the regions (N, 8, h, w),
        if it is to find them. All in 0..1."""
        found = self._logits(latents)
        return found[:, :1].sigmoid(), found[:, 1:].softmax(1)[:, 1:] if self.regions else None

    def error(self, latents: Tensor, parts: Tensor) -> Tensor:
        """Of finding the figures of latents (N, C, h, w), whose body parts are (N, H, W), 0 where there is no body."""
        found, size = self._logits(latents), latents.shape[2:]
        error = F.binary_cross_entropy_with_logits(found[:, :1], figure_of(parts, size))
        if self.regions:
            error = error + regions_error(found[:, 1:], parts)
        return error

    def _logits(self, latents: Tensor) -> Tensor:
        height, width = latents.shape[2:]
        whole = F.pad(latents, (0, -width % self.step, 0, -height % self.step), mode="replicate")
        return self.net(whole, 0).sample.float()[..., :height, :width]


def figure_of(parts: Tensor, size: tuple[int, int]) -> Tensor:
    """Parts (N, H, W) -> (N, 1, h, w): 1 where there is a body, or beside one, whose latents know of it; else 0."""
    there = F.adaptive_max_pool2d((parts > 0).float()[:, None], size)
    return F.max_pool2d(there, 3, 1, 1)


def regions_of(parts: Tensor, size: tuple[int, int]) -> Tensor:
    """Parts (N, H, W) 0..24 -> the share (N, 8, h, w) that each of `REGIONS` has of a place."""
    region = torch.zeros(25, dtype=torch.long, device=parts.device)
    for index, members in enumerate(REGIONS):
        region[list(members)] = index + 1
    one_hot = F.one_hot(region[parts.long()], 1 + len(REGIONS))[..., 1:].movedim(-1, 1)
    return F.adaptive_avg_pool2d(one_hot.float(), size)


def regions_error(logits: Tensor, parts: Tensor) -> Tensor:
    """Of telling the regions of parts (N, H, W) by logits (N, 9, h, w), the ground's first: their cross entropy."""
    shares = regions_of(parts, logits.shape[2:])
    return F.cross_entropy(logits.float(), torch.cat([1 - shares.sum(1, keepdim=True), shares], 1))


def looks(latents: Tensor, shares: Tensor) -> Tensor:
    """What the regions look like on average, (N, 8, C): of latents (N, C, h, w) by shares (N, 8, h, w).

    A region of which little is to be seen takes after the rest of the figure.
    """
    flat, weights = latents.flatten(2), shares.flatten(2)
    total = weights.sum(2)[..., None]
    sums = weights @ flat.mT
    figure = sums.sum(1, keepdim=True) / total.sum(1, keepdim=True).clamp(min=1e-3)
    return (sums + figure) / (total + 1)


def painted(ground: Tensor, known: Tensor, shares: Tensor) -> Tensor:
    """A ground (N, C, h, w) with the regions' shares (N, F, 8, h, w) of frames in their `looks` -> (N, C, F, h, w)."""
    free = (1 - shares.sum(2))[:, None]
    return ground[:, :, None] * free + torch.einsum("nrc,nfrhw->ncfhw", known.to(ground), shares.to(ground))


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
