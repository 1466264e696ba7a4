"""Write video_unet_reference.npz: what public video U-Nets answer to weights and inputs that follow from their names.

And what MagicAnimate's whole pipeline makes of a picture and poses, with the names and shapes of its files' tensors.

python tests/data/make_video_unet_reference.py MOORE MAGIC, checkouts of github.com/MooreThreads/Moore-AnimateAnyone and
github.com/magic-research/magic-animate, with the diffusers (0.24) and transformers (4.36) that they were written for.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from diffusers.pipelines import pipeline_utils

HERE = Path(__file__).parent
sys.path[:0] = [*sys.argv[1:3], str(HERE.parent)]
sys.modules["diffusers.pipeline_utils"] = pipeline_utils  # where it was until diffusers 0.22

from magicanimate.models.appearance_encoder import AppearanceEncoderModel  # noqa: E402
from magicanimate.models.controlnet import ControlNetModel  # noqa: E402
from magicanimate.models.mutual_self_attention import ReferenceAttentionControl as MagicControl  # noqa: E402
from magicanimate.models.unet_controlnet import UNet3DConditionModel as MagicUNet  # noqa: E402
from magicanimate.pipelines.pipeline_animation import AnimationPipeline  # noqa: E402
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


def magic_pipeline() -> None:
    """A picture danced by the pipeline itself, as its configuration has it, in float32 and from noise of ours.

    Two things are set: its times are evenly spaced from the last one (theirs end at the first), and what CLIP makes of
    the empty prompt are numbers. What is found: both answers of the U-Net in the first step, the latents after two.
    """
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    networks = {
        "vae": vae,
        "unet": MagicUNet(**SIZE, **MOTION, motion_module_mid_block=False, sample_size=64),
        "appearance": AppearanceEncoderModel(**SIZE),
        "controlnet": ControlNetModel(**SIZE, conditioning_embedding_out_channels=(4, 8, 8, 8)),
    }
    rows = []
    for part, network in networks.items():
        filled(network, f"magic {part}")
        rows += [f"{part}.{name} {' '.join(map(str, x.shape))}" for name, x in network.state_dict().items()]
    found["magic_layout"] = np.array("\n".join(rows))
    schedule = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", timestep_spacing="trailing")
    appearance = networks.pop("appearance")
    pipeline = AnimationPipeline(text_encoder=None, tokenizer=None, scheduler=schedule, **networks)
    pipeline._encode_prompt = lambda *_: numbers("empty prompt", 1, 5, 24).repeat(2, 1, 1)
    pipeline.decode_latents = lambda latents, *_, **__: latents.numpy()
    torch.Tensor.cuda = lambda self: self
    MagicControl.update.__defaults__ = (torch.float32,)  # half numbers and a GPU are written into its code
    answers = []
    networks["unet"].register_forward_hook(lambda *call: answers.append(call[2][0]))
    parts = (numbers("parts", FRAMES, 8 * HEIGHT, 8 * WIDTH).abs() * 9).long() % 25
    scaled = (parts.flatten(0, 1) * (255 / 24)).byte().numpy()
    poses = cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS)[..., ::-1]  # as detectron2 draws DensePose
    picture = (numbers("source", 8 * HEIGHT, 8 * WIDTH, 3) * 60 + 128).clamp(0, 255).byte().numpy()
    made = pipeline(
        "", negative_prompt="", video_length=FRAMES, height=8 * HEIGHT, width=8 * WIDTH, num_inference_steps=2,
        guidance_scale=7.5, init_latents=numbers("noise", 1, 4, FRAMES, HEIGHT, WIDTH)[0].movedim(1, 0),
        controlnet_condition=poses.reshape(*parts.shape, 3), appearance_encoder=appearance, source_image=picture,
        return_dict=False,
    )  # fmt: skip
    found["magic_answers"], found["magic_made"] = answers[0], made


moore()
magic()
magic_pipeline()
np.savez_compressed(HERE / "video_unet_reference.npz", **{name: np.asarray(value) for name, value in found.items()})
print({name: (tuple(value.shape), float(value.std())) for name, value in found.items() if name != "magic_layout"})
