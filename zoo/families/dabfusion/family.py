"""DabFusion: music is turned into an optical flow that moves the image's own latent (DabFusion sec. 3, after LFDM)."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from zoo.diffusion.constraints import ReplaceKnownFrames
from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.guidance import ClassifierFreeGuidance
from zoo.diffusion.samplers import make_sampler, sample
from zoo.diffusion.schedules import make_noise_schedule
from zoo.families.base import Family, GenerationRequest, SamplingParams
from zoo.families.dabfusion import flow_unet
from zoo.families.dabfusion.autoencoder import FlowAutoencoder
from zoo.families.dabfusion.blocks import ResBlock, SameBlock, identity_flow
from zoo.families.dabfusion.flow_codec import FlowCodec
from zoo.families.dabfusion.flow_unet import FlowUNet
from zoo.families.dabfusion.regions import Regions
from zoo.families.dabfusion.upgrade import upgrade_config
from zoo.families.dabfusion.weights import find_converter
from zoo.music.beats import beat_phase, beats_to_frames
from zoo.music.normalizer import FeatureNormalizer
from zoo.nn.square_image import pad_to_square
from zoo.nn.text import TextEncoder
from zoo.nn.weights.loading import LoadReport, load_strict, read_weights

DECODE_BATCH = 8  # frames decoded at a time
STYLE_SUFFIX = " dance music"  # follows the name of a style in an encoded text


class MusicEmbedding(nn.Module):
    """One linear layer from the music of each frame to the U-Net's conditioning (the paper leaves it open)."""

    def __init__(self, music_dim: int, dim: int):
        super().__init__()
        self.project = nn.Linear(music_dim, dim)

    def forward(self, music: Tensor) -> Tensor:
        """(B, F, music_dim) -> (B, F, dim)."""
        return self.project(music)


class DabFusion(Family):
    """All networks of DabFusion, and how to sample with them.

    Windows of `num_frames` flows are denoised one after the other. With num_context_frames = 0 each window moves the
    last frame of the previous window (sec. 4.5), so its blur accumulates. With K > 0 every window moves the reference
    image; its first K flows are those of the previous window while the others are denoised, so that a long dance is as
    sharp as a short one (not in the paper).
    """

    can_reconstruct = True
    activation_units = (
        ResBlock,
        SameBlock,
        flow_unet.ResBlock,
        flow_unet.SpatialAttention,
        flow_unet.TemporalAttention,
    )

    def __init__(
        self,
        *,
        music_dim: int,  # of the music encoder
        autoencoder: Mapping[str, Any],  # see `FlowAutoencoder`
        unet: Mapping[str, Any],  # see `FlowUNet`
        noise_schedule: Mapping[str, Any],  # see `make_noise_schedule`
        sampler: Mapping[str, Any],  # name, dynamic_threshold (see `make_sampler`), and the default SamplingParams
        resolution: int,  # pixels per side of the image
        num_frames: int,  # flows of one window: 40 or 80 in the paper
        fps: float,
        num_context_frames: int,  # flows of the previous window that the next one begins with
        condition_on: str,  # 'music', or 'text': the name of the style instead (sec. 4.5, Table 6)
        text_encoder: TextEncoder | None,
        condition_on_beats: bool | None,  # true: the paper's model e; false: model b; None: e with music, b with text
        condition_on_heatmaps: bool,  # the U-Net sees the image's regions beside its latent (not in the paper)
        flow_residual_scale: float | None,  # see `FlowCodec`, as the next one
        flow_pool_factor: int,
    ):
        """Raises ValueError for unknown values, and for context frames that leave nothing of a window."""
        super().__init__()
        self.autoencoder = FlowAutoencoder(**autoencoder)
        self.codec = FlowCodec(flow_residual_scale=flow_residual_scale, flow_pool_factor=flow_pool_factor)
        self.condition_on_heatmaps = condition_on_heatmaps
        num_heatmaps = self.autoencoder.region_predictor.regions.out_channels if condition_on_heatmaps else 0
        flow_upsample = self.autoencoder.flow_upsample
        if flow_upsample % flow_pool_factor:
            raise ValueError(f"flow_pool_factor={flow_pool_factor} does not divide flow_upsample={flow_upsample}")
        self.packed_flow_upsample = flow_upsample // flow_pool_factor  # resolution of the packed flow over the latent's
        self.unet = FlowUNet(
            latent_channels=self.autoencoder.latent_channels + num_heatmaps,
            flow_upsample=self.packed_flow_upsample,
            **unet,
        )
        if condition_on not in ("music", "text"):
            raise ValueError(f"condition_on={condition_on}: use music or text")
        if condition_on == "text" and text_encoder is None:
            raise ValueError("condition_on=text needs a text_encoder")
        self.text_encoder = text_encoder if condition_on == "text" else None
        feature_dim = music_dim if self.text_encoder is None else self.text_encoder.dim
        self.music_scale = FeatureNormalizer(feature_dim)
        if condition_on_beats is None:
            condition_on_beats = self.text_encoder is None
        self.beat_dim = 3 if condition_on_beats else 0  # beat mark, cosine and sine of the beat phase
        self.music_embedding = MusicEmbedding(feature_dim + self.beat_dim, self.unet.music_dim)
        self.resolution, self.num_frames, self.fps = resolution, num_frames, Fraction(str(fps))
        self.noise_schedule_config = dict(noise_schedule)
        make_noise_schedule(**noise_schedule)  # refuses wrong values
        if not 0 <= num_context_frames < num_frames:
            raise ValueError(
                f"num_context_frames={num_context_frames} for windows of {num_frames} frames: use 0 to {num_frames - 1}"
            )
        self.num_context_frames = num_context_frames
        sampling = dict(sampler)
        self.sampler_name, self.dynamic_threshold = sampling.pop("name"), sampling.pop("dynamic_threshold")
        self.default_sampling = SamplingParams(**sampling)

    @property
    def noise_schedule(self) -> DDPMScheduler:
        """The noise schedule of the flow diffusion."""
        return make_noise_schedule(**self.noise_schedule_config)

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.unet.init_conv.weight.device

    @classmethod
    def upgrade(
        cls, config: dict[str, Any], state_dict: dict[str, Tensor], version: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Family.upgrade`; the names in the state dict are those of version 1."""
        return (upgrade_config(config) if version < 2 else config), state_dict

    def load_pretrained(self, path: str) -> LoadReport:
        """Load one of LFDM's public checkpoints, the autoencoder's or the diffusion's, or a file of this family.

        Parameters that the file does not hold stay as they are, so the two files are loaded one after the other. LFDM's
        U-Net is conditioned on text; the music embedding must be trained. Raises ValueError, with nothing loaded, when
        anything else is missing or unexpected.
        """
        convert, missing = find_converter(read_weights(path), self.noise_schedule.config.prediction_type)
        return load_strict(self, path, convert, allowed_missing=missing)

    def align_music(
        self, features: Tensor, rate: float, beats: Tensor | None, num_frames: int, start: int = 0
    ) -> Tensor:
        """Resample music to the frames start .. start + num_frames - 1 of the family's own rate.

        features (B, L, D) at `rate` Hz; beats (B, num_frames, 3) of `beats_at`, ignored by a model without beats.
        Returns (B, num_frames, D + beat_dim), normalised.
        """
        seconds = (start + np.arange(num_frames)) / float(self.fps)
        fractional_index = torch.from_numpy(seconds).to(features.device) * rate
        low = fractional_index.floor().long().clamp(0, features.shape[1] - 1)
        high = (low + 1).clamp(max=features.shape[1] - 1)
        fraction = (fractional_index - low).clamp(0, 1).to(features.dtype)[:, None]
        music = self.music_scale(torch.lerp(features[:, low], features[:, high], fraction))
        return self._append_beats(music, beats)

    def encode_style(self, styles: Sequence[str], beats: Tensor | None, num_frames: int) -> Tensor:
        """Return the condition of a model on text, like `align_music`: (B, num_frames, text_encoder.dim + beat_dim)."""
        text_embeddings = self.music_scale(self.encode_texts(styles).to(self.device))
        return self._append_beats(text_embeddings[:, None].expand(-1, num_frames, -1), beats)

    def encode_texts(self, styles: Sequence[str]) -> Tensor:
        """Encode the styles of B dances in one wording for training and sampling: (B, text_encoder.dim)."""
        return self.text_encoder.encode(
            [f"{style.strip().removesuffix(STYLE_SUFFIX)}{STYLE_SUFFIX}" for style in styles]
        )

    def beats_at(self, times: np.ndarray, num_frames: int, start: int = 0) -> Tensor:
        """Return beat marks and phases of the own frames from `start` on, for beats at these seconds: (1, F, 3)."""
        marks = beats_to_frames(times - start / float(self.fps), num_frames, self.fps)
        phase = beat_phase(times, (start + np.arange(num_frames)) / float(self.fps))
        return torch.from_numpy(np.concatenate([marks[:, None], phase], -1))[None]

    def _append_beats(self, features: Tensor, beats: Tensor | None) -> Tensor:
        return torch.cat([features, beats.to(features)], -1) if self.beat_dim else features

    def reference_condition(self, image: Tensor, latent: Tensor, regions: Regions | None = None) -> Tensor:
        """Return the U-Net's z0 for images (B, 3, H, W): their latents (B, C, h, w), perhaps with region heat maps.

        Each heat map is one more channel, 1 at its peak. regions: of the images, if they are computed already.
        """
        if not self.condition_on_heatmaps:
            return latent
        heatmap = (regions or self.autoencoder.region_predictor(image)).heatmap
        return torch.cat([latent, (heatmap / heatmap.amax((2, 3), keepdim=True)).to(latent)], 1)

    def generate(self, request: GenerationRequest) -> Iterator[Tensor]:
        """Yield blocks (F, 3, resolution, resolution) uint8: the image, then the image moved.

        Flows are denoised at the family's own rate and interpolated in time. Only a model on text reads the prompt: the
        name of a style. Raises ValueError without an image, or without such a prompt.
        """
        if request.image is None:
            raise ValueError("dabfusion animates an image: give image=FILE")
        if self.text_encoder is not None and not request.prompt.strip():
            raise ValueError("this checkpoint is conditioned on text: give prompt=STYLE, for example prompt=house")
        num_frames, fps = request.num_frames, request.fps
        reference = pad_to_square(request.image, self.resolution).to(self.device).float()[None] / 255
        yield (reference * 255).round().to(torch.uint8)
        last_position = (num_frames - 1) * self.fps / fps  # positions count frames of the family's own rate
        generator = torch.Generator("cpu").manual_seed(request.seed)
        num_done, start, levels, context = 1, 0, None, None
        while num_done < num_frames:
            if levels is None or not self.num_context_frames:
                levels = self.autoencoder.encode(reference)
                z0, zero_motion = self.reference_condition(reference, levels[-1]), self._zero_motion(levels[-1])
            num_context = 0 if context is None else len(context)
            volume = self._sample_window(z0, request, start - num_context, context, generator)
            motion = torch.cat([zero_motion if context is None else context[-1:], volume[num_context:]])
            end = start + len(motion) - 1
            stop = num_frames if end >= last_position else int(end * fps / self.fps) + 1
            window_positions = [index * self.fps / fps - start for index in range(num_done, stop)]
            for first in range(0, len(window_positions), DECODE_BATCH):
                flow, occlusion = self._interpolate_flow(motion, window_positions[first : first + DECODE_BATCH])
                frames = self.autoencoder.decode(levels, flow, occlusion)
                yield (frames * 255).round().clamp(0, 255).to(torch.uint8)
            if stop < num_frames and not self.num_context_frames:
                flow, occlusion = self._interpolate_flow(motion, [Fraction(self.num_frames)])
                reference = self.autoencoder.decode(levels, flow, occlusion)
            num_done, start = stop, end
            context = volume[-self.num_context_frames :] if self.num_context_frames else None

    def reconstruct(self, image: Tensor, frames: Tensor) -> Iterator[Tensor]:
        """See `Family`: the image, warped by the flow to each frame that the autoencoder estimates (sec. 3.1)."""
        source, *driving = (
            pad_to_square(picture, self.resolution).to(self.device).float()[None] / 255 for picture in (image, *frames)
        )
        for batch in torch.cat(driving).split(DECODE_BATCH):
            output = self.autoencoder(source.expand_as(batch), batch)
            yield (output.image * 255).round().clamp(0, 255).to(torch.uint8)

    def _zero_motion(self, latent: Tensor) -> Tensor:
        """Return the packed flow of a frame without motion: (1, 3, h, w)."""
        size = [side * self.packed_flow_upsample * self.codec.flow_pool_factor for side in latent.shape[2:]]
        return self.codec.pack_flow(identity_flow(*size, latent)[None], latent.new_ones(1, 1, *size))

    def _sample_window(
        self, z0: Tensor, request: GenerationRequest, start: int, context: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """Denoise the packed flows (num_frames, 3, h, w) of the frames after own frame `start`.

        context (K, 3, h, w): the first of them, if they are known.
        """
        sampling = request.sampling.with_defaults(self.default_sampling)
        sampler = make_sampler(
            self.noise_schedule, sampling.num_inference_steps, self.sampler_name, self.dynamic_threshold
        )
        music = request.music
        beats = self.beats_at(music.beats.times, self.num_frames, start + 1)
        if self.text_encoder is None:
            features = music.features[None].to(self.device)
            condition = self.align_music(features, music.rate, beats, self.num_frames, start + 1)
        else:
            condition = self.encode_style([request.prompt], beats, self.num_frames)
        condition = self.music_embedding(condition)
        use_guidance = sampling.guidance_scale != 1
        if use_guidance:
            z0, condition = z0.expand(2, *z0.shape[1:]), torch.cat([condition, torch.zeros_like(condition)])
        conditioning = self.unet.precompute_conditioning(z0, condition)
        denoiser = Denoiser(lambda x, t: self.unet(x, t, conditioning).float(), self.noise_schedule)
        shape = (1, 3, self.num_frames, *(side * self.packed_flow_upsample for side in z0.shape[2:]))

        def draw_noise() -> Tensor:
            return torch.randn(shape, generator=generator).to(self.device)

        guided = ClassifierFreeGuidance(denoiser, sampling.guidance_scale) if use_guidance else denoiser
        x = draw_noise()
        constraint = None
        if context is not None:
            constraint = ReplaceKnownFrames.first_frames(context.movedim(0, 1)[None], x, denoiser)
            x = constraint(x, int(sampler.timesteps[0]), -1)
        volume = sample(guided, x, sampler, draw_noise, sampling.eta, constraint, clamp=None)[0].movedim(1, 0)
        return volume if context is None else torch.cat([context, volume[len(context) :]])

    def _interpolate_flow(self, motion: Tensor, positions: Sequence[Fraction]) -> tuple[Tensor, Tensor]:
        """Return flow and occlusion at positions in own frames, counted from the window's reference."""
        fractional_index = torch.tensor([float(position) for position in positions], device=motion.device)
        low = fractional_index.floor().long().clamp(max=len(motion) - 2)
        fraction = (fractional_index - low).to(motion.dtype)[:, None, None, None]
        return self.codec.unpack_flow(torch.lerp(motion[low], motion[low + 1], fraction))
