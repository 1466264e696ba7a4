"""Measures of dances to songs, against known answers."""

from fractions import Fraction

import numpy as np
import pytest

from zoo.metrics.base import MetricInput
from zoo.metrics.song_response import (
    SongCorrelation,
    SongResponse,
    arms_used,
    loudness_response,
    mean_speed,
    song_correlation,
    upright_head,
    variety,
)


def poses(*values: float) -> np.ndarray:
    """A second of each value, as the height of joint 5; the pelvis wanders."""
    joints = np.zeros((30 * len(values), 24, 3))
    joints[:, 5, 2] = np.repeat(values, 30)
    return joints + np.linspace(0, 3, len(joints))[:, None, None]


def test_the_correlation_between_songs_is_that_of_slow_poses():
    """Equal dances have 1 and opposite ones -1, also where a mean of each second would hide it."""
    assert song_correlation([poses(1, 2, 3)] * 3) == pytest.approx(1)
    assert song_correlation([poses(1, -1, 1, 0.5), poses(-1, 1, -1, -0.5)]) == pytest.approx(-1)
    assert song_correlation([poses(1, 1, -1, -1), poses(1, -1, 1, -1), poses(1, -1, -1, 1)]) == pytest.approx(0)


def test_arms_head_and_rest():
    joints = np.zeros((60, 24, 3))
    joints[:, [16, 17], 2], joints[:, 15, 2] = 1.4, 1.6
    joints[:15, 22, 2] = 1.5
    assert arms_used(joints) == 0.25 and upright_head(joints) == 1
    joints[:, 15, 0] = 1.6
    assert upright_head(joints) == pytest.approx(0.5**0.5)
    joints[:] = np.linspace(0, 59, 60)[:, None, None] * np.array([0.01, 0, 0])
    assert mean_speed(joints, 0, 1) == pytest.approx(0.3)


def test_the_speed_follows_the_loudness():
    joints = np.zeros((600, 24, 3))
    joints[300:, :, 0] = (0.02 * np.arange(300))[:, None]
    wave = np.concatenate([np.full(10_000, 0.01), np.full(10_000, 0.1)]).astype(np.float32)
    quiet, loud, decibels = loudness_response(joints, wave, 1000)
    assert quiet == 0 and loud == pytest.approx(0.6) and decibels == pytest.approx(20, abs=1e-3)


def test_variety_is_the_distance_of_two_beat_windows():
    """Windows of heights 0, 24, 0: two of three pairs differ, by 24 m in one joint of 24."""
    assert variety(poses(0, 24, 0, 0), np.arange(0, 3.6, 0.5)) == pytest.approx(2 / 3 * 24 / 24**0.5)
    assert np.isnan(variety(poses(0, 1), np.array([0.0, 0.5])))


def clip(joints: np.ndarray, wave: np.ndarray, song: str = "a") -> MetricInput:
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    beats = np.arange(0, len(joints) / 30, 0.5)
    return MetricInput("key", {"song": song}, Fraction(12), frames, frames, frames[0], wave, 1000, beats, joints)


def test_the_columns_of_a_clip():
    """4 s: loud and moving at 0.6 m/s for 2 s, then silent; moving on for half a second, then still."""
    joints = np.zeros((120, 24, 3))
    joints[:, :, 0] = 0.02 * np.minimum(np.arange(120), 75)[:, None]
    wave = np.concatenate([np.full(2000, 0.1), np.zeros(2000)]).astype(np.float32)
    values = SongResponse().measure(clip(joints, wave))
    assert values["loudness_response"] > 0.75 and values["speed_in_silence"] == 0
    assert values["arms_used"] == 0 and values["variety"] == 0
    restless = SongResponse().measure(clip(0.02 * np.arange(120)[:, None, None] * np.ones((1, 24, 3)), wave))
    assert restless["speed_in_silence"] == pytest.approx(0.6 * 3**0.5) and restless["loudness_response"] == 0
    loud = SongResponse().measure(clip(joints, np.full(4000, 0.1, np.float32)))
    assert np.isnan(loud["loudness_response"]) and np.isnan(loud["speed_in_silence"])


def test_the_correlation_of_a_set_leaves_out_pairs_of_one_song():
    metric, wave = SongCorrelation(), np.zeros(4000, np.float32)
    dances = [poses(1, -1, 1, 0.5), poses(-1, 1, -1, -0.5)]
    same = [metric.measure(clip(dance, wave, "a")) for dance in dances]
    assert np.isnan(metric.combine(same, same)["song_correlation"])
    other = [metric.measure(clip(dance, wave, song)) for dance, song in zip(dances, "ab", strict=True)]
    assert metric.combine(other, other)["song_correlation"] == pytest.approx(-1, abs=1e-6)
    assert metric.combine(other * 2, other)["song_correlation"] == pytest.approx(song_correlation(dances), abs=1e-6)
