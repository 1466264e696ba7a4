"""MuseDance starts from published files, strictly: Stable Diffusion's, AnimateDiff's, Moore's."""

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel
from safetensors.torch import save_file
from test_musedance_family import UNET, VAE, made
from weights import filled

from zoo.nn.vae import build_vae
from zoo.nn.weights.layouts import convert_reference_net

SIZES = {
    "block_out_channels": UNET["channels"], "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 1,
    "cross_attention_dim": 16, "down_block_types": ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small networks in the layouts of the published files."""
    folder = tmp_path_factory.mktemp("published")
    unet = filled(UNet2DConditionModel(**SIZES), "sd").state_dict()
    vae = filled(build_vae(**VAE), "vae").state_dict()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in vae.items():  # as Stable Diffusion 1.5's folder has them
        for new, was in old.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{was}.")
        renamed[name] = value
    adapter = MotionAdapter(
        block_out_channels=tuple(UNET["channels"]), motion_layers_per_block=1, motion_num_attention_heads=1,
        motion_norm_num_groups=8, motion_mid_block_layers_per_block=1,
    )  # fmt: skip
    adapter = filled(adapter, "animate").state_dict()
    video = {**made().unet.state_dict()}
    video = {name: value for name, value in video.items() if ".music_modules." not in name}
    written = {"unet": unet, "vae": renamed, "motion": adapter, "video": video}
    written["reference"] = {
        name: value for name, value in unet.items() if not name.startswith(("conv_norm_out", "conv_out"))
    }
    written["v3"] = {name: value for name, value in adapter.items() if "mid_block" not in name}
    for name, state in written.items():
        save_file({key: value.contiguous().clone() for key, value in state.items()}, folder / f"{name}.safetensors")
    return folder, unet, vae


def test_stable_diffusion_starts_both_networks(files):
    """The ReferenceNet gets what it uses; the autoencoder comes under its old names; the rest stays as it is."""
    folder, unet, vae = files
    family = made()
    before = {name: value.clone() for name, value in family.state_dict().items()}
    family.load_pretrained(str(folder / "unet.safetensors"))
    family.load_pretrained(str(folder / "vae.safetensors"))
    state = family.state_dict()
    wanted = {f"unet.{name}": value for name, value in unet.items()} | {
        f"codec.vae.{name}": v for name, v in vae.items()
    }
    wanted |= {f"reference_net.{name}": value for name, value in convert_reference_net(unet).items()}
    assert {name for name in state if name.startswith("reference_net.")} <= set(wanted)
    for name, value in state.items():
        assert torch.equal(value, wanted.get(name, before[name])), name


@pytest.mark.parametrize(
    ("file", "changed"),
    [("motion", "motion_modules"), ("v3", "motion_modules"), ("video", "unet."), ("reference", "reference_net.")],
)
def test_each_file_starts_its_part_alone(files, file, changed):
    family = made()
    with torch.no_grad():
        for one in family.parameters():
            one.add_(1.0)
    before = {name: value.clone() for name, value in family.state_dict().items()}
    family.load_pretrained(str(files[0] / f"{file}.safetensors"))
    differ = {name for name, value in family.state_dict().items() if not torch.equal(value, before[name])}
    assert differ and all(changed in name for name in differ)
    middle = any("mid_block.motion_modules" in name for name in differ)
    assert middle == (file in ("motion", "video"))


def test_what_does_not_fit_is_refused(files, tmp_path):
    """Nothing is loaded of a file with a name too many, or one too few."""
    folder, unet, _ = files
    for spoil in (lambda state: state.pop("conv_in.weight"), lambda state: state.update(more=torch.ones(1))):
        state = {name: value.clone() for name, value in unet.items()}
        spoil(state)
        save_file(state, tmp_path / "spoiled.safetensors")
        family = made()
        before = {name: value.clone() for name, value in family.state_dict().items()}
        with pytest.raises(ValueError, match="does not fit MuseDance"):
            family.load_pretrained(str(tmp_path / "spoiled.safetensors"))
        assert all(torch.equal(value, before[name]) for name, value in family.state_dict().items())
