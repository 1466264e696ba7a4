"""Segmentation of the figure and its body regions in latents, and compositing of regions over a background.

Shape letters: N images, C latent channels, h x w latent pixels, H x W image pixels, F frames.
"""

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

# DensePose parts by body region: trunk, hands, feet, upper legs, lower legs, upper arms, lower arms, head
BODY_REGIONS = (
    (1, 2), (3, 4), (5, 6), (7, 8, 9, 10), (11, 12, 13, 14), (15, 16, 17, 18), (19, 20, 21, 22), (23, 24),
)  # fmt: skip
TRUNK_REGION, FEET_REGION, HEAD_REGION = 0, 2, 7  # indices in BODY_REGIONS
NUM_PARTS = 24  # of DensePose; 0 is the background


class FigureSegmenter(nn.Module):
    """A small U-Net (diffusers) that segments the figure, and optionally its body regions, in latents of an image.

    channels: of the U-Net's levels, from the latent's resolution downwards.
    """

    fsdp_forward_methods = ("loss",)

    def __init__(self, latent_channels: int, predict_regions: bool = False, channels: tuple[int, ...] = (32, 64, 96)):
        super().__init__()
        num_levels = len(channels)
        self.predict_regions, self.size_divisor = predict_regions, 1 << (num_levels - 1)
        self.net = UNet2DModel(
            in_channels=latent_channels,
            out_channels=1 + predict_regions * (1 + len(BODY_REGIONS)),
            layers_per_block=1,
            block_out_channels=channels,
            down_block_types=("DownBlock2D",) * num_levels,
            up_block_types=("UpBlock2D",) * num_levels,
            attention_head_dim=32,
            norm_num_groups=8,
        )

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """Latents (N, C, h, w) -> foreground mask (N, 1, h, w), region masks (N, 8, h, w) or None; all in [0, 1]."""
        logits = self._logits(latents)
        return logits[:, :1].sigmoid(), logits[:, 1:].softmax(1)[:, 1:] if self.predict_regions else None

    def loss(self, latents: Tensor, parts: Tensor) -> Tensor:
        """Cross entropy for latents (N, C, h, w) and their DensePose parts (N, H, W), 0 in the background."""
        logits, size = self._logits(latents), latents.shape[2:]
        loss = F.binary_cross_entropy_with_logits(logits[:, :1], foreground_mask(parts, size))
        if self.predict_regions:
            loss = loss + region_loss(logits[:, 1:], parts)
        return loss

    def _logits(self, latents: Tensor) -> Tensor:
        height, width = latents.shape[2:]
        padded = F.pad(latents, (0, -width % self.size_divisor, 0, -height % self.size_divisor), mode="replicate")
        return self.net(padded, 0).sample.float()[..., :height, :width]


def foreground_mask(parts: Tensor, size: tuple[int, int]) -> Tensor:
    """DensePose parts (N, H, W) -> (N, 1, h, w): 1 at the body and one latent pixel around it, otherwise 0.

    size: (h, w). The margin is there because the latents next to a body contain some of it.
    """
    body_mask = F.adaptive_max_pool2d((parts > 0).float()[:, None], size)
    return F.max_pool2d(body_mask, 3, 1, 1)


def region_masks(parts: Tensor, size: tuple[int, int]) -> Tensor:
    """DensePose parts (N, H, W) 0..24 -> soft masks (N, 8, h, w): fraction of each latent pixel in each region.

    size: (h, w).
    """
    region_of_part = torch.zeros(1 + NUM_PARTS, dtype=torch.long, device=parts.device)
    for region_index, region_parts in enumerate(BODY_REGIONS):
        region_of_part[list(region_parts)] = region_index + 1
    one_hot = F.one_hot(region_of_part[parts.long()], 1 + len(BODY_REGIONS))[..., 1:].movedim(-1, 1)
    return F.adaptive_avg_pool2d(one_hot.float(), size)


def region_loss(logits: Tensor, parts: Tensor) -> Tensor:
    """Cross entropy of logits (N, 9, h, w), the background first, with the regions of parts (N, H, W)."""
    masks = region_masks(parts, logits.shape[2:])
    return F.cross_entropy(logits.float(), torch.cat([1 - masks.sum(1, keepdim=True), masks], 1))


def region_means(latents: Tensor, masks: Tensor) -> Tensor:
    """Masked average pooling: mean latents (N, 8, C) of the regions, for latents (N, C, h, w) and masks (N, 8, h, w).

    The mean of the whole figure counts as one more pixel of each region, for regions that are hardly visible.
    """
    flat_latents, flat_masks = latents.flatten(2), masks.flatten(2)
    total_weight = flat_masks.sum(2)[..., None]
    weighted_sums = flat_masks @ flat_latents.mT
    figure_mean = weighted_sums.sum(1, keepdim=True) / total_weight.sum(1, keepdim=True).clamp(min=1e-3)
    return (weighted_sums + figure_mean) / (total_weight + 1)


def composite_regions(background: Tensor, region_means: Tensor, masks: Tensor) -> Tensor:
    """Fill masks (N, F, 8, h, w) with region means (N, 8, C) over a background (N, C, h, w) -> (N, C, F, h, w)."""
    background_mask = (1 - masks.sum(2))[:, None]
    figure = torch.einsum("nrc,nfrhw->ncfhw", region_means.to(background), masks.to(background))
    return background[:, :, None] * background_mask + figure


def inpaint_background(latents: Tensor, foreground_mask: Tensor) -> Tensor:
    """Replace the figure (mask (N, 1, h, w) in [0, 1]) in latents (N, C, h, w) by its surroundings, by push-pull."""
    return _push_pull(latents, 1 - foreground_mask)


def _push_pull(x: Tensor, weights: Tensor) -> Tensor:
    """Interpolate x (N, C, h, w) where weights (N, 1, h, w) are low (Gortler et al. 1996, "The Lumigraph").

    weights: confidence in x, in [0, 1]. Each level averages 2x2 pixels of the finer one.
    """
    if max(x.shape[2:]) == 1:
        return x
    coarse_weights = F.avg_pool2d(weights, 2, ceil_mode=True)
    coarse = F.avg_pool2d(x * weights, 2, ceil_mode=True) / coarse_weights.clamp(min=1e-4)
    filled = F.interpolate(_push_pull(coarse, (2 * coarse_weights).clamp(max=1)), x.shape[2:], mode="bilinear")
    return x * weights + filled * (1 - weights)
