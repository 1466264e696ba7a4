"""The picture autoencoder: diffusers' `AutoencoderKL`, at any size, begun so that it learns colours from the start."""

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL

from zoo.nn.init import begin_orthogonal

QUIET = -6.0  # log variance of a posterior that has learned nothing: 0.05 of the latents' own noise


def picture_autoencoder(block_out_channels: Sequence[int], **config) -> AutoencoderKL:
    """An autoencoder with one block a size; `config` goes to `AutoencoderKL`. A file's weights may be loaded over it.

    It begins as `begin_orthogonal` says. With diffusers' own start small autoencoders learn brightness first and stay
    grey for thousands of steps; so they have every colour within 250 (the world's pictures, `tiny`).
    """
    sizes = len(block_out_channels)
    vae = AutoencoderKL(
        block_out_channels=tuple(block_out_channels),
        down_block_types=("DownEncoderBlock2D",) * sizes,
        up_block_types=("UpDecoderBlock2D",) * sizes,
        **config,
    )
    begin_orthogonal(vae)
    with torch.no_grad():
        half = vae.config.latent_channels
        vae.quant_conv.weight[half:].mul_(0.1)
        vae.quant_conv.bias[half:].fill_(QUIET)
    return vae
