"""MuseDance by the commands: three stages, two processes, modules switched off, a picture that dances to a line."""

import json

import cv2
import numpy as np
import pytest
import torch

from zoo.media import read_video, write_sound
from zoo.nn.cpu_inference import is_supported
from zoo.run.checkpoint import family_weights, load_family, read_checkpoint

SMALL = (
    "model=musedance size=debug data.songs={train:2,val:1,test:1} data.seconds=6 data.dances_per_song=1 "
    "data.workers=1 data.rendering.songs={train:2,val:1,test:1} data.rendering.height=64 data.rendering.width=64 "
    "data.rendering.seconds=2 fit.batch_size=2 fit.log_every_n_steps=1 fit.val_check_interval=4 "
    "fit.limit_val_batches=1 fit.save_every_n_steps=2 fit.max_steps=2 runs=muse"
).split()


@pytest.fixture(scope="module")
def run(scripts):
    """All three stages, two steps each."""
    done = scripts.inside("train", *SMALL, "name=whole")
    assert done.returncode == 0, done.stderr
    return scripts.folder / "muse" / "musedance" / "whole"


def test_each_stage_goes_on_from_the_one_before(run):
    first, second, third = (
        family_weights(read_checkpoint(run / name / "last.ckpt")["state_dict"], use_ema=True)
        for name in ("autoencoder", "appearance", "dynamics")
    )
    assert all(torch.equal(first[name], third[name]) for name in first if name.startswith("codec.vae."))
    assert second["codec.latent_scale"] != first["codec.latent_scale"]
    assert second["codec.latent_scale"] == third["codec.latent_scale"]
    still = [name for name in second if name.startswith("reference_net.")]
    assert still and all(torch.equal(second[name], third[name]) for name in still)
    assert any(not torch.equal(second[n], third[n]) for n in third if ".music_modules." in n or ".motion_modules." in n)


def test_modules_can_be_switched_off_from_one_appearance(run, scripts):
    """Table 3: from the same second stage, with other modules along time; what they are is kept in the checkpoint."""
    alone = [*SMALL, "stage=dynamics", f"ckpt={run / 'appearance' / 'last.ckpt'}"]
    for name, *options in (
        ("beats", "model.family.music_conditions=[beats]"),
        ("none", "model.family.music_conditions=[]", "model.family.use_motion_modules=false"),
    ):
        if name == "none":
            options.append("model.stages.dynamics.module.train_spatial_layers=true")
        done = scripts.inside("train", *alone, f"name={name}", *options)
        assert done.returncode == 0, done.stderr
        family, _ = load_family(run.with_name(name) / "dynamics" / "last.ckpt")
        assert (family.music_token_embedder.music is None) and (family.music_token_embedder.beats is None) == (
            name == "none"
        )
        assert any("motion_modules" in path for path in family.unet.temporal_modules()) == (name != "none")


def test_two_processes_train_alike_whole_and_sharded(run, scripts):
    states = []
    for trainer in ("ddp_cpu", "fsdp_cpu"):
        alone = [*SMALL, "stage=dynamics", f"ckpt={run / 'appearance' / 'last.ckpt'}", f"trainer={trainer}"]
        # Muon takes minutes on sharded weights
        alone.append("optimizer@model.stages.dynamics.optimizer=adam")
        done = scripts("train", *alone, f"name={trainer}", "fit.batch_size=1")
        assert done.returncode == 0, done.stderr
        states.append(read_checkpoint(run.with_name(trainer) / "dynamics" / "last.ckpt")["state_dict"])
    whole, sharded = states
    assert whole.keys() == sharded.keys()
    for name, value in whole.items():
        torch.testing.assert_close(sharded[name], value, atol=1e-4, rtol=1e-4)


def test_a_picture_dances_to_a_song_and_a_line(run, scripts):
    song, picture, out = (scripts.folder / name for name in ("muse.wav", "muse.png", "muse.mp4"))
    write_sound(song, np.sin(np.arange(2 * 22050) / 20).astype(np.float32), 22050)
    cv2.imwrite(str(picture), (np.arange(80 * 60 * 4) % 251).reshape(80, 60, 4).astype(np.uint8))
    what = [f"ckpt={run / 'dynamics' / 'last.ckpt'}", f"music={song}", f"image={picture}", f"out={out}", "fps=12"]
    done = scripts.inside(
        "sample",
        *what,
        "seconds=2",
        "sampler.num_inference_steps=2",
        "precision=bf16",
        "prompt=" + "jumps and turns " * 300,
    )
    assert done.returncode == 0, done.stderr
    assert "prompt is too long: ignored from 'jumps and turns" in done.stdout
    frames, fps, sound = read_video(out)
    assert frames.shape == (24, 64, 64, 3) and fps == 12 and abs(float(sound.duration) - 2) < 0.1


def evaluated(run, scripts, *options) -> dict[str, tuple[str, list[bytes]]]:
    """Row of a table of two clips -> its kind, and its videos."""
    data = [one for one in SMALL if one.startswith("data.")] + ["data.songs={train:1,val:1,test:2}"]
    small = (
        "protocol.frames=12 protocol.height=64 protocol.width=64 protocol.num_clips=2 data.dances_per_song=2".split()
    )
    ckpt = f"ckpt={run / 'dynamics' / 'last.ckpt'}"
    few = ["metrics=[psnr]", "sampler.num_inference_steps=2", "workers=0", "out=table"]
    process = scripts.inside("evaluate", *data, *small, ckpt, *few, *options)
    assert process.returncode == 0, process.stderr
    rows = json.loads((scripts.folder / "table" / "metrics.json").read_text())["rows"]
    folder = scripts.folder / "table"
    return {
        row["name"].rpartition("/")[2]: (row["kind"], [(folder / path).read_bytes() for path in row["videos"].values()])
        for row in rows
    }


def test_a_checkpoint_without_music_is_a_baseline(run, scripts):
    """ablations=all adds a row of other dances, which does not compete."""
    assert not any("without" in name for name in evaluated(run, scripts))
    rows = evaluated(run, scripts, "ablations=all")
    kind, videos = rows["last.ckpt without music"]
    assert kind == "baseline" and rows["last.ckpt"][0] == "checkpoint" and len(videos) == 2
    assert all(a != b for a, b in zip(videos, rows["last.ckpt"][1], strict=True))
    assert scripts.inside("evaluate", "ablations=some").returncode == 2


def test_an_autoencoder_is_a_row_of_its_own(run, scripts):
    """reconstructions=true adds the true frames, encoded and decoded, which do not compete."""
    rows = evaluated(run, scripts, "reconstructions=true")
    kind, videos = rows["last.ckpt reconstruction"]
    assert kind == "baseline" and len(videos) == 2
    assert all(a != b for name in ("last.ckpt", "ground truth") for a, b in zip(videos, rows[name][1], strict=True))
    assert scripts.inside("evaluate", "reconstructions=2").returncode == 2


@pytest.mark.skipif(not is_supported(), reason="this CPU does not multiply bf16")
def test_a_table_tells_precisions_apart(run, scripts):
    """The same checkpoint in bf16 is another row, of other dances."""
    plain, fast = (evaluated(run, scripts, f"precision={name}")["last.ckpt"][1] for name in ("null", "bf16"))
    assert len(plain) == 2 and all(a != b for a, b in zip(plain, fast, strict=True))


def test_the_papers_size_wants_its_weights(scripts):
    done = scripts.inside("train", "model=musedance", "size=paper", "trainer=cpu", "name=paper")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "starts from Stable Diffusion 1.5" in done.stderr and "give init=" in done.stderr
