"""Configurations of `config_version` 1 under today's names."""

from typing import Any

from zoo.families.latent.upgrade import upgrade_text_encoder

AUTOENCODER_KEYS = {
    "regions": "num_regions",
    "width": "base_channels",
    "most": "max_channels",
    "downs": "num_down_blocks",
    "bottleneck": "num_bottleneck_blocks",
    "region_width": "region_base_channels",
    "flow_width": "flow_base_channels",
    "hourglass_most": "hourglass_max_channels",
    "hourglass_blocks": "num_hourglass_blocks",
    "background_width": "background_base_channels",
    "fine": "flow_upsample",
    "limbs": "limb_regions",
    "folded": "pixel_unshuffle_input",
}
UNET_KEYS = {
    "music_dim": "music_dim",
    "width": "base_channels",
    "multiples": "channel_multipliers",
    "heads": "num_attention_heads",
    "patch": "patch_size",
}
FAMILY_KEYS = {
    "_target_": "_target_",
    "music_dim": "music_dim",
    "size": "resolution",
    "frames": "num_frames",
    "fps": "fps",
    "overlap": "num_context_frames",
    "hears": "condition_on",
    "beats": "condition_on_beats",
    "shows_regions": "condition_on_heatmaps",
    "residual": "flow_residual_scale",
    "pooled": "flow_pool_factor",
}
NOISE_SCHEDULE_KEYS = {"noisier": "shift", "prediction": "prediction_type"}
SAMPLER_KEYS = {
    "rule": "name",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "eta": "eta",
    "threshold": "dynamic_threshold",
}
# values of the version-1 constructors, which configurations could leave out
FAMILY_DEFAULTS = {
    "size": 128, "frames": 40, "fps": 12, "beats": None, "hears": "music", "text": None, "prediction": "epsilon",
    "residual": None, "shows_regions": False, "pooled": 1, "noisier": 1.0, "threshold": 0.9, "steps": 100,
    "guidance": 1.0, "eta": 1.0, "rule": "ddim", "overlap": 0,
}  # fmt: skip
AUTOENCODER_DEFAULTS = {
    "regions": 10, "width": 64, "most": 512, "downs": 2, "bottleneck": 6, "region_width": 32, "flow_width": 64,
    "hourglass_most": 1024, "hourglass_blocks": 5, "background_width": 32, "fine": 1, "limbs": False, "folded": False,
}  # fmt: skip
UNET_DEFAULTS = {"music_dim": 768, "width": 64, "multiples": [1, 2, 4, 8], "heads": 8, "patch": 1}


def upgrade_config(node: dict[str, Any]) -> dict[str, Any]:
    """Convert the resolved `model.family` node of a version-1 configuration."""
    values = FAMILY_DEFAULTS | node
    text_encoder = values["text"]
    return _rename(values, FAMILY_KEYS) | {
        "text_encoder": None if text_encoder is None else upgrade_text_encoder(text_encoder),
        "autoencoder": _rename(AUTOENCODER_DEFAULTS | node["autoencoder"], AUTOENCODER_KEYS),
        "unet": _rename(UNET_DEFAULTS | node["unet"], UNET_KEYS),
        "noise_schedule": {"name": "cosine"} | _rename(values, NOISE_SCHEDULE_KEYS),
        "sampler": _rename(values, SAMPLER_KEYS),
    }


def _rename(node: dict[str, Any], keys: dict[str, str]) -> dict[str, Any]:
    return {new: node[old] for old, new in keys.items() if old in node}
