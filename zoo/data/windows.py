"""Training items from the samples of shards: windows of clips, cut on the exact clock.

Times in a sample's .json are seconds of its sound; its motion and frames begin `start` seconds into that sound.
"""

import bisect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import get_worker_info

from zoo.batch import MOTION_DIM, MOTION_FPS, Batch
from zoo.body.skeleton import joints_of, resample
from zoo.data.base import IMAGE_KEYS, ItemDataset, WindowSpec
from zoo.data.music_cache import MusicFeatureCache
from zoo.data.sample_format import EXTENSIONS
from zoo.data.shard_builder.move_captions import caption
from zoo.data.shard_file import DamageError, Sample, ShardReader
from zoo.music.beats import beat_phase, beats_to_frames

DECODED_CACHE_BYTES = 2 << 30  # of one training process and its loaders, see `WindowSpec.decoded_cache_size`
LABELS = ("song", "dancer", "style", "camera")
IMAGE_INFO_KEYS = ("fps", "frames", "height", "width")  # in the .json of every sample with frames


def song_of(sample: Sample) -> str:
    """The name of a sample's song: splits are made by it."""
    return sample.info.get("song", sample.key)


def stored_fps(sample: Sample) -> Fraction:
    """Frames a second of a sample's stored frames, exactly."""
    return Fraction(str(sample.info["fps"]))


def available_keys_of(sample: Sample) -> frozenset[str]:
    """Keys of the batch contract that one sample can fill."""
    keys = {"key", "fps"} | set(sample.byte_ranges) - {"info", "sound"} | set(sample.info) & set(LABELS)
    if "frames" in sample.byte_ranges:
        keys |= {"frame_indices"}
    if "motion" in sample.byte_ranges:
        keys |= {"joints3d"}
    if "sound" in sample.byte_ranges:
        keys |= {"music", "music_rate", "beats", "beat_phase"}
    if "moves" in sample.info:
        keys |= {"caption", "move"}
    if "caption" in sample.info:
        keys |= {"caption"}
    return frozenset(keys)


def check_image_window(sample: Sample, window: WindowSpec) -> None:
    """Raise ValueError, one line, when a sample's stored frames cannot give `window`: frame rate or proportions."""
    missing = [name for name in IMAGE_INFO_KEYS if name not in sample.info]
    if missing:
        raise ValueError(f"shard {sample.path}: {sample.key}.json does not give {', '.join(missing)} of its frames")
    fps = stored_fps(sample)
    if window.rate > fps:
        raise ValueError(f"clip.fps {window.fps} is above the {fps} of {sample.path}: ask for at most {fps}")
    height, width = sample.info["height"], sample.info["width"]
    if height * window.width != width * window.height:
        raise ValueError(
            f"clips of {window.height}x{window.width} cannot be made from {height}x{width} in {sample.path} "
            "without distortion: ask for the same proportions"
        )


def check_windows(samples: list[Sample], keys: Iterable[str], window: WindowSpec, split: str) -> None:
    """Raise ValueError, one line, when no window with these keys can be cut from the samples of a split."""
    if not IMAGE_KEYS & set(keys):
        return  # lengths of sound and motion are known when they are read
    for sample in samples:
        check_image_window(sample, window)
    longest_seconds = max((float(sample.info["frames"] / stored_fps(sample)) for sample in samples), default=0.0)
    if not window.window_starts(longest_seconds, split):
        raise ValueError(
            f"the longest {split} clip lasts {longest_seconds:.2f} s, "
            f"less than the {window.seconds:.2f} s of one window: use longer clips, or a smaller clip.num_frames"
        )


def make_dataset(
    reader: ShardReader,
    samples: list[Sample],
    keys: Iterable[str],
    window: WindowSpec,
    split: str,
    features: MusicFeatureCache,
) -> ItemDataset:
    """Windows of the samples with these keys: from memory, or decoded on access where a key needs images.

    A reader with `skip_damaged` names and leaves out samples that cannot be used.
    """
    if reader.skip_damaged and {"music", "beats", "beat_phase"} & set(keys):
        samples = [sample for sample in samples if _has_usable_sound(reader, sample, features)]
    dataset_class = VideoWindowDataset if IMAGE_KEYS & set(keys) else MotionWindowDataset
    return dataset_class(reader, samples, keys, window, split, features)


def _has_usable_sound(reader: ShardReader, sample: Sample, features: MusicFeatureCache) -> bool:
    problem = features.problem(sample.info["sound_id"])
    if problem is not None:
        reader.skip(DamageError(f"shard {sample.path}: {sample.key}.{EXTENSIONS['sound']} {problem}"))
    return problem is None


class WindowDataset(ItemDataset, ABC):
    """Base of both kinds: the list of windows with their labels, texts, music and beats."""

    def __init__(
        self,
        reader: ShardReader,
        samples: list[Sample],
        keys: Iterable[str],
        window: WindowSpec,
        split: str,
        features: MusicFeatureCache,
    ):
        """features: of the encoder in use, already built where a key needs music or beats."""
        self.reader, self.samples, self.window, self.features = reader, samples, window, features
        self.required_keys = frozenset(keys) | {"key"}
        self.windows: list[tuple[int, float]] = []  # (index of the sample, seconds from its start)
        # by sample, in seconds of its sound
        self.beat_times: list[np.ndarray] = []
        self.move_starts: list[list[float]] = []
        needs_music = bool(self.required_keys & {"music", "beats", "beat_phase"})
        for sample_index, sample in enumerate(samples):
            duration = self._duration(sample)
            if needs_music:
                music_tokens, detected_beats = features.get(sample.info["sound_id"])
                duration = min(duration, len(music_tokens) / features.encoder.rate - sample.info.get("start", 0.0))
                true_beats = sample.info.get("beats")
                self.beat_times.append(detected_beats.times if true_beats is None else np.array(true_beats))
            self.move_starts.append([move[0] for move in sample.info.get("moves", [])])
            self.windows += [(sample_index, start) for start in window.window_starts(duration, split)]

    @abstractmethod
    def _duration(self, sample: Sample) -> float:
        """Seconds of a sample."""

    def __len__(self) -> int:
        return len(self.windows)

    def texts(self, item: int) -> dict[str, str]:
        """Texts of one window: key, labels, caption, the move at its middle."""
        sample_index, window_start = self.windows[item]
        sample = self.samples[sample_index]
        start_in_sound = sample.info.get("start", 0.0) + window_start
        texts = {"key": f"{sample.key}@{window_start:g}"}
        texts |= {name: sample.info[name] for name in self.required_keys & set(LABELS)}
        if "move" in self.required_keys:
            move_index = (
                bisect.bisect_right(self.move_starts[sample_index], start_in_sound + self.window.seconds / 2) - 1
            )
            texts["move"] = sample.info["moves"][max(move_index, 0)][2]
        if "caption" in self.required_keys:
            moves = sample.info.get("moves")  # a sample without moves has one line for the whole clip
            move_caption = moves and caption(moves, start_in_sound, start_in_sound + self.window.seconds, texts["key"])
            texts["caption"] = move_caption or sample.info["caption"]
        return texts

    def music(self, item: int) -> np.ndarray:
        """(L, D): the song's tokens over exactly the time of the window."""
        sample_index, window_start = self.windows[item]
        sample_info, rate = self.samples[sample_index].info, self.features.encoder.rate
        tokens = self.features.get(sample_info["sound_id"])[0]
        num_tokens = self.window.num_tokens(rate)
        first_token = min(round((sample_info.get("start", 0.0) + window_start) * rate), len(tokens) - num_tokens)
        return tokens[first_token : first_token + num_tokens]

    def beats(self, item: int) -> np.ndarray:
        """(F,) int64, 1 on the frames that a beat falls on."""
        return beats_to_frames(self._beat_times(item), self.window.num_frames, self.window.rate)

    def beat_phase(self, item: int) -> np.ndarray:
        """(F, 2) float32: cosine and sine of the beat's phase at each frame."""
        times = np.arange(self.window.num_frames) / float(self.window.rate)
        return beat_phase(self._beat_times(item), times)

    def _beat_times(self, item: int) -> np.ndarray:
        """Seconds from the window's start."""
        sample_index, window_start = self.windows[item]
        return self.beat_times[sample_index] - (self.samples[sample_index].info.get("start", 0.0) + window_start)

    def constants(self) -> dict[str, float]:
        """Values that are the same for every window."""
        values = {"fps": float(self.window.rate), "music_rate": float(self.features.encoder.rate)}
        return {name: value for name, value in values.items() if name in self.required_keys | {"fps"}}

    def joints(self, motion: Tensor) -> Tensor:
        """(..., T, 151) -> (..., F, 24, 3) metres, at the window's frame times."""
        if self.window.rate == MOTION_FPS:
            return joints_of(motion)
        times = torch.arange(self.window.num_frames, dtype=torch.float64) / float(self.window.rate)
        motions = motion.reshape(-1, *motion.shape[-2:])
        joints = torch.stack([joints_of(resample(single_motion, times)) for single_motion in motions])
        return joints.reshape(*motion.shape[:-2], self.window.num_frames, 24, 3)


class MotionWindowDataset(WindowDataset):
    """Sound, motion and text, all in memory; builds whole batches at once (`__getitems__`)."""

    def __init__(
        self,
        reader: ShardReader,
        samples: list[Sample],
        keys: Iterable[str],
        window: WindowSpec,
        split: str,
        features: MusicFeatureCache,
    ):
        motions, readable_samples = [], []
        for sample in samples:
            try:
                motions.append(torch.from_numpy(reader.read(sample, "motion")))
                readable_samples.append(sample)
            except DamageError as error:
                reader.skip(error)
        samples = readable_samples
        # sample key -> motion frames
        self.lengths = {sample.key: len(motion) for sample, motion in zip(samples, motions, strict=True)}
        super().__init__(reader, samples, keys, window, split, features)
        sample_offsets = np.cumsum([0] + [len(motion) for motion in motions])
        self.motion = torch.cat(motions) if motions else torch.empty(0, MOTION_DIM)
        self.first_rows = torch.tensor(
            [sample_offsets[sample_index] + round(start * MOTION_FPS) for sample_index, start in self.windows]
        )

    def _duration(self, sample: Sample) -> float:
        return self.lengths[sample.key] / MOTION_FPS

    def __getitem__(self, item: int) -> dict:
        batch: dict[str, Any] = {**self.__getitems__([item])}
        return {name: value if isinstance(value, float) else value[0] for name, value in batch.items()}

    def __getitems__(self, items: list[int]) -> Batch:
        batch: dict[str, Any] = {**self.constants()}
        texts = [self.texts(item) for item in items]
        batch |= {name: [text[name] for text in texts] for name in texts[0]}
        if self.required_keys & {"motion", "joints3d"}:
            rows = self.first_rows[items][:, None] + torch.arange(self.window.num_tokens(MOTION_FPS))
            motion = self.motion[rows.flatten()].unflatten(0, rows.shape)
            if "motion" in self.required_keys:
                batch["motion"] = motion
            if "joints3d" in self.required_keys:
                batch["joints3d"] = self.joints(motion)
        for name, read in (("music", self.music), ("beats", self.beats), ("beat_phase", self.beat_phase)):
            if name in self.required_keys:
                batch[name] = torch.from_numpy(np.stack([read(item) for item in items]))
        return cast(Batch, batch)


class VideoWindowDataset(WindowDataset):
    """Windows of rendered or recorded clips with their maps, decoded on access.

    Index `draw * len + item` is the window's `draw`-th draw: it seeds the choice of `clip.num_sampled_frames`.
    """

    def __init__(
        self,
        reader: ShardReader,
        samples: list[Sample],
        keys: Iterable[str],
        window: WindowSpec,
        split: str,
        features: MusicFeatureCache,
    ):
        self._decoded: dict[int, dict[str, np.ndarray]] = {}
        self._decoded_bytes = 0
        self._unreadable: set[int] = set()  # indices of samples
        for sample in samples:
            check_image_window(sample, window)
            if sample.info["frames"] < 1:
                reader.skip(DamageError(f"shard {sample.path}: {sample.key}.json: the video has no frames"))
        super().__init__(reader, samples, keys, window, split, features)

    def _duration(self, sample: Sample) -> float:
        return sample.info["frames"] / float(stored_fps(sample))

    def _read(self, sample_index: int, field: str) -> np.ndarray:
        """All of one field of a sample, decoded once where the cache has room."""
        fields = self._decoded.get(sample_index)
        if fields is None:
            fields = {}
            worker = get_worker_info()  # the workers of one process share the cache
            num_workers = worker.num_workers if worker else 1
            has_room = self._decoded_bytes < DECODED_CACHE_BYTES // num_workers
            if has_room and len(self._decoded) < self.window.decoded_cache_size // num_workers:
                self._decoded[sample_index] = fields
        if field not in fields:
            sample = self.samples[sample_index]
            values = self.reader.read(sample, field)
            if field != "reference" and len(values) < sample.info["frames"]:
                text = f"{len(values)} frames, {sample.info['frames']} by its .json"
                raise DamageError(f"shard {sample.path}: {sample.key}.{EXTENSIONS[field]} has {text}")
            fields[field] = values
            if sample_index in self._decoded:
                self._decoded_bytes += values.nbytes
        return fields[field]

    def __getitem__(self, item_and_draw: int) -> dict:
        """The window; in place of one that cannot be read, the next one of another sample, the same at each access."""
        draw, item = divmod(item_and_draw, len(self))
        for candidate in range(item, item + len(self)):
            sample_index, _ = self.windows[candidate % len(self)]
            if sample_index in self._unreadable:
                continue
            try:
                return self._window(draw, candidate % len(self))
            except DamageError as error:
                self.reader.skip(error, in_all_processes=False)
                self._unreadable.add(sample_index)
        raise ValueError(f"no window can be read: {self.reader.damaged[-1]}")

    def _window(self, draw: int, item: int) -> dict:
        sample_index, window_start = self.windows[item]
        sample, window = self.samples[sample_index], self.window
        fps, exact_start = stored_fps(sample), Fraction(str(window_start))
        frame_indices = np.array([round((exact_start + i / window.rate) * fps) for i in range(window.num_frames)])
        frame_indices = np.minimum(frame_indices, sample.info["frames"] - 1)
        if window.num_sampled_frames is not None:
            frame_indices = frame_indices[
                np.random.default_rng([draw, item]).permutation(len(frame_indices))[: window.num_sampled_frames]
            ]
        result: dict[str, Any] = {**self.constants(), **self.texts(item)}
        if "frame_indices" in self.required_keys:
            result["frame_indices"] = torch.from_numpy(frame_indices)
        size, stored_size = (window.height, window.width), (sample.info["height"], sample.info["width"])
        for field, convert in _IMAGE_FIELDS.items():
            if field in self.required_keys:
                values = self._read(sample_index, field)
                values = values[None] if field == "reference" else values[frame_indices]
                converted = convert(values, size, stored_size)
                result[field] = converted[0] if field == "reference" else converted
        if "joints3d" in self.required_keys:
            result["joints3d"] = torch.from_numpy(self.reader.read(sample, "joints3d")[frame_indices])
        if "motion" in self.required_keys:
            motion = self.reader.read(sample, "motion")
            num_motion_frames = window.num_tokens(MOTION_FPS)
            first_motion_frame = min(round(window_start * MOTION_FPS), len(motion) - num_motion_frames)
            result["motion"] = torch.from_numpy(motion[first_motion_frame : first_motion_frame + num_motion_frames])
        if "music" in self.required_keys:
            result["music"] = torch.from_numpy(np.array(self.music(item)))
        if "beats" in self.required_keys:
            result["beats"] = torch.from_numpy(self.beats(item))
        if "beat_phase" in self.required_keys:
            result["beat_phase"] = torch.from_numpy(self.beat_phase(item))
        return result


Size = tuple[int, int]  # (height, width)


def _resize(values: Tensor, size: Size) -> Tensor:
    """(F, C, h, w) float to another size, with averaging where it shrinks."""
    if values.shape[-2:] == size:
        return values
    return F.interpolate(values, size, mode="bilinear", antialias=True, align_corners=False)


def _images(values: np.ndarray, size: Size, stored_size: Size) -> Tensor:
    """(F, h, w, 3) uint8 -> (F, 3, H, W) in [-1, 1]"""
    return (_resize(torch.from_numpy(values).movedim(-1, 1).float(), size) / 127.5 - 1).clamp(-1, 1)


def _labels(values: np.ndarray, size: Size, stored_size: Size) -> Tensor:
    """(F, h, w) uint8 -> (F, H, W) uint8, nearest neighbour."""
    labels = torch.from_numpy(values)
    return labels if labels.shape[-2:] == size else F.interpolate(labels[:, None], size, mode="nearest-exact")[:, 0]


def _depth(values: np.ndarray, size: Size, stored_size: Size) -> Tensor:
    """(F, h, w) -> (F, H, W)"""
    return _resize(torch.from_numpy(values)[:, None], size)[:, 0]


def _normal(values: np.ndarray, size: Size, stored_size: Size) -> Tensor:
    """(F, h, w, 3) -> (F, 3, H, W)"""
    return _resize(torch.from_numpy(values).movedim(-1, 1), size)


def _heatmaps(values: np.ndarray, size: Size, stored_size: Size) -> Tensor:
    """(F, J, h, w) -> (F, J, H / 4, W / 4)"""
    return _resize(torch.from_numpy(values), (size[0] // 4, size[1] // 4))


def _joints2d(values: np.ndarray, size: Size, stored_size: Size) -> Tensor:
    """Pixels of the stored image -> pixels of the resized one; (0, 0) is the corner of the image."""
    return torch.from_numpy(values) * torch.tensor([size[1] / stored_size[1], size[0] / stored_size[0]])


_IMAGE_FIELDS: dict[str, Callable[[np.ndarray, Size, Size], Tensor]] = {
    "frames": _images,
    "reference": _images,
    "skeleton": _images,
    "parts": _labels,
    "semantic": _labels,
    "depth": _depth,
    "normal": _normal,
    "heatmaps": _heatmaps,
    "joints2d": _joints2d,
}
