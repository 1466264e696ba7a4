"""What families that work in the latents of a picture autoencoder share: coding, its stage, and the loss of noise."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn.functional import interpolate

from zoo.batch import Batch
from zoo.diffusion.denoiser import prior_mean_offset
from zoo.diffusion.losses import NoisySample, add_training_noise, denoising_loss, sample_timesteps
from zoo.diffusion.schedules import cosine_schedule, stable_diffusion_schedule
from zoo.families.base import Family, Stage
from zoo.nn.figure_segmentation import (
    BODY_REGIONS,
    FigureSegmenter,
    composite_regions,
    foreground_mask,
    inpaint_background,
    region_masks,
    region_means,
)
from zoo.nn.perceptual_loss import PerceptualLoss
from zoo.nn.video_unet.unet import VideoUNet

DECODED = 4  # pictures encoded or decoded at a time


@dataclass(frozen=True)
class Pictured:
    """Pictures as the networks are given them: latents, and with `changes` where the figures are, and the grounds."""

    latents: Tensor  # (R, C, h, w)
    figure: Tensor | None = None  # (R, 1, h, w) in 0..1
    ground: Tensor | None = None  # (R, C, h, w): the latents without the figure
    looks: Tensor | None = None  # (R, 8, C): of the figure's regions, where they are found
    base: Tensor | None = None  # (R, C, 1 or F, h, w): what is changed in frames
    past: Tensor | None = None  # (R, P C, h, w): how P frames before differ from the base, see `following`
    detail: Tensor | None = None  # (R, 3, H, W): what the pictures, in [-1, 1], have beyond their decoded latents

    def each(self, change: Callable[[Tensor], Tensor]) -> "Pictured":
        """The same change of all that is there."""
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        return Pictured(**{name: None if value is None else change(value) for name, value in known.items()})


class LatentPictures:
    """Mixed into a module that has a `vae`, an `AutoencoderKL`, and says `begin_latents` when it has its networks.

    latent_scale: times a latent is about as large as the noise: Stable Diffusion's own, or what a stage measured.
    finder: finds the figure in a picture, seen: shows it to the U-Net beside the noise, both None without `changes`;
    change_scale: times a change is as large as the noise.
    """

    vae: nn.Module
    finder: FigureSegmenter | None
    seen: nn.Module | None
    latent_scale: Tensor
    change_scale: Tensor

    def begin_latents(
        self,
        unet: VideoUNet,
        changes: bool,
        schedule: str,
        noisier: float,
        prediction: str,
        driven: bool = False,
        past: int = 0,
        imagines: bool = False,
    ) -> None:
        """Set what is described above. changes: see `changed`; noisier, prediction: see `cosine_schedule`; driven: the
        frames' body parts are known, see `driven`; past: how many frames that come before may be, see `following`;
        imagines: with `changes`, the U-Net says where the figure's regions are, see `imagined`.

        Raises ValueError for another schedule than 'stable_diffusion', 'animatediff' or 'cosine'.
        """
        if schedule not in ("stable_diffusion", "animatediff", "cosine"):
            raise ValueError(f"schedule={schedule}: use stable_diffusion, animatediff or cosine")
        self.kind, self.noisier, self.prediction = schedule, noisier, prediction
        self.register_buffer("latent_scale", torch.tensor(float(self.vae.config.scaling_factor)))
        self.finder = self.seen = None
        self.drives, self.imagines = driven, changes and imagines
        if changes:
            latent = self.vae.config.latent_channels
            self.finder = FigureSegmenter(latent, predict_regions=driven or imagines)
            self.past_channels = past * latent
            self.seen = nn.Conv2d((2 + driven + past) * latent + 1, unet.conv_in.out_channels, 3, padding=1)
            self.register_buffer("change_scale", torch.tensor(1.0))

    @property
    def schedule(self) -> DDPMScheduler:
        """The noise schedule of what is diffused."""
        if self.kind == "cosine":
            return cosine_schedule(self.prediction, shift=self.noisier)
        betas = "linear" if self.kind == "animatediff" else "scaled_linear"
        return stable_diffusion_schedule(self.prediction, beta_schedule=betas)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.latent_scale.device

    def encode(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> latents (N, C, h, w), about as large as the noise. No noise of the VAE's own."""
        pieces = [self.vae.encode(piece).latent_dist.mode() for piece in pictures.split(DECODED)]
        return torch.cat(pieces) * self.latent_scale

    @torch.no_grad()
    def decode(self, latents: Tensor, reference: Pictured | None = None) -> Tensor:
        """(N, C, h, w) -> (N, 3, H, W) uint8; one reference that is `detailed` gives its detail to where no figure is,
        neither in it nor in the frames."""
        made = torch.cat([self.vae.decode(piece / self.latent_scale).sample for piece in latents.split(DECODED)])
        if reference is not None and reference.detail is not None:
            free = (1 - reference.figure) * (1 - self.finder(latents)[0].to(latents.dtype))
            made = made + reference.detail * interpolate(free, made.shape[2:], mode="bilinear")
        return ((made + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    @torch.no_grad()
    def detailed(self, reference: Pictured, pictures: Tensor) -> Pictured:
        """With `changes`, the same references with the detail of their pictures (R, 3, H, W), see `decode`."""
        if self.seen is None:
            return reference
        pieces = [self.vae.decode(piece / self.latent_scale).sample for piece in reference.latents.split(DECODED)]
        return replace(reference, detail=pictures - torch.cat(pieces))

    @torch.no_grad()
    def pictured(self, latents: Tensor, parts: Tensor | None = None) -> Pictured:
        """Pictures' latents (R, C, h, w), and with `changes` what is found in them; parts (R, H, W), if they are known,
        say where the figures are."""
        if self.finder is None:
            return Pictured(latents)
        if parts is None:
            figure, shares = self.finder(latents)
        else:
            figure, shares = foreground_mask(parts, latents.shape[2:]), region_masks(parts, latents.shape[2:])
        figure = figure.to(latents.dtype)
        ground = inpaint_background(latents, figure)
        known = region_means(latents.float(), shares) if self.finder.predict_regions else None
        return Pictured(latents, figure, ground, known, ground[:, :, None])

    def driven(self, pictured: Pictured, parts: Tensor) -> Pictured:
        """The same pictures for frames of known body parts (R, F, H, W): their regions are painted into the ground, in
        the looks that the picture's have on average. What is left to diffuse is how they differ from that."""
        if pictured.looks is None or not self.drives:
            return pictured
        shares = region_masks(parts.flatten(0, 1), pictured.latents.shape[2:]).unflatten(0, parts.shape[:2])
        return replace(pictured, base=composite_regions(pictured.ground, pictured.looks, shares))

    def following(self, reference: Pictured, before: Tensor) -> Pictured:
        """The same pictures for frames that follow others, of latents (R, C, P, h, w).

        With `changes` these are seen beside the picture, pixel by pixel: their features (MuseDance sec. 3.3) tell a
        network that learns for minutes too little.
        """
        if self.seen is None:
            return reference
        return replace(reference, past=self.changed(before, reference).flatten(1, 2))

    def changed(self, latents: Tensor, reference: Pictured) -> Tensor:
        """What is diffused of latents (B, C, F, h, w) of a dance from references of B: of its first frames, where the
        references are `driven` by more.

        The latents themselves, as in the papers. With `changes`, how they differ at their place from the reference's
        ground, or from the painted one, and the U-Net sees the reference beside the noise: backgrounds stand still,
        nothing is left where the figure stood, and a network that learns for minutes learns the figure.
        """
        return (
            latents if self.seen is None else (latents - reference.base[:, :, : latents.shape[2]]) * self.change_scale
        )

    def whole(self, changes: Tensor, reference: Pictured) -> Tensor:
        """The inverse of `changed`."""
        return changes if self.seen is None else changes / self.change_scale + reference.base[:, :, : changes.shape[2]]

    def shown(self, reference: Pictured, like: Tensor) -> Tensor | None:
        """`guidance` of a `VideoUNet` for latents like (B, C, F, h, w): the references of the first R."""
        if self.seen is None:
            return None
        latents, past = reference.latents, reference.past
        if past is None:
            past = latents.new_zeros(len(latents), self.past_channels, *latents.shape[2:])
        known = torch.cat([latents, reference.ground, 2 * reference.figure - 1, past], 1)[:, :, None]
        if self.drives:
            known = torch.cat([known.expand(-1, -1, reference.base.shape[2], -1, -1), reference.base], 1)
        shown = self.seen(known.movedim(2, 1).flatten(0, 1)).unflatten(0, (len(known), known.shape[2])).movedim(1, 2)
        shown = shown.expand(-1, -1, like.shape[2], -1, -1)
        return torch.cat([shown, shown.new_zeros(len(like) - len(shown), *shown.shape[1:])])

    def imagined(self, answer: Tensor, t: Tensor, reference: Pictured) -> tuple[Tensor, Tensor | None]:
        """The answer (B, C, F, h, w) of a U-Net that was asked at steps t (B,), and where it says the regions are:
        logits (B, 9, F, h, w), the ground's first, or None.

        Where it `imagines`, its last channels are these, and what is expected is them, painted in the looks of the
        picture's regions: a frame of which little is seen through the noise has the figure's own colours at once, and
        the network's other channels say what is beyond them. Not in the paper.
        """
        if not self.imagines:
            return answer, None
        answer, logits = answer.float().split([answer.shape[1] - len(BODY_REGIONS) - 1, len(BODY_REGIONS) + 1], 1)
        shares = logits.softmax(1)[:, 1:].movedim(2, 1)
        expected = composite_regions(reference.ground, reference.looks, shares)
        return answer + prior_mean_offset(self.changed(expected, reference), t, self.schedule), logits

    @torch.no_grad()
    def measure_scales(self, batches: Iterable[Batch]) -> None:
        """Make latents and changes about as large as the noise, by batches of 2 or more frames a clip and their parts:
        of an autoencoder just trained."""
        self.latent_scale.fill_(1.0)
        frames, parts = [], []
        for batch in batches:
            frames.append(self.encode(batch["frames"][:, :2].flatten(0, 1)).unflatten(0, (-1, 2)))
            parts.append(batch["parts"][:, :2])
        found = torch.cat(frames)
        self.latent_scale.fill_(1 / found.std().item())
        if self.seen is not None:
            (before, after), known = (found * self.latent_scale).unbind(1), torch.cat(parts)
            self.change_scale.fill_(1.0)
            changes = self.changed(after[:, :, None], self.driven(self.pictured(before, known[:, 0]), known[:, 1:]))
            self.change_scale.fill_(1 / changes.std().item())


class AutoencoderStage(Stage):
    """Train the autoencoder on single frames (`clip.num_sampled_frames`): perceptual loss at four scales, and KL.

    module_path: path of the module with the `vae` in the family, '' for the family itself. vgg_weights: file of
    torchvision's VGG-19 weights, see `PerceptualLoss`. kl_weight: of the Kullback-Leibler divergence, the mean over
    images of the sum over values (latent diffusion: 1e-6). crop_size: pixels per side of a random crop, None: no crop.
    latent_noise: noise of up to so many standard deviations of the latents is added before they are decoded, instead
    of the posterior's, so that the decoder tolerates the errors of a diffusion model that was trained for minutes.
    """

    def __init__(
        self,
        *args,
        module_path: str = "",
        vgg_weights: str | None = None,
        kl_weight: float = 1e-6,
        crop_size: int | None = None,
        latent_noise: float = 0.0,
        **kwargs,
    ):
        self.module_path = module_path
        super().__init__(*args, options={"module_path": module_path}, **kwargs)
        self.likeness, self.kl_weight = PerceptualLoss(vgg_weights), kl_weight
        self.crop_size, self.latent_noise = crop_size, latent_noise

    @property
    def vae(self) -> nn.Module:
        """The autoencoder."""
        return self.family.get_submodule(self.module_path).vae

    @classmethod
    def required_keys(cls, family: Family, **_: Any) -> tuple[str, ...]:
        """Images."""
        return ("frames",)

    @classmethod
    def trainable_paths(cls, family: Family, module_path: str = "", **_: Any) -> list[str]:
        """Encoder, decoder and the convolutions between them."""
        prefix = f"{module_path}." if module_path else ""
        return [f"{prefix}vae.{name}" for name in ("encoder", "quant_conv", "post_quant_conv", "decoder")]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Likeness of the decoded frames, and the divergence."""
        pictures = batch["frames"].flatten(0, 1)
        if self.crop_size is not None:
            room = [max(0, side - self.crop_size) for side in pictures.shape[2:]]
            top, left = (int(torch.randint(most + 1, ())) for most in room)
            pictures = pictures[:, :, top : top + self.crop_size, left : left + self.crop_size]
        found = self.vae.encode(pictures).latent_dist
        made = self.vae.decode(self.noisy(found.mode()) if self.latent_noise else found.sample()).sample
        with torch.autocast(pictures.device.type, enabled=False):
            likeness = self.likeness((made.float() + 1) / 2, (pictures + 1) / 2)
        return {"likeness": likeness, "kl": self.kl_weight * found.kl().float().mean()}

    def noisy(self, latents: Tensor) -> Tensor:
        """Latents (N, C, h, w), each with noise of its own level, more often high than low."""
        level = self.latent_noise * torch.rand(len(latents), 1, 1, 1, device=latents.device).sqrt()
        return latents + level * latents.std() * torch.randn_like(latents)


class DenoisingStage(Stage):
    """Base of stages that train a denoiser of latents.

    velocity_weight: weight of the loss on differences between consecutive frames (EDGE eq. 4). timestep_bias: above 0,
    noisier steps are drawn more often, see `sample_timesteps`.
    """

    def __init__(self, *args, velocity_weight: float = 0.0, timestep_bias: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.velocity_weight, self.timestep_bias = velocity_weight, timestep_bias

    def add_noise(self, x0: Tensor, schedule: DDPMScheduler) -> NoisySample:
        """Add noise to x0 (B, C, F, h, w) at a random step of the schedule for each sample."""
        return add_training_noise(x0, sample_timesteps(len(x0), schedule, x0.device, self.timestep_bias), schedule)

    def denoising_loss(self, model_output: Tensor, sample: NoisySample) -> dict[str, Tensor]:
        """Return the errors 'noise' and, with velocity_weight, 'velocity' of the network output for `sample.x`."""
        return denoising_loss(model_output, sample, self.velocity_weight)


def take_batches(batches: Callable[[], Iterator[Batch]], max_batches: int = 8) -> Iterator[Batch]:
    """Yield the first batches of a pass."""
    return (batch for _, batch in zip(range(max_batches), batches(), strict=False))
