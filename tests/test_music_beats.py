"""Beats against known truth: click tracks, the world's songs, and sounds that have none."""

import numpy as np
import pytest

from zoo.data.world.recipe import seed_of
from zoo.data.world.song import make_song
from zoo.music.beats import Beats, beat_phase, beats_to_frames, find_beats
from zoo.music.compiled_librosa import librosa

RATE = 22050


def matched(found: np.ndarray, true: np.ndarray) -> tuple[float, np.ndarray]:
    """F-measure within 70 ms, and the errors of the matched beats in seconds."""
    errors = np.array([(found - time)[np.argmin(np.abs(found - time))] for time in true])
    errors = errors[np.abs(errors) <= 0.07]
    return 2 * len(errors) / (len(found) + len(true)), errors


def click_track(bpm: float, seconds: float = 15) -> tuple[np.ndarray, np.ndarray]:
    times = np.arange(0.31, seconds - 0.1, 60 / bpm)
    wave = librosa.clicks(times=times, sr=RATE, click_duration=0.05, length=int(seconds * RATE))
    return (wave + np.random.default_rng(0).standard_normal(len(wave)) * 0.002).astype(np.float32), times


@pytest.mark.parametrize("bpm", range(75, 176, 10))
def test_clicks_at_every_tempo(bpm):
    wave, times = click_track(bpm)
    beats = find_beats(wave, RATE)
    score, errors = matched(beats.times, times)
    assert score > 0.95 and abs(beats.tempo / bpm - 1) < 0.01
    assert abs(errors.mean()) < 0.008 and errors.std() < 0.008


SONGS = [("house", 122), ("hiphop", 90), ("krump", 84), ("dnb", 172), ("jazz", 140), ("rock", 128), ("reggae", 80)]


@pytest.fixture(scope="module")
def songs():
    return [make_song(7, 20, style, bpm) for style, bpm in SONGS]


def test_songs_have_their_beats_tempo_and_bars(songs):
    """No octave errors, no off-beats (where the reggae's chords are), no bias, and bars that open where they do."""
    bias, bars = [], []
    for song in songs:
        beats = find_beats(song.waveform, song.sample_rate)
        score, errors = matched(beats.times, song.beats)
        assert score > 0.9 and abs(beats.tempo / song.bpm - 1) < 0.04, (song.style, score, beats.tempo)
        bias.append(errors.mean())
        bars.append(matched(beats.times[beats.downbeat :: 4], song.downbeats)[0])
    assert abs(np.mean(bias)) < 0.003 and np.mean(bars) > 0.85


def test_no_beats_slip_at_the_end():
    """A song of the world whose last three beats were 0.1 to 0.2 s late, the last two at a regular distance."""
    song = make_song(seed_of(1, "test-song-00007"), 30)
    assert matched(find_beats(song.waveform, RATE).times, song.beats)[0] == 1


def drum_track(start_bpm, stop_bpm, meter, seconds):
    """Kick on the first beat of a bar, snare on the others (4/4: on the second and fourth), hi-hats on half beats."""
    noise, times = np.random.default_rng(0), [0.37]
    while times[-1] < seconds:
        times.append(times[-1] + 60 / (start_bpm + (stop_bpm - start_bpm) * times[-1] / seconds))
    wave, time = np.zeros(int((seconds + 1) * RATE)), np.arange(3000) / RATE
    kick = np.sin(2 * np.pi * 60 * time) * np.exp(-22 * time)
    snare = (0.5 * noise.standard_normal(3000) + 0.4 * np.sin(2 * np.pi * 190 * time)) * np.exp(-28 * time)
    hat = 0.2 * np.diff(noise.standard_normal(3001)) * np.exp(-90 * time)
    for index, (start, stop) in enumerate(zip(times[:-1], times[1:], strict=True)):
        is_kick = index % meter == 0 if meter == 3 else index % 2 == 0
        for moment, sound in ((start, kick if is_kick else snare), (start, hat), ((start + stop) / 2, hat)):
            wave[(sample := round(moment * RATE)) : sample + 3000] += noise.uniform(0.8, 1) * sound
        if index % meter == 0:  # a chord a bar
            sample, length = round(start * RATE), int(meter * (stop - start) * RATE)
            pitch = 110 * 2 ** (noise.choice([0, 3, 5, 7, 8, 10]) / 12)
            tone = np.sin(2 * np.pi * pitch * np.arange(length) / RATE) * np.linspace(1, 0.3, length)
            part = wave[sample : sample + length]
            part += 0.2 * tone[: len(part)]
    return (0.4 * wave[: int(seconds * RATE)]).astype(np.float32), np.array(times[:-1])


@pytest.mark.parametrize(
    "start_bpm, stop_bpm, meter, seconds",
    [(60, 60, 4, 20), (74, 74, 4, 20), (176, 176, 4, 16), (200, 200, 4, 16), (90, 90, 3, 20), (140, 140, 3, 16)]
    + [(180, 180, 3, 16), (115, 123, 4, 90), (96, 84, 4, 60)],
)
def test_drums_at_the_ends_of_the_range_in_three_four_and_that_drift(start_bpm, stop_bpm, meter, seconds):
    wave, times = drum_track(start_bpm, stop_bpm, meter, seconds)
    beats = find_beats(wave, RATE)
    assert beats.meter == meter and matched(beats.times, times)[0] > 0.95
    assert matched(beats.times[beats.downbeat :: meter], times[::meter])[0] > 0.9


def test_beats_do_not_depend_on_loudness(songs):
    song = songs[0]
    loud, faint = find_beats(song.waveform, RATE), find_beats(song.waveform * 0.01, RATE)
    assert np.array_equal(loud.times, faint.times)


def test_what_has_no_beat():
    noise, time = np.random.default_rng(0), np.arange(RATE * 12) / RATE
    for wave in (
        np.zeros(RATE * 5),
        np.zeros(0),
        np.ones(RATE * 5) * 0.2,
        noise.standard_normal(RATE * 12) * 0.1,
        noise.standard_normal(RATE * 12) * 1e-6,
        np.sin(2 * np.pi * 220 * time) * 0.3,
        click_track(120, 1)[0],
    ):
        beats = find_beats(wave.astype(np.float32), RATE)
        assert beats.times.shape == (0,) and beats.times.dtype == np.float64 and beats.tempo == 0


def test_slices_and_frames():
    beats = Beats(np.array([0.5, 1.0, 1.5, 2.0, 2.5, 3.0]), 120.0, 1)  # bars open at 1.0 and 3.0
    part = beats.slice(1.25, 3.0)
    assert part.times.tolist() == [0.25, 0.75, 1.25] and part.downbeat == 3
    assert beats.slice(1.0, 9.0).downbeat == 0
    waltz = Beats(np.arange(9) / 2, 120.0, 2, 3).slice(0.25, 9)
    assert waltz.downbeat == 1 and waltz.meter == 3
    marks = beats_to_frames(np.array([-0.1, 0.0, 0.516, 0.999, 7.0]), 30, 30)
    assert marks.dtype == np.int64 and np.flatnonzero(marks).tolist() == [0, 15]
    assert np.flatnonzero(beats_to_frames(np.array([1001 / 30000 * 8]), 30, 30000 / 1001)).tolist() == [8]


def test_the_pulse_turns_once_a_beat_and_goes_on_past_the_ends():
    """Half-way between beats it points back; outside the beats the nearest gap goes on; no beats have no pulse."""
    times = np.array([1.0, 1.5, 2.1])
    pulse = beat_phase(times, np.array([1.0, 1.25, 1.5, 1.8, 2.1, 0.5, 0.75, 2.7, 2.4]))
    np.testing.assert_allclose(pulse[:, 0], [1, -1, 1, -1, 1, 1, -1, 1, -1], atol=1e-6)
    np.testing.assert_allclose(pulse[:, 1], 0, atol=1e-6)
    assert not beat_phase(times[:1], times).any()
