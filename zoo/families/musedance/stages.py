"""Training of MuseDance: single frames first (sec. 3.2), then windows of video with their music (sec. 3.3).

At size=tiny the autoencoder is trained before both; at size=paper it is Stable Diffusion's and is never trained.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.batch import Batch
from zoo.families.latent.background import ReferenceContext, estimate_scales
from zoo.families.latent.cache import LatentCache
from zoo.families.latent.figure_crop import crop_images, figure_boxes
from zoo.families.latent.stages import DenoisingStage, spatial_paths, take_batches
from zoo.families.musedance.family import MuseDance
from zoo.nn.figure_segmentation import region_loss
from zoo.nn.video_unet.conditioning import Conditioning

COND_DROP_PROB = 0.1  # of text and music, for classifier-free guidance (the paper gives none)
# With `figure_crop`, single frames are cropped at random, so that the networks know other sizes and places:
MAX_EXTRA_SCALE = 0.5  # added to the scale of a box
MAX_SHIFT = 0.06  # of a box, in units of its side


class _MuseDanceStage(DenoisingStage):
    """Base of both stages of the paper."""

    family: MuseDance

    def encode_captions(self, captions: Sequence[str], is_conditioned: Tensor) -> Tensor:
        """Encode captions into text tokens (B, L, D); those of unconditioned samples as empty texts."""
        texts = [text if use_text else "" for text, use_text in zip(captions, is_conditioned.tolist(), strict=True)]
        return self.family.text_encoder(texts).to(self.device)

    def window_loss(
        self, latents: Tensor, reference: ReferenceContext, conditioning: Conditioning, parts: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the U-Net's losses for latents (B, C, F, h, w) of frames with DensePose parts (B, F, H, W)."""
        family = self.family
        noisy_sample = self.add_noise(family.background.to_residual(latents, reference), family.noise_schedule)
        model_output, region_logits = family.predict_with_regions(
            noisy_sample.x, noisy_sample.t, conditioning, reference
        )
        losses = self.denoising_loss(model_output, noisy_sample)
        if region_logits is not None:
            losses["regions"] = region_loss(region_logits.movedim(2, 1).flatten(0, 1), parts.flatten(0, 1))
        return losses


class AppearanceStage(_MuseDanceStage):
    """Denoise frames of a clip, given another one (sec. 3.2): `clip.num_sampled_frames` frames of a clip, in no order.

    The first frame is the reference of the others. The paper has pairs; with more frames the ReferenceNet, which takes
    most of a step's time, serves several. The DensePose mask of the reference is added for half the samples, so that
    images without one can be used (the paper's always have one).
    """

    def __init__(
        self,
        *args,
        estimate_latent_scale: bool = False,  # first, for an autoencoder that was just trained
        latent_cache_size: int = 0,  # frames whose latents stay in memory
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if self.family.figure_crop is not None:
            latent_cache_size = 0  # each step crops anew
        self.estimate_latent_scale, self.latent_cache = estimate_latent_scale, LatentCache(latent_cache_size)

    @classmethod
    def required_keys(cls, family: MuseDance, **_: Any) -> tuple[str, ...]:
        """Frames with their DensePose parts, and captions."""
        return ("key", "frames", "frame_indices", "parts", "caption")

    @classmethod
    def trainable_paths(cls, family: MuseDance, **_: Any) -> list[str]:
        """ReferenceNet, mask encoder, a trainable text encoder, and the U-Net without its temporal modules."""
        return ["reference_net", "mask_encoder", *spatial_paths(family, "text_encoder")]

    def fit_normalizers(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Estimate the scale of the latents on the first batches."""
        if self.estimate_latent_scale:
            cropped_batches = map(self._crop, take_batches(batches))
            estimate_scales(self.family.codec, self.family.background, cropped_batches)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Denoising loss of the other frames, given the first one; perhaps the figure segmenter's loss."""
        family, whole_batch = self.family, batch
        uniform = self.random.rand(len(batch["frames"]), 2, device=batch["frames"].device)
        batch = self._crop(batch)
        latents = self.latent_cache.encode_frames(
            family.codec.encode, batch["frames"], batch["key"], batch["frame_indices"]
        )
        reference_latents, num_targets = latents[:, 0], latents.shape[1] - 1
        use_mask = (uniform[:, 0] < 0.5).view(-1, 1, 1, 1)
        masked_latents = family.add_pose_mask(reference_latents, batch["parts"][:, 0])
        masked_latents = torch.where(use_mask, masked_latents, reference_latents)
        text = self.encode_captions(batch["caption"], uniform[:, 1] >= COND_DROP_PROB)
        features = family.reference_net(masked_latents, text=text)
        text, *features = (tensor.repeat_interleave(num_targets, 0) for tensor in (text, *features))
        reference = family.background.encode_reference(reference_latents)
        reference = reference.map(lambda tensor: tensor.repeat_interleave(num_targets, 0))
        targets = latents[:, 1:].flatten(0, 1)[:, :, None]  # videos of one frame, each at a step of its own
        conditioning = family.unet.precompute_conditioning(text, features, use_motion_modules=False)
        parts = batch["parts"][:, 1:].flatten(0, 1)[:, None]
        losses = self.window_loss(targets, reference, conditioning, parts)
        if family.background.figure_segmenter is not None:
            losses["figure"] = family.background.figure_segmenter.loss(reference_latents, batch["parts"][:, 0])
        if family.figure_crop is not None:  # the box is found in the whole image
            with torch.no_grad():
                whole_latents = family.codec.encode(whole_batch["frames"][:, 0])
            whole_loss = family.background.figure_segmenter.loss(whole_latents, whole_batch["parts"][:, 0])
            losses["figure"] = (losses["figure"] + whole_loss) / 2
        return losses

    def _crop(self, batch: Batch) -> Batch:
        """Frames and parts in a box about the figure of each clip's first frame, at random scale and shift."""
        config, parts = self.family.figure_crop, batch["parts"]
        if config is None:
            return batch
        uniform = self.random.rand(len(parts), 3, device=parts.device)
        scale = config.scale + MAX_EXTRA_SCALE * uniform[:, 0] ** 2
        boxes = figure_boxes(parts[:, 0] > 0, scale, MAX_SHIFT * (2 * uniform[:, 1:] - 1))
        frames = crop_images(batch["frames"], boxes, config.resolution)
        return Batch(**batch | {"frames": frames, "parts": crop_images(parts, boxes, config.resolution, "nearest")})


class DynamicsStage(_MuseDanceStage):
    """Denoise a window of a clip, given an image of the figure, caption and music (sec. 3.3).

    Clips begin `num_context_frames` frames before the window: the last frames of the previous window.
    """

    def __init__(
        self,
        *args,
        latent_cache_size: int = 0,  # clips whose latents stay in memory
        no_context_prob: float = 0.1,  # of a window without context, as the first one of a video
        train_spatial_layers: bool = False,  # of the U-Net; the paper freezes their attention
        **kwargs,
    ):
        super().__init__(*args, options={"train_spatial_layers": train_spatial_layers}, **kwargs)
        self.latent_cache, self.no_context_prob = LatentCache(latent_cache_size), no_context_prob

    @classmethod
    def required_keys(cls, family: MuseDance, **_: Any) -> tuple[str, ...]:
        """Windows of video with music and captions; with a region head also DensePose parts."""
        keys = ("key", "frames", "reference", "music", "music_rate", "beats", "beat_phase", "fps", "caption")
        return (*keys, "parts") if family.background.predict_regions else keys

    @classmethod
    def trainable_paths(cls, family: MuseDance, train_spatial_layers: bool = False, **_: Any) -> list[str]:
        """The temporal modules and the music token embedder, and perhaps the rest of the U-Net."""
        modules = family.unet.temporal_modules() | (family.unet.spatial_modules() if train_spatial_layers else {})
        paths = [f"unet.{path}" for path in modules]
        if any(True for _ in family.music_token_embedder.parameters()):
            paths.append("music_token_embedder")
        if train_spatial_layers and family.background.figure_segmenter is not None:
            paths.append("background.reference_conv")
        if not paths:
            raise ValueError(
                "music_conditions=[] and use_motion_modules=false leave nothing to train in stage dynamics"
            )
        return paths

    def fit_normalizers(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Fit the normaliser of the music in one pass."""
        moments = self.family.music_scale.running_moments()
        for batch in batches():
            moments.add(batch["music"])
        moments.finish()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Denoising loss of the window of each clip."""
        family, num_context = self.family, self.family.num_context_frames
        clip_latents, reference_latents, parts = self._encode_clips(batch)
        # frames before the window; a family without context may get some, too
        start = clip_latents.shape[2] - family.num_frames
        if start < num_context:
            raise ValueError(
                f"clips of {clip_latents.shape[2]} frames are shorter than a window of {family.num_frames} and "
                f"{num_context} context frames: set clip.num_frames={family.num_frames + num_context}"
            )
        x0, context = clip_latents[:, :, start:], clip_latents[:, :, start - num_context : start]
        uniform = self.random.rand(len(x0), 2, device=x0.device)
        is_conditioned = uniform[:, 0] >= COND_DROP_PROB
        text = self.encode_captions(batch["caption"], is_conditioned)
        with torch.no_grad():
            features = family.reference_net(reference_latents, text=text)
        rate, start_seconds = batch["music_rate"], start / float(family.fps)
        music = batch["music"][:, round(start_seconds * rate) :]
        music_tokens = family.embed_music(music, rate, batch["beats"][:, start:], batch["beat_phase"][:, start:])
        music_tokens = {name: tokens * is_conditioned[:, None, None] for name, tokens in music_tokens.items()}
        reference = family.background.encode_reference(reference_latents)
        context_features: list[Tensor] = []
        if num_context and self.random.step_rand() >= self.no_context_prob:
            reference = family.background.with_context(reference, context)
            with torch.no_grad():
                frame_latents = context.movedim(2, 1).flatten(0, 1)
                frame_features = family.reference_net(frame_latents, text=text.repeat_interleave(num_context, 0))
            context_features = [feature.unflatten(0, (-1, num_context)) for feature in frame_features]
        parts = None if parts is None else parts[:, start:]
        conditioning = family.unet.precompute_conditioning(text, features, context_features, music_tokens)
        return self.window_loss(x0, reference, conditioning, parts)

    def _encode_clips(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return latents of a batch's clips (B, C, F, h, w) and references (B, C, h, w), and the clips' DensePose parts
        where they are needed (B, F, H, W); all of them in the boxes of the references, with `figure_crop`.
        """
        family, frames, references = self.family, batch["frames"], batch["reference"]

        def encode_clip(index: int) -> tuple[Tensor, ...]:
            images = torch.cat([frames[index], references[index, None]])
            if family.figure_crop is None:
                return (family.codec.encode(images),)
            box = family.find_boxes(references[index, None])
            return family.codec.encode(crop_images(images[None], box, family.figure_crop.resolution)[0]), box[0]

        latents, *boxes = (
            tensor.to(frames.device) for tensor in self.latent_cache.get_or_compute(batch["key"], encode_clip)
        )
        parts = batch["parts"] if family.background.predict_regions else None
        if parts is not None and boxes:
            parts = crop_images(parts, boxes[0], family.figure_crop.resolution, "nearest")
        return latents[:, :-1].movedim(1, 2), latents[:, -1], parts
