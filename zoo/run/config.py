"""Configurations of runs and checkpoints: resolved once, stored as YAML text, read without running anything.

CONFIG_VERSION counts the layouts. `zoo/run/checkpoint_upgrade.py` brings older checkpoints to this one.
"""

from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

CONFIG_VERSION = 2
CONFIG_FILE = "config.yaml"
CLIP_KEYS = {"fps": "fps", "height": "resolution", "width": "resolution"}  # of a stage's clip <- of the family


def resolve_config(config: DictConfig) -> DictConfig:
    """A copy of a composed configuration that needs nothing else: no interpolation, its version, the music's width.

    Raises ValueError for an interpolation that leads nowhere and for an encoder that cannot be built.
    """
    from zoo.run.build import build_encoder  # late: this module is imported before torch

    resolved = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    resolved.config_version = CONFIG_VERSION
    resolved.model.family.music_dim = build_encoder(config).dim
    return resolved


def stage_clip(config: DictConfig, name: str) -> dict:
    """The window settings (`zoo.data.base`) of a stage; without its own, fps and resolution are the family's."""
    stage, family = config.model.stages[name], config.model.family
    clip = {key: family[source] for key, source in CLIP_KEYS.items() if source in family}
    return clip | OmegaConf.to_container(stage.get("clip") or OmegaConf.create({}), resolve=True)


def read_config(text: str, source: Path) -> DictConfig:
    """The configuration in a YAML text, plain values only; `source` is the file that the error message names.

    Raises ValueError when the text is not a configuration of this program.
    """
    try:
        config = OmegaConf.create(yaml.safe_load(text))
        assert isinstance(config.model.family._target_, str) and isinstance(config.music._target_, str)
        assert isinstance(config.model.name, str)
    except Exception:
        raise ValueError(f"{source} holds no configuration of this program") from None
    return config
