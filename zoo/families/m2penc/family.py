"""M2PEnc: music becomes pose guidance, which guides latent diffusion of the image's figure (sec. 3)."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor, nn

from zoo.diffusion.constraints import ReplaceKnownFrames
from zoo.diffusion.denoiser import Denoiser, add_noise
from zoo.diffusion.samplers import make_sampler, sample
from zoo.diffusion.schedules import make_noise_schedule
from zoo.families.base import Family, GenerationRequest, SamplingParams
from zoo.families.latent.background import BackgroundResidual, DirectLatents, ReferenceContext, reconstruct_frames
from zoo.families.latent.codec import VAE_BATCH, LatentCodec
from zoo.families.latent.figure_crop import PastedCrop, crop_figure, parse_figure_crop
from zoo.families.m2penc.guidance import (
    PUBLIC_FILE_KINDS,
    GuidanceEncoder,
    GuidanceEncoders,
    from_champ,
    guidance_kinds,
)
from zoo.families.m2penc.image_encoder import ImageEncoder
from zoo.families.m2penc.musedance_file import SHARED_NETWORKS, from_musedance, is_musedance
from zoo.families.m2penc.music_to_pose import MusicToPose, SpaceTimeBlock, expected_joints, frame_features
from zoo.families.m2penc.placement import find_placement
from zoo.music.beats import beat_phase as beat_phase_at
from zoo.music.encoder import MusicFeatures
from zoo.music.normalizer import FeatureNormalizer
from zoo.nn.figure_segmentation import BODY_REGIONS
from zoo.nn.square_image import pad_to_square
from zoo.nn.temporal import MotionModule
from zoo.nn.vae import build_vae
from zoo.nn.video_unet.blocks import SpatialTransformer, VideoResnetBlock
from zoo.nn.video_unet.conditioning import Conditioning
from zoo.nn.video_unet.reference_net import ReferenceNet
from zoo.nn.video_unet.unet import VideoUNet
from zoo.nn.weights.layouts import ModulePrefixes, find_converter
from zoo.nn.weights.loading import LoadReport, load_strict, read_weights, unwrap_state_dict

MODULE_PREFIXES = ModulePrefixes(vae="codec.vae.")
NUM_JOINTS = 24  # SMPL's
STRETCH_OVERLAP = 6  # a sixth of the music-to-pose network's frames
MIN_FIGURE_PROB = 0.1  # an image in which no latent is more likely to show a figure is refused


class M2PEnc(Family):
    """All networks of M2PEnc."""

    guidance_std: Tensor
    guidance_mean: Tensor
    heatmap_mean: Tensor

    can_reconstruct = True
    activation_units = (VideoResnetBlock, SpatialTransformer, MotionModule, SpaceTimeBlock, GuidanceEncoder)

    def __init__(
        self,
        *,
        music_dim: int,  # D, of one token of the music encoder
        setup: str,  # kinds of guidance maps: dns, p or pdns (Table 3)
        image_encoder: ImageEncoder,  # its token takes the place of text
        vae: Mapping[str, Any],  # arguments of the autoencoder
        unet: Mapping[str, Any],  # arguments of `VideoUNet`
        guidance_encoder: Mapping[str, Any],  # channels, num_attention_heads and norm_num_groups, for each kind
        music_to_pose: Mapping[str, Any],  # arguments of `MusicToPose`
        beat_phase: bool,  # give the beat's phase to the music-to-pose network too (not in the paper)
        background_residual: bool,  # diffuse the difference to the reference's background (not in the paper)
        predict_regions: bool,  # with it, the U-Net segments the figure's regions too (not in the paper)
        resolution: int,  # pixels per side of the square image
        num_music_frames: int,  # N, that the music-to-pose network takes at once
        num_frames: int,  # of one window of the U-Net
        num_context_frames: int,  # of a window, that are the last ones of the previous window
        prior_timestep: int | None,  # a window begins from its context, noised to this step (UniAnimate); None: noise
        fps: float,  # of guidance and windows
        noise_schedule: Mapping[str, Any],  # arguments of `make_noise_schedule`
        sampler: Mapping[str, Any],  # num_inference_steps, guidance_scale, eta
        figure_crop: Mapping[str, Any]
        | None = None,  # of an image to animate: arguments of `FigureCropConfig`, or none
    ):
        """Raises ValueError for another setup or noise schedule, for windows no longer than the context, and for wrong
        options of the crop.
        """
        super().__init__()
        self.figure_crop = parse_figure_crop(figure_crop, resolution, background_residual)
        make_noise_schedule(**noise_schedule)  # refuses wrong values
        kinds = guidance_kinds(setup)
        if not 0 <= num_context_frames < num_frames <= num_music_frames:
            raise ValueError(
                f"num_context_frames={num_context_frames}, num_frames={num_frames}, "
                f"num_music_frames={num_music_frames}: each must be below the next one"
            )
        self.noise_schedule_config = dict(noise_schedule)
        self.image_encoder = image_encoder
        self.codec = LatentCodec(build_vae(**vae))
        latent_channels = self.codec.latent_channels
        shared = dict(unet) | {"latent_channels": latent_channels, "text_dim": image_encoder.dim}
        self.reference_net = ReferenceNet(**shared | {"dropout": 0.0})
        has_region_head = background_residual and predict_regions
        self.unet = VideoUNet(
            **shared,
            use_motion_modules=True,
            motion_in_middle=True,
            extra_out_channels=1 + len(BODY_REGIONS) if has_region_head else 0,
        )
        guidance_channels = self.unet.conv_in.out_channels
        self.guidance_encoders = GuidanceEncoders(kinds, out_channels=guidance_channels, **guidance_encoder)
        self.music_scale = FeatureNormalizer(music_dim)
        self.use_beat_phase = beat_phase
        self.music_to_pose = MusicToPose(
            music_dim=music_dim + 2 * beat_phase,
            guidance_channels=guidance_channels,
            num_joints=NUM_JOINTS,
            **music_to_pose,
        )
        # the music-to-pose network predicts guidance in units of it; 1 until a stage estimates it
        self.register_buffer("guidance_std", torch.tensor(1.0))
        # its outputs are deviations from these means; 0 until a stage estimates them
        grid = (self.music_to_pose.grid_size,) * 2
        self.register_buffer("guidance_mean", torch.zeros(guidance_channels, 1, *grid))
        self.register_buffer("heatmap_mean", torch.zeros(NUM_JOINTS, 1, *grid))  # logits
        self.background = DirectLatents()
        if background_residual:
            self.background = BackgroundResidual(
                latent_channels, guidance_channels, predict_regions=predict_regions, num_context_frames=0
            )
        self.resolution, self.fps = resolution, Fraction(str(fps))
        self.num_music_frames, self.num_frames = num_music_frames, num_frames
        self.num_context_frames, self.prior_timestep = num_context_frames, prior_timestep
        self.default_sampling = SamplingParams(**sampler)

    @property
    def noise_schedule(self) -> DDPMScheduler:
        """The noise schedule of the diffused residuals."""
        return make_noise_schedule(**self.noise_schedule_config)

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.codec.device

    def denoisers(self) -> list[nn.Module]:
        """See `Family`."""
        return [self.unet, self.reference_net]

    def load_pretrained(self, path: str) -> LoadReport:
        """Load Stable Diffusion's U-Net or autoencoder, Champ's networks, or a file of this family or of MuseDance.

        Of MuseDance's file the networks that both families have are taken, see `from_musedance`. Champ's four guidance
        encoders have equal names and shapes: the file's name tells the kind. Parameters that a file does not hold stay
        as they are. Raises ValueError, with nothing loaded, when anything else is missing or unexpected.
        """
        contents = read_weights(path)
        if _is_guidance_encoder(contents):
            kind = _kind_of_file(path)
            prefix = f"guidance_encoders.encoders.{kind}."
            if kind not in self.guidance_encoders.kinds:
                raise ValueError(f"{path}: this setup has no guidance encoder for {kind}")
            allowed_missing = tuple(name for name in self.state_dict() if not name.startswith(prefix))
            convert = lambda file: from_champ(unwrap_state_dict(file), prefix)  # noqa: E731
            return load_strict(self, path, convert, allowed_missing=allowed_missing)
        family_state = self.state_dict()
        if is_musedance(contents):
            own_names = tuple(name for name in family_state if not name.startswith(SHARED_NETWORKS))
            convert = lambda file: from_musedance(file, family_state)  # noqa: E731
            return load_strict(self, path, convert, allowed_missing=own_names)
        converter = find_converter(contents, family_state, MODULE_PREFIXES)
        if converter is None:
            return load_strict(self, path, allowed_missing=("music_to_pose.joint_guidance.",))
        convert, allowed_missing = converter
        return load_strict(self, path, convert, allowed_missing=allowed_missing)

    # Music to pose -----------------------------------------------------------------------------------------------

    def encode_music(self, music: Tensor, rate: float, times: Tensor, beat_phase: Tensor) -> tuple[Tensor, Tensor]:
        """Music (B, L, D) at `rate` Hz -> guidance (B, C, N, G, G) and heat-map logits (B, 24, N, G, G) of frames.

        times (N,): of the frames, in seconds from the first token; beat_phase (B, N, 2): at these times.
        """
        tokens = frame_features(self.music_scale(music), rate, times)
        if self.use_beat_phase:
            tokens = torch.cat([tokens, beat_phase.to(tokens)], -1)
        guidance, logits = self.music_to_pose(tokens, self.heatmap_mean)
        return guidance * self.guidance_std + self.guidance_mean, logits

    def _encode_stretch(self, music: MusicFeatures, start: int) -> tuple[Tensor, Tensor]:
        """Guidance (C, N, G, G) and joints (N, 24, 2) in pixels of own frames start .. start + N - 1."""
        frame_times = (start + np.arange(self.num_music_frames)) / float(self.fps)
        phase = torch.from_numpy(beat_phase_at(music.beats.times, frame_times))[None].to(self.device)
        features, times = music.features[None].to(self.device), torch.from_numpy(frame_times)
        guidance, logits = self.encode_music(features, float(music.rate), times, phase)
        joints = expected_joints(logits[0]).movedim(0, 1) * (self.resolution / logits.shape[-1])
        return guidance[0], joints

    @torch.no_grad()  # as a decorator it holds inside the generator only, not between its yields
    def stream_guidance(self, music: MusicFeatures) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield guidance (C, G, G) and joints (24, 2) in pixels of one own frame after the other, without end.

        The network takes stretches of N frames (sec. 3.1: 5 s). The last N // STRETCH_OVERLAP frames of one fade into
        the first ones of the next: poses of consecutive stretches would jump. The overlap is short, because the mean of
        two poses is neither. The paper leaves longer songs open.
        """
        num_frames, stretch_index = self.num_music_frames, 0
        overlap = num_frames // STRETCH_OVERLAP
        hop = num_frames - overlap
        previous_stretch: tuple[Tensor, Tensor] | None = None
        while True:
            current_stretch = self._encode_stretch(music, stretch_index * hop)
            for frame in range(hop):
                guidance, joints = current_stretch[0][:, frame], current_stretch[1][frame]
                if previous_stretch is not None and frame < overlap:
                    weight = (frame + 1) / (overlap + 1)
                    guidance = torch.lerp(previous_stretch[0][:, hop + frame], guidance, weight)
                    joints = torch.lerp(previous_stretch[1][hop + frame], joints, weight)
                yield guidance, joints
            previous_stretch, stretch_index = current_stretch, stretch_index + 1

    def generate_joints2d(self, request: GenerationRequest) -> Tensor:
        """Choreography without images: joints (F, 24, 2), pixels (x right, y down) of a resolution^2 image.

        F = request.num_frames at request.fps; between own frames joints are interpolated. Image and prompt are ignored.
        """
        positions = [index * self.fps / request.fps for index in range(request.num_frames)]
        guidance_stream = self.stream_guidance(request.music)
        joints = torch.stack([next(guidance_stream)[1] for _ in range(ceil(positions[-1]) + 1)]).cpu()
        lower = torch.tensor([int(position) for position in positions])
        weight = torch.tensor([float(position - int(position)) for position in positions])
        upper = (lower + 1).clamp(max=len(joints) - 1)
        return torch.lerp(joints[lower], joints[upper], weight[:, None, None])

    # Guided latent diffusion -------------------------------------------------------------------------------------

    def predict(
        self, x: Tensor, t: Tensor, conditioning: Conditioning, reference: ReferenceContext, guidance: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the network output for noisy residuals x (B, C, F, h, w) at steps t (B,), and regions' logits or None.

        guidance (B, C0, F, G, G) is added after the first convolution (sec. 3.3), resized where G is not h.
        """
        cond_features = self.resize_guidance(guidance, x.shape[3:])
        reference_features = self.background.reference_condition(reference, x)
        if reference_features is not None:
            cond_features = cond_features + reference_features
        model_output = self.unet(x, t, conditioning, cond_features)
        return self.background.apply_region_head(model_output, t, reference, self.noise_schedule)

    @torch.no_grad()
    def _placed_guidance(self, music: MusicFeatures, reference: ReferenceContext) -> Iterator[Tensor]:
        """Yield guidance of one own frame after the other, at the place of the image's figure: (C, h, w).

        The place is that of the first frames: of half a stretch. Where no figure is detected, and at size=paper, which
        has no segmenter, the guidance stays where the data had it (sec. 6): (C, G, G).
        """
        stream, size = self.stream_guidance(music), tuple(reference.latents.shape[2:])
        first_frames = [next(stream) for _ in range(max(1, self.num_music_frames // 2))]
        placement = None
        if self.background.figure_segmenter is not None and self.background.predict_regions:
            joints = torch.stack([joints for _, joints in first_frames]) / self.resolution
            mask, regions = self.background.figure_segmenter(reference.latents)
            placement = find_placement(joints, mask[0, 0], regions[0])
        for guidance, _ in chain(first_frames, stream):
            yield guidance if placement is None else placement.apply(guidance[None], size)[0]

    def resize_guidance(self, guidance: Tensor, size: Sequence[int]) -> Tensor:
        """(B, C, F, G, G) -> (B, C, F, *size), bilinear."""
        if guidance.shape[3:] == torch.Size(size):
            return guidance
        frames = guidance.movedim(2, 1).flatten(0, 1)
        resized = F.interpolate(frames, tuple(size), mode="bilinear", align_corners=False)
        return resized.unflatten(0, (len(guidance), -1)).movedim(1, 2)

    def generate(self, request: GenerationRequest) -> Iterator[Tensor]:
        """Yield blocks (F, 3, resolution, resolution) uint8 of a dance of the image's figure, by windows.

        Windows follow each other and share `num_context_frames` frames: the first of them is kept, the others are
        blended, so that the picture does not jump. They are denoised at the family's own rate; at another one each
        moment shows the nearest frame. Raises ValueError without an image, and for one without a figure.
        """
        if request.image is None:
            raise ValueError("m2penc animates an image: give image=FILE")
        sampling = request.sampling.with_defaults(self.default_sampling)
        image = pad_to_square(request.image, self.resolution).to(self.device).float()[None] / 127.5 - 1
        pasted_crop = self._crop_figure(image)
        image = image if pasted_crop is None else pasted_crop.crop
        latents = self.codec.encode(image)
        reference = self.background.encode_reference(latents)
        reference = self.background.with_pixel_residual(reference, image, self.codec)
        if reference.foreground_mask is not None and reference.foreground_mask.max() < MIN_FIGURE_PROB:
            raise ValueError("image=: no figure was detected in it; use an image of a person or another figure")
        conditioning = self._encode_image(image, latents, sampling)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        guidance_frames = self._placed_guidance(request.music, reference)
        guidance: list[Tensor] = []
        context, num_frames_done, window_start = None, 0, 0
        while num_frames_done < request.num_frames:
            num_known = 0 if context is None else context.shape[2]
            guidance = guidance[len(guidance) - num_known :]
            guidance += [next(guidance_frames) for _ in range(self.num_frames - len(guidance))]
            window_guidance = torch.stack(guidance, 1)[None]
            residual = self._sample_window(conditioning, reference, window_guidance, context, generator, sampling)
            context = residual[:, :, self.num_frames - self.num_context_frames :] if self.num_context_frames else None
            frame_latents = self.background.from_residual(residual, reference)[0].movedim(0, 1)
            # the moments nearest to this window's frames, without those that the next window will blend
            num_final_frames = self.num_frames - max(self.num_context_frames - 1, 0)
            end = ceil((window_start + num_final_frames - Fraction(1, 2)) * request.fps / self.fps)
            stop = min(request.num_frames, end)
            nearest_frames = [
                round(index * self.fps / request.fps) - window_start for index in range(num_frames_done, stop)
            ]
            nearest_frames = [min(max(index, 0), self.num_frames - 1) for index in nearest_frames]
            for batch_start in range(0, len(nearest_frames), VAE_BATCH):
                batch_frames = nearest_frames[batch_start : batch_start + VAE_BATCH]
                distinct_frames = sorted(set(batch_frames))
                shown_latents = frame_latents[distinct_frames]
                pixel_residual = self.background.frame_pixel_residual(shown_latents, reference)
                frames = self.codec.decode(shown_latents, pixel_residual)
                if pasted_crop is not None:
                    frames = pasted_crop.paste(frames, self.background.background_mask(shown_latents, reference))
                yield frames[[distinct_frames.index(index) for index in batch_frames]]
            num_frames_done, window_start = stop, window_start + self.num_frames - self.num_context_frames

    def reconstruct(self, image: Tensor, frames: Tensor) -> Iterator[Tensor]:
        """See `Family`."""
        return reconstruct_frames(self.codec, self.background, image, frames, self.resolution, self._crop_figure)

    def _crop_figure(self, image: Tensor) -> PastedCrop | None:
        """The part of an image (1, 3, H, W) that is diffused; None: all of it.

        In the data, all figures have about one size and place; the crop gives them to the image's figure.
        """
        return crop_figure(image, self.codec, self.background.figure_segmenter, self.figure_crop)

    def _encode_image(self, image: Tensor, latents: Tensor, sampling: SamplingParams) -> Conditioning:
        """The U-Net's conditions, once per request; with guidance for two samples, the second without the image."""
        token = self.image_encoder(image, latents)
        features = self.reference_net(latents, text=token)
        if sampling.guidance_scale != 1:
            token = torch.cat([token, torch.zeros_like(token)])
        return self.unet.precompute_conditioning(token, features)

    def _sample_window(
        self,
        conditioning: Conditioning,
        reference: ReferenceContext,
        guidance: Tensor,
        context: Tensor | None,
        generator: torch.Generator,
        sampling: SamplingParams,
    ) -> Tensor:
        """Sample the residual (1, C, F, h, w) of one window. context (1, C, M, h, w): the previous window's
        last frames, which are this window's first ones.
        """
        sampler = make_sampler(self.noise_schedule, sampling.num_inference_steps)
        scale = sampling.guidance_scale
        shape = (1, reference.latents.shape[1], self.num_frames, *reference.latents.shape[2:])

        def predict(x: Tensor, t: Tensor) -> Tensor:
            if scale == 1:
                return self.predict(x, t, conditioning, reference, guidance)[0].float()
            inputs, features = x.repeat(2, 1, 1, 1, 1), self.resize_guidance(guidance, x.shape[3:])
            features = features.expand(2, -1, -1, -1, -1)  # the pose guides both halves, the image the first one
            reference_features = self.background.reference_condition(reference, inputs)
            if reference_features is not None:
                features = features + reference_features
            conditional, unconditional = self.unet(inputs, t.repeat(2), conditioning, features).float().chunk(2)
            # before the regions are composited: guided colors would leave the figure's own range
            output = unconditional + scale * (conditional - unconditional)
            return self.background.apply_region_head(output, t, reference, self.noise_schedule)[0]

        def draw_noise() -> Tensor:
            return torch.randn(shape, generator=generator).to(self.device)

        denoiser = Denoiser(predict, self.noise_schedule)
        noise = x = draw_noise()
        constraint = None
        if context is not None:
            if self.prior_timestep is not None:
                timesteps = torch.tensor([self.prior_timestep], device=self.device)
                x = add_noise(context[:, :, -1:].expand(shape), noise, timesteps, self.noise_schedule)
            constraint = ReplaceKnownFrames.first_frames(context[:, :, :1], noise, denoiser)
            x = constraint(x, int(sampler.timesteps[0]), -1)
        residual = sample(denoiser, x, sampler, draw_noise, sampling.eta, constraint, clamp=None)
        if context is not None:
            num_context = context.shape[2]
            weights = torch.arange(num_context, device=residual.device) / num_context  # of the new window
            blended = torch.lerp(context, residual[:, :, :num_context], weights[:, None, None])
            residual = torch.cat([blended, residual[:, :, num_context:]], 2)
        return residual


def _is_guidance_encoder(contents: Any) -> bool:
    state_dict = unwrap_state_dict(contents)
    return "blocks.0.weight" in state_dict and any(name.startswith("guidance_attention.") for name in state_dict)


def _kind_of_file(path: str) -> str:
    stem = Path(path).stem
    for public_name, kind in PUBLIC_FILE_KINDS.items():
        if stem == f"guidance_encoder_{public_name}":
            return kind
    file_names = ", ".join(f"guidance_encoder_{name}.pth" for name in PUBLIC_FILE_KINDS)
    raise ValueError(f"{path}: a guidance encoder's kind is in its name; call the file one of {file_names}")
