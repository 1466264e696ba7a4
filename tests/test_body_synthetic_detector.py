"""The synthetic detector on held-out dancers; the distance of its features grows with distortions of a video."""

from fractions import Fraction

import cv2
import numpy as np
import pytest

from zoo.body.detection.factory import load_detector
from zoo.body.detection.synthetic_detector import SyntheticPoseDetector
from zoo.data.base import WindowSpec
from zoo.data.world.recipe import RenderSpec
from zoo.data.world.source import World
from zoo.metrics.base import MetricInput
from zoo.metrics.video import FvdWorld
from zoo.music.spectral import Spectral

FPS, FRAMES = 12, 32


def metric_input(frames: np.ndarray, **options) -> MetricInput:
    return MetricInput(
        "clip", {}, Fraction(FPS), frames, frames, frames[0], np.zeros(1, np.float32), 22050, np.empty(0), **options
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[dict]:
    """Eight clips of 32 frames, of songs and dancers of a seed that is not in the training data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANCEZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        songs, needs = {"train": 1, "val": 1, "test": 8}, ("frames", "parts", "joints2d")
        rendering = RenderSpec(FPS, 128, 128, seconds=FRAMES / FPS, songs=songs)
        world = World(seed=7, songs=songs, seconds=6, dances_per_song=1, rendering=rendering, workers=1)
        world.prepare_data(needs, Spectral(), ["test"])
        windows = world.dataset("test", needs, WindowSpec(FRAMES / FPS, FPS), Spectral())
        clips = [windows[index] for index in range(len(windows))]
    return [
        {
            "frames": clip["frames"].add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy(),
            "figure": clip["parts"].numpy() > 0,
            "joints": clip["joints2d"].numpy(),
        }
        for clip in clips
    ]


def test_it_is_chosen_by_its_name():
    assert isinstance(load_detector("synthetic"), SyntheticPoseDetector)


def test_joints_and_mask_are_accurate(clips):
    errors, overlap, correlations = [], [], []
    for clip in clips:
        poses = SyntheticPoseDetector().detect(clip["frames"])
        height = np.median(np.ptp(clip["joints"][..., 1], axis=1))
        errors.append(np.linalg.norm(poses.joints - clip["joints"], axis=-1) / height)
        overlap.append(((poses.mask > 0.5) & clip["figure"]).sum() / ((poses.mask > 0.5) | clip["figure"]).sum())
        correlations.append(
            np.corrcoef(*(np.linalg.norm(np.diff(x, axis=0), axis=-1).mean(1) for x in (poses.joints, clip["joints"])))[
                0, 1
            ]
        )
        assert 0.3 < poses.confidence.mean() <= 1
    assert np.mean(errors) < 0.06 and np.mean(overlap) > 0.7 and np.mean(correlations) > 0.9, (
        np.mean(errors),
        overlap,
        correlations,
    )


def test_other_image_sizes_give_joints_in_their_own_pixels(clips):
    frames = clips[0]["frames"][:4]
    wide = np.stack([cv2.copyMakeBorder(cv2.resize(f, (256, 256)), 0, 0, 40, 0, cv2.BORDER_REPLICATE) for f in frames])
    original, resized = SyntheticPoseDetector().detect(frames), SyntheticPoseDetector().detect(wide)
    assert resized.mask.shape == (4, 256, 296)
    expected = original.joints * 2 + [40, 0]
    assert np.linalg.norm(resized.joints - expected, axis=-1).mean() < 6  # of about 130 pixels that the figure is high


def test_nothing_is_detected_in_an_empty_room(clips):
    empty = np.full((3, 128, 128, 3), 120, np.uint8)
    poses = SyntheticPoseDetector().detect(np.concatenate([clips[0]["frames"][:16], empty]))
    assert np.isfinite(poses.joints[:16]).all() and np.isnan(poses.joints[16:]).all()
    assert (poses.confidence[16:] == 0).all() and poses.mask[16:].mean() < 0.004


def test_features_are_reproducible_and_shared_with_the_detector(clips):
    metric, frames = FvdWorld(), clips[1]["frames"]
    without_detector, with_detector = metric_input(frames), metric_input(frames, detector=SyntheticPoseDetector())
    first, repeated = metric.measure(without_detector)["features"], metric.measure(with_detector)["features"]
    assert first.shape == (2, 64) and first.dtype == np.float32 and (first == repeated).all()
    assert with_detector.poses.features is repeated
    with pytest.raises(ValueError, match="clips of 16 frames, not 15"):
        metric.measure(metric_input(frames[:15]))


def blur(frames, sigma, rng):
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])


def add_noise(frames, sigma, rng):
    return (frames + sigma * rng.standard_normal(frames.shape)).round().clip(0, 255).astype(np.uint8)


def shuffle(frames, fraction, rng):
    order, selected = np.arange(len(frames)), rng.permutation(len(frames))[: round(fraction * len(frames))]
    order[np.sort(selected)] = selected
    return frames[order]


def freeze(frames, fraction, rng):
    is_repeated = np.isin(
        np.arange(len(frames)), 1 + rng.permutation(len(frames) - 1)[: round(fraction * (len(frames) - 1))]
    )
    return frames[np.maximum.accumulate(np.where(is_repeated, 0, np.arange(len(frames))))]


@pytest.mark.parametrize(
    ("distortion", "levels"),
    [
        (blur, (0.5, 1, 2, 4)),
        (add_noise, (5, 10, 20, 40)),
        (shuffle, (0.25, 0.5, 0.75, 1)),
        (freeze, (0.25, 0.5, 0.75, 1)),
    ],
)
def test_the_distance_grows_with_distortions(clips, distortion, levels):
    metric = FvdWorld()
    truth = [metric.measure(metric_input(clip["frames"])) for clip in clips]
    values = [metric.combine(truth, truth)["fvd_world"]]
    for level in levels:
        row = [
            metric.measure(metric_input(distortion(clip["frames"], level, np.random.default_rng(index))))
            for index, clip in enumerate(clips)
        ]
        values.append(metric.combine(row, truth)["fvd_world"])
    assert values[0] == pytest.approx(0, abs=1e-6) and (np.diff(values) > 0).all(), values
