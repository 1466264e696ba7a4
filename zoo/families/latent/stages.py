"""Training stages that families in the latents of an autoencoder share: the autoencoder's, and the denoisers' base."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from torch import Tensor

from zoo.batch import Batch
from zoo.diffusion.batch_random import BatchRandom
from zoo.diffusion.losses import NoisySample, add_training_noise, denoising_loss, sample_timesteps
from zoo.families.base import Family, Stage
from zoo.families.latent.figure_crop import crop_images
from zoo.nn.perceptual_loss import PerceptualLoss


class AutoencoderStage(Stage):
    """Train the autoencoder on single frames (`clip.num_sampled_frames`): perceptual loss and KL divergence."""

    def __init__(
        self,
        *args,
        module_path: str = "codec",  # of the module with the `vae`, in the family
        vgg_weights: str | None = None,  # file of torchvision's VGG-19, see `PerceptualLoss`
        kl_weight: float = 1e-6,  # of the mean over images of the sum over values (latent diffusion)
        crop_size: int | None = None,  # pixels per side of a random crop; None: no crop
        crop_figures: bool = False,  # crops hold a pixel of the figure, see `figure_corners`
        latent_noise: float = 0.0,  # standard deviation of the noise on latents, in theirs, see `augment_latents`
        **kwargs,
    ):
        self.module_path = module_path
        super().__init__(*args, options={"module_path": module_path, "crop_figures": crop_figures}, **kwargs)
        if crop_figures and crop_size is None:
            raise ValueError("crop_figures=true needs crop_size=")
        self.perceptual_loss, self.kl_weight = PerceptualLoss(vgg_weights), kl_weight
        self.crop_size, self.crop_figures, self.latent_noise = crop_size, crop_figures, latent_noise

    @property
    def vae(self) -> AutoencoderKL:
        """The autoencoder."""
        return self.family.part(self.module_path).vae

    @classmethod
    def required_keys(cls, family: Family, crop_figures: bool = False, **_: Any) -> tuple[str, ...]:
        """Images, and where their figures are cropped, DensePose parts."""
        return ("frames", "parts") if crop_figures else ("frames",)

    @classmethod
    def trainable_paths(cls, family: Family, module_path: str = "codec", **_: Any) -> list[str]:
        """Encoder, decoder and the convolutions between them."""
        family.part(module_path)
        prefix = f"{module_path}." if module_path else ""
        return [f"{prefix}vae.{name}" for name in ("encoder", "quant_conv", "post_quant_conv", "decoder")]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Perceptual loss of the reconstructed frames, and the weighted divergence."""
        images = batch["frames"].flatten(0, 1)
        if self.crop_figures and self.crop_size is not None:
            corners = self.figure_corners(batch["parts"].flatten(0, 1) > 0, self.crop_size)
            sides = corners.new_full((len(corners), 1), self.crop_size)
            images = crop_images(images, torch.cat([corners, sides], 1), self.crop_size)
        elif self.crop_size is not None:
            margins = [max(0, side - self.crop_size) for side in images.shape[2:]]
            top, left = (self.random.step_randint(margin + 1) for margin in margins)
            images = images[:, :, top : top + self.crop_size, left : left + self.crop_size]
        posterior = self.vae.encode(images).latent_dist
        if self.latent_noise:
            latents = self.augment_latents(posterior.mode())
        else:
            latents = posterior.mean + posterior.std * self.random.randn_like(posterior.mean)
        reconstruction = self.vae.decode(latents).sample
        with torch.autocast(images.device.type, enabled=False):
            perceptual = self.perceptual_loss((reconstruction.float() + 1) / 2, (images + 1) / 2)
        return {"perceptual": perceptual, "kl": self.kl_weight * posterior.kl().float().mean()}

    def figure_corners(self, masks: Tensor, crop_size: int) -> Tensor:
        """Left and top (N, 2) float32 of a random crop that holds a random pixel of the figure in masks (N, H, W)."""
        height, width = masks.shape[1:]
        pixels = (self.random.rand(len(masks), height * width, device=masks.device) * masks.flatten(1)).argmax(1)
        offsets = self.random.rand(len(masks), 2, device=masks.device) * crop_size
        corners = torch.stack([pixels % width, pixels // width], 1) - offsets
        limits = corners.new_tensor([width - crop_size, height - crop_size]).clamp(min=0)
        return torch.minimum(corners.round().clamp(min=0), limits)

    def augment_latents(self, latents: Tensor) -> Tensor:
        """Add noise to latents (N, C, h, w), of a random level for each image, more often high than low.

        It replaces the noise of the posterior, so that the decoder tolerates the errors of a short-trained denoiser.
        """
        level = self.latent_noise * self.random.rand(len(latents), 1, 1, 1, device=latents.device).sqrt()
        return latents + level * latents.std() * self.random.randn_like(latents)


def spatial_paths(family: Any, image_condition: str) -> list[str]:
    """Paths, in the family, of what draws single frames: figure segmenter, U-Net without its temporal modules.

    image_condition: name of the encoder of the cross-attention's tokens, which is among them if it has parameters.
    """
    paths = [image_condition] if any(True for _ in family.get_submodule(image_condition).parameters()) else []
    if family.background.figure_segmenter is not None:
        paths += ["background.reference_conv", "background.figure_segmenter"]
    return paths + [f"unet.{path}" for path in family.unet.spatial_modules()]


class DenoisingStage(Stage):
    """Base of stages that train a denoiser of latents.

    velocity_weight: weight of the loss on differences between consecutive frames (EDGE eq. 4). timestep_bias: above 0,
    noisier steps are drawn more often, see `sample_timesteps`. max_snr: see `min_snr_weights`. noise_offset: see
    `add_training_noise`.
    """

    def __init__(
        self,
        *args,
        velocity_weight: float = 0.0,
        timestep_bias: float = 0.0,
        max_snr: float | None = None,
        noise_offset: float = 0.0,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if max_snr is not None and max_snr <= 0:
            raise ValueError(f"max_snr={max_snr}: it must be above 0")
        self.velocity_weight, self.timestep_bias = velocity_weight, timestep_bias
        self.max_snr, self.noise_offset = max_snr, noise_offset

    def add_noise(self, x0: Tensor, schedule: DDPMScheduler, random: BatchRandom | None = None) -> NoisySample:
        """Add noise to x0 (B, C, F, h, w) at a random step of the schedule for each sample.

        random: None takes the batch's.
        """
        random = random or self.random
        t = sample_timesteps(len(x0), schedule, x0.device, self.timestep_bias, random)
        return add_training_noise(x0, t, schedule, self.noise_offset, random)

    def denoising_loss(self, model_output: Tensor, sample: NoisySample) -> dict[str, Tensor]:
        """Return the errors 'noise' and, with velocity_weight, 'velocity' of the network output for `sample.x`."""
        return denoising_loss(model_output, sample, self.velocity_weight, self.max_snr)


def take_batches(batches: Callable[[], Iterator[Batch]], max_batches: int = 8) -> Iterator[Batch]:
    """Yield the first batches of a pass."""
    return (batch for _, batch in zip(range(max_batches), batches(), strict=False))
