"""MuseDance checkpoints of config_version 1 under today's names."""

import torch
from test_musedance_family import made

from zoo.families.musedance.family import MuseDance

MODULES = {  # path today -> in version 1
    "text_encoder.": "words.",
    "codec.vae.": "vae.",
    "codec.latent_scale": "latent_scale",
    "background.figure_segmenter.": "finder.",
    "background.reference_conv.": "seen.",
    "background.residual_scale": "change_scale",
    "music_token_embedder.beat_phase.": "song_tokens.pulse.",
    "music_token_embedder.": "song_tokens.",
}
MUSIC_LAYERS = {".cross_attention.": ".listen.", ".temporal_attention.": ".look.", ".music_modules.": ".songs."}


def version_1_name(name: str) -> str:
    """The name of a tensor before the modules were renamed."""
    for new, old in MODULES.items():
        if name.startswith(new):
            return old + name.removeprefix(new)
    if ".music_modules." in name:
        for new, old in MUSIC_LAYERS.items():
            name = name.replace(new, old)
    return name


def test_a_version_1_state_dict_has_every_name_of_today():
    family = made(beat_phase=True, background_residual=True, predict_regions=True)
    state_dict = family.state_dict()
    version_1 = {version_1_name(name): value for name, value in state_dict.items()}
    assert {"words.table.weight", "vae.quant_conv.bias", "finder.net.conv_in.bias", "change_scale"} <= set(version_1)
    config = {
        "words": {"_target_": "zoo.nn.text.HashedWords"}, "unet": {"fresh": True}, "song_dim": 16, "schedule": "cosine",
        "noisier": 2.0, "prediction": "v_prediction", "steps": 20, "guidance": 3.0, "eta": 1.0, "imagines": True,
    }  # fmt: skip
    node, upgraded = MuseDance.upgrade(config, version_1, 1)
    assert upgraded.keys() == state_dict.keys()
    assert all(torch.equal(value, state_dict[name]) for name, value in upgraded.items())
    assert node == {
        "text_encoder": {"_target_": "zoo.nn.text.HashedTokenEncoder"},
        "unet": {"init": "orthogonal"},
        "music_token_dim": 16,
        "predict_regions": True,
        "noise_schedule": {"name": "cosine", "shift": 2.0, "prediction_type": "v_prediction"},
        "sampler": {"num_inference_steps": 20, "guidance_scale": 3.0, "eta": 1.0},
    }
    assert MuseDance.upgrade(node, upgraded, 2) == (node, upgraded)
