"""Exports in eight bits, whose weights come back within half a step, and exports in several files."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from zoo.files import resource_root
from zoo.nn.weights.loading import load_strict
from zoo.nn.weights.quantization import SCALE_SUFFIX, dequantize, quantize
from zoo.run.build import build_family
from zoo.run.checkpoint import export, load_family
from zoo.run.config import CONFIG_VERSION
from zoo.run.evaluate.systems import ablated_checkpoints, load_checkpoint, with_trained_renderers

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
    assert size < 0.56 * shipped_size
    names = {file.name for file in folder.iterdir()}
    assert names == {"README.md", "config.yaml", "model.safetensors", "animator.safetensors"}
    expected, actual = (load_family(path)[0].state_dict() for path in (SHIPPED, folder))
    for name, value in expected.items():
        if value.is_floating_point():
            assert (actual[name] - value).norm() <= 0.02 * value.norm() + 1e-6, name
    report = load_strict(load_family(SHIPPED)[0], folder / "model.safetensors", allowed_missing=("animator.",))
    assert report.loaded, "init=FILE trains on from it"
    stored = load_file(folder / "model.safetensors")
    key = next(key for key in stored if key.endswith(SCALE_SUFFIX))
    save_file(stored | {key: stored[key][:-1].clone()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors cannot be read: the scales"):
        load_family(folder)


def test_a_part_has_a_file_of_its_own_and_can_be_left_out(tmp_path):
    """A renderer's networks: `animator.safetensors`. Evaluation has a row for each renderer that was trained."""
    with initialize_config_dir(str(resource_root() / "conf"), version_base="1.3"):
        config = compose("train", overrides=["model=magicdance", "renderer=diffusion", "size=debug"])
    family = build_family(config)
    whole = tmp_path / "whole"  # everything in one file, as exports once were
    whole.mkdir()
    save_file({key: value.clone() for key, value in family.state_dict().items()}, whole / "model.safetensors")
    plain_config = {"config_version": CONFIG_VERSION} | OmegaConf.to_container(config, resolve=True)
    (whole / "config.yaml").write_text(OmegaConf.to_yaml(plain_config))
    folder = export(whole, tmp_path / "parts")
    assert {file.name for file in folder.glob("*.safetensors")} == {"model.safetensors", "animator.safetensors"}
    assert not any(key.startswith("animator.") for key in load_file(folder / "model.safetensors"))
    loaded, stored_config = load_family(folder)
    assert all(torch.equal(value, family.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert loaded.default_renderer == "diffusion"
    stored_config.model.family.default_renderer = "auto"
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(stored_config))
    rows = list(with_trained_renderers(load_checkpoint("NAME", folder, True), True, None))
    assert [(row.name, row.family.default_renderer) for row in rows] == [
        ("NAME", "auto"),
        ("NAME renderer=diffusion", "auto"),
    ]
    names = [row.name for checkpoint in rows for row in ablated_checkpoints(checkpoint, True, None)]
    assert names == ["NAME renderer=diffusion without alignment"]
    assert len(list(with_trained_renderers(rows[0], True, {"name": "warp"}))) == 1
    (folder / "copy.safetensors").write_bytes((folder / "animator.safetensors").read_bytes())
    with pytest.raises(ValueError, match="another file of the folder holds too"):
        load_family(folder)
    (folder / "copy.safetensors").unlink()
    (folder / "animator.safetensors").unlink()
    with pytest.raises(ValueError, match="missing"):
        load_family(folder)
    stored_config.model.family.animator = None
    stored_config.model.family.default_renderer = None
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(stored_config))
    assert load_family(folder)[0].default_renderer == "auto"
