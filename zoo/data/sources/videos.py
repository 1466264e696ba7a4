"""Any videos as clips to evaluate on: `data=videos data.folder=DIR`.

Layout of a folder: zoo.data.clip_folder. An unusable video is named and left out; it stops nothing.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
from rich.progress import track

from zoo.body.detection.base import PoseDetector
from zoo.body.detection.factory import load_detector
from zoo.data import clip_folder as clip_folder_module
from zoo.data import eval_clips as eval_clips_module
from zoo.data import frame_source as frame_source_module
from zoo.data.base import SPLITS, DataSource, EvalClip, EvalClips, EvalSpec, WindowSpec
from zoo.data.clip_folder import VIDEO_SUFFIXES, ClipFiles, ClipFolder
from zoo.data.eval_clips import (
    Box,
    content_fingerprint,
    crop_box,
    crop_images,
    cut_music,
    cut_waveform,
    file_state_hash,
)
from zoo.files import cache_root, user_path, write_atomic
from zoo.media import Sound
from zoo.music.encoder import MusicEncoder, MusicFeatures, encode_song, source_hash

WINDOW_CHOICES = ("first", "all")
SOUND_TOLERANCE_SECONDS = Fraction(1, 10)  # by which a clip's sound may end before its frames: codecs cut in blocks
NUM_DETECTION_FRAMES = 16  # frames of a clip in which the dancer is detected to choose the crop
MIN_RATE_FRACTION = Fraction(19, 20)  # of the required frames a second: 29.97 serves as 30, 25 does not
NOT_FOR_TRAINING = (
    "data=videos is for evaluation: to train on videos, make shards of them with "
    "dancezoo shards folder=DIR out=DIR (docs/data.md) and use data=shards data.urls='DIR/*.tar'"
)


class Videos(DataSource):
    """A folder of videos, the same for every split: labels come from the names."""

    name = "videos"
    hint = NOT_FOR_TRAINING

    def __init__(
        self,
        folder: str,
        music: str | None = None,
        pattern: str = "aist",
        clip_list: str | Sequence[str] | None = None,
        filter: Mapping[str, str | Sequence[str]] | None = None,
        windows: str = "first",
        image_fps: float | str = 30,
        allow_silent: bool = False,
        pose_detector: str | PoseDetector | None = None,
    ):
        """music: a folder of songs, found by the label 'song' or the clip's name; null: sound beside or in the video.

        pattern: 'aist', or a regular expression whose named groups are labels. clip_list: a file with one clip's name a
        line, or the names; AIST++'s cAll matches every camera. filter: label -> the value or values to keep.
        windows: 'first', one clip from the beginning of each video, or 'all', one after the other. image_fps: of
        numbered images. allow_silent: keep clips without sound, as silent ones; otherwise they are left out.
        pose_detector: locates dancers for crop=dancer; a detector or its file.
        """
        if windows not in WINDOW_CHOICES:
            raise ValueError(f"data.windows={windows}: use one of {' '.join(WINDOW_CHOICES)}")
        try:
            self.image_fps = Fraction(str(image_fps))
        except (ValueError, ZeroDivisionError):
            self.image_fps = Fraction(0)
        if self.image_fps <= 0:
            raise ValueError(f"data.image_fps={image_fps}: give a number above 0, such as 30 or 30000/1001")
        self.folder, self.songs = user_path(folder), user_path(music) if music else None
        self.pattern, self.clip_names = pattern, _read_list(clip_list) if isinstance(clip_list, str) else clip_list
        self.filter = {
            label: [values] if isinstance(values, str) else [*values] for label, values in (filter or {}).items()
        }
        self.windows, self.allow_silent, self._detector_or_path = windows, allow_silent, pose_detector

    @property
    def available_keys(self) -> frozenset[str]:
        """Refuses: see NOT_FOR_TRAINING."""
        raise ValueError(NOT_FOR_TRAINING)

    def prepare_data(self, keys: Iterable[str], encoder: MusicEncoder, splits: Iterable[str] = SPLITS) -> NoReturn:
        """Refuses: see NOT_FOR_TRAINING."""
        raise ValueError(NOT_FOR_TRAINING)

    def dataset(self, split: str, keys: Iterable[str], window: WindowSpec, encoder: MusicEncoder) -> NoReturn:
        """Refuses: see NOT_FOR_TRAINING."""
        raise ValueError(NOT_FOR_TRAINING)

    def eval_clips(self, split: str, spec: EvalSpec, encoder: MusicEncoder) -> "VideoEvalClips":
        """See DataSource. Every clip is inspected once; the results are cached."""
        return VideoEvalClips(self, spec, encoder)

    def fingerprint(self, split: str) -> str:
        """See DataSource: the files of all clips, their names, and the settings that choose parts of them."""
        clips, detector_name = self.clip_folder.clips, self.pose_detector.name if self.pose_detector else None
        keys_and_labels = [[clip.key, dict(clip.labels)] for clip in clips]
        settings = keys_and_labels, self.windows, str(self.image_fps), self.allow_silent, detector_name
        return content_fingerprint((clip.files for clip in clips), json.dumps(settings, sort_keys=True))

    @cached_property
    def clip_folder(self) -> ClipFolder:
        """The clips in the folder. Raises ValueError when there are none."""
        return ClipFolder(self.folder, self.songs, self.pattern, self.clip_names, self.filter, self.image_fps)

    @cached_property
    def pose_detector(self) -> PoseDetector | None:
        """The detector that locates dancers, where one was given."""
        detector = self._detector_or_path
        return load_detector(detector) if isinstance(detector, str) else detector


class VideoEvalClips(EvalClips):
    """Clips of videos. Raises ValueError when no clip is usable, with the first reason."""

    def __init__(self, source: Videos, spec: EvalSpec, encoder: MusicEncoder):
        if spec.crop == "dancer" and source.pose_detector is None:
            raise ValueError("crop=dancer needs a pose detector: give weights.pose_detector=FILE (docs/data.md)")
        self.source, self.spec, self.encoder = source, spec, encoder
        self.keys, self.labels, self.skipped = [], [], [*source.clip_folder.skipped]
        self._clips: list[tuple[ClipFiles, Fraction, Box, bool]] = []  # clip, start in the video, box, has sound
        for clip in track(source.clip_folder.clips, "inspecting videos", transient=True):
            if spec.clips is not None and len(self.keys) == spec.clips:
                break
            self._add(clip)
        if not self.keys:
            key, reason = self.skipped[0]
            raise ValueError(f"no clip of data.folder={source.folder} can be used: {key}: {reason}")

    def _add(self, clip: ClipFiles) -> None:
        """Add the windows of a clip, or the reason why it has none."""
        result = self._inspect_cached(clip, Fraction(0))
        use_all = self.source.windows == "all" and "reason" not in result
        starts = [index * self.spec.seconds for index in range(int(result["seconds"] / self.spec.seconds))]
        for start in starts[: None if use_all else 1] or [Fraction(0)]:
            result = self._inspect_cached(clip, start)
            key = f"{clip.key}@{float(start):g}" if use_all else clip.key
            if "reason" in result:
                self.skipped.append((key, result["reason"]))
            elif self.spec.clips is None or len(self.keys) < self.spec.clips:
                self.keys.append(key)
                self.labels.append(dict(clip.labels))
                self._clips.append((clip, start, tuple(result["box"]), result["sound"]))

    def _inspect_cached(self, clip: ClipFiles, start: Fraction) -> dict:
        """The result of `_inspect`, from the cache where nothing has changed."""
        spec, source = self.spec, self.source
        detector_name = source.pose_detector.name if source.pose_detector and spec.crop == "dancer" else ""
        code_hash = source_hash(eval_clips_module, frame_source_module, clip_folder_module)
        settings = [spec.frames, str(spec.rate), spec.height, spec.width, spec.crop, detector_name]
        settings += [str(start), source.windows, str(source.image_fps), source.allow_silent, code_hash]
        cache_key = hashlib.sha256(json.dumps([settings, file_state_hash(clip.files)]).encode()).hexdigest()
        cache_file = cache_root() / "videos" / f"{cache_key[:24]}.json"
        if not cache_file.is_file():
            write_atomic(cache_file, json.dumps(self._inspect(clip, start)).encode())
        return json.loads(cache_file.read_text())

    def _inspect(self, clip: ClipFiles, start: Fraction) -> dict:
        """'seconds' of the video; 'box' of the crop and whether there is 'sound', or the 'reason' to leave it out."""
        spec = self.spec
        try:
            video_seconds = float(clip.frames.seconds()) if self.source.windows == "all" else float(spec.seconds)
            fps = clip.frames.rate()
            if fps < spec.rate * MIN_RATE_FRACTION:
                return _unusable_result(f"it has {float(fps):.4g} frames a second, fewer than the required {spec.rate}")
            detection_indices = set(np.linspace(0, spec.frames - 1, NUM_DETECTION_FRAMES).round().astype(int))
            detection_images = []  # the dancer is detected in these; the others are decoded to know that they can be
            for index, image in enumerate(clip.frames.frames_at(self._times(start))):
                if index in detection_indices if spec.crop == "dancer" else index == 0:
                    detection_images.append(image)
            detector, (height, width) = self.source.pose_detector, detection_images[0].shape[:2]
            joints = detector.detect(np.stack(detection_images)).joints if detector and spec.crop == "dancer" else None
            box = crop_box(spec, height, width, joints)
            sound = self._sound(clip)
        except ValueError as error:
            return _unusable_result(str(error))
        if sound is None and not self.source.allow_silent:
            return _unusable_result(f"it has no sound: put {clip.key}.wav beside it, or give data.music=FOLDER")
        if sound is not None and sound.duration < start + spec.seconds - SOUND_TOLERANCE_SECONDS:
            return _unusable_result(f"its sound ends after {float(sound.duration):.2f} s, before its frames do")
        return {"seconds": video_seconds, "box": box, "sound": sound is not None}

    def _sound(self, clip: ClipFiles) -> Sound | None:
        """The clip's sound, None where there is none. Raises ValueError for an unusable sound file."""
        if clip.sound:
            return Sound(clip.sound)
        return Sound(clip.frames.files[0]) if clip.frames.has_sound() else None

    def _times(self, start: Fraction) -> list[Fraction]:
        return [start + index / self.spec.rate for index in range(self.spec.frames)]

    def load(self, index: int) -> EvalClip:
        """See EvalClips. The reference is the clip's first frame; the beats are detected in its whole sound."""
        clip, start, box, has_sound = self._clips[index]
        spec = self.spec
        frames = [crop_images(image[None], box, spec)[0] for image in clip.frames.frames_at(self._times(start))]
        sound = self._sound(clip) if has_sound else None
        sample_rate = sound.sample_rate if sound else self.encoder.sample_rate
        waveform = sound.mono(sample_rate, start, start + spec.seconds) if sound else np.zeros(0, np.float32)
        music = cut_music(self._music(sound, start + spec.seconds), start, spec.seconds)
        return EvalClip(
            key=self.keys[index],
            labels=self.labels[index],
            caption=_one_line(clip.caption),
            reference=frames[0],
            frames=np.stack(frames),
            music=music,
            waveform=cut_waveform(waveform, sample_rate, Fraction(0), spec.seconds),
            sample_rate=sample_rate,
            beats=music.beats.times if sound else np.empty(0),
        )

    def _music(self, sound: Sound | None, min_seconds: Fraction) -> MusicFeatures:
        """Features of the whole sound, padded with silence to at least `min_seconds`."""
        sample_rate = max(self.encoder.sample_rate, self.encoder.beat_tracker.sample_rate)
        waveform = sound.mono(sample_rate) if sound else np.zeros(0, np.float32)
        num_missing_samples = max(0, round(min_seconds * sample_rate) + 1 - len(waveform))
        return encode_song(np.pad(waveform, (0, num_missing_samples)), self.encoder, sample_rate=sample_rate)


def _unusable_result(reason: str) -> dict:
    return {"reason": reason, "seconds": 0}


def _one_line(path: Path | None) -> str:
    return " ".join(path.read_text("utf-8", errors="replace").split()) if path else ""


def _read_list(path: str) -> list[str]:
    """Read one name a line, with or without the file's suffix; # begins a comment."""
    try:
        lines = user_path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"data.clip_list={path} cannot be read ({error}); give a text file, a clip's name a line"
        ) from None
    names = [name for line in lines if (name := line.split("#")[0].strip())]
    return [str(Path(name).with_suffix("")) if Path(name).suffix.lower() in VIDEO_SUFFIXES else name for name in names]
