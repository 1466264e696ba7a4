"""Size of a training, computed on the meta device: nothing is allocated."""

from collections.abc import Callable

import torch
from omegaconf import DictConfig

from zoo.run.build import build_family, build_stage
from zoo.run.train.batching import step_batches, world_size
from zoo.run.train.runs import stage_names
from zoo.run.train.stage_training import stage_training


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
    target = "" if isinstance(config.trainer.strategy, str) else config.trainer.strategy._target_
    shards = config.trainer.strategy.data_parallel_size if target.endswith("ModelParallelStrategy") else 1
    size = 4 * ((parameters - learning) + learning * copies / shards)
    return {"parameters": parameters, "learning": learning, "gigabytes": size / 1e9}


def print_plan(config: DictConfig) -> None:
    """Two lines a stage: its size, and the clips of a step, or why the processes cannot share them."""
    for stage in stage_names(config):
        counts = plan(config, stage)
        millions = f"{counts['parameters'] / 1e6:.1f} M parameters, {counts['learning'] / 1e6:.1f} M learn"
        print(f"{config.model.name} {stage}: {millions}; {counts['gigabytes']:.2f} GB a process, activations besides")
        try:
            print(f"  {step_batches(stage_training(config, stage), world_size(config.trainer), stage)}")
        except ValueError as error:
            print(f"  cannot train: {error}")


def _optimizer_values(make_optimizer: Callable[..., torch.optim.Optimizer]) -> float:
    """Values an optimiser keeps for each value it trains: 2 for Adam."""
    probe = torch.nn.Parameter(torch.zeros(64, 64))
    probe.grad = torch.ones_like(probe)
    optimizer = make_optimizer([probe])
    optimizer.step()
    return sum(v.numel() for v in optimizer.state[probe].values() if torch.is_tensor(v)) // probe.numel()
