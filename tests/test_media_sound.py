"""Sound files: true time in every format, exact cuts, and one clear line for what is no sound."""

import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import ExifTags, Image

from zoo.media import SOUND_CODECS, Sound, read_image, write_sound

CLICKS = (0.1, 1.0, 2.0)


def clicks(rate: int, seconds: float, times=CLICKS) -> np.ndarray:
    """(2, S): a 4 ms burst of 1.5 kHz centred on each time, in faint noise."""
    wave = np.random.default_rng(0).standard_normal((2, int(seconds * rate))).astype(np.float32) * 0.002
    around = np.arange(-round(0.002 * rate), round(0.002 * rate) + 1)
    for time in times:
        wave[:, round(time * rate) + around] += 0.8 * np.cos(2 * np.pi * 1500 * around / rate) * np.hanning(len(around))
    return wave


def heard(wave: np.ndarray, rate: int, near: float) -> float:
    """Where the click near a time is, in seconds."""
    first = round((near - 0.04) * rate)
    energy = np.convolve(wave[first : first + round(0.08 * rate)] ** 2, np.hanning(round(0.004 * rate)), "same")
    return (first + int(np.argmax(energy))) / rate


@pytest.mark.parametrize("rate", [44100, 48000, 22050])
@pytest.mark.parametrize("suffix", SOUND_CODECS)
def test_every_format_keeps_time_and_length(tmp_path, suffix, rate):
    wave = clicks(rate, 2.345)
    write_sound(tmp_path / f"a{suffix}", wave, rate)
    sound = Sound(tmp_path / f"a{suffix}")
    assert sound.channels == 2
    assert abs(sound.duration - Fraction(wave.shape[1], rate)) < Fraction(1, 20000)
    mono = sound.mono(15360)
    assert mono.dtype == np.float32 and len(mono) == round(sound.duration * 15360)
    for time in CLICKS:
        assert abs(heard(mono, 15360, time) - time) < 2e-4
    part = sound.mono(15360, Fraction(1, 3), Fraction(5, 4))
    assert np.array_equal(part, mono[5120:19200])


def test_mono_is_the_mean_of_the_channels(tmp_path):
    left, right = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 44100)).astype(np.float32)
    write_sound(tmp_path / "a.wav", np.stack([left, right]), 44100)
    assert np.abs(Sound(tmp_path / "a.wav").mono(44100) - (left + right) / 2).max() < 1e-4


def test_cut_off_mp3_gives_what_decodes(tmp_path):
    wave = clicks(44100, 4, (0.5, 1.5))
    write_sound(tmp_path / "a.mp3", wave, 44100)
    whole = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(whole[: len(whole) // 2])
    sound = Sound(tmp_path / "cut.mp3")
    mono = sound.mono(44100)
    assert 1.8 < float(sound.duration) < 2.1 and abs(len(mono) / 44100 - float(sound.duration)) < 0.06
    assert abs(heard(mono, 44100, 1.5) - 1.5) < 2e-4


def test_sound_that_begins_after_the_pictures_is_not_moved(tmp_path):
    """Time 0 of a video's sound is its first picture."""
    with av.open(str(tmp_path / "late.mkv"), "w") as file:
        video, audio = file.add_stream("libx264", rate=10), file.add_stream("pcm_s16le", rate=8000, layout="mono")
        video.width = video.height = 32
        video.codec_context.max_b_frames = 0
        for _ in range(20):
            file.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        block = np.zeros((1, 8000), np.int16)
        block[0, 4000] = 20000
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, 4000, Fraction(1, 8000)
        file.mux(video.encode(None))
        file.mux(audio.encode(frame))
        file.mux(audio.encode(None))
    assert abs(int(np.argmax(np.abs(Sound(tmp_path / "late.mkv").mono(8000)))) - 8000) <= 8


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("missing.mp3", None, "does not exist"),
        ("empty.mp3", b"", "empty"),
        ("text.mp3", b"this is text\n" * 500, "cannot be read as sound"),
        ("noise.ogg", np.random.default_rng(0).bytes(40000), "cannot be read as sound"),
        (".", None, "is a directory"),
    ],
)
def test_what_is_no_sound_is_said_in_one_line(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        Sound(tmp_path / name)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("suffix", SOUND_CODECS)
def test_ten_milliseconds_are_too_short(tmp_path, suffix):
    write_sound(tmp_path / f"a{suffix}", np.zeros(441), 44100)
    with pytest.raises(ValueError, match=r"a\.\w+ lasts 0\.010 s, too short"):
        Sound(tmp_path / f"a{suffix}")


def test_asking_beyond_the_end_is_refused(tmp_path):
    write_sound(tmp_path / "a.wav", clicks(8000, 2.1), 8000)
    with pytest.raises(ValueError, match="lasts 2.10 s: no sound from 3.00 s on"):
        Sound(tmp_path / "a.wav").mono(8000, Fraction(3))


def test_unknown_sound_suffix_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="end the name in"):
        write_sound(tmp_path / "a.xyz", np.zeros(8000), 8000)
    assert not list(tmp_path.iterdir())


def test_pictures_alpha_on_white_and_sixteen_bits(tmp_path):
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:2] = (200, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (4, 6, 3) and (image[0] == (200, 0, 0)).all() and (image[3] == 255).all()
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "b.png")
    assert (read_image(tmp_path / "b.png") == 155).all()
    (tmp_path / "c.png").write_text("no picture")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        read_image(tmp_path / "c.png")


def test_avif_opens_and_heic_names_its_package(tmp_path, monkeypatch):
    """An AVIF of a phone is turned as its EXIF says. Without the extra `heic`, one line names it."""
    halves = Image.fromarray(np.repeat(np.uint8([[[200, 0, 0]], [[0, 0, 200]]]), 16, 0).repeat(48, 1))  # red over blue
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise by a quarter
    halves.save(tmp_path / "phone.avif", exif=exif, quality=100)
    image = read_image(tmp_path / "phone.avif").astype(int)
    assert image.shape == (48, 32, 3)
    assert abs(image[8:-8, -8:] - (200, 0, 0)).max() < 12 and abs(image[8:-8, :8] - (0, 0, 200)).max() < 12
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0heicmiaf" + bytes(40))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(
        ValueError, match=r"phone\.heic cannot be .*HEIC needs pillow-heif: pip install 'dancezoo\[heic\]'"
    ):
        read_image(tmp_path / "phone.heic")


def test_heic_opens_with_its_package(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    red = Image.new("RGB", (48, 32), (200, 0, 0))
    pillow_heif.from_pillow(red).save(tmp_path / "phone.heic", quality=100)
    assert abs(read_image(tmp_path / "phone.heic").astype(int) - (200, 0, 0)).max() < 12


def test_samples_that_are_no_numbers_are_silence(tmp_path):
    """A damaged file of a float format is heard as far as it goes."""
    wave = np.full(44100, 0.25, np.float32)
    wave[4000:4100], wave[8000] = np.nan, np.inf
    with av.open(str(tmp_path / "nan.wav"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave[None], format="flt", layout="mono")
        frame.sample_rate = 44100
        container.mux([*stream.encode(frame), *stream.encode(None)])
    heard_wave = Sound(tmp_path / "nan.wav").mono(44100)
    assert not heard_wave[4000:4100].any() and not heard_wave[8000] and heard_wave[20000] == pytest.approx(0.25)
