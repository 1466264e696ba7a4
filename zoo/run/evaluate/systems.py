"""The systems of the table, and the files that hold their dances.

The ground truth and two baselines are always included. Each checkpoint is a system whose dances are generated here, and
each folder of videos is a system from outside. From here on a system is a set of files, and all are scored alike.
"""

import hashlib
import inspect
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from tqdm import tqdm

from zoo.batch import MOTION_FPS
from zoo.body.camera import CAMERAS
from zoo.body.detection.base import PoseDetector
from zoo.body.image.alignment import turn_to_camera
from zoo.data.base import DataSource, EvalClip
from zoo.families.base import Family, GenerationRequest, MotionGenerator, SamplingParams
from zoo.files import file_hash, normalize_name, write_atomic
from zoo.media import encode_frames
from zoo.metrics.base import OTHER_SONG, STILL_IMAGE
from zoo.music.beats import BeatTracker
from zoo.music.encoder import MusicEncoder
from zoo.run.build import build_encoder
from zoo.run.checkpoint import load_family, weight_files
from zoo.run.config import CONFIG_FILE, load_renderer
from zoo.run.evaluate.cost import CostMeter
from zoo.run.evaluate.protocol import Protocol, fingerprint
from zoo.run.evaluate.records import StoredClip, clip_stem, file_stem, read_json, with_suffix, write_arrays, write_json
from zoo.run.sample.generate import fast_denoisers

GROUND_TRUTH = "ground truth"
REPEAT_SEED_OFFSET = 1 << 20  # added to a clip's seed for its second dance
PROMPTS = ("caption", "style")  # labels of a clip that a checkpoint is given as its prompt
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".gif")
GENERATION_PACKAGES = ("families", "nn", "diffusion", "music", "body")  # their code decides the generated dances

file_fingerprint = cache(file_hash)  # each file is read once in a process


@dataclass
class System:
    """One row of the table.

    id: hash of everything that decides its videos. By clip: `videos` (scored), `motions` (.npz with the `motion` that
    the video shows, and optionally `second_motion`), `excluded` (the reason why a clip is not scored).
    """

    name: str
    kind: Literal["truth", "baseline", "checkpoint", "videos"]
    id: str
    videos: dict[str, Path] = field(default_factory=dict)
    motions: dict[str, Path] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cost: dict[str, float | int | None] = field(
        default_factory=lambda: {"seconds_per_second": None, "peak_memory_mb": None, "parameters": None}
    )


def ground_truth_system(clips: Sequence[StoredClip], content: str) -> System:
    """The recorded dances. content: the fingerprint of the clips."""
    videos, motions = ({clip.key: clip.file(suffix) for clip in clips} for suffix in (".mp4", ".npz"))
    return System(GROUND_TRUTH, "truth", content, videos, motions)


def still_image_system(clips: Sequence[StoredClip], content: str, protocol: Protocol, out: Path) -> System:
    """Baseline: the reference image in every frame."""
    system = System(STILL_IMAGE, "baseline", fingerprint(content, STILL_IMAGE))
    for clip in clips:
        path = system.videos[clip.key] = out / f"{file_stem(STILL_IMAGE)}-{system.id}" / f"{clip_stem(clip.key)}.mp4"
        if not path.is_file():
            frames = np.repeat(clip.read()["reference"][None], protocol.clip_spec.frames, 0)
            write_atomic(path, encode_frames(frames, protocol.clip_spec.rate, crf=0))
    return system


def other_song_system(clips: Sequence[StoredClip], content: str) -> System:
    """Baseline: the ground truth of another clip, with another song and another dancer; each is used once."""
    system = System(OTHER_SONG, "baseline", fingerprint(content, OTHER_SONG))
    for clip, partner in zip(clips, pair_clips([clip.labels for clip in clips]), strict=True):
        if partner is None:
            system.excluded[clip.key] = "no clip of another song and another dancer is left for it"
        else:
            system.videos[clip.key] = clips[partner].file(".mp4")
            system.motions[clip.key] = clips[partner].file(".npz")
    return system


def pair_clips(labels: Sequence[dict[str, str]]) -> list[int | None]:
    """Pair each clip with another one of another song and dancer, each used once, half the list away where possible.

    A missing label never forbids a pair. None for clips that cannot all be paired.
    """
    num_clips = len(labels)
    cost = np.empty((num_clips, num_clips))
    for i, clip_labels in enumerate(labels):
        for j, partner_labels in enumerate(labels):
            is_same = any(clip_labels.get(name, i) == partner_labels.get(name, j) for name in ("song", "dancer"))
            cost[i, j] = num_clips**2 if i == j or is_same else (j - i - num_clips // 2) % num_clips
    return [int(j) if cost[i, j] < num_clips**2 else None for i, j in zip(*linear_sum_assignment(cost), strict=True)]


def videos_system(folder: Path, name: str, clips: Sequence[StoredClip]) -> System:
    """Videos from outside: KEY.mp4, or another suffix, for each clip. Raises ValueError when there is none."""
    system = System(name, "videos", "")
    videos: dict[str, list[Path]] = {}
    num_ignored = 0
    clip_stems = {normalize_name(clip_stem(clip.key)) for clip in clips}
    for path in sorted(folder.iterdir()):
        stem = normalize_name(path.stem)
        if path.suffix.lower() in VIDEO_SUFFIXES and stem in clip_stems:
            videos.setdefault(stem, []).append(path)
        else:
            num_ignored += 1
    if not videos:
        example = clip_stem(clips[0].key)
        raise ValueError(
            f"videos={folder} has no video named after a clip, such as {example}.mp4; export_inputs=DIR lists the names"
        )
    for clip in clips:
        paths = videos.get(normalize_name(clip_stem(clip.key)), [])
        if len(paths) == 1:
            system.videos[clip.key] = paths[0]
        else:
            system.excluded[clip.key] = "there is no video of it" if not paths else "two videos have its name"
    if num_ignored:
        system.notes.append(f"{num_ignored} other files in {folder} were ignored: they are not named after a clip")
    system.id = fingerprint({key: file_fingerprint(path) for key, path in system.videos.items()})
    return system


# Checkpoints ---------------------------------------------------------------------------------------------------------


@dataclass
class EvaluatedCheckpoint:
    """A loaded checkpoint with its music encoder and sampling options."""

    name: str
    path: Path
    family: Family
    encoder: MusicEncoder
    config: DictConfig
    renderer: str | None = None  # None: the family's default
    renderer_options: Mapping[str, Any] = field(default_factory=dict)  # of a chosen renderer
    precision: str | None = None  # of its denoisers, see `zoo.nn.cpu_inference`
    options: Mapping[str, Any] | None = None  # of the family, for this row alone, such as those of `Family.ablations`
    is_baseline: bool = False  # made of a checkpoint's own parts: it does not compete
    is_reconstruction: bool = False  # of the true frames, see `Family.reconstruct`

    def configure(
        self, options: Mapping[str, Any] | None, detector: PoseDetector | None, precision: str | None
    ) -> None:
        """Configure the renderer of `config.renderer`, or the family's default, and the precision of its denoisers.

        Where it finds no figure, its fallback draws. A row with options of its own has them instead. `precision` is
        left out where the renderer or the family has no denoiser that it applies to. Raises ValueError for a family
        without renderers, and without a detector that the renderer needs.
        """
        other_options = dict(self.options or {})
        options = other_options.pop("renderer", options)
        if other_options:
            self.family.configure(other_options)
        self._choose_renderer(options, detector)
        self.precision = precision if self.family.denoisers() else None

    def _choose_renderer(self, options: Mapping[str, Any] | None, detector: PoseDetector | None) -> None:
        renderer_config = load_renderer(options) or load_renderer({"name": self.family.default_renderer})
        if renderer_config is None:
            return
        needs_detector = bool(renderer_config.get("needs_detector"))
        if needs_detector and detector is None and not renderer_config.get("has_fallback"):
            raise ValueError(
                f"renderer={renderer_config['name']} finds the figure in the image by a detector: "
                "give weights.pose_detector=FILE"
            )
        self.family.configure(
            {"renderer": renderer_config, "pose_detector": detector, "use_fallback": True, "same_size": True}
        )
        # dances that were generated without naming the default renderer stay valid
        self.renderer = renderer_config["name"] if needs_detector or load_renderer(options) else None
        reserved_keys = ("name", "_target_", "needs_detector", "has_fallback")
        self.renderer_options = {
            key: value for key, value in renderer_config.items() if self.renderer and key not in reserved_keys
        }

    def system_id(
        self,
        content: str,
        protocol: Protocol,
        sampling: SamplingParams,
        use_ema: bool,
        prompt: str,
        device: torch.device,
    ) -> str:
        """Hash everything that decides its dances: of the device its kind, which decides the default precision."""
        files = [*weight_files(self.path), self.path / CONFIG_FILE] if self.path.is_dir() else [self.path]
        hashes = [file_fingerprint(file) for file in files]
        other_device = "" if device.type == "cpu" else device.type  # dances of a CPU keep the id that they always had
        chosen = (
            self.renderer, self.renderer_options, self.precision, self.options, self.is_reconstruction, other_device
        )  # fmt: skip
        options = [option for option in chosen if option]
        options += ["exact motion"] if protocol.exact_motion else []
        settings = (protocol.seed, protocol.repeats, *options, use_ema, prompt, vars(sampling))
        return fingerprint(content, hashes, settings, self.encoder.cache_key, _code_hash(), _foreign_code(self.family))


@cache  # of the code that this process runs, even if files are edited meanwhile
def _code_hash() -> str:
    root = Path(__file__).parents[2]
    files = [root / "batch.py", *(path for name in GENERATION_PACKAGES for path in sorted((root / name).rglob("*.py")))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _foreign_code(family: Family) -> str:
    """The hash of a family's package outside the zoo, '' for the zoo's own families."""
    if type(family).__module__.startswith("zoo."):
        return ""
    return file_fingerprint(*sorted(Path(inspect.getfile(type(family))).parent.glob("*.py")))


def load_checkpoint(
    name: str, path: Path, use_ema: bool, beat_tracker: BeatTracker | None = None
) -> EvaluatedCheckpoint:
    """Load a checkpoint and its music encoder. Raises ValueError, with its name, where one of them cannot be loaded."""
    family, config = load_family(path, use_ema)
    try:
        encoder = build_encoder(config, beat_tracker)
    except ValueError as error:
        raise ValueError(f"ckpt={name} needs a music encoder that cannot be built: {error}") from None
    return EvaluatedCheckpoint(name, path, family, encoder, config)


def with_trained_renderers(
    checkpoint: EvaluatedCheckpoint, use_ema: bool, renderer: Mapping[str, Any] | None
) -> Iterator[EvaluatedCheckpoint]:
    """A checkpoint, and with its other renderers that were trained, unless one is chosen for all."""
    yield checkpoint
    for name in checkpoint.family.trained_renderers if renderer is None else ():
        if name != checkpoint.family.default_renderer:
            family, config = load_family(checkpoint.path, use_ema)
            options = {"renderer": {"name": name}}
            row_name = f"{checkpoint.name} renderer={name}"
            yield replace(checkpoint, name=row_name, family=family, config=config, options=options)


def ablated_checkpoints(
    checkpoint: EvaluatedCheckpoint, use_ema: bool, renderer: Mapping[str, Any] | None
) -> Iterator[EvaluatedCheckpoint]:
    """The baselines of a checkpoint, see `Family.ablations`. Those of another than the chosen renderer are left out."""
    own_renderer = (checkpoint.options or {}).get("renderer", renderer) or {}
    chosen_renderer = own_renderer.get("name") or checkpoint.family.default_renderer
    for name, options in checkpoint.family.ablations().items():
        if options.get("renderer", {"name": chosen_renderer})["name"] == chosen_renderer:
            family, config = load_family(checkpoint.path, use_ema)
            name = f"{checkpoint.name} {name}"
            yield replace(checkpoint, name=name, family=family, config=config, options=options, is_baseline=True)


def reconstructions(checkpoint: EvaluatedCheckpoint) -> Iterator[EvaluatedCheckpoint]:
    """The row of a checkpoint's autoencoder, where it has one: the true frames, encoded and decoded."""
    if checkpoint.family.can_reconstruct:
        yield replace(checkpoint, name=f"{checkpoint.name} reconstruction", is_baseline=True, is_reconstruction=True)


def checkpoint_system(
    checkpoint: EvaluatedCheckpoint,
    source: DataSource,
    clips: Sequence[StoredClip],
    content: str,
    protocol: Protocol,
    sampling: SamplingParams,
    use_ema: bool,
    prompt: str,
    device: torch.device,
    out: Path,
) -> System:
    """Generate the missing clips of a checkpoint, and store lossless frames, exact motion and cost.

    prompt: one of PROMPTS. Raises ValueError for data that the model cannot use.
    """
    name, clip_spec = checkpoint.name, protocol.clip_spec
    system_kind: Literal["baseline", "checkpoint"] = "baseline" if checkpoint.is_baseline else "checkpoint"
    system = System(name, system_kind, checkpoint.system_id(content, protocol, sampling, use_ema, prompt, device))
    folder = out / f"{file_stem(name)}-{system.id}"
    stems = [folder / clip_stem(clip.key) for clip in clips]
    missing = [index for index, stem in enumerate(stems) if not with_suffix(stem, ".json").is_file()]
    if missing:
        try:
            eval_clips = source.eval_clips(protocol.split, clip_spec, checkpoint.encoder)
        except ValueError as error:
            raise ValueError(f"ckpt={name} cannot dance to this data: {error}") from None
        without_style = [clip.key for clip in clips if prompt == "style" and "style" not in clip.labels]
        if without_style:
            raise ValueError(f"prompt=style: the data has no style label for {without_style[0]}")
        family = checkpoint.family.to(device)
        for index in tqdm(missing, desc=f"{name}: generating", unit="clip", disable=None, dynamic_ncols=True):
            assert eval_clips.keys[index] == clips[index].key, "the clips come in a fixed order"
            clip = eval_clips[index]
            text = clip.caption if prompt == "caption" else clip.labels["style"]
            with fast_denoisers(family, checkpoint.precision):
                _generate_clip(checkpoint, clip, text, index, protocol, sampling, device, stems[index])
        family.cpu()
    costs = [read_json(with_suffix(stem, ".json")) for stem in stems]
    for clip, stem in zip(clips, stems, strict=True):
        system.videos[clip.key] = with_suffix(stem, ".mp4")
        if with_suffix(stem, ".npz").is_file():
            system.motions[clip.key] = with_suffix(stem, ".npz")
    system.cost = {
        "seconds_per_second": statistics.median(cost["seconds"] for cost in costs) / float(clip_spec.seconds),
        "peak_memory_mb": max((cost["peak_memory_mb"] for cost in costs if cost["peak_memory_mb"]), default=None),
        "parameters": sum(
            parameter.numel()
            for name, parameter in checkpoint.family.named_parameters()
            if name.partition(".")[0] not in checkpoint.family.unused_parts
        ),
    }
    return system


def _generate_clip(
    checkpoint: EvaluatedCheckpoint,
    clip: EvalClip,
    prompt: str,
    index: int,
    protocol: Protocol,
    sampling: SamplingParams,
    device: torch.device,
    stem: Path,
) -> None:
    """Write the files of one clip; the .json file is written last."""
    family, clip_spec, seed = checkpoint.family, protocol.clip_spec, protocol.seed + index
    camera_motion = None
    if protocol.exact_motion:
        camera = clip.labels.get("camera")
        if clip.motion is None or camera not in CAMERAS:
            raise ValueError(f"the protocol needs exact motion and its camera, which clip {clip.key} lacks")
        camera_motion = turn_to_camera(clip.motion, CAMERAS[camera].azimuth)
    image = torch.from_numpy(clip.reference).permute(2, 0, 1).to(device)
    music = replace(clip.music, features=clip.music.features.to(device))
    with torch.inference_mode():
        with CostMeter(device) as meter:
            if checkpoint.is_reconstruction:
                blocks = family.reconstruct(image, torch.from_numpy(clip.frames).permute(0, 3, 1, 2).to(device))
            else:
                request = GenerationRequest(image, music, clip_spec.frames, clip_spec.rate, prompt, seed, sampling)
                blocks = (
                    family.generate(request) if camera_motion is None else family.render_motion(request, camera_motion)
                )
            frames = torch.cat([block.cpu() for block in blocks])
        assert len(frames) == clip_spec.frames, (
            f"the family generated {len(frames)} frames instead of {clip_spec.frames}"
        )
        if camera_motion is not None:
            write_arrays(with_suffix(stem, ".npz"), {"motion": camera_motion.numpy()})
        elif isinstance(family, MotionGenerator) and not checkpoint.is_reconstruction:
            seeds = {"motion": seed}
            if index < protocol.repeats:
                seeds["second_motion"] = seed + REPEAT_SEED_OFFSET
            num_motion_frames = ceil(clip_spec.seconds * MOTION_FPS)
            motions = {
                name: _concatenate(family.generate_motion(music, num_motion_frames, motion_seed, sampling))
                for name, motion_seed in seeds.items()
            }
            write_arrays(with_suffix(stem, ".npz"), motions)
    write_atomic(with_suffix(stem, ".mp4"), encode_frames(frames.permute(0, 2, 3, 1).numpy(), clip_spec.rate, crf=0))
    write_json(with_suffix(stem, ".json"), {"seconds": meter.seconds, "peak_memory_mb": meter.peak_mb, "seed": seed})


def _concatenate(blocks: Iterable[Tensor]) -> np.ndarray:
    return torch.cat([block.cpu() for block in blocks]).float().numpy()
