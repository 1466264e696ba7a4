"""Callbacks of a training: save it, show its progress, and end it in time."""

import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from zoo.files import replacing
from zoo.run.checkpoint import RANDOM_PARAMETERS
from zoo.run.signals import SignalState


def _is_step_end(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the batch that ends was a step's last: gradients that are being accumulated are in no checkpoint."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class WallClockLimit(Callback):
    """Ends a training at a wall-clock time; every process stops at the same step. Stands before `CheckpointSaver`."""

    def __init__(self, deadline: float):
        """deadline: as `time.monotonic()` counts, seconds."""
        self.deadline = deadline

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The first process decides, after a whole step."""
        if _is_step_end(trainer, batch_idx) and trainer.strategy.broadcast(time.monotonic() >= self.deadline):
            trainer.should_stop = True


class SignalStop(Callback):
    """Ends a training after the step in which one of its processes received a signal. Stands before `CheckpointSaver`.

    Outside of the steps a signal raises `Stopped` at once.
    """

    def __init__(self, state: SignalState):
        self.state = state

    def on_train_start(self, trainer: Trainer, stage: LightningModule) -> None:
        """From now on a signal waits for the end of a step."""
        self.state.is_deferred = True

    def on_train_batch_end(
        self, trainer: Trainer, stage: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """All processes agree, after a whole step."""
        if _is_step_end(trainer, batch_idx) and _any_process(trainer, bool(self.state.signum)):
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # Lightning would validate before it stops, but a job has seconds left
            self.state.signum = self.state.signum or signal.SIGTERM  # another process received it

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Also after an error."""
        self.state.is_deferred = False


class TrainingDiverged(ValueError):
    """A loss, a gradient or a weight is not finite."""


class FiniteCheck(Callback):
    """Ends a training whose loss or weights are not finite by TrainingDiverged. Stands before `CheckpointSaver`.

    A gradient that is not finite makes the weights so; fp16's loss scale skips such a step by itself.
    """

    def __init__(self, name: str):
        """name: of the stage."""
        self.name = name
        self._keys: list[str] = []  # of the windows of this step
        self._is_loss_finite = True

    def on_train_batch_end(
        self, trainer: Trainer, stage: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check a whole step on all processes."""
        self._keys += batch.get("key", []) if isinstance(batch, Mapping) else []
        self._is_loss_finite &= bool(outputs["loss"].isfinite())
        if not _is_step_end(trainer, batch_idx):
            return
        is_finite = self._is_loss_finite and _all_finite(stage.parameters())
        if _any_process(trainer, not is_finite):
            problem = "a gradient is" if self._is_loss_finite else "the loss is"
            raise TrainingDiverged(
                f"stage {self.name}, step {trainer.global_step}: {problem} not finite; "
                f"the last checkpoint stays as it is (windows {', '.join(self._keys)})"
            )
        self._keys, self._is_loss_finite = [], True


def _any_process(trainer: Trainer, condition: bool) -> bool:
    return condition if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(condition, all=False)


def _all_finite(values: Iterable[Tensor]) -> bool:
    """Whether all trained values of this process are finite."""
    tensors = [value.detach() for value in values if value.requires_grad]
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return bool(torch.nn.utils.get_total_norm([tensor for tensor in local if tensor.numel()], math.inf).isfinite())


class CheckpointSaver(Callback):
    """Writes step_0001000.ckpt every so many steps and at the end. `last.ckpt` is a hard link to the newest."""

    def __init__(
        self, folder: Path, every: int, keep: int, config: str, stage_name: str, random_names: Iterable[str] = ()
    ):
        """every: steps between files; keep: step files left in the folder; config: resolved, as YAML text.

        random_names: parameters that no stage has trained and no file has given, after this stage.
        """
        self.folder, self.every, self.keep = folder, every, keep
        self.config, self.stage_name, self.random_names = config, stage_name, sorted(random_names)
        self._last_saved_step = -1

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        """Everything `sample.py` needs besides the weights."""
        checkpoint["config"], checkpoint["stage"] = self.config, self.stage_name
        checkpoint[RANDOM_PARAMETERS] = self.random_names

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save here and nowhere else: Lightning knows how to go on from this point of its loop."""
        if not _is_step_end(trainer, batch_idx):
            return
        step = trainer.global_step
        is_last = trainer.should_stop or step >= trainer.max_steps
        if step == self._last_saved_step or not (is_last or step % self.every == 0):
            return
        self._last_saved_step = step
        file = self.folder / f"step_{step:07d}.ckpt"
        trainer.save_checkpoint(file)
        if trainer.is_global_zero:
            self._link_last_and_prune(file)

    def _link_last_and_prune(self, file: Path) -> None:
        """Make `last.ckpt` a link to a step file, or its copy, and delete all but the newest `keep` step files."""
        with replacing(self.folder / "last.ckpt") as temporary_link:
            try:
                os.link(file, temporary_link)
            except OSError:  # a file system without hard links
                shutil.copyfile(file, temporary_link)
        for outdated in sorted(self.folder.glob("step_*.ckpt"))[: -self.keep or None]:
            outdated.unlink(missing_ok=True)


class ProgressBar(Callback):
    """One bar with step, loss, speed and the time left; a line every half minute where there is no terminal."""

    def __init__(self, name: str, log_every: int, clips_per_step: int, deadline: float | None):
        """clips_per_step: over all processes; deadline: as `time.monotonic()` counts."""
        self.name, self.log_every, self.clips_per_step, self.deadline = name, log_every, clips_per_step, deadline
        self._bar: tqdm | None = None
        self._last_log_time, self._last_log_step = 0.0, 0  # seconds of `time.monotonic()`

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin where a resumed run left off."""
        self._last_log_time, self._last_log_step = time.monotonic(), trainer.global_step
        if trainer.is_global_zero:
            is_terminal = sys.stderr.isatty()
            self._bar = tqdm(
                total=trainer.max_steps, initial=trainer.global_step, desc=self.name, unit="step", dynamic_ncols=True,
                mininterval=0.2 if is_terminal else 30, maxinterval=10 if is_terminal else 30, miniters=1,
            )  # fmt: skip

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Move the bar by whole optimiser steps and log the speed."""
        step = trainer.global_step
        if step % self.log_every == 0 and step > self._last_log_step:
            now = time.monotonic()
            steps_per_second = (step - self._last_log_step) / (now - self._last_log_time)
            self._last_log_time, self._last_log_step = now, step
            pl_module.log("train/clips_per_second", steps_per_second * self.clips_per_step, batch_size=1)
            if self._bar is not None:
                postfix = {"loss": f"{float(trainer.callback_metrics.get('train/loss', float('nan'))):.4f}"}
                if "val/loss" in trainer.callback_metrics:
                    postfix["val"] = f"{float(trainer.callback_metrics['val/loss']):.4f}"
                if self.deadline is not None:
                    postfix["ends_in"] = tqdm.format_interval(max(0, self.deadline - now))
                self._bar.set_postfix(postfix, refresh=False)
        if self._bar is not None and step > self._bar.n:
            self._bar.update(step - self._bar.n)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the last state on the screen, also after an error."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
