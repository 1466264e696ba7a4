"""Pad an image of any shape to the square that the networks take."""

import torch
import torch.nn.functional as F
from torch import Tensor

BLUR_RESOLUTION = 16  # pixels a side of the blurred border
MIRROR_FADE_RATIO = 0.03  # of the square's side: distance over which the mirrored border fades to the blurred one


def pad_to_square(image: Tensor, resolution: int) -> Tensor:
    """Fit an image (3, H, W) uint8 into the middle of a square (3, resolution, resolution) uint8.

    Near the image the border is its mirror image; farther away it is the blurred mean of the edge pixels. So the border
    has neither streaks nor a second figure, which the networks would animate.
    """
    longest_side = max(image.shape[1:])
    height, width = (max(1, round(length * resolution / longest_side)) for length in image.shape[1:])
    x = _resize(image.float()[None], height, width)
    if height != width:
        index = torch.arange(resolution, device=image.device)
        # of each pixel of the square: its row and column in the image, negative or too large on the border
        rows, columns = index - (resolution - height) // 2, index - (resolution - width) // 2
        nearest_rows, nearest_columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        # distance to the image, pixels
        distance = (rows - nearest_rows).abs()[:, None] + (columns - nearest_columns).abs()
        coarse = _resize(x[..., nearest_rows, :][..., nearest_columns], BLUR_RESOLUTION, BLUR_RESOLUTION)
        blurred_border = F.interpolate(coarse, (resolution, resolution), mode="bicubic", align_corners=False)
        mirrored_border = x[..., _mirror(rows, height), :][..., _mirror(columns, width)]
        x = torch.lerp(mirrored_border, blurred_border, (distance / (MIRROR_FADE_RATIO * resolution)).clamp(max=1))
    return x[0].round().clamp(0, 255).to(image.dtype)


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    if x.shape[2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)


def _mirror(index: Tensor, length: int) -> Tensor:
    """Reflect any indices into 0 .. length - 1."""
    index = index.remainder(2 * length)
    return torch.minimum(index, 2 * length - 1 - index)
