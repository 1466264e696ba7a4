"""Listening: only what is asked for, on the exact clock, kept on disk and made anew when the copy is spoiled."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from zoo.data.world.song import make_song
from zoo.media import Sound, write_sound
from zoo.music.beats import Beats
from zoo.music.encoder import MusicFeatures, encode_song, token_count
from zoo.music.spectral import Spectral


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "music"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    song = make_song(5, 20, "disco", 120)
    write_sound(file := tmp_path_factory.mktemp("song") / "song.ogg", song.waveform, song.sample_rate)
    return file


def test_a_part_is_a_part_of_the_whole(path):
    sound = Sound(path)
    whole, part = encode_song(sound, Spectral()), encode_song(sound, Spectral(), 6, start=Fraction(7))
    assert whole.features.shape == (600, 35) and whole.rate == 30 and part.features.shape == (180, 35)
    assert (part.features - whole.features[210:390])[:, :34].abs().max() < 1e-4
    inside = whole.beats.times[(whole.beats.times >= 7) & (whole.beats.times < 13)] - 7
    assert len(part.beats.times) == len(inside) and np.abs(part.beats.times - inside).max() < 0.02
    assert np.flatnonzero(part.features[:, 34]).tolist() == np.round(part.beats.times * 30).tolist()


def test_odd_lengths_and_ends(path):
    sound = Sound(path)
    assert encode_song(sound, Spectral(), 2.01).features.shape[0] == 61  # a token at 2.0 s
    assert encode_song(sound, Spectral(), 100).seconds == pytest.approx(20)
    assert encode_song(sound, Spectral(), 3, start=Fraction(1, 7)).features.shape[0] == 90
    with pytest.raises(ValueError, match="the sound lasts 20.00 s"):
        encode_song(sound, Spectral(), 5, start=30)


def test_a_waveform_is_heard_as_its_file(path):
    wave = Sound(path).mono(15360)
    from_file, from_wave = encode_song(Sound(path), Spectral(), 4), encode_song(wave, Spectral(), 4, sample_rate=15360)
    assert torch.equal(from_file.features, from_wave.features)


class Counting(Spectral):
    """Counts how often it is asked."""

    calls = 0

    def encode(self, *arguments):
        Counting.calls += 1
        return super().encode(*arguments)


def test_the_cache_answers_and_heals(path, cache):
    encoder, sound = Counting(), Sound(path)
    first = encode_song(sound, encoder, 5)
    again = encode_song(sound, encoder, 5)
    assert Counting.calls == 1 and torch.equal(first.features, again.features)
    assert np.array_equal(first.beats.times, again.beats.times) and first.beats.downbeat == again.beats.downbeat
    (kept,) = cache.iterdir()
    for spoiled in (
        b"",
        b"not an archive",
        kept.read_bytes()[:-3000],
        kept.read_bytes().replace(b"features", b"fXXtures"),
    ):
        kept.write_bytes(spoiled)
        assert torch.equal(encode_song(sound, encoder, 5).features, first.features)
    assert Counting.calls == 5 and list(cache.iterdir()) == [kept]
    np.savez(kept.open("wb"), features=np.array([object()], dtype=object))  # a pickle: never run
    assert torch.equal(encode_song(sound, encoder, 5).features, first.features)
    encoder.cache_key = "another"
    encode_song(sound, encoder, 5)
    assert Counting.calls == 7


def test_music_is_sliced_on_its_own_clock():
    music = MusicFeatures(torch.arange(300.0)[:, None], 30.0, Beats(np.arange(20) / 2, 120.0, 2))
    part = music.slice(2.5, 4)
    assert part.features[:, 0].tolist() == list(range(75, 120)) and part.seconds == 1.5
    assert part.beats.times.tolist() == [0, 0.5, 1.0] and part.beats.downbeat == 1
    with pytest.raises(AssertionError):
        music.slice(9, 10.1)


def test_tokens_before_the_end():
    assert [token_count(seconds, 30.0) for seconds in (5, Fraction(1, 30), 0.1, 5.001)] == [150, 1, 3, 151]
    assert token_count(Fraction(1001, 44100), 44100.0) == 1001
