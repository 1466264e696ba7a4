"""Write champ_reference.npz: what Champ's public networks draw with weights and inputs that follow from their names.

python tests/data/make_champ_reference.py CHAMP, a checkout of github.com/fudan-generative-vision/champ, with the
diffusers (0.24) and transformers (4.36) that it was written for.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler

HERE = Path(__file__).parent
sys.path[:0] = [sys.argv[1], str(HERE.parent)]

from models.guidance_encoder import GuidanceEncoder  # noqa: E402
from models.mutual_self_attention import ReferenceAttentionControl  # noqa: E402
from models.unet_2d_condition import UNet2DConditionModel  # noqa: E402
from models.unet_3d import UNet3DConditionModel  # noqa: E402
from weights import filled, numbers  # noqa: E402

SIZE = {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 24, "attention_head_dim": 8}
MOTION = {
    "use_inflated_groupnorm": True,
    "unet_use_cross_frame_attention": False,
    "unet_use_temporal_attention": False,
    "use_motion_module": True,
    "motion_module_resolutions": (1, 2, 4, 8),
    "motion_module_mid_block": True,
    "motion_module_type": "Vanilla",
    "motion_module_kwargs": {
        "num_attention_heads": 8,
        "num_transformer_block": 1,
        "attention_block_types": ("Temporal_Self", "Temporal_Self"),
        "temporal_position_encoding": True,
        "temporal_position_encoding_max_len": 32,
        "temporal_attention_dim_div": 1,
    },
}
KINDS = ("depth", "normal", "semantic_map", "dwpose")
FRAMES, HEIGHT, WIDTH = 3, 12, 8
STEPS, SCALE = 4, 3.5
found = {}


@torch.no_grad()
def draw() -> None:
    """The loop of pipeline_guidance2video.py, without autoencoder and CLIP: DDIM with zero-terminal-SNR, guided."""
    writer = filled(UNet2DConditionModel(**SIZE), "reference_net")
    unet = filled(UNet3DConditionModel(**SIZE, **MOTION), "denoising_unet")
    guides = {"do_classifier_free_guidance": True, "batch_size": 1, "fusion_blocks": "full"}
    write = ReferenceAttentionControl(writer, mode="write", **guides)
    read = ReferenceAttentionControl(unet, mode="read", **guides)
    features = []
    for kind in KINDS:
        encoder = filled(GuidanceEncoder(32, 3, (16, 32, 32, 64), 8), f"guidance_encoder_{kind}")
        images = numbers(f"images {kind}", 1, 3, FRAMES, 8 * HEIGHT, 8 * WIDTH).abs().clamp(max=1)
        features.append(encoder(images))
    found["guidance_layout"] = np.array(
        "\n".join(f"{name} {' '.join(map(str, x.shape))}" for name, x in encoder.state_dict().items())
    )
    guidance = torch.stack(features, dim=0).sum(0)
    found["guidance"] = guidance
    schedule = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", steps_offset=1, clip_sample=False,
        rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction",
    )  # fmt: skip
    schedule.set_timesteps(STEPS)
    token = numbers("token", 1, 1, 24)
    text = torch.cat([torch.zeros_like(token), token])
    latents = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(7))
    picture = numbers("picture", 1, 4, HEIGHT, WIDTH)
    for index, t in enumerate(schedule.timesteps):
        if index == 0:
            writer(picture.repeat(2, 1, 1, 1), torch.zeros_like(t), encoder_hidden_states=text, return_dict=False)
            read.update(write, dtype=torch.float32)
        output = unet(
            latents.repeat(2, 1, 1, 1, 1), t, encoder_hidden_states=text, guidance_fea=torch.cat([guidance] * 2),
            return_dict=False,
        )[0]  # fmt: skip
        without, with_image = output.chunk(2)
        if index == 0:
            found["first_output"] = without + SCALE * (with_image - without)
        latents = schedule.step(without + SCALE * (with_image - without), t, latents, eta=0.0).prev_sample
    found["latents"] = latents


draw()
np.savez_compressed(HERE / "champ_reference.npz", **{name: np.asarray(value) for name, value in found.items()})
print({name: (tuple(value.shape), float(value.std())) for name, value in found.items() if name != "guidance_layout"})
