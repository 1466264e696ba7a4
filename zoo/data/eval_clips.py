"""Evaluation clips from the samples of shards: exactly the frames of an `EvalSpec`, and the data of the same time.

Times in a sample's .json are seconds of its sound; its frames and motion begin `start` seconds into that sound.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.batch import MOTION_FPS
from zoo.data.base import EvalClip, EvalClips, EvalSpec
from zoo.data.music_cache import MusicFeatureCache
from zoo.data.shard_builder.move_captions import caption
from zoo.data.shard_file import Sample, ShardReader
from zoo.data.windows import IMAGE_INFO_KEYS, LABELS, song_of, stored_fps
from zoo.files import cache_root, write_atomic
from zoo.music.encoder import MusicFeatures, token_count

Box = tuple[int, int, int, int]  # top, left, height, width in pixels
CROP_MARGIN = 0.15  # of the figure's height, left free around its joints: hair, hands and shoes reach beyond them
MIN_CROP_HEIGHT = 4.0  # pixels


class ShardEvalClips(EvalClips):
    """The first `spec.clips` samples that can be cut according to `spec`, in the order of the shards.

    skipped: (key, reason) of each unusable sample met while collecting the clips. Raises ValueError with the first
    reason when no sample is usable.
    """

    def __init__(
        self,
        reader: ShardReader,
        samples: list[Sample],
        spec: EvalSpec,
        features: MusicFeatureCache,
        dances: tuple[ShardReader, list[Sample]] | None = None,
    ):
        """features: of the encoder in use, already built. dances: (reader, samples) of dances to the same songs, in
        which another dancer's motion is looked up; None uses `samples`."""
        self.reader, self.spec, self.features = reader, spec, features
        self.samples: list[Sample] = []
        self.skipped: list[tuple[str, str]] = []
        for sample in samples:
            if spec.clips is not None and len(self.samples) == spec.clips:
                break
            reason = self._unusable_reason(sample)
            if reason:
                self.skipped.append((sample.key, reason))
            else:
                self.samples.append(sample)
        if not self.samples:
            reason = f"{self.skipped[0][0]}: {self.skipped[0][1]}" if self.skipped else "there is no sample"
            raise ValueError(f"no clip can be cut from these shards: {reason}")
        self.keys = [sample.key for sample in self.samples]
        self.labels = [self._labels(sample) for sample in self.samples]
        self._dance_reader, dance_samples = dances or (reader, samples)
        self._dances_of_song: dict[str, list[Sample]] = defaultdict(list)
        for sample in dance_samples:
            self._dances_of_song[song_of(sample)].append(sample)

    def load(self, index: int) -> EvalClip:
        """See EvalClips. A reference of another size than the frames is cropped at its centre.

        Raises ValueError naming the shard when it is damaged.
        """
        sample, spec = self.samples[index], self.spec
        info = sample.info
        start, seconds = start_of(sample), spec.seconds
        frame_indices = self._frame_indices(sample)
        joints = self._joints2d(sample)
        box = crop_box(spec, info["height"], info["width"], joints)
        frames = crop_images(self.reader.read(sample, "frames")[frame_indices], box, spec)
        reference = frames[0]
        if "reference" in sample.byte_ranges:
            reference_image = self.reader.read(sample, "reference")
            size = reference_image.shape[:2]
            has_frame_size = size == (info["height"], info["width"])
            reference_box = box if has_frame_size else crop_box(replace(spec, crop="centre"), *size)
            reference = crop_images(reference_image[None], reference_box, spec)[0]
        music = cut_music(self.features.music(info["sound_id"]), start, seconds)
        waveform, sample_rate = self.reader.read(sample, "sound")
        beats = np.array(info["beats"], np.float64) - float(start) if "beats" in info else music.beats.times
        motion = _motion(self.reader, sample, start, seconds)
        return EvalClip(
            key=sample.key,
            labels=self.labels[index],
            caption=self._caption(sample),
            reference=reference,
            frames=frames,
            music=music,
            waveform=cut_waveform(waveform, sample_rate, start, seconds),
            sample_rate=sample_rate,
            beats=beats[(beats >= 0) & (beats < float(seconds))],
            motion=motion,
            second_motion=None if motion is None else self._second_motion(sample, start, seconds),
            joints2d=None if joints is None else crop_points(joints, box, spec),
        )

    def _frame_indices(self, sample: Sample) -> np.ndarray:
        """Stored frames nearest to the clip's moments, (frames,) int."""
        fps, last = stored_fps(sample), sample.info["frames"] - 1
        return np.minimum([round(i / self.spec.rate * fps) for i in range(self.spec.frames)], last)

    def _joints2d(self, sample: Sample) -> np.ndarray | None:
        """Joints in the clip's frames, (frames, J, 2) pixels of the stored image; None where the sample has none."""
        if "joints2d" not in sample.byte_ranges:
            return None
        return self.reader.read(sample, "joints2d")[self._frame_indices(sample)]

    def _unusable_reason(self, sample: Sample) -> str | None:
        """The reason why a sample cannot be cut according to the spec; None when it can."""
        info, spec = sample.info, self.spec
        missing = [name for name in ("frames", "sound") if name not in sample.byte_ranges]
        missing += [name for name in IMAGE_INFO_KEYS if name not in info]
        if missing:
            return f"it has no {missing[0]}"
        fps = stored_fps(sample)
        if spec.rate > fps:
            return f"it has {fps} frames a second, not {spec.rate}; ask for at most {fps}"
        duration = info["frames"] / fps
        if spec.seconds > duration:
            return f"it lasts {float(duration):.2f} s, not {float(spec.seconds):.2f} s; ask for fewer frames"
        sound_seconds = len(self.features.get(info["sound_id"])[0]) / self.features.encoder.rate
        if start_of(sample) + spec.seconds > sound_seconds + 1 / self.features.encoder.rate:
            return "its sound ends before its frames do"
        if spec.crop == "dancer" and "joints2d" not in sample.byte_ranges:
            return "it has no joints2d, which locate the dancer; ask for crop=whole or centre"
        joints = self._joints2d(sample) if spec.crop == "dancer" else None
        if joints is not None and not np.isfinite(joints).all(-1).any():
            return "no dancer was found in its frames; ask for crop=whole or centre"
        if spec.crop == "whole":
            return distortion_reason(spec, info["height"], info["width"])
        return None

    def _labels(self, sample: Sample) -> dict[str, str]:
        info, middle = sample.info, float(start_of(sample) + self.spec.seconds / 2)
        labels = {name: str(info[name]) for name in (*LABELS, "figure") if name in info}
        started_moves = [move[2] for move in info.get("moves", []) if move[0] <= middle]
        return labels | ({"move": started_moves[-1]} if started_moves else {})

    def _caption(self, sample: Sample) -> str:
        info, start, seconds = sample.info, float(start_of(sample)), float(self.spec.seconds)
        if "moves" in info and info.get("seconds") != seconds:  # the stored caption describes the whole sample
            return caption(info["moves"], start, start + seconds, sample.key)
        return info.get("caption", "")

    def _second_motion(self, sample: Sample, start: Fraction, seconds: Fraction) -> Tensor | None:
        """Another dancer's motion at the same seconds of the same song: the next one by key that has it."""
        dances = self._dances_of_song[song_of(sample)]
        for dance in sorted(dances, key=lambda dance: (dance.key <= sample.key, dance.key)):
            if dance.info.get("dancer") != sample.info.get("dancer"):
                motion = _motion(self._dance_reader, dance, start, seconds)
                if motion is not None:
                    return motion
        return None


def start_of(sample: Sample) -> Fraction:
    """Time in the sound at which a sample's frames and motion begin, seconds."""
    return Fraction(sample.info.get("start", 0.0)).limit_denominator(1 << 24)


def _motion(reader: ShardReader, sample: Sample, start: Fraction, seconds: Fraction) -> Tensor | None:
    """(T, 151) from `start` seconds of the song on; None where the sample does not hold all of it."""
    if "motion" not in sample.byte_ranges:
        return None
    motion = reader.read(sample, "motion")
    first, count = round((start - start_of(sample)) * MOTION_FPS), max(1, round(seconds * MOTION_FPS))
    return torch.from_numpy(motion[first : first + count]) if 0 <= first <= len(motion) - count else None


def cut_music(music: MusicFeatures, start: Fraction, seconds: Fraction) -> MusicFeatures:
    """The part of a song's features that belongs to a clip; it starts up to one token earlier where the features end
    before the clip."""
    rate = Fraction(music.rate).limit_denominator(1 << 16)
    latest_start = (len(music.features) - token_count(seconds, music.rate)) / rate
    clip_start = min(start, latest_start)
    return music.slice(clip_start, clip_start + seconds)


def cut_waveform(waveform: np.ndarray, sample_rate: int, start: Fraction, seconds: Fraction) -> np.ndarray:
    """Exactly round(seconds * sample_rate) samples from the one nearest to `start`; silence after the sound's end."""
    first, count = round(start * sample_rate), round(seconds * sample_rate)
    samples = waveform[first : first + count]
    return np.pad(samples, (0, count - len(samples)))


# Images --------------------------------------------------------------------------------------------------------------


def distortion_reason(spec: EvalSpec, height: int, width: int) -> str | None:
    """The reason why a whole image of height x width would be distorted by `spec`; None when it would not."""
    if height * spec.width == width * spec.height:
        return None
    return (
        f"its frames are {height}x{width}, which become {spec.height}x{spec.width} only with distortion; "
        "ask for the same proportions or crop=centre"
    )


def crop_box(spec: EvalSpec, height: int, width: int, joints: np.ndarray | None = None) -> Box:
    """The part of an image of height x width that a clip shows, in the proportions of `spec`.

    joints: (F, J, 2) pixels over the clip, NaN where no figure was detected. Raises ValueError, one line, where 'whole'
    would distort, and where 'dancer' has no joints.
    """
    if spec.crop == "whole":
        reason = distortion_reason(spec, height, width)
        if reason:
            raise ValueError(reason)
        return 0, 0, height, width
    height_per_width = Fraction(spec.height, spec.width)
    box_height = min(
        Fraction(height), width * height_per_width
    )  # the largest box of these proportions inside the image
    centre_yx = height / 2, width / 2
    if spec.crop == "dancer":
        points = np.empty((0, 2)) if joints is None else joints.reshape(-1, 2)
        points = points[np.isfinite(points).all(1)]
        if not len(points):
            raise ValueError("no dancer was found to crop to; ask for crop=whole or centre")
        (left, top), (right, bottom) = points.min(0), points.max(0)
        margin = CROP_MARGIN * (bottom - top)
        needed_height = max(
            bottom - top + 2 * margin, (right - left + 2 * margin) * float(height_per_width), MIN_CROP_HEIGHT
        )
        box_height = min(box_height, Fraction(float(needed_height)))
        centre_yx = (top + bottom) / 2, (left + right) / 2
    size = round(box_height), round(box_height / height_per_width)
    top, left = (
        min(max(round(float(middle - length / 2)), 0), limit - length)
        for middle, length, limit in zip(centre_yx, size, (height, width), strict=True)
    )
    return top, left, *size


def crop_images(images: np.ndarray, box: Box, spec: EvalSpec) -> np.ndarray:
    """(F, h, w, 3) uint8 -> (F, H, W, 3) uint8: the box, resized with averaging where it shrinks."""
    top, left, height, width = box
    part = images[:, top : top + height, left : left + width]
    if (height, width) == (spec.height, spec.width):
        return np.ascontiguousarray(part)
    values = torch.from_numpy(np.ascontiguousarray(part)).movedim(-1, 1).float()
    values = F.interpolate(values, (spec.height, spec.width), mode="bilinear", antialias=True, align_corners=False)
    return values.round().clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous().numpy()


def crop_labels(labels: np.ndarray, box: Box, spec: EvalSpec) -> np.ndarray:
    """(F, h, w) uint8 -> (F, H, W) uint8: the box, each pixel the label that is nearest to its centre."""
    top, left, height, width = box
    values = torch.from_numpy(np.ascontiguousarray(labels[:, top : top + height, left : left + width]))
    return F.interpolate(values[:, None], (spec.height, spec.width), mode="nearest-exact")[:, 0].numpy()


def crop_points(points: np.ndarray, box: Box, spec: EvalSpec) -> np.ndarray:
    """(..., 2) pixels (x, y) of the whole image -> float32 pixels of the resized box."""
    top, left, height, width = box
    return ((points - (left, top)) * (spec.width / width, spec.height / height)).astype(np.float32)


# Fingerprints --------------------------------------------------------------------------------------------------------


def content_fingerprint(clips: Iterable[Sequence[Path]], extra_text: str = "") -> str:
    """Hash the bytes of these clips' files, in this order, and `extra_text`: 12 hex digits.

    Names and locations of the files do not count. Hashes of files are cached by path, size and modification time.
    """
    return hashlib.sha256(f"{''.join(map(_files_hash, clips))} {extra_text}".encode()).hexdigest()[:12]


def file_state_hash(files: Iterable[Path]) -> str:
    """Hash path, size and modification time of files: it changes when they change. Raises ValueError."""
    try:
        states = [(path.resolve(), path.stat()) for path in files]
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}); make or copy it again") from None
    text = " ".join(f"{path}:{state.st_size}:{state.st_mtime_ns}" for path, state in states)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _files_hash(files: Sequence[Path]) -> str:
    cache_file = cache_root() / "index" / f"content-{file_state_hash(files)}.json"
    if cache_file.is_file():
        return json.loads(cache_file.read_text())
    total = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    write_atomic(cache_file, json.dumps(total.hexdigest()).encode())
    return total.hexdigest()
