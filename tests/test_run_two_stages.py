"""A family of two stages by the commands: train both, be killed in the second, go on, dance."""

import time

import cv2
import numpy as np
import torch

from zoo.media import read_video, write_sound
from zoo.run.checkpoint import read_checkpoint

SMALL = (
    "model=dabfusion size=debug data.songs={train:2,val:1,test:1} data.seconds=6 data.dances_per_song=1 "
    "data.workers=1 data.rendering.songs={train:2,val:1,test:1} data.rendering.height=64 data.rendering.width=64 "
    "data.rendering.seconds=1 fit.batch_size=2 fit.log_every_n_steps=1 fit.val_check_interval=4 "
    "fit.limit_val_batches=1 fit.save_every_n_steps=1 fit.max_steps=4 runs=two"
).split()


def test_a_run_killed_in_its_second_stage_resumes_bit_identically_and_samples(scripts):
    whole = scripts.inside("train", *SMALL, "name=whole")
    assert whole.returncode == 0, whole.stderr
    run = scripts.folder / "two" / "dabfusion" / "whole"
    flow, last = (read_checkpoint(run / name / "last.ckpt")["state_dict"] for name in ("flow", "diffusion"))
    # the second stage set out from the first's weights, and left them alone
    autoencoder = [name for name in flow if name.startswith("family.autoencoder.")]
    assert autoencoder and all(torch.equal(flow[name], last[name]) for name in autoencoder)
    assert any(not torch.equal(flow[name], last[name]) for name in flow if name.startswith("family.unet."))
    assert (last["family.music_scale.std"] != 1).any()

    process = scripts.start("train", *SMALL, "name=killed", "stage=[flow,diffusion]")  # as without
    killed = scripts.folder / "two" / "dabfusion" / "killed"
    while not list((killed / "diffusion").glob("step_*2.ckpt")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    finished = scripts("train", f"resume={killed}")
    assert finished.returncode == 0, finished.stderr
    resumed = read_checkpoint(killed / "diffusion" / "last.ckpt")["state_dict"]
    assert resumed.keys() == last.keys() and all(torch.equal(resumed[name], last[name]) for name in last)

    # the second stage alone, to other music: what the first one taught is taken, what hears the music starts anew
    second_stage = [*SMALL, "stage=diffusion", f"ckpt={run / 'flow' / 'last.ckpt'}", "music=timbre", "fit.max_steps=1"]
    finished = scripts.inside("train", *second_stage, "name=timbre")
    assert finished.returncode == 0 and "music_embedding, music_scale: other shapes" in finished.stdout, finished.stderr
    timbre = read_checkpoint(run.with_name("timbre") / "diffusion" / "last.ckpt")["state_dict"]
    assert all(torch.equal(timbre[name], flow[name]) for name in autoencoder)
    finished = scripts.inside("train", *second_stage, "name=wide", "model.family.autoencoder.base_channels=12")
    assert finished.returncode == 2 and "does not fit DabFusion" in finished.stderr

    song, picture, out = (scripts.folder / name for name in ("two.wav", "two.png", "two.mp4"))
    write_sound(song, np.sin(np.arange(2 * 22050) / 20).astype(np.float32), 22050)
    cv2.imwrite(str(picture), (np.arange(80 * 60 * 3) % 251).reshape(80, 60, 3).astype(np.uint8))
    inputs = f"ckpt={killed / 'diffusion' / 'last.ckpt'}", f"music={song}", f"image={picture}", f"out={out}"
    finished = scripts.inside("sample", *inputs, "seconds=2", "sampler.num_inference_steps=2")
    assert finished.returncode == 0, finished.stderr
    frames, fps, sound = read_video(out)
    assert frames.shape[1:] == (64, 64, 3) and sound is not None and len(frames) == round(2 * fps)
