"""MagicDance: a song becomes body motion (EDGE's diffuser), body motion becomes a video of a dancer."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hydra.utils import get_class
from torch import Tensor, nn

from zoo.batch import MOTION_FPS
from zoo.body.skeleton import Normalizer, resample
from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.guidance import ClassifierFreeGuidance, guidance_ramp
from zoo.diffusion.samplers import make_sampler
from zoo.diffusion.schedules import cosine_schedule
from zoo.families.base import Family, FrameStream, GenerationRequest, MotionGenerator, SamplingParams
from zoo.families.magicdance import long_form as motion
from zoo.families.magicdance.dance_decoder import DanceDecoder
from zoo.families.magicdance.renderers.animator import Animator, upgrade_animator
from zoo.families.magicdance.renderers.mesh import MeshRenderer
from zoo.families.renderer import Renderer, RenderSession
from zoo.music.beats import beat_phase
from zoo.music.encoder import MusicFeatures
from zoo.music.normalizer import FeatureNormalizer
from zoo.nn.weights.layouts import ModulePrefixes, find_converter
from zoo.nn.weights.loading import LoadReport, load_strict, read_weights, unwrap_state_dict

PLACES = ModulePrefixes("animator.vae.", "animator.unet.", "animator.appearance.", "animator.controlnet.")
GROUP = 4  # windows denoised at a time
EDGE_CLASSES = ("dataset.preprocess.Normalizer", "dataset.scaler.MinMaxScaler")  # pickled in its checkpoints


class MagicDance(Family, MotionGenerator):
    """All networks of MagicDance: the motion diffuser of EDGE and, where it is trained, a renderer's."""

    def __init__(
        self,
        *,
        music_dim: int,  # D, of one token of the music encoder
        dance_decoder: Mapping[str, Any],  # dim, ff_dim, layers, heads and dropout of `DanceDecoder`
        beat_phase: bool,  # condition on the beat's phase too (not in the paper); EDGE learns it from the features
        mesh_resolution: int,  # pixels per side of the video that a mesh is drawn in
        sampler: Mapping[str, Any],  # num_inference_steps, guidance_scale and eta of motion
        animator: Animator | None,  # networks of renderer=diffusion
    ):
        super().__init__()
        self.pulse = 2 if beat_phase else 0
        self.decoder = DanceDecoder(music_dim + self.pulse, **dance_decoder, pulse=self.pulse)
        self.normalizer = Normalizer()
        self.music_scale = FeatureNormalizer(music_dim)
        self.mesh_height = self.mesh_width = mesh_resolution
        self.renderer: Renderer = MeshRenderer(mesh_resolution, mesh_resolution)
        self.animator = animator
        self.defaults = SamplingParams(**sampler)

    @property
    def schedule(self):
        """The noise schedule of the motion diffuser; its network predicts x0."""
        return cosine_schedule("sample")

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.decoder.final_layer.weight.device

    def hear(self, features: Tensor, rate: float, beats: Sequence[np.ndarray], frames: int, start: int = 0) -> Tensor:
        """What is heard in frames start .. start + frames - 1: (B, frames, D), D + 2 with `pulse`.

        features: (B, L, D) at `rate` Hz; beats: the times, in seconds, of each of the B songs' beats.
        """
        heard = self.music_scale(motion.at_motion_rate(features, rate, start, frames))
        if not self.pulse:
            return heard
        at = np.arange(start, start + frames) / MOTION_FPS
        pulses = torch.from_numpy(np.stack([beat_phase(times, at) for times in beats]))
        return torch.cat([heard, pulses.to(heard)], dim=-1)

    def generate_motion(
        self, music: MusicFeatures, num_frames: int, seed: int, sampling: SamplingParams
    ) -> Iterator[Tensor]:
        """Blocks (T, 151) of motion, `num_frames` in all (EDGE sec. 3, long-form sampling), in constant memory."""
        windows = motion.crossfade(map(self.normalizer.inverse, self._windows(music, num_frames, seed, sampling)))
        left = num_frames
        for block in windows:
            yield block[:left].cpu()
            left -= len(block)
            if left <= 0:
                return

    def edit(self, music: MusicFeatures, given: Tensor, mask: Tensor, seed: int, sampling: SamplingParams) -> Tensor:
        """Dance to the music, and keep part of a given motion (EDGE sec. 3, "editing").

        given: (T, 151), un-normalised; mask: (T, 151), 1 where it is kept (`motion.keep_frames`, `motion.keep_joints`,
        and their products): in-betweening, joint-wise editing, going on from a seed motion. -> (T, 151), in which kept
        values are exactly the given ones.
        """
        if given.shape != mask.shape or given.ndim != 2:
            raise ValueError(
                f"an edit needs a motion and a mask of one shape (T, 151), not {given.shape}, {mask.shape}"
            )
        given, mask = given.to(self.device), mask.to(self.device)
        known = motion.Known(self.normalizer(given), mask)
        windows = self._windows(music, len(given), seed, sampling, known)
        made = torch.cat(list(motion.crossfade(map(self.normalizer.inverse, windows))))[: len(given)]
        return torch.where(mask > 0, given, made).cpu()

    @torch.no_grad()  # as a decorator it holds inside the generator only, not between its yields
    def _windows(
        self, music: MusicFeatures, frames: int, seed: int, sampling: SamplingParams, known: motion.Known | None = None
    ) -> Iterator[Tensor]:
        """Normalised windows that cover so many frames."""
        sampling = sampling.with_defaults(self.defaults)
        steps, guidance, eta = sampling.num_inference_steps, sampling.guidance_scale, sampling.eta
        features = music.features[None].to(self.device)

        def listen(indices: range) -> ClassifierFreeGuidance:
            heard = [
                self.hear(features, music.rate, [music.beats.times], motion.WINDOW, i * motion.HOP) for i in indices
            ]
            condition = self.decoder.guided_condition(torch.cat(heard))
            pair = Denoiser(lambda x, t: self.decoder(x, condition, t).float(), self.schedule)
            return ClassifierFreeGuidance(pair, guidance_ramp(guidance, steps))

        make_sampler(self.schedule, steps)  # a number of steps that cannot be is refused before any work
        yield from motion.long_form(
            listen,
            motion.window_count(frames),
            lambda: make_sampler(self.schedule, steps),
            eta,
            seed,
            self.device,
            GROUP,
            known,
        )

    @classmethod
    def upgrade(
        cls, config: dict[str, Any], state_dict: dict[str, Tensor], version: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Family`. Version 1 had the values of nested nodes side by side."""
        decoder = ("dim", "ff_dim", "layers", "heads", "dropout")
        defaults = {"dropout": 0.1, "steps": 50, "guidance": 2.0, "eta": 1.0, "height": 128, "pulse": False}
        old = defaults | config
        animator = old.get("animator")
        return {
            "_target_": config["_target_"],
            "music_dim": config["music_dim"],
            "dance_decoder": {name: old[name] for name in decoder},
            "beat_phase": old["pulse"],
            "mesh_resolution": old["height"],
            "sampler": {
                "num_inference_steps": old["steps"],
                "guidance_scale": old["guidance"],
                "eta": old["eta"],
            },
            "animator": None if animator is None else upgrade_animator(animator),
        }, state_dict

    def denoisers(self) -> list[nn.Module]:
        """See `Family`: the renderer's. Motion takes little time beside it."""
        animator = self.animator
        return [] if animator is None else [animator.unet, animator.controlnet, animator.appearance]

    def load_pretrained(self, path: str) -> LoadReport:
        """Start from a public EDGE checkpoint, its bare `DanceDecoder` state dict, or a file of this family.

        With a renderer also from Stable Diffusion's U-Net and autoencoder, and MagicAnimate's appearance encoder,
        ControlNet and temporal attention; what a file does not hold stays as it is, `init=[A,B]` takes several.

        EDGE's networks heard raw features, which is what `music_scale` does before it is fitted; a bare state dict
        comes without a motion normaliser, which training then fits.
        """
        found = read_weights(path, EDGE_CLASSES)
        if self.animator is not None and not _is_edge(found):
            known = find_converter(found, self.state_dict(), PLACES)
            if known is not None:
                return load_strict(self, path, known[0], allowed_missing=known[1])
        return load_strict(
            self, path, from_edge, EDGE_CLASSES, allowed_missing=("normalizer.", "music_scale.", "animator.")
        )

    @property
    def default_renderer(self) -> str:
        """Renderer without an option: diffusion where it was trained."""
        return "mesh" if self.animator is None else "diffusion"

    def configure(self, options: Mapping[str, Any]) -> None:
        """Choose the renderer.

        renderer: the node of conf/renderer/NAME.yaml with its options; pose_detector: for renderers that need one;
        use_fallback: draw a mesh where no figure is found in the image. Raises ValueError for anything else.
        """
        unknown = sorted(set(options) - {"renderer", "pose_detector", "use_fallback"})
        if unknown:
            raise ValueError(f"{unknown[0]}= is not an option of magicdance")
        node = dict(options["renderer"])
        cls = get_class(node.pop("_target_"))
        if not (isinstance(cls, type) and issubclass(cls, Renderer)):
            raise ValueError(f"renderer={node.get('name')}: {cls} is no renderer")
        node = {name: value for name, value in node.items() if name not in ("name", "needs_detector")}
        fallback = MeshRenderer(self.mesh_height, self.mesh_width) if options.get("use_fallback") else None
        self.renderer = cls.build(self, options.get("pose_detector"), fallback, node)

    def generate(self, request: GenerationRequest) -> FrameStream:
        """Blocks (F, 3, H, W) uint8 as the renderer draws them; the prompt is not read.

        An image that cannot be used is refused at once, before the first block is asked for.
        """
        session = self.renderer.begin(request.image, request.fps, request.seed)
        return FrameStream(self._render(session, request), session.quality)

    def _render(self, session: RenderSession, request: GenerationRequest) -> Iterator[Tensor]:
        num_frames, fps = request.num_frames, request.fps
        motion_frames = -(-(num_frames - 1) * MOTION_FPS * fps.denominator // fps.numerator) + 1
        motion_blocks = self.generate_motion(request.music, motion_frames, request.seed, request.sampling)
        for block in at_frame_times(motion_blocks, num_frames, fps):
            yield session.draw(block)


def _is_edge(found: Any) -> bool:
    return isinstance(found, Mapping) and ("ema_state_dict" in found or "null_cond_embed" in found)


def from_edge(found: Any) -> dict[str, Tensor]:
    """The contents of a public EDGE checkpoint -> this family's names: averaged weights, normaliser's range."""
    whole = found if isinstance(found, Mapping) else {}
    state = dict(unwrap_state_dict(whole.get("ema_state_dict", found)))
    if "null_cond_embed" not in state:
        return state
    state = {f"decoder.{name}": value for name, value in state.items()}
    if "normalizer" in whole:
        scaler = getattr(whole["normalizer"], "scaler", whole["normalizer"])
        for name, public in (("low", "data_min_"), ("high", "data_max_")):
            value = getattr(scaler, public, None)
            if not isinstance(value, Tensor):
                raise ValueError(f"its normaliser has no array {public}")
            state[f"normalizer.{name}"] = value
    return state


def at_frame_times(blocks: Iterator[Tensor], frames: int, fps: Fraction) -> Iterator[Tensor]:
    """Motion blocks (T, 151) at 30 Hz -> blocks (F, 151) at the times i / fps of `frames` video frames."""
    start, made, buffer = 0, 0, None  # motion frame at which the buffer starts; video frames made
    for block in blocks:
        buffer = block if buffer is None else torch.cat([buffer, block])
        last = start + len(buffer) - 1
        # frames up to the last motion frame that is there; exact, in fractions
        stop = min(frames, last * fps.numerator // (MOTION_FPS * fps.denominator) + 1)
        if stop > made:
            times = [float(Fraction(i) / fps - Fraction(start, MOTION_FPS)) for i in range(made, stop)]
            yield resample(buffer, torch.tensor(times, dtype=torch.float64))
            made = stop
        start, buffer = last, buffer[-1:]
    assert made == frames, (made, frames)
