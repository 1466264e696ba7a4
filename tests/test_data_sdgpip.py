"""SDGPip: slices of generated motion with guidance maps. Deterministic, resumable, and shared between machines."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from swaying_teacher import KILL, SPEC, SwayingTeacher

from zoo.cli import main
from zoo.data.base import WindowSpec, collate
from zoo.data.code_hash import ROOT as PACKAGE
from zoo.data.code_hash import matching_files
from zoo.data.sdgpip.source import SDGPIP_CODE, SHARD_SONGS, Sdgpip
from zoo.data.shard_file import ShardReader
from zoo.media import write_sound
from zoo.music.spectral import Spectral
from zoo.run.build_sdgpip import read_shard
from zoo.run.motion_teacher import CheckpointTeacher

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    """Seven songs of 2.2 s and a file that is none: four shards of the train split."""
    folder = tmp_path_factory.mktemp("songs")
    for number in range(7):
        tone = 0.1 * (1 + number) * np.sin(np.arange(int(2.2 * 8000)) / (3 + number))
        write_sound(folder / f"song{number}.wav", tone.astype(np.float32), 8000)
    (folder / "broken.mp3").write_bytes(b"no sound")
    return folder


def slices(songs: Path, folder: Path, workers: int = 1, **settings) -> Sdgpip:
    spec = replace(SPEC, **settings)
    return Sdgpip(SwayingTeacher(), spec, songs_folder=str(songs), workers=workers, folder=folder)


@pytest.fixture(scope="module")
def whole(songs, tmp_path_factory) -> Sdgpip:
    """The slices of all songs, made in this process."""
    source = slices(songs, tmp_path_factory.mktemp("whole"))
    source.make()
    return source


@pytest.fixture(scope="module")
def killed(whole, songs, tmp_path_factory) -> tuple[Path, set[Path]]:
    """The folder of a run that was killed in its second shard, and the files that its process imported for slices."""
    jobs = whole._jobs("train")
    assert len(jobs) >= 2 and SHARD_SONGS == 2
    killed_at = next(song.name for song in jobs[1][1].args[0] if not song.name.startswith("broken"))
    folder = tmp_path_factory.mktemp("killed")
    code = (
        "import json, sys; from pathlib import Path; import zoo.data.sdgpip.slices\n"
        "modules = [m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'zoo' and m.__file__]\n"
        "print(json.dumps(modules), flush=True)\n"
        "from swaying_teacher import *; from zoo.data.sdgpip.source import Sdgpip\n"
        f"songs, folder = {str(songs)!r}, Path({str(folder)!r})\n"
        "Sdgpip(SwayingTeacher(), SPEC, songs_folder=songs, workers=1, folder=folder).make()"
    )
    environment = os.environ | {KILL: killed_at, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    imported = {Path(file) for file in json.loads(process.stdout.splitlines()[0])}
    return folder, {path for path in imported if path.stat().st_size}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_slice_has_every_map_and_is_centred(whole):
    samples = ShardReader(sorted(whole.folder.glob("*.tar"))).samples
    assert len(samples) == 7 * 2, "two whole slices of each song"
    assert {sample.info["split"] for sample in samples} == {"train", "val", "test"}
    songs_of = {split: {s.info["song"] for s in samples if s.info["split"] == split} for split in ("train", "val")}
    assert not songs_of["train"] & songs_of["val"]
    reader, sample = ShardReader([Path(samples[1].path)]), samples[1]
    assert sample.info["start"] == 1.0 and sample.info["frames"] == 4 and sample.info["seconds"] == 1.0
    motion = reader.read(sample, "motion")
    assert motion.shape == (30, 151)
    np.testing.assert_allclose(motion[:, 4:6].mean(0), 0, atol=1e-6)
    maps = {name: reader.read(sample, name) for name in ("depth", "normal", "parts", "semantic", "skeleton")}
    assert all(values.shape[:3] == (4, 32, 32) and values.any() for values in maps.values())
    frames, reference = reader.read(sample, "frames"), reader.read(sample, "reference")
    assert frames.shape == (4, 32, 32, 3) and reference.shape == (32, 32, 3)
    background = maps["parts"] == 0
    still = background.all(0) & (reader.read(sample, "joints2d")[..., 1].min() > 0)
    assert np.abs(frames[0].astype(int) - reference)[still][:32].max() < 24, "the reference shows the same place"
    first, second = samples[:2]
    assert first.info["look"] != second.info["look"] and first.info["sound_id"] == second.info["sound_id"]
    assert first.info["look"]["body"] == second.info["look"]["body"] == "man"


def test_a_killed_run_continues_on_other_machines(whole, killed, songs):
    """A run of one process is killed; two machines, of two processes and of one, make the bytes of an unbroken run."""
    folder, _ = killed
    names = {path.name for path in folder.glob("train-*")}
    jobs = whole._jobs("train")
    assert jobs[0][0].name in names and jobs[1][0].name not in names
    for workers, part in ((2, "1/2"), (1, "2/2")):
        slices(songs, folder, workers=workers).make(shard=read_shard(part))
    assert contents(folder) == contents(whole.folder), "and nothing is left behind"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    slices(songs, folder).make()
    assert {path: path.stat().st_mtime_ns for path in before} == before, "complete shards are not made again"


def test_other_settings_do_not_mix_with_what_is_there(whole, songs):
    with pytest.raises(ValueError, match="holds slices of other settings"):
        slices(songs, whole.folder, fps=5).make()


def test_unusable_songs(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        slices(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no sound file"):
        slices(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "noise.mp3").write_bytes(b"no sound")
    with pytest.raises(ValueError, match="no song of .* can be used"):
        slices(tmp_path / "empty", tmp_path / "out").make()


def test_windows_of_the_source(whole):
    """Training items with music and maps; what the slices cannot give is refused before anything is made."""
    keys = {"music", "music_rate", "joints2d", "depth", "skeleton", "heatmaps", "frames", "parts", "motion", "song"}
    window = WindowSpec(num_frames=4, fps=4, height=16, width=16)
    encoder = Spectral()
    whole.check_window(keys, window)
    whole.prepare_data(keys, encoder)
    dataset = whole.dataset("train", keys, window, encoder)
    batch = collate([dataset[index] for index in range(2)])
    assert batch["music"].shape == (2, 30, encoder.dim) and batch["joints2d"].shape == (2, 4, 24, 2)
    assert batch["depth"].shape == (2, 4, 16, 16) and batch["frames"].shape == (2, 4, 3, 16, 16)
    assert keys <= whole.available_keys and "caption" not in whole.available_keys
    for bad, message in (
        (dict(num_frames=4, fps=8), "clip.fps 8 is above the 4 of data=sdgpip"),
        (dict(num_frames=5, fps=4), "use longer clips"),
        (dict(num_frames=4, fps=4, height=32, width=16), "without distortion"),
    ):
        with pytest.raises(ValueError, match=message):
            whole.check_window(keys, replace(WindowSpec(num_frames=4, fps=4, height=16, width=16), seconds=None, **bad))


@pytest.mark.parametrize("value", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_a_shard_number_is_checked(value):
    assert read_shard("3/64") == (2, 64)
    with pytest.raises(ValueError, match="write I/N"):
        read_shard(value)


def test_shared_noise_makes_the_motion_a_function_of_the_music(tmp_path, monkeypatch):
    """The same music twice in one song, and other music: equal and other motions; with fresh noise all differ."""
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    music = np.tile(rng.normal(0, 0.2, 22050).astype(np.float32), 6)
    starts, seconds = [Fraction(1), Fraction(2)], Fraction(2)
    shared = CheckpointTeacher("assets/magicdance-tiny", num_inference_steps=2)
    first, again = shared.motions(music, 22050, [starts[0], starts[0]], seconds, "a")
    assert torch.equal(first, again) and first.shape == (60, 151)
    same, _ = shared.motions(music, 22050, starts, seconds, "b")
    assert torch.equal(first, same), "the name of the song changes nothing"
    (other,) = shared.motions(
        music[::-1].copy() * np.linspace(0, 1, len(music), dtype=np.float32), 22050, starts[:1], seconds, "a"
    )
    assert (first - other).abs().max() > 1e-3
    fresh = CheckpointTeacher("assets/magicdance-tiny", num_inference_steps=2, noise="fresh")
    third, fourth = fresh.motions(music, 22050, [starts[0]] * 2, seconds, "a")
    assert torch.equal(third, fourth), "the noise is of the slice, not of the call"
    (fifth,) = fresh.motions(music, 22050, starts[:1], seconds, "b")
    assert (third - fifth).abs().max() > 0.01 and shared.cache_key != fresh.cache_key
    with pytest.raises(ValueError, match="use shared or fresh"):
        CheckpointTeacher("assets/magicdance-tiny", noise="old")
    with pytest.raises(ValueError, match="there is no such file"):
        CheckpointTeacher("nowhere")


def test_the_key_covers_the_code_that_makes_slices(killed):
    """Every module of the package that a slice passes through is in the cache key."""
    _, imported = killed
    exempt = ("__init__.py", "api.py", "batch.py", "files.py", "processes.py", "data/code_hash.py")
    assert not imported - {*matching_files(SDGPIP_CODE), *matching_files(exempt)}
    assert all(matching_files((pattern,)) for pattern in SDGPIP_CODE)
    assert PACKAGE / "body/guidance_maps.py" in imported


def test_the_command_makes_shards_that_training_reads(songs, tmp_path, monkeypatch, capsys):
    """`dancezoo sdgpip`, with the shipped teacher, in this process."""
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    options = "slices.seconds=2 slices.fps=4 slices.height=32 slices.width=32 teacher.num_inference_steps=2 workers=1"

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["dancezoo", "sdgpip", f"songs_folder={songs}", *options.split(), *arguments])
        main()
        return capsys.readouterr().out

    output = run("out=made")
    assert "shards: 3 train, 1 val, 1 test" in output and "broken: left out" in output
    samples = ShardReader(sorted((tmp_path / "made").glob("*.tar"))).samples
    assert len(samples) == 7 and {"depth", "normal", "skeleton", "heatmaps"} <= set(samples[0].byte_ranges)
    with pytest.raises(SystemExit) as end:
        run("shard=1/1")
    assert end.value.code == 2 and capsys.readouterr().err == "sdgpip: give out=DIR\n"
