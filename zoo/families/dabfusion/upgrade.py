"""The family node of config_version 1, with today's names."""

from typing import Any

from zoo.families.latent.upgrade import upgrade_text_encoder

AUTOENCODER = {
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
FAMILY = {
    "size": "resolution",
    "frames": "num_frames",
    "beats": "condition_on_beats",
    "hears": "condition_on",
    "residual": "flow_residual_scale",
    "shows_regions": "condition_on_heatmaps",
    "pooled": "flow_pool_factor",
    "overlap": "num_context_frames",
}


def upgrade_config(config: dict[str, Any]) -> dict[str, Any]:
    """The `model.family` node of `DabFusion`."""
    node = {FAMILY.get(name, name): value for name, value in config.items()}
    text = node.pop("text", None)
    node["text_encoder"] = None if text is None else upgrade_text_encoder(text)
    node["autoencoder"] = {AUTOENCODER.get(name, name): value for name, value in node["autoencoder"].items()}
    node["noise_schedule"] = {"shift": node.pop("noisier"), "prediction_type": node.pop("prediction")}
    node["sampler"] = {
        "name": node.pop("rule"),
        "num_inference_steps": node.pop("steps"),
        "guidance_scale": node.pop("guidance"),
        "eta": node.pop("eta"),
        "dynamic_threshold": node.pop("threshold"),
    }
    return node
