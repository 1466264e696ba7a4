"""Answer a sampling request: a picture and a song in, a dance in a file out."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from zoo.batch import MOTION_FPS
from zoo.body.detection.base import PoseDetector
from zoo.body.detection.blazepose import DOWNLOAD_HINT
from zoo.body.detection.factory import load_detector
from zoo.body.detection.synthetic_detector import SyntheticPoseDetector
from zoo.body.motion_io.formats import write_motion
from zoo.body.render.appearance import appearance_from_image
from zoo.families.base import Family, GenerationRequest, MotionGenerator, SamplingParams
from zoo.families.magicdance.family import MagicDance
from zoo.families.magicdance.renderers.renderers import DiffusionRenderer, WarpRenderer
from zoo.families.magicdance.renderers.wan_animate import WanAnimator, WanRenderer
from zoo.media import Sound, VideoWriter, read_image
from zoo.music.encoder import MusicFeatures, encode_song
from zoo.nn.cpu_inference import fast_inference
from zoo.run.build import build_encoder
from zoo.run.checkpoint import load_family
from zoo.run.sample.request import FINDING, MOTIONS, WAN, WORLD, Request
from zoo.run.sample.scene import read_cutout, set_scene


def generate(request: Request) -> Path:
    """Make the dance and write it to `request.out`, which holds the old file or the whole new one; tells how fast.

    Raises ValueError for files that cannot be used, a family that does not fit `model=`, and a motion format asked of a
    family that makes no motion.
    """
    sound = Sound(request.music)
    cutout = None if request.scene is None else read_cutout(request.image, request.people)
    picture = None if request.image is None or cutout else _with_figure(request)
    backdrop = None if request.scene in (None, WORLD) else read_image(request.scene)
    family, config = load_family(request.checkpoint, request.averaged)
    if request.family not in (None, config.model.name):
        raise ValueError(f"ckpt={request.checkpoint} holds a {config.model.name}, not model={request.family}")
    renderer = pick_renderer(family, config.model.name, request.renderer)
    if request.face is not None and renderer != "diffusion":
        raise ValueError("face=FILE is for a magicdance that draws with renderer=diffusion")
    as_motion = request.out.suffix.lower() in MOTIONS
    if as_motion and not isinstance(family, MotionGenerator):
        raise ValueError(f"{config.model.name} makes no body motion, so out= has to be a .mp4 or .gif")
    if cutout is not None:
        picture = set_scene(cutout, backdrop, request.seed, family.resolution)
    picture = None if picture is None else torch.from_numpy(picture).permute(2, 0, 1)
    device = pick_device(request.device)
    family = family.to(device)
    if renderer in FINDING:
        detector = SyntheticPoseDetector() if request.people is None else load_detector(request.people)
        if renderer == WAN:
            family.renderer = WanRenderer(WanAnimator(request.wan, device, request.wan_pixels), detector)
        else:
            _draw_with(family, renderer, detector, request.face)
    wanted = Fraction(str(request.seconds))
    music = encode_song(sound, build_encoder(config), wanted)
    heard = min(sound.duration, Fraction(music.seconds))  # a cut-off file holds less than its header says
    frames = count_frames(wanted, request.fps, heard)
    truncated = family.truncated_prompt(request.prompt)
    if truncated:
        print(f"the prompt is too long: nothing is read from '{shorten(truncated, 40, placeholder='...')}' on")
    seconds = Fraction(frames) / request.fps
    if wanted > heard + 1 / request.fps:
        print(f"the song lasts {float(heard):.2f} s: so long will the dance be")
    music = replace(music, features=music.features.to(device))
    sampling_params = SamplingParams(request.steps, request.guidance, request.eta)
    request.out.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with torch.inference_mode(), faster(family, request.precision):
        if as_motion:
            _write_motion(family, picture, music, seconds, request, sampling_params)
        else:
            picture = None if picture is None else picture.to(device)
            try:
                blocks = family.generate(
                    GenerationRequest(
                        picture, music, frames, request.fps, request.prompt, request.seed, sampling_params
                    )
                )
            except ValueError as error:
                how = _how(request) if renderer in FINDING else ""
                raise ValueError(f"image={request.image} does not do: {error}{how}") from None
            if renderer in FINDING:
                print(f"the figure of the picture fits by {family.renderer.fit:.2f} of 1")
            if renderer == WAN:
                print(f"loading {request.wan}", flush=True)
                family.renderer.animator.load()
            _write_video(blocks, frames, sound, request)
    took = time.monotonic() - began
    print(f"{request.out}: {float(seconds):.2f} s of dance in {took:.1f} s, {float(seconds) / took:.1f}x real time")
    return request.out


@contextmanager
def faster(family: Family, precision: str | None) -> Iterator[None]:
    """Within it the denoisers compute in `precision`, see `zoo.nn.cpu_inference`. Raises ValueError where there are none."""
    networks = family.denoisers()
    if precision is not None and not networks:
        raise ValueError(f"precision={precision}: this checkpoint has no network that it is for")
    with ExitStack() as opened:
        for network in networks:
            opened.enter_context(fast_inference(network, precision))
        yield


def pick_renderer(family: Family, name: str, renderer: str | None) -> str | None:
    """The renderer that draws: the one asked for, else a MagicDance's best; None for families without any.

    Raises ValueError for one that the family does not have.
    """
    if not isinstance(family, MagicDance):
        if renderer is not None:
            raise ValueError(f"renderer= is magicdance's; {name} draws its frames by itself")
        return None
    if renderer == "diffusion" and family.animator is None:
        raise ValueError("renderer=diffusion: this checkpoint was trained without it (model.renderer=diffusion)")
    return renderer or ("mesh" if family.animator is None else "diffusion")


def _draw_with(family: MagicDance, renderer: str, detector: PoseDetector, face: Path | None) -> None:
    picture = None if face is None else torch.from_numpy(read_image(face)).permute(2, 0, 1)
    try:
        set_renderer(family, renderer, detector, face=picture)
    except ValueError as error:
        raise ValueError(f"face={face} does not do: {error}") from None


def set_renderer(
    family: MagicDance,
    renderer: str,
    detector: PoseDetector | None,
    instead: bool = False,
    face: torch.Tensor | None = None,
) -> None:
    """Draw with one of RENDERERS; FINDING ones find the figure with the detector, and take no picture in which it finds
    none, unless a mesh may be drawn `instead`. face: (3, H, W) uint8, see `DiffusionRenderer`."""
    mesh = family.renderer if instead else None
    if renderer == "warp":
        family.renderer = WarpRenderer(detector, mesh)
    elif renderer == "diffusion":
        family.renderer = DiffusionRenderer(family.animator, detector, mesh, face)


def _how(request: Request) -> str:
    """What else a user who wants a photograph to dance may want to know."""
    if request.people is not None:
        return ""
    return f"; the person of a photograph is found with weights.people=FILE, mediapipe's wheel: {DOWNLOAD_HINT}"


def _with_figure(request: Request) -> np.ndarray:
    """The picture (H, W, 3) uint8. Raises ValueError where there is nothing, or nobody whom weights.people finds."""
    picture = read_image(request.image)
    if np.ptp(picture, (0, 1)).max() == 0:
        raise ValueError(f"image={request.image} shows nothing: all of it is of one colour")
    if (
        request.people is not None
        and request.renderer not in ("warp", WAN)
        and not load_detector(request.people).find_people(picture)
    ):
        what = "without weights.people= any figure is danced with"
        raise ValueError(f"image={request.image} shows no person that weights.people finds; {what}")
    return picture


def count_frames(seconds: Fraction, fps: Fraction, duration: Fraction) -> int:
    """Frames to make: the nearest whole number to `seconds`, never more than the song holds, at least one."""
    return max(1, min(round(seconds * fps), int(duration * fps)))


def _write_video(blocks: Iterator[Tensor], frames: int, sound: Sound, request: Request) -> None:
    with VideoWriter(request.out, request.fps, sound) as writer, _bar(frames, "frame") as bar:
        for block in blocks:  # (F, 3, H, W)
            writer.write(block.permute(0, 2, 3, 1).cpu().numpy())
            bar.update(len(block))
        assert bar.n == frames, f"{bar.n} frames came where {frames} were asked for"


def _write_motion(
    family,
    picture: Tensor | None,
    music: MusicFeatures,
    seconds: Fraction,
    request: Request,
    sampling_params: SamplingParams,
):
    """The motion itself; a .glb shows a figure, which wears what is worn in the picture."""
    frames = ceil(seconds * MOTION_FPS)
    blocks = []
    with _bar(frames, "pose") as bar:
        for block in family.generate_motion(music, frames, request.seed, sampling_params):  # (T, 151)
            blocks.append(block.cpu())
            bar.update(len(block))
    look = None if picture is None else appearance_from_image(picture.permute(1, 2, 0).numpy())
    write_motion(request.out, torch.cat(blocks), look)


def _bar(total: int, unit: str) -> tqdm:
    return tqdm(total=total, unit=unit, desc="dancing", dynamic_ncols=True, leave=False)


def pick_device(name: str) -> torch.device:
    """'auto' is the GPU where there is one. Raises ValueError for a device that is unknown or not there."""
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
