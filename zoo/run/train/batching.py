"""Number of processes of a trainer, and how they share the clips of an optimiser step."""

import os

import torch
from omegaconf import DictConfig, ListConfig

from zoo.data.global_batch import GlobalBatch
from zoo.run.train.stage_training import StageTraining

MAX_LOADER_WORKERS = 8  # of one process, where none are given


def loader_workers(settings: StageTraining, trainer: DictConfig) -> int:
    """Loader processes of one training process.

    Where `fit.num_workers` gives none: on GPUs the process's share of this machine's cores, without the one that it
    runs on, at most 8; 0 on CPUs, whose cores compute the steps.
    """
    if settings.num_workers is not None:
        return settings.num_workers
    if not _uses_gpu(trainer):
        return 0
    share = len(os.sched_getaffinity(0)) // _num_devices(trainer)
    return max(0, min(MAX_LOADER_WORKERS, share - 1))


def world_size(trainer: DictConfig) -> int:
    """Processes of a `trainer` node; `auto` counts what this machine has. Nothing is started."""
    return _num_devices(trainer) * int(trainer.num_nodes)


def step_batches(settings: StageTraining, num_processes: int, stage: str) -> GlobalBatch:
    """The division of a step of `stage`. Raises ValueError, one line, for more processes than clips."""
    if settings.global_batch_size is None:
        batches = settings.accumulate_grad_batches
        return GlobalBatch(settings.batch_size * batches * num_processes, num_processes, batches)
    try:
        return GlobalBatch.divide(settings.global_batch_size, num_processes, settings.batch_size)
    except ValueError as error:
        raise ValueError(f"stage {stage}: fit.{error}") from None


def store_global_batch(config: DictConfig, stage: str, batch: GlobalBatch) -> None:
    """Write a step's clips into a resolved configuration, so that a resumed run keeps them on any number of processes.

    `batch_size` stays: it limits the batch of one process.
    """
    config.model.stages[stage].fit.global_batch_size = batch.num_clips
    config.fit.global_batch_size = config.fit.accumulate_grad_batches = None


def _uses_gpu(trainer: DictConfig) -> bool:
    return trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and torch.cuda.is_available())


def _num_devices(trainer: DictConfig) -> int:
    devices = trainer.devices
    if isinstance(devices, list | tuple | ListConfig):
        return max(1, len(devices))
    if str(devices) in ("auto", "-1"):
        return max(1, torch.cuda.device_count()) if _uses_gpu(trainer) else 1
    if "," in str(devices):
        return len([name for name in str(devices).split(",") if name.strip()])
    return max(1, int(devices)) if str(devices).isdecimal() else 1  # Lightning refuses the other texts
