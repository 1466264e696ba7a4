"""Checkpoints from anywhere: odd tensors, bombs and absurd configurations are refused in one line and at once."""

import os
import pickle
import time
import warnings
import zipfile

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import save_file

from zoo.files import conf_folder
from zoo.nn.weights.loading import load_strict, read_weights
from zoo.run.build import build_family
from zoo.run.checkpoint import load_family, read_checkpoint
from zoo.run.config import resolve_config
from zoo.run.train.runs import latest_checkpoint

ODD = {
    "sparse": lambda value: value.to_sparse(),
    "csr": lambda value: value.to_sparse_csr(),
    "quantised": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    "float8": lambda value: value.to(torch.float8_e4m3fn),
    "complex": lambda value: value.to(torch.complex64),
    "nested": lambda value: torch.nested.nested_tensor([value, value]),
    "meta": lambda value: value.to("meta"),
    "expanded": lambda value: torch.zeros(1).expand(10**6, 10**6),
    "empty": lambda value: value[:0],
    "nan": lambda value: value * torch.nan,
    "list": lambda value: [value],
}
VALUES = (0, -3, 10**6, 10**9, 10**30, 1.5, float("nan"), None, "x", [1], {"a": 1}, True)


@pytest.fixture(scope="module")
def checkpoint() -> dict:
    """A checkpoint of untrained weights."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = resolve_config(compose("train", ["size=debug"]))
    state = {f"family.{name}": value for name, value in build_family(config).state_dict().items()}
    return {"state_dict": state, "config": OmegaConf.to_yaml(config), "stage": "motion", "global_step": 0}


def check_refusal(path, load=load_family) -> None:
    """One line that names the file."""
    began = time.process_time()
    with pytest.raises(ValueError, match=path.name) as refusal:
        load(path, *([False] if load is load_family else []))
    assert time.process_time() - began < 60 and "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_tensor_is_refused(checkpoint, tmp_path, kind):
    """By every reader of weights."""
    name = next(name for name, value in checkpoint["state_dict"].items() if value.ndim == 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = checkpoint["state_dict"] | {name: ODD[kind](checkpoint["state_dict"][name])}
        torch.save(checkpoint | {"state_dict": state}, tmp_path / "bad.ckpt")
        check_refusal(tmp_path / "bad.ckpt")
        if kind not in ("empty", "nan", "list", "expanded"):
            check_refusal(tmp_path / "bad.ckpt", read_weights)


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_an_absurd_configuration_takes_no_memory(checkpoint, tmp_path, value):
    """Numbers and types that no checkpoint has: what is built is compared with the weights in the file."""
    config = OmegaConf.create(checkpoint["config"])
    torch.save(checkpoint, tmp_path / "good.ckpt")
    load_family(tmp_path / "good.ckpt", False)
    for key in ("dance_decoder.dim", "dance_decoder.layers", "dance_decoder.heads", "mesh_resolution"):
        if (key, value) in (("dance_decoder.layers", True), ("dance_decoder.heads", True)):
            continue  # 1
        bad = config.copy()
        OmegaConf.update(bad, f"model.family.{key}", value)
        torch.save(checkpoint | {"config": OmegaConf.to_yaml(bad)}, tmp_path / "bad.ckpt")
        check_refusal(tmp_path / "bad.ckpt")


def test_a_compressed_file_is_refused_unread(tmp_path):
    """torch.save stores; deflated zeros grow a thousandfold."""
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    for load in (load_family, read_weights):
        check_refusal(tmp_path / "bomb.ckpt", load)


class MakesFolder:
    """Unpickling an instance makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["last.ckpt", "step_0000002.ckpt", "weights.distcp"])
def test_a_folder_of_distributed_checkpoints_is_refused_unread(tmp_path, name):
    """Its `.metadata` is a pickle. Nothing here reads such folders: as ckpt=, as init=, or as a run's checkpoint."""
    made, folder = tmp_path / "made", tmp_path / name
    folder.mkdir()
    for file in (".metadata", "__0_0.distcp", "meta.pt"):
        (folder / file).write_bytes(pickle.dumps(MakesFolder(made)))
    for load in (load_family, read_weights, read_checkpoint):
        check_refusal(folder, load)
    if name.endswith(".ckpt"):
        check_refusal(latest_checkpoint(tmp_path), read_checkpoint)
    assert not made.exists()
    pickle.loads((folder / ".metadata").read_bytes())
    assert made.exists()  # the pickle does run where it is read


def test_float8_in_safetensors_is_refused(tmp_path):
    """A type that modules cannot take."""
    save_file({"a": torch.zeros(3).to(torch.float8_e5m2)}, tmp_path / "bad.safetensors")
    check_refusal(tmp_path / "bad.safetensors", read_weights)


@pytest.mark.parametrize("key", [1, None, (1, 2), b"x", 1.5], ids=repr)
def test_a_name_that_is_no_text_is_refused(checkpoint, tmp_path, key):
    """In foreign weights and in checkpoints."""
    torch.save({key: torch.ones(2)}, tmp_path / "weights.pt")
    check_refusal(tmp_path / "weights.pt", lambda path: load_strict(torch.nn.Linear(1, 2), path))
    torch.save(checkpoint | {"state_dict": checkpoint["state_dict"] | {key: torch.ones(2)}}, tmp_path / "bad.ckpt")
    check_refusal(tmp_path / "bad.ckpt")


def test_contents_that_hold_themselves_end(tmp_path):
    """The search for tensors visits each container once."""
    ring: list = [torch.ones(2)]
    ring.append(ring)
    table: dict = {"weight": torch.ones(2)}
    table["state_dict"] = {"a": table}
    for contents in (ring, table):
        torch.save(contents, tmp_path / "ring.pt")
        check_refusal(tmp_path / "ring.pt", lambda path: load_strict(torch.nn.Linear(1, 2), path))
