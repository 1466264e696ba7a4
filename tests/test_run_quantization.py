"""Exports in eight bits: small files whose weights come back within half a step."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo.files import resource_root
from zoo.run.checkpoint import export, load_family
from zoo.run.quantization import SCALE_SUFFIX, dequantize, quantize

SHIPPED = resource_root() / "assets" / "magicdance-tiny"


def test_weights_come_back_within_half_a_step():
    """Channels of very different sizes, one of zeros, a kernel, a bias and a buffer."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 40, generator=generator) * torch.tensor([1e-6, 1.0, 3.0, 0.0, 1e4, 1e-2])[:, None]
    kernel = torch.randn(4, 8, 3, 3, generator=generator)
    weights = {"matrix": matrix, "kernel": kernel, "bias": torch.tensor([0.5, -2.0]), "mean": torch.tensor([1 / 3])}
    stored = quantize(weights, {"matrix", "kernel", "bias"})
    assert stored["matrix"].dtype == stored["kernel"].dtype == torch.int8 and stored["bias"].dtype == torch.float16
    restored = dequantize(stored)
    assert restored.keys() == weights.keys() and torch.equal(restored["mean"], weights["mean"])
    for name in ("matrix", "kernel"):
        steps = weights[name].flatten(1).abs().amax(1, keepdim=True) / 127
        error = (restored[name] - weights[name]).flatten(1).abs()
        assert (error <= 0.501 * steps).all() and error.max() > 0
    with pytest.raises(ValueError, match="belong to no int8 weights"):
        dequantize(stored | {"bias" + SCALE_SUFFIX: torch.ones(2)})


def test_an_export_in_eight_bits_is_half_as_large_and_loads(tmp_path):
    """The shipped model, half precision today: half the size, all weights finite and near, nothing but safetensors."""
    folder = export(SHIPPED, tmp_path / "eight", "int8")
    size, shipped_size = ((path / "model.safetensors").stat().st_size for path in (folder, SHIPPED))
    assert size < 0.56 * shipped_size and {file.name for file in folder.iterdir()} == {
        "README.md",
        "config.yaml",
        "model.safetensors",
    }
    expected, actual = (load_family(path)[0].state_dict() for path in (SHIPPED, folder))
    for name, value in expected.items():
        if value.is_floating_point():
            assert (actual[name] - value).norm() <= 0.02 * value.norm() + 1e-6, name
    stored = load_file(folder / "model.safetensors")
    key = next(key for key in stored if key.endswith(SCALE_SUFFIX))
    save_file(stored | {key: stored[key][:-1].clone()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors cannot be read: the scales"):
        load_family(folder)
