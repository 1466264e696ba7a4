"""Optical flow and AV-Align against motion and sound that are known."""

from fractions import Fraction

import cv2
import numpy as np
import pytest

from zoo.metrics.base import MetricInput
from zoo.metrics.flow import AVAlign, av_align, detect_onsets, flow_magnitude, flow_peaks

FPS, RATE = 12, 22050


def moving(places: np.ndarray, side: int = 128) -> np.ndarray:
    """A textured scene seen through a window that stands at `places` (F,) pixels from the left."""
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.uniform(0, 255, (side, 3 * side)).astype(np.float32), (0, 0), 3)
    scene = (scene - scene.min()) / np.ptp(scene) * 255
    frames = []
    for place in places:
        shift = np.array([[1, 0, -float(side + place)], [0, 1, 0]])
        frames.append(cv2.warpAffine(scene, shift, (side, side), flags=cv2.INTER_LINEAR))
    return np.repeat(np.stack(frames).round().astype(np.uint8)[..., None], 3, -1)


def clicks(times: np.ndarray, seconds: float = 4.0) -> np.ndarray:
    sound = np.zeros(round(seconds * RATE), np.float32)
    for time in times:
        first = round(time * RATE)
        sound[first : first + 800] = np.random.default_rng(0).normal(0, 0.5, len(sound[first : first + 800]))
    return sound


@pytest.mark.parametrize("flow", ["dis", "farneback"])
def test_flow_is_as_long_as_the_motion_and_peaks_when_it_is_fastest(flow):
    steady = flow_magnitude(moving(np.arange(5) * 2.0), flow)
    np.testing.assert_allclose(steady, 2, rtol=0.15)
    assert flow_magnitude(moving(np.zeros(4)), flow).max() < 0.005
    t = np.arange(48) / FPS
    swing = moving(8 * np.cos(2 * np.pi * t / 2))  # fastest at 0.5, 1.5, 2.5, 3.5 s
    peaks = flow_peaks(flow_magnitude(swing, flow), FPS)
    nearest = np.abs(peaks[:, None] - np.array([0.5, 1.5, 2.5, 3.5])).min(0)
    assert nearest.max() <= 1.01 / FPS and len(peaks) <= 6, peaks


def test_the_number_of_threads_changes_nothing():
    frames, before = moving(np.arange(6) ** 1.5), cv2.getNumThreads()
    values = []
    for threads in (1, 4):
        cv2.setNumThreads(threads)
        values.append(flow_magnitude(frames))
    cv2.setNumThreads(before)
    np.testing.assert_array_equal(*values)


def test_intersection_over_union_by_hand():
    video = np.array([1.0, 2.0, 3.0])
    assert av_align(video, video, FPS) == 1
    assert av_align(video + 0.9 / FPS, video, FPS) == 1
    assert av_align(video + 1.1 / FPS, video, FPS) == 0
    assert av_align(np.array([1.0, 1.5]), video, FPS) == pytest.approx(1 / 4)
    assert av_align(np.empty(0), video, FPS) == 0 and np.isnan(av_align(np.empty(0), np.empty(0), FPS))
    np.testing.assert_allclose(flow_peaks(np.array([1.0, 3, 2, 2, 5, 5, 4, 6, 1]), FPS), [2 / FPS, 8 / FPS])


@pytest.mark.parametrize("rate", [22050, 16000])
def test_onsets_are_where_it_clicks(rate):
    times = np.array([0.5, 1.1, 1.9, 3.0])
    sound = clicks(times)
    sound = np.interp(np.arange(4 * rate) / rate, np.arange(len(sound)) / RATE, sound).astype(np.float32)
    np.testing.assert_allclose(detect_onsets(sound, rate), times, atol=0.035)


@pytest.mark.parametrize("flow", ["dis", "farneback"])
def test_av_align_is_high_for_sound_with_the_motion_and_low_for_sound_beside_it(flow):
    t = np.arange(48) / FPS
    frames = moving(8 * np.cos(2 * np.pi * t / 2))

    def score(sound: np.ndarray, seen: np.ndarray = frames) -> float:
        clip = MetricInput("clip", {}, Fraction(FPS), seen, seen, seen[0], sound, RATE, np.empty(0))
        return float(AVAlign(flow).measure(clip)["av_align"])

    fastest = flow_peaks(flow_magnitude(frames, flow), FPS)
    assert score(clicks(fastest)) > 0.7
    assert score(clicks(np.array([1.0, 2.0, 3.0]))) < 0.15
    assert score(clicks(fastest), np.repeat(frames[:1], 48, 0)) == 0


def test_an_unknown_flow_is_refused_in_one_line():
    with pytest.raises(ValueError, match="flow=raft: use dis or farneback"):
        AVAlign("raft")
