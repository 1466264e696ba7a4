"""Building blocks of the latent-flow autoencoder, named as in the public code of MRAA and LFDM, whose weights load.

Images are (B, C, H, W) in [0, 1]. Coordinates are (x, y) in [-1, 1]; -1 and 1 are the centres of the outermost pixels.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.batch_norm import BatchNorm2d


class SameBlock(nn.Module):
    """Convolution, batch norm, ReLU at the same resolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.norm = BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        return F.relu(self.norm(self.conv(x)))


class DownBlock(SameBlock):
    """`SameBlock`, then average pooling to half the resolution."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/2, W/2)."""
        return F.avg_pool2d(super().forward(x), 2)


class UpBlock(SameBlock):
    """Nearest-neighbour upsampling to twice the resolution, then `SameBlock`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, 2H, 2W)."""
        return super().forward(F.interpolate(x, scale_factor=2))


class ResBlock(nn.Module):
    """Residual block of two convolutions, with batch norm and ReLU before each."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = (BatchNorm2d(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


class Encoder(nn.Module):
    """`num_blocks` halvings; channels double from `base_channels` up to `max_channels`."""

    def __init__(self, base_channels: int, in_channels: int, num_blocks: int, max_channels: int):
        super().__init__()
        channels = [in_channels] + [min(max_channels, base_channels * 2 ** (i + 1)) for i in range(num_blocks)]
        self.down_blocks = nn.ModuleList(DownBlock(a, b) for a, b in pairwise(channels))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the input and the output of every block."""
        levels = [x]
        for block in self.down_blocks:
            levels.append(block(levels[-1]))
        return levels


class Decoder(nn.Module):
    """Doublings that mirror `Encoder`; each output is concatenated with the encoder's level of that resolution."""

    def __init__(self, base_channels: int, in_channels: int, num_blocks: int, max_channels: int):
        super().__init__()
        self.up_blocks = nn.ModuleList(
            UpBlock(
                (1 if i == num_blocks - 1 else 2) * min(max_channels, base_channels * 2 ** (i + 1)),
                min(max_channels, base_channels * 2**i),
            )
            for i in reversed(range(num_blocks))
        )
        self.out_channels = base_channels + in_channels

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Levels of `Encoder` -> (B, base_channels + in_channels, H, W)."""
        y = levels[-1]
        for block, level in zip(self.up_blocks, reversed(levels[:-1]), strict=True):
            y = torch.cat([block(y), level], 1)
        return y


class Hourglass(nn.Module):
    """Encoder and decoder with skip connections."""

    def __init__(self, base_channels: int, in_channels: int, num_blocks: int, max_channels: int):
        super().__init__()
        self.encoder = Encoder(base_channels, in_channels, num_blocks, max_channels)
        self.decoder = Decoder(base_channels, in_channels, num_blocks, max_channels)
        self.out_channels = self.decoder.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, base_channels + in_channels, H, W)."""
        return self.decoder(self.encoder(x))


def coordinate_grid(height: int, width: int, template: Tensor) -> Tensor:
    """Return the coordinates (x, y) of the pixels, (H, W, 2), with the dtype and device of `template`."""
    x = torch.linspace(-1, 1, width, dtype=template.dtype, device=template.device)
    y = torch.linspace(-1, 1, height, dtype=template.dtype, device=template.device)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def identity_flow(height: int, width: int, template: Tensor) -> Tensor:
    """Return the flow (H, W, 2) by which `warp` moves nothing."""
    return coordinate_grid(height, width, template) * template.new_tensor([1 - 1 / width, 1 - 1 / height])


def warp(x: Tensor, flow: Tensor, padding_mode: str = "zeros") -> Tensor:
    """Warp backward and bilinearly: output pixel p is x at flow[p]. x (B, C, H, W), flow (B, h, w, 2) -> (B, C, H, W).

    As in the public code, flow coordinates count from pixel centres (-1 is the centre of the first pixel), sampling
    from pixel borders. So a flow equal to the coordinate grid shrinks the image by (n - 1) / n about its centre.
    Networks are trained with it and compensate for it; `identity_flow` is the flow of no motion.
    """
    if flow.shape[1:3] != x.shape[2:]:
        flow = F.interpolate(flow.movedim(-1, 1), x.shape[2:], mode="bilinear").movedim(1, -1)
    return F.grid_sample(x, flow, padding_mode=padding_mode, align_corners=False)
