"""The clips in a folder of somebody's: which files make a clip, and what their names say.

A clip is a video file, or a folder of numbered pictures (NAME/0001.png or NAME/images/0001.png, as in the TikTok data
set). Beside it may lie NAME.wav (or mp3, flac, ...), its sound, and NAME.txt, a line that says the motion; and, in
folders of their own beside the pictures or the video, DensePose's parts (NAME/densepose/0001.png, densepose/NAME.mp4)
or masks (NAME/masks/0001.png, masks/NAME.mp4).
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from zoo.body.render.densepose import read_mask, read_parts
from zoo.data.frame_source import BodyParts, Footage, NumberedPictures, VideoFile, number_of

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
SOUNDS = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus")
PICTURES = (".png", ".jpg", ".jpeg")
MAPS = {"densepose": read_parts, "masks": read_mask}  # folders of what a clip's pictures show; the first one counts
# AIST's names, such as gBR_sBM_c01_d04_mBR0_ch01: genre, situation, camera, dancer, music, choreography
AIST = r"(?P<style>g[A-Z]{2})_s[A-Z]{2}_(?P<camera>c\d\d)_(?P<dancer>d\d\d)_(?P<song>m[A-Z]{2}\d+)_ch\d\d"
AIST_STYLES = {
    "gBR": "Break",
    "gPO": "Pop",
    "gLO": "Lock",
    "gMH": "Middle Hip-hop",
    "gLH": "LA style Hip-hop",
    "gHO": "House",
    "gWA": "Waack",
    "gKR": "Krump",
    "gJS": "Street Jazz",
    "gJB": "Ballet Jazz",
}


@dataclass(frozen=True)
class Found:
    """One clip in a folder, not opened yet."""

    key: str  # its name; parts of folders joined by '-'
    footage: Footage
    sound: Path | None  # the file that holds its sound; None where only a look into the video can tell
    caption: Path | None
    labels: Mapping[str, str]
    parts: BodyParts | None  # where there is a folder of them

    @property
    def files(self) -> list[Path]:
        """All that the clip is made of, but for its parts, on which nothing is evaluated."""
        return [*self.footage.files, *(path for path in (self.sound, self.caption) if path)]


class Folder:
    """clips: in the order of their names. skipped: (name, reason) of what looks like a clip and cannot be one."""

    def __init__(
        self,
        folder: Path,
        music: Path | None,
        pattern: str,
        names: Sequence[str] | None,
        where: Mapping[str, Sequence[str]],
        fps: Fraction,
    ):
        """music: a folder of songs, found by the label 'song'; pattern: 'aist' or a regular expression whose named
        groups are labels; names: take these alone; where: label -> the values that a clip may have; fps: of numbered
        pictures. Raises ValueError when nothing is left, and for a pattern that cannot be used.
        """
        self.clips: list[Found] = []
        self.skipped: list[tuple[str, str]] = []
        expression = _expression(pattern)
        songs = _songs(music) if music else None
        wanted = None if names is None else {plain(name): False for name in names}
        seen: dict[str, Path] = {}
        for name, media in sorted(_media(folder), key=lambda pair: (plain(str(pair[0])), str(pair[1]))):
            key = plain("-".join(name.parts))
            listed = [one for one in (key, as_all_cameras(key)) if wanted is not None and one in wanted]
            labels = labels_of(key, expression)
            if (wanted is not None and not listed) or any(labels.get(one) not in those for one, those in where.items()):
                continue
            for one in listed:
                wanted[one] = True
            if key in seen:
                twin = media[0].relative_to(folder).as_posix()  # its key is a good clip's, which stays
                self.skipped.append((twin, f"another clip, {seen[key].name}, is called {key} too"))
                continue
            seen[key] = media[0]
            try:
                video = media[0].suffix.lower() in VIDEOS
                footage = VideoFile(media[0]) if video else NumberedPictures(media, fps)
            except ValueError as error:
                self.skipped.append((key, str(error)))
                continue
            beside = folder / name
            if songs is not None:
                sound = songs.get(labels.get("song", ""), songs.get(plain(name.name)))
                if sound is None:
                    self.skipped.append((key, f"{music} has no song named {labels.get('song', name.name)}"))
                    continue
            else:
                sound = _beside(beside, SOUNDS)
            labels.setdefault("song", plain(sound.stem) if sound else key)
            parts = _parts(media, footage, fps)
            self.clips.append(Found(key, footage, sound, _beside(beside, (".txt",)), labels, parts))
        self.skipped += [(name, f"{folder} has no such clip") for name, found in (wanted or {}).items() if not found]
        if not self.clips:
            reason = f": {self.skipped[0][0]}: {self.skipped[0][1]}" if self.skipped else ""
            raise ValueError(f"data.folder={folder} has no clip that data.list and data.where leave{reason}")


def plain(name: str) -> str:
    """One spelling for names that look the same."""
    return unicodedata.normalize("NFC", name)


def as_all_cameras(key: str) -> str:
    """The name that AIST++'s lists have for a clip of any camera: c01 becomes cAll."""
    return re.sub(r"(?<=_)c\d\d(?=_)", "cAll", key)


def labels_of(key: str, expression: re.Pattern) -> dict[str, str]:
    """What a clip's name says of it; AIST's c01 is written C01 and its gBR Break, as in the papers."""
    found = expression.search(key)
    labels = {name: value for name, value in found.groupdict().items() if value} if found else {}
    if expression.pattern == AIST and labels:
        labels["camera"] = labels["camera"].upper()
        labels["style"] = AIST_STYLES.get(labels["style"], labels["style"])
    return labels


def _expression(pattern: str) -> re.Pattern:
    try:
        expression = re.compile(AIST if pattern == "aist" else pattern)
    except re.error as error:
        raise ValueError(f"data.pattern={pattern} is no regular expression: {error}") from None
    if not expression.groupindex:
        raise ValueError(f"data.pattern={pattern} names no label: write groups such as (?P<song>\\w+)")
    return expression


def _media(folder: Path) -> Iterable[tuple[Path, list[Path]]]:
    """(name relative to the folder, files) of what looks like a clip; two numbered pictures are the least."""
    if not folder.is_dir():
        raise ValueError(f"data.folder={folder} is no folder; name the one that holds the videos")
    for root, folders, files in os.walk(folder):
        place = Path(root)
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        files = [place / one for one in sorted(files) if not one.startswith(".")]
        here = place.relative_to(folder)
        videos = [path for path in files if path.suffix.lower() in VIDEOS]
        for path in videos:
            yield here / path.stem, [path]
        if here.name != "images" and (place.parent / "images").is_dir() and here != Path():
            continue  # masks and the like, which lie beside the pictures
        pictures = _numbered(files)
        if videos or len(pictures) > 1:
            folders[:] = [one for one in folders if one not in MAPS]
        name = here.parent if here.name == "images" else here
        if len(pictures) > 1 and name != Path():
            yield name, pictures


def _numbered(files: Iterable[Path]) -> list[Path]:
    return [path for path in files if path.suffix.lower() in PICTURES and number_of(path) is not None]


def _parts(media: Sequence[Path], footage: Footage, fps: Fraction) -> BodyParts | None:
    """What MAPS says of a clip's files; the map of a picture is the one of its number."""
    place = media[0].parent
    for kind, read in MAPS.items():
        if isinstance(footage, VideoFile):
            found = _beside(place / kind / media[0].stem, VIDEOS)
            if found:
                return BodyParts(VideoFile(found), read)
            continue
        folder = (place.parent if place.name == "images" else place) / kind
        if folder.is_dir():
            maps = {number_of(path): path for path in _numbered(sorted(folder.iterdir()))}
            files = [maps.get(number_of(path), folder / path.name) for path in media]
            return BodyParts(NumberedPictures(files, fps), read)  # one that is not there is missed when it is read
    return None


def _beside(name: Path, suffixes: Sequence[str]) -> Path | None:
    """The first file NAME.SUFFIX that is there."""
    return next((path for end in suffixes if (path := name.with_name(name.name + end)).is_file()), None)


def _songs(folder: Path) -> dict[str, Path]:
    """Stem -> sound file of a folder of songs; of two formats of a song the first of SOUNDS."""
    if not folder.is_dir():
        raise ValueError(f"data.music={folder} is no folder; name the one that holds the songs")
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SOUNDS]
    files.sort(key=lambda path: -SOUNDS.index(path.suffix.lower()))
    return {plain(path.stem): path for path in files}
