"""DabFusion with the settings of size=paper, or changed ones."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from zoo.families.dabfusion.family import DabFusion

CONF = Path(__file__).parents[1] / "conf" / "model" / "dabfusion"


def family_node(size: str, music_dim: int = 35, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The configured `model.family` of a size, with changes merged into it."""
    nodes = [OmegaConf.load(CONF / f"{name}.yaml").family for name in ("base", size)]
    return OmegaConf.to_container(OmegaConf.merge(*nodes, {"music_dim": music_dim}, changes or {}))


def dabfusion(music_dim: int = 5, **changes: Any) -> DabFusion:
    """An untrained family of size=paper, conditioned on music, with changes merged into its configuration."""
    node = family_node("paper", music_dim, changes)
    del node["_target_"]
    return DabFusion(**node | {"text_encoder": None})
