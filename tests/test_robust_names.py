"""Names from data and from users become paths only inside the folder that was meant."""

import io
import json
import os
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from zoo.data.clip_folder import _file_beside
from zoo.data.music_cache import MusicFeatureCache
from zoo.data.shard_file import ShardReader, write_shard
from zoo.data.sources.shards import expand
from zoo.files import cache_root, file_in, is_writable, safe_name, temporary_cache, user_path
from zoo.music import compiled_librosa
from zoo.music.spectral import Spectral
from zoo.run.errors import error_message
from zoo.run.evaluate.records import StoredClip, clip_stem
from zoo.run.evaluate.systems import videos_system
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


def test_a_sound_that_a_description_names_alone_is_none(tmp_path, cache):
    """A sample with a sound_id and without a sound; the next one has both."""
    silent = shard(tmp_path / "a.tar", "k", {"sound_id": "x"})
    with tarfile.open(silent) as tar:
        info = tar.extractfile("k.json").read()
    with tarfile.open(silent, "w") as tar:
        member = tarfile.TarInfo("k.json")
        member.size = len(info)
        tar.addfile(member, io.BytesIO(info))
    reader, features = ShardReader([silent]), MusicFeatureCache(Spectral())
    features.build([reader], 0)
    assert not features.folder.exists()
    with pytest.raises(ValueError, match="a.tar: k has no .flac"):
        reader.read(reader.samples[0], "sound")
    features.build([reader, ShardReader([shard(tmp_path / "b.tar", "k", {"sound_id": "x"})])], 0)
    assert len(features.get("x")[0]) > 0


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


def test_a_folder_that_takes_no_files_is_no_place(tmp_path):
    """Root has all permissions in /proc, and yet nothing can be made there. The check leaves nothing behind."""
    assert is_writable(tmp_path / "new" / "folder") and not any(tmp_path.iterdir())
    assert not is_writable(Path("/proc/x"))
    with pytest.raises(ValueError, match="nothing can be written"):
        writable("/proc/x.mp4")


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


@pytest.mark.parametrize("name", ["a[1].tar", " a .tar", "a*b.tar", "a{1,2}.tar", "a{1.tar", "pipe:a.tar", "a?.tar"])
def test_a_shards_name_is_no_pattern(tmp_path, monkeypatch, name):
    """A file that is there is meant; else {} and * are special, and no other character is."""
    monkeypatch.chdir(tmp_path)
    for file in (name, "b[1] .tar", "b1 .tar"):
        Path(file).write_bytes(b"")
    assert expand(name) == [Path(name)]
    assert expand("*[1] .tar") == [Path("b[1] .tar")]
    assert expand("c{0..1}[x.tar") == [Path("c0[x.tar"), Path("c1[x.tar")]


def test_names_are_compared_by_how_they_look(tmp_path):
    """Unicode NFC and NFD of one name are one name: of videos, and of sounds beside motions and videos."""
    key = "caf\u00e9 1"
    video = tmp_path / unicodedata.normalize("NFD", f"{clip_stem(key)}.mp4")
    video.write_bytes(b"x")
    system = videos_system(tmp_path, "v", [StoredClip(key, tmp_path / "clip", {})])
    assert system.videos == {key: video} and not system.excluded
    sound = tmp_path / unicodedata.normalize("NFD", "\u00e9.wav")
    sound.write_bytes(b"x")
    assert _file_beside(tmp_path / "\u00e9", (".wav",)) == sound


def test_keys_that_look_alike_have_files_of_their_own():
    """Of a protocol's clips; plain keys keep their names."""
    keys = ["a b", "a_b", "a/b", "a  b", "_a_b", "a" * 200, "a" * 201, "a:b", "..", "\udcff"]
    stems = [clip_stem(key) for key in keys]
    assert len(set(stems)) == len(keys) and clip_stem("song_03-dancer.1") == "song_03-dancer.1"
    assert all(len(stem.encode(errors="surrogatepass")) < 120 and "/" not in stem for stem in stems)


# Places --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["read-only", "missing", "no name"])
def test_no_place_to_write_is_replaced_by_a_temporary_one(tmp_path, monkeypatch, home):
    """Of the cache and of numba's compiled functions; it belongs to this user alone."""
    for name in ("DANCEZOO_CACHE", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "/proc/none" if home == "missing" else str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: str(path).startswith(str(tmp_path / "dancezoo")))
    if home == "no name":
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    temporary_cache.cache_clear()
    try:
        assert cache_root() == tmp_path / f"dancezoo-{os.getuid()}"
        assert cache_root().stat().st_mode & 0o777 == 0o700
        compiled_librosa.choose_cache()
        assert os.environ["NUMBA_CACHE_DIR"] == str(cache_root() / "numba")
        temporary_cache.cache_clear()
        cache_root().chmod(0o777)  # anybody could put compiled functions there
        temporary_cache.cache_clear()
        assert cache_root() != tmp_path / f"dancezoo-{os.getuid()}"
    finally:
        temporary_cache.cache_clear()


@pytest.mark.parametrize("library", ["libGL.so.1", "libgthread-2.0.so.0"])
def test_a_missing_system_library_is_named_in_one_line(library):
    """OpenCV's in a slim container."""
    error = ImportError(f"{library}: cannot open shared object file: No such file or directory")
    assert library in error_message(error) and "opencv-python-headless" in error_message(error)
    assert error_message(ImportError("cannot import name x")) is None
