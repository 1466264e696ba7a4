"""The picture autoencoder: diffusers' `AutoencoderKL`, at any size, begun so that it learns colours from the start."""

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL
from torch import nn

QUIET = -6.0  # log variance of a posterior that has learned nothing: 0.05 of the latents' own noise


def picture_autoencoder(block_out_channels: Sequence[int], **config) -> AutoencoderKL:
    """An autoencoder with one block a size; `config` goes to `AutoencoderKL`. A file's weights may be loaded over it.

    Its convolutions begin orthogonal at their centres (Xiao et al. 2018, delta-orthogonal) and its residual branches at
    0. With diffusers' own start small autoencoders learn brightness first and stay grey for thousands of steps; with
    this one they have every colour within 250 (the world's pictures, `tiny`).
    """
    sizes = len(block_out_channels)
    vae = AutoencoderKL(
        block_out_channels=tuple(block_out_channels),
        down_block_types=("DownEncoderBlock2D",) * sizes,
        up_block_types=("UpDecoderBlock2D",) * sizes,
        **config,
    )
    _begin(vae)
    return vae


@torch.no_grad()
def _begin(vae: AutoencoderKL) -> None:
    for name, module in vae.named_modules():
        if not isinstance(module, nn.Conv2d) or name.endswith("conv1"):
            continue
        nn.init.zeros_(module.bias)
        if name.endswith("conv2"):  # the end of a residual branch
            nn.init.zeros_(module.weight)
            continue
        module.weight.mul_(0.1)  # what breaks the symmetry between neighbours
        through = nn.init.orthogonal_(torch.empty_like(module.weight[:, :, 0, 0]))[:, :, None, None]
        if "downsamplers" in name:  # padded at the right and the bottom: four pixels become one
            module.weight[:, :, :2, :2].add_(through / 4)
        else:
            middle = module.kernel_size[0] // 2
            module.weight[:, :, middle : middle + 1, middle : middle + 1].add_(through)
    half = vae.config.latent_channels
    vae.quant_conv.weight[half:].mul_(0.1)
    vae.quant_conv.bias[half:].fill_(QUIET)
