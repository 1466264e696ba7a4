"""Checkpoints of config_version 1: the shipped one as it was, and the names of the renderer's networks."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo.families.latent.upgrade import rename_modules
from zoo.families.magicdance.family import RENAMED_MODULES_V1, MagicDance
from zoo.run.checkpoint import load_family

SHIPPED = Path(__file__).parents[1] / "assets" / "magicdance-tiny"
CONFIG_V1 = Path(__file__).parent / "data" / "magicdance_version1.yaml"


def test_a_version_1_folder_loads_as_the_shipped_one(tmp_path):
    """Its configuration is the text of version 1; its tensors have the names of version 1."""
    weights = load_file(SHIPPED / "model.safetensors")
    version_1 = rename_modules(weights, {new: old for old, new in RENAMED_MODULES_V1.items()})
    assert any(name.startswith("decoder.") for name in version_1)
    save_file(version_1, tmp_path / "model.safetensors")
    (tmp_path / "config.yaml").write_text(CONFIG_V1.read_text())
    (upgraded, config), (shipped, shipped_config) = load_family(tmp_path), load_family(SHIPPED)
    shipped_config.model.family.animator = None  # the shipped renderer was added later
    del shipped_config.model.family.default_renderer
    assert config == shipped_config and config.config_version == 2
    state_dict = {name: value for name, value in shipped.state_dict().items() if not name.startswith("animator.")}
    assert upgraded.state_dict().keys() == state_dict.keys()
    assert all(torch.equal(value, state_dict[name]) for name, value in upgraded.state_dict().items())


@pytest.mark.parametrize(
    "old, new",
    [
        ("decoder.final_layer.weight", "motion_denoiser.final_layer.weight"),
        ("animator.appearance.conv_in.bias", "animator.appearance_encoder.conv_in.bias"),
        ("animator.text_encoder.table.weight", "animator.text_encoder.table.weight"),
        ("animator.face.ready.0.weight", "animator.face.mlp.0.weight"),
        ("animator.vae.decoder.conv_in.weight", "animator.codec.vae.decoder.conv_in.weight"),
        ("animator.finder.net.conv_in.bias", "animator.background.figure_segmenter.net.conv_in.bias"),
        ("animator.change_scale", "animator.background.residual_scale"),
        ("animator.face.patches.weight", "animator.face.patches.weight"),
    ],
)
def test_version_1_modules_have_new_names(old, new):
    assert list(rename_modules({old: torch.zeros(1)}, RENAMED_MODULES_V1)) == [new]


def test_version_1_options_of_the_renderer_keep_their_values():
    face, unet = {"dim": 64, "side": 32}, {"channels": [8], "heads": 2, "fresh": True}
    words = {"_target_": "zoo.nn.text.HashedWords"}
    animator = {"_target_": "x", "words": words, "vae": {}, "unet": unet, "face": face, "noisier": 2.0, "size": 64}
    config = {"_target_": "y", "music_dim": 5, "dim": 8, "ff_dim": 8, "layers": 1, "heads": 1, "animator": animator}
    node = MagicDance.upgrade(config, {}, 1)[0]
    assert node["sampler"] == {"num_inference_steps": 50, "guidance_scale": 2.0, "eta": 1.0}
    assert node["animator"]["face"] == {"dim": 64, "crop_size": 32, "patch_size": 2}
    assert node["animator"]["unet"] == {"channels": [8], "num_attention_heads": 2, "init": "orthogonal"}
    assert node["animator"]["text_encoder"] == {"_target_": "zoo.nn.text.HashedTokenEncoder"}
    assert node["animator"]["noise_schedule"] == {"name": "animatediff", "shift": 2.0, "prediction_type": "epsilon"}
    assert node["animator"]["resolution"] == 64 and node["animator"]["num_context_frames"] == 4
