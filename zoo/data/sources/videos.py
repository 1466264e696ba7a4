"""Anybody's videos as clips to evaluate on: `data=videos data.folder=DIR`.

What a folder may hold: zoo.data.clip_folder. A video that cannot be used is named and left out, and stops nothing.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
from rich.progress import track

from zoo.body.detection.base import PoseDetector
from zoo.body.detection.factory import load_detector
from zoo.data import clip_folder as folder_module
from zoo.data import eval_clips as takes_module
from zoo.data import frame_source as footage_module
from zoo.data.base import SPLITS, Cut, DataSource, Piece, Take, Takes, WindowSpec
from zoo.data.clip_folder import VIDEOS, Folder, Found
from zoo.data.eval_clips import Box, content_of, crop_box, cut_music, cut_pictures, cut_waveform, state_of
from zoo.files import cache_root, write_atomic
from zoo.media import Sound
from zoo.music.encoder import MusicEncoder, MusicFeatures, encode_song, source_hash

WINDOWS = ("first", "all")
SHORT = Fraction(1, 10)  # s that a clip's sound may end before its pictures: codecs cut both in blocks
LOOKS = 16  # pictures of a clip in which the dancer is looked for to choose the crop
ENOUGH = Fraction(19, 20)  # of the frames a second asked for: 29.97 serves as 30, 25 does not
UNFIT = (
    "data=videos is for evaluation: to train on videos, make shards of them with python -m zoo.run.build_shards folder=DIR "
    "out=DIR (docs/data.md) and use data=shards data.urls='DIR/*.tar'"
)


class Videos(DataSource):
    """A folder of videos, the same whatever split is asked for: labels come from the names."""

    name = "videos"
    hint = UNFIT

    def __init__(
        self,
        folder: str,
        music: str | None = None,
        pattern: str = "aist",
        list: str | Sequence[str] | None = None,
        where: Mapping[str, str | Sequence[str]] | None = None,
        windows: str = "first",
        picture_fps: float | str = 30,
        silence: bool = False,
        people: str | PoseDetector | None = None,
    ):
        """music: a folder of songs, found by the label 'song' or the clip's name; null: sound beside or in the video.

        pattern: 'aist', or a regular expression whose named groups are labels. list: a file with one clip's name a
        line, or the names; AIST++'s cAll stands for every camera. where: label -> the value or values to keep.
        windows: 'first', one take from the beginning of each video, or 'all', one after the other. picture_fps: of
        numbered pictures. silence: clips without sound count as silent; otherwise they are left out. people: what
        finds dancers for crop=dancer, or its file.
        """
        if windows not in WINDOWS:
            raise ValueError(f"data.windows={windows}: use one of {' '.join(WINDOWS)}")
        try:
            self.picture_fps = Fraction(str(picture_fps))
        except (ValueError, ZeroDivisionError):
            self.picture_fps = Fraction(0)
        if self.picture_fps <= 0:
            raise ValueError(f"data.picture_fps={picture_fps}: give a number above 0, such as 30 or 30000/1001")
        self.folder, self.songs = Path(folder).expanduser(), Path(music).expanduser() if music else None
        self.pattern, self.names = pattern, _read_list(list) if isinstance(list, str) else list
        self.where = {
            label: [values] if isinstance(values, str) else [*values] for label, values in (where or {}).items()
        }
        self.windows, self.silence, self._people = windows, silence, people

    @property
    def provides(self) -> frozenset[str]:
        """Refuses: see UNFIT."""
        raise ValueError(UNFIT)

    def prepare(self, needs: Iterable[str], encoder: MusicEncoder, splits: Iterable[str] = SPLITS) -> None:
        """Refuses: see UNFIT."""
        raise ValueError(UNFIT)

    def dataset(self, split: str, needs: Iterable[str], clip: WindowSpec, encoder: MusicEncoder):
        """Refuses: see UNFIT."""
        raise ValueError(UNFIT)

    def pieces(self, split: str, encoder: MusicEncoder) -> Iterator[Piece]:
        """Refuses: see UNFIT."""
        raise ValueError(UNFIT)

    def takes(self, split: str, cut: Cut, encoder: MusicEncoder) -> "VideoTakes":
        """See DataSource. Every clip is looked at once, and what was seen is kept in the cache."""
        return VideoTakes(self, cut, encoder)

    def content(self, split: str) -> str:
        """See DataSource: the files of all clips, their names, and what decides which parts of them are taken."""
        clips, finder = self.found.clips, self.people.name if self.people else None
        names = [[clip.key, dict(clip.labels)] for clip in clips]
        facts = names, self.windows, str(self.picture_fps), self.silence, finder
        return content_of((clip.files for clip in clips), json.dumps(facts, sort_keys=True))

    @cached_property
    def found(self) -> Folder:
        """What is in the folder. Raises ValueError when nothing is."""
        return Folder(self.folder, self.songs, self.pattern, self.names, self.where, self.picture_fps)

    @cached_property
    def people(self) -> PoseDetector | None:
        """What finds dancers, where there is such a thing."""
        return load_detector(self._people) if isinstance(self._people, str) else self._people


class VideoTakes(Takes):
    """Clips of videos. Raises ValueError when none can be cut so, with the first reason."""

    def __init__(self, source: Videos, cut: Cut, encoder: MusicEncoder):
        if cut.crop == "dancer" and source.people is None:
            raise ValueError("crop=dancer needs what finds people: give weights.people=FILE (docs/data.md says which)")
        self.source, self.cut, self.encoder = source, cut, encoder
        self.keys, self.labels, self.skipped = [], [], [*source.found.skipped]
        self._clips: list[tuple[Found, Fraction, Box, bool]] = []  # clip, its start in the video, box, has it sound
        for clip in track(source.found.clips, "looking at videos", transient=True):
            if cut.clips is not None and len(self.keys) == cut.clips:
                break
            self._add(clip)
        if not self.keys:
            key, reason = self.skipped[0]
            raise ValueError(f"no clip of data.folder={source.folder} can be used: {key}: {reason}")

    def _add(self, clip: Found) -> None:
        """The clip's windows, or the reason why it has none."""
        seen = self._seen(clip, Fraction(0))
        several = self.source.windows == "all" and "reason" not in seen
        starts = [index * self.cut.seconds for index in range(int(seen["seconds"] / self.cut.seconds))]
        for start in starts[: None if several else 1] or [Fraction(0)]:
            seen = self._seen(clip, start)
            key = f"{clip.key}@{float(start):g}" if several else clip.key
            if "reason" in seen:
                self.skipped.append((key, seen["reason"]))
            elif self.cut.clips is None or len(self.keys) < self.cut.clips:
                self.keys.append(key)
                self.labels.append(dict(clip.labels))
                self._clips.append((clip, start, tuple(seen["box"]), seen["sound"]))

    def _seen(self, clip: Found, start: Fraction) -> dict:
        """`_look`'s answer, from the cache where nothing has changed."""
        finder = self.source.people.name if self.cut.crop == "dancer" else ""
        code = source_hash(takes_module, footage_module, folder_module)
        asked = [self.cut.frames, str(self.cut.rate), self.cut.height, self.cut.width, self.cut.crop, finder]
        asked += [str(start), self.source.windows, str(self.source.picture_fps), self.source.silence, code]
        mark = hashlib.sha256(json.dumps([asked, state_of(clip.files)]).encode()).hexdigest()
        kept = cache_root() / "videos" / f"{mark[:24]}.json"
        if not kept.is_file():
            write_atomic(kept, json.dumps(self._look(clip, start)).encode())
        return json.loads(kept.read_text())

    def _look(self, clip: Found, start: Fraction) -> dict:
        """'seconds' of the video; 'box' of the crop and whether there is 'sound', or the 'reason' to leave it out."""
        seconds = self.cut.seconds
        try:
            there = float(clip.footage.seconds()) if self.source.windows == "all" else float(seconds)
            rate = clip.footage.rate()
            if rate < self.cut.rate * ENOUGH:
                return _unfit(f"it has {float(rate):.4g} frames a second, fewer than the {self.cut.rate} asked for")
            looks = set(np.linspace(0, self.cut.frames - 1, LOOKS).round().astype(int))
            shown = []  # where the dancer is looked for; the others are decoded to know that they can be
            for index, picture in enumerate(clip.footage.at(self._times(start))):
                if index in looks if self.cut.crop == "dancer" else index == 0:
                    shown.append(picture)
            joints = self.source.people.detect(np.stack(shown)).joints if self.cut.crop == "dancer" else None
            box = crop_box(self.cut, *shown[0].shape[:2], joints)
            sound = self._sound(clip)
        except ValueError as error:
            return _unfit(str(error))
        if sound is None and not self.source.silence:
            return _unfit(f"it has no sound: put {clip.key}.wav beside it, or give data.music=FOLDER")
        if sound is not None and sound.duration < start + seconds - SHORT:
            return _unfit(f"its sound ends after {float(sound.duration):.2f} s, before its pictures do")
        return {"seconds": there, "box": box, "sound": sound is not None}

    def _sound(self, clip: Found) -> Sound | None:
        """The clip's sound, None where there is none. Raises ValueError for a sound file that cannot be used."""
        if clip.sound:
            return Sound(clip.sound)
        return Sound(clip.footage.files[0]) if clip.footage.has_sound() else None

    def _times(self, start: Fraction) -> list[Fraction]:
        return [start + index / self.cut.rate for index in range(self.cut.frames)]

    def take(self, index: int) -> Take:
        """See Takes. The reference is the clip's first frame; the beats are those found in its whole sound."""
        clip, start, box, has_sound = self._clips[index]
        cut = self.cut
        frames = [cut_pictures(picture[None], box, cut)[0] for picture in clip.footage.at(self._times(start))]
        sound = self._sound(clip) if has_sound else None
        sample_rate = sound.sample_rate if sound else self.encoder.sample_rate
        waveform = sound.mono(sample_rate, start, start + cut.seconds) if sound else np.zeros(0, np.float32)
        music = cut_music(self._music(sound, start + cut.seconds), start, cut.seconds)
        return Take(
            key=self.keys[index],
            labels=self.labels[index],
            caption=_one_line(clip.caption),
            reference=frames[0],
            frames=np.stack(frames),
            music=music,
            waveform=cut_waveform(waveform, sample_rate, Fraction(0), cut.seconds),
            sample_rate=sample_rate,
            beats=music.beats.times if sound else np.empty(0),
        )

    def _music(self, sound: Sound | None, least: Fraction) -> MusicFeatures:
        """The whole sound as the models hear it, at least `least` seconds of it."""
        rate = self.encoder.sample_rate
        waveform = sound.mono(rate) if sound else np.zeros(0, np.float32)
        missing = max(0, round(least * rate) + 1 - len(waveform))
        return encode_song(np.pad(waveform, (0, missing)), self.encoder, sample_rate=rate)


def _unfit(reason: str) -> dict:
    return {"reason": reason, "seconds": 0}


def _one_line(path: Path | None) -> str:
    return " ".join(path.read_text("utf-8", errors="replace").split()) if path else ""


def _read_list(path: str) -> list[str]:
    """One name a line, with or without the file's ending; # begins a remark."""
    try:
        lines = Path(path).expanduser().read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data.list={path} cannot be read ({error}); give a text file, a clip's name a line") from None
    names = [name for line in lines if (name := line.split("#")[0].strip())]
    return [str(Path(name).with_suffix("")) if Path(name).suffix.lower() in VIDEOS else name for name in names]
