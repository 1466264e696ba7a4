"""What watches a training, by itself: saved and ended after whole steps only, also where a step is several batches."""

import os
import time
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer

from zoo.files import remove_partial_files
from zoo.run.checkpoint import AtomicCheckpoint, read_checkpoint
from zoo.run.signals import SignalState
from zoo.run.train.callbacks import CheckpointSaver, FiniteCheck, SignalStop, TrainingDiverged, WallClockLimit
from zoo.run.train.runs import latest_checkpoint


class Line(LightningModule):
    """Fits one value."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, index):
        return (self.weight * batch - 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, steps, ckpt_path=None, ends=None, model=None, state=None):
    """A training of two batches a step, saved every other step; -> (weight, names of step files)."""
    first = 2 * read_checkpoint(ckpt_path)["global_step"] if ckpt_path else 0
    model, batches = model or Line(), torch.utils.data.DataLoader(torch.arange(first, 100.0) / 100)
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, accumulate_grad_batches=2, plugins=[AtomicCheckpoint()],
        logger=False, num_sanity_val_steps=0, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.callbacks += [
        *([WallClockLimit(ends)] if ends is not None else []),
        *([SignalStop(state)] if state is not None else []),
        FiniteCheck("line"),
        CheckpointSaver(folder, 2, 9, "", "line"),
    ]
    trainer.fit(model, batches, batches, ckpt_path=ckpt_path, weights_only=True)
    return model.weight.item(), sorted(file.name for file in folder.glob("step_*"))


def test_only_whole_steps_are_saved(tmp_path):
    """No file before the first step, and resuming from a file does not write it again in the middle of the next one."""
    _, names = fit(tmp_path, 4)
    assert names == ["step_0000002.ckpt", "step_0000004.ckpt"]
    before = (tmp_path / "step_0000004.ckpt").read_bytes()
    _, names = fit(tmp_path, 6, tmp_path / "step_0000004.ckpt")
    assert names == ["step_0000002.ckpt", "step_0000004.ckpt", "step_0000006.ckpt"]
    assert (tmp_path / "step_0000004.ckpt").read_bytes() == before


def test_a_deadline_ends_after_a_whole_step(tmp_path):
    """What is passed already ends the training after its first step, not after its first batch."""
    weight, names = fit(tmp_path / "timed", 1000, ends=time.monotonic())
    assert names == ["step_0000001.ckpt"]
    assert read_checkpoint(tmp_path / "timed" / "last.ckpt")["global_step"] == 1
    assert weight == pytest.approx(fit(tmp_path / "one", 1)[0]) and weight != 1


def test_a_signal_ends_after_a_whole_step(tmp_path):
    """In the middle of a step: its second batch still comes, and the step is saved. No validation delays the end."""
    state = SignalState()

    class Signalled(Line):
        def training_step(self, batch, index):
            if index == 4:  # the first batch of the third step
                assert state.is_deferred
                state.handle(15, None)
            return super().training_step(batch, index)

        def validation_step(self, batch, index):
            raise AssertionError("a stopped training must not validate")

    _, names = fit(tmp_path, 1000, model=Signalled(), state=state)
    assert names == ["step_0000002.ckpt", "step_0000003.ckpt"] and not state.is_deferred
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 3


@pytest.mark.parametrize("problem", ["loss", "gradient", "weight"])
def test_a_diverged_training_keeps_the_last_good_checkpoint(tmp_path, problem):
    """One line with stage and step; the step that diverged, the fourth, is not saved though it was its turn."""

    class Diverging(Line):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            if index < 6:
                return loss
            if problem == "gradient":
                self.weight.register_hook(lambda gradient: gradient * float("nan"))
            return {"loss": loss * float("inf"), "gradient": loss, "weight": 3e38 * self.weight.sum()}[problem]

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e2 if problem == "weight" else 0.1)

    with pytest.raises(TrainingDiverged, match="stage line, step 4: (the loss|a gradient) is not finite"):
        fit(tmp_path, 1000, model=Diverging())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt", "step_0000002.ckpt"]
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2


class Killed(BaseException):
    """Ends a training where SIGKILL may."""


def kill_at(monkeypatch, moment: int) -> None:
    """Let the n-th change of the disk that a checkpoint makes be the last thing that happens."""
    count = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count >= moment:
                raise Killed
            return function(*args, **kwargs)

        return call

    for owner, name in ((os, "replace"), (os, "link"), (os, "fsync"), (Path, "unlink"), (torch, "save")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weight and the files of a training of six steps."""
    return fit(tmp_path_factory.mktemp("whole"), 6)


@pytest.mark.parametrize("moment", [4, 7, *range(10, 19)])  # a save changes the disk nine times
def test_killed_at_any_moment_of_a_save_ends_with_the_same_weights(tmp_path, monkeypatch, undisturbed, moment):
    """What is left resumes to the undisturbed weights, bit for bit."""
    with monkeypatch.context() as patch:
        kill_at(patch, moment)
        with pytest.raises(Killed):
            fit(tmp_path, 6)
    remove_partial_files(tmp_path)
    assert fit(tmp_path, 6, latest_checkpoint(tmp_path)) == undisturbed
    assert not list(tmp_path.glob(".*"))
