"""The rows of the table: whose dances are compared, and the files that hold them.

The ground truth and two baselines are always there; a row a checkpoint, whose dances are made here, and a row a folder
of videos that others made. Every row is files from here on, and is scored alike.
"""

import hashlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from zoo.batch import MOTION_FPS
from zoo.body.detection.base import PoseDetector
from zoo.data.base import DataSource, EvalClip
from zoo.families.base import Family, GenerationRequest, MotionGenerator, SamplingParams
from zoo.files import file_hash, write_atomic
from zoo.media import encode_frames
from zoo.metrics.base import OTHER_SONG, STILL_IMAGE
from zoo.music.encoder import MusicEncoder
from zoo.run.build import build_encoder
from zoo.run.checkpoint import WEIGHTS_FILE, load_family
from zoo.run.config import CONFIG_FILE, load_renderer
from zoo.run.evaluate.cost import Meter
from zoo.run.evaluate.protocol import Protocol, digest
from zoo.run.evaluate.records import Facts, file_name, read_json, with_suffix, write_arrays, write_json
from zoo.run.sample.generate import fast_denoisers

TRUTH = "ground truth"
AGAIN = 1 << 20  # added to a clip's seed for its second dance
PROMPTS = ("caption", "style")  # of a take: what it is said to show, or its label
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".gif")
DANCES_CODE = ("families", "nn", "diffusion", "music", "body")  # rooms whose code decides what a checkpoint dances


@dataclass
class Row:
    """One line of the table. id: the hash of what made it; by clip: `videos` (what is scored), `motions` (.npz with
    the `motion` it shows and perhaps `motion_again`), `excluded` (why a clip is not scored)."""

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


def truth_row(clips: Sequence[Facts], content: str) -> Row:
    """What was really danced."""
    videos, motions = ({clip.key: clip.file(suffix) for clip in clips} for suffix in (".mp4", ".npz"))
    return Row(TRUTH, "truth", content, videos, motions)


def frozen_row(clips: Sequence[Facts], content: str, protocol: Protocol, out: Path) -> Row:
    """The reference picture, held still."""
    row = Row(STILL_IMAGE, "baseline", digest(content, STILL_IMAGE))
    for clip in clips:
        path = row.videos[clip.key] = out / f"{file_name(STILL_IMAGE)}-{row.id}" / f"{file_name(clip.key)}.mp4"
        if not path.is_file():
            still = np.repeat(clip.read()["reference"][None], protocol.cut.frames, 0)
            write_atomic(path, encode_frames(still, protocol.cut.rate, crf=0))
    return row


def other_row(clips: Sequence[Facts], content: str) -> Row:
    """Each clip danced by the ground truth of another one: another song's, another dancer's, each used once."""
    row = Row(OTHER_SONG, "baseline", digest(content, OTHER_SONG))
    for clip, other in zip(clips, pair_up([clip.labels for clip in clips]), strict=True):
        if other is None:
            row.excluded[clip.key] = "no clip of another song and another dancer is left for it"
        else:
            row.videos[clip.key], row.motions[clip.key] = clips[other].file(".mp4"), clips[other].file(".npz")
    return row


def pair_up(labels: Sequence[dict[str, str]]) -> list[int | None]:
    """For each clip another one with another song and another dancer, none twice, half the list away where it can be.

    A label that is not known does not speak against a pair. None for clips that cannot all have one.
    """
    count = len(labels)
    cost = np.empty((count, count))
    for i, own in enumerate(labels):
        for j, other in enumerate(labels):
            same = any(own.get(name, i) == other.get(name, j) for name in ("song", "dancer"))
            cost[i, j] = count**2 if i == j or same else (j - i - count // 2) % count
    return [int(j) if cost[i, j] < count**2 else None for i, j in zip(*linear_sum_assignment(cost), strict=True)]


def videos_row(folder: Path, name: str, clips: Sequence[Facts]) -> Row:
    """Videos made elsewhere: KEY.mp4, or another suffix, for each clip. Raises ValueError when none is there."""
    row = Row(name, "videos", "")
    found: dict[str, list[Path]] = {}
    others = 0
    names = {file_name(clip.key) for clip in clips}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and path.stem in names:
            found.setdefault(path.stem, []).append(path)
        else:
            others += 1
    if not found:
        first = file_name(clips[0].key)
        raise ValueError(f"videos={folder} has no video named after a clip, such as {first}.mp4; inputs=DIR lists them")
    for clip in clips:
        paths = found.get(file_name(clip.key), [])
        if len(paths) == 1:
            row.videos[clip.key] = paths[0]
        else:
            row.excluded[clip.key] = "there is no video of it" if not paths else "two videos have its name"
    if others:
        row.notes.append(f"{others} other files in {folder} were left out: they are not named after a clip")
    row.id = digest({key: mark_of(path) for key, path in row.videos.items()})
    return row


mark_of = cache(file_hash)  # each file is read once a process


# Checkpoints ---------------------------------------------------------------------------------------------------------


@dataclass
class Dancer:
    """A checkpoint, loaded: what it is called, its family, and how it hears."""

    name: str
    path: Path
    family: Family
    encoder: MusicEncoder
    trained: DictConfig
    renderer: str | None = None  # of magicdance; None is its own
    precision: str | None = None  # of its denoisers, see `zoo.nn.cpu_inference`

    def use_renderer(self, options: Mapping[str, Any] | None, detector: PoseDetector | None) -> None:
        """Draw with the renderer of `config.renderer`, or with the family's own. Where it finds no figure, its fallback
        draws. Raises ValueError for a family without renderers, and without a detector that the renderer needs."""
        node = load_renderer(options) or load_renderer({"name": self.family.default_renderer})
        if node is None:
            return
        if node["needs_detector"] and detector is None:
            raise ValueError(
                f"renderer={node['name']} finds the figure in the image by a detector: give weights.pose_detector=FILE"
            )
        self.family.configure({"renderer": node, "pose_detector": detector, "use_fallback": True})
        # what was danced before without naming the default stays valid
        self.renderer = node["name"] if node["needs_detector"] or load_renderer(options) else None

    def row_id(self, content: str, protocol: Protocol, sampler: SamplingParams, averaged: bool, prompt: str) -> str:
        """A hash of everything that decides its dances."""
        files = [self.path / WEIGHTS_FILE, self.path / CONFIG_FILE] if self.path.is_dir() else [self.path]
        weights = [mark_of(file) for file in files]
        dances = protocol.seed, protocol.repeats, *(one for one in (self.renderer, self.precision) if one)
        return digest(content, dances, weights, averaged, prompt, vars(sampler), self.encoder.cache_key, _code())


@cache  # of the code that this process runs, whatever is edited meanwhile
def _code() -> str:
    root = Path(__file__).parents[2]
    files = [root / "batch.py", *(file for room in DANCES_CODE for file in sorted((root / room).rglob("*.py")))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def load_dancer(name: str, path: Path, averaged: bool, precision: str | None) -> Dancer:
    """Raises ValueError, with its name, for a checkpoint that cannot be loaded, whose encoder cannot hear here, or that
    has no network for this precision."""
    family, trained = load_family(path, averaged)
    try:
        encoder = build_encoder(trained)
    except ValueError as error:
        raise ValueError(f"ckpt={name} needs a music encoder that cannot be built here: {error}") from None
    if precision is not None and not family.denoisers():
        raise ValueError(f"precision={precision}: ckpt={name} has no network that it is for")
    return Dancer(name, path, family, encoder, trained, precision=precision)


def checkpoint_row(
    dancer: Dancer,
    source: DataSource,
    clips: Sequence[Facts],
    content: str,
    protocol: Protocol,
    sampler: SamplingParams,
    averaged: bool,
    prompt: str,
    device: torch.device,
    out: Path,
) -> Row:
    """Dance every clip that was not danced yet, and keep frames without loss, exact motion and cost.

    prompt: one of PROMPTS. Raises ValueError for data that the model cannot dance to.
    """
    row = Row(dancer.name, "checkpoint", dancer.row_id(content, protocol, sampler, averaged, prompt))
    folder = out / f"{file_name(dancer.name)}-{row.id}"
    stems = [folder / file_name(clip.key) for clip in clips]
    missing = [index for index, stem in enumerate(stems) if not with_suffix(stem, ".json").is_file()]
    if missing:
        try:
            takes = source.eval_clips(protocol.split, protocol.cut, dancer.encoder)
        except ValueError as error:
            raise ValueError(f"ckpt={dancer.name} cannot dance to this data: {error}") from None
        unnamed = [clip.key for clip in clips if prompt == "style" and "style" not in clip.labels]
        if unnamed:
            raise ValueError(f"prompt=style: the data does not say in which style {unnamed[0]} is danced")
        family = dancer.family.to(device)
        for index in tqdm(missing, desc=f"{dancer.name}: dancing", unit="clip", disable=None, dynamic_ncols=True):
            assert takes.keys[index] == clips[index].key, "the clips come in a fixed order"
            take = takes[index]
            words = take.caption if prompt == "caption" else take.labels["style"]
            with fast_denoisers(family, dancer.precision):
                _dance(family, take, words, index, protocol, sampler, device, stems[index])
        family.cpu()
    costs = [read_json(with_suffix(stem, ".json")) for stem in stems]
    for clip, stem in zip(clips, stems, strict=True):
        row.videos[clip.key] = with_suffix(stem, ".mp4")
        if with_suffix(stem, ".npz").is_file():
            row.motions[clip.key] = with_suffix(stem, ".npz")
    row.cost = {
        "seconds_per_second": statistics.median(cost["seconds"] for cost in costs) / float(protocol.cut.seconds),
        "peak_memory_mb": max((cost["peak_memory_mb"] for cost in costs if cost["peak_memory_mb"]), default=None),
        "parameters": sum(parameter.numel() for parameter in dancer.family.parameters()),
    }
    return row


def _dance(
    family: Family,
    take: EvalClip,
    words: str,
    index: int,
    protocol: Protocol,
    sampler: SamplingParams,
    device: torch.device,
    stem: Path,
) -> None:
    """Make one clip's files; the .json comes last."""
    cut, seed = protocol.cut, protocol.seed + index
    picture = torch.from_numpy(take.reference).permute(2, 0, 1).to(device)
    music = replace(take.music, features=take.music.features.to(device))
    with torch.inference_mode():
        with Meter(device) as meter:
            blocks = family.generate(GenerationRequest(picture, music, cut.frames, cut.rate, words, seed, sampler))
            frames = torch.cat([block.cpu() for block in blocks])
        assert len(frames) == cut.frames, f"{len(frames)} frames came where {cut.frames} were asked for"
        if isinstance(family, MotionGenerator):
            seeds = {"motion": seed} | ({"motion_again": seed + AGAIN} if index < protocol.repeats else {})
            length = ceil(cut.seconds * MOTION_FPS)
            dances = {name: _joined(family.generate_motion(music, length, one, sampler)) for name, one in seeds.items()}
            write_arrays(with_suffix(stem, ".npz"), dances)
    write_atomic(with_suffix(stem, ".mp4"), encode_frames(frames.permute(0, 2, 3, 1).numpy(), cut.rate, crf=0))
    write_json(with_suffix(stem, ".json"), {"seconds": meter.seconds, "peak_memory_mb": meter.peak_mb, "seed": seed})


def _joined(blocks: Iterable[torch.Tensor]) -> np.ndarray:
    return torch.cat([block.cpu() for block in blocks]).float().numpy()
