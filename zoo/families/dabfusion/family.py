"""DabFusion: a song becomes a flow that moves the picture's own latent (DabFusion sec. 3, on LFDM's networks)."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.diffusion.constraints import ReplaceKnownFrames
from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.guidance import ClassifierFreeGuidance
from zoo.diffusion.samplers import make_sampler, sample
from zoo.diffusion.schedules import cosine_schedule
from zoo.families.base import Family, GenerationRequest, SamplingParams
from zoo.families.dabfusion.autoencoder import FlowAutoencoder
from zoo.families.dabfusion.blocks import still
from zoo.families.dabfusion.flow_unet import FlowUNet
from zoo.families.dabfusion.regions import Regions
from zoo.families.dabfusion.upgrade import upgrade_config
from zoo.families.dabfusion.weights import translation
from zoo.music.beats import beat_phase, beats_to_frames
from zoo.music.encoder import MusicFeatures
from zoo.music.normalizer import FeatureNormalizer
from zoo.nn.square_image import pad_to_square
from zoo.nn.text import TextEncoder
from zoo.nn.weights.loading import LoadReport, load_strict, read_weights

DECODED = 8  # frames decoded at a time
SAID = " dance music"  # follows a style's name


class MusicEmbedding(nn.Module):
    """What is heard at each frame, in the width that the U-Net listens in: one layer (the paper leaves it open)."""

    def __init__(self, music_dim: int, dim: int):
        super().__init__()
        self.project = nn.Linear(music_dim, dim)

    def forward(self, heard: Tensor) -> Tensor:
        """(B, F, music_dim) -> (B, F, dim)"""
        return self.project(heard)


DEFAULT_SCHEDULE = {"shift": 1.0, "prediction_type": "epsilon"}  # as published
DEFAULT_SAMPLER = {
    "name": "ddim",
    "num_inference_steps": 100,
    "guidance_scale": 1.0,
    "eta": 1.0,
    "dynamic_threshold": 0.9,
}


class DabFusion(Family):
    """All networks of DabFusion."""

    def __init__(
        self,
        *,
        music_dim: int,  # D, of one token of the music encoder
        autoencoder: Mapping[str, Any],  # arguments of `FlowAutoencoder`
        unet: Mapping[str, Any],  # arguments of `FlowUNet`
        resolution: int = 128,  # pixels per side of the square image
        num_frames: int = 40,  # of one window (40 or 80 in the paper)
        fps: float = 12,  # of a window's frames
        condition_on: str = "music",  # or 'text': the style's name instead (sec. 4.5, Table 6)
        text_encoder: TextEncoder | None = None,  # of the style's name
        condition_on_beats: bool | None = None,  # true: model e; false: model b; None: e with music, b with text
        condition_on_heatmaps: bool = False,  # the U-Net sees the reference's region heat maps (not in the paper)
        flow_residual_scale: float | None = None,  # None: absolute positions, as published; else scaled displacements
        flow_pool_factor: int = 1,  # the diffused flow is the mean over squares of so many pixels (1 as published)
        num_context_frames: int = 0,  # of the previous window; 0: start from its last frame, as published
        noise_schedule: Mapping[str, Any] = DEFAULT_SCHEDULE,  # shift, prediction_type
        sampler: Mapping[str, Any] = DEFAULT_SAMPLER,  # see `make_sampler`
    ):
        """Beats join the music as each frame's mark (1 on a beat) and the beat's phase; the paper says "beat
        information".

        flow_residual_scale: LFDM's `use_residual_flow`, which does not scale. num_context_frames: with 0, every window
        moves the last frame of the previous one (sec. 4.5), and its blur with it. Above 0 (not in the paper) every
        window moves the reference itself; its first flows are held to the last ones of the previous window while the
        rest is denoised, so that a long dance is as sharp as a short one. Raises ValueError for a window that would add
        nothing.
        """
        super().__init__()
        self.autoencoder = FlowAutoencoder(**autoencoder)
        self.shows_regions = condition_on_heatmaps
        num_heatmaps = self.autoencoder.region_predictor.regions.out_channels if condition_on_heatmaps else 0
        latent_channels = self.autoencoder.latent_channels + num_heatmaps
        if self.autoencoder.fine % flow_pool_factor:
            raise ValueError(
                f"flow_upsample={self.autoencoder.fine} cannot be pooled by flow_pool_factor={flow_pool_factor}"
            )
        self.fine, self.pooled = self.autoencoder.fine // flow_pool_factor, flow_pool_factor
        self.unet = FlowUNet(latent_channels=latent_channels, fine=self.fine, **unet)
        if condition_on not in ("music", "text"):
            raise ValueError(f"condition_on={condition_on}: use music or text")
        assert condition_on == "music" or text_encoder is not None, "a model that is conditioned on text encodes it"
        self.text = text_encoder if condition_on == "text" else None
        dim = music_dim if self.text is None else self.text.dim
        self.music_scale = FeatureNormalizer(dim)
        self.beats = 3 if (condition_on_beats if condition_on_beats is not None else self.text is None) else 0
        self.music_embedding = MusicEmbedding(dim + self.beats, self.unet.music_dim)
        self.resolution, self.frames, self.fps = resolution, num_frames, Fraction(str(fps))
        self.prediction, self.noisier = noise_schedule["prediction_type"], noise_schedule["shift"]
        self.residual = flow_residual_scale
        self.threshold, self.rule = sampler["dynamic_threshold"], sampler["name"]
        if not 0 <= num_context_frames < num_frames:
            raise ValueError(
                f"num_context_frames={num_context_frames} for windows of {num_frames} frames; use 0 to {num_frames - 1}"
            )
        self.overlap = num_context_frames
        self.defaults = SamplingParams(sampler["num_inference_steps"], sampler["guidance_scale"], sampler["eta"])

    @classmethod
    def upgrade(
        cls, config: dict[str, Any], state_dict: dict[str, Tensor], version: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Family`."""
        return upgrade_config(config), state_dict

    @property
    def schedule(self):
        """The noise schedule of the flow diffuser."""
        return cosine_schedule(self.prediction, shift=self.noisier)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.unet.init_conv.weight.device

    def load_pretrained(self, path: str) -> LoadReport:
        """Start from one of LFDM's public checkpoints, the autoencoder's or the diffusion's, or a file of this family.

        What the file does not hold stays as it is: `init=[A,B]` takes both. LFDM's U-Net heard a text; the music
        embedding has to learn its language. Raises ValueError, with nothing loaded, when anything else is missing or
        left over.
        """
        translate, missing = translation(read_weights(path), self.prediction)
        return load_strict(self, path, translate, allowed_missing=missing)

    def hear(self, features: Tensor, rate: float, beats: Tensor | None, frames: int, start: int = 0) -> Tensor:
        """What is heard at the own frames start .. start + frames - 1: (B, frames, music_dim + 3 with beats).

        features (B, L, D) at `rate` Hz; beats (B, frames, 3) of `beats_at`, which a model without beats ignores.
        """
        seconds = (start + np.arange(frames)) / float(self.fps)
        at = torch.from_numpy(seconds).to(features.device) * rate
        low = at.floor().long().clamp(0, features.shape[1] - 1)
        high = (low + 1).clamp(max=features.shape[1] - 1)
        share = (at - low).clamp(0, 1).to(features.dtype)[:, None]
        return self._with_beats(self.music_scale(torch.lerp(features[:, low], features[:, high], share)), beats)

    def read(self, styles: Sequence[str], beats: Tensor | None, frames: int) -> Tensor:
        """What stands for the music where a style's words do, as `hear`: (B, frames, text.dim + 3 with beats)."""
        words = self.music_scale(self.words(styles).to(self.device))
        return self._with_beats(words[:, None].expand(-1, frames, -1), beats)

    def words(self, styles: Sequence[str]) -> Tensor:
        """The styles of B dances, said alike to the text encoder in training and sampling: (B, text.dim)."""
        return self.text.encode([f"{style.strip().removesuffix(SAID)}{SAID}" for style in styles])

    def beats_at(self, times: np.ndarray, frames: int, start: int = 0) -> Tensor:
        """Mark and pulse of each own frame from `start` on, of beats at these seconds: (1, frames, 3)."""
        marks = beats_to_frames(times - start / float(self.fps), frames, self.fps)
        pulse = beat_phase(times, (start + np.arange(frames)) / float(self.fps))
        return torch.from_numpy(np.concatenate([marks[:, None], pulse], -1))[None]

    def _with_beats(self, heard: Tensor, beats: Tensor | None) -> Tensor:
        return torch.cat([heard, beats.to(heard)], -1) if self.beats else heard

    def shown(self, picture: Tensor, latent: Tensor, regions: Regions | None = None) -> Tensor:
        """What the U-Net sees of pictures (B, 3, H, W): their latents (B, C, h, w), and their regions if it is to.

        Each region's heat map is a channel more, 1 at its peak; regions: the pictures', if they are known.
        """
        if not self.shows_regions:
            return latent
        heat = (regions or self.autoencoder.region_predictor(picture)).heatmap
        return torch.cat([latent, (heat / heat.amax((2, 3), keepdim=True)).to(latent)], 1)

    def to_volume(self, flow: Tensor, occlusion: Tensor) -> Tensor:
        """Flow (..., h, w, 2) and occlusion (..., 1, h, w) -> what is diffused, about in [-1, 1].

        (..., 3, h / pooled, w / pooled)
        """
        if self.residual is not None:
            flow = (flow - still(*flow.shape[-3:-1], flow)) * self.residual
        volume = torch.cat([flow.movedim(-1, -3), 2 * occlusion - 1], -3)
        return F.avg_pool2d(volume.flatten(0, -4), self.pooled).unflatten(0, volume.shape[:-3])

    def from_volume(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """The way back; occlusion is held to [0, 1]."""
        flow, occlusion = volume[..., :2, :, :].movedim(-3, -1), (volume[..., 2:, :, :] + 1) / 2
        if self.residual is not None:
            flow = flow / self.residual + still(*flow.shape[-3:-1], flow)
        return flow, occlusion.clamp(0, 1)

    def generate(self, request: GenerationRequest) -> Iterator[Tensor]:
        """Blocks (F, 3, size, size) uint8: frame 0 is the picture, every later one is it, or its descendant, moved.

        Windows of `frames` flows are denoised one after the other, at the model's own rate, as `overlap` has it (sec.
        4.5, Table 7); between its frames flows are interpolated in time. Only a model that hears text reads the prompt,
        as the name of a style. Raises ValueError without a picture, or such a prompt.
        """
        image, music, prompt, frames, fps = (
            request.image,
            request.music,
            request.prompt,
            request.num_frames,
            request.fps,
        )
        if image is None:
            raise ValueError("dabfusion moves a picture: give image=FILE")
        if self.text is not None and not prompt.strip():
            raise ValueError("this dabfusion hears text and no music: give prompt=STYLE, such as prompt=house")
        reference = pad_to_square(image, self.resolution).to(self.device).float()[None] / 255
        yield (reference * 255).round().to(torch.uint8)
        last = (frames - 1) * self.fps / fps  # in own frames
        draw = torch.Generator("cpu").manual_seed(request.seed)
        made, start, levels, known = 1, 0, None, None
        while made < frames:
            if levels is None or not self.overlap:
                levels = self.autoencoder.encode(reference)
                z0, idle = self.shown(reference, levels[-1]), self._idle(levels[-1])
            count = 0 if known is None else len(known)
            volume = self._window(z0, music, prompt, start - count, known, draw, request.sampling)
            motion = torch.cat([idle if known is None else known[-1:], volume[count:]])
            end = start + len(motion) - 1
            stop = frames if end >= last else int(end * fps / self.fps) + 1
            places = [index * self.fps / fps - start for index in range(made, stop)]
            for first in range(0, len(places), DECODED):
                pictures = self.autoencoder.decode(levels, *self._between(motion, places[first : first + DECODED]))
                yield (pictures * 255).round().clamp(0, 255).to(torch.uint8)
            if stop < frames and not self.overlap:
                reference = self.autoencoder.decode(levels, *self._between(motion, [Fraction(self.frames)]))
            made, start, known = stop, end, volume[-self.overlap :] if self.overlap else None

    def _idle(self, latent: Tensor) -> Tensor:
        """What is diffused of a frame in which nothing moves: (1, 3, h, w)."""
        size = [side * self.fine * self.pooled for side in latent.shape[2:]]
        return self.to_volume(still(*size, latent)[None], latent.new_ones(1, 1, *size))

    def _window(
        self,
        z0: Tensor,
        music: MusicFeatures,
        prompt: str,
        start: int,
        known: Tensor | None,
        draw: torch.Generator,
        sampling: SamplingParams,
    ) -> Tensor:
        """Flow and occlusion (frames, 3, h, w) as diffused, of the frames that follow own frame `start`.

        The first of them are `known` (K, 3, h, w), or none is.
        """
        sampling = sampling.with_defaults(self.defaults)
        steps, guidance, eta = sampling.num_inference_steps, sampling.guidance_scale, sampling.eta
        rule = make_sampler(self.schedule, steps, self.rule, self.threshold)
        beats = self.beats_at(music.beats.times, self.frames, start + 1)
        if self.text is None:
            heard = self.hear(music.features[None].to(self.device), music.rate, beats, self.frames, start + 1)
        else:
            heard = self.read([prompt], beats, self.frames)
        condition = self.music_embedding(heard)
        if guidance != 1:
            z0, condition = z0.expand(2, *z0.shape[1:]), torch.cat([condition, torch.zeros_like(condition)])
        prepared = self.unet.prepare(z0, condition)
        denoiser = Denoiser(lambda x, t: self.unet(x, t, prepared).float(), self.schedule)
        shape = (1, 3, self.frames, *(side * self.fine for side in z0.shape[2:]))

        def noise() -> Tensor:
            return torch.randn(shape, generator=draw).to(self.device)

        guided = denoiser if guidance == 1 else ClassifierFreeGuidance(denoiser, guidance)
        x = noise()
        if known is None:
            return sample(guided, x, rule, noise, eta, clamp=None)[0].movedim(1, 0)
        constraint = ReplaceKnownFrames.first_frames(known.movedim(0, 1)[None], x, denoiser)
        x = constraint(x, int(rule.timesteps[0]), -1)
        made = sample(guided, x, rule, noise, eta, constraint, clamp=None)[0].movedim(1, 0)
        return torch.cat([known, made[len(known) :]])

    def _between(self, motion: Tensor, places: Sequence[Fraction]) -> tuple[Tensor, Tensor]:
        """Flow and occlusion at these places, own frames after the window's reference."""
        at = torch.tensor([float(place) for place in places], device=motion.device)
        low = at.floor().long().clamp(max=len(motion) - 2)
        share = (at - low).to(motion.dtype)[:, None, None, None]
        return self.from_volume(torch.lerp(motion[low], motion[low + 1], share))
