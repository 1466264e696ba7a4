"""Nodes of config_version 1 that several families have, with today's names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

UNET_NAMES = {
    "attends": "attention_levels",
    "layers": "layers_per_block",
    "heads": "num_attention_heads",
    "groups": "norm_num_groups",
    "places": "position_encoding",
}
TEXT_ENCODERS = {
    "HashedWords": "HashedTokenEncoder",
    "ClipWords": "ClipTokenEncoder",
    "HashedText": "HashedTextEncoder",
    "ClapText": "ClapTextEncoder",
}

RENAMED_LATENT_MODULES_V1 = {  # path of a module or buffer of latent families in a version-1 state dict -> today's
    "words": "text_encoder",
    "vae": "codec.vae",
    "latent_scale": "codec.latent_scale",
    "finder": "background.figure_segmenter",
    "seen": "background.reference_conv",
    "change_scale": "background.residual_scale",
}


def upgrade_unet(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `zoo.nn.video_unet.unet.VideoUNet`."""
    node = {UNET_NAMES.get(name, name): value for name, value in config.items()}
    if "fresh" in node:
        node["init"] = "orthogonal" if node.pop("fresh") else None
    return node


def upgrade_text_encoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a text encoder of `zoo.nn.text`."""
    module, _, name = config["_target_"].rpartition(".")
    return {**config, "_target_": f"{module}.{TEXT_ENCODERS.get(name, name)}"}


def rename_modules(state_dict: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The state dict with the modules (or tensors) at the paths `names` under their new paths."""
    renamed = {}
    for key, value in state_dict.items():
        for path, new_path in names.items():
            if key == path or key.startswith(f"{path}."):
                key = f"{new_path}{key.removeprefix(path)}"
                break
        renamed[key] = value
    return renamed


def upgrade_music_modules(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the music modules of a video U-Net, and their attention layers, in a state dict of config_version 1."""
    renamed = {}
    for name, value in state_dict.items():
        if ".songs." in name:
            name = name.replace(".songs.", ".music_modules.")
            name = name.replace(".listen.", ".cross_attention.").replace(".look.", ".temporal_attention.")
        renamed[name] = value
    return renamed
