"""The options of `sample.py`, checked before anything heavy is imported and before any file is touched."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from zoo.files import cache_root, conf_folder
from zoo.run.config import load_choice, load_renderer, to_dict
from zoo.run.models import checkpoint_path
from zoo.run.validate import (
    READABLE_MOTION_SUFFIXES,
    between,
    check_not_input,
    existing_file,
    existing_path,
    finite,
    frame_rate,
    int_at_least,
    positive,
    read_precision,
    writable,
)

MAX_GIF_FPS = 50  # its times count in hundredths of a second, and 1 is too short for players
WORLD_SCENE = "world"  # scene=world: a place of the built-in world
MAX_DANCERS = 8  # people who dance together in one image
DETECTOR_WHEEL = "mediapipe-0.10.21-*.whl"


@dataclass(frozen=True)
class SamplingRequest:
    """Options of one generated video: all files exist, all numbers are in range."""

    checkpoint: Path
    family: str | None  # that the checkpoint has to hold
    image: Path | None
    person: int | tuple[int, ...] | None  # number in the image, from the left and from 1; None: the largest; or several
    renderer: Mapping[str, Any] | None  # node of conf/renderer/NAME.yaml; None: the family's default
    motion: Mapping[str, Any] | None  # node of conf/motion/NAME.yaml; None: the family's default
    edit: Mapping[str, Any] | None  # keep_seconds and joints of the motion that an edit keeps; None: no edit
    scene: Path | str | None  # what the image's figure is placed in: an image, or WORLD_SCENE
    detector_path: Path | None  # of the pose detector's files; None: the synthetic one
    beats_path: Path | None  # of the beat tracker's weights; None: the tracker without weights
    music: Path
    prompt: str
    seconds: float
    fps: Fraction
    seed: int
    out: Path
    use_ema: bool  # sample with the averaged weights
    device: str
    num_inference_steps: int | None  # this and the next two: None is the model's own
    guidance_scale: float | None
    eta: float | None
    precision: str | None  # of the denoisers, see `zoo.nn.cpu_inference`


def compose_request(options: Mapping[str, Any]) -> SamplingRequest:
    """The request of the Python API: conf/sample.yaml with `options` on top. Raises ValueError for unknown options."""
    config = OmegaConf.load(conf_folder() / "sample.yaml")
    assert isinstance(config, DictConfig)
    config.pop("defaults")
    OmegaConf.set_struct(config, True)
    for name, value in options.items():
        if name not in config:
            raise ValueError(f"there is no option {name}; use one of {', '.join(map(str, config))}")
        if name in ("renderer", "motion"):
            config[name] = dict(value or {"name": None}) if isinstance(value, Mapping | None) else {"name": str(value)}
        elif isinstance(config[name], DictConfig):
            unknown = [key for key in value if key not in config[name]]
            if unknown:
                raise ValueError(f"there is no option {name}.{unknown[0]}; use one of {', '.join(config[name])}")
            config[name] = OmegaConf.merge(config[name], dict(value))
        else:
            config[name] = str(value) if isinstance(value, Path) else value
    return read_request(config)


def read_request(config: DictConfig) -> SamplingRequest:
    """Check the values of conf/sample.yaml. Raises ValueError that names the wrong one and what it may be."""
    if not isinstance(config.use_ema, bool):
        raise ValueError(f"use_ema={config.use_ema}: use true or false")
    if config.music is None:
        raise ValueError("music= needs a sound file")
    seconds, fps = positive(config.seconds, "seconds"), frame_rate(config.fps)
    if seconds * fps < 1:
        raise ValueError(f"seconds={config.seconds} is less than one frame at fps={config.fps}")
    if str(config.out).lower().endswith(".gif") and fps > MAX_GIF_FPS:
        raise ValueError(f"fps={config.fps}: a .gif shows at most {MAX_GIF_FPS} frames a second; make a .mp4")
    if config.scene is not None and config.image is None:
        raise ValueError("scene= needs image=FILE, the image whose figure is placed in it")
    renderer = load_renderer(config.renderer)
    needs_detector = renderer is not None and bool(renderer.get("needs_detector"))
    if renderer is not None and needs_detector and not renderer.get("has_fallback") and config.image is None:
        raise ValueError(f"renderer={renderer['name']} moves the figure of an image: give image=FILE")
    detector_path = config.weights.pose_detector
    if detector_path is None and (config.scene is not None or needs_detector):
        detector_path = cached_detector()
    beats_path = config.weights.beats
    scene = config.scene
    if scene not in (None, WORLD_SCENE):
        scene = existing_file(scene, "scene")
    request = SamplingRequest(
        checkpoint=checkpoint_path(config.ckpt),
        family=config.model,
        image=None if config.image is None else existing_file(config.image, "image"),
        person=_read_person(config.person),
        renderer=renderer,
        motion=_read_motion(config.motion),
        edit=_read_edit(config.edit),
        scene=scene,
        detector_path=None if detector_path is None else existing_path(detector_path, "weights.pose_detector"),
        beats_path=None if beats_path is None else existing_file(beats_path, "weights.beats"),
        music=existing_file(config.music, "music"),
        prompt="" if config.prompt is None else str(config.prompt),
        seconds=seconds,
        fps=fps,
        seed=int_at_least(config.seed, "seed", 0),
        out=writable(config.out),
        use_ema=config.use_ema,
        device=str(config.device),
        precision=read_precision(config.precision),
        **read_sampler(config.sampler),
    )
    return check_output(request)


def _read_person(value: Any) -> int | tuple[int, ...] | None:
    """A number, or the different numbers of a list. Raises ValueError."""
    if not isinstance(value, list | ListConfig):
        return None if value is None else int_at_least(value, "person", 1)
    numbers = tuple(int_at_least(number, "person", 1) for number in value)
    if not numbers or len(set(numbers)) < len(numbers) or len(numbers) > MAX_DANCERS:
        shown = ",".join(map(str, numbers))
        raise ValueError(f"person=[{shown}]: give 1 to {MAX_DANCERS} different numbers, for example person=[1,2]")
    return numbers[0] if len(numbers) == 1 else numbers


def _read_motion(options: DictConfig) -> dict[str, Any] | None:
    """The node of conf/motion: of a name, or of a file that stands in its place."""
    name = options.get("name")
    suffix = Path(str(name or "")).suffix.lower()
    if suffix in READABLE_MOTION_SUFFIXES:
        return load_choice("motion", {**options, "name": "file", "file": str(existing_file(name, "motion"))})
    if suffix:
        raise ValueError(f"motion={name}: a motion file ends in one of {' '.join(READABLE_MOTION_SUFFIXES)}")
    node = load_choice("motion", options)
    if node is not None and "file" in node:
        node["file"] = str(existing_file(node["file"], "motion.file"))
    return node


def _read_edit(options: DictConfig) -> dict[str, Any] | None:
    """The options that are set; their values are the family's to check."""
    edit = {key: value for key, value in to_dict(options).items() if value is not None}
    return edit or None


def check_output(request: SamplingRequest) -> SamplingRequest:
    """The request itself. Raises ValueError when its output would overwrite one of its inputs."""
    scene = request.scene if isinstance(request.scene, Path) else None
    motion = Path(request.motion["file"]) if request.motion and "file" in request.motion else None
    inputs = (request.checkpoint, request.image, request.music, request.detector_path, scene, motion)
    check_not_input(request.out, inputs)
    return request


def style_names() -> list[str]:
    """Styles of motion.style=, in alphabetical order."""
    from zoo.choreography.styles import STYLES

    return sorted(STYLES)


def cached_detector() -> Path | None:
    """The detector of people that `dancezoo setup` has put into the cache; None if it is missing."""
    return next(iter(sorted((cache_root() / "people").glob(DETECTOR_WHEEL))), None)


def read_sampler(config: DictConfig) -> dict[str, Any]:
    """The options `sampler.*`, None for the model's own. Raises ValueError out of range."""
    steps, scale, eta = config.num_inference_steps, config.guidance_scale, config.eta
    return {
        "num_inference_steps": None if steps is None else int_at_least(steps, "sampler.num_inference_steps", 1),
        "guidance_scale": None if scale is None else finite(scale, "sampler.guidance_scale"),
        "eta": None if eta is None else between(eta, "sampler.eta", 0, 1),
    }
