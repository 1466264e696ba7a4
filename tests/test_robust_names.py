"""Names from data and from users become paths only inside the folder that was meant."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from zoo.data.music_cache import MusicFeatureCache
from zoo.data.shard_file import ShardReader, write_shard
from zoo.files import file_in, safe_name, user_path
from zoo.music.spectral import Spectral
from zoo.run.models import checkpoint_path
from zoo.run.sample.request import compose_request
from zoo.run.validate import check_not_input, existing_file, writable

OUTSIDE = [
    "../x",
    "/absolute/x",
    "..",
    ".",
    "",
    "a/../../x",
    "a\0b",
    "x\n",
    "~",
    "x" * 5000,
    "con/x",
    "\udcff",
    "..\\x",
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def shard(path: Path, name: str, info: object) -> Path:
    """A tar with one sample: its .json and a second of sound."""
    write_shard(path, [("k", {"info": {}, "sound": (np.ones(16000, np.float32) / 9, 16000)})])
    with tarfile.open(path) as tar:
        sound = tar.extractfile("k.flac").read()
    with tarfile.open(path, "w") as tar:
        content = info if isinstance(info, bytes) else json.dumps(info).encode()
        for extension, data in (("json", content), ("flac", sound)):
            member = tarfile.TarInfo(f"{name}.{extension}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_a_name_from_data_stays_in_its_folder(tmp_path, name):
    """Whatever it is: hashed, or refused where an index names a file."""
    assert (tmp_path / safe_name(name)).resolve().parent == tmp_path.resolve()
    if Path(name).is_absolute() or ".." in name.split("/") or not name or "\0" in name:
        with pytest.raises(ValueError, match="does not lie in it"):
            file_in(tmp_path, name)
    assert safe_name("0123abc-def.x") == "0123abc-def.x"


@pytest.mark.parametrize("sound_id", ["../../escaped", "{tmp}/escaped", "a" * 300, "x/y", ""])
def test_a_shard_writes_into_the_cache_only(tmp_path, cache, sound_id):
    """Its sound_id is the name of a file of features."""
    sound_id = sound_id.replace("{tmp}", str(tmp_path))
    reader = ShardReader([shard(tmp_path / "a.tar", "k", {"sound_id": sound_id})])
    features = MusicFeatureCache(Spectral())
    features.build([reader], 0)
    if sound_id:
        assert len(features.get(sound_id)[0]) > 0
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "a.tar"]
    assert all(path.is_relative_to(cache) for path in written)
    assert all(path.parent == features.folder for path in written if path.suffix == ".npy")


@pytest.mark.parametrize(
    ("name", "info"),
    [
        ("../k", {}),
        ("/absolute/k", {}),
        ("a/../../k", {}),
        ("k\n", {}),
        ("k", []),
        ("k", 7),
        ("k", {"sound_id": 7}),
        ("k", {"sound_id": ["x"]}),
        ("k", b"[" * 100_000),
        ("k", b" " * (1 << 21)),
        ("k", b"\xff{}"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_shard_with_a_bad_name_or_description_is_refused(tmp_path, name, info):
    """In one line that names it."""
    with pytest.raises(ValueError, match="shard .*a.tar") as refusal:
        ShardReader([shard(tmp_path / "a.tar", name, info)])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["same", "spelling", "symlink", "hardlink", "inside", "parent_link"])
def test_an_output_is_no_input(tmp_path, kind):
    """Also by another spelling of its path, and by links."""
    folder = tmp_path / "in"
    folder.mkdir()
    file = folder / "song.mp4"
    file.write_bytes(b"precious")
    out = tmp_path / "out.mp4"
    if kind in ("same", "inside"):
        out = file
    elif kind == "spelling":
        out = folder / ".." / "in" / "song.mp4"
    elif kind == "symlink":
        out.symlink_to(file)
    elif kind == "hardlink":
        os.link(file, out)
    else:
        (tmp_path / "link").symlink_to(folder)
        out = tmp_path / "link" / "song.mp4"
    with pytest.raises(ValueError, match="is an input"):
        check_not_input(out, [None, folder if kind == "inside" else file])
    check_not_input(tmp_path / "other.mp4", [file, folder])


def test_a_tilde_of_no_user_is_a_name(tmp_path, monkeypatch):
    """And ~ alone is the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert user_path("~nobody-of-that-name/x.wav") == Path("~nobody-of-that-name/x.wav")
    assert user_path("~/x.wav") == tmp_path / "x.wav"
    for check in (existing_file, checkpoint_path):
        with pytest.raises(ValueError, match="there is no such"):
            check("~nobody-of-that-name/x.wav", "music")
    with pytest.raises(ValueError, match="there is no directory"):
        writable("~nobody-of-that-name/x.mp4")


@pytest.mark.parametrize("fps", [50.5, 60, 120, 240])
def test_a_gif_has_at_most_fifty_frames_a_second(tmp_path, fps):
    """Refused before any work: players show faster ones at 10 frames a second."""
    with pytest.raises(ValueError, match="at most 50"):
        compose_request({"music": "x.wav", "out": str(tmp_path / "x.gif"), "fps": fps})


@pytest.mark.parametrize("flag", ["--experimental-rerun", "--experimental-rerun=x", "--exp", "--e=x"])
def test_hydra_unpickles_no_file(flag, monkeypatch, capsys):
    """The flag and its abbreviations are switched off in every command."""
    from zoo.cli import COMMANDS

    for command in ("sample", "train", "evaluate", "shards"):
        monkeypatch.setattr("sys.argv", ["dancezoo", command, flag, "x"])
        with pytest.raises(SystemExit) as end:
            COMMANDS[command]()
        assert end.value.code == 2
        assert "switched off" in capsys.readouterr().err
