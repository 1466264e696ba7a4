"""Recorded frames of any source, at exact times: a video file, or a folder of numbered images.

Time 0 is the first frame's. A time gets the frame nearest to it (the earlier one of two equally near), so that odd and
changing frame rates neither drift nor need a constant.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np

from zoo.media import decodable_frames, open_media, read_image, to_rgb

MAX_TIME_DISTANCE = Fraction(1, 4)  # s; a time with no frame nearer than this lies in a gap of the file
MIN_SEEK_TIME = Fraction(2)  # s; before this time, decoding from the beginning is faster than seeking
NUMBERED_STEM = re.compile(r"(.*?)(\d+)")


class FrameSource(ABC):
    """The frames of one clip; opened when they are read.

    files: the files they are read from.
    """

    files: Sequence[Path]

    @abstractmethod
    def rate(self) -> Fraction:
        """Mean frames a second. Raises ValueError, one line, when it cannot be opened."""

    @abstractmethod
    def seconds(self) -> Fraction:
        """Duration of the frames. Raises ValueError, one line, when there are none."""

    @abstractmethod
    def has_sound(self) -> bool:
        """Whether the first of `files` has a sound track."""

    @abstractmethod
    def frames_at(self, times: Sequence[Fraction]) -> Iterator[np.ndarray]:
        """For each of the rising `times`, seconds, yield the frame nearest to it: (H, W, 3) uint8.

        Raises ValueError, one line, when the frames end earlier, do not decode, or change their size.
        """


class VideoFile(FrameSource):
    """The first video track of any file that PyAV can open."""

    def __init__(self, path: Path):
        self.path, self.files = path, [path]

    def rate(self) -> Fraction:
        """As the file's header says."""
        with self._open() as (_, stream):
            return _rate(stream)

    def seconds(self) -> Fraction:
        """From the packets, without decoding: a header can be wrong."""
        with self._open() as (container, stream):
            origin, end_time = _origin(stream), Fraction(0)
            try:
                for packet in container.demux(stream):
                    if packet.size and packet.pts is not None:
                        packet_duration = (packet.duration or 0) * packet.time_base or 1 / _rate(stream)
                        end_time = max(end_time, packet.pts * packet.time_base + packet_duration - origin)
            except av.error.InvalidDataError:
                pass  # a cut-off file: the packets before the end count
        if end_time <= 0:
            raise ValueError(f"{self.path.name} cannot be read as video (it has no timestamps); give an mp4")
        return end_time

    def has_sound(self) -> bool:
        """See FrameSource."""
        with self._open() as (container, _):
            return bool(container.streams.audio)

    def frames_at(self, times: Sequence[Fraction]) -> Iterator[np.ndarray]:
        """See FrameSource."""
        frames = self._nearest(times, times[0] if times[0] > MIN_SEEK_TIME else None)
        first_frame = next(frames, None)
        if first_frame is None:  # the seek went past the time: some files have no good index
            frames = self._nearest(times, None)
            first_frame = next(frames)
        yield first_frame
        for frame in frames:
            if frame.shape != first_frame.shape:
                raise ValueError(f"{self.path.name} changes its size in the middle")
            yield frame

    def _nearest(self, times: Sequence[Fraction], seek_time: Fraction | None) -> Iterator[np.ndarray]:
        """As `frames_at`. seek_time: begin to decode about there; yield nothing if the first decoded frame is later."""
        with self._open() as (container, stream):
            origin = _origin(stream)
            if seek_time is not None:
                container.seek(int((seek_time + origin) / stream.time_base), stream=stream)
            pending_times, previous, previous_time = list(times), None, Fraction(0)
            for frame in decodable_frames(container, stream):
                if frame.pts is None:
                    raise ValueError(f"{self.path.name} has frames without timestamps; convert it to mp4")
                frame_time = frame.pts * frame.time_base - origin
                if seek_time is not None and previous is None and frame_time > seek_time:
                    return
                while (
                    pending_times
                    and previous is not None
                    and pending_times[0] - previous_time <= frame_time - pending_times[0]
                ):
                    yield self._to_rgb(previous, previous_time, pending_times.pop(0), stream.sample_aspect_ratio)
                if not pending_times:
                    return
                previous, previous_time = frame, frame_time
            if previous is None:
                raise ValueError(f"{self.path.name} cannot be read as video (no frame of it decodes); give an mp4")
            end_time = previous_time + ((previous.duration or 0) * previous.time_base or 1 / _rate(stream))
            while pending_times and pending_times[0] < end_time:
                yield self._to_rgb(previous, previous_time, pending_times.pop(0), stream.sample_aspect_ratio)
            if pending_times:
                raise ValueError(f"{self.path.name} lasts {float(end_time):.2f} s, which is too short")

    def _to_rgb(
        self, frame: av.VideoFrame, frame_time: Fraction, requested_time: Fraction, pixel_aspect_ratio: Fraction | None
    ) -> np.ndarray:
        if abs(frame_time - requested_time) > MAX_TIME_DISTANCE:
            raise ValueError(f"{self.path.name} has no frame that decodes near {float(requested_time):.2f} s")
        return to_rgb(frame, pixel_aspect_ratio)

    def _open(self) -> "_OpenVideo":
        return _OpenVideo(self.path)


class _OpenVideo:
    """Context manager that gives (container, stream); errors of PyAV become one line."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> tuple[Any, Any]:
        try:
            self.container = open_media(self.path)
        except (av.FFmpegError, OSError) as error:
            raise self._unreadable(error) from None
        if not self.container.streams.video:
            self.container.close()
            raise ValueError(f"{self.path.name} has no video track; give a video such as mp4")
        stream = self.container.streams.video[0]
        stream.thread_type = "AUTO"
        return self.container, stream

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()
        if isinstance(error, av.FFmpegError):
            raise self._unreadable(error) from None

    def _unreadable(self, error: av.FFmpegError | OSError) -> ValueError:
        return ValueError(f"{self.path.name} cannot be read as video ({error.strerror}); give an mp4")


def _origin(stream: Any) -> Fraction:
    """Time of the first frame on the container's clock: zoo.media begins the sound there too."""
    return (stream.start_time or 0) * stream.time_base


def _rate(stream: Any) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(25)


class NumberedImages(FrameSource):
    """A folder of images with numbers for names (0001.png or frame_0001.jpg), `fps` of them a second.

    The numbers rise by equal steps. Raises ValueError, one line, when one is missing.
    """

    def __init__(self, files: Sequence[Path], fps: Fraction):
        numbered_files = sorted(((number_of(path) or 0, path) for path in files), key=lambda pair: pair[0])
        self.files, self.fps = [path for _, path in numbered_files], fps
        numbers = [number for number, _ in numbered_files]
        for number, next_number, path in zip(numbers, numbers[1:], self.files, strict=False):
            if next_number - number != numbers[1] - numbers[0]:
                raise ValueError(f"the image after {path.name} is missing, or there twice")

    def rate(self) -> Fraction:
        """See FrameSource."""
        return self.fps

    def seconds(self) -> Fraction:
        """See FrameSource."""
        return len(self.files) / self.fps

    def has_sound(self) -> bool:
        """Images have none."""
        return False

    def frames_at(self, times: Sequence[Fraction]) -> Iterator[np.ndarray]:
        """See FrameSource."""
        if times[-1] >= self.seconds():
            raise ValueError(f"{len(self.files)} images last {float(self.seconds()):.2f} s, which is too short")
        previous_shape = None
        for time in times:
            index = ceil(time * self.fps - Fraction(1, 2))  # the nearest, the earlier of two
            image = read_image(self.files[min(index, len(self.files) - 1)])
            if previous_shape not in (None, image.shape):
                raise ValueError("its images have different sizes")
            previous_shape = image.shape
            yield image


class PartMaps:
    """Body parts of a clip's frames, read from other images or another video at the same times."""

    def __init__(self, maps: FrameSource, decode: Callable[[np.ndarray], np.ndarray]):
        """decode: one image of `maps` (H, W, 3) uint8 -> parts (H, W) uint8."""
        self.maps, self._decode = maps, decode

    def parts_at(self, times: Sequence[Fraction], height: int, width: int) -> Iterator[np.ndarray]:
        """For each of the rising `times` yield the parts (height, width) uint8 of the frame at that time.

        Raises ValueError, one line, as `FrameSource.frames_at` does, and for maps of another size or kind.
        """
        folder = self.maps.files[0].parent
        try:
            for time, image in zip(times, self.maps.frames_at(times), strict=True):
                if image.shape[:2] != (height, width):
                    size_text = "x".join(map(str, image.shape[:2]))
                    raise ValueError(f"the one at {float(time):.2f} s is {size_text}, its image {height}x{width}")
                yield self._decode(image)
        except ValueError as error:
            raise ValueError(f"its maps in {folder} cannot be used: {error}") from None


def number_of(path: Path) -> int | None:
    """The number at the end of a file's stem; None where there is none."""
    match = NUMBERED_STEM.fullmatch(path.stem)
    return int(match[2]) if match else None
