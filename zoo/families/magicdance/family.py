"""MagicDance: a song becomes body motion (EDGE's diffuser), body motion becomes a video of a dancer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from hydra.utils import get_class
from torch import Tensor, nn

from zoo.batch import MOTION_FPS
from zoo.body.skeleton import Normalizer, resample
from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.guidance import ClassifierFreeGuidance, guidance_ramp
from zoo.diffusion.samplers import make_sampler
from zoo.diffusion.schedules import cosine_schedule
from zoo.families.base import Family, FrameStream, GenerationRequest, MotionGenerator, SamplingParams
from zoo.families.latent.upgrade import RENAMED_LATENT_MODULES_V1, rename_modules
from zoo.families.magicdance.dance_decoder import DanceDecoder, EncoderLayer
from zoo.families.magicdance.long_form import (
    HOP_FRAMES,
    WINDOW_FRAMES,
    MotionMask,
    crossfade,
    ease_edges,
    long_form,
    num_windows,
    resample_music,
)
from zoo.families.magicdance.motions.diffusion import DiffusionMotion
from zoo.families.magicdance.motions.edit import EditedMotion, KeptPart
from zoo.families.magicdance.renderers.animator import Animator, upgrade_animator
from zoo.families.magicdance.renderers.mesh import MeshRenderer
from zoo.families.renderer import Renderer
from zoo.music.beats import beat_phase
from zoo.music.encoder import MusicFeatures
from zoo.music.normalizer import FeatureNormalizer
from zoo.nn.temporal import MotionModule
from zoo.nn.video_unet.blocks import SpatialTransformer, VideoResnetBlock
from zoo.nn.weights.layouts import ModulePrefixes, find_converter
from zoo.nn.weights.loading import LoadReport, load_strict, read_weights, unwrap_state_dict

MODULE_PREFIXES = ModulePrefixes(
    vae="animator.codec.vae.",
    unet="animator.unet.",
    reference="animator.appearance_encoder.",
    controlnet="animator.controlnet.",
)
WINDOWS_PER_BATCH = 4  # denoised together
RENAMED_MODULES_V1 = {  # path of a module in a state dict of config_version 1 -> today's
    "decoder": "motion_denoiser",
    **{f"animator.{old}": f"animator.{new}" for old, new in RENAMED_LATENT_MODULES_V1.items()},
    "animator.appearance": "animator.appearance_encoder",
    "animator.face.ready": "animator.face.mlp",
}
EDGE_CLASSES = ("dataset.preprocess.Normalizer", "dataset.scaler.MinMaxScaler")  # pickled in its checkpoints


class MagicDance(Family, MotionGenerator):
    """All networks of MagicDance: the motion diffuser of EDGE and, where it is trained, a renderer's."""

    activation_units = (EncoderLayer, VideoResnetBlock, SpatialTransformer, MotionModule)
    optional_parts = {"animator": "renderer=diffusion"}
    can_render_motion = True

    def __init__(
        self,
        *,
        music_dim: int,  # D, of one token of the music encoder
        dance_decoder: Mapping[str, Any],  # dim, ff_dim, layers, heads and dropout of `DanceDecoder`
        beat_phase: bool,  # condition on the beat's phase too (not in the paper); EDGE learns it from the features
        mesh_resolution: int,  # pixels per side of the video that a mesh is drawn in
        sampler: Mapping[str, Any],  # num_inference_steps, guidance_scale and eta of motion
        animator: Animator | None,  # networks of renderer=diffusion
        default_renderer: str | None = None,  # None: diffusion where it was trained, else auto
    ):
        super().__init__()
        if default_renderer not in (None, "auto", *self._trained_renderers(animator)):
            raise ValueError(f"default_renderer={default_renderer}: it is null, auto, or a renderer that was trained")
        self._default_renderer = default_renderer
        self.beat_phase_dim = 2 if beat_phase else 0
        self.motion_denoiser = DanceDecoder(
            music_dim + self.beat_phase_dim, **dance_decoder, beat_phase_dim=self.beat_phase_dim
        )
        self.normalizer = Normalizer()
        self.music_scale = FeatureNormalizer(music_dim)
        if not isinstance(mesh_resolution, int) or not 16 <= mesh_resolution <= 4096:
            raise ValueError(f"mesh_resolution={mesh_resolution}: it is a whole number from 16 to 4096")
        self.mesh_height = self.mesh_width = mesh_resolution
        self.renderer: Renderer = MeshRenderer(mesh_resolution, mesh_resolution)
        self.motion_generator: MotionGenerator = DiffusionMotion(self)
        self.animator = animator
        self.default_sampling = SamplingParams(**sampler)

    @property
    def noise_schedule(self) -> DDPMScheduler:
        """The noise schedule of the motion diffuser; its network predicts x0."""
        return cosine_schedule("sample")

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.motion_denoiser.final_layer.weight.device

    def music_condition(
        self, features: Tensor, rate: float, beat_times: Sequence[np.ndarray], num_frames: int, start: int = 0
    ) -> Tensor:
        """(B, num_frames, D) of motion frames start .. start + num_frames - 1; D + 2 values with the beat phase.

        features: (B, L, D) at `rate` Hz; beat_times: of each of the B songs, in seconds.
        """
        condition = self.music_scale(resample_music(features, rate, start, num_frames))
        if not self.beat_phase_dim:
            return condition
        frame_times = np.arange(start, start + num_frames) / MOTION_FPS
        phases = torch.from_numpy(
            np.stack([beat_phase(song_beat_times, frame_times) for song_beat_times in beat_times])
        )
        return torch.cat([condition, phases.to(condition)], dim=-1)

    def generate_motion(
        self, music: MusicFeatures, num_frames: int, seed: int, sampling: SamplingParams, prompt: str = ""
    ) -> Iterator[Tensor]:
        """Blocks (T, 151) of motion, `num_frames` in all, by the chosen generator; the diffuser if none is chosen."""
        return self.motion_generator.generate_motion(music, num_frames, seed, sampling, prompt)

    @property
    def available_frames(self) -> int | None:
        """See MotionGenerator."""
        return self.motion_generator.available_frames

    def notes(self, music: MusicFeatures, prompt: str) -> list[str]:
        """See MotionGenerator."""
        return self.motion_generator.notes(music, prompt)

    def sample_motion(
        self, music: MusicFeatures, num_frames: int, seed: int, sampling: SamplingParams
    ) -> Iterator[Tensor]:
        """Blocks (T, 151) of motion, `num_frames` in all (EDGE sec. 3, long-form sampling), in constant memory."""
        windows = self._sample_windows(music, num_frames, seed, sampling)
        remaining = num_frames
        for block in crossfade(map(self.normalizer.inverse, windows)):
            yield block[:remaining].cpu()
            remaining -= len(block)
            if remaining <= 0:
                return

    def edit(self, music: MusicFeatures, source: Tensor, mask: Tensor, seed: int, sampling: SamplingParams) -> Tensor:
        """Generate motion (T, 151) that preserves part of a source motion exactly (EDGE sec. 3, "editing").

        source: (T, 151), un-normalised; mask: (T, 151), 1 where the source is preserved. Products of `frame_mask` and
        `joint_mask` give in-betweening, joint-wise editing and continuation. Raises ValueError for other shapes.
        """
        if source.shape != mask.shape or source.ndim != 2:
            raise ValueError(
                f"an edit needs a motion and a mask of one shape (T, 151), not {source.shape}, {mask.shape}"
            )
        source, mask = source.to(self.device), mask.to(self.device)
        motion_mask = MotionMask(self.normalizer(source), mask)
        windows = self._sample_windows(music, len(source), seed, sampling, motion_mask)
        output = torch.cat(list(crossfade(map(self.normalizer.inverse, windows))))[: len(source)]
        return ease_edges(output, source, mask).cpu()

    @torch.no_grad()  # as a decorator it holds inside the generator only, not between its yields
    def _sample_windows(
        self,
        music: MusicFeatures,
        num_frames: int,
        seed: int,
        sampling: SamplingParams,
        motion_mask: MotionMask | None = None,
    ) -> Iterator[Tensor]:
        """Normalised windows that cover `num_frames` motion frames."""
        sampling = sampling.with_defaults(self.default_sampling)
        num_steps, guidance_scale = sampling.num_inference_steps, sampling.guidance_scale
        features, beat_times = music.features[None].to(self.device), [music.beats.times]

        def denoiser_for(window_indices: range) -> ClassifierFreeGuidance:
            conditions = [
                self.music_condition(features, music.rate, beat_times, WINDOW_FRAMES, window_index * HOP_FRAMES)
                for window_index in window_indices
            ]
            conditioning = self.motion_denoiser.guided_condition(torch.cat(conditions))
            denoiser = Denoiser(lambda x, t: self.motion_denoiser(x, conditioning, t).float(), self.noise_schedule)
            return ClassifierFreeGuidance(denoiser, guidance_ramp(guidance_scale, num_steps))

        make_sampler(self.noise_schedule, num_steps)  # refuses an impossible number of steps before any work
        yield from long_form(
            denoiser_for,
            num_windows(num_frames),
            lambda: make_sampler(self.noise_schedule, num_steps),
            sampling.eta,
            seed,
            self.device,
            WINDOWS_PER_BATCH,
            motion_mask,
        )

    @classmethod
    def upgrade(
        cls, config: dict[str, Any], state_dict: dict[str, Tensor], version: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Family`. Version 1 had a flat configuration."""
        decoder_keys = ("dim", "ff_dim", "layers", "heads", "dropout")
        v1_defaults = {"dropout": 0.1, "steps": 50, "guidance": 2.0, "eta": 1.0, "height": 128, "pulse": False}
        old_config = v1_defaults | config
        animator = old_config.get("animator")
        return {
            "_target_": config["_target_"],
            "music_dim": config["music_dim"],
            "dance_decoder": {name: old_config[name] for name in decoder_keys},
            "beat_phase": old_config["pulse"],
            "mesh_resolution": old_config["height"],
            "sampler": {
                "num_inference_steps": old_config["steps"],
                "guidance_scale": old_config["guidance"],
                "eta": old_config["eta"],
            },
            "animator": None if animator is None else upgrade_animator(animator),
        }, rename_modules(state_dict, RENAMED_MODULES_V1)

    def denoisers(self) -> list[nn.Module]:
        """See `Family`: the chosen renderer's networks. Motion takes little time beside them."""
        animator = self.animator
        if animator is None or self.renderer.family_part != "animator":
            return []
        return [animator.unet, animator.controlnet, animator.appearance_encoder]

    def load_pretrained(self, path: str) -> LoadReport:
        """Load a public EDGE checkpoint, its bare `DanceDecoder` state dict, or a file of this family.

        With a renderer also Stable Diffusion's U-Net and autoencoder, and MagicAnimate's appearance encoder, ControlNet
        and temporal attention. Parameters that a file does not hold keep their values, so several files can be loaded.

        EDGE's networks take raw features, which `music_scale` returns before it is fitted. A bare state dict has no
        motion normaliser; training fits it.
        """
        contents = read_weights(path, EDGE_CLASSES)
        if self.animator is not None and not _is_edge(contents):
            conversion = find_converter(contents, self.state_dict(), MODULE_PREFIXES)
            if conversion is not None:
                convert, allowed_missing = conversion
                return load_strict(self, path, convert, allowed_missing=allowed_missing)
        return load_strict(
            self, path, from_edge, EDGE_CLASSES, allowed_missing=("normalizer.", "music_scale.", "animator.")
        )

    @property
    def unused_parts(self) -> tuple[str, ...]:
        """See `Family`."""
        return () if self.animator is None or self.renderer.family_part == "animator" else ("animator",)

    @property
    def default_renderer(self) -> str:
        """Name in conf/renderer of the renderer if none is chosen."""
        return self._default_renderer or next(iter(self.trained_renderers), "auto")

    @property
    def trained_renderers(self) -> tuple[str, ...]:
        """See `Family`."""
        return self._trained_renderers(self.animator)

    @staticmethod
    def _trained_renderers(animator: Animator | None) -> tuple[str, ...]:
        return () if animator is None else ("diffusion",)

    def ablations(self) -> dict[str, dict[str, Any]]:
        """See `Family`."""
        if self.animator is None:
            return {}
        return {"without alignment": {"renderer": {"name": "diffusion", "align": False}}}

    @property
    def default_motion(self) -> str:
        """Name in conf/motion of the generator if none is chosen.

        The choreographer, as measured on twelve real songs (results/magicdance.md).
        """
        return "choreographer"

    def configure(self, options: Mapping[str, Any]) -> None:
        """Choose the renderer and the motion generator.

        motion: the node of conf/motion/NAME.yaml with its options; renderer: that of conf/renderer/NAME.yaml; without a
        node, the choice stays as it is. edit: the part that the diffuser keeps of the chosen motion, see `KeptPart`.
        pose_detector: for renderers that need one; use_fallback: draw a mesh where no figure is found in the image;
        same_size: draw frames of the image's proportions, which an evaluation compares with true ones. Raises
        ValueError for anything else.
        """
        unknown = sorted(set(options) - {"motion", "edit", "renderer", "pose_detector", "use_fallback", "same_size"})
        if unknown:
            raise ValueError(f"{unknown[0]}= is not an option of magicdance")
        if options.get("motion"):
            node = dict(options["motion"])
            cls = get_class(node.pop("_target_"))
            if not (isinstance(cls, type) and issubclass(cls, MotionGenerator)):
                raise ValueError(f"motion={node.get('name')}: {cls} is no motion generator")
            node.pop("name")
            self.motion_generator = cls.build(self, node)
        part = KeptPart.parse(options.get("edit") or {})
        if part is not None:
            self.motion_generator = EditedMotion(self, self.motion_generator, part)
        if "renderer" not in options:
            return
        node = dict(options["renderer"])
        cls = get_class(node.pop("_target_"))
        if not (isinstance(cls, type) and issubclass(cls, Renderer)):
            raise ValueError(f"renderer={node.get('name')}: {cls} is no renderer")
        node = {name: value for name, value in node.items() if name not in ("name", "needs_detector", "has_fallback")}
        if options.get("same_size") and "grow_canvas" in node:
            node["grow_canvas"] = False
        fallback = MeshRenderer(self.mesh_height, self.mesh_width) if options.get("use_fallback") else None
        self.renderer = cls.build(self, options.get("pose_detector"), fallback, node)

    def generate(self, request: GenerationRequest) -> FrameStream:
        """Blocks (F, 3, H, W) uint8 of the renderer. The prompt chooses among the moves of motion=choreographer.

        An image that cannot be used is refused at once, before the first block is asked for.
        """
        fps = request.fps
        num_motion_frames = -(-(request.num_frames - 1) * MOTION_FPS * fps.denominator // fps.numerator) + 1
        return self._render(
            request,
            lambda: self.generate_motion(
                request.music, num_motion_frames, request.seed, request.sampling, request.prompt
            ),
        )

    def render_motion(self, request: GenerationRequest, motion: Tensor) -> FrameStream:
        """See `Family`."""
        return self._render(request, lambda: iter([motion]))

    def _render(self, request: GenerationRequest, motion_blocks: Callable[[], Iterator[Tensor]]) -> FrameStream:
        """Frames of the motion that `motion_blocks` begins once the image was accepted."""
        session = self.renderer.begin(request.image, request.fps, request.seed)
        poses = resample_to_video(motion_blocks(), request.num_frames, request.fps)
        return FrameStream(map(session.draw, poses), session.quality, session.note)


def _is_edge(contents: Any) -> bool:
    return isinstance(contents, Mapping) and ("ema_state_dict" in contents or "null_cond_embed" in contents)


def from_edge(contents: Any) -> dict[str, Tensor]:
    """Convert a public EDGE checkpoint to this family's names: EMA weights and the normaliser's range."""
    checkpoint = contents if isinstance(contents, Mapping) else {}
    state_dict = dict(unwrap_state_dict(checkpoint.get("ema_state_dict", contents)))
    if "null_cond_embed" not in state_dict:
        return state_dict
    state_dict = {f"motion_denoiser.{name}": value for name, value in state_dict.items()}
    if "normalizer" in checkpoint:
        scaler = getattr(checkpoint["normalizer"], "scaler", checkpoint["normalizer"])
        for name, public_name in (("low", "data_min_"), ("high", "data_max_")):
            value = getattr(scaler, public_name, None)
            if not isinstance(value, Tensor):
                raise ValueError(f"its normaliser has no array {public_name}")
            state_dict[f"normalizer.{name}"] = value
    return state_dict


def resample_to_video(blocks: Iterator[Tensor], num_frames: int, fps: Fraction) -> Iterator[Tensor]:
    """Motion blocks (T, 151) at 30 Hz -> blocks (F, 151) at the times i / fps of `num_frames` video frames."""
    buffer_start, num_done, buffer = 0, 0, None  # in motion frames; video frames yielded
    for block in blocks:
        buffer = block if buffer is None else torch.cat([buffer, block])
        last_motion_frame = buffer_start + len(buffer) - 1
        # video frames up to the last motion frame of the buffer; exact, in fractions
        stop = min(num_frames, last_motion_frame * fps.numerator // (MOTION_FPS * fps.denominator) + 1)
        if stop > num_done:
            times = [float(Fraction(i) / fps - Fraction(buffer_start, MOTION_FPS)) for i in range(num_done, stop)]
            yield resample(buffer, torch.tensor(times, dtype=torch.float64))
            num_done = stop
        buffer_start, buffer = last_motion_frame, buffer[-1:]
    assert num_done == num_frames, (num_done, num_frames)
