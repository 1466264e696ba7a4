"""Initialisation of networks that are trained from scratch in minutes instead of days."""

import torch
from torch import nn


@torch.no_grad()
def init_delta_orthogonal_(network: nn.Module) -> None:
    """Initialise convolutions orthogonally at their centre tap (Xiao et al. 2018), residual branches with 0.

    Signals then pass all layers equally well, colours as well as brightness. Values and outputs of spatial attention
    are orthogonal too. Temporal modules are not changed: their output projection is 0 anyway. Layers are selected by
    their diffusers names.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and not name.endswith("conv1"):
            nn.init.zeros_(module.bias)
            if name.endswith("conv2"):  # the last layer of a residual branch
                nn.init.zeros_(module.weight)
            else:
                _init_identity_center(module, is_downsampler="downsamplers" in name)
        elif name.endswith(("attn1.to_v", "attn1.to_out.0", "attn2.to_v", "attn2.to_out.0")):
            nn.init.orthogonal_(module.weight)


def _init_identity_center(conv: nn.Conv2d, is_downsampler: bool) -> None:
    """Add an orthogonal matrix at the centre tap to a tenth of the default weights, which tell neighbours apart."""
    orthogonal = nn.init.orthogonal_(torch.empty_like(conv.weight[:, :, 0, 0]))[:, :, None, None]
    center = conv.kernel_size[0] // 2
    start, stop, scale = center, center + 1, 1
    if is_downsampler and conv.padding == (0, 0):
        # the VAE pads its downsamplers on the right and bottom only: average the four pixels
        start, stop, scale = 0, 2, 1 / 4
    conv.weight.mul_(0.1)
    conv.weight[:, :, start:stop, start:stop].add_(orthogonal * scale)
