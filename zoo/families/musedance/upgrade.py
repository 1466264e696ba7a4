"""Configurations and state dicts of `config_version` 1 under today's names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.families.latent.upgrade import (
    RENAMED_LATENT_MODULES_V1,
    rename_modules,
    upgrade_music_modules,
    upgrade_text_encoder,
    upgrade_unet,
)

FAMILY_KEYS = {
    "song_dim": "music_token_dim",
    "mask_channels": "mask_encoder_channels",
    "listens": "music_conditions",
    "moves": "use_motion_modules",
    "past": "num_context_frames",
    "pulse": "beat_phase",
    "changes": "background_residual",
    "imagines": "predict_regions",
    "size": "resolution",
    "frames": "num_frames",
    "anchor": "adain_strength",
}
RENAMED_MODULES_V1 = RENAMED_LATENT_MODULES_V1 | {  # path of a module in a state dict of config_version 1 -> today's
    "song_tokens.pulse": "music_token_embedder.beat_phase",
    "song_tokens": "music_token_embedder",
}


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the resolved `model.family` node of a version-1 configuration."""
    node = {FAMILY_KEYS.get(name, name): value for name, value in config.items()}
    node["text_encoder"] = upgrade_text_encoder(node.pop("words"))
    node["unet"] = upgrade_unet(node["unet"])
    node["noise_schedule"] = {
        "name": node.pop("schedule"),
        "shift": node.pop("noisier"),
        "prediction_type": node.pop("prediction"),
    }
    node["sampler"] = {
        "num_inference_steps": node.pop("steps"),
        "guidance_scale": node.pop("guidance"),
        "eta": node.pop("eta"),
    }
    return node


def upgrade_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the modules of a version-1 state dict."""
    return rename_modules(upgrade_music_modules(state_dict), RENAMED_MODULES_V1)
