"""motion=choreographer: the dance follows the song, and no other encoding, volume or run of it changes the dance."""

import numpy as np
import pytest
import torch

from zoo.body.skeleton import joints_of
from zoo.choreography.choreographer import Choreographer, match_prompt
from zoo.choreography.moves import MOVES
from zoo.choreography.styles import style_probabilities
from zoo.data.world.song import STYLES, make_song
from zoo.music.beats import RATE, Beats, find_beats
from zoo.music.structure import analyze_structure


def analyzed(song):
    return analyze_structure(song.waveform, song.sample_rate, find_beats(song.waveform, song.sample_rate))


@pytest.fixture(scope="module")
def songs():
    return [make_song(70 + number, 16, style) for number, style in enumerate(("house", "reggae", "rock"))]


def speed(motion):
    joints = joints_of(motion).numpy()
    return np.linalg.norm(np.diff(joints, axis=0), axis=-1).mean(1) * 30


def test_the_dance_is_the_songs_not_the_volumes(songs):
    wave, rate = songs[0].waveform, songs[0].sample_rate
    loud, half = (
        Choreographer(3).dance(analyze_structure(x, rate, find_beats(x, rate)), 450) for x in (wave, wave / 2)
    )
    assert [move[2:4] for move in loud.moves] == [move[2:4] for move in half.moves]
    other = Choreographer(3).dance(analyzed(songs[1]), 450)
    assert {move[2] for move in loud.moves} != {move[2] for move in other.moves}
    assert loud.motion.shape == (450, 151) and torch.isfinite(loud.motion).all()


def test_a_short_silence_in_front_only_delays_the_dance(songs):
    """Three tenths of a second: four of five moves are the same, to the same side, from the first downbeat on."""
    equal = []
    for song in songs:
        silence = np.zeros(round(0.3 * song.sample_rate), np.float32)
        first, second = (
            Choreographer(0)
            .dance(analyze_structure(wave, song.sample_rate, find_beats(wave, song.sample_rate)), frames)
            .moves
            for wave, frames in (
                (song.waveform, 450),
                (np.concatenate([silence, song.waveform]), 459),
            )
        )
        assert np.allclose([b[0] - a[0] for a, b in zip(first, second, strict=True)], 0.3, atol=0.03)
        equal += [a[2:4] == b[2:4] for a, b in zip(first, second, strict=True)]
    assert np.mean(equal) >= 0.8


def test_moves_to_a_waltz_begin_with_its_bars():
    """3/4 at 150 BPM, first downbeat at 0.8 s: a bar has 1.2 s."""
    beats = Beats(np.arange(0.4, 15, 0.4), 150.0, 1, 3)
    wave = np.random.default_rng(0).normal(0, 0.1, 15 * RATE).astype(np.float32)
    dance = Choreographer(0).dance(analyze_structure(wave, RATE, beats), 450)
    starts = np.array([move[0] for move in dance.moves])
    np.testing.assert_allclose((starts - 0.8 + 0.1) % 1.2, 0.1, atol=1e-6)
    assert len(starts) > 2 and torch.isfinite(dance.motion).all()


def test_a_quiet_half_gets_calm_moves(songs):
    """The same eight seconds 15 dB lower and then as they are, by three dancers."""
    song = songs[2]
    part = song.waveform[: 8 * song.sample_rate]
    structure = analyze_structure(
        wave := np.concatenate([part * 10 ** (-15 / 20), part]), song.sample_rate, find_beats(wave, song.sample_rate)
    )
    dances = [Choreographer(seed).dance(structure, 480) for seed in range(3)]
    quiet_energies = [move[4] for dance in dances for move in dance.moves if move[1] < 8]
    assert max(quiet_energies) < 0.7, quiet_energies
    ratios = [speed(dance.motion)[260:].mean() / speed(dance.motion)[20:220].mean() for dance in dances]
    assert min(ratios) >= 2, ratios


def test_a_repeated_section_gets_its_moves_again():
    """Eight bars, eight bars of another song, and the first ones again, at 120 BPM."""
    parts = []
    for song in (make_song(seed, 19, "house", 120) for seed in (70, 71)):
        start, rate = round(song.downbeats[0] * song.sample_rate), song.sample_rate
        parts.append(song.waveform[start : start + 16 * rate])
    wave = np.concatenate([parts[0], parts[1], parts[0]])
    moves = Choreographer(0).dance(analyze_structure(wave, rate, Beats(np.arange(96) / 2, 120.0, 0)), 1440).moves
    first, other, repeat = ({move[2] for move in moves if 16 * k <= move[0] < 16 * k + 16} for k in range(3))
    assert len(first & repeat) / len(first | repeat) > 0.5 > len(first & other) / len(first | other), moves


def test_it_rests_in_silence_and_feet_do_not_slide(songs):
    song = songs[2]
    pause = np.zeros(6 * song.sample_rate, np.float32)
    wave = np.concatenate([song.waveform[: 8 * song.sample_rate], pause, song.waveform[8 * song.sample_rate :], pause])
    motion = Choreographer(0).dance(analyze_structure(wave, song.sample_rate, find_beats(wave, song.sample_rate)), 840)
    moving = speed(motion.motion)
    assert moving[int(10.5 * 30) : int(13 * 30)].mean() < 0.05 and moving[int(25 * 30) :].mean() < 0.05
    assert moving[30 : 7 * 30].mean() > 0.2 and moving[16 * 30 : 20 * 30].mean() > 0.2
    joints = joints_of(motion.motion).numpy()
    assert np.linalg.norm(np.diff(joints, 2, axis=0), axis=-1).max() * 900 < 180  # m/s^2: no jump at a join
    assert joints[..., 2].min() > 0.01


def test_a_prompt_picks_moves_and_a_style_is_found(songs):
    assert match_prompt("a person kicks").moves >= {"kick", "side_kick"}
    assert not match_prompt("xyzzy").moves and not match_prompt("xyzzy").arms
    dance = Choreographer(0, prompt="jumping jacks").dance(analyzed(songs[0]), 450)
    assert {move[2] for move in dance.moves} <= match_prompt("jumping jacks").moves <= set(MOVES)
    chosen = [max(p := style_probabilities(analyzed(song)), key=p.get) for song in songs]
    assert sum(style == song.style for style, song in zip(chosen, songs, strict=True)) >= 2
    with pytest.raises(ValueError, match="no style polka"):
        Choreographer(0, "polka")
    assert set(STYLES) == set(style_probabilities(analyzed(songs[0])))


def test_silence_and_noise_have_a_dance(songs):
    for wave in (np.zeros(RATE * 3, np.float32), np.random.default_rng(0).normal(0, 0.1, RATE * 3).astype(np.float32)):
        dance = Choreographer(0).dance(analyze_structure(wave, RATE, find_beats(wave, RATE)), 90)
        assert torch.isfinite(dance.motion).all() and len(dance.motion) == 90
        assert wave.any() or speed(dance.motion).mean() < 0.05
