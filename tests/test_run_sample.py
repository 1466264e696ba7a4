"""sample.py for real: song in, dance out, in every format, in exact time."""

from fractions import Fraction

import numpy as np
import pytest

from zoo.media import read_video, write_sound


@pytest.fixture(scope="module")
def song(scripts):
    """Four seconds of stereo noise bursts at 150 BPM, 44.1 kHz."""
    rate, path = 44100, scripts.folder / "bursts.wav"
    wave = np.zeros((2, 4 * rate), np.float32)
    noise = np.random.default_rng(1).standard_normal(1500).astype(np.float32)
    for beat in range(10):
        wave[:, beat * rate * 2 // 5 :][:, :1500] = 0.4 * noise
    write_sound(path, wave, rate)
    return path


def sample(scripts, small_run, song, *arguments):
    """A sampling run that has to succeed."""
    checkpoint = f"ckpt={small_run / 'motion' / 'last.ckpt'}"
    done = scripts.inside(
        "sample", checkpoint, f"music={song}", "image=null", "sampler.num_inference_steps=2", *arguments
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("fps, rate", [("30", Fraction(30)), ("29.97", Fraction(30000, 1001)), ("12", Fraction(12))])
def test_sound_and_picture_end_together(scripts, small_run, song, tmp_path, fps, rate):
    """Within a frame of each other, at every frame rate, and the result is told in one line."""
    out = tmp_path / "dance.mp4"
    done = sample(scripts, small_run, song, "seconds=3", f"fps={fps}", f"out={out}")
    frames, told_rate, sound = read_video(out)
    assert told_rate == rate
    assert abs(Fraction(len(frames)) / rate - 3) < 1 / rate
    assert abs(sound.duration - Fraction(len(frames)) / rate) < 1 / rate
    assert np.abs(np.diff(frames.astype(np.int16), axis=0)).max() > 30  # somebody moves
    assert np.abs(sound.mono(22050)).max() > 0.1
    style, result = done.stdout.strip().splitlines()
    assert style.startswith("style: ") and result.startswith(f"{out}: ") and "real time" in result
    assert [file.name for file in tmp_path.iterdir()] == ["dance.mp4"]


@pytest.mark.parametrize("suffix", [".bvh", ".glb", ".npz", ".gif"])
def test_every_format_is_written(scripts, small_run, song, tmp_path, suffix):
    """The motion itself, or pictures without sound."""
    out = tmp_path / f"dance{suffix}"
    sample(scripts, small_run, song, "seconds=1", f"out={out}")
    assert out.stat().st_size > 1000 and len(list(tmp_path.iterdir())) == 1


def test_a_song_shorter_than_asked_for_is_danced_whole(scripts, small_run, song, tmp_path):
    """With a note; raw weights generate another dance than averaged ones, and one checkpoint the same dance twice."""
    out = tmp_path / "dance.npz"
    done = sample(scripts, small_run, song, "seconds=60", f"out={out}")
    assert "song is shorter than seconds=60; the dance will last 4.00 s" in done.stdout
    assert len(np.load(out)["poses"]) == 120
    sample(scripts, small_run, song, "seconds=60", f"out={out}", "motion=diffusion")
    averaged = np.load(out)["poses"]
    sample(scripts, small_run, song, "seconds=60", f"out={out}", "motion=diffusion", "use_ema=false")
    assert not np.array_equal(np.load(out)["poses"], averaged)
    sample(scripts, small_run, song, "seconds=60", f"out={out}", "motion=diffusion")
    assert np.array_equal(np.load(out)["poses"], averaged)


def test_silence_is_danced_to(scripts, small_run, tmp_path):
    """No sound is no error."""
    write_sound(tmp_path / "silence.wav", np.zeros(2 * 22050, np.float32), 22050)
    done = sample(scripts, small_run, tmp_path / "silence.wav", "seconds=2", f"out={tmp_path / 'still.npz'}")
    assert "no beat was found in the music: the dance keeps a tempo of its own" in done.stdout
    assert np.isfinite(np.load(tmp_path / "still.npz")["poses"]).all()
