"""Rendered clips: every key of the contract, aligned maps, and a reference from outside the clip."""

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from zoo.batch import Batch
from zoo.body.labels import JOINT_LIMB, PARTS
from zoo.data.base import SPLITS, WindowSpec
from zoo.data.module import DanceData
from zoo.data.sources.shards import Shards
from zoo.data.world.recipe import RenderSpec
from zoo.data.world.scene import make_scene
from zoo.data.world.source import World
from zoo.music.encoder import MusicEncoder, token_count

SIDE, FRAMES = 96, 24
KEYS = tuple(sorted(Batch.__annotations__))
LIMB_OF_PART = {int(part): limb for limb, rows in enumerate(PARTS) for part in rows.flat}
# joints deep in a long limb's end: the picture there shows one of the two limbs that meet in it
MEETING = {4: {4, 5}, 5: {4, 5}, 15: {1}, 16: {0, 6}, 17: {0, 6}, 18: {6, 7}, 19: {6, 7}, 7: {3, 5}, 8: {3, 5}}


class Index(MusicEncoder):
    """The index of each token."""

    dim, rate, sample_rate, cache_key = 1, 30.0, 22050, "test-index"

    def encode(self, waveform, sample_rate, beats=None):
        return torch.arange(token_count(waveform.shape[1] / sample_rate, self.rate)).float()[None, :, None]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANCEZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        songs = {"train": 4, "val": 1, "test": 1}
        rendering = RenderSpec(fps=12, height=SIDE, width=SIDE, seconds=2, songs=songs)
        source = World(seed=5, songs=songs, seconds=6, dances_per_song=1, rendering=rendering, workers=1)
        source.prepare_data(KEYS, Index())
        yield source


@pytest.fixture(scope="module")
def batch(world):
    data = DanceData(
        world, Index(), {"any": KEYS}, batch_size=4, window=WindowSpec(seconds=2, fps=12, height=SIDE, width=SIDE)
    )
    return next(data.batches())


def test_every_key_of_the_contract_with_its_shape_and_range(batch):
    assert set(batch) == set(KEYS)
    B, F, H, W = 4, FRAMES, SIDE, SIDE
    shapes = {
        "reference": (B, 3, H, W),
        "frames": (B, F, 3, H, W),
        "frame_indices": (B, F),
        "music": (B, 60, 1),
        "beats": (B, F),
        "beat_phase": (B, F, 2),
        "motion": (B, 60, 151),
        "parts": (B, F, H, W),
        "semantic": (B, F, H, W),
        "depth": (B, F, H, W),
        "normal": (B, F, 3, H, W),
        "skeleton": (B, F, 3, H, W),
        "heatmaps": (B, F, 24, H // 4, W // 4),
        "joints2d": (B, F, 24, 2),
        "joints3d": (B, F, 24, 3),
    }
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            assert value.shape == shapes[name], name
        else:
            assert value in (12.0, 30.0) if name in ("fps", "music_rate") else len(value) == B
    for name in ("reference", "frames", "normal", "skeleton"):
        assert batch[name].dtype == torch.float32 and batch[name].abs().max() <= 1
    for name in ("depth", "heatmaps"):
        assert batch[name].dtype == torch.float32 and batch[name].min() == 0 and 0.9 < batch[name].max() <= 1
    assert batch["parts"].dtype == batch["semantic"].dtype == torch.uint8 and batch["parts"].max() <= 24


def test_maps_cover_the_same_pixels(batch):
    body = batch["parts"] > 0
    assert 0.01 < body.float().mean() < 0.6
    assert torch.equal(body, batch["semantic"] > 0) and torch.equal(body, batch["depth"] > 0)
    assert (body == (batch["normal"].abs().sum(2) > 0)).float().mean() > 0.9999
    lengths = batch["normal"].norm(dim=2)[body]
    assert (lengths - 1).abs().max() < 0.02


def test_a_joints_pixel_has_that_joints_part(batch):
    """Within its limbs where nothing is in front of it; a shift of a few pixels loses it."""

    def hit_rate(shift):
        hits = []
        for joint, limbs in MEETING.items():
            assert JOINT_LIMB[joint] in limbs
            x, y = (batch["joints2d"][..., joint, :] + shift).floor().long().unbind(-1)
            for clip, frame in np.ndindex(*x.shape):
                if 0 <= x[clip, frame] < SIDE and 0 <= y[clip, frame] < SIDE:
                    part = int(batch["parts"][clip, frame, y[clip, frame], x[clip, frame]])
                    hits.append(LIMB_OF_PART.get(part) in limbs)
        return np.mean(hits)

    aligned = hit_rate(torch.zeros(2))
    assert aligned > 0.75
    for shift in ([5, 0], [-5, 0], [0, 5], [0, -5]):
        assert hit_rate(torch.tensor(shift)) < aligned - 0.15


def test_skeleton_and_heatmaps_show_the_joints(batch):
    joints = batch["joints2d"]
    is_inside = ((joints > 4) & (joints < SIDE - 4)).all(-1)
    peak = batch["heatmaps"].flatten(-2).argmax(-1)
    peaks = torch.stack([peak % (SIDE // 4), peak // (SIDE // 4)], -1) * 4 + 2
    assert (peaks - joints).abs()[is_inside].max() <= 2.1
    for clip, frame, joint in torch.nonzero(is_inside)[::29].tolist():
        x, y = joints[clip, frame, joint].floor().long().tolist()
        assert batch["skeleton"][clip, frame, :, y, x].max() > -0.5


def test_frames_show_the_body_before_its_backdrop(world, batch):
    samples = {sample.key: sample for sample in world._reader("train", True).samples}
    for clip, name in enumerate(batch["key"]):
        info = samples[name.split("@")[0]].info
        scene = make_scene(world.dance_spec.seed, name.split("@")[0], info["dancer"], np.zeros((1, 3)), SIDE, SIDE)
        assert scene.camera_name == batch["camera"][clip] and scene.backdrop == info["backdrop"]
        difference = (batch["frames"][clip] + 1) * 127.5 - torch.from_numpy(scene.backdrop_image).movedim(-1, 0)
        for frame in range(0, FRAMES, 8):
            body = batch["parts"][clip, frame].numpy() > 0
            contrast = difference[frame].abs().amax(0).numpy()
            lower = np.arange(SIDE)[:, None] > SIDE / 2  # the upper half has no shadow
            assert np.median(contrast[body]) > 3 * np.median(contrast[~binary_dilation(body, iterations=3) & ~lower])


def test_reference_is_the_dancer_outside_the_clip(world, batch):
    for sample in world._reader("train", True).samples:
        start, time = sample.info["start"], sample.info["reference_time"]
        assert 0 <= time < 6 and not start <= time < start + 2
    nearest = (batch["frames"] - batch["reference"][:, None]).abs().mean((2, 3, 4)).min(1).values
    assert (nearest > 1e-3).all() and (nearest < 0.15).all()  # another moment of the same scene


def test_sound_motion_and_frames_tell_the_same_time(world, batch):
    for clip, name in enumerate(batch["key"]):
        info = {sample.key: sample for sample in world._reader("train", True).samples}[name.split("@")[0]].info
        first = round(info["start"] * 30)
        assert batch["music"][clip, :, 0].tolist() == list(range(first, first + 60))
        beats = [round((time - info["start"]) * 12) for time in info["beats"]]
        assert torch.nonzero(batch["beats"][clip])[:, 0].tolist() == [beat for beat in beats if 0 <= beat < FRAMES]
        times = info["start"] + np.arange(FRAMES) / 12
        turns = 2 * np.pi * np.interp(times, info["beats"], np.arange(len(info["beats"])))
        np.testing.assert_allclose(batch["beat_phase"][clip], np.stack([np.cos(turns), np.sin(turns)], 1), atol=1e-5)
        dances = world._reader("train", False)
        whole = {sample.key: sample for sample in dances.samples}[name.rsplit("-", 1)[0]]
        assert torch.equal(batch["motion"][clip], torch.from_numpy(dances.read(whole, "motion")[first : first + 60]))
        lift = batch["joints3d"][clip, ::2, 0, 2] - batch["motion"][clip, ::5, 6]
        scale = batch["joints3d"][clip, ::2, 0, 2] / batch["motion"][clip, ::5, 6]
        assert lift.std() < 0.02 or scale.std() < 0.02  # the pelvis goes up and down with the motion's


def test_splits_share_no_dancer(world):
    dancers = [{sample.info["dancer"] for sample in world._reader(split, True).samples} for split in SPLITS]
    assert all(dancers) and not dancers[0] & dancers[1] and not dancers[0] & dancers[2] and not dancers[1] & dancers[2]


def test_smaller_pictures_and_fewer_frames(world, batch):
    clip = WindowSpec(seconds=2, fps=6, height=48, width=48)
    small = next(DanceData(world, Index(), {"any": KEYS}, batch_size=4, window=clip).batches())
    assert small["frames"].shape == (4, 12, 3, 48, 48) and small["heatmaps"].shape == (4, 12, 24, 12, 12)
    torch.testing.assert_close(small["joints2d"], batch["joints2d"][:, ::2] / 2)
    torch.testing.assert_close(small["joints3d"], batch["joints3d"][:, ::2])
    pooled = torch.nn.functional.avg_pool2d(batch["frames"][:, ::2].flatten(0, 1), 2).unflatten(0, (4, 12))
    assert (small["frames"] - pooled).abs().mean() < 0.02
    assert (small["parts"] == batch["parts"][:, ::2, 1::2, 1::2]).float().mean() > 0.97
    for wrong in ({"fps": 24}, {"height": 64, "width": 96}):
        with pytest.raises(ValueError, match="ask for"):
            DanceData(
                world, Index(), {"any": KEYS}, 4, window=WindowSpec(**{"seconds": 2, "fps": 12, **wrong})
            ).train_dataloader()


def test_the_cache_of_decoded_frames_is_bounded_in_bytes(world, monkeypatch):
    """Frames of 24 x SIDE x SIDE x 3 bytes are kept as long as the bytes before them are below the bound."""
    window = WindowSpec(seconds=2, fps=12, height=SIDE, width=SIDE, decoded_cache_size=100)
    cached = {}
    for bound in (1, 2**30):
        monkeypatch.setattr("zoo.data.windows.DECODED_CACHE_BYTES", bound)
        dataset = world.dataset("train", ("frames",), window, Index())
        clips = {dataset[index]["key"] for index in range(len(dataset))}
        cached[bound] = len(dataset._decoded)
        decoded_bytes = sum(values.nbytes for fields in dataset._decoded.values() for values in fields.values())
        assert dataset._decoded_bytes == decoded_bytes > 0
    assert cached == {1: 1, 2**30: len(clips)} and len(clips) > 1


def test_picked_frames_are_the_windows_own_and_drawn_anew_in_every_epoch(world):
    needs = ("frames", "joints2d", "parts", "frame_indices")
    clip = {"seconds": 2, "fps": 12, "height": SIDE, "width": SIDE}
    whole = world.dataset("train", needs, WindowSpec(**clip), Index())
    data = DanceData(
        world,
        Index(),
        {"any": needs},
        batch_size=1,
        window=WindowSpec(**clip, num_sampled_frames=5, decoded_cache_size=1),
    )
    count, orders = len(whole), {}
    for batch in itertools.islice(data.train_dataloader(), 2 * count):
        (key,) = batch["key"]
        item = next(item for item in whole if item["key"] == key)
        frames = [int((item["joints2d"] == joints).all((1, 2)).nonzero()) for joints in batch["joints2d"][0]]
        assert len(set(frames)) == 5
        assert batch["frame_indices"].tolist() == [frames]
        for name in needs:
            assert torch.equal(batch[name][0], item[name][frames])
        orders.setdefault(key, []).append(frames)
    assert len(orders) == count and all(first != second for first, second in orders.values())
    assert len(data.dataset("train")._decoded) == 1
    first_epoch, second_epoch = (next(iter(data.train_dataloader())) for _ in range(2))
    assert torch.equal(first_epoch["joints2d"], second_epoch["joints2d"])
    with pytest.raises(ValueError, match=r"clip\.num_sampled_frames=25 of a clip of 24 frames"):
        WindowSpec(**clip, num_sampled_frames=25)


def test_the_shards_serve_as_shards(world):
    paths = [path for path, _ in world._clip_jobs("train")]
    source = Shards([str(path) for path in paths])
    assert source.available_keys == set(KEYS)
    source.prepare_data(KEYS, Index())
    clip = WindowSpec(seconds=2, fps=12, height=SIDE, width=SIDE)
    data = DanceData(source, Index(), {"any": KEYS}, batch_size=2, window=clip)
    assert len(data.dataset("train")) == 3 and len(data.dataset("val")) == 1
    assert next(iter(data.train_dataloader()))["frames"].shape == (2, FRAMES, 3, SIDE, SIDE)
