"""Settings of the training of one stage: read from the model's configuration and the command line, and checked."""

from dataclasses import dataclass, field, fields

from omegaconf import DictConfig

from zoo.run.config import stage_clip, to_dict
from zoo.run.validate import int_at_least, positive

# Lightning's names; 16-true, bf16-true and 64-true cannot train these models: weights and data stay float32
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16")
FUSED_OPTIMIZERS = ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD")
COMPILE_BACKENDS = ("inductor", "aot_eager", "eager")  # the last two need no compiler and save no time
LIMITS = {  # beyond, a step never ends
    "batch_size": 2**16, "global_batch_size": 2**24, "accumulate_grad_batches": 2**16, "num_workers": 2**10,
}  # fmt: skip


@dataclass(frozen=True)
class StageTraining:
    """How one stage is trained: the model's `stages.NAME.fit` and `.clip`, overridden by the command line's `fit`."""

    max_steps: int  # optimiser steps
    batch_size: int  # clips in one batch of one process; at most, where global_batch_size is set
    global_batch_size: int | None = None  # clips in one optimiser step, over all processes
    accumulate_grad_batches: int = 1  # batches in one optimiser step; without effect where global_batch_size is set
    precision: str = "32-true"  # as Lightning's Trainer names it
    activation_checkpointing: bool = False  # less memory, about a third more computation
    compile: bool = False  # torch.compile, by the modules of activation_checkpointing
    compile_backend: str = "inductor"  # of torch.compile
    gradient_clip_val: float | None = None  # norm
    fused_optimizer: bool = False  # one kernel updates all weights: torch's Adam, AdamW and SGD
    tf32: bool = False  # GPUs multiply float32 matrices in TensorFloat-32
    gradient_compression: str | None = None  # 'bf16': DDP on GPUs sends gradients in bfloat16
    max_minutes: float | None = None  # wall clock of this stage, data generation included
    num_workers: int | None = None  # loader processes; None: by the cores, see `batching.loader_workers`
    log_every_n_steps: int = 20
    val_check_interval: int = 500  # optimiser steps
    limit_val_batches: int = 8
    save_every_n_steps: int = 500
    keep_last: int = 2  # step files
    clip: dict = field(default_factory=dict)  # of zoo.data.base.WindowSpec

    def __post_init__(self) -> None:
        positive_ints = "max_steps batch_size accumulate_grad_batches log_every_n_steps val_check_interval"
        for name in f"{positive_ints} save_every_n_steps keep_last".split():
            int_at_least(getattr(self, name), f"fit.{name}", 1)
        for name in ("gradient_clip_val", "max_minutes"):
            if getattr(self, name) is not None:
                positive(getattr(self, name), f"fit.{name}")
        int_at_least(self.limit_val_batches, "fit.limit_val_batches", 0)
        if self.num_workers is not None:
            int_at_least(self.num_workers, "fit.num_workers", 0)
        if self.global_batch_size is not None:
            int_at_least(self.global_batch_size, "fit.global_batch_size", 1)
        for name, limit in LIMITS.items():
            if (getattr(self, name) or 0) > limit:
                raise ValueError(f"fit.{name}={getattr(self, name)}: it must be at most {limit}")
        for name in ("activation_checkpointing", "compile", "fused_optimizer", "tf32"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"fit.{name}={getattr(self, name)}: use true or false")
        if self.compile_backend not in COMPILE_BACKENDS:
            raise ValueError(f"fit.compile_backend={self.compile_backend}: use one of {', '.join(COMPILE_BACKENDS)}")
        if self.gradient_compression not in (None, "bf16"):
            raise ValueError(f"fit.gradient_compression={self.gradient_compression}: use bf16 or null")
        if str(self.precision) not in PRECISIONS:
            raise ValueError(f"fit.precision={self.precision}: use one of {', '.join(PRECISIONS)}")


def stage_training(config: DictConfig, stage: str) -> StageTraining:
    """The settings of one stage's training. Raises ValueError for an unknown key or a value out of range."""
    values = to_dict(config.model.stages[stage].fit) | {"clip": stage_clip(config, stage)}
    overrides = {name: value for name, value in config.fit.items() if value is not None}
    if "accumulate_grad_batches" in overrides:
        if "global_batch_size" in overrides:
            raise ValueError("fit.accumulate_grad_batches follows from fit.global_batch_size: give one of them")
        values["global_batch_size"] = None
    values |= overrides
    names = {item.name for item in fields(StageTraining)}
    unknown = sorted(values.keys() - names)
    if unknown:
        raise ValueError(f"stage {stage}: fit has no option {', '.join(unknown)}; use one of {', '.join(names)}")
    training = StageTraining(**values)
    if training.fused_optimizer:
        node = config.model.stages[stage].get("optimizer")
        optimizer = node.get("_target_") if isinstance(node, DictConfig) else node
        if optimizer not in FUSED_OPTIMIZERS:
            names_text = ", ".join(FUSED_OPTIMIZERS)
            raise ValueError(f"stage {stage}: fit.fused_optimizer is for {names_text}, not for {optimizer}")
    return training
