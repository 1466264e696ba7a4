"""The models that are shipped with the package: folders assets/FAMILY-SIZE, each an export with its model card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from zoo.files import resource_root, user_path
from zoo.run.config import CONFIG_FILE, read_config

CARD_FILE, WEIGHTS_FILE = "README.md", "model.safetensors"
DEFAULT_SIZE = "tiny"
HEADER_MARK = "---"  # before and after the YAML header of a model card, which the Hugging Face hub reads, too


@dataclass(frozen=True)
class ShippedModel:
    """One shipped model. name: FAMILY-SIZE; folder: its export; megabytes: on the disk."""

    name: str
    family: str
    folder: Path
    megabytes: float

    @property
    def card(self) -> str:
        """The text of its model card, Markdown; '' where it has none."""
        file = self.folder / CARD_FILE
        return file.read_text() if file.is_file() else ""

    @property
    def header(self) -> dict[str, Any]:
        """The values of the card's YAML header, such as `training`: data, command, commit, seed, minutes, machine."""
        return yaml.safe_load(_split_card(self.card)[0]) or {}

    def __str__(self) -> str:
        lines = (line.strip() for line in _split_card(self.card)[1].splitlines() if line.strip())
        summary = next((line for line in lines if line[0].isalpha()), "")
        return f"{self.name:20} {self.family:12} {self.megabytes:5.1f} MB  {summary}".rstrip()


def _split_card(card: str) -> tuple[str, str]:
    """The YAML header of a model card, '' without one, and the text below it."""
    mark = f"{HEADER_MARK}\n"
    if not card.startswith(mark):
        return "", card
    header, _, text = card.removeprefix(mark).partition(f"\n{mark}")
    return header, text


def shipped_models() -> list[ShippedModel]:
    """Every shipped model, in the order of their names."""
    models = []
    for config_file in sorted((resource_root() / "assets").glob(f"*/{CONFIG_FILE}")):
        folder = config_file.parent
        megabytes = sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 1e6
        family = str(read_config(config_file.read_text(), config_file).model.name)
        models.append(ShippedModel(folder.name, family, folder, megabytes))
    return models


def find_model(name: str) -> Path | None:
    """The folder of a shipped model: FAMILY-SIZE, or FAMILY alone for its tiny one. None where there is no such."""
    for candidate in (name, f"{name}-{DEFAULT_SIZE}"):
        folder = resource_root() / "assets" / candidate
        if "/" not in candidate and (folder / CONFIG_FILE).is_file():
            return folder
    return None


def checkpoint_path(name: str | Path, option: str = "ckpt") -> Path:
    """The path of a checkpoint: a .ckpt, an exported folder, or a shipped model by its name. Raises ValueError."""
    path = user_path(str(name))
    if path.exists():
        return path
    folder = find_model(str(name))
    if folder is None and (resource_root() / path).exists():
        return resource_root() / path
    if folder is None:
        names = ", ".join(model.name for model in shipped_models())
        raise ValueError(f"{option}={name}: there is no such file, and no such shipped model ({names})")
    return folder
