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
from zoo.files import normalize_name

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
        label_pattern = _compile_pattern(pattern)
        song_files = _song_files(music) if music else None
        clip_exists = None if names is None else {normalize_name(name): False for name in names}
        label_values = {
            label: {normalize_name(str(value)) for value in values} for label, values in label_filter.items()
        }
        first_files: dict[str, Path] = {}  # key -> first file of its clip
        for name, media_files in sorted(
            _possible_clips(folder), key=lambda pair: (normalize_name(str(pair[0])), str(pair[1]))
        ):
            key = normalize_name("-".join(name.parts))
            list_entries = [
                alias for alias in (key, aist.with_all_cameras(key)) if clip_exists is not None and alias in clip_exists
            ]
            labels = labels_of(key, label_pattern)
            if clip_exists is not None and not list_entries:
                continue
            if any(labels.get(label) not in values for label, values in label_values.items()):
                continue
            if clip_exists is not None:
                clip_exists |= dict.fromkeys(list_entries, True)
            if key in first_files:
                duplicate_path = (
                    media_files[0].relative_to(folder).as_posix()
                )  # its key belongs to a usable clip, which stays
                self.skipped.append((duplicate_path, f"another clip, {first_files[key].name}, is called {key} too"))
                continue
            first_files[key] = media_files[0]
            try:
                is_video = media_files[0].suffix.lower() in VIDEO_SUFFIXES
                frames = VideoFile(media_files[0]) if is_video else NumberedImages(media_files, fps)
            except ValueError as error:
                self.skipped.append((key, str(error)))
                continue
            clip_stem = folder / name
            if song_files is not None:
                sound = song_files.get(labels.get("song", ""), song_files.get(normalize_name(name.name)))
                if sound is None:
                    self.skipped.append((key, f"{music} has no song named {labels.get('song', name.name)}"))
                    continue
            else:
                sound = _file_beside(clip_stem, SOUND_SUFFIXES)
            labels.setdefault("song", normalize_name(sound.stem) if sound else key)
            part_maps = _part_maps(media_files, frames, fps)
            self.clips.append(ClipFiles(key, frames, sound, _file_beside(clip_stem, (".txt",)), labels, part_maps))
        self.skipped += [
            (name, f"{folder} has no such clip") for name, exists in (clip_exists or {}).items() if not exists
        ]
        if not self.clips:
            reason = f": {self.skipped[0][0]}: {self.skipped[0][1]}" if self.skipped else ""
            raise ValueError(f"data.folder={folder} has no clip that data.clip_list and data.filter leave{reason}")


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


def _possible_clips(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """(name relative to the folder, files) of every possible clip; a folder of images has at least two."""
    if not folder.is_dir():
        raise ValueError(f"data.folder={folder} is no folder; name the one that holds the videos")
    for root, folder_names, file_names in os.walk(folder):
        directory = Path(root)
        folder_names[:] = sorted(name for name in folder_names if not name.startswith("."))
        files = [directory / name for name in sorted(file_names) if not name.startswith(".")]
        relative_path = directory.relative_to(folder)
        videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
        for path in videos:
            yield relative_path / path.stem, [path]
        if relative_path.name != "images" and (directory.parent / "images").is_dir() and relative_path != Path():
            continue  # masks and the like, which lie beside the images
        images = _numbered_images(files)
        if videos or len(images) > 1:
            folder_names[:] = [name for name in folder_names if name not in MAP_FOLDERS]
        name = relative_path.parent if relative_path.name == "images" else relative_path
        if len(images) > 1 and name != Path():
            yield name, images


def _numbered_images(files: Iterable[Path]) -> list[Path]:
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and number_of(path) is not None]


def _part_maps(media_files: Sequence[Path], frames: FrameSource, fps: Fraction) -> PartMaps | None:
    """The part maps beside a clip's files; an image's map has its number."""
    directory = media_files[0].parent
    for folder_name, decode in MAP_FOLDERS.items():
        if isinstance(frames, VideoFile):
            video = _file_beside(directory / folder_name / media_files[0].stem, VIDEO_SUFFIXES)
            if video:
                return PartMaps(VideoFile(video), decode)
            continue
        folder = (directory.parent if directory.name == "images" else directory) / folder_name
        if folder.is_dir():
            map_of_number = {number_of(path): path for path in _numbered_images(sorted(folder.iterdir()))}
            map_files = [map_of_number.get(number_of(path), folder / path.name) for path in media_files]
            return PartMaps(NumberedImages(map_files, fps), decode)  # reading a missing map raises ValueError
    return None


def _file_beside(stem: Path, suffixes: Sequence[str]) -> Path | None:
    """The first file STEM.SUFFIX that exists, by any Unicode spelling of its name."""
    spellings = dict.fromkeys([stem.name, *(unicodedata.normalize(form, stem.name) for form in ("NFC", "NFD"))])
    paths = (stem.with_name(name + suffix) for suffix in suffixes for name in spellings)
    return next((path for path in paths if path.is_file()), None)


def _song_files(folder: Path) -> dict[str, Path]:
    """Stem -> sound file of a folder of songs; of two formats of a song the first in SOUND_SUFFIXES."""
    if not folder.is_dir():
        raise ValueError(f"data.music={folder} is no folder; name the one that holds the songs")
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SOUND_SUFFIXES]
    files.sort(key=lambda path: -SOUND_SUFFIXES.index(path.suffix.lower()))
    return {normalize_name(path.stem): path for path in files}
