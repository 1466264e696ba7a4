"""What watches a training, by itself: saved and ended after whole steps only, also where a step is several batches."""

import time

import pytest
import torch
from lightning import LightningModule, Trainer

from zoo.run.checkpoint import AtomicCheckpoint, read_checkpoint
from zoo.run.train.callbacks import CheckpointSaver, WallClockLimit


class Line(LightningModule):
    """Fits one value."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, index):
        return (self.weight * batch - 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, steps, ckpt_path=None, ends=None):
    """A training of two batches a step, saved every other step; -> (weight, names of step files)."""
    model, batches = Line(), torch.utils.data.DataLoader(torch.arange(100.0) / 100)
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, accumulate_grad_batches=2, plugins=[AtomicCheckpoint()],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.callbacks += [
        *([WallClockLimit(ends)] if ends is not None else []),
        CheckpointSaver(folder, 2, 9, "", "line"),
    ]
    trainer.fit(model, batches, ckpt_path=ckpt_path, weights_only=True)
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
