"""The world's dances: on the beat, with both feet on the floor, different by seed, equal by the same seed."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.signal import argrelmin

from zoo.body import skeleton
from zoo.choreography import ik
from zoo.choreography.dancer import BALL_HEIGHT
from zoo.choreography.moves import MOVES
from zoo.choreography.poses import mirror
from zoo.data.world.choreography import choreograph
from zoo.data.world.song import SAMPLE_RATE, STYLES, make_song


@pytest.fixture(scope="module")
def danced():
    songs = [make_song(40 + number, 12, style) for number, style in enumerate(STYLES)]
    dances = [choreograph(song, number) for number, song in enumerate(songs)]
    return songs, dances, [skeleton.joints_of(dance.motion).numpy() for dance in dances]


def kinematic_beats(joints):
    """Local minima of the mean joint speed, seconds (AIST++, sec. 5.2.1)."""
    speed = np.linalg.norm(np.diff(joints, axis=0), axis=-1).mean(1)
    return (argrelmin(gaussian_filter1d(speed, 2.5))[0] + 0.5) / 30


def alignment(joints, beats):
    distance = np.abs(kinematic_beats(joints)[:, None] - beats).min(1)
    return np.exp(-(distance**2) / (2 * 0.05**2)).mean()


def test_dances_fall_on_their_own_song_and_not_on_another(danced):
    songs, _, joints = danced
    own_scores = np.array([alignment(j, song.beats) for j, song in zip(joints, songs, strict=True)])
    other_scores = np.array([alignment(j, songs[i - 5].beats) for i, j in enumerate(joints)])
    assert own_scores.mean() > 0.7 and own_scores.min() > 0.5
    assert (own_scores > other_scores).mean() > 0.9 and own_scores.mean() - other_scores.mean() > 0.3


def test_feet_that_stand_do_not_slide_nor_sink(danced):
    for joints in danced[2]:
        balls = joints[:, [10, 11]]
        step = np.linalg.norm(np.diff(balls[..., :2], axis=0), axis=-1)
        down = balls[..., 2] < BALL_HEIGHT + 0.003
        standing = down[1:] & down[:-1]
        assert standing.any(1).mean() > 0.6
        assert np.quantile(step[standing], 0.99) < 0.002 and step[standing].max() < 0.008
        assert joints[..., 2].min() > BALL_HEIGHT - 0.004


def test_motion_is_smooth_through_moves_and_joins(danced):
    for joints in danced[2]:
        acceleration = np.linalg.norm(np.diff(joints, 2, axis=0), axis=-1) * 900
        assert acceleration.max() < 180  # m/s^2; a hand of a fast dancer reaches about 150
        assert np.quantile(acceleration, 0.999) < 110


def test_joints_stay_in_human_ranges(danced):
    for _, dance, joints in zip(*danced, strict=True):
        _, root, rotations = skeleton.unpack(dance.motion)
        assert root[:, :2].abs().max() < 1.2
        for knee in (4, 5):
            turned = skeleton.axis_angle_from_matrix(rotations[:, knee])
            assert turned[:, 0].min() > 0 and turned[:, 0].max() < 2.7  # forward only, never folded
            assert turned[:, 1:].abs().max() < 1e-3
        head = rotations[:, 12] @ rotations[:, 15]
        assert torch.atan2(head[:, 0, 2], head[:, 2, 2]).abs().max() < np.radians(80)
        assert np.abs(np.linalg.norm(joints[:, 7] - joints[:, 1], axis=-1)).max() < 0.86


def test_seeds_decide_everything(danced):
    song = danced[0][0]
    first, repeated, second = choreograph(song, 7), choreograph(song, 7), choreograph(song, 8)
    assert torch.equal(first.motion, repeated.motion) and first.moves == repeated.moves
    difference = (skeleton.joints_of(first.motion) - skeleton.joints_of(second.motion)).norm(dim=-1).mean()
    assert difference > 0.1
    assert [m[2:4] for m in first.moves] != [m[2:4] for m in second.moves]


def test_moves_are_named_timed_and_worded(danced):
    for song, dance, _ in zip(*danced, strict=True):
        assert dance.motion.shape == (360, 151) and dance.motion.dtype == torch.float32
        starts, stops, names, sides, energies, words = zip(*dance.moves, strict=True)
        assert starts[0] == song.beats[0] and starts[1:] == stops[:-1] and stops[-1] == song.seconds
        beats = (np.array(starts) - song.beats[0]) * song.bpm / 60
        np.testing.assert_allclose(beats, np.round(beats), atol=1e-6)
        assert set(names) <= set(MOVES) and set(sides) <= {"left", "right"}
        assert all(0 <= energy <= 1 for energy in energies) and all("{" not in word for word in words)


def test_every_move_occurs_and_choruses_are_livelier(monkeypatch):
    monkeypatch.setattr("zoo.data.world.song._synthesize", lambda *_: np.zeros(20 * SAMPLE_RATE, np.float32))  # unheard
    names, calm, lively = set(), [], []
    for seed in range(60):
        song = make_song(seed, 20)
        dance = choreograph(song, seed)
        names |= {move[2] for move in dance.moves}
        speed = np.linalg.norm(np.diff(skeleton.joints_of(dance.motion).numpy(), axis=0), axis=-1).mean(1) * 30
        for start, stop, name, _ in song.sections:
            part = speed[int(start * 30) + 15 : int(stop * 30) - 15]
            if len(part) > 30:
                {"chorus": lively, "break": calm, "intro": calm}.get(name, []).append(part.mean())
    assert names == set(MOVES) and len(MOVES) >= 20
    assert np.mean(lively) > 1.25 * np.mean(calm)


def test_a_mirrored_move_mirrors_back():
    for move in MOVES.values():
        for pose in move.poses:
            assert mirror(mirror(pose)) == pose


def test_the_leg_solver_reaches_the_target():
    thigh, shin = (np.asarray(skeleton.OFFSETS[joint], float) for joint in (4, 7))
    target = np.random.default_rng(0).uniform((-0.3, -0.7, -0.3), (0.3, -0.4, 0.3), (50, 3))
    hip, flexion = ik.solve_leg(thigh, shin, target, np.tile([0.0, 0.0, 1.0], (50, 1)))
    reached = (hip @ (thigh + ik.rotation(0, flexion) @ shin)[..., None])[..., 0]
    np.testing.assert_allclose(reached, target, atol=1e-9)
    assert (flexion > 0).all()
    assert ((hip @ thigh)[:, 2] > target[:, 2] / 2 - 1e-6).all()  # the knee lies ahead of the line hip to ankle


def test_the_arm_solver_brings_the_arm_into_the_directions_also_when_it_is_straight():
    rest, forward = ik.unit(np.asarray(skeleton.OFFSETS[18], float)), np.array([0.0, 0, 1])
    hinge = ik.unit(np.cross(rest, forward))
    upper = np.concatenate([[rest, -rest, forward], ik.unit(np.random.default_rng(0).normal(size=(20, 3)))])
    straight, flexion = ik.solve_arm(upper, upper, rest, hinge)
    np.testing.assert_allclose(straight @ rest, upper, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(straight), 1)
    assert flexion.max() < 1e-6
    nearly = ik.unit(upper + 1e-4 * np.cross(straight @ hinge, upper))
    np.testing.assert_allclose(ik.solve_arm(upper, nearly, rest, hinge)[0], straight, atol=1e-9)  # no jump
