"""Building blocks of the latent-flow autoencoder, named as in the public code of MRAA and LFDM, whose weights load.

Pictures here are (B, C, H, W) in [0, 1]; coordinates are (x, y) in [-1, 1], which are
the centres of the outermost pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SameBlock(nn.Module):
    """Convolution, batch norm, ReLU; the size stays."""

    def __init__(self, channels: int, out: int, kernel: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out, H, W)"""
        return F.relu(self.norm(self.conv(x)))


class DownBlock(SameBlock):
    """The same, then half the size."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out, H/2, W/2)"""
        return F.avg_pool2d(super().forward(x), 2)


class UpBlock(SameBlock):
    """Twice the size, then the same."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out, 2H, 2W)"""
        return super().forward(F.interpolate(x, scale_factor=2))


class ResBlock(nn.Module):
    """Two convolutions with norm and ReLU before each, beside the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = (nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same"""
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


class Encoder(nn.Module):
    """`blocks` halvings, channels doubling from `width` up to `most`."""

    def __init__(self, width: int, channels: int, blocks: int, most: int):
        super().__init__()
        widths = [channels] + [min(most, width * 2 ** (i + 1)) for i in range(blocks)]
        self.down_blocks = nn.ModuleList(DownBlock(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The input and what every block made of it."""
        levels = [x]
        for block in self.down_blocks:
            levels.append(block(levels[-1]))
        return levels


class Decoder(nn.Module):
    """The way back, each level joined with the encoder's; its last level is joined with the input."""

    def __init__(self, width: int, channels: int, blocks: int, most: int):
        super().__init__()
        self.up_blocks = nn.ModuleList(
            UpBlock((1 if i == blocks - 1 else 2) * min(most, width * 2 ** (i + 1)), min(most, width * 2**i))
            for i in reversed(range(blocks))
        )
        self.channels = width + channels

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Levels of `Encoder` -> (B, width + channels, H, W)"""
        y = levels[-1]
        for block, level in zip(self.up_blocks, reversed(levels[:-1]), strict=True):
            y = torch.cat([block(y), level], 1)
        return y


class Hourglass(nn.Module):
    """Encoder and decoder. `channels` of its output: width + input channels."""

    def __init__(self, width: int, channels: int, blocks: int, most: int):
        super().__init__()
        self.encoder = Encoder(width, channels, blocks, most)
        self.decoder = Decoder(width, channels, blocks, most)
        self.channels = self.decoder.channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width + C, H, W)"""
        return self.decoder(self.encoder(x))


def grid(height: int, width: int, like: Tensor) -> Tensor:
    """(H, W, 2): the coordinates (x, y) of the pixels."""
    x = torch.linspace(-1, 1, width, dtype=like.dtype, device=like.device)
    y = torch.linspace(-1, 1, height, dtype=like.dtype, device=like.device)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def still(height: int, width: int, like: Tensor) -> Tensor:
    """(H, W, 2): the flow that `warp` moves nothing by."""
    return grid(height, width, like) * like.new_tensor([1 - 1 / width, 1 - 1 / height])


def warp(x: Tensor, flow: Tensor, padding: str = "zeros") -> Tensor:
    """Backward warp: pixel p of the result is x at flow[p], bilinear. x (B, C, H, W), flow (B, h, w, 2) -> (B, C, H, W)

    As in the public code the flow counts from pixel centres (-1 is the first one's) and sampling from pixel borders: an
    identity flow shrinks the picture by (n - 1) / n about its centre. Networks are trained with it and allow for it;
    `still` is the flow of no motion.
    """
    if flow.shape[1:3] != x.shape[2:]:
        flow = F.interpolate(flow.movedim(-1, 1), x.shape[2:], mode="bilinear").movedim(1, -1)
    return F.grid_sample(x, flow, padding_mode=padding, align_corners=False)
