"""The latent-flow autoencoder (DabFusion sec. 3.1): image features, warped by a flow and masked by occlusion, decoded.

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
    """Image encoder and decoder after Johnson et al. (2016); every level is warped and blended in the decoder."""

    def __init__(
        self,
        base_channels: int,
        max_channels: int,
        num_down_blocks: int,
        num_bottleneck_blocks: int,
        flow_predictor: PixelwiseFlowPredictor,
    ):
        super().__init__()
        self.pixelwise_flow_predictor = flow_predictor
        channels = [min(max_channels, base_channels * 2**i) for i in range(num_down_blocks + 1)]
        self.first = SameBlock(3, base_channels, 7)
        self.down_blocks = nn.ModuleList(DownBlock(a, b) for a, b in pairwise(channels))
        self.bottleneck = nn.Sequential()
        for index in range(num_bottleneck_blocks):
            self.bottleneck.add_module(f"r{index}", ResBlock(channels[-1]))
        self.up_blocks = nn.ModuleList(UpBlock(b, a) for a, b in reversed(list(pairwise(channels))))
        self.final = nn.Conv2d(base_channels, 3, 7, padding=3)

    def encode(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> features of every level, from the image itself to z (B, C, H/4, W/4)."""
        levels = [image, self.first(image)]
        for block in self.down_blocks:
            levels.append(block(levels[-1]))
        return levels

    def decode(self, levels: list[Tensor], flow: Tensor, occlusion: Tensor) -> Tensor:
        """Levels of `encode`, flow (B, h, w, 2) and occlusion (B, 1, h, w) -> image (B, 3, H, W) in [0, 1].

        Eq. 1 at the lowest level; above it, occluded pixels come from the decoder and visible ones from the source.
        """
        z = levels[-1]
        y = self.bottleneck(_warp_and_mask(z, flow, occlusion))
        for block, level in zip([*self.up_blocks, None], reversed(levels[1:]), strict=True):
            visible_mask = _resize_mask(occlusion, level)
            y = _warp_and_mask(level, flow, occlusion) + y * (1 - visible_mask)
            if block is not None:
                y = block(y)
        y = torch.sigmoid(self.final(y))
        return _warp_and_mask(levels[0], flow, occlusion) + y * (1 - _resize_mask(occlusion, y))


def _resize_mask(occlusion: Tensor, target: Tensor) -> Tensor:
    is_same_size = occlusion.shape[2:] == target.shape[2:]
    return occlusion if is_same_size else F.interpolate(occlusion, target.shape[2:], mode="bilinear")


def _warp_and_mask(level: Tensor, flow: Tensor, occlusion: Tensor) -> Tensor:
    """Return the visible part of a warped level: m * warp(z, f) of eq. 1."""
    return warp(level.float(), flow).to(level.dtype) * _resize_mask(occlusion, level)


class FlowAutoencoder(nn.Module):
    """Generator, region predictor and background motion."""

    def __init__(
        self,
        *,
        num_regions: int,
        base_channels: int,  # of the generator
        max_channels: int,
        num_down_blocks: int,
        num_bottleneck_blocks: int,
        region_base_channels: int,  # of the region predictor's hourglass
        flow_base_channels: int,  # of the flow predictor's hourglass
        hourglass_max_channels: int,
        num_hourglass_blocks: int,
        background_base_channels: int | None,  # None: the camera does not move
        flow_upsample: int,  # resolution of flow and occlusion over a quarter of the image's
        limb_regions: bool,  # see `RegionPredictor`, as the next one
        pixel_unshuffle_input: bool,
    ):
        super().__init__()
        hourglass_arguments = hourglass_max_channels, num_hourglass_blocks
        flow_predictor = PixelwiseFlowPredictor(
            num_regions, flow_base_channels, *hourglass_arguments, flow_upsample=flow_upsample, signed_axes=limb_regions
        )
        self.generator = Generator(base_channels, max_channels, num_down_blocks, num_bottleneck_blocks, flow_predictor)
        self.region_predictor = RegionPredictor(
            num_regions,
            region_base_channels,
            *hourglass_arguments,
            limb_regions=limb_regions,
            pixel_unshuffle_input=pixel_unshuffle_input,
        )
        self.bg_predictor = (
            BackgroundMotion(background_base_channels, *hourglass_arguments) if background_base_channels else None
        )
        self.flow_upsample = flow_upsample
        self.latent_channels = min(max_channels, base_channels * 2**num_down_blocks)

    def encode(self, image: Tensor) -> list[Tensor]:
        """See `Generator.encode`."""
        return self.generator.encode(image)

    def decode(self, levels: list[Tensor], flow: Tensor, occlusion: Tensor) -> Tensor:
        """See `Generator.decode`; the levels of one image serve any number of flows."""
        count = len(flow)
        return self.generator.decode([level.expand(count, *level.shape[1:]) for level in levels], flow, occlusion)

    def predict_motion(
        self, source: Tensor, driving: Tensor, source_regions: Regions, driving_regions: Regions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict flow, occlusion and weights from two (B, 3, H, W) and their regions, see `PixelwiseFlowPredictor`."""
        if self.bg_predictor is not None:
            background_motion = self.bg_predictor(source, driving)
        else:  # no motion at a flow of n x n, see `identity_flow`
            scale = 1 - 4 / (source.shape[-1] * self.flow_upsample)
            background_motion = scale * torch.eye(2, 3, device=source.device).expand(len(source), -1, -1)
        return self.generator.pixelwise_flow_predictor(source, source_regions, driving_regions, background_motion)

    def forward(self, source: Tensor, driving: Tensor, regions: Regions | None = None) -> "ReconstructionOutput":
        """Reconstruct driving images from source images, both (B, 3, H, W) in [0, 1].

        regions: of the sources, then of the driving images, if they are computed already.
        """
        count = len(source)
        if regions is None:
            regions = self.region_predictor(torch.cat([source, driving]))
        source_regions, driving_regions = regions.select(slice(0, count)), regions.select(slice(count, 2 * count))
        flow, occlusion, weights = self.predict_motion(source, driving, source_regions, driving_regions)
        image = self.decode(self.encode(source), flow, occlusion)
        return ReconstructionOutput(image, flow, occlusion, weights, source_regions, driving_regions)


@dataclass(frozen=True)
class ReconstructionOutput:
    """Driving images reconstructed from source images, and the motion between them."""

    image: Tensor  # (B, 3, H, W) in [0, 1]
    flow: Tensor  # (B, h, w, 2)
    occlusion: Tensor  # (B, 1, h, w), 1 visible
    weights: Tensor  # (B, 1 + K, h, w) of background and regions in the flow, summing to 1
    source_regions: Regions
    driving_regions: Regions
