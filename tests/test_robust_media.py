"""Hostile and odd media files: no other file is opened, no decoder crashes, a refusal is one line."""

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from zoo.data.frame_source import VideoFile
from zoo.media import Sound, read_frames, read_image, write_sound

RATE = 16000
TONE = (0.5 * np.sin(np.arange(RATE) / 10)).astype(np.float32)
PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile secret.wav\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.wav\n#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>secret.wav</BaseURL></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
}
READERS = {
    "sound": Sound,
    "frames": read_frames,
    "video": lambda path: VideoFile(Path(path)).seconds(),
    "image": read_image,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a sound that only playlists name."""
    folder = tmp_path_factory.mktemp("media")
    write_sound(folder / "secret.wav", TONE, RATE)
    return folder


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", [".ffconcat", ".m3u8", ".mp3", ".mp4", ".png"])
@pytest.mark.parametrize("playlist", PLAYLISTS)
def test_a_media_file_opens_no_other_file(folder, playlist, suffix, reader):
    """Whatever its name says: only formats that hold their own content are read."""
    file = folder / f"list{suffix}"
    file.write_text(PLAYLISTS[playlist])
    with pytest.raises(ValueError) as refusal:
        READERS[reader](file)
    assert file.name in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["04.23:50.wav", "file:x.wav", "pipe:0.wav", "%03d.wav", "~nobody.wav", " x .wav"])
def test_a_name_is_no_syntax(folder, monkeypatch, name):
    """Relative names that FFmpeg, a shell or a pattern would read otherwise are read and written as they are."""
    monkeypatch.chdir(folder)
    write_sound(name, TONE, RATE)
    assert Path(name).is_file()
    assert len(Sound(name).mono(RATE)) == RATE


@pytest.mark.parametrize("channels", [1, 2, 6, 8, 16, 24, 9])
def test_no_number_of_channels_crashes(folder, channels):
    """PyAV's planar frames of more than eight channels crash the process; 9 have no layout."""
    with wave.open(str(folder / "channels.wav"), "wb") as file:
        file.setparams((channels, 2, RATE, 0, "NONE", ""))
        file.writeframes((np.repeat(TONE[:, None], channels, 1) * 32767).astype("<i2").tobytes())
    sound = Sound(folder / "channels.wav")
    assert sound.channels == channels
    np.testing.assert_allclose(sound.mono(RATE), TONE, atol=1e-4)
    if channels == 9:
        with pytest.raises(ValueError, match="cannot be decoded"):
            next(sound.blocks(RATE, "stereo"))
    else:
        assert next(sound.blocks(RATE, "stereo")).shape[0] == 2


def test_only_one_function_opens_media_to_read():
    """`av.open` to read stands in `zoo.media.open_media` alone: there is the list of formats."""
    root = Path(__file__).parents[1] / "zoo"
    calls = [
        f"{file.relative_to(root)}: {line.strip()}"
        for file in root.rglob("*.py")
        for line in file.read_text().splitlines()
        if "av.open(" in line and '"w"' not in line
    ]
    assert calls == ['media.py: return av.open(source, metadata_errors="ignore", options=options)']


@pytest.mark.parametrize("path", ["/dev/zero", "."])
@pytest.mark.parametrize("reader", [Sound, read_frames, read_image])
def test_a_device_or_folder_is_refused(path, reader):
    """Before a byte of it is read."""
    with pytest.raises(ValueError, match="device|directory"):
        reader(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_metadata_does_not_decide_over_pixels(folder, compressed):
    """A png with megabytes of text, as workflow tools write, or with a huge colour profile is read."""
    text = PngInfo()
    for number in range(3):
        text.add_text(f"workflow{number}", "x" * 5_000_000, zip=compressed)
    image = Image.new("RGB", (5, 4), (9, 8, 7))
    image.save(folder / "text.png", pnginfo=text, icc_profile=b"x" * 5_000_000)
    assert read_image(folder / "text.png").tolist() == [[[9, 8, 7]] * 5] * 4


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_bomb_is_refused(folder):
    """Before its pixels are decoded."""
    Image.new("1", (12_000, 12_000)).save(folder / "bomb.png")
    with pytest.raises(ValueError, match="bomb.png .*million are read"):
        read_image(folder / "bomb.png")


# Time and display, as the file states them ---------------------------------------------------------------------------


def write_pieces(file: Path, codec: str, pieces: list[tuple[float, np.ndarray]]) -> None:
    """A sound whose pieces begin at these seconds."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=RATE, layout="mono")
        sample_format = stream.codec_context.format.name
        for start, wave in pieces:
            size = stream.codec_context.frame_size or 1024
            for offset in range(0, len(wave) // size * size, size):
                block = wave[None, offset : offset + size]
                block = (block * 32767).astype(np.int16) if sample_format == "s16" else block
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format=sample_format, layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = RATE, round(start * RATE) + offset, Fraction(1, RATE)
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def loudness(wave: np.ndarray, start: float, stop: float) -> float:
    return float(np.sqrt(np.square(wave[round(start * RATE) : round(stop * RATE)]).mean()))


@pytest.mark.parametrize("name, codec", [("a.mkv", "pcm_s16le"), ("a.mkv", "aac"), ("a.mp4", "aac"), ("a.mkv", "flac")])
def test_a_clock_follows_the_timestamps(folder, name, codec):
    """A gap of 2 s in the timestamps is 2 s of silence: what follows keeps its time."""
    write_pieces(folder / name, codec, [(0, TONE), (3, TONE)])
    sound = Sound(folder / name)
    assert abs(float(sound.duration) - 4) < 0.2
    for samples in (sound.mono(RATE), np.concatenate(list(sound.blocks(RATE, "stereo")), 1)[0]):
        assert loudness(samples, 0.2, 0.8) > 0.2 > 0.01 > loudness(samples, 1.2, 2.8)
        assert loudness(samples, 3.2, 3.8) > 0.2
        assert abs(np.flatnonzero(np.abs(samples) * (np.arange(len(samples)) > 2 * RATE) > 0.2)[0] / RATE - 3) < 0.1


@pytest.mark.parametrize(
    "suffix, write, second_rate",
    [
        (".ogg", write_sound, 3 * RATE),
        (".mp3", write_sound, 3 * RATE),
        (".ogg", lambda path, *wave: soundfile.write(path, *wave), RATE),
    ],
    ids=["opus", "mp3", "vorbis"],
)
def test_a_clock_does_not_end_with_a_chained_stream(folder, suffix, write, second_rate):
    """Two files one behind the other are heard as long as both, the second at once after the first."""
    data = b""
    for rate in (RATE, second_rate):
        click = np.zeros(3 * rate, np.float32)
        click[2 * rate : 2 * rate + rate // 40] = 0.5 * np.sin(np.arange(rate // 40) * RATE / rate / 10)
        write(folder / f"part{suffix}", click, rate)
        data += (folder / f"part{suffix}").read_bytes()
    (folder / f"chained{suffix}").write_bytes(data)
    sound = Sound(folder / f"chained{suffix}")
    wave = sound.mono(RATE)
    assert abs(float(sound.duration) - 6) < 0.2 and abs(len(wave) - 6 * RATE) < 0.2 * RATE
    loud = np.flatnonzero(np.abs(wave) > 0.2) / RATE
    assert abs(loud[0] - 2) < 0.03 and abs(loud[-1] - 5) < 0.15


@pytest.mark.parametrize("rate, channels", [(3 * RATE, 1), (RATE, 2)])
def test_a_chained_stream_that_changes_its_kind_is_refused(folder, rate, channels):
    """FFmpeg decodes no such Vorbis file; half of it would be worse than none."""
    data = b""
    for shape in ((RATE, 1), (rate, channels)):
        soundfile.write(folder / "part.ogg", np.zeros((shape[0], shape[1]), np.float32), shape[0])
        data += (folder / "part.ogg").read_bytes()
    (folder / "changing.ogg").write_bytes(data)
    with pytest.raises(ValueError, match="changing.ogg .*differ in sample rate or channels"):
        Sound(folder / "changing.ogg")


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".ogg", ".m4a"])
def test_channels_that_cancel_are_heard(folder, suffix):
    """The mean of L = -R is silence; one of them is heard instead, the same one throughout."""
    write_sound(folder / f"cancel{suffix}", np.stack([np.tile(TONE, 2), -np.tile(TONE, 2)]), RATE)
    wave = Sound(folder / f"cancel{suffix}").mono(RATE)
    expected = np.tile(TONE, 2)[: len(wave)]
    assert np.corrcoef(wave[2000:-2000], expected[2000 : len(wave) - 2000])[0, 1] > 0.98


def write_video(file: Path, image: np.ndarray, **context) -> None:
    """Ten frames of one image, with the given attributes of the codec's context."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "yuv420p"
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def images_of(file: Path) -> list[np.ndarray]:
    """The first frame by each reader of video."""
    return [read_frames(file, 1)[0][0], next(VideoFile(file).frames_at([Fraction(0)]))]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov"])
@pytest.mark.parametrize("ratio, width", [(Fraction(2), 128), (Fraction(8, 9), 57), (Fraction(1), 64)])
def test_display_metadata_squares_the_pixels(folder, name, ratio, width):
    """A bar has the width that the file states for it."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 16:32] = 255
    write_video(folder / name, image, sample_aspect_ratio=ratio)
    for shown in images_of(folder / name):
        assert shown.shape == (64, width, 3)
        bright = np.flatnonzero(shown[32].mean(-1) > 128)  # columns
        assert abs(bright[0] - 16 * ratio) < 2 and abs(bright[-1] + 1 - 32 * ratio) < 2


@pytest.mark.parametrize("transfer, paper, grey", [(18, 191, 96), (16, 148, 99)])
def test_display_metadata_maps_high_dynamic_range(folder, transfer, paper, grey):
    """Paper white (203 cd/m2: 75 % of HLG, 58 % of PQ) is shown nearly white; light rises with the value."""
    image = np.repeat(np.array([0, grey, paper, 255], np.uint8), 16)[None, :, None].repeat(64, 0).repeat(3, 2)
    write_video(folder / "hdr.mp4", image, color_trc=transfer, color_primaries=9, colorspace=1)
    for shown in images_of(folder / "hdr.mp4"):
        black, dark, white, brightest = shown[32, 8::16].mean(-1)
        assert black < 3 and 240 < white < 250 and brightest > 253 and dark < white - 80
        assert np.ptp(shown[32, 8::16], axis=-1).max() <= 2  # grey stays grey
