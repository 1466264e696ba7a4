"""Networks prepared for sampling beside the same ones as they are."""

import pytest
import torch
from diffusers.models.activations import GEGLU
from torch import nn
from weights import filled, numbers

from zoo.nn.cpu_inference import fast_inference, is_supported
from zoo.nn.video_unet.controlnet import ControlNet
from zoo.nn.video_unet.reference_net import ReferenceNet
from zoo.nn.video_unet.unet import VideoUNet

SIZE = {"channels": (32, 64, 64, 64), "text_dim": 24}
X, TIME, TEXT = numbers("latents", 2, 4, 5, 12, 8), torch.tensor([321, 321]), numbers("text", 2, 5, 24)

pytestmark = pytest.mark.skipif(not is_supported(), reason="this CPU has no bf16")


def answers(networks: nn.ModuleDict) -> torch.Tensor:
    """Of a guided step with everything that a U-Net can be told."""
    reference = networks["reference"](numbers("picture", 1, 4, 12, 8), TIME[:1], TEXT[:1])
    past = [tokens_of_frame[None].expand(2, 2, -1, -1) for tokens_of_frame in (tokens[0] for tokens in reference)]
    songs = {"music": numbers("song", 2, 7, 20)}
    pose_features = networks["control"].encode_condition(numbers("poses", 1, 5, 3, 96, 64).sigmoid())
    control = networks["control"]
    residuals = [
        tokens_of_frame.expand(2, -1, -1, -1, -1)
        for tokens_of_frame in control(X[:1], TIME[:1], control.precompute_conditioning(TEXT[:1]), pose_features)
    ]
    request = networks["unet"].precompute_conditioning(TEXT, reference, past, songs, numbers("face", 2, 3, 16))
    return networks["unet"](X, TIME, request, numbers("guidance", 2, 32, 5, 12, 8), residuals)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.inference_mode()
def test_packed_networks_give_the_outputs_of_plain_ones(precision):
    """All networks of a family, in the first step, which lays weights out, and in the next; then they are as before.

    In bf16 about as nearly as by autocast.
    """
    parts = {"reference": ReferenceNet(**SIZE), "control": ControlNet((8, 16, 16, 32), **SIZE)}
    parts["unet"] = VideoUNet(
        **SIZE, use_motion_modules=True, motion_in_middle=True, music_token_dims={"music": 20}, face_dim=16
    )
    networks = nn.ModuleDict({name: filled(output, name) for name, output in parts.items()})
    plain, weights = answers(networks), {name: value.clone() for name, value in networks.state_dict().items()}
    with fast_inference(networks, precision):
        outputs = [answers(networks).float() for _ in range(2)]
        assert networks.state_dict().keys() == weights.keys()
    with torch.autocast("cpu", torch.bfloat16):
        autocast_error = (answers(networks).float() - plain).square().mean()
    allowed = 1e-4 * plain.abs().max() if precision == "fp32" else 1.5 * autocast_error.sqrt()
    for output in outputs:
        assert 0 < (output - plain).square().mean().sqrt() < allowed
    assert torch.equal(answers(networks), plain)
    assert all(torch.equal(value, weights[name]) for name, value in networks.state_dict().items())


@torch.inference_mode()
def test_split_products_have_float32_accuracy():
    """Strides, no bias, a bias that is much larger than what it is added to, and both halves of a gated layer."""
    layers = [
        nn.Conv2d(64, 32, 3, padding=1),
        nn.Conv2d(64, 48, 3, 2, 1, bias=False),
        nn.Conv2d(64, 32, 1),
        GEGLU(64, 96),
    ]
    for index, layer in enumerate(layers):
        filled(layer, f"layer {index}")
    layers[0].bias.mul_(1000)
    for layer in layers:
        x = numbers("x", 2, 64, 24, 24)
        x = x.movedim(1, 3) if isinstance(layer, GEGLU) else x
        plain = layer.double()(x.double())
        layer.float()
        with fast_inference(layer, "fp32"):
            output = layer(x)
        assert output.dtype == torch.float32
        assert (output - plain).abs().max() < 3e-5 * plain.abs().max()


def test_another_precision_is_refused():
    """By name, and nothing is changed."""
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="precision=half: use fp32 or bf16"), fast_inference(layer, "half"):
        pass
    with fast_inference(layer, None):
        assert "forward" not in vars(layer)
