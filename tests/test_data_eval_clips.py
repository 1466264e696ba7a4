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
def eval_clips(world):
    return world.eval_clips("test", EvalSpec(24, 12, SIDE, SIDE), Index())


def test_all_data_of_a_clip_belong_to_the_same_time(world, eval_clips):
    clips = ShardReader(path for path, _ in world._clip_jobs("test"))
    dances = ShardReader(path for path, _ in world._dance_jobs("test"))
    whole = {sample.key: sample for sample in dances.samples}
    assert (
        eval_clips.keys == [sample.key for sample in clips.samples] and len(eval_clips) == 4 and not eval_clips.skipped
    )
    for index, sample in enumerate(clips.samples):
        clip, start = eval_clips[index], sample.info["start"]
        assert (clip.frames == clips.read(sample, "frames")).all() and clip.frames.shape == (24, SIDE, SIDE, 3)
        assert (clip.reference == clips.read(sample, "reference")).all()
        np.testing.assert_array_equal(clip.joints2d, clips.read(sample, "joints2d"))
        song, rate = clips.read(sample, "sound")
        first = round(start * rate)
        assert clip.sample_rate == rate and (clip.waveform == song[first : first + 2 * rate]).all()
        # 63 tokens begin before 2 s have passed; a clip at the very end of its song hears one from before it
        tokens = clip.music.features[:, 0].tolist()
        assert tokens == list(range(int(tokens[0]), int(tokens[0]) + 63)) and abs(tokens[0] - start * 31.25) <= 1
        true = np.array(sample.info["beats"]) - start
        np.testing.assert_allclose(clip.beats, true[(true >= 0) & (true < 2)])
        own_key, second_key = sample.key.rsplit("-", 1)[0], sample.key.rsplit("-", 2)[0]
        second_key += "-1" if own_key.endswith("-0") else "-0"
        moved = round(start * 30)
        assert torch.equal(clip.motion, torch.from_numpy(dances.read(whole[own_key], "motion")[moved : moved + 60]))
        assert torch.equal(
            clip.second_motion, torch.from_numpy(dances.read(whole[second_key], "motion")[moved : moved + 60])
        )
        assert clip.caption == sample.info["caption"]
        assert clip.labels == eval_clips.labels[index] and set(clip.labels) == {
            "song",
            "dancer",
            "style",
            "camera",
            "move",
            "figure",
        }
        body = sample.info["look"]["body"]
        assert clip.labels["figure"] == ("human" if body in human_names() else body)
        assert clip.labels["move"] == next(move[2] for move in sample.info["moves"] if move[0] <= start + 1 < move[1])


def test_shorter_smaller_and_fewer_clips(world, eval_clips):
    cut = world.eval_clips("test", EvalSpec(5, 5, 24, 24, clips=3), Index())
    assert cut.keys == eval_clips.keys[:3] and len(cut[:]) == 3
    whole, part = eval_clips[2], cut[-1]
    assert part.frames.shape == (5, 24, 24, 3) and len(part.waveform) == part.sample_rate and len(part.motion) == 30
    rows = [0, 2, 5, 7, 10]  # 12 frames a second at 0, 0.2, 0.4, ... seconds
    pooled = whole.frames.reshape(24, 24, 2, 24, 2, 3).mean((2, 4))
    difference = np.abs(part.frames[:, None] - pooled).mean((2, 3, 4))
    assert difference.argmin(1).tolist() == rows and difference.min(1).max() < 5
    np.testing.assert_allclose(part.joints2d, whole.joints2d[rows] / 2, rtol=1e-5)
    np.testing.assert_array_equal(part.beats, whole.beats[whole.beats < 1])
    sample = next(item for item in world._reader("test", True).samples if item.key == part.key)
    start = sample.info["start"]
    assert part.caption == caption(sample.info["moves"], start, start + 1, sample.key)


def test_crops_carry_the_joints_along(world, eval_clips):
    cut = EvalSpec(24, 12, 24, 24, crop="dancer")
    clip = world.eval_clips("test", cut, Index())[0]
    joints = eval_clips[0].joints2d
    box = crop_box(cut, SIDE, SIDE, joints)
    assert box[2] == box[3] <= SIDE
    np.testing.assert_allclose(clip.joints2d, (joints - (box[1], box[0])) * 24 / box[2], rtol=1e-5, atol=1e-4)
    tall = world.eval_clips("test", EvalSpec(24, 12, SIDE, 24, crop="centre"), Index())[0]
    assert (tall.frames == eval_clips[0].frames[:, :, 12:36]).all()


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
def test_unavailable_clips_are_refused_in_one_line(world, eval_clips, cut, words):
    with pytest.raises(ValueError, match=words) as error:
        world.eval_clips("test", cut, Index())
    assert "\n" not in str(error.value)


def test_the_fingerprint_covers_the_bytes(world, eval_clips, tmp_path):
    assert world.fingerprint("test") == make_world().fingerprint("test") != world.fingerprint("val")
    (tmp_path / "a.tar").write_bytes(b"same")
    (tmp_path / "b.tar").write_bytes(b"same")
    first = content_fingerprint([[tmp_path / "a.tar"]])
    assert first == content_fingerprint([[tmp_path / "b.tar"]]) and len(first) == 12 and int(first, 16) >= 0
    (tmp_path / "a.tar").write_bytes(b"other")
    assert content_fingerprint([[tmp_path / "a.tar"]]) != first != content_fingerprint([[tmp_path / "b.tar"]] * 2)


def test_shards_of_other_programs(cache, tmp_path):
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
    eval_clips = source.eval_clips("test", EvalSpec(12, 12, 32, 32, clips=2), Index())
    assert eval_clips.keys == ["good", "better"] and [key for key, _ in eval_clips.skipped] == ["short", "silent"]
    clip = eval_clips[0]
    assert (clip.reference == clip.frames[0]).all() and clip.caption == "" and clip.labels == {"song": "s"}
    assert clip.motion is clip.second_motion is clip.joints2d is None
    assert ((clip.beats >= 0) & (clip.beats < 1)).all() and len(clip.waveform) == 22050
    with pytest.raises(ValueError, match="joints2d"):
        source.eval_clips("test", EvalSpec(6, 12, 32, 32, crop="dancer"), Index())
    write_shard(tmp_path / "b.tar", samples[:-1])
    fingerprints = [
        Shards(str(tmp_path / name), str(tmp_path / name)).fingerprint("test") for name in ("a.tar", "b.tar")
    ]
    assert len(set(fingerprints)) == 2


def test_a_crop_without_a_dancer_is_skipped_and_a_reference_of_another_size_is_cropped(cache, tmp_path):
    frames, sound = np.zeros((12, 32, 32, 3), np.uint8), (np.zeros(2 * 22050, np.float32), 22050)
    joints = np.tile(np.array([[10, 8], [14, 24]], np.float32), (12, 1, 1))
    reference = np.zeros((64, 40, 3), np.uint8)
    reference[12:52] = 200  # its central square
    sample = {
        "info": {"fps": "12", "frames": 12, "height": 32, "width": 32, "song": "s"},
        "sound": sound, "frames": frames, "joints2d": joints, "reference": reference,
    }  # fmt: skip
    write_shard(tmp_path / "a.tar", [("undetected", sample | {"joints2d": joints * np.nan}), ("good", sample)])
    source = Shards(str(tmp_path / "a.tar"), str(tmp_path / "a.tar"))
    eval_clips = source.eval_clips("test", EvalSpec(12, 12, 24, 24, crop="dancer"), Index())
    assert eval_clips.keys == ["good"] and "no dancer" in eval_clips.skipped[0][1]
    assert (eval_clips[0].reference == 200).all()


def test_second_motion_is_of_another_dancer_at_the_same_seconds(cache, tmp_path):
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
    eval_clips = {clip.key: clip for clip in source.eval_clips("test", EvalSpec(12, 12, 32, 32), Index())}
    second_motions = {key: clip.second_motion for key, clip in eval_clips.items()}
    assert (
        second_motions["a"] is second_motions["c"] is None
    )  # seconds 0 to 1 nobody else has; 3 to 4 only d, whose dance ends at 3.5
    for key, number, first in (("b", 4, 0), ("d", 3, 15), ("e", 0, 15)):
        assert second_motions[key][:, 0].tolist() == list(range(1000 * number + first, 1000 * number + first + 30)), key
