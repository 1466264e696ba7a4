"""M2PEnc beside Champ's public code: guidance, one guided step and four DDIM steps with equal random weights."""

from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from weights import filled, numbers, state_by_name

from zoo.families.base import SamplingParams
from zoo.families.m2penc.guidance import PUBLIC_FILE_KINDS
from zoo.run.build import build_family

TESTS = Path(__file__).parent
REFERENCE = np.load(TESTS / "data" / "champ_reference.npz")
FRAMES, HEIGHT, WIDTH = 3, 12, 8
OVERRIDES = (
    "model=m2penc size=debug model.family.background_residual=false model.family.predict_regions=false "
    "model.family.image_encoder.dim=24 model.family.num_frames=3 model.family.num_context_frames=0 "
    "model.family.unet.channels=[32,64,64,64] model.family.unet.attention_levels=[true,true,true,false] "
    "model.family.unet.layers_per_block=2 model.family.unet.num_attention_heads=8 model.family.unet.norm_num_groups=32 "
    "model.family.guidance_encoder.channels=[16,32,32,64] model.family.guidance_encoder.num_attention_heads=8 "
    "model.family.guidance_encoder.norm_num_groups=32 "
    "model.family.noise_schedule={name:zero_snr,shift:1.0,prediction_type:v_prediction}"
).split()


def close(made: torch.Tensor, name: str) -> None:
    expected = torch.from_numpy(REFERENCE[name])
    torch.testing.assert_close(made, expected, atol=1e-4 * max(1.0, float(expected.std())), rtol=0)


@torch.no_grad()
def test_four_guided_steps_are_champs(tmp_path, capsys):
    """With the files' names and layout: reference attention, image token, guidance for both halves, zero-SNR DDIM."""
    with initialize_config_dir(str(TESTS.parent / "conf"), version_base="1.3"):
        family = build_family(compose("train", overrides=OVERRIDES)).eval()
    filled(family.reference_net, "reference_net")
    filled(family.unet, "denoising_unet")
    rows = [row.split() for row in str(REFERENCE["guidance_layout"]).splitlines()]
    images = {}
    for public_name, kind in PUBLIC_FILE_KINDS.items():
        label = f"guidance_encoder_{public_name}"
        state_dict = state_by_name({f"{label}.{name}": tuple(map(int, shape)) for name, *shape in rows})
        path = tmp_path / f"{label}.pth"
        torch.save({name.removeprefix(f"{label}."): value for name, value in state_dict.items()}, path)
        family.load_pretrained(str(path))
        images[kind] = numbers(f"images {public_name}", 1, 3, FRAMES, 8 * HEIGHT, 8 * WIDTH).abs().clamp(max=1)
    guidance = family.guidance_encoders(images)
    close(guidance, "guidance")

    latents, token = numbers("picture", 1, 4, HEIGHT, WIDTH), numbers("token", 1, 1, 24)
    features = family.reference_net(latents, text=token)
    conditioning = family.unet.precompute_conditioning(torch.cat([token, torch.zeros_like(token)]), features)
    reference = family.background.encode_reference(latents)
    outputs = []
    family.background.apply_region_head = lambda output, *_: (outputs.append(output), (output, None))[1]
    sampling = SamplingParams(num_inference_steps=4, guidance_scale=3.5, eta=0.0)
    generator = torch.Generator().manual_seed(7)
    made = family._sample_window(conditioning, reference, guidance, None, generator, sampling)
    close(outputs[0], "first_output")
    close(made, "latents")
