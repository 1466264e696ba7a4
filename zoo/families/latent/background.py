"""The variable that a latent diffusion model diffuses, relative to its reference images.

Published models diffuse latents: `DirectLatents`. `BackgroundResidual` diffuses their difference to the background of
the reference, which a network learns in minutes.

Shape letters: R references, B >= R samples (with classifier-free guidance the conditional half comes first), F frames,
C latent channels, h x w latent pixels, H x W image pixels.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn.functional import interpolate

from zoo.batch import Batch
from zoo.diffusion.denoiser import prior_mean_offset
from zoo.families.latent.codec import VAE_BATCH, LatentCodec
from zoo.families.latent.figure_crop import PastedCrop
from zoo.nn.figure_segmentation import (
    BODY_REGIONS,
    FigureSegmenter,
    composite_regions,
    foreground_mask,
    inpaint_background,
    region_masks,
    region_means,
)
from zoo.nn.square_image import pad_to_square


@dataclass(frozen=True)
class ReferenceContext:
    """The latents of R reference images; with a `BackgroundResidual` also their figures and backgrounds."""

    latents: Tensor  # (R, C, h, w)
    foreground_mask: Tensor | None = None  # (R, 1, h, w) in [0, 1]
    background: Tensor | None = None  # (R, C, h, w): the latents with the figure inpainted
    region_means: Tensor | None = None  # (R, 8, C): mean latents of the figure's regions, if they are segmented
    residual_base: Tensor | None = None  # (R, C, 1 or F, h, w): the residual is the difference to it
    context_latents: Tensor | None = None  # (R, M C, h, w): residuals of the M frames before, see `with_context`
    pixel_residual: Tensor | None = None  # (R, 3, H, W): the images, in [-1, 1], minus their reconstructions

    def map(self, function: Callable[[Tensor], Tensor]) -> "ReferenceContext":
        """Apply a function to each tensor."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return ReferenceContext(
            **{name: None if tensor is None else function(tensor) for name, tensor in tensors.items()}
        )


class DirectLatents(nn.Module):
    """Diffuse the latents themselves, as in the papers. It has no parameters; `BackgroundResidual` overrides it."""

    def __init__(self):
        super().__init__()
        self.figure_segmenter: FigureSegmenter | None = None
        self.predict_regions = False

    def encode_reference(self, latents: Tensor, parts: Tensor | None = None) -> ReferenceContext:
        """Build the context of references with latents (R, C, h, w) and perhaps DensePose parts (R, H, W)."""
        return ReferenceContext(latents)

    def with_pixel_residual(self, reference: ReferenceContext, images: Tensor, codec: LatentCodec) -> ReferenceContext:
        """Return the context with `pixel_residual` of its images (R, 3, H, W) in [-1, 1]."""
        return reference

    def with_pose(self, reference: ReferenceContext, parts: Tensor) -> ReferenceContext:
        """Return the context for frames with DensePose parts (R, F, H, W)."""
        return reference

    def with_context(self, reference: ReferenceContext, latents: Tensor) -> ReferenceContext:
        """Return the context for frames that follow M others, of latents (R, C, M, h, w)."""
        return reference

    def to_residual(self, latents: Tensor, reference: ReferenceContext) -> Tensor:
        """Latents (R, C, F, h, w) -> the diffused variable, of the same shape."""
        return latents

    def from_residual(self, residual: Tensor, reference: ReferenceContext) -> Tensor:
        """Invert `to_residual`."""
        return residual

    def reference_condition(self, reference: ReferenceContext, x: Tensor) -> Tensor | None:
        """Return `cond_features` of a `VideoUNet` for the noisy input x (B, C, F, h, w), of its first R samples."""
        return None

    def apply_region_head(
        self, model_output: Tensor, t: Tensor, reference: ReferenceContext, noise_schedule: DDPMScheduler
    ) -> tuple[Tensor, Tensor | None]:
        """Split the output of a U-Net (B, _, F, h, w) at steps t (B,) into prediction and region logits.

        Returns the prediction (B, C, F, h, w), and logits (B, 9, F, h, w), the background first, or None.
        """
        return model_output, None

    def background_mask(self, latents: Tensor, reference: ReferenceContext) -> Tensor | None:
        """Where frames of latents (N, C, h, w) show one reference's own background: (N, 1, h, w) in [0, 1]."""
        return None

    def frame_pixel_residual(self, latents: Tensor, reference: ReferenceContext) -> Tensor | None:
        """Return the part of one reference's `pixel_residual` that is visible in frames of latents (N, C, h, w)."""
        return None

    def estimate_scale(self, latents: Tensor, parts: Tensor) -> None:
        """Fit to pairs of frames: their latents (N, 2, C, h, w) and DensePose parts (N, 2, H, W)."""


class BackgroundResidual(DirectLatents):
    """Diffuse the scaled difference to the reference's inpainted background. Not in the papers.

    The U-Net gets the reference beside the noise, pixel by pixel. Backgrounds stand still, nothing remains at the
    figure's old place, and a network that trains for minutes learns the figure.
    """

    figure_segmenter: FigureSegmenter

    def __init__(
        self,
        latent_channels: int,  # C
        out_channels: int,  # of the U-Net's first convolution
        *,
        pose_driven: bool = False,  # the DensePose parts of all frames are known (MagicDance)
        predict_regions: bool = False,  # the U-Net segments the frames (MuseDance)
        num_context_frames: int = 0,  # M, frames of the previous window that the U-Net may see
    ):
        super().__init__()
        self.pose_driven, self.predict_regions = pose_driven, predict_regions
        self.figure_segmenter = FigureSegmenter(latent_channels, predict_regions=pose_driven or predict_regions)
        self.context_channels = num_context_frames * latent_channels
        in_channels = (2 + pose_driven) * latent_channels + self.context_channels + 1
        self.reference_conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.register_buffer("residual_scale", torch.tensor(1.0))  # makes residuals about as large as the noise

    @torch.no_grad()
    def encode_reference(self, latents: Tensor, parts: Tensor | None = None) -> ReferenceContext:
        """See `DirectLatents`. Without parts, `figure_segmenter` segments the figure."""
        if parts is None:
            mask, body_masks = self.figure_segmenter(latents)
        else:
            mask, body_masks = foreground_mask(parts, latents.shape[2:]), region_masks(parts, latents.shape[2:])
        mask = mask.to(latents.dtype)
        background = inpaint_background(latents, mask)
        means = region_means(latents.float(), body_masks) if self.figure_segmenter.predict_regions else None
        return ReferenceContext(latents, mask, background, means, background[:, :, None])

    def with_pixel_residual(self, reference: ReferenceContext, images: Tensor, codec: LatentCodec) -> ReferenceContext:
        """See `DirectLatents`."""
        return replace(reference, pixel_residual=images - codec.reconstruct(reference.latents))

    def with_pose(self, reference: ReferenceContext, parts: Tensor) -> ReferenceContext:
        """See `DirectLatents`. The base of each frame is the background, with the mean latents of its regions."""
        if reference.region_means is None or not self.pose_driven:
            return reference
        body_masks = region_masks(parts.flatten(0, 1), reference.latents.shape[2:]).unflatten(0, parts.shape[:2])
        base = composite_regions(reference.background, reference.region_means, body_masks)
        return replace(reference, residual_base=base)

    def with_context(self, reference: ReferenceContext, latents: Tensor) -> ReferenceContext:
        """See `DirectLatents`.

        The U-Net gets their residuals, pixel by pixel: their features alone (MuseDance sec. 3.3) are not enough for a
        network that trains for minutes.
        """
        return replace(reference, context_latents=self.to_residual(latents, reference).flatten(1, 2))

    def to_residual(self, latents: Tensor, reference: ReferenceContext) -> Tensor:
        """See `DirectLatents`. There may be fewer frames than in the reference's base: they are its first."""
        return (latents - reference.residual_base[:, :, : latents.shape[2]]) * self.residual_scale

    def from_residual(self, residual: Tensor, reference: ReferenceContext) -> Tensor:
        """See `DirectLatents`."""
        return residual / self.residual_scale + reference.residual_base[:, :, : residual.shape[2]]

    def reference_condition(self, reference: ReferenceContext, x: Tensor) -> Tensor:
        """See `DirectLatents`. The remaining samples get zeros."""
        latents, context = reference.latents, reference.context_latents
        if context is None:
            context = latents.new_zeros(len(latents), self.context_channels, *latents.shape[2:])
        inputs = torch.cat([latents, reference.background, 2 * reference.foreground_mask - 1, context], 1)[:, :, None]
        if self.pose_driven:
            base = reference.residual_base
            inputs = torch.cat([inputs.expand(-1, -1, base.shape[2], -1, -1), base], 1)
        references_and_frames = len(inputs), inputs.shape[2]
        features = (
            self.reference_conv(inputs.movedim(2, 1).flatten(0, 1)).unflatten(0, references_and_frames).movedim(1, 2)
        )
        features = features.expand(-1, -1, x.shape[2], -1, -1)
        return torch.cat([features, features.new_zeros(len(x) - len(features), *features.shape[1:])])

    def apply_region_head(
        self, model_output: Tensor, t: Tensor, reference: ReferenceContext, noise_schedule: DDPMScheduler
    ) -> tuple[Tensor, Tensor | None]:
        """See `DirectLatents`. With `predict_regions`, the last nine channels are the logits.

        The prior mean of a frame is its regions, each filled with the mean latent of the reference's region. So a frame
        that is hidden by noise has the figure's colors, and the other channels predict the remaining difference.
        """
        if not self.predict_regions:
            return model_output, None
        num_logits = len(BODY_REGIONS) + 1
        prediction, logits = model_output.float().split([model_output.shape[1] - num_logits, num_logits], 1)
        body_masks = logits.softmax(1)[:, 1:].movedim(2, 1)
        prior_mean = composite_regions(reference.background, reference.region_means, body_masks)
        offset = prior_mean_offset(self.to_residual(prior_mean, reference), t, noise_schedule)
        return prediction + offset, logits

    @torch.no_grad()
    def background_mask(self, latents: Tensor, reference: ReferenceContext) -> Tensor:
        """See `DirectLatents`. Neither the reference nor the frame has a figure there."""
        assert reference.foreground_mask is not None, "`encode_reference` segments it"
        return (1 - reference.foreground_mask) * (1 - self.figure_segmenter(latents)[0].to(latents.dtype))

    @torch.no_grad()
    def frame_pixel_residual(self, latents: Tensor, reference: ReferenceContext) -> Tensor | None:
        """See `DirectLatents`. It is visible in the `background_mask`."""
        if reference.pixel_residual is None:
            return None
        visible_mask = self.background_mask(latents, reference)
        return reference.pixel_residual * interpolate(visible_mask, reference.pixel_residual.shape[2:], mode="bilinear")

    @torch.no_grad()
    def estimate_scale(self, latents: Tensor, parts: Tensor) -> None:
        """See `DirectLatents`. The first frame of each pair is the reference of the second."""
        reference_latents, frame_latents = latents.unbind(1)
        self.residual_scale.fill_(1.0)
        reference = self.with_pose(self.encode_reference(reference_latents, parts[:, 0]), parts[:, 1:])
        residual = self.to_residual(frame_latents[:, :, None], reference)
        self.residual_scale.fill_(1 / residual.std().item())


@torch.no_grad()
def reconstruct_frames(
    codec: LatentCodec,
    background: DirectLatents,
    image: Tensor,
    frames: Tensor,
    resolution: int,
    crop_figure: Callable[[Tensor], PastedCrop | None] = lambda image: None,
) -> Iterator[Tensor]:
    """`Family.reconstruct` of a latent diffusion model: frames through the autoencoder, behind them the image's pixels
    where the background is visible.

    crop_figure: image (1, 3, H, W) -> the part of it that goes through the autoencoder; None: all of it.
    """
    reference_image, *images = (
        pad_to_square(picture, resolution).to(codec.device).float()[None] / 127.5 - 1 for picture in (image, *frames)
    )
    pasted_crop = crop_figure(reference_image)
    if pasted_crop is not None:
        reference_image, *images = (replace(pasted_crop, picture=x).crop for x in (reference_image, *images))
    reference = background.encode_reference(codec.encode(reference_image))
    reference = background.with_pixel_residual(reference, reference_image, codec)
    for batch in torch.cat(images).split(VAE_BATCH):
        latents = codec.encode(batch)
        decoded = codec.decode(latents, background.frame_pixel_residual(latents, reference))
        if pasted_crop is not None:
            decoded = pasted_crop.paste(decoded, background.background_mask(latents, reference))
        yield decoded


def estimate_scales(codec: LatentCodec, background: DirectLatents, batches: Iterable[Batch]) -> None:
    """Make latents and residuals of a new autoencoder about as large as the noise.

    batches: of clips with at least two frames, and their DensePose parts.
    """
    codec.latent_scale.fill_(1.0)
    latents, parts = [], []
    for batch in batches:
        latents.append(codec.encode(batch["frames"][:, :2].flatten(0, 1)).unflatten(0, (-1, 2)))
        parts.append(batch["parts"][:, :2])
    pair_latents = torch.cat(latents)
    codec.latent_scale.fill_(1 / pair_latents.std().item())
    background.estimate_scale(pair_latents * codec.latent_scale, torch.cat(parts))
