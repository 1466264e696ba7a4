"""Rhythm and motion metrics against known answers."""

import numpy as np
import pytest

from zoo.metrics.motion import dance_distance, diversity, foot_sliding, jitter, physical_foot_contact
from zoo.metrics.rhythm import SIGMA, beat_alignment, kinematic_beats
from zoo.metrics.statistics import interval


def test_beat_alignment_of_shifted_beats_is_the_closed_form():
    music = np.arange(20) * 0.5
    for shift in (0.0, 0.02, 0.05, 0.1, 0.2):
        assert beat_alignment(music + shift, music) == pytest.approx(np.exp(-(shift**2) / (2 * SIGMA**2)))
    assert beat_alignment(np.array([]), music) == 0
    assert np.isnan(beat_alignment(music, np.array([])))


@pytest.mark.parametrize("fps", [30, 60])
def test_kinematic_beats_stand_where_the_swing_turns(fps):
    # x = cos(2 pi t / 1 s) stands still at every half second
    t = np.arange(0, 5, 1 / fps)
    joints = np.zeros((len(t), 24, 3))
    joints[:, :, 0] = np.cos(2 * np.pi * t)[:, None]
    beats = kinematic_beats(joints, fps)
    inner = beats[(beats > 0.2) & (beats < 4.8)]
    np.testing.assert_allclose(inner, np.arange(1, 10) * 0.5, atol=0.51 / fps)


def test_physical_foot_contact_by_hand():
    # both feet slide by 0.02 m a frame; the root accelerates sideways in every second frame only
    frames = 12
    joints = np.zeros((frames, 24, 3))
    joints[:, [7, 8, 10, 11], 0] = 0.02 * np.arange(frames)[:, None]
    force = np.tile([1.0, 0.0], frames // 2)[: frames - 2]
    joints[2:, 0, 1] = np.cumsum(np.cumsum(force))
    assert physical_foot_contact(joints) == pytest.approx(0.02 * 0.02 * 0.5 * 1e4)
    # a falling root needs no contact: only upward acceleration counts
    fall = joints.copy()
    fall[:, 0] = 0
    fall[2:, 0, 2] = -np.cumsum(np.cumsum(force))
    assert physical_foot_contact(fall) == 0
    assert foot_sliding(joints) == pytest.approx(0.02 * 30)


def test_distances_ignore_where_the_dancer_stands():
    rng = np.random.default_rng(0)
    dance = rng.normal(size=(30, 24, 3))
    assert dance_distance(dance, dance + 5.0) == pytest.approx(0, abs=1e-12)
    other = dance.copy()
    other[:, 1:, 0] += 0.24
    assert dance_distance(dance, other) == pytest.approx(0.24 * 23 / 24)
    assert diversity([dance, other, other]) == pytest.approx(0.24 * 23 / 24 * 2 / 3)
    assert jitter(np.arange(10.0)[:, None, None] ** 3 * np.ones((10, 24, 3))) == pytest.approx(6 * 3**0.5 * 27)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = [low <= 0 <= high for _, low, high in (interval(rng.normal(size=40), draws=500) for _ in range(300))]
    assert 0.88 < np.mean(hits) < 0.99
    with pytest.raises(ValueError, match="no values"):
        interval(np.array([np.nan]))
