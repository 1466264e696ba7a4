"""A picture of any shape as the square that the networks move."""

import torch
import torch.nn.functional as F
from torch import Tensor

COARSE = 16  # pixels a side of what the far border is drawn from
FADE = 0.03  # of the side: so far the border is the picture's mirror image, and then fades


def to_square(image: Tensor, size: int) -> Tensor:
    """(3, H, W) uint8 -> (3, size, size) uint8: the whole picture, in the middle of a square.

    Beyond its edges it is mirrored, and soon blurred to what its edge pixels are on average: no streaks and no second
    figure, which the networks would take for something that moves.
    """
    side = max(image.shape[1:])
    height, width = (max(1, round(length * size / side)) for length in image.shape[1:])
    x = _resize(image.float()[None], height, width)
    if height != width:
        at = torch.arange(size, device=image.device)
        rows, columns = at - (size - height) // 2, at - (size - width) // 2
        held = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        outside = (rows - held[0]).abs()[:, None] + (columns - held[1]).abs()  # pixels from the picture's edge
        coarse = _resize(x[..., held[0], :][..., held[1]], COARSE, COARSE)
        far = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
        mirrored = x[..., _mirror(rows, height), :][..., _mirror(columns, width)]
        x = torch.lerp(mirrored, far, (outside / (FADE * size)).clamp(max=1))
    return x[0].round().clamp(0, 255).to(image.dtype)


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    if x.shape[2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)


def _mirror(index: Tensor, length: int) -> Tensor:
    """Indices of any size, folded back into 0 .. length - 1."""
    index = index.remainder(2 * length)
    return torch.minimum(index, 2 * length - 1 - index)
