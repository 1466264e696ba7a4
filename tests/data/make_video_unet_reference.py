"""Write video_unet_reference.npz: what public video U-Nets answer to weights and inputs that follow from their names.

python tests/data/make_video_unet_reference.py MOORE MAGIC, checkouts of github.com/MooreThreads/Moore-AnimateAnyone and
github.com/magic-research/magic-animate, with the diffusers (0.24) and transformers (4.36) that they were written for.
"""

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [*sys.argv[1:3], str(HERE.parent)]

from magicanimate.models.appearance_encoder import AppearanceEncoderModel  # noqa: E402
from magicanimate.models.mutual_self_attention import ReferenceAttentionControl as MagicControl  # noqa: E402
from magicanimate.models.unet_controlnet import UNet3DConditionModel as MagicUNet  # noqa: E402
from src.models.mutual_self_attention import ReferenceAttentionControl  # noqa: E402
from src.models.unet_2d_condition import UNet2DConditionModel  # noqa: E402
from src.models.unet_3d import UNet3DConditionModel  # noqa: E402
from weights import filled, numbers  # noqa: E402

SIZE = {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 24, "attention_head_dim": 8}
MOTION = {
    "use_motion_module": True,
    "motion_module_resolutions": (1, 2, 4, 8),
    "motion_module_type": "Vanilla",
    "motion_module_kwargs": {
        "num_attention_heads": 8,
        "num_transformer_block": 1,
        "attention_block_types": ("Temporal_Self", "Temporal_Self"),
        "temporal_position_encoding": True,
        "temporal_position_encoding_max_len": 32,
    },
    "unet_use_cross_frame_attention": False,
    "unet_use_temporal_attention": False,
}
FRAMES, HEIGHT, WIDTH = 3, 12, 8  # 12 is 6, 3 and, rounded up, 2
GUIDED = {"do_classifier_free_guidance": True, "batch_size": 1, "fusion_blocks": "full"}
found = {}

latents = numbers("latents", 2, 4, FRAMES, HEIGHT, WIDTH)  # without and with the conditions, as both have them
text = numbers("text", 2, 1, 24)
time = torch.tensor(321)


@torch.no_grad()
def moore() -> None:
    """ReferenceNet, and UNet3D with reference attention, motion modules and a pose's guidance."""
    writer = filled(UNet2DConditionModel(**SIZE), "reference_net")
    unet = UNet3DConditionModel(**SIZE, **MOTION, use_inflated_groupnorm=True, motion_module_mid_block=True)
    reader = filled(unet, "denoising_unet")
    write = ReferenceAttentionControl(writer, mode="write", **GUIDED)
    read = ReferenceAttentionControl(reader, mode="read", **GUIDED)
    picture = numbers("picture", 1, 4, HEIGHT, WIDTH).repeat(2, 1, 1, 1)
    writer(picture, torch.zeros_like(time), encoder_hidden_states=text, return_dict=False)
    read.update(write, dtype=torch.float32)
    guidance = numbers("guidance", 1, 32, FRAMES, HEIGHT, WIDTH).repeat(2, 1, 1, 1, 1)
    found["moore"] = reader(latents, time, encoder_hidden_states=text, pose_cond_fea=guidance, return_dict=False)[0]


@torch.no_grad()
def magic() -> None:
    """Appearance encoder, and UNet3D with reference attention, motion modules and a ControlNet's residuals."""
    writer = AppearanceEncoderModel(**SIZE)
    writer = filled(writer, "appearance_encoder")
    reader = filled(MagicUNet(**SIZE, **MOTION, motion_module_mid_block=False), "unet")
    write = MagicControl(writer, mode="write", **GUIDED)
    read = MagicControl(reader, mode="read", **GUIDED)
    picture = numbers("picture", 1, 4, HEIGHT, WIDTH).repeat(2, 1, 1, 1)
    longer = numbers("text", 2, 5, 24)
    writer(picture, time, encoder_hidden_states=longer, return_dict=False)
    read.update(write, dtype=torch.float32)
    skips = [(32, 12, 8)] * 3 + [(32, 6, 4)] + [(64, 6, 4)] * 2 + [(64, 3, 2)] * 3 + [(64, 2, 1)] * 3 + [(64, 2, 1)]
    aside = [numbers(f"aside {i}", 2, c, FRAMES, h, w) for i, (c, h, w) in enumerate(skips)]
    answer = reader(
        latents, time, encoder_hidden_states=longer, down_block_additional_residuals=aside[:-1],
        mid_block_additional_residual=aside[-1], return_dict=False,
    )  # fmt: skip
    found["magic"] = answer[0]


moore()
magic()
np.savez_compressed(HERE / "video_unet_reference.npz", **{name: value.numpy() for name, value in found.items()})
print({name: (tuple(value.shape), float(value.std())) for name, value in found.items()})
