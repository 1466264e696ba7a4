"""Motion capture: paired with its music, read by format, added to the train split; motion without music is named."""

import pickle

import numpy as np
import pytest
import torch

from zoo.body.motion_io.formats import write_bvh
from zoo.body.skeleton import STANDING, pack
from zoo.data.shard_file import ShardReader
from zoo.data.sources.mocap import MocapFolder
from zoo.media import write_sound


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """A BVH with a song, an AIST++ pickle with its music elsewhere, a BVH without any, and a broken one with a song."""
    folder = tmp_path / "mocap"
    (folder / "music").mkdir(parents=True)
    turns = torch.eye(3).repeat(90, 24, 1, 1)
    turns[:, 0] = STANDING
    motion = pack(turns, torch.tensor([0.0, 0.0, 0.95]).repeat(90, 1))
    write_bvh(folder / "salsa.bvh", motion)
    write_bvh(folder / "alone.bvh", motion)
    (folder / "broken.bvh").write_text("HIERARCHY nothing")
    text = (folder / "salsa.bvh").read_text()
    (folder / "nan.bvh").write_text(text.rstrip().rpartition(" ")[0] + " nan")
    aist = {"smpl_poses": np.zeros((180, 72)), "smpl_trans": np.zeros((180, 3)), "smpl_scaling": np.ones(1)}
    (folder / "gHO_sBM_cAll_d20_mHO5_ch03.pkl").write_bytes(pickle.dumps(aist))
    wave = 0.5 * np.sin(np.arange(3 * 16000) / 9).astype(np.float32)
    for name in ("salsa.wav", "broken.wav", "nan.wav", "music/mHO5.flac"):
        write_sound(folder / name, wave, 16000)
    return folder


def test_motion_with_music_is_read_and_the_rest_is_named(folder, capsys):
    mocap = MocapFolder(folder)
    mocap.build()
    output = " ".join(capsys.readouterr().out.split())
    assert "no music beside them: alone.bvh" in output and "broken.bvh" in output and "nan.bvh" in output
    reader = ShardReader([mocap.path])
    infos = {sample.key: sample.info for sample in reader.samples}
    assert set(infos) == {"real-salsa", "real-gHO_sBM_cAll_d20_mHO5_ch03"}
    aist = infos["real-gHO_sBM_cAll_d20_mHO5_ch03"]
    assert (aist["song"], aist["dancer"], aist["style"]) == ("real-mHO5", "real-d20", "house")
    assert all(reader.read(sample, "motion").shape == (90, 151) for sample in reader.samples)
    written_ns = mocap.path.stat().st_mtime_ns
    MocapFolder(folder).build()
    assert mocap.path.stat().st_mtime_ns == written_ns


def test_files_with_equal_keys_stay_apart(folder):
    (folder / "sub").mkdir()
    for name in ("sub/salsa.2.bvh", "sub/salsa_2.bvh", "sub-salsa_2.bvh"):
        (folder / name).write_bytes((folder / "salsa.bvh").read_bytes())
        (folder / name).with_suffix(".wav").write_bytes((folder / "salsa.wav").read_bytes())
    mocap = MocapFolder(folder)
    mocap.build()
    samples = ShardReader([mocap.path]).samples
    assert len({sample.key for sample in samples}) == len(samples) == 5
    assert sum(sample.key.startswith("real-sub-salsa_2-") for sample in samples) == 3


def test_folders_that_give_nothing_are_refused(folder, tmp_path):
    empty = tmp_path / "empty"
    with pytest.raises(ValueError, match="not a folder"):
        MocapFolder(empty)
    empty.mkdir()
    with pytest.raises(ValueError, match="no motion in"):
        MocapFolder(empty)
    (empty / "alone.bvh").write_bytes((folder / "alone.bvh").read_bytes())
    with pytest.raises(ValueError, match=r"none of the 1 motions .* has music.*alone\.mp3"):
        MocapFolder(empty)
    (empty / "alone.bvh").write_text("no")
    (empty / "alone.wav").write_bytes((folder / "salsa.wav").read_bytes())
    with pytest.raises(ValueError, match="can be read"):
        MocapFolder(empty).build()


def test_it_joins_the_train_split_alone(folder, monkeypatch):
    from zoo.data.world.source import World

    world = World(
        songs={"train": 1, "val": 1, "test": 1}, seconds=5, dances_per_song=1, mocap_folder=str(folder), workers=1
    )
    world.prepare_data(("motion",), None)
    songs = {
        split: {sample.info["song"] for sample in world._reader(split, False).samples} for split in ("train", "val")
    }
    assert {"real-salsa", "real-mHO5"} < songs["train"] and len(songs["train"]) == 3 and len(songs["val"]) == 1
