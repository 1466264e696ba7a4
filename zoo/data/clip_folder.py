"""The clips in a folder of videos: which files make a clip, and the labels in their names.

A clip is a video file, or a folder of numbered images (NAME/0001.png or NAME/images/0001.png, as in the TikTok data
set). Beside it may lie NAME.wav (or mp3, flac, ...), its sound, and NAME.txt, a line that describes the motion; and, in
folders of their own beside the images or the video, DensePose parts (NAME/densepose/0001.png, densepose/NAME.mp4) or
masks (NAME/masks/0001.png, masks/NAME.mp4).
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from zoo.body.render.densepose import read_mask, read_parts
from zoo.data import aist
from zoo.data.frame_source import FrameSource, NumberedImages, PartMaps, VideoFile, number_of

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MAP_FOLDERS = {"densepose": read_parts, "masks": read_mask}  # folders of body parts; the first one that exists is used


@dataclass(frozen=True)
class ClipFiles:
    """The files of one clip in a folder, not opened yet."""

    key: str  # its name; names of folders and file joined by '-'
    frames: FrameSource
    sound: Path | None  # the file that holds its sound; None: the video may have a sound track
    caption: Path | None
    labels: Mapping[str, str]
    parts: PartMaps | None  # where there is a folder of them

    @property
    def files(self) -> list[Path]:
        """All files of the clip except its part maps, which no evaluation reads."""
        return [*self.frames.files, *(path for path in (self.sound, self.caption) if path)]


class ClipFolder:
    """clips: sorted by name. skipped: (name, reason) of files that look like a clip and cannot be used."""

    def __init__(
        self,
        folder: Path,
        music: Path | None,
        pattern: str,
        names: Sequence[str] | None,
        label_filter: Mapping[str, Sequence[str]],
        fps: Fraction,
    ):
        """music: a folder of songs, found by the label 'song'; pattern: 'aist' or a regular expression whose named
        groups are labels; names: use these clips only; label_filter: label -> the values that a clip may have; fps: of
        numbered images. Raises ValueError when no clip is left, and for an unusable pattern.
        """
        self.clips: list[ClipFiles] = []
        self.skipped: list[tuple[str, str]] = []
        expression = _compile_pattern(pattern)
        songs = _songs(music) if music else None
        is_listed = None if names is None else {normalize_name(name): False for name in names}  # True: it exists
        first_files: dict[str, Path] = {}
        for name, media in sorted(_media(folder), key=lambda pair: (normalize_name(str(pair[0])), str(pair[1]))):
            key = normalize_name("-".join(name.parts))
            listed = [
                alias for alias in (key, aist.with_all_cameras(key)) if is_listed is not None and alias in is_listed
            ]
            labels = labels_of(key, expression)
            if is_listed is not None and not listed:
                continue
            if any(labels.get(label) not in values for label, values in label_filter.items()):
                continue
            if is_listed is not None:
                is_listed |= dict.fromkeys(listed, True)
            if key in first_files:
                duplicate = media[0].relative_to(folder).as_posix()  # its key belongs to a usable clip, which stays
                self.skipped.append((duplicate, f"another clip, {first_files[key].name}, is called {key} too"))
                continue
            first_files[key] = media[0]
            try:
                is_video = media[0].suffix.lower() in VIDEO_SUFFIXES
                frames = VideoFile(media[0]) if is_video else NumberedImages(media, fps)
            except ValueError as error:
                self.skipped.append((key, str(error)))
                continue
            stem = folder / name
            if songs is not None:
                sound = songs.get(labels.get("song", ""), songs.get(normalize_name(name.name)))
                if sound is None:
                    self.skipped.append((key, f"{music} has no song named {labels.get('song', name.name)}"))
                    continue
            else:
                sound = _file_beside(stem, SOUND_SUFFIXES)
            labels.setdefault("song", normalize_name(sound.stem) if sound else key)
            parts = _part_maps(media, frames, fps)
            self.clips.append(ClipFiles(key, frames, sound, _file_beside(stem, (".txt",)), labels, parts))
        self.skipped += [
            (name, f"{folder} has no such clip") for name, exists in (is_listed or {}).items() if not exists
        ]
        if not self.clips:
            reason = f": {self.skipped[0][0]}: {self.skipped[0][1]}" if self.skipped else ""
            raise ValueError(f"data.folder={folder} has no clip that data.clip_list and data.filter leave{reason}")


def normalize_name(name: str) -> str:
    """Unicode NFC: one spelling for names that look the same."""
    return unicodedata.normalize("NFC", name)


def labels_of(key: str, expression: re.Pattern) -> dict[str, str]:
    """The labels in a clip's name; AIST's c01 is written C01 and its gBR Break, as in the papers."""
    match = expression.search(key)
    labels = {name: value for name, value in match.groupdict().items() if value} if match else {}
    if expression.pattern == aist.NAME_PATTERN and labels:
        labels["camera"] = labels["camera"].replace("c", "C", 1)
        labels["style"] = aist.paper_style(labels["style"])
    return labels


def _compile_pattern(pattern: str) -> re.Pattern:
    try:
        expression = re.compile(aist.NAME_PATTERN if pattern == "aist" else pattern)
    except re.error as error:
        raise ValueError(f"data.pattern={pattern} is no regular expression: {error}") from None
    if not expression.groupindex:
        raise ValueError(f"data.pattern={pattern} names no label: write groups such as (?P<song>\\w+)")
    return expression


def _media(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """(name relative to the folder, files) of every possible clip; a folder of images has at least two."""
    if not folder.is_dir():
        raise ValueError(f"data.folder={folder} is no folder; name the one that holds the videos")
    for root, folders, file_names in os.walk(folder):
        place = Path(root)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [place / name for name in sorted(file_names) if not name.startswith(".")]
        relative = place.relative_to(folder)
        videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
        for path in videos:
            yield relative / path.stem, [path]
        if relative.name != "images" and (place.parent / "images").is_dir() and relative != Path():
            continue  # masks and the like, which lie beside the images
        images = _numbered(files)
        if videos or len(images) > 1:
            folders[:] = [name for name in folders if name not in MAP_FOLDERS]
        name = relative.parent if relative.name == "images" else relative
        if len(images) > 1 and name != Path():
            yield name, images


def _numbered(files: Iterable[Path]) -> list[Path]:
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and number_of(path) is not None]


def _part_maps(media: Sequence[Path], frames: FrameSource, fps: Fraction) -> PartMaps | None:
    """The part maps beside a clip's files; an image's map has its number."""
    place = media[0].parent
    for folder_name, read in MAP_FOLDERS.items():
        if isinstance(frames, VideoFile):
            video = _file_beside(place / folder_name / media[0].stem, VIDEO_SUFFIXES)
            if video:
                return PartMaps(VideoFile(video), read)
            continue
        folder = (place.parent if place.name == "images" else place) / folder_name
        if folder.is_dir():
            maps = {number_of(path): path for path in _numbered(sorted(folder.iterdir()))}
            files = [maps.get(number_of(path), folder / path.name) for path in media]
            return PartMaps(NumberedImages(files, fps), read)  # reading a missing map raises ValueError
    return None


def _file_beside(stem: Path, suffixes: Sequence[str]) -> Path | None:
    """The first file STEM.SUFFIX that exists."""
    return next((path for suffix in suffixes if (path := stem.with_name(stem.name + suffix)).is_file()), None)


def _songs(folder: Path) -> dict[str, Path]:
    """Stem -> sound file of a folder of songs; of two formats of a song the first in SOUND_SUFFIXES."""
    if not folder.is_dir():
        raise ValueError(f"data.music={folder} is no folder; name the one that holds the songs")
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SOUND_SUFFIXES]
    files.sort(key=lambda path: -SOUND_SUFFIXES.index(path.suffix.lower()))
    return {normalize_name(path.stem): path for path in files}
