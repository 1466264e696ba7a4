"""Pictures, sound and video in files, on one exact clock.

Times are `Fraction` seconds: sample k of a sound is at k / sample_rate, frame i of a video at i / fps, and nothing is
ever accumulated in floats. Time 0 is the first sound that is meant to be heard: the priming samples of mp3, AAC and
Opus are not part of it. Files are read and written as streams, so memory does not grow with their length.
"""

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, ImageOps

from zoo.files import replacing

MIN_SECONDS = Fraction(1, 2)  # s; no beat, and hardly a feature window, fits into less
SOUND_CODECS = {
    ".wav": "pcm_s16le",
    ".flac": "flac",
    ".ogg": "libopus",
    ".opus": "libopus",
    ".m4a": "aac",
    ".mp3": "libmp3lame",
}
MIN_GAP = Fraction(1, 20)  # s between two pieces of sound; less is rounded timestamps
MAX_OVERLAP = Fraction(1, 2)  # s; timestamps that jump back by more belong to another stream
CANCELLATION_RATIO = 1e-3  # of the loudest channel's power: channels whose mean has less cancel each other
# FFmpeg's decoders give the same error for both
UNSUPPORTED_SOUND = "parts one behind the other differ in sample rate or channels, or the codec's form is not supported"
TRY_SOUND = "give a sound file such as mp3, ogg, m4a, opus, flac or wav"
MAX_PIXEL_ASPECT_RATIO = 4  # width over height of a stored pixel, or its inverse; beyond, the number is damaged
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
PQ, HLG = 16, 18  # H.273 codes of transfer functions of high dynamic range
KNEE = 0.8  # of paper white: brighter light is squeezed
BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)  # of linear light, BT.2087
BT709, BT2020 = 1, 9  # H.273 codes of colour matrices; every other one that is met in video is near enough to BT.601


# containers that hold their content themselves: playlists would make the decoder open other files
CONTAINERS = (
    "3gp aac ac3 aiff amr ape apng asf au avi caf dts dv eac3 flac flv gif h264 hevc ivf m4v matroska mjpeg mov mp3 "
    "mp4 mpc mpc8 mpeg mpegts mpegvideo mxf nut obu ogg tta voc w64 wav webm webp wv"
).split()


def open_media(path: str | os.PathLike, data: bytes | None = None) -> av.container.InputContainer:
    """Open a media file, or its content `data`, to read it. The one place where the zoo gives a file to FFmpeg.

    A name is a name: `04.23:50.wav` is no address. Only CONTAINERS are opened, so that no file can make the decoder
    open others. Raises av.FFmpegError and OSError.
    """
    source = os.path.abspath(path) if data is None else io.BytesIO(data)
    options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
    return av.open(source, metadata_errors="ignore", options=options)


MAX_PIXELS = 10**8  # of an image; larger ones are bombs
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """`replacing`, with ValueError where nothing can be written."""
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a directory; name a file in it")
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(replacing(path))
        except OSError as error:
            raise ValueError(f"cannot write {path} ({error.strerror}); name another place") from None
        yield temporary


def _existing(path: str | os.PathLike, kind: str) -> Path:
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{kind} {path} is a directory; name one file in it")
    if not path.exists():
        raise ValueError(f"{kind} {path} does not exist; check the name")
    if not path.is_file():
        raise ValueError(f"{kind} {path} is a pipe or a device; name a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{kind} {path} is empty (0 bytes); copy it again")
    return path


# Sound ---------------------------------------------------------------------------------------------------------------


class Sound:
    """The first sound track of any file that PyAV can open. It holds no samples, and decodes when asked.

    path; sample_rate (Hz); channels; duration: Fraction seconds. The duration comes from the packets: a header can lie,
    and a cut-off file has less than its header says. In a video file time 0 is the first picture's.
    Raises ValueError, one line, for a file that is missing, empty, a directory, without sound, or shorter than 0.5 s.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = _existing(path, "sound file")
        try:
            with open_media(self.path) as container:
                if not container.streams.audio:
                    raise ValueError(f"{self.path} has no sound track; {TRY_SOUND}")
                stream = container.streams.audio[0]
                start, end = _extent(container, stream)
                video_streams = [
                    video_stream
                    for video_stream in container.streams.video
                    if not video_stream.disposition & Disposition.attached_pic
                ]
                origin = _start(video_streams[0]) if video_streams else start  # a cover is no video
                self.sample_rate, self.channels = stream.codec_context.sample_rate, stream.codec_context.channels
        except (av.FFmpegError, OSError) as error:
            is_unsupported = isinstance(error, av.error.PatchWelcomeError)
            reason = UNSUPPORTED_SOUND if is_unsupported else error.strerror
            raise ValueError(f"{self.path} cannot be read as sound ({reason}); {TRY_SOUND}") from None
        self._lead = start - origin  # s of silence before the first sample; < 0 where sound begins before the video
        self.duration = end - origin
        if self.duration < MIN_SECONDS:
            raise ValueError(
                f"{self.path} lasts {float(self.duration):.3f} s, too short to dance to; give {float(MIN_SECONDS)} s"
            )

    def mono(self, sample_rate: int, start: Fraction = Fraction(0), stop: Fraction | None = None) -> np.ndarray:
        """Samples of [start, stop) seconds as float32 (S,), channels averaged; sample k is at start + k / sample_rate.

        S = round(stop * sample_rate) - round(start * sample_rate), less only where the sound ends before `stop`.
        """
        stop = self.duration if stop is None else min(Fraction(stop), self.duration)
        num_samples = round(stop * sample_rate) - round(Fraction(start) * sample_rate)
        if num_samples <= 0:
            raise ValueError(f"{self.path} lasts {float(self.duration):.2f} s: no sound from {float(start):.2f} s on")
        wave, num_filled = np.empty(num_samples, np.float32), 0
        for block in self.blocks(sample_rate, "mono", start, stop):
            wave[num_filled : num_filled + block.shape[1]] = block[0]
            num_filled += block.shape[1]
        return wave[:num_filled]

    def blocks(
        self, sample_rate: int, layout: str, start: Fraction = Fraction(0), stop: Fraction | None = None
    ) -> Iterator[np.ndarray]:
        """Yield [start, stop) as consecutive float32 blocks (C, n); layout is "mono" or "stereo".

        It decodes from the beginning whatever `start` is, because seeking in mp3 and ogg is not exact.
        """
        stop = self.duration if stop is None else min(Fraction(stop), self.duration)
        start_sample, stop_sample = round(Fraction(start) * sample_rate), round(stop * sample_rate)
        position = round(self._lead * sample_rate)
        if position > start_sample:
            yield np.zeros((1 if layout == "mono" else 2, min(position, stop_sample) - start_sample), np.float32)
        for block in self._decoded(sample_rate, layout):
            if not np.isfinite(block).all():  # damaged samples of a float format
                block = np.nan_to_num(block, nan=0, posinf=0, neginf=0)
            if layout == "mono":
                block = _mixed(block)
            selected = block[:, max(start_sample - position, 0) : max(stop_sample - position, 0)]
            position += block.shape[1]
            if selected.shape[1]:
                yield selected
            if position >= stop_sample:
                return

    def _decoded(self, sample_rate: int, layout: str) -> Iterator[np.ndarray]:
        try:
            yield from self._decode(sample_rate, layout)
        except av.FFmpegError as error:  # 9 channels without names, for example
            raise ValueError(f"{self.path} cannot be decoded as sound ({error.strerror}); {TRY_SOUND}") from None

    def _decode(self, sample_rate: int, layout: str) -> Iterator[np.ndarray]:
        resampler, input_format, timeline = None, None, _Timeline()
        with open_media(self.path) as container:
            for frame in decodable_frames(container, container.streams.audio[0]):
                frame_format = (frame.format.name, frame.layout.name, frame.sample_rate)
                gap = timeline.add(frame.pts, frame.time_base, Fraction(frame.samples, frame.sample_rate))
                if input_format != frame_format or gap:  # chained streams may differ
                    yield from map(_planar, _resampled(resampler, None))
                    output_layout = frame.layout.name if layout == "mono" else layout
                    resampler = av.AudioResampler(format="flt", layout=output_layout, rate=sample_rate)
                    input_format = frame_format
                yield from _silence(round(gap * sample_rate), 1 if layout == "mono" else 2)
                yield from map(_planar, _resampled(resampler, frame))
        yield from map(_planar, _resampled(resampler, None))


class _Timeline:
    """Places pieces of sound by their timestamps.

    end: of what was added, seconds. Timestamps that jump back begin another stream (chained ogg files), which follows
    at once.
    """

    def __init__(self) -> None:
        self.end: Fraction | None = None
        self._shift = Fraction(0)

    def add(self, pts: int | None, time_base: Fraction, duration: Fraction) -> Fraction:
        """Add a piece. Returns the seconds of silence before it: 0 where timestamps are merely rounded."""
        end = self.end
        if end is None:
            start = end = (pts or 0) * time_base
        elif pts is None:
            start = end
        else:
            if pts * time_base + self._shift < end - MAX_OVERLAP:
                self._shift = end - pts * time_base
            start = pts * time_base + self._shift
        gap = start - end if start - end > MIN_GAP else Fraction(0)
        self.end = end + gap + duration
        return gap


def _silence(length: int, channels: int) -> Iterator[np.ndarray]:
    for start in range(0, length, 1 << 16):
        yield np.zeros((channels, min(length - start, 1 << 16)), np.float32)


def _mixed(block: np.ndarray) -> np.ndarray:
    """(C, n) -> (1, n), the mean of the channels; where they cancel each other, the first of the loud ones.

    By hand: FFmpeg's own mix of stereo is 3 dB louder than the mean.
    """
    mean = block.mean(axis=0, keepdims=True)
    powers = np.square(block, dtype=np.float64).mean(axis=1)
    if np.square(mean, dtype=np.float64).mean() < CANCELLATION_RATIO * powers.max():
        return block[[np.argmax(powers > powers.max() / 2)]]
    return mean


def _planar(packed: av.AudioFrame) -> np.ndarray:
    """(C, n) of an interleaved frame. PyAV crashes on planar ones of more than 8 channels."""
    return np.ascontiguousarray(packed.to_ndarray().reshape(packed.samples, -1).T)


def _resampled(resampler: av.AudioResampler | None, frame: av.AudioFrame | None) -> list[av.AudioFrame]:
    """The frames that come out for `frame`; None flushes."""
    return [
        resampled_frame
        for resampled_frame in (resampler.resample(frame) if resampler else [])
        if resampled_frame.samples
    ]


def decodable_frames(container, stream) -> Iterator:
    """Every frame of a stream that decodes: damaged packets are passed over, a cut-off end is the end."""
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            yield from frames
    except av.error.InvalidDataError:
        return


def _start(stream) -> Fraction:
    return (stream.start_time or 0) * stream.time_base


def _extent(container, stream) -> tuple[Fraction, Fraction]:
    """First and last second of a sound stream on the container's clock, from its packets, decoding only the first."""
    start, is_decodable = _start(stream), False
    end, shift, packet_duration = start, Fraction(0), Fraction(0)
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if not is_decodable:
                try:
                    is_decodable = bool(packet.decode())
                except av.error.InvalidDataError:
                    continue
            packet_duration = (packet.duration or 0) * packet.time_base
            if packet.pts is not None and packet.pts * packet.time_base + shift < end - MAX_OVERLAP:
                shift = end - packet.pts * packet.time_base  # the next of chained streams
            end = (
                end + packet_duration
                if packet.pts is None
                else max(end, packet.pts * packet.time_base + shift + packet_duration)
            )
    except av.error.InvalidDataError:
        pass  # a cut-off file: what was there counts
    if not is_decodable:
        raise ValueError(f"{container.name} cannot be read as sound (nothing in it decodes); {TRY_SOUND}")
    # the last packet of an mp3 is padded, and its header knows by how much
    if stream.duration and 0 < end - start - stream.duration * stream.time_base < packet_duration:
        end = start + stream.duration * stream.time_base
    return start, end


def write_sound(path: str | os.PathLike, waveform: np.ndarray, sample_rate: int) -> None:
    """Write (S,) or (C, S) float32 in [-1, 1], C 1 or 2; the suffix says the format, see SOUND_CODECS.

    A rate that the codec does not have becomes 48 kHz. Raises ValueError for an unknown suffix.
    """
    path, waveform = Path(path), np.atleast_2d(np.ascontiguousarray(waveform, np.float32))
    if path.suffix.lower() not in SOUND_CODECS:
        raise ValueError(f"cannot write sound as {path.name}; end the name in {' '.join(SOUND_CODECS)}")
    with _replacing(path) as temporary, av.open(os.path.abspath(temporary), "w") as container:
        track = _SoundTrack(container, SOUND_CODECS[path.suffix.lower()], sample_rate, len(waveform))
        resampler = av.AudioResampler(format="fltp", layout=track.layout, rate=track.rate)
        for start in range(0, waveform.shape[1], 1 << 16):
            frame = _sound_frame(waveform[:, start : start + (1 << 16)], track.layout, sample_rate)
            for block in _resampled(resampler, frame):
                track.write(block.to_ndarray())
        for block in _resampled(resampler, None):
            track.write(block.to_ndarray())
        track.finish()


def _sound_frame(block: np.ndarray, layout: str, rate: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=layout)
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    return frame


class _SoundTrack:
    """A sound stream of an output file: takes float32 (C, n) blocks of any length, gives the codec its own."""

    def __init__(self, container, codec: str, sample_rate: int, channels: int):
        rates = av.Codec(codec, "w").audio_rates
        self.rate = sample_rate if not rates or sample_rate in rates else 48000
        self.layout = "mono" if channels == 1 else "stereo"
        self.container, self.written = container, 0
        self.stream = container.add_stream(codec, rate=self.rate, layout=self.layout)
        if codec not in ("flac", "pcm_s16le"):
            self.stream.bit_rate = min(96_000, 4 * self.rate) * min(channels, 2)
        self.fifo = av.AudioFifo()

    def write(self, block: np.ndarray) -> None:
        frame = _sound_frame(block, self.layout, self.rate)
        frame.pts, self.written = self.written, self.written + block.shape[1]
        self.fifo.write(frame)
        self._encode(self.fifo.read_many(self.stream.codec_context.frame_size or 4096))

    def finish(self) -> None:
        rest = self.fifo.read(0, partial=True) if self.written else None
        self._encode([rest] if rest else [])
        self.container.mux(self.stream.encode(None))

    def _encode(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            if self.stream.codec_context.format.name != "fltp":
                converter = av.AudioResampler(
                    format=self.stream.codec_context.format, layout=self.layout, rate=self.rate
                )
                (frame,) = converter.resample(frame)
            self.container.mux(self.stream.encode(frame))


# Pictures ------------------------------------------------------------------------------------------------------------


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Any picture as uint8 (H, W, 3), turned as its EXIF says, alpha laid on white. Raises ValueError if it is none."""
    image = Image.fromarray(read_rgba(path))
    return np.array(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


def read_rgba(path: str | os.PathLike) -> np.ndarray:
    """Any picture as uint8 (H, W, 4), turned as its EXIF says, alpha 255 where it has none. Raises ValueError.

    HEIC needs the extra `heic`.
    """
    path = _existing(path, "picture")
    data = path.read_bytes()
    try:
        if _is_heic(data):
            _add_heic_reader()
        with Image.open(io.BytesIO(_without_png_metadata(data))) as file:
            if file.width * file.height > MAX_PIXELS:
                raise ValueError(f"{file.width}x{file.height} pixels; at most {MAX_PIXELS // 10**6} million are read")
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
                image = Image.fromarray((np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
            return np.array(image.convert("RGBA"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a picture ({reason}); give a png or jpg") from None


def _is_heic(data: bytes) -> bool:
    """Whether a file's content is HEIC, the photo format of iPhones: its first box names a brand of HEVC."""
    brands = [data[start : start + 4] for start in range(8, min(int.from_bytes(data[:4], "big"), 256), 4)]
    return data[4:8] == b"ftyp" and any(brand in HEIC_BRANDS for brand in brands)


def _add_heic_reader() -> None:
    """Let Pillow open HEIC. Raises ValueError without the optional package."""
    try:
        import pillow_heif
    except ImportError:
        raise ValueError("HEIC needs pillow-heif: pip install 'dancezoo[heic]' installs it") from None
    pillow_heif.register_heif_opener()


def _without_png_metadata(data: bytes) -> bytes:
    """A PNG without texts and colour profile, which Pillow refuses when they are large; anything else as it is."""
    if not data.startswith(PNG_SIGNATURE):
        return data
    chunks, position = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")  # length, type, content, checksum
        if data[position + 4 : position + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            chunks.append(data[position:end])
        position = end
    return b"".join(chunks)


# Video ---------------------------------------------------------------------------------------------------------------


class VideoWriter:
    """Write frames as they come to .mp4 (H.264 yuv420p + AAC, playable while it loads) or .gif (silent).

    `with VideoWriter(path, fps, sound, start) as video: video.write(frames)`. Frame i shows at i / fps exactly. The
    sound is `sound` from `start` seconds on, streamed from its file and cut at sample round(frames / fps * rate); where
    it ends earlier, silence follows. Odd sizes are padded by repeating the last row or column. The file appears under
    its name when it is whole; after an exception nothing of it is left, and what stood there before still stands.
    Raises ValueError for another suffix, a name that cannot be written, or no frames.
    """

    def __init__(
        self, path: str | os.PathLike, fps: Fraction, sound: Sound | None = None, start: Fraction = Fraction(0)
    ):
        self.path, self.fps, self.frames = Path(path), Fraction(fps), 0
        if self.path.suffix.lower() not in (".mp4", ".gif"):
            raise ValueError(f"cannot write video as {self.path.name}; end the name in .mp4 or .gif")
        assert self.fps > 0 and start >= 0
        self._is_gif = self.path.suffix.lower() == ".gif"
        self._sound, self._start_time = None if self._is_gif else sound, Fraction(start)
        self._video = None

    def __enter__(self) -> "VideoWriter":
        with ExitStack() as stack:
            temporary = stack.enter_context(_replacing(self.path))
            # edit lists count in the movie's time scale: its default of 1 ms would cut the sound short
            timescale_option = {"movie_timescale": str(self._sound.sample_rate)} if self._sound else {}
            options = {} if self._is_gif else {"movflags": "+faststart", **timescale_option}
            self._container = stack.enter_context(av.open(os.path.abspath(temporary), "w", options=options))
            self._stack = stack.pop_all()
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append frames uint8 (F, H, W, 3); every block has the same H and W."""
        assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3, (frames.dtype, frames.shape)
        for image in frames:
            if self._video is None:
                self._open(*image.shape[:2])
            if self._is_gif:
                frame = _rgb_frame(image, self.frames, self.fps)
                self._palette.vpush(frame)
                frame = self._palette.vpull()
                frame.pts, frame.time_base = self.frames, 1 / self.fps
            else:
                height, width = image.shape[:2]
                padded = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
                frame = _to_yuv(_rgb_frame(padded, self.frames, self.fps), "yuv420p")
            self._container.mux(self._video.encode(frame))
            self.frames += 1
            if self._sound:
                self._write_sound()

    def __exit__(self, *failure) -> bool | None:
        if failure[0] is not None:
            return self._stack.__exit__(*failure)
        with self._stack:
            if not self.frames:
                raise ValueError(f"no frames to write to {self.path}; ask for a longer video")
            self._container.mux(self._video.encode(None))
            if self._sound:
                self._track.finish()

    def _open(self, height: int, width: int) -> None:
        if self._is_gif:
            self._video = self._container.add_stream("gif", rate=self.fps)
            self._video.width, self._video.height, self._video.pix_fmt = width, height, "pal8"
            self._palette = _palette_graph(height, width, self.fps)
        else:
            height, width = height + height % 2, width + width % 2  # 4:2:0 has one colour for 2 x 2 pixels
            options = {"preset": "veryfast", "crf": "18"}
            self._video = _h264(self._container, self.fps, height, width, "libx264", "yuv420p", options)
        if self._sound:
            self._track = _SoundTrack(self._container, "aac", self._sound.sample_rate, self._sound.channels)
            self._blocks = self._sound.blocks(self._track.rate, self._track.layout, self._start_time)
            self._rest = np.empty((0, 0), np.float32)

    def _write_sound(self) -> None:
        """Bring the sound up to the end of the last frame."""
        num_samples = round(self.frames / self.fps * self._track.rate)
        while (missing := num_samples - self._track.written) > 0:
            if not self._rest.shape[1]:
                silence = np.zeros((1 if self._track.layout == "mono" else 2, missing), np.float32)
                self._rest = next(self._blocks, silence)
            part, self._rest = self._rest[:, :missing], self._rest[:, missing:]
            self._track.write(part)


def _h264(container, fps: Fraction, height: int, width: int, codec: str, pix_fmt: str, options: dict):
    # with AVX-512, x264 wrote other bytes for the same frames in one file of a hundred (measured, x264 165)
    stream = container.add_stream(codec, rate=fps, options=options | {"x264-params": "asm=SSE4.2"})
    stream.width, stream.height, stream.pix_fmt, stream.time_base = width, height, pix_fmt, 1 / fps
    if pix_fmt.startswith("yuv"):  # players guess the matrix of an untagged file from its size
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = ColorRange.MPEG
    return stream


def _rgb_frame(image: np.ndarray, index: int, fps: Fraction) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    frame.pts, frame.time_base = index, 1 / fps
    return frame


def _to_yuv(frame: av.VideoFrame, pix_fmt: str) -> av.VideoFrame:
    return frame.reformat(
        format=pix_fmt,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        threads=1,  # starting threads takes longer than a frame
    )


def to_rgb(frame: av.VideoFrame, pixel_aspect_ratio: Fraction | None = None) -> np.ndarray:
    """uint8 (H, W, 3) as it is shown: by the frame's colour matrix, with square pixels, as the camera was held.

    High dynamic range (PQ, HLG) becomes standard range. pixel_aspect_ratio: width over height of a stored pixel.
    """
    if frame.format.is_rgb:
        image = frame.to_ndarray(format="rgb24")
    else:
        matrix = {BT709: Colorspace.ITU709, BT2020: Colorspace.BT2020}.get(frame.colorspace, Colorspace.ITU601)
        as_rgb = frame.reformat(format="rgb24", src_colorspace=matrix, dst_color_range=ColorRange.JPEG, threads=1)
        image = as_rgb.to_ndarray()
    if frame.color_trc in (PQ, HLG):
        image = _tone_mapped(image, frame.color_trc, is_wide=frame.color_primaries == BT2020)
    ratio = pixel_aspect_ratio or 1  # 0: unknown
    if ratio != 1 and 1 / MAX_PIXEL_ASPECT_RATIO <= ratio <= MAX_PIXEL_ASPECT_RATIO:
        width = max(1, round(image.shape[1] * ratio))
        image = np.array(Image.fromarray(image).resize((width, image.shape[0]), Image.Resampling.BICUBIC))
    return np.rot90(image, round(frame.rotation / 90))


@cache
def _linear_light(transfer: int) -> np.ndarray:
    """(256,) float32: light of a PQ or HLG value, 1 being the white of a sheet of paper (203 cd/m2, BT.2408)."""
    value = np.arange(256) / 255
    if transfer == PQ:  # SMPTE ST 2084, cd/m2
        root = value ** (1 / 78.84375)
        light = 10000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073  # ARIB STD-B67: scene light, 1 is the brightest
        scene = np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12)
        light = 1000 * scene**1.2  # on a screen of 1000 cd/m2, by BT.2100's gamma; of each channel, not of luminance
    return (light / 203).astype(np.float32)


def _tone_mapped(image: np.ndarray, transfer: int, is_wide: bool) -> np.ndarray:
    """A frame of high dynamic range, uint8 (H, W, 3), in standard range: light beyond the knee is squeezed."""
    light = _linear_light(transfer)[image]
    if is_wide:
        light = np.maximum(light @ BT2020_TO_BT709.T, 0)
    squeezed = 1 - (1 - KNEE) * np.exp(-(light - KNEE) / (1 - KNEE))
    light = np.where(light > KNEE, squeezed, light)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * srgb).round().astype(np.uint8)


def _palette_graph(height: int, width: int, fps: Fraction) -> av.filter.Graph:
    """rgb24 -> pal8 with the best 256 colours of each frame by itself, so that no frame need wait for the last."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=1 / fps)
    split, use, sink = graph.add("split"), graph.add("paletteuse", "new=1"), graph.add("buffersink")
    generate = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(generate, 1, 0)
    generate.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph


def read_video(path: str | os.PathLike) -> tuple[np.ndarray, Fraction, Sound | None]:
    """Frames uint8 (F, H, W, 3), frames a second, and the sound track if there is one.

    Raises ValueError, one line, if it is no video.
    """
    frames, fps, has_sound = read_frames(path)
    return frames, fps, Sound(path) if has_sound else None


def read_frames(path: str | os.PathLike, limit: int | None = None) -> tuple[np.ndarray, Fraction, bool]:
    """`read_video`'s frames, at most `limit` of them, frames a second, and whether there is a sound track."""
    path = _existing(path, "video")
    try:
        with open_media(path) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no pictures in it; give a video such as mp4")
            stream, has_sound = container.streams.video[0], bool(container.streams.audio)
            frames = [
                to_rgb(frame, stream.sample_aspect_ratio)
                for frame in islice(decodable_frames(container, stream), limit)
            ]
            fps = stream.average_rate or stream.guessed_rate
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path} cannot be read as video ({error.strerror}); give an mp4") from None
    if not frames or not fps:
        raise ValueError(f"{path} cannot be read as video (no frame of it decodes); give an mp4")
    return np.stack(frames), fps, has_sound


def encode_frames(frames: np.ndarray, fps: Fraction, crf: int = 12) -> bytes:
    """Frames uint8 (F, H, W, 3) as an mp4 in memory, for shards; full colour resolution, the same bytes every time.

    crf: H.264 quality. 0 gives back exactly the same frames, 12 is off by one or two grey levels in the mean.
    """
    assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3 and len(frames), frames.shape
    file, fps = io.BytesIO(), Fraction(fps)
    with av.open(file, "w", format="mp4") as container:
        codec, pix_fmt = ("libx264rgb", "rgb24") if crf == 0 else ("libx264", "yuv444p")
        stream = _h264(container, fps, *frames.shape[1:3], codec, pix_fmt, {"preset": "veryfast", "crf": str(crf)})
        stream.codec_context.thread_count = 1  # x264's output depends on the number of threads
        for index, image in enumerate(frames):
            frame = _rgb_frame(image, index, fps)
            container.mux(stream.encode(_to_yuv(frame, pix_fmt) if pix_fmt != "rgb24" else frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def decode_frames(data: bytes) -> np.ndarray:
    """What `encode_frames` took: uint8 (F, H, W, 3)."""
    with open_media("frames.mp4", data) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # data loader workers are the parallelism
        return np.stack([to_rgb(frame) for frame in container.decode(stream)])
