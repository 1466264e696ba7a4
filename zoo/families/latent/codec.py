"""The latent space of a family: its autoencoder, and the scale of its latents."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

VAE_BATCH = 4  # images that are encoded or decoded at a time


class LatentCodec(nn.Module):
    """Images <-> latents whose standard deviation is about that of the noise.

    latent_scale: factor of the autoencoder's latents, Stable Diffusion's or the one that a stage estimated.
    """

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae
        self.register_buffer("latent_scale", torch.tensor(float(vae.config.scaling_factor)))

    @property
    def latent_channels(self) -> int:
        """C, of a latent."""
        return self.vae.config.latent_channels

    @property
    def device(self) -> torch.device:
        """The device of the autoencoder."""
        return self.latent_scale.device

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> latents (N, C, h, w): the mode of the posterior."""
        modes = [self.vae.encode(batch).latent_dist.mode() for batch in images.split(VAE_BATCH)]
        return torch.cat(modes) * self.latent_scale

    @torch.no_grad()
    def reconstruct(self, latents: Tensor) -> Tensor:
        """Latents (N, C, h, w) -> images (N, 3, H, W), about in [-1, 1]."""
        return torch.cat([self.vae.decode(batch / self.latent_scale).sample for batch in latents.split(VAE_BATCH)])

    @torch.no_grad()
    def decode(self, latents: Tensor, pixel_residual: Tensor | None = None) -> Tensor:
        """Latents (N, C, h, w) -> (N, 3, H, W) uint8. pixel_residual (N, 3, H, W) is added to the images in [-1, 1]."""
        images = self.reconstruct(latents)
        if pixel_residual is not None:
            images = images + pixel_residual
        return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
