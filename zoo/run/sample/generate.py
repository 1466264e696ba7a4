"""Generate the video, or the motion, that a sampling request describes."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from zoo.batch import MOTION_FPS
from zoo.body.detection.factory import SYNTHETIC, load_detector, load_person_detector
from zoo.body.motion_io.formats import write_motion
from zoo.body.render.appearance import appearance_from_image
from zoo.families.base import Family, FrameStream, GenerationRequest, MotionGenerator, SamplingParams
from zoo.media import Sound, VideoWriter, read_image
from zoo.music.encoder import encode_song
from zoo.nn.cpu_inference import fast_inference
from zoo.nn.gpu_inference import bf16_inference, is_on_gpu
from zoo.run.build import build_encoder, load_beat_tracker
from zoo.run.checkpoint import load_family
from zoo.run.config import load_choice, load_renderer
from zoo.run.sample.request import SamplingRequest, cached_detector
from zoo.run.sample.scene import read_cutout, set_scene
from zoo.run.validate import MOTION_SUFFIXES

Notify = Callable[[str], object]  # takes a line for the user
OnProgress = Callable[[int, int], object]  # takes the number of frames or poses that are done, and of all


@dataclass(frozen=True)
class _Inputs:
    """Results of reading a sampling request: the family, and its own request."""

    family: Family
    generation_request: GenerationRequest  # of the family
    sound: Sound
    needs_detector: bool  # the renderer does

    @property
    def seconds(self) -> Fraction:
        return Fraction(self.generation_request.num_frames) / self.generation_request.fps


def generate(
    request: SamplingRequest,
    notify: Notify = print,
    on_progress: OnProgress | None = None,
    max_seconds: Fraction | None = None,
) -> Path:
    """Generate and write `request.out`, whole or not at all. Notify of the speed and return the path.

    on_progress is called after each block; what it raises ends the generation. max_seconds: only so much of the video
    is drawn, as it begins in the whole one.

    Raises ValueError for files that cannot be used, a family that does not fit `model=`, and a motion format for a
    family that generates no motion.
    """
    inputs = _read_inputs(request, notify)
    start = time.monotonic()
    with torch.inference_mode(), fast_denoisers(inputs.family, request.precision):
        if request.out.suffix.lower() in MOTION_SUFFIXES:
            _write_motion(inputs, request.out, on_progress)
        else:
            _write_video(_begin_frames(inputs, request, notify), inputs, request, on_progress, max_seconds)
    elapsed = time.monotonic() - start
    seconds = float(inputs.seconds)
    notify(f"{request.out}: {seconds:.2f} s of dance in {elapsed:.1f} s, {seconds / elapsed:.1f}x real time")
    return request.out


def generate_frames(request: SamplingRequest, notify: Notify = print) -> Iterator[np.ndarray]:
    """Yield blocks (F, H, W, 3) uint8 of the request's frames; nothing is written. Raises as `generate`."""
    inputs = _read_inputs(replace(request, out=Path("frames.mp4")), notify)
    with fast_denoisers(inputs.family, request.precision):
        with torch.inference_mode():
            blocks = _begin_frames(inputs, request, notify)
        while True:
            with torch.inference_mode():  # not across a yield: it would hold for the caller's code
                block = next(blocks, None)
            if block is None:
                return
            yield block.permute(0, 2, 3, 1).cpu().numpy()


def _read_inputs(request: SamplingRequest, notify: Notify) -> _Inputs:
    sound = Sound(request.music)
    cutout = (
        None
        if request.scene is None or request.image is None
        else read_cutout(request.image, request.detector_path, request.person)
    )
    image = None if request.image is None or cutout else _read_image(request)
    backdrop = read_image(request.scene) if isinstance(request.scene, Path) else None
    family, config = load_family(request.checkpoint, request.use_ema)
    if request.family not in (None, config.model.name):
        raise ValueError(f"ckpt={request.checkpoint} holds a {config.model.name}, not model={request.family}")
    if request.out.suffix.lower() in MOTION_SUFFIXES and not isinstance(family, MotionGenerator):
        raise ValueError(f"{config.model.name} generates no body motion: out= must be a .mp4 or .gif")
    if cutout is not None:
        if cutout.note is not None:
            notify(cutout.note)
        image = set_scene(cutout, backdrop, request.seed, family.resolution)
    device = pick_device(request.device)
    family = family.to(device)
    renderer_config = request.renderer or load_renderer({"name": family.default_renderer})
    needs_detector = renderer_config is not None and bool(renderer_config.get("needs_detector"))
    if request.person is not None and cutout is None and not needs_detector:
        numbers = str(request.person).replace("(", "[").replace(")", "]").replace(" ", "")
        raise ValueError(f"person={numbers}: no person of the image is detected with this family and renderer")
    if renderer_config is not None:
        person = request.person if cutout is None else None
        detector_path = request.detector_path or cached_detector() or SYNTHETIC
        detector = load_detector(detector_path, person) if needs_detector else None
        family.configure({"renderer": renderer_config, "pose_detector": detector})
    motion_config = request.motion or load_choice("motion", {"name": family.default_motion})
    if motion_config is not None:
        family.configure({"motion": motion_config})
    if request.edit is not None:
        family.configure({"edit": request.edit})
    seconds = Fraction(str(request.seconds))
    encoder = build_encoder(config, load_beat_tracker(request.beats_path))
    music = encode_song(sound, encoder, seconds, keep_waveform=True)
    available_seconds = min(sound.duration, Fraction(music.seconds))  # a truncated file holds less than its header says
    num_frames = count_frames(seconds, request.fps, available_seconds)
    truncated_end = family.truncated_prompt_end(request.prompt)
    if truncated_end:
        notify(f"prompt is too long: ignored from '{shorten(truncated_end, 40, placeholder='...')}' on")
    if seconds > available_seconds + 1 / request.fps:
        notify(
            f"song is shorter than seconds={request.seconds:g}; the dance will last {float(available_seconds):.2f} s"
        )
    if not len(music.beats.times) and (request.motion or {}).get("name") != "file":
        notify("no beat was found in the music: the dance keeps a tempo of its own")
    if isinstance(family, MotionGenerator):
        for note in family.notes(music, request.prompt):
            notify(note)
        available_frames = family.available_frames
        if available_frames is not None and available_frames < ceil(num_frames / request.fps * MOTION_FPS):
            notify(f"the motion lasts {available_frames / MOTION_FPS:.2f} s; then its last pose is held")
    generation_request = GenerationRequest(
        image=None if image is None else torch.from_numpy(image).permute(2, 0, 1).to(device),
        music=replace(music, features=music.features.to(device)),
        num_frames=num_frames,
        fps=request.fps,
        prompt=request.prompt,
        seed=request.seed,
        sampling=SamplingParams(request.num_inference_steps, request.guidance_scale, request.eta),
    )
    return _Inputs(family, generation_request, sound, needs_detector)


def _begin_frames(inputs: _Inputs, request: SamplingRequest, notify: Notify) -> Iterator[Tensor]:
    """Return the blocks (F, 3, H, W) of frames, computed on demand. Notify of the family's notes on the image."""
    try:
        blocks = inputs.family.generate(inputs.generation_request)
    except ValueError as error:
        hint = _detector_hint(request) if inputs.needs_detector else ""
        raise ValueError(f"image={request.image}: {error}{hint}") from None
    if isinstance(blocks, FrameStream) and blocks.quality is not None:
        notify(f"figure detection quality: {blocks.quality:.2f} of 1")
    if isinstance(blocks, FrameStream) and blocks.note is not None:
        notify(f"{blocks.note}{_detector_hint(request) if inputs.needs_detector else ''}")
    return iter(blocks)


@contextmanager
def fast_denoisers(family: Family, precision: str | None) -> Iterator[None]:
    """Run the family's denoisers in `precision`; None is bf16 on a GPU, the weights' own on a CPU.

    See `zoo.nn.cpu_inference` and `zoo.nn.gpu_inference`. Raises ValueError for a family without denoisers.
    """
    networks = family.denoisers()
    if precision is not None and not networks:
        raise ValueError(f"precision={precision}: this checkpoint has no network that it applies to")
    with ExitStack() as stack:
        for network in networks:
            if not is_on_gpu(network):
                stack.enter_context(fast_inference(network, precision))
            elif precision != "fp32":
                stack.enter_context(bf16_inference(network))
        yield


def _detector_hint(request: SamplingRequest) -> str:
    if request.detector_path is not None or cached_detector() is not None:
        return ""
    return "; photographs need a pose detector: `dancezoo setup` downloads it"


def _read_image(request: SamplingRequest) -> np.ndarray:
    """The image (H, W, 3) uint8. Raises ValueError where it shows nothing, or no person that the detector finds."""
    assert request.image is not None
    image = read_image(request.image)
    if np.ptp(image, (0, 1)).max() == 0:
        raise ValueError(f"image={request.image} shows nothing: it has a single colour")
    detects_itself = request.renderer is not None and request.renderer.get("needs_detector")
    if request.detector_path is not None and not detects_itself:
        if not load_person_detector(request.detector_path).find_people(image):
            hint = "without weights.pose_detector= any figure can dance"
            raise ValueError(f"image={request.image} shows no person that weights.pose_detector finds; {hint}")
    return image


def count_frames(seconds: Fraction, fps: Fraction, duration: Fraction) -> int:
    """Number of frames: the nearest whole number to `seconds`, at most what the song holds, at least one."""
    return max(1, min(round(seconds * fps), int(duration * fps)))


def _write_video(
    blocks: Iterator[Tensor],
    inputs: _Inputs,
    request: SamplingRequest,
    on_progress: OnProgress | None,
    max_seconds: Fraction | None,
) -> None:
    num_frames = inputs.generation_request.num_frames
    if max_seconds is not None:
        num_frames = count_frames(max_seconds, request.fps, inputs.seconds)
    with VideoWriter(request.out, request.fps, inputs.sound) as writer, _progress_bar(num_frames, "frame") as bar:
        for block in blocks:  # (F, 3, H, W)
            block = block if max_seconds is None else block[: num_frames - bar.n]
            writer.write(block.permute(0, 2, 3, 1).cpu().numpy())
            bar.update(len(block))
            if on_progress is not None:
                on_progress(bar.n, num_frames)
            if bar.n == num_frames and max_seconds is not None:
                break
        assert bar.n == num_frames, f"{bar.n} frames were generated, {num_frames} were requested"


def _write_motion(inputs: _Inputs, out: Path, on_progress: OnProgress | None) -> None:
    """The motion itself; a .glb shows a figure in the colours of the image."""
    family, generation_request = inputs.family, inputs.generation_request
    assert isinstance(family, MotionGenerator)
    num_motion_frames = ceil(inputs.seconds * MOTION_FPS)
    blocks = []
    with _progress_bar(num_motion_frames, "pose") as bar:
        motion_arguments = (
            generation_request.music,
            num_motion_frames,
            generation_request.seed,
            generation_request.sampling,
            generation_request.prompt,
        )
        for block in family.generate_motion(*motion_arguments):
            blocks.append(block.cpu())  # (T, 151)
            bar.update(len(block))
            if on_progress is not None:
                on_progress(bar.n, num_motion_frames)
    image = generation_request.image
    appearance = None if image is None else appearance_from_image(image.permute(1, 2, 0).cpu().numpy())
    write_motion(out, torch.cat(blocks), appearance)


def _progress_bar(total: int, unit: str) -> tqdm:
    return tqdm(total=total, unit=unit, desc="dancing", dynamic_ncols=True, leave=False)


def pick_device(name: str) -> torch.device:
    """'auto' is the GPU if there is one. Raises ValueError for a device that is unknown or not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device={name}: use auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}: this machine has {torch.cuda.device_count() or 'no'} GPU that torch can use")
    return device
