"""train.py for real: killed and resumed, on two processes, exported, started from a checkpoint."""

import signal
import time
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from zoo.files import conf_folder
from zoo.processes import RANK_VARIABLES, is_first_process
from zoo.run.checkpoint import family_weights, load_family, read_checkpoint
from zoo.run.train.fit import with_supported_precision
from zoo.run.train.stage_training import stage_training


def state(run: Path) -> dict[str, torch.Tensor]:
    """Raw and averaged weights of a run's newest checkpoint."""
    return read_checkpoint(run / "motion" / "last.ckpt")["state_dict"]


def kill_after(process, folder: Path, step: int) -> None:
    """SIGKILL once a checkpoint of `step` or a later one is there."""
    waited = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < waited:
        if any(int(file.stem[5:]) >= step for file in folder.glob("step_*.ckpt")):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_killed_twice_and_resumed_is_the_uninterrupted_run(scripts, small_run, small_arguments):
    """SIGKILL in mid-training, at two moments; the final raw and averaged weights are the same to the last bit."""
    run = small_run.with_name("killed")
    kill_after(
        scripts.start("train", *small_arguments, "name=killed", "fit.max_steps=30", "fit.save_every_n_steps=5"),
        run / "motion", 5,
    )  # fmt: skip
    kill_after(scripts.start("train", f"resume={run}"), run / "motion", 15)
    # 10 when it died after writing step 15 and before last.ckpt became its name
    assert 10 <= read_checkpoint(run / "motion" / "last.ckpt")["global_step"] < 30
    (run / "motion" / "last.ckpt").unlink()  # a step's own file does as well
    done = scripts("train", f"resume={run}")
    assert done.returncode == 0 and "| 0/30 " not in done.stderr, done.stderr
    ours, wanted = state(run), state(small_run)
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[key], wanted[key]) for key in wanted)
    assert not torch.equal(
        wanted["family.motion_denoiser.final_layer.weight"], wanted["ema.module.motion_denoiser.final_layer.weight"]
    )
    before = read_checkpoint(small_run / "motion" / "step_0000025.ckpt")["state_dict"]
    assert not torch.equal(
        before["family.motion_denoiser.final_layer.weight"], wanted["family.motion_denoiser.final_layer.weight"]
    )
    left = sorted(file.name for file in (run / "motion").iterdir())
    assert left == ["last.ckpt", "step_0000025.ckpt", "step_0000030.ckpt"]


def test_two_processes_train_alike_whole_and_sharded(scripts, small_run, small_arguments):
    """DDP and FSDP2 on two CPU processes: the same weights as each other, in the same kind of file, and they go on.

    Here with unequal shares of three clips a step, which one process goes on with.
    """
    runs, clips = {}, "fit.global_batch_size=3"
    for trainer in ("ddp_cpu", "fsdp_cpu"):
        done = scripts("train", *small_arguments, f"name={trainer}", f"trainer={trainer}", "fit.max_steps=2", clips)
        assert done.returncode == 0, done.stderr
        assert "3 clips a step: 2 processes x 1 to 2\n" in done.stdout
        runs[trainer] = small_run.with_name(trainer)
    whole, sharded = state(runs["ddp_cpu"]), state(runs["fsdp_cpu"])
    assert whole.keys() == sharded.keys() == state(small_run).keys()
    for key, value in whole.items():
        torch.testing.assert_close(sharded[key], value, rtol=1e-5, atol=1e-6, msg=key)
    done = scripts.inside("train", f"resume={runs['fsdp_cpu']}", "fit.max_steps=3", "trainer=cpu")
    assert done.returncode == 0, done.stderr
    assert "3 clips a step: 1 process x 1 to 2 x 2 batches\n" in done.stdout
    assert read_checkpoint(runs["fsdp_cpu"] / "motion" / "last.ckpt")["global_step"] == 3
    load_family(runs["fsdp_cpu"] / "motion" / "last.ckpt")


def test_a_run_of_minutes_ends_in_time_and_leaves_a_checkpoint(scripts, small_run, small_arguments):
    """A deadline ends the training early, with its last step saved."""
    done = scripts.inside("train", *small_arguments, "name=timed", "fit.max_steps=1000000", "fit.max_minutes=0.1")
    assert done.returncode == 0, done.stderr
    assert 0 < read_checkpoint(small_run.with_name("timed") / "motion" / "last.ckpt")["global_step"] < 100_000


def test_export_holds_the_average_and_nothing_else(scripts, small_run, tmp_path):
    """`export=DIR ckpt=FILE`: safetensors and config that give the averaged weights back, exactly in fp32."""
    checkpoint = small_run / "motion" / "last.ckpt"
    done = scripts.inside("train", f"ckpt={checkpoint}", f"export={tmp_path / 'whole'}")
    assert done.returncode == 0, done.stderr
    done = scripts.inside("train", f"ckpt={checkpoint}", f"export={tmp_path / 'half'}", "export_dtype=fp16")
    assert done.returncode == 0, done.stderr
    family, config = load_family(tmp_path / "whole")
    averaged = family_weights(read_checkpoint(checkpoint)["state_dict"], use_ema=True)
    assert all(torch.equal(value, averaged[key]) for key, value in family.state_dict().items())
    assert config.model.name == "magicdance" and config.music._target_ == "zoo.music.spectral.Spectral"
    with pytest.raises(ValueError, match="averaged weights only"):
        load_family(tmp_path / "whole", use_ema=False)
    raw, _ = load_family(checkpoint, use_ema=False)
    weight = "motion_denoiser.final_layer.weight"
    assert not torch.equal(raw.state_dict()[weight], averaged[weight])
    half = load_file(tmp_path / "half" / "model.safetensors")
    assert half[weight].dtype == torch.float16 and half["normalizer.low"].dtype == torch.float32
    files = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert files == ["README.md", "config.yaml", "model.safetensors"]
    refused = scripts.inside("train", f"ckpt={checkpoint}", f"export={tmp_path / 'whole'}")
    assert refused.returncode == 2 and "exists already" in refused.stderr


def test_training_starts_from_a_checkpoint(scripts, small_run, small_arguments):
    """`ckpt=` without export: a new run from the averaged weights of another."""
    checkpoint = small_run / "motion" / "last.ckpt"
    done = scripts.inside(
        "train", *small_arguments, f"ckpt={checkpoint}", "name=onward", "fit.max_steps=1", "stage=motion",
        "model.stages.motion.optimizer.lr=0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    started = family_weights(read_checkpoint(checkpoint)["state_dict"], use_ema=True)
    ended = family_weights(state(small_run.with_name("onward")), use_ema=False)
    assert all(torch.equal(started[key], ended[key]) for key in started if key.startswith("motion_denoiser."))


def test_training_starts_from_an_exported_folder_or_refuses_another_in_one_line(scripts, small_run, small_arguments):
    """`ckpt=` takes what `sample.py ckpt=` takes; a run's folder is no checkpoint."""
    folder = scripts.folder / "whole-model"
    done = scripts.inside("train", f"ckpt={small_run / 'motion' / 'last.ckpt'}", f"export={folder}")
    assert done.returncode == 0, done.stderr
    command = ["train", *small_arguments, "fit.max_steps=1", "model.stages.motion.optimizer.lr=0"]
    done = scripts.inside(*command, f"ckpt={folder}", "name=from_folder")
    assert done.returncode == 0, done.stderr
    started = load_family(folder)[0].state_dict()
    ended = family_weights(state(small_run.with_name("from_folder")), use_ema=False)
    assert all(torch.equal(started[key], ended[key]) for key in started if key.startswith("motion_denoiser."))
    for wrong, reason in ((small_run, "no exported folder"), ("magicdance-huge", "no such shipped model")):
        refused = scripts.inside(*command, f"ckpt={wrong}", "name=never")
        assert refused.returncode == 2 and reason in refused.stderr and refused.stderr.count("\n") == 1
    assert not small_run.with_name("never").exists()


@pytest.mark.parametrize("file", ["config.yaml", "motion/last.ckpt", "motion/step_0000030.ckpt"])
def test_a_run_directory_holds(small_run, file):
    """The files the documentation names; no temporary ones."""
    assert (small_run / file).is_file()
    assert not [path for path in small_run.rglob(".*")]


@pytest.mark.parametrize(
    ("has_bf16", "overrides", "precision"),
    [
        (True, [], "bf16-mixed"),
        (False, [], "32-true"),
        (False, ["trainer=ddp_32gpu"], "bf16-mixed"),
        (False, ["fit.precision=bf16-mixed"], "bf16-mixed"),
    ],
)
def test_a_cpu_without_bf16_trains_in_fp32(monkeypatch, has_bf16, overrides, precision):
    """It would emulate bf16, which takes several times as long; GPUs and explicit options keep it."""
    monkeypatch.setattr("zoo.run.train.fit.has_bf16", lambda: has_bf16)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("train", ["model=musedance", *overrides])
    supported = with_supported_precision(config)
    assert stage_training(supported, "appearance").precision == precision
    assert config.model.stages.appearance.fit.precision == "bf16-mixed", "the composed configuration stays"


def test_one_process_of_a_job_is_the_first(monkeypatch):
    """Only that one makes the run, prints and exports, whoever started the processes of however many machines."""
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert is_first_process()
    for first in ({"RANK": "0", "LOCAL_RANK": "0"}, {"SLURM_PROCID": "0"}, {"NODE_RANK": "0"}):
        with monkeypatch.context() as job:
            [job.setenv(*pair) for pair in first.items()]
            assert is_first_process()
    for other in ({"RANK": "8", "LOCAL_RANK": "0"}, {"SLURM_PROCID": "8"}, {"LOCAL_RANK": "1"}, {"NODE_RANK": "1"}):
        with monkeypatch.context() as job:
            [job.setenv(*pair) for pair in other.items()]
            assert not is_first_process()
