"""What `sample.py` was asked for, checked before anything heavy is imported and before any file is touched."""

import json
import math
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from omegaconf import DictConfig

from zoo.files import cache_root, resource_root

RENDERERS = ("mesh", "warp", "diffusion")
WAN = "wan_animate"  # sample.py's, whose weights are not of a checkpoint
FINDING = ("warp", "diffusion", WAN)  # of these, those that look for the figure of the picture
VIDEOS, MOTIONS = (".mp4", ".gif"), (".bvh", ".glb", ".npz")
WAN_FOLDER = "a download of Wan-AI/Wan2.2-Animate-14B-Diffusers"
WORLD = "world"  # scene=world: a place of the built-in world
NTSC = (24, 30, 48, 60, 120)  # their x1000/1001 rates are usually written with two or three decimals


@dataclass(frozen=True)
class Request:
    """A sampling request whose files exist and whose numbers make sense."""

    checkpoint: Path
    family: str | None  # the family the checkpoint has to hold
    image: Path | None
    renderer: str | None  # one of RENDERERS, or WAN
    wan: Path | None  # Wan-Animate's folder, with WAN
    wan_pixels: int  # of its frames
    face: Path | None  # whose face the dancer gets
    scene: Path | str | None  # what the picture's figure is set into: a picture, or WORLD
    people: Path | None  # what finds people in pictures
    music: Path
    prompt: str
    seconds: float
    fps: Fraction
    seed: int
    out: Path
    averaged: bool  # sample with the averaged weights
    device: str
    steps: int | None
    guidance: float | None
    eta: float | None
    precision: str | None  # of denoisers, see `zoo.nn.cpu_inference`


def read_request(config: DictConfig) -> Request:
    """Check conf/sample.yaml's values. Raises ValueError saying which one is wrong and what it may be."""
    if config.ckpt_weights not in ("ema", "raw"):
        raise ValueError(f"ckpt_weights={config.ckpt_weights}: use ema or raw")
    if config.music is None:
        raise ValueError("music= needs a sound file")
    seconds, fps = positive(config.seconds, "seconds"), frame_rate(config.fps)
    if seconds * fps < 1:
        raise ValueError(f"seconds={config.seconds} is less than one frame at fps={config.fps}")
    scene, people = config.scene, config.weights.people
    if scene is not None and config.image is None:
        raise ValueError("scene= needs image=FILE, the picture whose figure is set into it")
    if config.renderer not in (None, *RENDERERS, WAN):
        raise ValueError(f"renderer={config.renderer}: use {', '.join((*RENDERERS, WAN))}")
    if config.renderer in FINDING and config.image is None:
        raise ValueError(f"renderer={config.renderer} moves the person of a picture: give image=FILE")
    if people is None and (scene is not None or config.renderer in FINDING):
        people = next(iter(sorted((cache_root() / "people").glob("mediapipe-0.10.21-*.whl"))), None)
    if scene not in (None, WORLD):
        scene = existing_file(scene, "scene")
    if config.wan is None and config.renderer == WAN:
        raise ValueError(f"renderer={WAN} needs weights: give wan=FOLDER, {WAN_FOLDER}")
    if config.wan is not None and config.renderer != WAN:
        raise ValueError(f"wan=FOLDER is for renderer={WAN}")
    return Request(
        checkpoint=existing(config.ckpt, "ckpt"),
        family=config.model,
        image=None if config.image is None else existing_file(config.image, "image"),
        renderer=config.renderer,
        wan=None if config.wan is None else wan_folder(config.wan),
        wan_pixels=whole(config.wan_pixels, "wan_pixels", 256),
        face=None if config.face is None else existing_file(config.face, "face"),
        scene=scene,
        people=None if people is None else existing(people, "weights.people"),
        music=existing_file(config.music, "music"),
        prompt="" if config.prompt is None else str(config.prompt),
        seconds=seconds,
        fps=fps,
        seed=whole(config.seed, "seed", 0),
        out=writable(config.out),
        averaged=config.ckpt_weights == "ema",
        device=str(config.device),
        precision=read_precision(config.precision),
        **read_sampler(config.sampler),
    )


def read_sampler(config: DictConfig) -> dict[str, float | None]:
    """steps, guidance and eta of a `sampler` config, None for the model's own. Raises ValueError out of range."""
    return {
        "steps": None if config.steps is None else whole(config.steps, "sampler.steps", 1),
        "guidance": None if config.guidance is None else finite(config.guidance, "sampler.guidance"),
        "eta": None if config.eta is None else between(config.eta, "sampler.eta", 0, 1),
    }


def read_precision(value: str | None) -> str | None:
    """What denoisers compute in, see `zoo.nn.cpu_inference`. Raises ValueError for another word."""
    if value not in (None, "fp32", "bf16"):
        raise ValueError(f"precision={value}: use fp32 or bf16, or leave it out")
    return value


def frame_rate(value: float | str) -> Fraction:
    """Frames a second as an exact fraction: 30, '30000/1001', and 29.97 taken as NTSC's 30000/1001.

    Raises ValueError outside 1..240.
    """
    try:
        rate = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"fps={value} is not a frame rate; write 30, 29.97 or 30000/1001") from None
    for whole_rate in NTSC:
        exact = Fraction(whole_rate * 1000, 1001)
        if rate.denominator != 1 and abs(rate - exact) < Fraction(6, 1000):
            rate = exact
    if not 1 <= rate <= 240:
        raise ValueError(f"fps={value}: a frame rate lies between 1 and 240")
    return rate


def finite(value: float | str, name: str) -> float:
    """A finite number. Raises ValueError."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}={value} is not a number")
    return number


def positive(value: float | str, name: str) -> float:
    """A finite number above 0. Raises ValueError."""
    number = finite(value, name)
    if number <= 0:
        raise ValueError(f"{name}={value}: it must be above 0")
    return number


def between(value: float | str, name: str, low: float, high: float) -> float:
    """A number in low..high. Raises ValueError."""
    number = finite(value, name)
    if not low <= number <= high:
        raise ValueError(f"{name}={value}: it lies between {low} and {high}")
    return number


def whole(value: int | str, name: str, least: int) -> int:
    """A whole number of at least `least`. Raises ValueError."""
    number = finite(value, name)
    if number != int(number) or number < least:
        raise ValueError(f"{name}={value}: it must be a whole number of at least {least}")
    return int(number)


def existing(path: str, name: str) -> Path:
    """A path that exists, also looked for beside the scripts (the shipped files). Raises ValueError."""
    if path is None or str(path) == "":
        raise ValueError(f"{name}= is empty; give it a file")
    for candidate in (Path(str(path)).expanduser(), resource_root() / str(path)):
        if candidate.exists():
            return candidate
    raise ValueError(f"{name}={path}: there is no such file")


def existing_file(path: str, name: str) -> Path:
    """A non-empty file. Raises ValueError."""
    found = existing(path, name)
    if not found.is_file():
        raise ValueError(f"{name}={path} is {'a directory' if found.is_dir() else 'a pipe or a device'}, not a file")
    if found.stat().st_size == 0:
        raise ValueError(f"{name}={path} is empty")
    return found


def wan_folder(path: str) -> Path:
    """A folder in diffusers' layout that holds a WanAnimatePipeline and no code. Raises ValueError."""
    folder = existing(path, "wan")
    try:
        index = json.loads((folder / "model_index.json").read_text())
        kind = index["_class_name"]
        parts = {name: value[0] for name, value in index.items() if isinstance(value, list)}
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(f"wan={path} has no model_index.json that can be read; give {WAN_FOLDER}") from None
    if kind != "WanAnimatePipeline":
        raise ValueError(f"wan={path} holds a {kind}, no WanAnimatePipeline; give {WAN_FOLDER}")
    foreign = [name for name, library in parts.items() if library not in ("diffusers", "transformers")]
    if foreign:
        raise ValueError(f"wan={path}: its {foreign[0]} is no class of diffusers or transformers, and no other is run")
    return folder


def writable(path: str) -> Path:
    """Where the result goes. Only outputs/ is made when missing. Raises ValueError for a suffix or folder of no use."""
    out = Path(str(path)).expanduser()
    suffixes = VIDEOS + MOTIONS
    if out.suffix.lower() not in suffixes:
        raise ValueError(f"out={path}: the name must end in one of {' '.join(suffixes)}")
    if out.is_dir():
        raise ValueError(f"out={path} is a directory; add a file name")
    if not out.parent.is_dir() and Path("outputs") not in [out.parent, *out.parent.parents]:
        raise ValueError(f"out={path}: there is no directory {out.parent}")
    parent = next(folder for folder in (out.parent, *out.parent.parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"out={path}: nothing can be written in {parent}")
    return out
