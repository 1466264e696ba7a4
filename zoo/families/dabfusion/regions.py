"""Regions of an image, found without supervision, and their motion between two images (MRAA, as used by LFDM)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.families.dabfusion.blocks import Encoder, Hourglass, coordinate_grid, warp
from zoo.families.dabfusion.limbs import LIMBS, orient_axes
from zoo.nn.perceptual_loss import AntiAliasDownsample

MIN_VARIANCE = 1e-6  # of a heat map: (0.016 pixels)^2 at a quarter of 128x128, on a grid from -1 to 1


@dataclass(frozen=True)
class Regions:
    """K soft regions of each of B images."""

    shift: Tensor  # (B, K, 2) centres
    covar: Tensor  # (B, K, 2, 2) covariances
    affine: Tensor  # (B, K, 2, 2) square roots of these: the axes of the regions with their lengths
    heatmap: Tensor  # (B, K, h, w) each sums to 1

    def select(self, index: slice) -> "Regions":
        """Return the regions of some of the images."""
        return Regions(self.shift[index], self.covar[index], self.affine[index], self.heatmap[index])

    def expand(self, count: int) -> "Regions":
        """Repeat the regions of one image for `count` images."""
        return Regions(*(value.expand(count, *value.shape[1:]) for value in vars(self).values()))

    def detach(self) -> "Regions":
        """Return the regions without gradients."""
        return Regions(*(value.detach() for value in vars(self).values()))


class RegionPredictor(nn.Module):
    """Heat maps from an hourglass on a smaller image; a region's axes are its heat map's PCA (MRAA sec. 3.2)."""

    def __init__(
        self,
        num_regions: int,
        base_channels: int,
        max_channels: int,
        num_blocks: int,
        *,
        temperature: float = 0.1,
        downsample: int = 4,
        limb_regions: bool = False,
        pixel_unshuffle_input: bool = False,
    ):
        """downsample: factor of the resolution, by blurring, or by `nn.PixelUnshuffle` with `pixel_unshuffle_input`.

        limb_regions: the regions are supervised to be `LIMBS`, so their axes have signs. Raises ValueError if
        num_regions is another number.
        """
        super().__init__()
        if limb_regions and num_regions != len(LIMBS):
            raise ValueError(f"num_regions={num_regions}: limb_regions=true needs {len(LIMBS)}, one for each limb")
        self.limb_regions = limb_regions
        in_channels = 3 * downsample**2 if pixel_unshuffle_input else 3
        self.predictor = Hourglass(base_channels, in_channels, num_blocks, max_channels)
        self.regions = nn.Conv2d(self.predictor.out_channels, num_regions, 7, padding=3)
        self.down = nn.PixelUnshuffle(downsample) if pixel_unshuffle_input else AntiAliasDownsample(3, downsample)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Regions:
        """Find the regions of images (B, 3, H, W)."""
        logits = self.regions(self.predictor(self.down(x))).float()
        heatmap = F.softmax(logits.flatten(2) / self.temperature, 2).view_as(logits)
        with torch.autocast(x.device.type, enabled=False):  # sums over pixels, and inverses of small covariances
            grid = coordinate_grid(*heatmap.shape[2:], heatmap)
            shift = torch.einsum("bkhw,hwc->bkc", heatmap, grid)
            offsets = grid - shift[:, :, None, None]  # (B, K, h, w, 2)
            covar = torch.einsum("bkhw,bkhwc,bkhwd->bkcd", heatmap, offsets, offsets)
            # a heat map may shrink to one pixel, whose covariance has no inverse
            covar = covar + MIN_VARIANCE * torch.eye(2, device=covar.device)
            affine = _square_root(covar)
            return Regions(shift, covar, orient_axes(shift, affine) if self.limb_regions else affine, heatmap)


def _square_root(covar: Tensor) -> Tensor:
    """Return U sqrt(S) of the singular value decomposition, (..., 2, 2)."""
    u, s, _ = torch.linalg.svd(covar.cpu())
    return (u @ torch.diag_embed(s.sqrt())).to(covar.device)


class BackgroundMotion(nn.Module):
    """One affine motion of the background, from both images."""

    def __init__(self, base_channels: int, max_channels: int, num_blocks: int):
        super().__init__()
        self.encoder = Encoder(base_channels, 6, num_blocks, max_channels)
        self.fc = nn.Linear(min(max_channels, base_channels * 2**num_blocks), 6)
        nn.init.zeros_(self.fc.weight)
        self.fc.bias.data.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, source: Tensor, driving: Tensor) -> Tensor:
        """Two (B, 3, H, W) -> (B, 2, 3), the map from coordinates of the driving image to those of the source."""
        return self.fc(self.encoder(torch.cat([source, driving], 1))[-1].mean((2, 3))).unflatten(1, (2, 3))


class PixelwiseFlowPredictor(nn.Module):
    """One flow and one occlusion map from the regions' motions, at 1 / downsample of the resolution (MRAA sec. 3.3)."""

    def __init__(
        self,
        num_regions: int,
        base_channels: int,
        max_channels: int,
        num_blocks: int,
        *,
        downsample: int = 4,
        flow_upsample: int = 1,
        signed_axes: bool = False,
    ):
        """flow_upsample: factor of the output's resolution over a quarter of the image's, by pixel shuffling.

        signed_axes: the axes of the regions have signs, see `orient_axes`.
        """
        super().__init__()
        self.flow_upsample, self.signed_axes = flow_upsample, signed_axes
        self.hourglass = Hourglass(base_channels, 4 * (num_regions + 1), num_blocks, max_channels)
        self.mask = nn.Conv2d(self.hourglass.out_channels, (num_regions + 1) * flow_upsample**2, 7, padding=3)
        self.occlusion = nn.Conv2d(self.hourglass.out_channels, flow_upsample**2, 7, padding=3)
        self.down = AntiAliasDownsample(3, downsample)

    def forward(
        self, source: Tensor, source_regions: Regions, driving_regions: Regions, background: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the motion from a source (B, 3, H, W) to a driving image; background (B, 2, 3) of `BackgroundMotion`.

        Returns the flow (B, h, w, 2): the source coordinates of each driving pixel; the occlusion (B, 1, h, w), 1
        visible; and the weights (B, 1 + K, h, w) of background and regions in each pixel's flow.
        """
        small = self.down(source)
        background = background.float()
        with torch.autocast(source.device.type, enabled=False):
            grid = coordinate_grid(*small.shape[2:], source_regions.shift)
            candidates = self._candidate_flows(source_regions, driving_regions, background, grid)
            heatmaps = _gaussian_heatmaps(driving_regions, grid) - _gaussian_heatmaps(source_regions, grid)
            heatmaps = F.pad(heatmaps, (0, 0, 0, 0, 1, 0))[:, :, None]  # the background has none
            num_candidates = candidates.shape[1]
            warped = warp(small.float().repeat_interleave(num_candidates, 0), candidates.flatten(0, 1))
            warped = warped.unflatten(0, candidates.shape[:2])
        features = self.hourglass(torch.cat([heatmaps, warped], 2).flatten(1, 2))
        weights = F.softmax(F.pixel_shuffle(self.mask(features).float(), self.flow_upsample), 1)
        with torch.autocast(source.device.type, enabled=False):  # bfloat16 has an error of half a pixel
            if self.flow_upsample > 1:
                grid = coordinate_grid(*weights.shape[2:], source_regions.shift)
                candidates = self._candidate_flows(source_regions, driving_regions, background, grid)
            flow = torch.einsum("bkhw,bkhwc->bhwc", weights, candidates)
        occlusion = torch.sigmoid(F.pixel_shuffle(self.occlusion(features).float(), self.flow_upsample))
        return flow, occlusion, weights

    def _candidate_flows(
        self, source_regions: Regions, driving_regions: Regions, background: Tensor, grid: Tensor
    ) -> Tensor:
        """Return the flow of each pixel if it belongs to the background, and to each region: (B, 1 + K, h, w, 2)."""
        region_flows = _region_motions(source_regions, driving_regions, grid, self.signed_axes)
        return torch.cat([_apply_affine(background[:, None], grid), region_flows], 1)


def _apply_affine(affine: Tensor, grid: Tensor) -> Tensor:
    """Apply maps (B, K, 2, 3) to coordinates (h, w, 2) -> (B, K, h, w, 2)."""
    return torch.einsum("bkcd,hwd->bkhwc", affine[..., :2], grid) + affine[:, :, None, None, :, 2]


def _region_motions(source_regions: Regions, driving_regions: Regions, grid: Tensor, signed_axes: bool) -> Tensor:
    """Return the flow of each pixel if it belongs to region k (MRAA eq. 8): (B, K, h, w, 2)."""
    linear = source_regions.affine @ torch.linalg.inv(driving_regions.affine)
    if not signed_axes:  # PCA axes have no signs: choose the smaller rotation
        linear = linear * torch.sign(linear[:, :, :1, :1])
    translation = source_regions.shift - torch.einsum("bkcd,bkd->bkc", linear, driving_regions.shift)
    return _apply_affine(torch.cat([linear, translation[..., None]], -1), grid)


def _gaussian_heatmaps(regions: Regions, grid: Tensor) -> Tensor:
    """Return Gaussians with the regions' centres and covariances: (B, K, h, w)."""
    offsets = grid - regions.shift[:, :, None, None]
    return torch.exp(-0.5 * torch.einsum("bkhwc,bkcd,bkhwd->bkhw", offsets, torch.linalg.inv(regions.covar), offsets))
