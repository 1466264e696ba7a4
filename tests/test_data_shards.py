"""Shards: every field comes back, damage is named, reading is by place."""

import json
import os
import pickle
import resource

import numpy as np
import pytest
from webdataset.writer import TarWriter

from zoo.data import shard_file
from zoo.data.base import WindowSpec
from zoo.data.module import DanceData
from zoo.data.music_cache import MusicFeatureCache
from zoo.data.sample_format import EXTENSIONS, MAPS, encode_sample
from zoo.data.shard_file import ShardReader, write_shard
from zoo.data.sources.shards import Shards, expand
from zoo.data.windows import available_keys_of, make_dataset
from zoo.music.spectral import Spectral

F, H, W = 5, 32, 48


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))


def sample(seed=0):
    """One of every field."""
    rng = np.random.default_rng(seed)
    smooth = np.linspace(0, 255, F * H * W * 3).reshape(F, H, W, 3).astype(np.uint8)
    return {
        "info": {"fps": "12", "song": f"song-{seed}", "dancer": "d", "moves": [[0, 1, "kick", "left", 0.5, "kicks"]]},
        "sound": (0.5 * np.sin(np.arange(22050) / 20).astype(np.float32), 22050),
        "motion": rng.normal(size=(20, 151)).astype(np.float32),
        "frames": smooth,
        "reference": rng.integers(0, 256, (H, W, 3), np.uint8),
        "parts": rng.integers(0, 25, (F, H, W), np.uint8),
        "semantic": rng.integers(0, 9, (F, H, W), np.uint8),
        "depth": rng.random((F, H, W), np.float32),
        "normal": rng.uniform(-1, 1, (F, H, W, 3)).astype(np.float32),
        "skeleton": rng.integers(0, 256, (F, H, W, 3), np.uint8),
        "heatmaps": rng.random((F, 24, H // 4, W // 4), np.float32),
        "joints2d": rng.normal(size=(F, 24, 2)).astype(np.float32),
        "joints3d": rng.normal(size=(F, 24, 3)).astype(np.float32),
    }


def test_every_field_comes_back(tmp_path):
    fields = sample()
    write_shard(tmp_path / "a.tar", [("one", fields), ("two", sample(1))])
    reader = pickle.loads(pickle.dumps(ShardReader([tmp_path / "a.tar"])))  # as a loader process gets it
    first = reader.samples[0]
    assert [item.key for item in reader.samples] == ["one", "two"]
    assert set(first.byte_ranges) == set(EXTENSIONS) == set(fields)
    assert first.info.items() >= fields["info"].items()
    tolerance = {"depth": 1e-5, "normal": 0.5 / 127 + 1e-6, "heatmaps": 0.5 / 255 + 1e-6}
    for field in set(MAPS) | {"motion", "joints2d", "joints3d", "reference"}:
        np.testing.assert_allclose(reader.read(first, field), fields[field], atol=tolerance.get(field, 0), rtol=0)
    assert np.abs(reader.read(first, "frames").astype(int) - fields["frames"]).mean() < 2
    wave, rate = reader.read(first, "sound")
    assert rate == 22050
    np.testing.assert_allclose(wave, fields["sound"][0], atol=1e-4)


def test_writing_is_reproducible_and_all_or_nothing(tmp_path):
    for name in "ab":
        write_shard(tmp_path / f"{name}.tar", [("one", sample())])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()

    def broken():
        yield "one", sample()
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "c.tar", broken())
    assert sorted(path.name for path in tmp_path.glob("*")) == ["a.tar", "b.tar"]


def test_damage_is_named(tmp_path):
    path = tmp_path / "a.tar"
    write_shard(path, [("one", sample()), ("two", sample(1))])
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-10240], b"", b"not a tar" * 200):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"shard .*a\.tar cannot be read|a\.tar is not one of DanceZoo's"):
            ShardReader([path])
    with pytest.raises(ValueError, match=r"gone\.tar does not exist"):
        ShardReader([tmp_path / "gone.tar"])
    path.write_bytes(whole)
    reader = ShardReader([path])
    offset, size = reader.samples[1].byte_ranges["depth"]
    path.write_bytes(whole[:offset] + bytes(size) + whole[offset + size :])
    with pytest.raises(ValueError, match=r"a\.tar: two\.depth\.npz is damaged"):
        reader.read(reader.samples[1], "depth")


@pytest.mark.parametrize("keys", [("motion", "music"), ("frames", "music")])
def test_a_training_names_and_leaves_out_what_is_damaged_and_an_evaluation_refuses_it(tmp_path, capsys, keys):
    """A truncated and an empty shard, a NaN in a motion, a silent sound, a video without frames or with too few."""
    fields = {f"k{index}": sample(index) for index in range(10)}
    for values in fields.values():
        values["info"] |= {"frames": F, "height": H, "width": W}
    fields["k1"]["motion"][3, 7] = np.nan
    fields["k2"]["sound"] = np.zeros(22050, np.float32), 22050
    fields["k3"]["info"]["frames"] = 0
    fields["k4"]["frames"] = fields["k4"]["frames"][:2]
    for name, names in (("a", ["k0", "k1", "k2", "k3", "k4", "k5"]), ("b", ["k6"]), ("c", []), ("d", ["k7", "k8"])):
        write_shard(tmp_path / f"{name}.tar", [(key, fields[key]) for key in names])
    write_shard(tmp_path / "val.tar", [("k9", fields["k9"])])
    whole = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: len(whole) // 2])
    source = Shards(str(tmp_path / "{a,b,c,d}.tar"), str(tmp_path / "val.tar"))
    window = WindowSpec(num_frames=F, fps=12, height=H, width=W)
    data = DanceData(source, Spectral(), {"stage": keys}, 5, window)
    data.prepare_data()
    loader = iter(data.train_dataloader())
    seen = {name.partition("@")[0] for _ in range(6) for name in next(loader)["key"]}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    images = "frames" in keys
    damage = ["b.tar cannot be read", "c.tar has no sample", "k2.flac is silent"]
    damage += ["k3.json: the video has no frames", "k4.mp4 has 2 frames"] if images else ["k1.motion.npy is damaged"]
    assert seen == {"k0", "k5", "k7", "k8"} | ({"k1"} if images else {"k3", "k4"})
    assert sorted(line.split(":")[0] for line in lines) == [f"left out ({n + 1})" for n in range(len(damage))], lines
    assert all(sum(text in line for line in lines) == 1 for text in damage), lines
    with pytest.raises(ValueError, match=r"b\.tar cannot be read"):
        source.fingerprint("train")


def test_more_shards_than_open_files(tmp_path, monkeypatch):
    """The bound holds, and reading goes on."""
    monkeypatch.setattr(shard_file, "MAX_OPEN_SHARDS", 3)
    for index in range(8):
        write_shard(tmp_path / f"{index}.tar", [(f"k{index}", {"info": sample(index)["info"]})])
    reader = ShardReader(sorted(tmp_path.glob("*.tar")))
    before = len(os.listdir("/proc/self/fd"))
    songs = [reader.read(item, "info")["song"] for item in (*reader.samples, *reader.samples)]
    assert songs == [f"song-{index}" for index in range(8)] * 2
    assert len(os.listdir("/proc/self/fd")) - before == 3


def test_a_loader_reads_more_shards_than_a_process_may_open(tmp_path):
    """Of videos in a loader process and of motions in memory, where as many files may be open as there are shards."""
    values = {name: sample()[name] for name in ("info", "motion", "frames")}
    values["info"] |= {"frames": F, "height": H, "width": W}
    write_shard(tmp_path / "source", [("k", values)])
    for index in range(200):
        os.link(tmp_path / "source", tmp_path / f"{index:03d}.tar")
    source = Shards(str(tmp_path / "*.tar"), str(tmp_path / "000.tar"))
    window = WindowSpec(num_frames=F, fps=12, height=H, width=W)
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard_limit))
    try:
        for key in ("frames", "motion"):
            data = DanceData(source, Spectral(), {"stage": [key]}, 25, window, num_workers=1)
            loader = iter(data.train_dataloader())
            assert sum(len(next(loader)[key]) for _ in range(8)) == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard_limit))


def test_braces_and_addresses():
    assert [path.name for path in expand("x/a-{008..011}.tar")] == ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]
    with pytest.raises(ValueError, match="not on this machine"):
        expand("https://example.org/a.tar")


def test_songs_are_held_out_and_keys_known(tmp_path):
    for shard in range(2):
        write_shard(tmp_path / f"s-{shard}.tar", [(f"k{shard}{i}", {"info": sample(i)["info"]}) for i in range(4)])
    source = Shards(str(tmp_path / "s-{0..1}.tar"))
    songs = {split: {item.info["song"] for item in source._samples(split)} for split in ("train", "val", "test")}
    assert len(songs["train"]) == 3 and songs["val"] == songs["test"] and not songs["train"] & songs["val"]
    assert source.available_keys == {"key", "fps", "song", "dancer", "caption", "move"}


def test_windows_that_the_frames_cannot_give_are_refused_by_the_index_alone(tmp_path):
    samples = [sample(index) for index in range(3)]
    for fields in samples:
        fields["info"] |= {"frames": F, "height": H, "width": W}
    write_shard(tmp_path / "a.tar", [(f"k{index}", fields) for index, fields in enumerate(samples)])
    source = Shards(str(tmp_path / "a.tar"))
    usable = {"num_frames": F, "fps": 12, "height": H, "width": W}
    source.check_window(("frames",), WindowSpec(**usable))
    source.check_window(("motion",), WindowSpec(seconds=1000))
    for change, words in (
        ({"fps": 13}, "is above the 12 of"),
        ({"num_frames": F + 1}, "less than the"),
        ({"width": 2 * W}, "without distortion"),
    ):
        with pytest.raises(ValueError, match=words):
            source.check_window(("frames",), WindowSpec(**usable | change))


def test_an_empty_shard_has_no_samples(tmp_path):
    write_shard(tmp_path / "a.tar", [])
    assert ShardReader([tmp_path / "a.tar"]).samples == []
    with pytest.raises(ValueError, match=r"a\.tar has no sample"):
        _ = Shards(str(tmp_path / "a.tar")).available_keys


def test_info_is_plain_json(tmp_path):
    write_shard(tmp_path / "a.tar", [("one", sample())])
    reader = ShardReader([tmp_path / "a.tar"])
    assert json.loads(reader.read_bytes(reader.samples[0], "info"))["moves"][0][2] == "kick"


def test_shards_of_other_programs_need_few_fields(tmp_path):
    """A sound, a motion and two labels; beats and the sound's name are found."""
    files = encode_sample({name: sample()[name] for name in ("info", "sound", "motion")})
    plain = {**files, "json": b'{"fps": 30, "song": "mine"}', "notes.txt": b"not ours"}
    with open(tmp_path / "a.tar", "wb") as file, TarWriter(file, encoder=False) as writer:
        for key in ("one", "two"):
            writer.write({"__key__": f"v1.0/{key}", **plain})
    reader = ShardReader([tmp_path / "a.tar"])
    assert available_keys_of(reader.samples[0]) == {
        "key",
        "fps",
        "song",
        "motion",
        "joints3d",
        "music",
        "music_rate",
        "beats",
        "beat_phase",
    }
    assert reader.samples[0].info["sound_id"] == json.loads(files["json"])["sound_id"]
    clip = WindowSpec(seconds=0.5, stride=0.1)
    features = MusicFeatureCache(Spectral())
    features.build([reader], workers=1)
    dataset = make_dataset(reader, reader.samples, ("motion", "music", "beats"), clip, "train", features)
    assert len(dataset) == 4 and dataset[0]["music"].shape == (15, 35) and dataset[0]["beats"].sum() == 0
    with pytest.raises(ValueError, match="does not give frames, height, width"):
        make_dataset(reader, reader.samples, ("frames",), clip, "train", features)
