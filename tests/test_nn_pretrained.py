"""Foreign weights: strict loading, and files with code in them."""

import pickle
import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from weights import fill_by_name, numbers

from zoo.families.magicdance.dance_decoder import DanceDecoder
from zoo.families.magicdance.family import MagicDance
from zoo.nn.weights.loading import load_strict, read_weights

DECODER = {"dim": 64, "ff_dim": 96, "layers": 2, "heads": 2}
SIZE = {
    "music_dim": 35,
    "dance_decoder": DECODER,
    "beat_phase": False,
    "mesh_resolution": 128,
    "sampler": {"num_inference_steps": 50, "guidance_scale": 2.0, "eta": 1.0},
    "animator": None,
}


class Trap:
    """Pickled as a call, as a malicious file would be."""

    def __init__(self, target: str):
        self.target = target

    def __reduce__(self):
        return open, (self.target, "w")


@pytest.fixture
def edge_file(tmp_path, monkeypatch):
    """A checkpoint as EDGE's training writes it: averaged and raw weights, optimiser, a pickled normaliser."""
    modules = {"dataset": {}, "dataset.preprocess": {"Normalizer"}, "dataset.scaler": {"MinMaxScaler"}}
    for name, classes in modules.items():
        module = ModuleType(name)
        for class_name in classes:
            setattr(module, class_name, type(class_name, (), {"__module__": name}))
        monkeypatch.setitem(sys.modules, name, module)
    normalizer = sys.modules["dataset.preprocess"].Normalizer()
    normalizer.scaler = scaler = sys.modules["dataset.scaler"].MinMaxScaler()
    scaler.feature_range, scaler.clip, scaler.n_samples_seen_ = (-1, 1), True, 10
    scaler.data_min_, scaler.data_max_ = -2 - torch.rand(151), 3 + torch.rand(151)
    scaler.scale_ = 2 / (scaler.data_max_ - scaler.data_min_)
    scaler.min_ = -1 - scaler.data_min_ * scaler.scale_
    network = fill_by_name(DanceDecoder(35, **DECODER))
    optimizer = torch.optim.AdamW(network.parameters())
    network(numbers("x", 1, 10, 151), numbers("m", 1, 10, 35), torch.tensor([5])).sum().backward()
    optimizer.step()
    raw = {name: value + 1 for name, value in network.state_dict().items()}
    contents = {
        "ema_state_dict": network.state_dict(),
        "model_state_dict": raw,
        "optimizer_state_dict": optimizer.state_dict(),
        "normalizer": normalizer,
    }
    path = tmp_path / "edge.pt"
    torch.save(contents, path)
    for name in modules:  # reading must not need the classes
        monkeypatch.delitem(sys.modules, name)
    return path, contents


def test_edge_checkpoint_with_its_normaliser(edge_file, capsys):
    path, contents = edge_file
    family = MagicDance(**SIZE)
    report = family.load_pretrained(path)
    assert report.unexpected == () and all(name.startswith("music_scale.") for name in report.missing)
    for name, value in contents["ema_state_dict"].items():
        assert torch.equal(family.motion_denoiser.state_dict()[name], value)
    scaler, x = contents["normalizer"].scaler, numbers("motion", 7, 151)
    torch.testing.assert_close(family.normalizer(x), (x * scaler.scale_ + scaler.min_).clamp(-1, 1))
    assert "tensors loaded, 4 missing (music_scale.mean" in capsys.readouterr().out


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_bare_state_dict(edge_file, tmp_path, wrapped, suffix):
    state = {("module." if wrapped else "") + k: v.clone() for k, v in edge_file[1]["ema_state_dict"].items()}
    path = tmp_path / f"bare{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    family = MagicDance(**SIZE)
    assert not [name for name in family.load_pretrained(path).missing if name.startswith("motion_denoiser.")]
    assert torch.equal(family.motion_denoiser.final_layer.weight, edge_file[1]["ema_state_dict"]["final_layer.weight"])


def test_a_file_that_does_not_fit_changes_nothing(tmp_path):
    layer = nn.Linear(2, 3)
    initial = layer.weight.clone()
    for state, message in (
        ({"weight": torch.ones(3, 2)}, r"does not fit Linear: 1 missing \(bias\), 0 unexpected; nothing was loaded"),
        ({**layer.state_dict(), "other": torch.ones(1)}, r"0 missing, 1 unexpected \(other\)"),
        (
            {"weight": torch.ones(3, 5), "bias": torch.ones(3)},
            r"weight is \(3, 5\) in the file and \(3, 2\) in the model",
        ),
        ({"epoch": 3}, "holds no state dict"),
    ):
        torch.save(state, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=message) as error:
            load_strict(layer, tmp_path / "x.pt")
        assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)
        assert torch.equal(layer.weight, initial)
    torch.save({"weight": torch.ones(3, 2)}, tmp_path / "x.pt")
    assert load_strict(layer, tmp_path / "x.pt", allowed_missing=("bias",)).missing == ("bias",)


def test_files_with_code_run_nothing(tmp_path):
    target = tmp_path / "ran"
    path = tmp_path / "trap.ckpt"
    family = MagicDance(**SIZE)
    torch.save({"ema_state_dict": {}, "normalizer": Trap(str(target))}, path)
    with pytest.raises(ValueError, match=r"holds more than weights \(io.open\); nothing of it was run"):
        family.load_pretrained(path)
    torch.save({"normalizer": Trap(str(target))}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="nothing of it was run"):
        family.load_pretrained(path)
    path.write_bytes(pickle.dumps(Trap(str(target))))
    with pytest.raises(ValueError, match="nothing of it was run"):
        family.load_pretrained(path)
    assert not target.exists()


def test_files_that_are_not_weights(tmp_path):
    for name, contents in (("a.pt", b"not weights at all"), ("b.safetensors", b"nor this"), ("c.pt", b"")):
        (tmp_path / name).write_bytes(contents)
        with pytest.raises(ValueError, match="damaged"):
            read_weights(tmp_path / name)
    with pytest.raises(ValueError, match="not there"):
        read_weights(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="a directory"):
        read_weights(tmp_path)
