"""The world's songs: their beats are where they say, for a beat tracker too."""

import numpy as np
import pytest

from zoo.data.world.song import STYLES, make_song
from zoo.music.compiled_librosa import librosa


def test_a_song_is_sound_and_its_truth_is_consistent():
    song = make_song(3, 21.7, style="house", bpm=120)
    assert song.waveform.shape == (int(round(21.7 * 22050)),) and song.waveform.dtype == np.float32
    assert 0.5 < np.abs(song.waveform).max() <= 0.9 and np.abs(song.waveform).std() > 0.05
    assert 0 <= song.beats[0] <= 0.5
    np.testing.assert_allclose(np.diff(song.beats), 0.5, atol=1e-9)
    assert song.seconds - song.beats[-1] <= 0.5
    np.testing.assert_array_equal(song.downbeats, song.beats[::4])
    starts, stops, _, energies = zip(*song.sections, strict=True)
    assert starts[0] == 0 and stops[-1] == song.seconds and starts[1:] == stops[:-1]
    assert set(starts[1:]) <= set(song.downbeats) and all(0 <= energy <= 1 for energy in energies)


def test_beats_are_found_by_a_beat_tracker_within_50_ms():
    song = make_song(11, 30, style="pop", bpm=117)
    _, tracked = librosa.beat.beat_track(y=song.waveform, sr=song.sample_rate, units="time")
    tracked = tracked - 0.03  # librosa reports a beat one to two hops (23 ms each) late
    inner = song.beats[2:-4]  # librosa leaves out beats at a quiet end
    assert np.abs(inner[:, None] - tracked).min(1).max() < 0.05


def test_beats_of_most_songs_are_found_in_every_style():
    scores = []
    for number, style in enumerate(STYLES):
        song = make_song(500 + number, 15, style)
        _, tracked = librosa.beat.beat_track(y=song.waveform, sr=song.sample_rate, units="time")
        near = np.abs(song.beats[:, None] - tracked) < 0.07
        scores.append(2 * near.any(0).sum() / (len(tracked) + len(song.beats)))
    assert np.median(scores) > 0.85


def test_loudness_follows_the_sections():
    loud, quiet = [], []
    for seed in range(6):
        song = make_song(seed, 60)
        for start, stop, name, _ in song.sections:
            part = song.waveform[int(start * 22050) : int(stop * 22050)]
            {"chorus": loud, "break": quiet, "intro": quiet}.get(name, []).append(part.std())
    assert np.mean(loud) > 1.3 * np.mean(quiet)


def test_styles_cover_75_to_175_bpm_and_seeds_make_songs():
    assert len(STYLES) >= 8
    assert min(style.bpm[0] for style in STYLES.values()) == 75
    assert max(style.bpm[1] for style in STYLES.values()) == 175
    first, repeated, second = make_song(1, 4), make_song(1, 4), make_song(2, 4)
    np.testing.assert_array_equal(first.waveform, repeated.waveform)
    assert first.waveform.shape == second.waveform.shape and np.abs(first.waveform - second.waveform).max() > 0.1
    low, high = STYLES[first.style].bpm
    assert low <= first.bpm <= high


@pytest.mark.parametrize("wrong", [dict(seconds=0), dict(style="polka"), dict(bpm=500)])
def test_mistakes_are_refused_in_one_line(wrong):
    with pytest.raises(ValueError, match="^[^\n]+$"):
        make_song(**{"seed": 0, "seconds": 5, **wrong})
