"""From a config to the objects it names, and never to anything else."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from diffusers import SchedulerMixin
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from zoo.families.base import Family, Stage
from zoo.music.encoder import MusicEncoder

OURS = ("zoo.families.", "zoo.nn.", "zoo.diffusion.", "zoo.music.", "zoo.body.", "diffusers.")


def build_encoder(config: DictConfig) -> MusicEncoder:
    """The music encoder of a composed config, or of one that came in a file."""
    check_targets(config.music)
    return instantiate(config.music, _convert_="all")


def build_family(config: DictConfig) -> Family:
    """The untrained family of a config; writes the encoder's width into `config.model.family.music_dim`.

    Raises ValueError when a value is refused, or when the config asks for anything but a module or noise schedule.
    """
    OmegaConf.update(config, "model.family.music_dim", build_encoder(config).dim, force_add=True)
    check_targets(config.model.family)
    return instantiate(config.model.family, _convert_="all")


def build_stage(config: DictConfig, name: str, family: Family) -> Stage:
    """The stage `name` of the config's recipe, around a family."""
    for target in _targets(config.model.stages[name]):
        _find(target)
    # plain lists and dicts: an optimiser keeps what it is given in its state, and a checkpoint holds plain values only
    return instantiate(config.model.stages[name], _convert_="all")(family=family, seed=config.seed)


def check_targets(config: DictConfig) -> None:
    """Configs come inside files from anywhere: refuse, unrun, every `_target_` but the zoo's and diffusers' classes."""
    for target in _targets(config):
        if not target.startswith(OURS):
            raise ValueError(f"the config names {target}, which is no part of a family; nothing of it was run")
        found = _find(target)
        if not (isinstance(found, type) and issubclass(found, nn.Module | SchedulerMixin)):
            raise ValueError(f"the config names {target}, which is neither a module nor a noise schedule")


def _targets(config: DictConfig) -> Iterator[str]:
    waiting = [
        OmegaConf.to_container(config, resolve=True)
    ]  # resolved: an interpolation could fetch one from elsewhere
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "_target_" in node:
                yield str(node["_target_"])
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _find(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        with torch.device("cpu"):  # a module first imported inside `torch.device("meta")` would keep meta constants
            return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise ValueError(f"this program has no {target}") from None
