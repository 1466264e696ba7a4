"""Configurations of runs and checkpoints: resolved once, stored as YAML text, read without running anything.

CONFIG_VERSION counts the layouts. `zoo/run/checkpoint_upgrade.py` brings older checkpoints to this one.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from zoo.files import conf_folder

CONFIG_VERSION = 2
CONFIG_FILE = "config.yaml"
# of a configuration in a file; ours have 10,000 characters, 500 values, the longest of 100, and are 6 deep
MAX_CHARACTERS, MAX_VALUES, MAX_SCALAR, MAX_DEPTH = 200_000, 5_000, 4_000, 32
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


def load_renderer(options: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The node of conf/renderer/NAME.yaml, see `load_choice`."""
    return load_choice("renderer", options)


def load_choice(group: str, options: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The node of conf/GROUP/NAME.yaml, with the user's options on top; None without a name.

    options: `name` and the node's own. Folders of Hydra's search path are looked through too. Raises ValueError for an
    unknown name or option.
    """
    chosen = {key: value for key, value in (options or {}).items() if value is not None or key != "name"}
    if "name" not in chosen:
        if chosen:
            raise ValueError(f"{group}.{next(iter(chosen))}= needs {group}=NAME; use one of {_names(group)}")
        return None
    file = config_files(group).get(str(chosen["name"]))
    if file is None:
        raise ValueError(f"{group}={chosen['name']}: use one of {_names(group)}")
    node = to_dict(OmegaConf.load(file))
    unknown = [key for key in chosen if key not in node]
    if unknown:
        raise ValueError(f"{group}={chosen['name']} has no option {unknown[0]}")
    return node | chosen


def config_folders() -> list[Path]:
    """Folders of configuration: the zoo's own, then those that `hydra.searchpath` adds to this command."""
    from hydra.core.hydra_config import HydraConfig

    folders = [conf_folder()]
    if HydraConfig.initialized():
        for source in HydraConfig.get().runtime.config_sources:
            if source.schema == "file":
                folders.append(Path(source.path))
            elif source.schema == "pkg" and source.provider not in ("hydra", "main"):
                folders.append(Path(str(files(source.path))))
    return list(dict.fromkeys(folders))


def config_files(group: str) -> dict[str, Path]:
    """Name -> YAML file of a configuration group, sorted by name. The zoo's own files come first."""
    paths = [path for folder in config_folders() for path in (folder / group).glob("*.yaml")]
    return {path.stem: path for path in sorted(reversed(paths), key=lambda path: path.stem)}


def _names(group: str) -> str:
    return ", ".join(config_files(group))


def to_dict(node: Any) -> dict[str, Any]:
    """A configuration node as plain, resolved values."""
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def stage_clip(config: DictConfig, name: str) -> dict:
    """The window settings (`zoo.data.base`) of a stage; without its own, fps and resolution are the family's."""
    stage, family = config.model.stages[name], config.model.family
    clip = {key: family[family_key] for key, family_key in CLIP_KEYS.items() if family_key in family}
    return clip | OmegaConf.to_container(stage.get("clip") or OmegaConf.create({}), resolve=True)


def read_config(text: str, source: Path) -> DictConfig:
    """The configuration in a YAML text that came in the file `source`, plain values only. Its one reader.

    Raises ValueError for a text that is no configuration of this program, and before it is parsed for one that could
    hang it or read the environment: the limits MAX_...; no alias, no tag, no interpolation.
    """
    reason = _hostile_reason(text)
    if reason:
        raise ValueError(f"{source}: its configuration {reason}; nothing of it was used")
    try:
        config = OmegaConf.create(yaml.safe_load(text))
        assert isinstance(config.model.family._target_, str) and isinstance(config.music._target_, str)
        assert isinstance(config.model.name, str)
    except Exception:
        raise ValueError(f"{source} holds no configuration of this program") from None
    return config


def _hostile_reason(text: Any) -> str | None:
    """What no configuration that this program wrote has; None for a harmless text."""
    if not isinstance(text, str):
        return "is no text"
    if len(text) > MAX_CHARACTERS:
        return f"is longer than {MAX_CHARACTERS} characters"
    if "${" in text:
        return "holds an interpolation"
    depth = count = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                return "holds an alias"
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                return f"is nested more than {MAX_DEPTH} deep"
            count += 1
            if count > MAX_VALUES:
                return f"holds more than {MAX_VALUES} values"
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR:
                return f"holds a value of more than {MAX_SCALAR} characters"
    except (yaml.YAMLError, ValueError, RecursionError):
        return "is no YAML"
    return None
