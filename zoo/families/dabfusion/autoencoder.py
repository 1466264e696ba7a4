"""The latent-flow autoencoder (DabFusion sec. 3.1): a picture's features, moved by flow and occlusion map, decoded.

Module names are LFDM's (`generator`, `region_predictor`, `bg_predictor`), so its public checkpoints load by name.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.families.dabfusion.blocks import DownBlock, ResBlock, SameBlock, UpBlock, warp
from zoo.families.dabfusion.regions import BackgroundMotion, PixelwiseFlowPredictor, RegionPredictor, Regions


class Generator(nn.Module):
    """Image encoder and decoder after Johnson et al.; every level is warped and blended on the way back."""

    def __init__(self, width: int, most: int, downs: int, bottleneck: int, flow: PixelwiseFlowPredictor):
        super().__init__()
        self.pixelwise_flow_predictor = flow
        widths = [min(most, width * 2**i) for i in range(downs + 1)]
        self.first = SameBlock(3, width, 7)
        self.down_blocks = nn.ModuleList(DownBlock(a, b) for a, b in pairwise(widths))
        self.bottleneck = nn.Sequential()
        for index in range(bottleneck):
            self.bottleneck.add_module(f"r{index}", ResBlock(widths[-1]))
        self.up_blocks = nn.ModuleList(UpBlock(b, a) for a, b in reversed(list(pairwise(widths))))
        self.final = nn.Conv2d(width, 3, 7, padding=3)

    def encode(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> features of every size, the picture first and z (B, C, H/4, W/4) last."""
        levels = [image, self.first(image)]
        for block in self.down_blocks:
            levels.append(block(levels[-1]))
        return levels

    def decode(self, levels: list[Tensor], flow: Tensor, occlusion: Tensor) -> Tensor:
        """Levels of `encode`, flow (B, h, w, 2) and occlusion (B, 1, h, w) -> picture (B, 3, H, W) in [0, 1].

        Eq. 1 at the bottom; above it, what is occluded is taken from the decoder instead of from the source.
        """
        z = levels[-1]
        y = self.bottleneck(_seen(z, flow, occlusion))
        for block, level in zip([*self.up_blocks, None], reversed(levels[1:]), strict=True):
            visible = _resized(occlusion, level)
            y = _seen(level, flow, occlusion) + y * (1 - visible)
            if block is not None:
                y = block(y)
        y = torch.sigmoid(self.final(y))
        return _seen(levels[0], flow, occlusion) + y * (1 - _resized(occlusion, y))


def _resized(occlusion: Tensor, like: Tensor) -> Tensor:
    same = occlusion.shape[2:] == like.shape[2:]
    return occlusion if same else F.interpolate(occlusion, like.shape[2:], mode="bilinear")


def _seen(level: Tensor, flow: Tensor, occlusion: Tensor) -> Tensor:
    """What of a level is still to be seen after the motion: m * warp(z, f), eq. 1."""
    return warp(level.float(), flow).to(level.dtype) * _resized(occlusion, level)


class FlowAutoencoder(nn.Module):
    """Generator, region predictor and background motion. The defaults are LFDM's, at 128x128."""

    def __init__(
        self,
        num_regions: int = 10,  # K, detected in an image of a quarter of the size
        base_channels: int = 64,  # of the generator
        max_channels: int = 512,
        num_down_blocks: int = 2,
        num_bottleneck_blocks: int = 6,
        region_base_channels: int = 32,
        flow_base_channels: int = 64,
        hourglass_max_channels: int = 1024,
        num_hourglass_blocks: int = 5,
        background_base_channels: int | None = 32,  # None: the camera stands still
        flow_upsample: int = 1,  # resolution of flow and occlusion over that of the latent
        limb_regions: bool = False,  # see `RegionPredictor`
        pixel_unshuffle_input: bool = False,  # see `RegionPredictor`
    ):
        super().__init__()
        hourglass = hourglass_max_channels, num_hourglass_blocks
        flow = PixelwiseFlowPredictor(
            num_regions, flow_base_channels, *hourglass, fine=flow_upsample, signed=limb_regions
        )
        self.generator = Generator(base_channels, max_channels, num_down_blocks, num_bottleneck_blocks, flow)
        self.region_predictor = RegionPredictor(
            num_regions, region_base_channels, *hourglass, limbs=limb_regions, folded=pixel_unshuffle_input
        )
        self.bg_predictor = BackgroundMotion(background_base_channels, *hourglass) if background_base_channels else None
        self.fine = flow_upsample
        self.latent_channels = min(max_channels, base_channels * 2**num_down_blocks)

    def encode(self, image: Tensor) -> list[Tensor]:
        """See `Generator.encode`."""
        return self.generator.encode(image)

    def decode(self, levels: list[Tensor], flow: Tensor, occlusion: Tensor) -> Tensor:
        """See `Generator.decode`; levels of one picture serve any number of flows."""
        count = len(flow)
        return self.generator.decode([level.expand(count, *level.shape[1:]) for level in levels], flow, occlusion)

    def motion(self, source: Tensor, driving: Tensor, here: Regions, there: Regions) -> tuple[Tensor, ...]:
        """Two (B, 3, H, W) and their regions -> what `PixelwiseFlowPredictor` gives, at H/4 x W/4, times `fine`."""
        if self.bg_predictor is not None:
            background = self.bg_predictor(source, driving)
        else:  # of n x n: see `blocks.still`
            scale = 1 - 4 / (source.shape[-1] * self.fine)
            background = scale * torch.eye(2, 3, device=source.device).expand(len(source), -1, -1)
        return self.generator.pixelwise_flow_predictor(source, here, there, background)

    def forward(self, source: Tensor, driving: Tensor, regions: Regions | None = None) -> "Rebuilt":
        """source, driving (B, 3, H, W) in [0, 1]; regions: the source's, then the driving picture's, if known."""
        count = len(source)
        if regions is None:
            regions = self.region_predictor(torch.cat([source, driving]))
        here, there = regions.select(slice(0, count)), regions.select(slice(count, 2 * count))
        flow, occlusion, shares = self.motion(source, driving, here, there)
        return Rebuilt(self.decode(self.encode(source), flow, occlusion), flow, occlusion, shares, here, there)


@dataclass(frozen=True)
class Rebuilt:
    """A driving picture, made of a source picture and the motion between the two."""

    picture: Tensor  # (B, 3, H, W) in [0, 1]
    flow: Tensor  # (B, h, w, 2)
    occlusion: Tensor  # (B, 1, h, w), 1 visible
    shares: Tensor  # (B, 1 + K, h, w) of background and regions in the flow, summing to 1
    here: Regions  # of the source
    there: Regions  # of the driving picture
