"""MuseDance: an image, music and a prompt become a video, by diffusion in the latents of an autoencoder (sec. 3)."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from einops import rearrange
from torch import Tensor, nn

from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.samplers import make_sampler, sample
from zoo.diffusion.schedules import make_noise_schedule
from zoo.families.base import Family, GenerationRequest, SamplingParams
from zoo.families.latent.background import BackgroundResidual, DirectLatents, ReferenceContext, reconstruct_frames
from zoo.families.latent.codec import VAE_BATCH, LatentCodec
from zoo.families.latent.figure_crop import (
    PastedCrop,
    crop_figure,
    detect_figure_boxes,
    parse_figure_crop,
)
from zoo.families.musedance.tokens import MUSIC_CONDITIONS, MusicTokenEmbedder
from zoo.families.musedance.upgrade import upgrade_config, upgrade_state_dict
from zoo.music.beats import beat_phase, beats_to_frames
from zoo.music.encoder import MusicFeatures
from zoo.music.normalizer import FeatureNormalizer
from zoo.nn.figure_segmentation import BODY_REGIONS, NUM_PARTS
from zoo.nn.square_image import pad_to_square
from zoo.nn.temporal import MotionModule, MusicAttentionModule
from zoo.nn.text import TokenTextEncoder
from zoo.nn.vae import build_vae
from zoo.nn.video_unet.blocks import SpatialTransformer, VideoResnetBlock
from zoo.nn.video_unet.conditioning import Conditioning
from zoo.nn.video_unet.reference_net import ReferenceNet
from zoo.nn.video_unet.unet import VideoUNet
from zoo.nn.weights.layouts import ModulePrefixes, find_converter
from zoo.nn.weights.loading import LoadReport, load_strict, read_weights

MODULE_PREFIXES = ModulePrefixes(vae="codec.vae.")
MIN_FIGURE_PROB = 0.1  # an image in which no latent is more likely to show a figure is refused


class MuseDance(Family):
    """All networks of MuseDance."""

    can_reconstruct = True
    activation_units = (VideoResnetBlock, SpatialTransformer, MusicAttentionModule, MotionModule)

    def __init__(
        self,
        *,
        music_dim: int,  # D, of one token of the music encoder
        text_encoder: TokenTextEncoder,  # of the prompt
        vae: Mapping[str, Any],  # arguments of the autoencoder
        unet: Mapping[str, Any],  # arguments of `VideoUNet`
        music_token_dim: int,  # width of the tokens that the U-Net attends to
        mask_encoder_channels: Sequence[int],  # of the convolutions on a DensePose mask (eq. 1)
        music_conditions: Sequence[str],  # which of the music and beats modules exist (Table 3)
        use_motion_modules: bool,  # Table 3
        num_context_frames: int,  # M, of the previous window, that motion modules attend to
        beat_phase: bool,  # add the beat's phase to the beat tokens (not in the paper)
        background_residual: bool,  # diffuse the difference to the reference's background (not in the paper)
        predict_regions: bool,  # with it, the U-Net segments the figure's regions too (not in the paper)
        resolution: int,  # pixels per side of the square image
        num_frames: int,  # K, of one window
        fps: float,  # of a window's frames
        noise_schedule: Mapping[str, Any],  # name (stable_diffusion, animatediff, cosine), shift, prediction_type
        sampler: Mapping[str, Any],  # num_inference_steps, guidance_scale, eta
        adain_strength: float,  # see `match_channel_statistics`
        figure_crop: Mapping[str, Any] | None = None,  # arguments of `FigureCropConfig`; None: diffuse whole images
    ):
        """Raises ValueError for an unknown music condition or noise schedule, and for wrong options of the crop."""
        super().__init__()
        self.figure_crop = parse_figure_crop(figure_crop, resolution, background_residual)
        make_noise_schedule(**noise_schedule)  # refuses wrong values
        self.noise_schedule_config = dict(noise_schedule)
        # the order of the networks decides their initial weights, which are drawn from one generator
        self.text_encoder = text_encoder
        self.codec = LatentCodec(build_vae(**vae))
        latent_channels = self.codec.latent_channels
        shared = dict(unet) | {"latent_channels": latent_channels, "text_dim": text_encoder.dim}
        self.reference_net = ReferenceNet(**shared | {"dropout": 0.0})
        has_region_head = background_residual and predict_regions
        self.unet = VideoUNet(
            **shared,
            use_motion_modules=use_motion_modules,
            motion_in_middle=True,
            music_token_dims={name: music_token_dim for name in MUSIC_CONDITIONS if name in music_conditions},
            extra_out_channels=1 + len(BODY_REGIONS) if has_region_head else 0,
        )
        self.mask_encoder = ControlNetConditioningEmbedding(latent_channels, 2, tuple(mask_encoder_channels))
        self.music_scale = FeatureNormalizer(music_dim)
        self.music_token_embedder = MusicTokenEmbedder(music_dim, music_token_dim, music_conditions, beat_phase)
        self.background = DirectLatents()  # how latents of frames become the diffused ones, and back
        if background_residual:
            self.background = BackgroundResidual(
                latent_channels,
                self.unet.conv_in.out_channels,
                predict_regions=predict_regions,
                num_context_frames=num_context_frames,
            )
        self.num_context_frames = num_context_frames if use_motion_modules else 0
        self.resolution, self.num_frames, self.fps = resolution, num_frames, Fraction(str(fps))
        self.default_sampling, self.adain_strength = SamplingParams(**sampler), adain_strength
        self.use_music = True  # set by `configure`

    @property
    def noise_schedule(self) -> DDPMScheduler:
        """The noise schedule of the diffused latents, or of their difference to the background."""
        return make_noise_schedule(**self.noise_schedule_config)

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.codec.device

    @classmethod
    def upgrade(
        cls, config: dict[str, Any], state_dict: dict[str, Tensor], version: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Family`."""
        return (upgrade_config(config), upgrade_state_dict(state_dict)) if version < 2 else (config, state_dict)

    def load_pretrained(self, path: str) -> LoadReport:
        """Load Stable Diffusion's U-Net or autoencoder, AnimateDiff's motion module, Moore's or Champ's networks.

        Parameters that a file does not hold stay as they are, so several files are loaded one after the other. Raises
        ValueError, with nothing loaded, when anything else is missing or unexpected.
        """
        conversion = find_converter(read_weights(path), self.state_dict(), MODULE_PREFIXES)
        if conversion is None:
            return load_strict(self, path)
        convert, allowed_missing = conversion
        return load_strict(self, path, convert, allowed_missing=allowed_missing)

    def predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, reference: ReferenceContext) -> Tensor:
        """Return the network output for noisy residuals x (B, C, F, h, w) at steps t (B,), given B references."""
        return self.predict_with_regions(x, t, conditioning, reference)[0]

    def predict_with_regions(
        self, x: Tensor, t: Tensor, conditioning: Conditioning, reference: ReferenceContext
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output of `predict`, and the logits of the regions (B, 9, F, h, w), of `apply_region_head`."""
        model_output = self.unet(x, t, conditioning, self.background.reference_condition(reference, x))
        return self.background.apply_region_head(model_output, t, reference, self.noise_schedule)

    def find_boxes(self, images: Tensor) -> Tensor:
        """Boxes (N, 3) about the figures in images (N, 3, H, W) in [-1, 1], see `detect_figure_boxes`."""
        segmenter = self.background.figure_segmenter
        assert segmenter is not None and self.figure_crop is not None, "a family with `figure_crop`"
        return detect_figure_boxes(images, self.codec, segmenter, self.figure_crop.scale)

    def add_pose_mask(self, latents: Tensor, parts: Tensor | None) -> Tensor:
        """Eq. 1: add the encoded DensePose parts (N, H, W) of references to their latents (N, C, h, w).

        The mask has two channels: whether there is a body, and the index of its part. Without parts the latents stay as
        they are; the paper always has a detector.
        """
        if parts is None:
            return latents
        mask = torch.stack([(parts > 0).to(latents.dtype), parts.to(latents.dtype) / NUM_PARTS], 1)
        return latents + self.mask_encoder(mask)

    def embed_music(self, music: Tensor, rate: float, beats: Tensor, beat_phase: Tensor) -> dict[str, Tensor]:
        """Return the music tokens of a window by the names of the modules that attend to them.

        music (B, L, D) at `rate` Hz from the window's first frame on; beats (B, F), beat_phase (B, F, 2).
        """
        # of the tokens, in frames of the window
        token_positions = torch.arange(music.shape[1], device=music.device) * (float(self.fps) / rate)
        return self.music_token_embedder(self.music_scale(music), token_positions, beats, beat_phase)

    def configure(self, options: Mapping[str, Any]) -> None:
        """See `Family`. use_music: false leaves out the music branch: its tokens are zero, as in unguided samples."""
        for name in set(options) - {"use_music"}:
            raise ValueError(f"{name}= is not an option of musedance")
        self.use_music = bool(options.get("use_music", self.use_music))

    def ablations(self) -> dict[str, dict[str, Any]]:
        """See `Family`."""
        return {"without music": {"use_music": False}}

    def denoisers(self) -> list[nn.Module]:
        """See `Family`."""
        return [self.unet, self.reference_net]

    def truncated_prompt_end(self, prompt: str) -> str:
        """See `Family`."""
        return self.text_encoder.truncated_end(prompt)

    def generate(self, request: GenerationRequest) -> Iterator[Tensor]:
        """Yield blocks (F, 3, resolution, resolution) uint8 of a dance of the image's figure, by windows (sec. 3.3).

        Each window is conditioned on the last `num_context_frames` frames of the previous one. Windows are denoised at
        the family's own rate; at another one each moment shows the nearest frame. Raises ValueError without an image,
        and for one without a figure.
        """
        if request.image is None:
            raise ValueError("musedance animates an image: give image=FILE")
        num_frames, fps = request.num_frames, request.fps
        sampling = request.sampling.with_defaults(self.default_sampling)
        image = pad_to_square(request.image, self.resolution).to(self.device).float()[None] / 127.5 - 1
        pasted_crop = self._crop_figure(image)
        image = image if pasted_crop is None else pasted_crop.crop
        image_latents = self.codec.encode(image)
        reference = self.background.encode_reference(image_latents)
        reference = self.background.with_pixel_residual(reference, image, self.codec)
        if reference.foreground_mask is not None and reference.foreground_mask.max() < MIN_FIGURE_PROB:
            raise ValueError("image=: no figure was detected in it; use an image of a person or another figure")
        text = self.text_encoder([request.prompt]).to(self.device)
        reference_features = self.reference_net(image_latents, text=text)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        context_latents, num_done, window_index = None, 0, 0
        while num_done < num_frames:
            start = window_index * self.num_frames
            music_tokens = self._music_tokens_at(request.music, start)
            conditioning = self._encode_conditions(text, reference_features, context_latents, music_tokens, sampling)
            window_reference = reference
            if context_latents is not None:
                window_reference = self.background.with_context(reference, context_latents.movedim(0, 1)[None])
            latents = self._sample_window(conditioning, window_reference, generator, sampling)
            latents = match_channel_statistics(latents, image_latents, self.adain_strength)
            context_latents = latents[-self.num_context_frames :] if self.num_context_frames else None
            # the frame of this window that is nearest to each video frame up to the window's end
            stop = min(num_frames, ceil((start + self.num_frames - Fraction(1, 2)) * fps / self.fps))
            nearest_frames = [round(frame * self.fps / fps) - start for frame in range(num_done, stop)]
            # a tie may be rounded out of the window
            nearest_frames = [min(max(frame, 0), self.num_frames - 1) for frame in nearest_frames]
            for batch_start in range(0, len(nearest_frames), VAE_BATCH):
                batch_frames = nearest_frames[batch_start : batch_start + VAE_BATCH]
                distinct_frames = sorted(set(batch_frames))
                frame_latents = latents[distinct_frames]
                pixel_residual = self.background.frame_pixel_residual(frame_latents, reference)
                frames = self.codec.decode(frame_latents, pixel_residual)
                if pasted_crop is not None:
                    frames = pasted_crop.paste(frames, self.background.background_mask(frame_latents, reference))
                yield frames[[distinct_frames.index(frame) for frame in batch_frames]]
            num_done, window_index = stop, window_index + 1

    def reconstruct(self, image: Tensor, frames: Tensor) -> Iterator[Tensor]:
        """See `Family`."""
        return reconstruct_frames(self.codec, self.background, image, frames, self.resolution, self._crop_figure)

    def _crop_figure(self, image: Tensor) -> PastedCrop | None:
        """The part of an image (1, 3, H, W) that is diffused; None: all of it."""
        return crop_figure(image, self.codec, self.background.figure_segmenter, self.figure_crop)

    def _music_tokens_at(self, music: MusicFeatures, start: int) -> dict[str, Tensor]:
        """Return the music tokens of the window that begins at own frame `start`."""
        rate, fps = float(music.rate), float(self.fps)
        num_tokens = ceil(self.num_frames / fps * rate)
        token_indices = (torch.arange(num_tokens) + round(start / fps * rate)).clamp(max=len(music.features) - 1)
        frame_times = (start + np.arange(self.num_frames)) / fps
        beat_flags = beats_to_frames(music.beats.times - start / fps, self.num_frames, self.fps)
        beats, phase = torch.from_numpy(beat_flags), torch.from_numpy(beat_phase(music.beats.times, frame_times))
        features = music.features[token_indices.to(music.features.device)].to(self.device)
        tokens = self.embed_music(features[None], rate, beats[None].to(self.device), phase[None].to(self.device))
        return tokens if self.use_music else {name: torch.zeros_like(value) for name, value in tokens.items()}

    def _encode_conditions(
        self,
        text: Tensor,
        reference_features: Sequence[Tensor],
        context_latents: Tensor | None,
        music_tokens: Mapping[str, Tensor],
        sampling: SamplingParams,
    ) -> Conditioning:
        """Precompute the U-Net's conditions for one window; with guidance for two samples, the second without text and
        music.

        reference_features: of the ReferenceNet for the image. context_latents (M, C, h, w): of the last frames of the
        previous window; None for the first window.
        """
        context_features: list[Tensor] = []
        if context_latents is not None:
            features = self.reference_net(context_latents, text=text.expand(len(context_latents), -1, -1))
            context_features = [feature[None] for feature in features]
        if sampling.guidance_scale != 1:
            text = torch.cat([text, self.text_encoder([""]).to(text)])
            music_tokens = {
                name: torch.cat([tokens, torch.zeros_like(tokens)]) for name, tokens in music_tokens.items()
            }
            reference_features = [feature.expand(2, *feature.shape[1:]) for feature in reference_features]
            context_features = [feature.expand(2, *feature.shape[1:]) for feature in context_features]
        return self.unet.precompute_conditioning(text, reference_features, context_features, music_tokens)

    def _sample_window(
        self,
        conditioning: Conditioning,
        reference: ReferenceContext,
        generator: torch.Generator,
        sampling: SamplingParams,
    ) -> Tensor:
        """Sample the latents (K, C, h, w) of one window, given one reference."""
        sampler = make_sampler(self.noise_schedule, sampling.num_inference_steps)
        guidance_scale = sampling.guidance_scale
        shape = (1, reference.latents.shape[1], self.num_frames, *reference.latents.shape[2:])
        guided_reference = reference.map(lambda tensor: tensor.expand(2, *tensor.shape[1:]))

        def predict(x: Tensor, t: Tensor) -> Tensor:
            if guidance_scale == 1:
                return self.predict(x, t, conditioning, reference).float()
            inputs = x.repeat(2, 1, 1, 1, 1)
            cond_features = self.background.reference_condition(guided_reference, inputs)
            model_output = self.unet(inputs, t.repeat(2), conditioning, cond_features).float()
            conditional, unconditional = model_output.chunk(2)
            # before the regions are composited: guided colors would leave the figure's own range
            guided_output = unconditional + guidance_scale * (conditional - unconditional)
            return self.background.apply_region_head(guided_output, t, reference, self.noise_schedule)[0]

        def draw_noise() -> Tensor:
            return torch.randn(shape, generator=generator).to(self.device)

        denoiser = Denoiser(predict, self.noise_schedule)
        residual = sample(denoiser, draw_noise(), sampler, draw_noise, sampling.eta, clamp=None)
        return rearrange(self.background.from_residual(residual, reference)[0], "c f h w -> f c h w")


def match_channel_statistics(latents: Tensor, reference: Tensor, strength: float) -> Tensor:
    """Move mean and standard deviation of each channel of latents (K, C, h, w) to those of a reference (1, C, h, w).

    strength: how far, 0..1 (AdaIN, Huang and Belongie 2017). It is a remedy for colors that drift from window to
    window, which the paper admits (sec. 6). It assumes that frames show about as much of everything as the reference.
    """
    if not strength:
        return latents
    mean, std = latents.mean((0, 2, 3), keepdim=True), latents.std((0, 2, 3), keepdim=True)
    target_mean, target_std = reference.mean((0, 2, 3), keepdim=True), reference.std((0, 2, 3), keepdim=True)
    return torch.lerp(latents, (latents - mean) / std.clamp(min=1e-6) * target_std + target_mean, strength)
