"""The world's dances: disjoint splits, the same whatever the workers, resumed when interrupted, windows exact."""

import re

import numpy as np
import pytest
import torch

from zoo.body.skeleton import joints_of
from zoo.choreography.moves import MOVES
from zoo.data.base import SPLITS, WindowSpec
from zoo.data.module import DanceData
from zoo.data.shard_builder.move_captions import caption
from zoo.data.windows import make_dataset
from zoo.data.world.recipe import seed_of
from zoo.data.world.source import World
from zoo.music.encoder import MusicEncoder, token_count

SONGS = {"train": 9, "val": 1, "test": 1}  # nine: two shards
LOOKS = """man woman boy girl male female he she his her hair skin blond dark pale shirt t-shirt trousers pants jeans
skirt dress shoes hat clothes wearing wears red blue green black white yellow pink brown grey gray orange purple robot
bear toy cat tall short fat thin muscular background room wall camera old young""".split()


class Loudness(MusicEncoder):
    """Mean square of each thirtieth of a second, and the token's index: what a window must line up with."""

    dim, rate, sample_rate, cache_key = 2, 30.0, 22050, "test-loudness"

    def encode(self, waveform, sample_rate, beats=None):
        count = token_count(waveform.shape[1] / sample_rate, self.rate)
        padded = torch.nn.functional.pad(waveform, (0, count * 735 - waveform.shape[1]))
        return torch.stack([padded.unflatten(1, (count, 735)).square().mean(-1), torch.arange(count)[None].float()], -1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("DANCEZOO_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def world(cache):
    source = small(workers=1)
    source.prepare_data(("motion", "music", "beats"), Loudness())
    return source


def small(**settings):
    return World(seed=3, songs=SONGS, seconds=6.5, dancers={"train": 3, "val": 2, "test": 2}, **settings)


def shards(folder):
    return sorted((folder / "world").rglob("*.tar"))


def test_splits_share_no_song_and_no_dancer(world):
    infos = {split: [sample.info for sample in world._reader(split, False).samples] for split in SPLITS}
    for label in ("song", "dancer"):
        names = {split: {info[label] for info in infos[split]} for split in SPLITS}
        assert not names["train"] & names["val"] | names["train"] & names["test"] | names["val"] & names["test"]
    assert {split: len({info["song"] for info in infos[split]}) for split in SPLITS} == SONGS
    sounds = {info["sound_id"]: info["song"] for split in SPLITS for info in infos[split]}
    assert len(sounds) == sum(SONGS.values())  # no song is another one under a new name
    for first, second in zip(infos["train"][::2], infos["train"][1::2], strict=True):
        assert first["song"] == second["song"] and first["dancer"] != second["dancer"]


def test_shards_do_not_depend_on_workers_and_missing_ones_are_made(world, cache):
    paths = shards(cache)
    contents = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    assert len(paths) == 4
    lost = [path for path in paths if path.name.startswith(("train-00000", "val"))]
    for path in lost:
        path.unlink()
    small(workers=2).prepare_data(("motion",), Loudness())
    assert shards(cache) == paths
    for path in paths:
        content, time = contents[path]
        assert path.read_bytes() == content
        assert (path.stat().st_mtime_ns == time) == (path not in lost)


def test_other_settings_make_another_corpus_and_more_songs_extend_it(world, cache):
    folder = shards(cache)[0].parent
    jobs = small(mocap_folder=None, workers=1)._dance_jobs("train")
    assert all(path.parent == folder and path.is_file() for path, _ in jobs)
    assert World(seed=4, songs=SONGS, seconds=6.5)._dance_jobs("train")[0][0].parent != folder
    longer = World(seed=3, songs={**SONGS, "train": 20}, seconds=6.5, dancers={"train": 3, "val": 2, "test": 2})
    assert longer._dance_jobs("train")[0][0] == jobs[0][0] and len(longer._dance_jobs("train")) == 3


def test_windows_line_up_with_song_and_dance(world):
    needs = ("motion", "music", "beats", "joints3d", "caption", "move", "song", "music_rate", "fps")
    clip = WindowSpec(seconds=2, stride=0.5)
    data = DanceData(world, Loudness(), {"any": needs}, batch_size=5, window=clip)
    batch = next(iter(data.train_dataloader()))
    assert batch["motion"].shape == (5, 60, 151) and batch["music"].shape == (5, 60, 2) and batch["fps"] == 30.0
    samples = {sample.key: sample for sample in world._reader("train", False).samples}
    for row, name in enumerate(batch["key"]):
        key, start = name.split("@")
        first = round(30 * float(start))
        whole = torch.from_numpy(world._reader("train", False).read(samples[key], "motion"))
        assert torch.equal(batch["motion"][row], whole[first : first + 60])
        assert batch["music"][row, :, 1].tolist() == list(range(first, first + 60))
        torch.testing.assert_close(batch["joints3d"][row], joints_of(batch["motion"][row]))
        times = np.array(samples[key].info["beats"]) - float(start)
        beat_frames = [round(time * 30) for time in times if -0.5 < time * 30 < 59.5]
        assert torch.nonzero(batch["beats"][row])[:, 0].tolist() == beat_frames
        assert batch["move"][row] in MOVES and batch["song"][row] == samples[key].info["song"]
    single = data.dataset("train")[3]
    assert single["motion"].shape == (60, 151) and isinstance(single["caption"], str)


def test_frames_at_another_rate(world):
    reader = world._reader("val", False)
    from zoo.data.music_cache import MusicFeatureCache

    clip = WindowSpec(seconds=2, fps=12)
    item = make_dataset(
        reader, reader.samples, ("beats", "joints3d", "motion"), clip, "val", MusicFeatureCache(Loudness())
    )[0]
    assert item["beats"].shape == (24,) and item["joints3d"].shape == (24, 24, 3)
    torch.testing.assert_close(item["joints3d"][2], joints_of(item["motion"])[5], atol=1e-5, rtol=0)


def test_captions_say_the_motion_and_nothing_of_looks(world):
    needs = ("caption",)
    data = DanceData(world, Loudness(), {"any": needs}, batch_size=64, window=WindowSpec(seconds=2, stride=0.1))
    captions = [text for batch in data.batches() for text in batch["caption"]]
    every = captions + [move.words for move in MOVES.values()]
    words = set(re.findall(r"[a-z-]+", " ".join(every).lower()))
    assert not words & set(LOOKS)
    assert len(set(captions)) > len(captions) / 3
    second = DanceData(world, Loudness(), {"any": needs}, batch_size=64, window=WindowSpec(seconds=2, stride=0.1))
    assert captions == [text for batch in second.batches() for text in batch["caption"]]


def test_caption_names_the_moves_of_its_time_in_order():
    moves = [
        (0.0, 2.0, "kick", "left", 0.9, "kicks to the left"),
        (2.0, 4.0, "spin", "right", 0.9, "spins"),
        (4.0, 6.0, "bow", "left", 0.1, "bows"),
    ]
    text = caption(moves, 1.0, 4.1, "a")
    assert text.index("kicks") < text.index("spins") and "bows" not in text
    assert caption(moves, 4.0, 5.0, "a").split("bows")[1].strip() != caption(moves, 0, 1, "a").split("left")[1].strip()
    assert len({caption(moves, 0.0, 4.0, str(key)) for key in range(50)}) > 10


def test_seeds_belong_to_names():
    assert seed_of(1, "a", 2) == seed_of(1, "a", 2) != seed_of(1, "a", 3)


def test_wrong_settings_are_one_clear_line():
    for settings in ({"songs": {"train": 0}}, {"songs": {"all": 3}}, {"seconds": 2}, {"dances_per_song": 0}):
        with pytest.raises(ValueError, match=r"^data\.[^\n]*$"):
            World(**settings)
