"""DabFusion with the settings of size=paper, or changed ones."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from zoo.families.dabfusion.family import DabFusion

CONF = Path(__file__).parents[1] / "conf" / "model" / "dabfusion"


def dabfusion(music_dim: int = 5, **changes: Any) -> DabFusion:
    """An untrained family; changes are merged into the configuration of size=paper."""
    nodes = [OmegaConf.load(CONF / f"{name}.yaml").family for name in ("base", "paper")]
    node = OmegaConf.to_container(OmegaConf.merge(*nodes, {"music_dim": music_dim}, changes))
    del node["_target_"]
    return DabFusion(**{"text_encoder": None} | node)
