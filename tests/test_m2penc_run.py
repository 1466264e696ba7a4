"""M2PEnc by the commands: five stages on generated motion, a picture that dances, and joints without a picture."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT

from zoo.families.base import GenerationRequest
from zoo.families.m2penc.stages import EncoderStage, ImageStage, PoseImageStage, VideoStage
from zoo.media import read_video, write_sound
from zoo.music.beats import Beats
from zoo.music.encoder import MusicFeatures
from zoo.run.checkpoint import family_weights, load_family, read_checkpoint

SMALL = (
    f"model=m2penc size=debug data.songs={{train:2,val:1,test:1}} data.song_seconds=2 data.slices.seconds=2 "
    f"data.slices.height=64 data.slices.width=64 data.workers=1 data.teacher.num_inference_steps=2 "
    f"data.teacher.ckpt={ROOT}/assets/magicdance-tiny fit.batch_size=2 fit.log_every_n_steps=1 "
    "fit.val_check_interval=2 fit.limit_val_batches=1 fit.max_steps=2 runs=m2penc"
).split()
STAGES = ("autoencoder", "pose_image", "encoder", "image", "video")


@pytest.fixture(scope="module")
def run(scripts):
    """All stages, two steps each."""
    process = scripts.inside("train", *SMALL, "name=whole")
    assert process.returncode == 0, process.stderr
    assert "joints of 1 held-out clips: PCK@0.1" in process.stdout
    return scripts.folder / "m2penc" / "m2penc" / "whole"


def changed_modules(first: dict, second: dict) -> set[str]:
    names = {name for name in first if not torch.equal(first[name], second[name])}
    unet = {"motion" if ".motion_modules." in name else "unet" for name in names if name.startswith("unet.")}
    return unet | {name.split(".")[0] for name in names} - {"unet"}


def test_each_stage_trains_its_modules_and_no_others(run):
    states = [family_weights(read_checkpoint(run / name / "last.ckpt")["state_dict"], use_ema=True) for name in STAGES]
    changes = [changed_modules(*pair) for pair in zip(states, states[1:], strict=False)]
    drawing = {"guidance_encoders", "reference_net", "image_encoder", "background", "codec", "unet"}
    assert changes[0] == drawing, "codec: the scale of its latents"
    assert changes[1] == {"music_to_pose", "music_scale", "guidance_std", "guidance_mean", "heatmap_mean"}
    assert changes[2] == {"reference_net", "unet"}
    assert changes[3] == {"music_to_pose", "unet", "motion"}


def test_stage_video_may_leave_the_music_to_pose_network_as_it_is(run, scripts):
    """As at size=tiny, where training it with the U-Net destroyed what stage encoder had learned."""
    options = ["stage=video", "name=frozen", f"ckpt={run / 'image' / 'last.ckpt'}"]
    process = scripts.inside("train", *SMALL, *options, "model.stages.video.module.train_music_to_pose=false")
    assert process.returncode == 0, process.stderr
    checkpoints = run / "image" / "last.ckpt", run.parent / "frozen" / "video" / "last.ckpt"
    states = [family_weights(read_checkpoint(path)["state_dict"], use_ema=True) for path in checkpoints]
    assert changed_modules(*states) == {"unet", "motion"}


def test_stages_that_regress_motion_refuse_the_world(scripts):
    process = scripts.inside("train", "model=m2penc", "size=debug", "data=world", "model.recipe=[autoencoder,encoder]")
    assert process.returncode == 2 and "stage 'encoder' learns one motion for each song" in process.stderr
    regressing = [stage.regresses_motion for stage in (PoseImageStage, EncoderStage, ImageStage, VideoStage)]
    assert regressing == [False, True, True, True]


def test_a_picture_dances_and_joints_need_none(run, scripts):
    song, picture, out = (scripts.folder / name for name in ("m2penc.wav", "m2penc.png", "m2penc.mp4"))
    write_sound(song, np.sin(np.arange(3 * 22050) / 20).astype(np.float32), 22050)
    cv2.imwrite(str(picture), (np.arange(80 * 60 * 3) % 251).reshape(80, 60, 3).astype(np.uint8))
    checkpoint = run / "video" / "last.ckpt"
    options = f"ckpt={checkpoint} music={song} image={picture} out={out} fps=10 seconds=2 sampler.num_inference_steps=2"
    process = scripts.inside("sample", *options.split())
    assert process.returncode == 0, process.stderr
    frames, fps, _ = read_video(out)
    assert frames.shape == (20, 64, 64, 3) and fps == 10

    family, _ = load_family(checkpoint)
    dim = len(family.music_scale.mean)
    music = MusicFeatures(torch.randn(120, dim), 30.0, Beats(np.arange(8) * 0.5, 120.0, 0))
    own, double = (
        family.generate_joints2d(GenerationRequest(None, music, num_frames, Fraction(fps)))
        for num_frames, fps in ((40, 12), (79, 24))
    )
    assert own.shape == (40, 24, 2) and own.min() >= 0 and own.max() <= 64
    torch.testing.assert_close(double[::2], own)
    torch.testing.assert_close(double[1::2], (own[1:] + own[:-1]) / 2)
    # stretches fade into each other: no step between frames is far larger than the others at the joins
    steps = (own[1:] - own[:-1]).norm(dim=-1).mean(1)
    joins = steps[11::12]
    assert joins.max() < 3 * steps.median()
