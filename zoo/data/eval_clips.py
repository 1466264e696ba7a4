"""Clips to evaluate on, from the samples of shards: exactly the asked frames, and all that belongs to their time.

Times in a sample's .json are seconds of its sound; its frames and motion begin `start` seconds into that sound.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.batch import MOTION_FPS
from zoo.body.render.mesh import human_names
from zoo.data.base import Cut, Take, Takes
from zoo.data.music_cache import Features
from zoo.data.shard_builder.move_captions import caption
from zoo.data.windows import LABELS, song_of
from zoo.files import cache_root, write_atomic
from zoo.music.encoder import MusicFeatures, token_count

Box = tuple[int, int, int, int]  # top, left, height, width in pixels
MARGIN = 0.15  # of the figure's height, left free around its joints: hair, hands and shoes reach beyond them


class ShardTakes(Takes):
    """The first `cut.clips` samples that can be cut so, in the order of the shards; decoded when they are asked for.

    skipped: of the samples before the last one taken. Raises ValueError with the first reason when none can be cut so.
    """

    def __init__(self, reader, samples: list, cut: Cut, features: Features, dances: tuple | None = None):
        """features: of the encoder asked for, made. dances: (reader, samples) of dances to the same songs, where
        another dancer's motion is looked for; None looks in `samples`."""
        self.reader, self.cut, self.features = reader, cut, features
        self.samples: list = []
        self.skipped: list[tuple[str, str]] = []
        for sample in samples:
            if cut.clips is not None and len(self.samples) == cut.clips:
                break
            reason = self._refusal(sample)
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
        self._dances = defaultdict(list)
        for sample in dance_samples:
            self._dances[song_of(sample)].append(sample)

    def take(self, index: int) -> Take:
        """See Takes. Raises ValueError naming the shard when it is damaged."""
        sample, cut = self.samples[index], self.cut
        info, stored = sample.info, Fraction(str(sample.info["fps"]))
        start, seconds = start_of(sample), cut.seconds
        rows = np.minimum([round(i / cut.rate * stored) for i in range(cut.frames)], info["frames"] - 1)
        joints = self.reader.read(sample, "joints2d")[rows] if "joints2d" in sample.places else None
        box = crop_box(cut, info["height"], info["width"], joints)
        frames = cut_pictures(self.reader.read(sample, "frames")[rows], box, cut)
        reference = frames[0]
        if "reference" in sample.places:
            picture = self.reader.read(sample, "reference")
            whole = picture.shape[:2] == (info["height"], info["width"])
            reference = cut_pictures(picture[None], box if whole else crop_box(cut, *picture.shape[:2]), cut)[0]
        music = cut_music(self.features.music(info["sound_id"]), start, seconds)
        waveform, sample_rate = self.reader.read(sample, "sound")
        beats = np.array(info["beats"], np.float64) - float(start) if "beats" in info else music.beats.times
        motion = _motion(self.reader, sample, start, seconds)
        return Take(
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
            motion_again=None if motion is None else self._motion_again(sample, start, seconds),
            joints2d=None if joints is None else cut_points(joints, box, cut),
        )

    def _refusal(self, sample) -> str | None:
        """Why a sample cannot be cut so; None when it can."""
        info, cut = sample.info, self.cut
        lacking = [name for name in ("frames", "sound") if name not in sample.places]
        lacking += [name for name in ("fps", "frames", "height", "width") if name not in info]
        if lacking:
            return f"it has no {lacking[0]}"
        stored = Fraction(str(info["fps"]))
        if cut.rate > stored:
            return f"it has {stored} frames a second, not {cut.rate}; ask for at most {stored}"
        there = info["frames"] / stored
        if cut.seconds > there:
            return f"it lasts {float(there):.2f} s, not {float(cut.seconds):.2f} s; ask for fewer frames"
        heard = len(self.features.get(info["sound_id"])[0]) / self.features.encoder.rate
        if start_of(sample) + cut.seconds > heard + 1 / self.features.encoder.rate:
            return "its sound ends before its pictures do"
        if cut.crop == "dancer" and "joints2d" not in sample.places:
            return "it does not say where the dancer is (joints2d); ask for crop=whole or centre"
        if cut.crop == "whole":
            return proportions(cut, info["height"], info["width"])
        return None

    def _labels(self, sample) -> dict[str, str]:
        info, middle = sample.info, float(start_of(sample) + self.cut.seconds / 2)
        labels = {name: str(info[name]) for name in LABELS if name in info}
        if "look" in info:  # of the world's dancers
            body = info["look"]["body"]
            labels["figure"] = "human" if body in human_names() else body
        moves = [move[2] for move in info.get("moves", []) if move[0] <= middle]
        return labels | ({"move": moves[-1]} if moves else {})

    def _caption(self, sample) -> str:
        info, start, seconds = sample.info, float(start_of(sample)), float(self.cut.seconds)
        if "moves" in info and info.get("seconds") != seconds:  # the stored one speaks of the whole sample
            return caption(info["moves"], start, start + seconds, sample.key)
        return info.get("caption", "")

    def _motion_again(self, sample, start: Fraction, seconds: Fraction) -> Tensor | None:
        """Another dancer's motion at the same seconds of the same song: the next one by key that has it."""
        for other in sorted(self._dances[song_of(sample)], key=lambda one: (one.key <= sample.key, one.key)):
            if other.info.get("dancer") != sample.info.get("dancer"):
                motion = _motion(self._dance_reader, other, start, seconds)
                if motion is not None:
                    return motion
        return None


def start_of(sample) -> Fraction:
    """Where a sample's pictures and motion begin in its sound, seconds."""
    return Fraction(sample.info.get("start", 0.0)).limit_denominator(1 << 24)


def _motion(reader, sample, start: Fraction, seconds: Fraction) -> Tensor | None:
    """(T, 151) from `start` seconds of the song on; None where the sample has not all of it."""
    if "motion" not in sample.places:
        return None
    motion = reader.read(sample, "motion")
    first, count = round((start - start_of(sample)) * MOTION_FPS), max(1, round(seconds * MOTION_FPS))
    return torch.from_numpy(motion[first : first + count]) if 0 <= first <= len(motion) - count else None


def cut_music(music: MusicFeatures, start: Fraction, seconds: Fraction) -> MusicFeatures:
    """The part of a song's music that a clip hears; at the very end of a song from one token earlier at most."""
    rate = Fraction(music.rate).limit_denominator(1 << 16)
    latest = (len(music.features) - token_count(seconds, music.rate)) / rate
    first = min(start, latest)
    return music.slice(first, first + seconds)


def cut_waveform(waveform: np.ndarray, sample_rate: int, start: Fraction, seconds: Fraction) -> np.ndarray:
    """Exactly round(seconds * sample_rate) samples from the one nearest to `start`; silence after the sound's end."""
    first, count = round(start * sample_rate), round(seconds * sample_rate)
    part = waveform[first : first + count]
    return np.pad(part, (0, count - len(part)))


# Pictures ------------------------------------------------------------------------------------------------------------


def proportions(cut: Cut, height: int, width: int) -> str | None:
    """Why a picture of height x width cannot be shown whole as `cut` asks; None when it can."""
    if height * cut.width == width * cut.height:
        return None
    return (
        f"its pictures are {height}x{width}, which is {cut.height}x{cut.width} only with distortion; "
        "ask for the same proportions or crop=centre"
    )


def crop_box(cut: Cut, height: int, width: int, joints: np.ndarray | None = None) -> Box:
    """The part of a picture of height x width that a clip shows, in the proportions of `cut`.

    joints: (F, J, 2) pixels over the clip, NaN where no figure was found. Raises ValueError, one line, where 'whole'
    would distort, and where 'dancer' finds nobody.
    """
    if cut.crop == "whole":
        reason = proportions(cut, height, width)
        if reason:
            raise ValueError(reason)
        return 0, 0, height, width
    aspect = Fraction(cut.height, cut.width)
    tallest = min(Fraction(height), width * aspect)  # of a box of these proportions inside the picture
    centre = height / 2, width / 2
    if cut.crop == "dancer":
        spots = np.empty((0, 2)) if joints is None else joints.reshape(-1, 2)
        spots = spots[np.isfinite(spots).all(1)]
        if not len(spots):
            raise ValueError("no dancer was found to crop to; ask for crop=whole or centre")
        (left, top), (right, bottom) = spots.min(0), spots.max(0)
        free = MARGIN * (bottom - top)
        wanted = max(bottom - top + 2 * free, (right - left + 2 * free) * float(aspect), 4.0)
        tallest = min(tallest, Fraction(float(wanted)))
        centre = (top + bottom) / 2, (left + right) / 2
    size = round(tallest), round(tallest / aspect)
    corner = [
        min(max(round(float(middle - length / 2)), 0), whole - length)
        for middle, length, whole in zip(centre, size, (height, width), strict=True)
    ]
    return *corner, *size


def cut_pictures(pictures: np.ndarray, box: Box, cut: Cut) -> np.ndarray:
    """(F, h, w, 3) uint8 -> (F, H, W, 3) uint8: the box, resized with averaging where it shrinks."""
    top, left, height, width = box
    part = pictures[:, top : top + height, left : left + width]
    if (height, width) == (cut.height, cut.width):
        return np.ascontiguousarray(part)
    values = torch.from_numpy(np.ascontiguousarray(part)).movedim(-1, 1).float()
    values = F.interpolate(values, (cut.height, cut.width), mode="bilinear", antialias=True, align_corners=False)
    return values.round().clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous().numpy()


def cut_labels(labels: np.ndarray, box: Box, cut: Cut) -> np.ndarray:
    """(F, h, w) uint8 -> (F, H, W) uint8: the box, each pixel the label that is nearest to its centre."""
    top, left, height, width = box
    values = torch.from_numpy(np.ascontiguousarray(labels[:, top : top + height, left : left + width]))
    return F.interpolate(values[:, None], (cut.height, cut.width), mode="nearest-exact")[:, 0].numpy()


def cut_points(points: np.ndarray, box: Box, cut: Cut) -> np.ndarray:
    """(..., 2) pixels (x, y) of the whole picture -> float32 pixels of the box as it is shown."""
    top, left, height, width = box
    return ((points - (left, top)) * (cut.width / width, cut.height / height)).astype(np.float32)


# What the clips are --------------------------------------------------------------------------------------------------


def content_of(clips: Iterable[Sequence[Path]], also: str = "") -> str:
    """12 hex digits that belong to the bytes of these clips' files in this order, and to the text `also`.

    The files' names and places do not count. Digests are kept in the cache by path, size and time of change.
    """
    return hashlib.sha256(f"{''.join(map(_digest, clips))} {also}".encode()).hexdigest()[:12]


def state_of(files: Iterable[Path]) -> str:
    """Which files these are and whether they changed: path, size and time of change, hashed. Raises ValueError."""
    try:
        states = [(path.resolve(), path.stat()) for path in files]
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}); make or copy it again") from None
    text = " ".join(f"{path}:{state.st_size}:{state.st_mtime_ns}" for path, state in states)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _digest(files: Sequence[Path]) -> str:
    kept = cache_root() / "index" / f"content-{state_of(files)}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    write_atomic(kept, json.dumps(digest.hexdigest()).encode())
    return digest.hexdigest()
