"""Filmed pictures of any making, at exact times: a video file, or a folder of numbered pictures.

Time 0 is the first picture's. A time gets the picture nearest to it (the earlier one of two equally near), so that
odd and changing frame rates neither drift nor need a constant.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import numpy as np

from zoo.media import decodable, read_image, to_rgb

NEAR = Fraction(1, 4)  # s; a time with no picture nearer than this lies in a hole of the file
SEEK = Fraction(2)  # s; decoding from the beginning is quicker than looking for a time before this
NUMBERED = re.compile(r"(.*?)(\d+)")


class Footage(ABC):
    """The pictures of one clip; opened when they are asked for.

    files: what they are read from.
    """

    files: Sequence[Path]

    @abstractmethod
    def rate(self) -> Fraction:
        """Pictures a second, in the mean. Raises ValueError, one line, when it cannot be opened."""

    @abstractmethod
    def seconds(self) -> Fraction:
        """How long the pictures last. Raises ValueError, one line, when there are none."""

    @abstractmethod
    def has_sound(self) -> bool:
        """Whether the first of `files` has a sound track."""

    @abstractmethod
    def at(self, times: Sequence[Fraction]) -> Iterator[np.ndarray]:
        """For each of the rising `times`, seconds, the picture nearest to it: (H, W, 3) uint8.

        Raises ValueError, one line, when the pictures end before, do not decode, or change their size.
        """


class VideoFile(Footage):
    """The first video track of any file that PyAV can open."""

    def __init__(self, path: Path):
        self.path, self.files = path, [path]

    def rate(self) -> Fraction:
        """As the file's header says."""
        with self._opened() as (_, stream):
            return _rate(stream)

    def seconds(self) -> Fraction:
        """From the packets, decoding nothing: a header can lie."""
        with self._opened() as (container, stream):
            origin, end = _origin(stream), Fraction(0)
            try:
                for packet in container.demux(stream):
                    if packet.size and packet.pts is not None:
                        length = (packet.duration or 0) * packet.time_base or 1 / _rate(stream)
                        end = max(end, packet.pts * packet.time_base + length - origin)
            except av.error.InvalidDataError:
                pass  # a cut-off file: what was there counts
        if end <= 0:
            raise ValueError(f"{self.path.name} cannot be read as video (nothing in it says when); give an mp4")
        return end

    def has_sound(self) -> bool:
        """See Footage."""
        with self._opened() as (container, _):
            return bool(container.streams.audio)

    def at(self, times: Sequence[Fraction]) -> Iterator[np.ndarray]:
        """See Footage."""
        pictures = self._nearest(times, times[0] if times[0] > SEEK else None)
        first = next(pictures, None)
        if first is None:  # looking for a time led past it: some files have no good index
            pictures = self._nearest(times, None)
            first = next(pictures)
        yield first
        for picture in pictures:
            if picture.shape != first.shape:
                raise ValueError(f"{self.path.name} changes its size in the middle")
            yield picture

    def _nearest(self, times: Sequence[Fraction], seek: Fraction | None) -> Iterator[np.ndarray]:
        """As `at`; seek: begin to decode about there, and yield nothing when that is too late."""
        with self._opened() as (container, stream):
            origin = _origin(stream)
            if seek is not None:
                container.seek(int((seek + origin) / stream.time_base), stream=stream)
            waiting, kept, kept_time = list(times), None, None
            for frame in decodable(container, stream):
                if frame.pts is None:
                    raise ValueError(f"{self.path.name} does not say when its pictures show; write it anew as mp4")
                time = frame.pts * frame.time_base - origin
                if seek is not None and kept is None and time > seek:
                    return
                while waiting and kept is not None and waiting[0] - kept_time <= time - waiting[0]:
                    yield self._picture(kept, kept_time, waiting.pop(0))
                if not waiting:
                    return
                kept, kept_time = frame, time
            if kept is None:
                raise ValueError(f"{self.path.name} cannot be read as video (no picture of it decodes); give an mp4")
            end = kept_time + ((kept.duration or 0) * kept.time_base or 1 / _rate(stream))
            while waiting and waiting[0] < end:
                yield self._picture(kept, kept_time, waiting.pop(0))
            if waiting:
                raise ValueError(f"{self.path.name} lasts {float(end):.2f} s, which is too short")

    def _picture(self, frame, time: Fraction, asked: Fraction) -> np.ndarray:
        if abs(time - asked) > NEAR:
            raise ValueError(f"{self.path.name} has no picture that decodes near {float(asked):.2f} s")
        return to_rgb(frame)

    def _opened(self) -> "_Opened":
        return _Opened(self.path)


class _Opened:
    """`with` it as (container, stream): errors of PyAV become one line."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self):
        try:
            self.container = av.open(str(self.path), metadata_errors="ignore")
        except (av.FFmpegError, OSError) as error:
            raise self._refused(error) from None
        if not self.container.streams.video:
            self.container.close()
            raise ValueError(f"{self.path.name} has no pictures in it; give a video such as mp4")
        stream = self.container.streams.video[0]
        stream.thread_type = "AUTO"
        return self.container, stream

    def __exit__(self, kind, error, trace):
        self.container.close()
        if isinstance(error, av.FFmpegError):
            raise self._refused(error) from None

    def _refused(self, error) -> ValueError:
        return ValueError(f"{self.path.name} cannot be read as video ({error.strerror}); give an mp4")


def _origin(stream) -> Fraction:
    """When the first picture shows, on the container's clock: where zoo.media lets the sound begin too."""
    return (stream.start_time or 0) * stream.time_base


def _rate(stream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(25)


class NumberedPictures(Footage):
    """A folder of pictures with numbers for names (0001.png or frame_0001.jpg), `fps` of them a second.

    The numbers rise by equal steps. Raises ValueError, one line, when one is missing.
    """

    def __init__(self, files: Sequence[Path], fps: Fraction):
        self.files, self.fps = sorted(files, key=number_of), fps
        numbers = [number_of(path) for path in self.files]
        for before, after, path in zip(numbers, numbers[1:], self.files, strict=False):
            if after - before != numbers[1] - numbers[0]:
                raise ValueError(f"the picture after {path.name} is missing, or there twice")

    def rate(self) -> Fraction:
        """See Footage."""
        return self.fps

    def seconds(self) -> Fraction:
        """See Footage."""
        return len(self.files) / self.fps

    def has_sound(self) -> bool:
        """Pictures have none."""
        return False

    def at(self, times: Sequence[Fraction]) -> Iterator[np.ndarray]:
        """See Footage."""
        if times[-1] >= self.seconds():
            raise ValueError(f"{len(self.files)} pictures are {float(self.seconds()):.2f} s, which is too short")
        shape = None
        for time in times:
            index = ceil(time * self.fps - Fraction(1, 2))  # the nearest, the earlier of two
            picture = read_image(self.files[min(index, len(self.files) - 1)])
            if shape not in (None, picture.shape):
                raise ValueError("its pictures have different sizes")
            shape = picture.shape
            yield picture


class BodyParts:
    """Which parts of the body a clip's pictures show, read from other pictures that are in step with them."""

    def __init__(self, maps: Footage, read: Callable[[np.ndarray], np.ndarray]):
        """maps: as many pictures at the same times; read: such a picture (H, W, 3) uint8 -> parts (H, W) uint8."""
        self.maps, self._read = maps, read

    def at(self, times: Sequence[Fraction], height: int, width: int) -> Iterator[np.ndarray]:
        """For each of the rising `times` the parts (height, width) uint8 of the picture that `Footage.at` gives for it.

        Raises ValueError, one line, as that does, and for maps of another size or another kind.
        """
        folder = self.maps.files[0].parent
        try:
            for time, picture in zip(times, self.maps.at(times), strict=True):
                if picture.shape[:2] != (height, width):
                    size = "x".join(map(str, picture.shape[:2]))
                    raise ValueError(f"the one at {float(time):.2f} s is {size}, its picture {height}x{width}")
                yield self._read(picture)
        except ValueError as error:
            raise ValueError(f"its maps in {folder} cannot be used: {error}") from None


def number_of(path: Path) -> int | None:
    """The number that a picture's name ends in; None when it ends in none."""
    found = NUMBERED.fullmatch(path.stem)
    return int(found[2]) if found else None
