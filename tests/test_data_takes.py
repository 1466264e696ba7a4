"""Clips to evaluate on, of the world and of ready shards: picture, sound, beats and motion of exactly the same time."""

import numpy as np
import pytest
import torch

from zoo.body.render.mesh import human_names
from zoo.data.base import EvalSpec
from zoo.data.eval_clips import content_fingerprint, crop_box
from zoo.data.shard_builder.move_captions import caption
from zoo.data.shard_file import ShardReader, write_shard
from zoo.data.sources.shards import Shards
from zoo.data.world.recipe import RenderSpec
from zoo.data.world.source import World
from zoo.music.encoder import MusicEncoder, token_count

SIDE = 48


class Index(MusicEncoder):
    """The index of each token; a rate that no frame rate divides."""

    dim, rate, sample_rate, cache_key = 1, 31.25, 22050, "test-index"

    def encode(self, waveform, sample_rate, beats=None):
        return torch.arange(token_count(waveform.shape[1] / sample_rate, self.rate)).float()[None, :, None]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANCEZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def make_world():
    songs = {"train": 1, "val": 1, "test": 2}
    rendering = RenderSpec(fps=12, height=SIDE, width=SIDE, seconds=2, songs=songs)
    return World(seed=5, songs=songs, seconds=6, dances_per_song=2, rendering=rendering, workers=1)


@pytest.fixture(scope="module")
def world(cache):
    return make_world()


@pytest.fixture(scope="module")
def takes(world):
    return world.eval_clips("test", EvalSpec(24, 12, SIDE, SIDE), Index())


def test_a_take_is_one_time_of_one_song(world, takes):
    clips = ShardReader(path for path, _ in world._clip_jobs("test"))
    dances = ShardReader(path for path, _ in world._dance_jobs("test"))
    whole = {sample.key: sample for sample in dances.samples}
    assert takes.keys == [sample.key for sample in clips.samples] and len(takes) == 4 and not takes.skipped
    for index, sample in enumerate(clips.samples):
        take, start = takes[index], sample.info["start"]
        assert (take.frames == clips.read(sample, "frames")).all() and take.frames.shape == (24, SIDE, SIDE, 3)
        assert (take.reference == clips.read(sample, "reference")).all()
        np.testing.assert_array_equal(take.joints2d, clips.read(sample, "joints2d"))
        song, rate = clips.read(sample, "sound")
        first = round(start * rate)
        assert take.sample_rate == rate and (take.waveform == song[first : first + 2 * rate]).all()
        # 63 tokens begin before 2 s have passed; a clip at the very end of its song hears one from before it
        heard = take.music.features[:, 0].tolist()
        assert heard == list(range(int(heard[0]), int(heard[0]) + 63)) and abs(heard[0] - start * 31.25) <= 1
        true = np.array(sample.info["beats"]) - start
        np.testing.assert_allclose(take.beats, true[(true >= 0) & (true < 2)])
        own, other = sample.key.rsplit("-", 1)[0], sample.key.rsplit("-", 2)[0]
        other += "-1" if own.endswith("-0") else "-0"
        moved = round(start * 30)
        assert torch.equal(take.motion, torch.from_numpy(dances.read(whole[own], "motion")[moved : moved + 60]))
        assert torch.equal(
            take.second_motion, torch.from_numpy(dances.read(whole[other], "motion")[moved : moved + 60])
        )
        assert take.caption == sample.info["caption"]
        assert take.labels == takes.labels[index] and set(take.labels) == {
            "song",
            "dancer",
            "style",
            "camera",
            "move",
            "figure",
        }
        body = sample.info["look"]["body"]
        assert take.labels["figure"] == ("human" if body in human_names() else body)
        assert take.labels["move"] == next(move[2] for move in sample.info["moves"] if move[0] <= start + 1 < move[1])


def test_shorter_smaller_and_fewer(world, takes):
    cut = world.eval_clips("test", EvalSpec(5, 5, 24, 24, clips=3), Index())
    assert cut.keys == takes.keys[:3] and len(cut[:]) == 3
    whole, part = takes[2], cut[-1]
    assert part.frames.shape == (5, 24, 24, 3) and len(part.waveform) == part.sample_rate and len(part.motion) == 30
    rows = [0, 2, 5, 7, 10]  # 12 frames a second at 0, 0.2, 0.4, ... seconds
    pooled = whole.frames.reshape(24, 24, 2, 24, 2, 3).mean((2, 4))
    apart = np.abs(part.frames[:, None] - pooled).mean((2, 3, 4))
    assert apart.argmin(1).tolist() == rows and apart.min(1).max() < 5
    np.testing.assert_allclose(part.joints2d, whole.joints2d[rows] / 2, rtol=1e-5)
    np.testing.assert_array_equal(part.beats, whole.beats[whole.beats < 1])
    sample = next(one for one in world._reader("test", True).samples if one.key == part.key)
    start = sample.info["start"]
    assert part.caption == caption(sample.info["moves"], start, start + 1, sample.key)


def test_crops_carry_the_joints_along(world, takes):
    cut = EvalSpec(24, 12, 24, 24, crop="dancer")
    take = world.eval_clips("test", cut, Index())[0]
    joints = takes[0].joints2d
    box = crop_box(cut, SIDE, SIDE, joints)
    assert box[2] == box[3] <= SIDE
    np.testing.assert_allclose(take.joints2d, (joints - (box[1], box[0])) * 24 / box[2], rtol=1e-5, atol=1e-4)
    tall = world.eval_clips("test", EvalSpec(24, 12, SIDE, 24, crop="centre"), Index())[0]
    assert (tall.frames == takes[0].frames[:, :, 12:36]).all()


@pytest.mark.parametrize(
    "height, width, joints, box",
    [
        (100, 60, [(20, 30), (30, 50)], (27, 12, 26, 26)),  # 20 tall, 15 % free above and below
        (100, 60, [(0, 0), (4, 20)], (0, 0, 26, 26)),  # pushed into the picture
        (100, 60, [(0, 0), (60, 100)], (20, 0, 60, 60)),  # as large as the picture allows
        (100, 60, [(10, 40), (50, 50)], (24, 8, 43, 43)),  # wider than tall
    ],
)
def test_box_around_the_dancer(height, width, joints, box):
    spots = np.array([joints, [(np.nan, np.nan)] * 2], np.float32)
    assert crop_box(EvalSpec(2, 12, 32, 32, crop="dancer"), height, width, spots) == box


@pytest.mark.parametrize(
    "cut, words",
    [
        (EvalSpec(24, 24, SIDE, SIDE), "ask for at most 12"),
        (EvalSpec(25, 12, SIDE, SIDE), "fewer frames"),
        (EvalSpec(24, 12, SIDE, 24), "crop=centre"),
    ],
)
def test_what_was_not_filmed_is_refused_in_a_line(world, takes, cut, words):
    with pytest.raises(ValueError, match=words) as error:
        world.eval_clips("test", cut, Index())
    assert "\n" not in str(error.value)


def test_content_is_the_bytes(world, takes, tmp_path):
    assert world.fingerprint("test") == make_world().fingerprint("test") != world.fingerprint("val")
    (tmp_path / "a.tar").write_bytes(b"same")
    (tmp_path / "b.tar").write_bytes(b"same")
    first = content_fingerprint([[tmp_path / "a.tar"]])
    assert first == content_fingerprint([[tmp_path / "b.tar"]]) and len(first) == 12 and int(first, 16) >= 0
    (tmp_path / "a.tar").write_bytes(b"other")
    assert content_fingerprint([[tmp_path / "a.tar"]]) != first != content_fingerprint([[tmp_path / "b.tar"]] * 2)


def test_shards_of_other_hands(cache, tmp_path):
    """Without motion, words or known beats; what cannot be cut is named, the rest is taken."""
    frames = np.linspace(0, 255, 24 * 32 * 32 * 3).reshape(24, 32, 32, 3).astype(np.uint8)
    info = {"fps": "12", "frames": 24, "height": 32, "width": 32, "song": "s", "start": 0.5}
    sound = (0.5 * np.sin(np.arange(3 * 22050) / 20).astype(np.float32), 22050)
    good = {"info": info, "sound": sound, "frames": frames}
    short = {"info": {**info, "frames": 6}, "sound": sound, "frames": frames[:6]}
    silent = {"info": info, "frames": frames}
    samples = [("short", short), ("silent", silent), ("good", good), ("better", good), ("last", good)]
    write_shard(tmp_path / "a.tar", samples)
    source = Shards(str(tmp_path / "a.tar"), str(tmp_path / "a.tar"))
    takes = source.eval_clips("test", EvalSpec(12, 12, 32, 32, clips=2), Index())
    assert takes.keys == ["good", "better"] and [key for key, _ in takes.skipped] == ["short", "silent"]
    take = takes[0]
    assert (take.reference == take.frames[0]).all() and take.caption == "" and take.labels == {"song": "s"}
    assert take.motion is take.second_motion is take.joints2d is None
    assert ((take.beats >= 0) & (take.beats < 1)).all() and len(take.waveform) == 22050
    with pytest.raises(ValueError, match="joints2d"):
        source.eval_clips("test", EvalSpec(6, 12, 32, 32, crop="dancer"), Index())
    write_shard(tmp_path / "b.tar", samples[:-1])
    both = [Shards(str(tmp_path / name), str(tmp_path / name)).fingerprint("test") for name in ("a.tar", "b.tar")]
    assert len(set(both)) == 2


def test_second_motion_is_anothers_at_the_same_seconds(cache, tmp_path):
    """The next dance by key whose dancer is another and which has those seconds."""
    frames, sound = np.zeros((12, 32, 32, 3), np.uint8), (np.zeros(6 * 22050, np.float32), 22050)
    info = {"fps": "12", "frames": 12, "height": 32, "width": 32, "song": "s"}
    samples = []
    for number, (key, dancer, start) in enumerate(
        [("a", "1", 0.0), ("b", "1", 1.0), ("c", "2", 3.0), ("e", "2", 0.5), ("d", "3", 1.0)]
    ):
        motion = np.arange(75)[:, None] + np.zeros(151) + 1000 * number
        labels = {**info, "dancer": dancer, "start": start}
        samples.append((key, {"info": labels, "sound": sound, "frames": frames, "motion": motion}))
    write_shard(tmp_path / "a.tar", samples)
    source = Shards(str(tmp_path / "a.tar"), str(tmp_path / "a.tar"))
    takes = {take.key: take for take in source.eval_clips("test", EvalSpec(12, 12, 32, 32), Index())}
    again = {key: take.second_motion for key, take in takes.items()}
    assert again["a"] is again["c"] is None  # seconds 0 to 1 nobody else has; 3 to 4 only d, whose dance ends at 3.5
    for key, number, first in (("b", 4, 0), ("d", 3, 15), ("e", 0, 15)):
        assert again[key][:, 0].tolist() == list(range(1000 * number + first, 1000 * number + first + 30)), key
