"""Diffuse the part of the picture that holds the figure, and paste it back over the picture. Not in the papers.

A figure takes a few percent of a picture, and the reference image already shows the background. A square about the
figure, with room for its dance, costs less than the picture and shows the figure larger. Its place comes from the
reference image alone, so that all frames of a video share it.

Shape letters: N images, F frames, H x W pixels of a picture, S pixels per side of a crop, h x w latent pixels.
A box is (left, top, side), in whole pixels of the picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.families.latent.codec import LatentCodec
from zoo.nn.figure_segmentation import FigureSegmenter

FADE_WIDTH = 0.06  # of a box's side; with scale 1.2, the reference's figure is farther than 0.08 from an edge


@dataclass(frozen=True)
class FigureCropConfig:
    """resolution: S. scale: the side of a box, in units of the longer side of the figure's bounding box in the
    reference image: 1.2 holds 99.9 % of the figures' pixels over 4 s of the world's dances.

    Raises ValueError for a resolution below 1 or a scale below 1.
    """

    resolution: int
    scale: float = 1.2

    def __post_init__(self) -> None:
        if self.resolution < 1 or self.scale < 1:
            raise ValueError(f"figure_crop: resolution={self.resolution} and scale={self.scale} have to be at least 1")


def parse_figure_crop(
    options: Mapping[str, Any] | None, resolution: int, background_residual: bool
) -> FigureCropConfig | None:
    """The `figure_crop` of a family with these other arguments; None without `background_residual`, which finds the
    figure. Raises ValueError for wrong options.
    """
    if options is None or not background_residual:
        return None
    config = FigureCropConfig(**options)
    if config.resolution > 2 * resolution:
        raise ValueError(f"figure_crop.resolution={config.resolution}: at most twice resolution={resolution}")
    return config


def figure_boxes(masks: Tensor, scale: float | Tensor, shift: Tensor | None = None) -> Tensor:
    """Boxes (N, 3) float32 about the figures of masks (N, H, W) bool; the whole picture where a mask is empty.

    scale: side of the box in units of the longer side of the figure's bounding box, one or (N,). shift (N, 2): moves
    the boxes, in units of their sides (x right, y down). Boxes lie inside the picture, and are at most its shorter
    side.
    """
    height, width = masks.shape[1:]
    left, right = _extent(masks.any(1))
    top, bottom = _extent(masks.any(2))
    has_figure = masks.flatten(1).any(1)
    side = (scale * torch.maximum(right - left, bottom - top)).ceil().clamp(max=min(height, width))
    side = torch.where(has_figure, side, side.new_tensor(min(height, width)))
    shift = masks.new_zeros(len(masks), 2, dtype=torch.float32) if shift is None else shift
    centers = torch.stack([left + right, top + bottom], 1) / 2 + shift * side[:, None]
    centers = torch.where(has_figure[:, None], centers, centers.new_tensor([width / 2, height / 2]))
    limits = centers.new_tensor([width, height]) - side[:, None]
    corners = torch.minimum((centers - side[:, None] / 2).round().clamp(min=0), limits)
    return torch.cat([corners, side[:, None]], 1)


@torch.no_grad()
def detect_figure_boxes(images: Tensor, codec: LatentCodec, segmenter: FigureSegmenter, scale: float) -> Tensor:
    """`figure_boxes` (N, 3) of the figures that a segmenter of latents detects in images (N, 3, H, W) in [-1, 1]."""
    mask = segmenter(codec.encode(images))[0].float()
    margin = images.shape[-1] // mask.shape[-1]  # one latent pixel, see `foreground_mask`
    outside = 1 - (F.interpolate(mask, images.shape[2:], mode="nearest") > 0.5).float()
    inside = (1 - F.max_pool2d(outside, 2 * margin + 1, 1, margin))[:, 0] > 0.5  # the figure without its margin
    is_large = inside.flatten(1).any(1)[:, None, None]
    return figure_boxes(torch.where(is_large, inside, outside[:, 0] < 0.5), scale)


def crop_images(images: Tensor, boxes: Tensor, resolution: int, mode: str = "bilinear") -> Tensor:
    """Crops (N, ..., S, S) of images (N, ..., H, W) by boxes (N, 3). mode: 'nearest' keeps the values of labels."""
    height, width = images.shape[-2:]
    x = images.flatten(1, -3) if images.ndim > 3 else images[:, None]
    left, top, side = boxes.unbind(1)
    zeros = torch.zeros_like(side)
    rows = [
        torch.stack([side / width, zeros, (2 * left + side) / width - 1], 1),
        torch.stack([zeros, side / height, (2 * top + side) / height - 1], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), [len(x), 1, resolution, resolution], align_corners=False)
    crops = F.grid_sample(x.float(), grid, mode=mode, padding_mode="border", align_corners=False)
    return crops.to(images.dtype).reshape(*images.shape[:-2], resolution, resolution)


@dataclass(frozen=True)
class PastedCrop:
    """A picture, and the box in it that the frames of a video replace."""

    picture: Tensor  # (1, 3, H, W) in [-1, 1]
    box: Tensor  # (1, 3)
    resolution: int  # S

    @property
    def crop(self) -> Tensor:
        """The picture in the box, (1, 3, S, S) in [-1, 1]."""
        return crop_images(self.picture, self.box, self.resolution)

    def paste(self, frames: Tensor, background_mask: Tensor | None) -> Tensor:
        """Frames (F, 3, S, S) uint8 of the box -> frames (F, 3, H, W) uint8 of the picture.

        background_mask (F, 1, h, w) in [0, 1]: where a frame shows the picture's own background. There the picture's
        pixels stay as they are; resampled ones would be blurred. Towards the edges of the box that lie inside the
        picture, frames fade into it, so that no difference of tone shows the box.
        """
        left, top, side = (int(value) for value in self.box[0])
        rows, columns = slice(top, top + side), slice(left, left + side)
        patch = _resize(frames.to(self.picture.dtype) / 127.5 - 1, side)
        if background_mask is not None:
            lost_detail = self.picture[:, :, rows, columns] - _resize(self.crop, side)
            patch = patch + F.interpolate(background_mask.to(patch.dtype), (side, side), mode="bilinear") * lost_detail
        pasted = self.picture.repeat(len(frames), 1, 1, 1)
        height, width = self.picture.shape[2:]
        inside_edges = [left > 0, left + side < width], [top > 0, top + side < height]
        column_weights, row_weights = (_fade(side, *edges).to(patch) for edges in inside_edges)
        weights = row_weights[:, None] * column_weights
        pasted[:, :, rows, columns] = torch.lerp(self.picture[:, :, rows, columns], patch, weights)
        return ((pasted + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def crop_figure(
    image: Tensor, codec: LatentCodec, segmenter: FigureSegmenter | None, config: FigureCropConfig | None
) -> PastedCrop | None:
    """The part of an image (1, 3, H, W) in [-1, 1] about its figure; None without a configuration."""
    if config is None:
        return None
    assert segmenter is not None, "see `parse_figure_crop`"
    return PastedCrop(image, detect_figure_boxes(image, codec, segmenter, config.scale), config.resolution)


def _extent(flags: Tensor) -> tuple[Tensor, Tensor]:
    """First position (N,) of a true value in flags (N, L), and one after the last."""
    length, positions = flags.shape[1], torch.arange(flags.shape[1], device=flags.device)
    first = torch.where(flags, positions, length).amin(1)
    last = torch.where(flags, positions + 1, 0).amax(1)
    return first.float(), last.float()


def _fade(side: int, at_start: bool, at_end: bool) -> Tensor:
    """(side,) weights of pixels along a side: 1, and less within FADE_WIDTH of the ends that fade."""
    distance = torch.arange(side) + 0.5
    ones = torch.ones(side)
    start, end = (
        (values / (FADE_WIDTH * side)).clamp(max=1) if fades else ones
        for values, fades in ((distance, at_start), (distance.flip(0), at_end))
    )
    return start * end


def _resize(images: Tensor, side: int) -> Tensor:
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
