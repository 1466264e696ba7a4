"""Size of a training: counts on the meta device, and memory and arithmetic of a simulated step (`plan=true`)."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from zoo.batch import Batch
from zoo.data.base import WindowSpec
from zoo.families.base import Stage
from zoo.run.build import build_encoder, build_family, build_stage, required_keys
from zoo.run.train.batching import step_batches, world_size
from zoo.run.train.runs import stage_names
from zoo.run.train.stage_training import StageTraining, stage_training
from zoo.run.validate import training_seed

if TYPE_CHECKING:
    from zoo.run.train.simulated_step import StepMemory

GPU_MEMORY = (16, 24, 40, 48, 80, 141, 192)  # GB of common GPUs
CONTEXT_GB = 1.5  # CUDA's context, cuDNN's and NCCL's buffers: not measured here
FRAGMENTATION = 0.05  # of the peak, that the allocator cannot use: not measured here
PEAK_TFLOPS = {"A100": 312.0, "H100": 989.0}  # dense bf16
UTILIZATION = 0.35  # of that, which the days assume


def plan(config: DictConfig, stage: str) -> dict[str, float]:
    """Counts of one stage: `parameters`, `learning`, and `gigabytes` of one process.

    The gigabytes are float32 weights, their average, gradients, and what the optimiser keeps for each learning value
    (measured by one step on a small tensor); activations come on top. Sharded trainers divide what learns by their
    processes.
    """
    with torch.device("meta"):
        family = build_family(config)
        module = build_stage(config, stage, family)
    parameters = sum(p.numel() for p in family.parameters())
    learning = sum(p.numel() for p in family.parameters() if p.requires_grad)
    copies = 1 + 1 + (module.ema is not None) + _optimizer_values(module.make_optimizer)
    size = 4 * ((parameters - learning) + learning * copies / _num_shards(config))
    return {"parameters": parameters, "learning": learning, "gigabytes": size / 1e9}


def plan_step(
    config: DictConfig, stage: str, settings: StageTraining, batch_size: int, num_batches: int, on_gpu: bool = True
) -> "StepMemory":
    """Simulate steps of a stage with `batch_size` clips a process. The configuration's modules were imported before.

    on_gpu: False follows the rules of CPUs.
    """
    from zoo.run.train.simulated_step import example_batch, simulate_step  # takes seconds

    def build() -> tuple[Stage, Batch]:
        family = build_family(config)
        module = build_stage(config, stage, family)
        if settings.activation_checkpointing:
            module.checkpoint_activations()
        if settings.fused_optimizer:
            module.make_optimizer = partial(module.make_optimizer, fused=True)
        keys = required_keys(config, stage, family)
        return module, example_batch(keys, WindowSpec(**settings.clip), build_encoder(config), batch_size)

    num_shards = _num_shards(config)
    keep_gradients = (world_size(config.trainer) > 1 and num_shards == 1) or num_batches > 1
    return simulate_step(build, settings.precision, keep_gradients, num_shards=num_shards, on_gpu=on_gpu)


def print_plan(config: DictConfig, simulate: bool = False) -> None:
    """Lines of each stage: its size, and the clips of a step, or why the processes cannot share them.

    simulate: also memory and arithmetic, by `simulate_step`. The process must not train afterwards.
    """
    training_seed(config.seed)
    for stage in stage_names(config):
        counts = plan(config, stage)
        millions = f"{counts['parameters'] / 1e6:.1f} M parameters, {counts['learning'] / 1e6:.1f} M learn"
        print(f"{config.model.name} {stage}: {millions}; {counts['gigabytes']:.2f} GB a process, activations besides")
        settings = stage_training(config, stage)
        try:
            batch = step_batches(settings, world_size(config.trainer), stage)
        except ValueError as error:  # fewer clips than processes
            print(f"  cannot train: {error}", flush=True)
            assert settings.global_batch_size is not None
            batch = step_batches(settings, settings.global_batch_size, stage)
        print(f"  {batch}", flush=True)
        if simulate:
            try:
                memory = plan_step(config, stage, settings, batch.batch_size, batch.num_batches)
            except (RuntimeError, InstantiationException) as error:  # an operator whose result depends on values
                cause = error.__cause__ if isinstance(error, InstantiationException) else error
                if not isinstance(cause, RuntimeError):
                    raise
                print(f"  memory is unknown, the step cannot be simulated ({type(cause).__name__})", flush=True)
                continue
            for line in describe_step(memory, settings, batch.num_batches, batch.world_size):
                print(f"  {line}", flush=True)


def describe_step(memory: "StepMemory", settings: StageTraining, num_batches: int, num_processes: int) -> list[str]:
    """Lines on the memory of a process, and on the duration of the training on GPUs."""
    total = max(memory.peak, memory.optimizer_peak) / 1e9
    needed = total * (1 + FRAGMENTATION) + CONTEXT_GB
    gpu = next((size for size in GPU_MEMORY if size >= needed), None)
    parts = ", ".join(
        f"{name} {value / 1e9:.2f}"
        for name, value in (
            ("weights", memory.weights), ("gradients", memory.gradients), ("optimiser", memory.optimizer),
            ("activations" if memory.peak > memory.optimizer_peak else "copies of the optimiser", memory.activations),
        )
    )  # fmt: skip
    lines = [
        f"peak of a process on a GPU: {total:.2f} GB ({parts})",
        f"with {CONTEXT_GB} GB of context and {FRAGMENTATION:.0%} fragmentation: {needed:.1f} GB, "
        + (f"fits a GPU of {gpu} GB" if gpu else "fits no GPU"),
    ]
    flops = memory.flops * num_batches
    text = (
        f"{flops / 1e12:.4g} TFLOP a process and step, {settings.max_steps} steps; at {UTILIZATION:.0%} utilisation: "
    )
    days = {
        name: flops * settings.max_steps / (peak * 1e12 * UTILIZATION) / 86400 for name, peak in PEAK_TFLOPS.items()
    }
    text += ", ".join(f"{value:.2g} days on {num_processes} {name}" for name, value in days.items())
    return [*lines, text]


def _num_shards(config: DictConfig) -> int:
    target = "" if isinstance(config.trainer.strategy, str) else config.trainer.strategy._target_
    return config.trainer.strategy.data_parallel_size if target.endswith("ModelParallelStrategy") else 1


def _optimizer_values(make_optimizer: Callable[..., torch.optim.Optimizer]) -> float:
    """Values an optimiser keeps for each value it trains: 2 for Adam."""
    probe = torch.nn.Parameter(torch.zeros(64, 64))
    probe.grad = torch.ones_like(probe)
    optimizer = make_optimizer([probe])
    optimizer.step()
    return sum(v.numel() for v in optimizer.state[probe].values() if torch.is_tensor(v)) // probe.numel()
