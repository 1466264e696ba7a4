"""Build the objects that a configuration names: encoder, family, stages, data, strategy. No configuration is changed.

Configurations also come inside checkpoints and run folders from anywhere. So every `_target_` is checked before it is
called: `check_targets` holds the one list of classes for each kind of object.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin
from hydra.utils import instantiate
from lightning.pytorch.strategies import Strategy
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from zoo.data.base import DataSource
from zoo.data.sdgpip.slices import MotionTeacher, SliceSpec
from zoo.data.world.recipe import RenderSpec
from zoo.families.base import Family, Stage
from zoo.music.beat_this import BeatThisTracker
from zoo.music.beats import BeatTracker
from zoo.music.encoder import MusicEncoder
from zoo.run.trust import is_trusted
from zoo.run.validate import check_strategy, existing_file


@dataclass(frozen=True)
class Kind:
    """What a `_target_` may name. prefixes: of class paths; classes: one of them is its base; name: for messages.

    functions: prefixes of functions that may be named too.
    """

    name: str
    prefixes: tuple[str, ...]
    classes: tuple[type, ...]
    functions: tuple[str, ...] = ()


NETWORK = Kind(
    "a module or a noise schedule",
    ("zoo.families.", "zoo.nn.", "zoo.diffusion.", "zoo.music.", "zoo.body.", "diffusers."),
    (nn.Module, SchedulerMixin),
)
STAGE = Kind("a training stage", ("zoo.families.",), (Stage,))
OPTIMIZER = Kind("an optimiser", ("torch.optim.", "timm.optim.", "zoo.nn."), (Optimizer,))
LR_SCHEDULE = Kind(
    "a learning-rate schedule", ("torch.optim.lr_scheduler.",), (LRScheduler,), ("diffusers.optimization.get_",)
)
DATA = Kind(
    "a data source",
    ("zoo.data.sources.", "zoo.data.world.", "zoo.data.sdgpip.", "zoo.run.motion_teacher."),
    (DataSource, RenderSpec, SliceSpec, MotionTeacher),
)
STRATEGY = Kind(
    "a training strategy",
    tuple(f"lightning.pytorch.strategies.{name}Strategy" for name in ("DDP", "FSDP", "ModelParallel", "SingleDevice")),
    (Strategy,),
)


def build_encoder(config: DictConfig, beat_tracker: BeatTracker | None = None) -> MusicEncoder:
    """The music encoder that `config.music` names. Raises ValueError for weights that are missing.

    beat_tracker: of its songs; None: the one without weights. A checkpoint's configuration never names it.
    """
    check_targets(config.music)
    encoder = instantiate(config.music, _convert_="all")
    if beat_tracker is not None:
        encoder.beat_tracker = beat_tracker
    return encoder


def load_beat_tracker(path: str | Path | None) -> BeatTracker | None:
    """The beat tracker of weights.beats=FILE, None without one. Raises ValueError for a file that does not fit it."""
    if path is None:
        return None
    tracker = BeatThisTracker(existing_file(path, "weights.beats"))
    assert tracker.loaded is not None  # refuses another file before anything is computed
    return tracker


def build_family(config: DictConfig) -> Family:
    """The untrained family that `config.model.family` names, for music features as wide as the encoder's.

    Raises ValueError when a value is refused, or when the config asks for anything but a module or noise schedule.
    """
    node = OmegaConf.create(OmegaConf.to_container(config.model.family, resolve=True))
    node.music_dim = build_encoder(config).dim
    check_targets(node)
    return instantiate(node, _convert_="all")


def build_source(config: DictConfig) -> DataSource:
    """The data source that `config.data` names. Raises ValueError for an untrusted class."""
    check_targets(config.data, DATA)
    return instantiate(config.data)


def build_strategy(
    strategy: str | DictConfig, gradient_compression: str | None = None, has_unused_parameters: bool = False
) -> Any:
    """Lightning's strategy: a name as it is, or the object that a configuration names. Raises ValueError for others.

    gradient_compression: 'bf16' sends gradients in bfloat16, on GPUs; only DDP can. has_unused_parameters: see `Stage`;
    DDP then does not wait for their gradients.
    """
    check_strategy(strategy)
    is_ddp = not isinstance(strategy, str) and str(strategy["_target_"]).endswith(".DDPStrategy")
    if gradient_compression is not None and not is_ddp:
        raise ValueError("fit.gradient_compression is for trainers with DDP, such as trainer=ddp_8gpu")
    if isinstance(strategy, str):
        return "ddp_find_unused_parameters_true" if strategy == "ddp" and has_unused_parameters else strategy
    check_targets(strategy, STRATEGY)
    options: dict[str, Any] = {"ddp_comm_hook": bf16_compress_hook} if gradient_compression else {}
    if is_ddp and has_unused_parameters:
        options["find_unused_parameters"] = True
    return instantiate(strategy, **options)


def build_stage(config: DictConfig, name: str, family: Family) -> Stage:
    """The training stage `name` around a family, with its optimiser and learning-rate schedule."""
    return _stage_factory(config, name)(family=family, seed=config.seed)


def required_keys(config: DictConfig, name: str, family: Family) -> tuple[str, ...]:
    """Keys of a batch that the stage `name` reads. No stage is built."""
    factory = _stage_factory(config, name)
    return factory.func.required_keys(family, **factory.keywords)


def regresses_motion(config: DictConfig, name: str) -> bool:
    """Whether the stage `name` learns one motion for each song. No stage is built."""
    return _stage_factory(config, name).func.regresses_motion


def has_unused_parameters(config: DictConfig, name: str) -> bool:
    """Whether a step of the stage `name` may leave trained parameters without a gradient. No stage is built."""
    return _stage_factory(config, name).func.has_unused_parameters


def trainable_paths(config: DictConfig, name: str, family: Family) -> list[str]:
    """Paths of the modules in the family that the stage `name` trains. No stage is built."""
    factory = _stage_factory(config, name)
    return factory.func.trainable_paths(family, **factory.keywords)


def _stage_factory(config: DictConfig, name: str) -> Any:
    """The stage class with its options, a `functools.partial` that takes family and seed."""
    node = stage_node(config, name)
    if not str(node.get("_target_", "")):
        raise ValueError(f"the stage {name} names no class: its module has no _target_")
    nested = {key: value for key, value in node.items() if key not in ("_target_", "optimizer", "lr_schedule")}
    check_targets(OmegaConf.create({"_target_": node["_target_"]}), STAGE)
    check_targets(OmegaConf.create(nested))
    import zoo.nn.optim  # noqa: F401  # before the optimiser imports timm: without the temporary folders of wandb

    check_targets(OmegaConf.create({"node": node.get("optimizer")}), OPTIMIZER)
    check_targets(OmegaConf.create({"node": node.get("lr_schedule")}), LR_SCHEDULE)
    # plain lists and dicts: an optimiser keeps its arguments in its state, and a checkpoint holds plain values only
    return instantiate(node, _convert_="all")


def stage_node(config: DictConfig, name: str) -> DictConfig:
    """The constructor node of a stage: its `module`, with its `optimizer` and `lr_schedule` as arguments."""
    stage = config.model.stages[name]
    values = OmegaConf.to_container(stage, resolve=True)
    return OmegaConf.create(
        values["module"] | {"optimizer": values["optimizer"], "lr_schedule": values.get("lr_schedule")}
    )


def check_targets(config: DictConfig, kind: Kind = NETWORK) -> None:
    """Raises ValueError, before anything runs, for an untrusted `_target_` (`zoo.run.trust`) or one of another kind."""
    for target in _targets(config):
        if not target.startswith(kind.prefixes + kind.functions) and not is_trusted(target):
            raise ValueError(
                f"the config names {target}, which is no part of the zoo; nothing of it was run. "
                f"If you trust it: trusted_modules=[{target.partition('.')[0]}]"
            )
        value = _import_target(target)
        is_function = callable(value) and target.startswith(kind.functions) if kind.functions else False
        if not is_function and not (isinstance(value, type) and issubclass(value, kind.classes)):
            raise ValueError(f"the config names {target}, which is not {kind.name}")


def _targets(config: DictConfig) -> Iterator[str]:
    """Every `_target_` of a resolved config: an interpolation could bring one from elsewhere."""
    pending = [OmegaConf.to_container(config, resolve=True)]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if "_target_" in node:
                yield str(node["_target_"])
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


def _import_target(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        with torch.device("cpu"):  # a module first imported inside `torch.device("meta")` would keep meta constants
            return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise ValueError(f"this program has no {target}") from None
