"""The world judge on dancers it never saw, and that its distance grows with everything that spoils a video."""

from fractions import Fraction

import cv2
import numpy as np
import pytest

from zoo.body.detection.synthetic_detector import SyntheticPoseDetector
from zoo.data.base import WindowSpec
from zoo.data.world.recipe import RenderSpec
from zoo.data.world.source import World
from zoo.metrics.base import MetricInput
from zoo.metrics.video import FvdWorld
from zoo.music.spectral import Spectral

FPS, FRAMES = 12, 32


def evidence(frames: np.ndarray, **more) -> MetricInput:
    return MetricInput(
        "clip", {}, Fraction(FPS), frames, frames, frames[0], np.zeros(1, np.float32), 22050, np.empty(0), **more
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[dict]:
    """Eight clips of 32 frames, of songs and dancers of a seed that the judge was not trained on."""
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


def test_joints_and_mask_are_where_they_are(clips):
    off, overlap, alike = [], [], []
    for clip in clips:
        poses = SyntheticPoseDetector().detect(clip["frames"])
        height = np.median(np.ptp(clip["joints"][..., 1], axis=1))
        off.append(np.linalg.norm(poses.joints - clip["joints"], axis=-1) / height)
        overlap.append(((poses.mask > 0.5) & clip["figure"]).sum() / ((poses.mask > 0.5) | clip["figure"]).sum())
        alike.append(
            np.corrcoef(*(np.linalg.norm(np.diff(x, axis=0), axis=-1).mean(1) for x in (poses.joints, clip["joints"])))[
                0, 1
            ]
        )
        assert 0.3 < poses.confidence.mean() <= 1
    assert np.mean(off) < 0.06 and np.mean(overlap) > 0.7 and np.mean(alike) > 0.9, (np.mean(off), overlap, alike)


def test_other_sizes_are_looked_at_whole_and_answered_in_their_own_pixels(clips):
    frames = clips[0]["frames"][:4]
    wide = np.stack([cv2.copyMakeBorder(cv2.resize(f, (256, 256)), 0, 0, 40, 0, cv2.BORDER_REPLICATE) for f in frames])
    here, there = SyntheticPoseDetector().detect(frames), SyntheticPoseDetector().detect(wide)
    assert there.mask.shape == (4, 256, 296)
    moved = here.joints * 2 + [40, 0]
    assert np.linalg.norm(there.joints - moved, axis=-1).mean() < 6  # of about 130 pixels that the figure is high


def test_nobody_is_found_in_an_empty_room(clips):
    empty = np.full((3, 128, 128, 3), 120, np.uint8)
    poses = SyntheticPoseDetector().detect(np.concatenate([clips[0]["frames"][:16], empty]))
    assert np.isfinite(poses.joints[:16]).all() and np.isnan(poses.joints[16:]).all()
    assert (poses.confidence[16:] == 0).all() and poses.mask[16:].mean() < 0.004


def test_one_look_serves_both_and_is_the_same_every_time(clips):
    metric, frames = FvdWorld(), clips[1]["frames"]
    alone, shared = evidence(frames), evidence(frames, detector=SyntheticPoseDetector())
    first, again = metric.measure(alone)["features"], metric.measure(shared)["features"]
    assert first.shape == (2, 64) and first.dtype == np.float32 and (first == again).all()
    assert shared.poses.features is again
    with pytest.raises(ValueError, match="16 frames; here are 15"):
        metric.measure(evidence(frames[:15]))


def blurred(frames, sigma, rng):
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])


def noisy(frames, sigma, rng):
    return (frames + sigma * rng.standard_normal(frames.shape)).round().clip(0, 255).astype(np.uint8)


def shuffled(frames, share, rng):
    order, chosen = np.arange(len(frames)), rng.permutation(len(frames))[: round(share * len(frames))]
    order[np.sort(chosen)] = chosen
    return frames[order]


def frozen(frames, share, rng):
    held = np.isin(np.arange(len(frames)), 1 + rng.permutation(len(frames) - 1)[: round(share * (len(frames) - 1))])
    return frames[np.maximum.accumulate(np.where(held, 0, np.arange(len(frames))))]


@pytest.mark.parametrize(
    ("spoil", "levels"),
    [
        (blurred, (0.5, 1, 2, 4)),
        (noisy, (5, 10, 20, 40)),
        (shuffled, (0.25, 0.5, 0.75, 1)),
        (frozen, (0.25, 0.5, 0.75, 1)),
    ],
)
def test_the_distance_grows_with_what_spoils_a_video(clips, spoil, levels):
    metric = FvdWorld()
    truth = [metric.measure(evidence(clip["frames"])) for clip in clips]
    values = [metric.combine(truth, truth)["fvd_world"]]
    for level in levels:
        row = [
            metric.measure(evidence(spoil(clip["frames"], level, np.random.default_rng(index))))
            for index, clip in enumerate(clips)
        ]
        values.append(metric.combine(row, truth)["fvd_world"])
    assert values[0] == pytest.approx(0, abs=1e-6) and (np.diff(values) > 0).all(), values
