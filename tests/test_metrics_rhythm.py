"""Rhythm metrics against known answers: shifted beats in closed form, at every rate and wherever a clip is cut."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from zoo.body import skeleton
from zoo.body.detection.base import PoseDetector, Poses
from zoo.data.world.choreography import choreograph
from zoo.data.world.song import make_song
from zoo.metrics.base import MetricInput
from zoo.metrics.rhythm import (
    HIT_TOLERANCE,
    SIGMA,
    BeatAlignment,
    BeatAlignment2D,
    BeatHitRate,
    BeatHitRate2D,
    beat_alignment,
    beat_hits,
    detected_beats,
    kinematic_beats,
    matchable_beats,
)

BEAT = 0.5  # seconds


class Known(PoseDetector):
    """Gives the poses that were put into the evidence."""

    name = "the truth"

    def __init__(self, poses: Poses):
        self.poses = poses

    def detect(self, frames: np.ndarray) -> Poses:
        return self.poses


def swing(seconds: float, fps: float, start: float = 0.0, joints: int = 24, dims: int = 3) -> np.ndarray:
    """All joints swing from side to side and stand still on every beat, as seen from `start` on."""
    t = start + np.arange(round(seconds * fps)) / fps
    place = np.random.default_rng(0).uniform(0, 100, (joints, dims))
    moved = np.repeat(place[None], len(t), 0)
    moved[..., 0] += 20 * np.cos(np.pi * t / BEAT)[:, None]
    return moved


def poses_of(joints: np.ndarray) -> Poses:
    return Poses(joints.astype(np.float32), np.ones(joints.shape[:2], np.float32), np.zeros((len(joints), 4, 4)))


def evidence(beats: np.ndarray, seconds=4.0, fps=12, joints=None, poses=None) -> MetricInput:
    frames = np.zeros((round(seconds * fps), 4, 4, 3), np.uint8)
    return MetricInput(
        *("clip", {}, Fraction(fps), frames, frames, frames[0], np.zeros(10, np.float32), 22050, beats),
        joints=joints,
        detector=Known(poses) if poses else None,
    )


def beats_within(shift: float, start: float, seconds: float = 4.0) -> np.ndarray:
    times = np.arange(-10, 60) * BEAT + shift - start
    return times[(times >= 0) & (times < seconds)]


def test_alignment_of_shifted_beats_is_the_closed_form():
    music = np.arange(20) * 0.5
    for shift in (0.0, 0.02, 0.05, 0.1, 0.2):
        assert beat_alignment(music + shift, music) == pytest.approx(np.exp(-(shift**2) / (2 * SIGMA**2)))
    assert beat_alignment(np.array([]), music) == 0
    assert np.isnan(beat_alignment(music, np.array([])))


@pytest.mark.parametrize("fps, within", [(12, 0.012), (30, 0.003), (60, 0.001)])
def test_kinematic_beats_stand_where_the_swing_turns(fps, within):
    """To a small part of a frame, wherever the beats lie between the frames."""
    for start in (0.0, 0.013, 0.031, 0.06):
        found = kinematic_beats(swing(5, fps, start), fps) + start
        inner = found[(found > 0.3) & (found < 4.7)]
        np.testing.assert_allclose(inner, np.arange(1, 10) * BEAT, atol=within)


@pytest.mark.parametrize("instrument", ["exact", "found"])
def test_the_score_falls_as_the_dance_leaves_the_beat(instrument):
    """exp(-d^2 / 2 sigma^2), for d from 0 to half a beat and for clips cut anywhere, from 30 Hz motion and 12 fps."""
    scores = []
    shifts = np.linspace(0, BEAT / 2, 11)
    for shift in shifts:
        score = []
        for start in np.arange(0, BEAT, 0.07):
            beats = beats_within(shift, start)
            if instrument == "exact":
                clip = evidence(beats, joints=swing(4, 30, start))
                score.append(float(BeatAlignment().measure(clip)["beat_align"]))
            else:
                clip = evidence(beats, poses=poses_of(swing(4, 12, start, dims=2)))
                score.append(float(BeatAlignment2D().measure(clip)["beat_align_2d"]))
        scores.append(np.mean(score))
    expected = np.exp(-(shifts**2) / (2 * SIGMA**2))
    np.testing.assert_allclose(scores, expected, atol=0.02 if instrument == "exact" else 0.06)
    assert (np.diff(scores) < 0).all()


def test_a_dance_of_the_world_falls_in_score_as_it_leaves_the_beat():
    own = []
    for number, style in enumerate(("house", "rock", "hiphop")):
        song = make_song(60 + number, 16, style)
        joints = skeleton.joints_of(choreograph(song, number).motion).numpy()
        kinematic, gap = kinematic_beats(joints, 30), np.diff(song.beats).mean()
        shifted = [song.beats + share * gap for share in np.linspace(0, 0.5, 6)]
        own.append([beat_alignment(matchable_beats(kinematic, music), music) for music in shifted])
    course = np.mean(own, 0)
    assert course[0] > 0.7 and (np.diff(course) < 0).all() and course[-1] < 0.25


def test_beats_beyond_the_ends_are_not_held_against_the_dance():
    music = np.array([0.45, 0.95, 1.45])  # a clip of 1.8 s; in the song there are beats at -0.05 and 1.95 too
    np.testing.assert_array_equal(matchable_beats(np.array([0.0, 0.1, 0.5, 1.0, 1.6, 1.75]), music), [0.5, 1.0, 1.6])
    np.testing.assert_array_equal(matchable_beats(np.array([0.0, 1.0]), music[:1]), [0.0, 1.0])


def test_hits_by_hand():
    music = np.arange(8) * 0.5 + 0.02
    kinematic = np.array([0.52, 1.02 + 0.9 * HIT_TOLERANCE, 1.6 + HIT_TOLERANCE, 2.5, 2.6])
    # hits: 0.52, 1.083 and 2.5; beats met: 0.52, 1.02, 2.52 of the six that lie 0.3 s inside [0, 3.6]
    coverage, hit, met = beat_hits(kinematic, music, 3.6, edge=0.3)
    assert (coverage, hit, met) == pytest.approx((5 / 8, 3 / 5, 3 / 6))
    assert beat_hits(np.empty(0), music, 4) == (0, 0, 0)
    assert np.isnan(beat_hits(kinematic, np.empty(0), 4)).all()
    clip = evidence(beats_within(0.03, 0.2), joints=swing(4, 30, 0.2), poses=poses_of(swing(4, 12, 0.2, dims=2)))
    for metric in (BeatHitRate(), BeatHitRate2D()):
        coverage, hit, met = (float(metric.measure(clip)[name]) for name in metric.columns)
        assert 0.85 <= coverage <= 1 and hit == met == 1, metric
        off = {name: float(metric.measure(replace(clip, beats=beats_within(0.25, 0.2), _cache={}))[name])
               for name in metric.columns}  # fmt: skip
        assert list(off.values())[1:] == [0, 0]


def test_a_still_figure_has_no_beats_and_a_hidden_one_keeps_the_others():
    rng = np.random.default_rng(0)
    joints = swing(4, 12, dims=2)
    still = np.repeat(joints[:1], 48, 0) + rng.normal(0, 0.1, joints.shape)  # as a detector sees a frozen picture
    assert len(detected_beats(poses_of(still), 12)) == 0
    assert len(kinematic_beats(still, 12)) > 3  # which is what the depth of a minimum is asked for
    whole = detected_beats(poses_of(joints), 12)
    hidden = joints.copy()
    hidden[[0, 1, 20, 21]] = np.nan  # at the start and between two beats
    np.testing.assert_allclose(detected_beats(poses_of(hidden), 12), whole, atol=0.03)
    hidden[2:] = np.nan
    assert len(detected_beats(poses_of(hidden), 12)) == 0
