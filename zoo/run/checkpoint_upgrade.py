"""Bring checkpoints of an older `config_version` to today's configuration and state-dict keys.

Each family knows its own names: `Family.upgrade` holds its table. Classes outside the families stand in TARGETS.

| version | layout                                                                                     |
|---------|--------------------------------------------------------------------------------------------|
| 1       | up to commit af8ef85: no `config_version`, options by their old names, `model.fit`         |
| 2       | `model.stages.NAME.{module,optimizer,lr_schedule,clip,fit}`, options by the field's terms  |
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from zoo.run.build import check_targets
from zoo.run.config import CONFIG_VERSION

TARGETS: dict[str, str] = {}  # class path of a music encoder in version 1 -> today's


def upgrade_checkpoint(
    config: DictConfig, weights: Mapping[str, Tensor], source: str | Path
) -> tuple[DictConfig, dict[str, Tensor]]:
    """The configuration and the family's state dict of a checkpoint, as this version names them.

    Of an older configuration only what builds the family and its music encoder is left. Raises ValueError, naming the
    file `source`, for a version that this program does not know.
    """
    version = config.get("config_version", 1)
    if version == CONFIG_VERSION:
        return config, dict(weights)
    if version not in range(1, CONFIG_VERSION):
        raise ValueError(
            f"{source}: its configuration has version {version}, this program reads versions 1 to {CONFIG_VERSION}"
        )
    node = OmegaConf.to_container(config.model.family, resolve=True)
    check_targets(OmegaConf.create({"_target_": node["_target_"]}))
    cls: Any = get_class(node["_target_"])
    family, upgraded_weights = cls.upgrade(node, dict(weights), version)
    plain = OmegaConf.to_container(config, resolve=True)
    music = plain["music"] | {"_target_": TARGETS.get(plain["music"]["_target_"], plain["music"]["_target_"])}
    model = {"name": plain["model"]["name"], "family": family}
    other_entries = {name: plain[name] for name in ("size", "seed") if name in plain}
    return OmegaConf.create(
        {"config_version": CONFIG_VERSION, "model": model, "music": music, **other_entries}
    ), upgraded_weights
