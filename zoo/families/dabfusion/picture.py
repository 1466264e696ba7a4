"""A picture of any shape as the square that the networks move."""

import torch.nn.functional as F
from torch import Tensor


def to_square(image: Tensor, size: int) -> Tensor:
    """(3, H, W) uint8 -> (3, size, size) uint8: the whole picture, its borders continued to a square."""
    height, width = image.shape[1:]
    x = image.float()[None]
    if height != width:
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        x = F.pad(x, (left, side - width - left, top, side - height - top), mode="replicate")
    if x.shape[2] != size:
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return x[0].round().clamp(0, 255).to(image.dtype)
