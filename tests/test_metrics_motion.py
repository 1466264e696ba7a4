"""Motion metrics against known answers, and dance features against slow loops over their definitions."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from zoo.body import skeleton
from zoo.data.world.choreography import choreograph
from zoo.data.world.song import make_song
from zoo.metrics.base import MetricInput
from zoo.metrics.dance_features import geometric_features, kinetic_features
from zoo.metrics.motion import (
    PFC,
    Diversity,
    FootSliding,
    FrechetGeometric,
    FrechetKinetic,
    Jitter,
    Multimodality,
    diversity,
    foot_sliding,
    jitter,
    motion_distance,
    physical_foot_contact,
)

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (10, 11), (12, 13), (14, 15), (16, 17), (19, 20), (21, 22), (23, 24), (25, 26),
         (29, 30))  # fmt: skip
NAMES = skeleton.JOINTS
SWAP = [NAMES.index(n.replace("left", "?").replace("right", "left").replace("?", "right")) for n in NAMES]


def evidence(joints: np.ndarray, song: str = "song", again: np.ndarray | None = None) -> MetricInput:
    frames = np.zeros((48, 4, 4, 3), np.uint8)
    return MetricInput(
        *("clip", {"song": song}, Fraction(12), frames, frames, frames[0], np.zeros(10, np.float32), 22050),
        *(np.empty(0), joints, again),
    )


@pytest.fixture(scope="module")
def dances():
    """(N, 120, 24, 3): 4 s each from the world."""
    found = []
    for number, style in enumerate(("house", "rock", "hiphop", "pop")):
        song = make_song(70 + number, 20, style)
        joints = skeleton.joints_of(choreograph(song, number).motion).numpy()
        found += [joints[first : first + 120] for first in range(0, 480, 60)]
    return np.stack(found)


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
    assert motion_distance(dance, dance + 5.0) == pytest.approx(0, abs=1e-12)
    other = dance.copy()
    other[:, 1:, 0] += 0.24
    assert motion_distance(dance, other) == pytest.approx(0.24 * 23 / 24)
    assert diversity([dance, other, other]) == pytest.approx(0.24 * 23 / 24 * 2 / 3)
    assert jitter(np.arange(10.0)[:, None, None] ** 3 * np.ones((10, 24, 3))) == pytest.approx(6 * 3**0.5 * 27)


def test_each_metric_gives_the_number_of_its_clip(dances):
    clip = evidence(dances[0], again=dances[1])
    expected = {
        PFC: physical_foot_contact(dances[0]),
        FootSliding: foot_sliding(dances[0]),
        Jitter: jitter(dances[0]),
        Multimodality: motion_distance(dances[0], dances[1]),
    }
    for metric, value in expected.items():
        (measured,) = metric().measure(clip).values()
        assert float(measured) == pytest.approx(value) and value > 0, metric


def test_diversity_is_the_mean_over_pairs_of_songs():
    still = np.zeros((120, 24, 3))
    still[:, 1:] = np.random.default_rng(0).normal(size=(23, 3))
    away = [still.copy() for _ in range(3)]
    away[1][:, 1:, 0] += 0.24
    away[2][:, 1:, 0] += 0.48
    metric = Diversity()
    row = [metric.measure(evidence(joints, song)) for joints, song in zip(away, "aab", strict=True)]
    # the two dances to song a are no pair; drawing a clip twice makes no pair of it with itself either
    one, two = 0.48 * 23 / 24, 0.24 * 23 / 24
    assert metric.combine(row, row)["diversity"] == pytest.approx((one + two) / 2, rel=1e-4)
    assert metric.combine([row[0], row[0], row[2]], row)["diversity"] == pytest.approx(one, rel=1e-4)
    assert np.isnan(metric.combine(row[:2], row)["diversity"])


def slow_kinetic(joints: np.ndarray, fps: float, window: int = 2) -> list[float]:
    """fairmotion's definition, frame by frame: windowed means of velocity and acceleration."""
    values, frames = [], len(joints)
    for j in range(joints.shape[1]):
        across = up = force = 0.0
        for i in range(1, frames):
            near = range(i - window, i + window + 1)
            v = np.mean([(joints[k, j] - joints[k - 1, j]) * fps for k in near if 0 < k < frames], 0)
            a = np.mean([(joints[k + 1, j] - 2 * joints[k, j] + joints[k - 1, j]) * fps**2
                         for k in near if 0 < k < frames - 1], 0)  # fmt: skip
            across, up, force = across + v[0] ** 2 + v[1] ** 2, up + v[2] ** 2, force + np.linalg.norm(a)
        values += [across / (frames - 1), up / (frames - 1), force / (frames - 1)]
    return values


def test_kinetic_features_are_fairmotions_and_of_known_motions_the_closed_form():
    joints = np.cumsum(np.random.default_rng(0).normal(size=(9, 24, 3)), 0)
    np.testing.assert_allclose(kinetic_features(joints, 30), slow_kinetic(joints, 30), rtol=1e-9)
    t = np.arange(60)[:, None] / 30
    glide = np.zeros((60, 24, 3))
    glide[..., 0], glide[..., 1], glide[..., 2] = 3 * t, 4 * t, 2 * t
    np.testing.assert_allclose(kinetic_features(glide, 30).reshape(24, 3), [[25, 4, 0]] * 24, atol=1e-9)
    glide[..., 2] = -9.81 * t**2 / 2
    np.testing.assert_allclose(kinetic_features(glide, 30)[2::3], 9.81, rtol=1e-6)


def standing() -> np.ndarray:
    """(4, 24, 3): a body that stands still with its arms out, looking along -Y, its right at -X."""
    rotations = torch.eye(3).repeat(4, 24, 1, 1)
    rotations[:, 0] = skeleton.STANDING
    return skeleton.forward_kinematics(rotations, torch.zeros(4, 3)).numpy().astype(np.float64)


def test_geometric_features_answer_for_poses_that_are_plain_to_see():
    arms_out = {8, 23, 24}  # hands far apart, both arms off the trunk
    assert set(np.flatnonzero(geometric_features(standing(), 30))) == arms_out
    second = np.arange(4)[:, None] / 30
    everything = slice(None)
    cases = [  # joint, how it is moved (metres, and metres a second), what becomes true
        ("right_wrist", (0.4, 0, 0.5), 0, {2}),
        ("right_wrist", (0.4, 0, -1.3), 0, {29}),
        ("right_wrist", (0, 0, 0), (0, -1, 0), {0, 12}),
        ("right_wrist", (0, 0, 0), (0, 0, 1), {4, 12}),
        ("right_wrist", (0, 0, 0), (-1, 0, 0), {10, 12}),
        ("right_wrist", (0, 0, 0), (1, 0, 0), {9, 12}),
        ("right_wrist", (0.5, 0, 0), 0, {6}),
        ("right_ankle", (0, -0.4, 0), 0, {14}),
        ("right_ankle", (0, 0, 0.5), 0, {16, 19}),
        ("right_ankle", (-0.2, 0, 0), 0, {18}),
        ("right_ankle", (0, 0, 0), (0, 1, 0), {21}),
        ("right_knee", (0, -0.5, 0.3), 0, {25}),
        ("pelvis", (0, -0.3, 0), 0, {27}),
        (everything, (0, 0, 0), (0, 1, 0), {12, 13, 21, 22, 31}),
    ]
    for joint, move, speed, expected in cases:
        joints = standing()
        which = NAMES.index(joint) if isinstance(joint, str) else joint
        joints[:, which] += (np.array(move) + second * np.array(speed)).reshape(4, *[1] * (which == everything), 3)
        true = set(np.flatnonzero(geometric_features(joints, 30)))
        assert expected <= true and len(true - arms_out - expected) <= 2, (joint, move, speed, true)
    lying = standing()[..., [0, 2, 1]]
    assert 28 in np.flatnonzero(geometric_features(lying, 30))


def test_a_mirrored_dance_exchanges_right_and_left(dances):
    exchanged = np.arange(32)
    for right, left in PAIRS:
        exchanged[[right, left]] = left, right
    for joints in dances[::4]:
        mirrored = joints[:, SWAP] * np.array([-1.0, 1, 1])
        np.testing.assert_allclose(geometric_features(mirrored, 30), geometric_features(joints, 30)[exchanged])


@pytest.mark.parametrize("metric", [FrechetKinetic(), FrechetGeometric()])
def test_frechet_distance_of_dances_grows_with_what_is_wrong(metric, dances):
    """None from itself; more, the more the joints tremble."""
    rng = np.random.default_rng(0)
    tremble = rng.normal(size=dances.shape)
    (name,) = metric.columns
    truth = [metric.measure(evidence(joints)) for joints in dances]
    course = [
        metric.combine([metric.measure(evidence(joints)) for joints in dances + size * tremble], truth)[name]
        for size in (0, 0.01, 0.03, 0.1)
    ]
    assert course[0] == pytest.approx(0, abs=1e-6) and (np.diff(course) > 0.5).all(), course


def test_each_feature_is_measured_in_its_own_spread():
    """Two features of very different size, both shifted by two of their standard deviations: 2^2 + 2^2."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 3)) * np.array([1000.0, 0.001, 0])
    shift = 2 * truth.std(0)
    metric = FrechetKinetic()
    kept = [[{"features": features} for features in given] for given in (truth + shift, truth)]
    assert metric.combine(*kept)["fid_k"] == pytest.approx(8, rel=1e-6)
