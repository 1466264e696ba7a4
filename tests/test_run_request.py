"""What the commands accept, and the one line each mistake is answered by."""

import os
import pickle
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.media import write_sound
from zoo.run.build import check_targets
from zoo.run.checkpoint import AtomicCheckpoint, load_family
from zoo.run.sample.generate import count_frames
from zoo.run.validate import frame_rate


@pytest.fixture(scope="module")
def song(scripts) -> Path:
    """A click track of 3 s at 120 BPM."""
    rate, path = 22050, scripts.folder / "song.wav"
    wave = np.zeros(3 * rate, np.float32)
    noise = np.random.default_rng(0).standard_normal(800).astype(np.float32)
    for beat in range(6):
        wave[beat * rate // 2 :][:800] = 0.5 * noise
    write_sound(path, wave, rate)
    return path


class Harm:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def refused(done, words: str) -> None:
    """One line on stderr that says so, and exit code 2."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and words in lines[0], done.stderr


@pytest.mark.parametrize(
    "script, arguments, words",
    [
        ("sample", ["seconds=-1"], "seconds=-1"),
        ("sample", ["seconds=0"], "above 0"),
        ("sample", ["seconds=nan"], "not a number"),
        ("sample", ["seconds=1e-9"], "less than one frame"),
        ("sample", ["fps=abc"], "frame rate"),
        ("sample", ["sampler=3"], "sampler.num_inference_steps="),
        ("sample", ["precision=half"], "precision=half: use fp32 or bf16"),
        ("sample", ["music=/dev/null"], "a pipe or a device"),
        ("sample", ["weights.pose_detector=/dev/zero"], "weights.pose_detector=/dev/zero is a pipe or a device"),
        ("sample", ["music=~/ü (it's, live).mp3"], "~/ü (it's, live).mp3: there is no such file"),
        ("sample", ["music=missing.mp3"], "missing.mp3: there is no such file"),
        ("sample", ["music=empty.mp3"], "empty.mp3 is empty"),
        ("sample", ["ckpt=missing.ckpt"], "missing.ckpt: there is no such file"),
        ("sample", ["out=dance.avi"], ".mp4"),
        ("sample", ["out=nowhere/dance.mp4"], "there is no directory nowhere"),
        ("sample", ["out=folder.mp4"], "is a directory"),
        ("sample", ["sampler.num_inference_steps=0"], "sampler.num_inference_steps"),
        ("sample", ["mucis=song.mp3"], "there is no option mucis"),
        ("train", ["model=nope"], "magicdance"),
        ("train", ["stage=nope"], "motion"),
        ("train", ["model=dabfusion", "stage=diffusion"], "goes on from stage flow"),
        ("train", ["model=dabfusion", "stage=[diffusion,flow]"], "has the stages flow, diffusion, in this order"),
        ("train", ["fit.max_step=3"], "there is no option fit.max_step"),
        ("train", ["resume=nothing"], "there is no run there"),
        ("train", ["trainer=nope"], "fsdp_32gpu"),
        ("train", ["data=shards"], "urls"),
        ("train", ["fit.max_steps=0"], "fit.max_steps"),
        ("train", ["trainer=ddp_32gpu"], "4 machines with 8 GPUs each"),
        ("train", ["trainer=gpu"], "1 machine with 1 GPU"),
        ("train", ["name='a/b'"], "name="),
        ("train", ["name=.."], "name="),
        ("train", ["seed=1.5"], "seed="),
        ("train", ["+model.family.legs=3"], "legs"),
        ("train", ["data=shards", "data.urls=a-{000..003}.tar"], "shard a-000.tar does not exist"),
        ("train", ["init=missing.pt"], "there is no such file"),
        ("train", ["init=[README.md,missing.pt]"], "init=missing.pt: there is no such file"),
    ],
)
def test_a_mistake_gets_one_line(scripts, song, script, arguments, words):
    """Exit code 2, one clear line, and nothing made."""
    (scripts.folder / "empty.mp3").touch()
    (scripts.folder / "folder.mp4").mkdir(exist_ok=True)
    if script == "sample":
        given = {name.partition("=")[0] for name in arguments}
        arguments = [*arguments, *(f"{k}={v}" for k, v in {"ckpt": song, "music": song, "image": "null"}.items()
                                   if k not in given)]  # fmt: skip
    before = sorted(scripts.folder.iterdir())
    refused(scripts.inside(script, *arguments), words)
    assert sorted(scripts.folder.iterdir()) == before


@pytest.mark.parametrize(
    "kind, words",
    [("text", "text.mp3"), ("short", "short.wav"), ("harm", "nothing was run"), ("directory", "is a directory"),
     ("other", "not model=musedance"), ("flipped", "it is damaged"), ("diverged", "not finite"),
     ("weights", "no checkpoint of this program"), ("song", "no checkpoint"), ("blank", "it has a single colour")],
)  # fmt: skip
def test_a_file_of_no_use_gets_one_line(scripts, song, small_run, tmp_path, kind, words):
    """Files that are not what they are called: nothing of theirs runs, and an older result stays."""
    out = tmp_path / "dance.mp4"
    out.write_bytes(b"precious")
    given = {"music": song, "ckpt": small_run / "motion" / "last.ckpt", "image": "null", "out": out}
    if kind == "text":
        given["music"] = tmp_path / "text.mp3"
        given["music"].write_text("la la la\n" * 1000)
    elif kind == "short":
        given["music"] = tmp_path / "short.wav"
        write_sound(given["music"], np.zeros(220, np.float32), 22050)
    elif kind == "harm":
        given["ckpt"] = tmp_path / "harm.ckpt"
        given["ckpt"].write_bytes(pickle.dumps(Harm(tmp_path / "ran")))
    elif kind == "directory":
        given["ckpt"] = small_run
    elif kind == "other":
        given["model"] = "musedance"
    elif kind == "weights":
        given["ckpt"] = tmp_path / "weights.ckpt"
        torch.save({"state_dict": {"a": torch.zeros(3)}}, given["ckpt"])
    elif kind == "flipped":
        content = bytearray(given["ckpt"].read_bytes())
        middle = len(content) // 2
        content[middle : middle + 64] = bytes(value ^ 255 for value in content[middle : middle + 64])
        given["ckpt"] = tmp_path / "flipped.ckpt"
        given["ckpt"].write_bytes(content)
    elif kind == "diverged":
        found = torch.load(given["ckpt"], weights_only=True)
        given["ckpt"] = tmp_path / "diverged.ckpt"
        torch.save(found | {"state_dict": {key: value * torch.nan for key, value in found["state_dict"].items()}},
                   given["ckpt"])  # fmt: skip
    elif kind == "song":
        given["ckpt"] = song
    elif kind == "blank":
        given["image"] = tmp_path / "blank.png"
        Image.new("RGBA", (80, 60), (9, 9, 9, 0)).save(given["image"])
    done = scripts.inside("sample", *(f"{key}={value}" for key, value in given.items()))
    refused(done, words)
    assert out.read_bytes() == b"precious" and not (tmp_path / "ran").exists()
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_a_typo_is_answered_at_once_and_a_pickle_runs_nothing(scripts, tmp_path):
    """In a process of its own: before torch is imported, and with no other line on the screen."""
    began = time.monotonic()
    refused(scripts("train", "model=nope"), "magicdance")
    assert time.monotonic() - began < 5
    (tmp_path / "harm.ckpt").write_bytes(pickle.dumps(Harm(tmp_path / "ran")))
    done = scripts("train", f"ckpt={tmp_path / 'harm.ckpt'}", f"export={tmp_path / 'out'}")
    refused(done, "nothing was run")
    assert [file.name for file in tmp_path.iterdir()] == ["harm.ckpt"]


def test_a_config_in_a_checkpoint_runs_nothing(small_run, tmp_path):
    """A checkpoint whose config names a function of Python's instead of the family's class, straight or by detour."""
    found = torch.load(small_run / "motion" / "last.ckpt", weights_only=True)
    for target in ("os.mkdir", "zoo.media.os.mkdir", "zoo.run.train.fit.fit", "zoo.music.encoder.encode_song"):
        bad = found["config"].replace("zoo.families.magicdance.family.MagicDance", target)
        torch.save(found | {"config": bad}, tmp_path / "bad.ckpt")
        with pytest.raises(ValueError, match="config names|this program has no"):
            load_family(tmp_path / "bad.ckpt")


def test_targets_behind_interpolations_are_checked():
    """A `_target_` fetched from elsewhere in the config is seen."""
    from omegaconf import OmegaConf

    config = OmegaConf.create({"evil": {"_target_": "os.system"}, "family": {"inner": ["${evil}"]}})
    with pytest.raises(ValueError, match="os.system"):
        check_targets(config.family)


def test_frame_rates_are_exact():
    """29.97 means NTSC's rate; anything written exactly stays as written."""
    assert frame_rate(30) == 30 and frame_rate("12") == 12 and frame_rate(12.5) == Fraction(25, 2)
    assert frame_rate(29.97) == frame_rate("30000/1001") == frame_rate("29.97003") == Fraction(30000, 1001)
    assert frame_rate("23.976") == frame_rate(23.98) == Fraction(24000, 1001)
    for wrong in ("0", "-30", "1/0", "x", 1000):
        with pytest.raises(ValueError):
            frame_rate(wrong)


def test_frames_never_outlast_the_song():
    """Sound and picture differ by less than a frame, and the picture is not the longer one where the song ends."""
    for fps in (Fraction(30), Fraction(30000, 1001), Fraction(12)):
        for seconds, duration in ((Fraction(20), Fraction(60)), (Fraction(20), Fraction(123457, 44100))):
            frames = count_frames(seconds, fps, duration)
            assert abs(frames / fps - min(seconds, duration)) < 1 / fps and frames / fps <= duration


def test_a_killed_write_leaves_the_old_checkpoint(tmp_path):
    """A checkpoint that cannot be written whole leaves what was there, and no temporary file."""
    path = tmp_path / "last.ckpt"
    AtomicCheckpoint().save_checkpoint({"a": torch.ones(2)}, path)
    with pytest.raises(Exception, match="pickle"):
        AtomicCheckpoint().save_checkpoint({"a": torch.zeros(2), "b": lambda: 0}, path)
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(2))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
