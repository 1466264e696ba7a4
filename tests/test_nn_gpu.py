"""Sampling on GPUs, on fake tensors: no GPU is needed."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from zoo.nn.video_unet.controlnet import ControlNet
from zoo.nn.video_unet.reference_net import ReferenceNet
from zoo.nn.video_unet.unet import VideoUNet
from zoo.run.sample.generate import fast_denoisers

SIZE = {"channels": (32, 64, 64, 64), "text_dim": 24}


BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize("precision, dtype", [(None, BF16), ("bf16", BF16), ("fp32", FP32)])
def test_denoisers_on_a_gpu_compute_in_bf16_unless_fp32_is_chosen(monkeypatch, precision, dtype):
    """All their products; afterwards their methods are as before."""
    with FakeTensorMode() as mode, torch.device("cuda"):
        reference, control = ReferenceNet(**SIZE), ControlNet((8, 16, 16, 32), **SIZE)
        unet = VideoUNet(**SIZE, use_motion_modules=True)
        networks = [reference, control, unet]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # autocast would switch itself off
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    with mode, torch.device("cuda"), torch.inference_mode():
        product_types = set()
        for network in networks:
            for module in network.modules():
                if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                    module.register_forward_hook(lambda _, __, output: product_types.add(output.dtype))
        latents, t, text = torch.randn(1, 4, 2, 8, 8), torch.zeros(1), torch.randn(1, 3, 24)
        with fast_denoisers(SimpleNamespace(denoisers=lambda: networks), precision):
            features = reference(latents[:, :, 0], t, text)
            conditioning = unet.precompute_conditioning(text, features)
            pose_features = control.encode_condition(torch.rand(1, 2, 3, 64, 64))
            residuals = control(latents, t, control.precompute_conditioning(text), pose_features)
            output = unet(latents, t, conditioning, None, residuals)
            assert (output + latents).dtype == FP32
        assert product_types == {dtype}
        assert not any(set(vars(network)) & {"forward", "precompute_conditioning"} for network in networks)
