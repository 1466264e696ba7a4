"""From the samples of shards to training items: windows of dances, cut on the exact clock.

Times in a sample's .json are seconds of its sound; its motion and frames begin `start` seconds into that sound.
"""

import bisect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from zoo.batch import MOTION_FPS, Batch
from zoo.body.skeleton import joints_of, resample
from zoo.data.base import PICTURES, Piece, WindowSpec
from zoo.data.music_cache import Features
from zoo.data.shard_builder.move_captions import caption
from zoo.music.beats import beat_phase, beats_to_frames

LABELS = ("song", "dancer", "style", "camera")


def song_of(sample) -> str:
    """The name of a sample's song: what splits are made by."""
    return sample.info.get("song", sample.key)


def provided_by(sample) -> frozenset[str]:
    """Keys of the batch contract that one sample can fill."""
    keys = {"key", "fps"} | set(sample.places) - {"info", "sound"} | set(sample.info) & set(LABELS)
    if "frames" in sample.places:
        keys |= {"frame_indices"}
    if "motion" in sample.places:
        keys |= {"joints3d"}
    if "sound" in sample.places:
        keys |= {"music", "music_rate", "beats", "beat_phase"}
    if "moves" in sample.info:
        keys |= {"caption", "move"}
    if "caption" in sample.info:
        keys |= {"caption"}
    return frozenset(keys)


def make_dataset(
    reader, samples: list, needs: Iterable[str], clip: WindowSpec, split: str, features: Features
) -> Dataset:
    """Windows of the samples with the keys of `needs`: from memory, or decoded one by one where pictures are needed."""
    kind = ClipWindows if PICTURES & set(needs) else MotionWindows
    return kind(reader, samples, needs, clip, split, features)


def pieces_of(reader, samples: list, features: Features) -> Iterator[Piece]:
    """Whole dances with their songs."""
    for sample in samples:
        waveform, sample_rate = reader.read(sample, "sound")
        music = features.music(sample.info["sound_id"])
        yield Piece(
            key=sample.key,
            labels={name: sample.info[name] for name in LABELS if name in sample.info},
            music=music,
            beats=np.array(sample.info["beats"], np.float64) if "beats" in sample.info else music.beats.times,
            motion=torch.from_numpy(reader.read(sample, "motion")),
            waveform=waveform,
            sample_rate=sample_rate,
        )


class Windows(Dataset, ABC):
    """What both kinds share: which windows there are, their labels, words, music and beats."""

    def __init__(self, reader, samples: list, needs: Iterable[str], clip: WindowSpec, split: str, features: Features):
        self.reader, self.samples, self.clip, self.features = reader, samples, clip, features
        self.needs = frozenset(needs) | {"key"}
        self.windows: list[tuple[int, float]] = []  # (sample, seconds from its start)
        self.beat_times: list[np.ndarray] = []
        self.move_starts: list[list[float]] = []
        hears = bool(self.needs & {"music", "beats", "beat_phase"})
        for index, sample in enumerate(samples):
            duration = self._duration(sample)
            if hears:
                heard, beats = features.get(sample.info["sound_id"])
                duration = min(duration, len(heard) / features.encoder.rate - sample.info.get("start", 0.0))
                self.beat_times.append(np.array(sample.info["beats"]) if "beats" in sample.info else beats.times)
            self.move_starts.append([move[0] for move in sample.info.get("moves", [])])
            self.windows += [(index, start) for start in clip.starts(duration, split)]

    @abstractmethod
    def _duration(self, sample) -> float:
        """Seconds of a sample."""

    def __len__(self) -> int:
        return len(self.windows)

    def words(self, window: int) -> dict[str, str]:
        """Texts of one window: key, labels, caption, the move at its middle."""
        index, offset = self.windows[window]
        sample = self.samples[index]
        start = sample.info.get("start", 0.0) + offset
        texts = {"key": f"{sample.key}@{offset:g}"}
        texts |= {name: sample.info[name] for name in self.needs & set(LABELS)}
        if "move" in self.needs:
            at = bisect.bisect_right(self.move_starts[index], start + self.clip.seconds / 2) - 1
            texts["move"] = sample.info["moves"][max(at, 0)][2]
        if "caption" in self.needs:
            moves = sample.info.get("moves")  # without them, the line that came with the clip
            made = moves and caption(moves, start, start + self.clip.seconds, texts["key"])
            texts["caption"] = made or sample.info["caption"]
        return texts

    def music(self, window: int) -> np.ndarray:
        """(L, D): the song's tokens over exactly the window's time."""
        index, offset = self.windows[window]
        info, rate = self.samples[index].info, self.features.encoder.rate
        tokens = self.features.get(info["sound_id"])[0]
        count = self.clip.tokens(rate)
        first = min(round((info.get("start", 0.0) + offset) * rate), len(tokens) - count)
        return tokens[first : first + count]

    def beats(self, window: int) -> np.ndarray:
        """(F,) int64, 1 on the frames that a beat falls on."""
        return beats_to_frames(self._beat_times(window), self.clip.num_frames, self.clip.rate)

    def beat_phase(self, window: int) -> np.ndarray:
        """(F, 2) float32: where between two beats each frame lies."""
        return beat_phase(self._beat_times(window), np.arange(self.clip.num_frames) / float(self.clip.rate))

    def _beat_times(self, window: int) -> np.ndarray:
        """Seconds from the window's start."""
        index, offset = self.windows[window]
        return self.beat_times[index] - (self.samples[index].info.get("start", 0.0) + offset)

    def constants(self) -> dict[str, float]:
        """Values that are the same for every window."""
        values = {"fps": float(self.clip.rate), "music_rate": float(self.features.encoder.rate)}
        return {name: value for name, value in values.items() if name in self.needs | {"fps"}}

    def joints(self, motion: Tensor) -> Tensor:
        """(..., T, 151) -> (..., F, 24, 3) metres, at the clip's frame times."""
        if self.clip.rate == MOTION_FPS:
            return joints_of(motion)
        times = torch.arange(self.clip.num_frames, dtype=torch.float64) / float(self.clip.rate)
        return torch.stack([joints_of(resample(one, times)) for one in motion.reshape(-1, *motion.shape[-2:])]).reshape(
            *motion.shape[:-2], self.clip.num_frames, 24, 3
        )


class MotionWindows(Windows):
    """Sound, motion and words, all in memory; gives whole batches at once (`__getitems__`)."""

    def __init__(self, reader, samples, needs, clip, split, features):
        self.motions = [torch.from_numpy(reader.read(sample, "motion")) for sample in samples]
        self.lengths = {sample.key: len(motion) for sample, motion in zip(samples, self.motions, strict=True)}
        super().__init__(reader, samples, needs, clip, split, features)
        bases = np.cumsum([0] + [len(motion) for motion in self.motions])
        self.motion = torch.cat(self.motions) if self.motions else torch.empty(0, 151)
        self.motions = None
        self.first = torch.tensor([bases[index] + round(start * MOTION_FPS) for index, start in self.windows])

    def _duration(self, sample) -> float:
        return self.lengths[sample.key] / MOTION_FPS

    def __getitem__(self, window: int) -> dict:
        batch = self.__getitems__([window])
        return {name: value if isinstance(value, float) else value[0] for name, value in batch.items()}

    def __getitems__(self, windows: list[int]) -> Batch:
        batch: dict = self.constants()
        texts = [self.words(window) for window in windows]
        batch |= {name: [text[name] for text in texts] for name in texts[0]}
        motion = None
        if self.needs & {"motion", "joints3d"}:
            rows = self.first[windows][:, None] + torch.arange(self.clip.tokens(MOTION_FPS))
            motion = self.motion[rows.flatten()].unflatten(0, rows.shape)
        if "motion" in self.needs:
            batch["motion"] = motion
        if "joints3d" in self.needs:
            batch["joints3d"] = self.joints(motion)
        if "music" in self.needs:
            batch["music"] = torch.from_numpy(np.stack([self.music(window) for window in windows]))
        if "beats" in self.needs:
            batch["beats"] = torch.from_numpy(np.stack([self.beats(window) for window in windows]))
        if "beat_phase" in self.needs:
            batch["beat_phase"] = torch.from_numpy(np.stack([self.beat_phase(window) for window in windows]))
        return batch


class ClipWindows(Windows):
    """Windows of rendered or filmed clips with their maps, decoded when they are asked for.

    Index `draw * len + window` is the window's `draw`-th draw, which matters to `clip.num_sampled_frames` alone.
    """

    def __init__(self, reader, samples, needs, clip, split, features):
        self._kept: dict[int, dict[str, np.ndarray]] = {}
        for sample in samples:
            absent = [name for name in ("fps", "frames", "height", "width") if name not in sample.info]
            if absent:
                raise ValueError(
                    f"shard {sample.path}: {sample.key}.json does not say {', '.join(absent)} of its pictures"
                )
            stored = Fraction(str(sample.info["fps"]))
            if clip.rate > stored:
                raise ValueError(
                    f"clip.fps {clip.fps} is above the {stored} of {sample.path}: ask for at most {stored}"
                )
            height, width = sample.info["height"], sample.info["width"]
            if height * clip.width != width * clip.height:
                raise ValueError(
                    f"clips of {clip.height}x{clip.width} cannot be had from {height}x{width} in {sample.path} "
                    "without distortion: ask for the same proportions"
                )
        super().__init__(reader, samples, needs, clip, split, features)

    def _duration(self, sample) -> float:
        return sample.info["frames"] / float(Fraction(str(sample.info["fps"])))

    def _read(self, index: int, field: str) -> np.ndarray:
        """All of one field of a sample, decoded once if it is to be kept."""
        kept = self._kept.get(index)
        if kept is None:
            kept = {}
            if len(self._kept) < self.clip.decoded_cache_size:
                self._kept[index] = kept
        if field not in kept:
            kept[field] = self.reader.read(self.samples[index], field)
        return kept[field]

    def __getitem__(self, place: int) -> dict:
        draw, window = divmod(place, len(self))
        index, offset = self.windows[window]
        sample = self.samples[index]
        stored = Fraction(str(sample.info["fps"]))
        first = Fraction(str(offset))
        rows = [round((first + i / self.clip.rate) * stored) for i in range(self.clip.num_frames)]
        rows = np.minimum(rows, sample.info["frames"] - 1)
        if self.clip.num_sampled_frames is not None:
            rows = rows[np.random.default_rng([draw, window]).permutation(len(rows))[: self.clip.num_sampled_frames]]
        item = self.constants() | self.words(window)
        if "frame_indices" in self.needs:
            item["frame_indices"] = torch.from_numpy(rows)
        for field, read in _PICTURES.items():
            if field in self.needs:
                values = self._read(index, field)
                values = values[None] if field == "reference" else values[rows]
                values = read(
                    values, (self.clip.height, self.clip.width), (sample.info["height"], sample.info["width"])
                )
                item[field] = values[0] if field == "reference" else values
        if "joints3d" in self.needs:
            item["joints3d"] = torch.from_numpy(self.reader.read(sample, "joints3d")[rows])
        if "motion" in self.needs:
            motion = self.reader.read(sample, "motion")
            count = self.clip.tokens(MOTION_FPS)
            start = min(round(offset * MOTION_FPS), len(motion) - count)
            item["motion"] = torch.from_numpy(motion[start : start + count])
        if "music" in self.needs:
            item["music"] = torch.from_numpy(np.array(self.music(window)))
        if "beats" in self.needs:
            item["beats"] = torch.from_numpy(self.beats(window))
        if "beat_phase" in self.needs:
            item["beat_phase"] = torch.from_numpy(self.beat_phase(window))
        return item


Size = tuple[int, int]


def _smooth(values: Tensor, size: Size) -> Tensor:
    """(F, C, h, w) float to another size: averaged where it shrinks."""
    if values.shape[-2:] == size:
        return values
    return F.interpolate(values, size, mode="bilinear", antialias=True, align_corners=False)


def _pictures(values: np.ndarray, size: Size, stored: Size) -> Tensor:
    """(F, H, W, 3) uint8 -> (F, 3, H, W) in [-1, 1]"""
    return (_smooth(torch.from_numpy(values).movedim(-1, 1).float(), size) / 127.5 - 1).clamp(-1, 1)


def _labels(values: np.ndarray, size: Size, stored: Size) -> Tensor:
    """(F, H, W) uint8 -> the same, nearest"""
    labels = torch.from_numpy(values)
    return labels if labels.shape[-2:] == size else F.interpolate(labels[:, None], size, mode="nearest-exact")[:, 0]


def _depth(values: np.ndarray, size: Size, stored: Size) -> Tensor:
    return _smooth(torch.from_numpy(values)[:, None], size)[:, 0]


def _normal(values: np.ndarray, size: Size, stored: Size) -> Tensor:
    return _smooth(torch.from_numpy(values).movedim(-1, 1), size)


def _heatmaps(values: np.ndarray, size: Size, stored: Size) -> Tensor:
    return _smooth(torch.from_numpy(values), (size[0] // 4, size[1] // 4))


def _joints2d(values: np.ndarray, size: Size, stored: Size) -> Tensor:
    """Pixels of the stored picture -> pixels of this one; (0, 0) is the corner of the picture."""
    return torch.from_numpy(values) * torch.tensor([size[1] / stored[1], size[0] / stored[0]])


_PICTURES: dict[str, Callable[[np.ndarray, Size, Size], Tensor]] = {
    "frames": _pictures,
    "reference": _pictures,
    "skeleton": _pictures,
    "parts": _labels,
    "semantic": _labels,
    "depth": _depth,
    "normal": _normal,
    "heatmaps": _heatmaps,
    "joints2d": _joints2d,
}
