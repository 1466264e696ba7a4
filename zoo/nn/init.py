"""How networks begin that are trained from nothing in minutes, and not in days."""

import torch
from torch import nn


@torch.no_grad()
def begin_orthogonal(network: nn.Module) -> None:
    """Convolutions begin orthogonal at their centres (Xiao et al. 2018), residual branches at 0; names are diffusers'.

    What a network holds then passes through all of it equally well, colours as well as brightness. Of spatial attention
    values and outputs begin orthogonal too. What looks along time is left alone: it begins at 0 by itself.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and not name.endswith("conv1"):
            nn.init.zeros_(module.bias)
            if name.endswith("conv2"):  # the end of a residual branch
                nn.init.zeros_(module.weight)
            else:
                _through(module, halves="downsamplers" in name)
        elif name.endswith(("attn1.to_v", "attn1.to_out.0", "attn2.to_v", "attn2.to_out.0")):
            nn.init.orthogonal_(module.weight)


def _through(conv: nn.Conv2d, halves: bool) -> None:
    """Whatever comes in goes on to the middle, beside a tenth of the usual start, which makes neighbours differ."""
    through = nn.init.orthogonal_(torch.empty_like(conv.weight[:, :, 0, 0]))[:, :, None, None]
    middle = conv.kernel_size[0] // 2
    # an autoencoder's halving is padded at the right and the bottom only: four pixels become one
    first, last, share = (0, 2, 1 / 4) if halves and conv.padding == (0, 0) else (middle, middle + 1, 1)
    conv.weight.mul_(0.1)
    conv.weight[:, :, first:last, first:last].add_(through * share)
