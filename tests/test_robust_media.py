"""Hostile and odd media files: no other file is opened, no decoder crashes, a refusal is one line."""

import wave
from pathlib import Path

import numpy as np
import pytest
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
    """A png with megabytes of text, as workflow tools write, is read."""
    text = PngInfo()
    for number in range(3):
        text.add_text(f"workflow{number}", "x" * 5_000_000, zip=compressed)
    Image.new("RGB", (5, 4), (9, 8, 7)).save(folder / "text.png", pnginfo=text)
    assert read_image(folder / "text.png").tolist() == [[[9, 8, 7]] * 5] * 4


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_bomb_is_refused(folder):
    """Before its pixels are decoded."""
    Image.new("1", (12_000, 12_000)).save(folder / "bomb.png")
    with pytest.raises(ValueError, match="bomb.png .*million"):
        read_image(folder / "bomb.png")
