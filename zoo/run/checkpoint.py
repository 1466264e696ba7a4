"""Checkpoints: written whole or not at all, read without running anything that is in them.

A `.ckpt` is Lightning's: raw weights as `family.*`, averaged ones as `ema.*`, optimiser, step, and the resolved config
as YAML text. An exported folder is what diffusers users know: `model.safetensors` (averaged weights) and `config.yaml`.
"""

import os
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.families.base import Family
from zoo.files import replacing
from zoo.run.build import build_family
from zoo.run.config import CONFIG_FILE, read_config
from zoo.run.train.runs import check_new_folder

WEIGHTS = "model.safetensors"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
AVERAGE = "ema.module."  # AveragedModel keeps its copy as `module`, a ModuleDict of what learns


class AtomicCheckpoint(TorchCheckpointIO):
    """Lightning's checkpoint files, under a temporary name until every byte is on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`; a process killed at any moment leaves the old file or the new one."""
        with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """What a .ckpt of this program holds: `state_dict`, `config` (YAML text), `stage`, `global_step` and Lightning's.

    Only tensors and plain values are read. Raises ValueError for anything else, running nothing of it.
    """
    path = Path(path)
    if path.is_dir():
        inside = [str(file) for depth in ("", "*/", "*/*/") for file in sorted(path.glob(f"{depth}last.ckpt"))][:3]
        hint = f"; did you mean {' or '.join(inside)}?" if inside else f" without {WEIGHTS} and {CONFIG_FILE}"
        raise ValueError(f"ckpt={path} is a directory{hint}")
    if not path.is_file():
        raise ValueError(f"ckpt={path}: there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error says it all in one line
            with zipfile.ZipFile(path) as parts:
                if parts.testzip() is not None:  # torch reads flipped bits as they are
                    raise zipfile.BadZipFile
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        raise ValueError(
            f"ckpt={path} is no checkpoint: it is damaged, or holds more than tensors and plain values; nothing was run"
        ) from None
    state = found.get("state_dict") if isinstance(found, dict) else None
    tensors = isinstance(state, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not (tensors and "config" in found):
        raise ValueError(
            f"ckpt={path} is no checkpoint of this program; train.py init=FILE starts from foreign weights"
        )
    return found


def family_weights(state: Mapping[str, Tensor], averaged: bool) -> dict[str, Tensor]:
    """The family's state dict in a .ckpt's: raw, or with the averaged values in place of what they average."""
    weights = {key.removeprefix("family."): value for key, value in state.items() if key.startswith("family.")}
    if averaged:
        for key, value in state.items():
            if key.startswith(AVERAGE):
                path, _, rest = key.removeprefix(AVERAGE).partition(".")
                weights[f"{path.replace('/', '.')}.{rest}"] = value
    return weights


def load_weights(family: Family, weights: Mapping[str, Tensor], where: str | os.PathLike) -> None:
    """Put weights into a family, every one and no other. Raises ValueError, naming what does not fit."""
    own = family.state_dict()
    missing, left = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shaped = sorted(key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape)
    if missing or left or shaped:
        told = [f"{len(names)} {what} ({names[0]})" for names, what in
                ((missing, "missing"), (left, "left over"), (shaped, "of another shape")) if names]  # fmt: skip
        raise ValueError(f"{where} does not fit {type(family).__name__}: {', '.join(told)}")
    learned = {key for key, _ in family.named_parameters()}  # a buffer may be infinite: a bound that is not set
    broken = sorted(
        key for key, value in weights.items() if (not value.isfinite().all() if key in learned else value.isnan().any())
    )
    if broken:
        raise ValueError(f"{where} holds values that are no numbers ({broken[0]}): its training went wrong")
    family.load_state_dict(weights)


def load_start(
    family: Family, weights: Mapping[str, Tensor], where: str | os.PathLike, learned: Collection[str]
) -> None:
    """Put into a family what earlier stages taught it, `learned` (paths in it), and whatever else fits.

    A later stage may be given other music, or another network, than the checkpoint it goes on from was made with: a
    module of the family that no earlier stage taught and that does not fit starts anew, and the screen says so; of one
    that was taught in part, what does not fit outside of that. Raises ValueError, naming what does not fit, for the
    others.
    """
    own = family.state_dict()
    odd = {
        key
        for key in own.keys() | weights.keys()
        if key not in own or key not in weights or own[key].shape != weights[key].shape
    }
    in_part = {path.partition(".")[0] for path in learned}
    odd = {key for key in odd if not key.startswith(tuple(f"{path}." for path in learned))}
    whole = {key.partition(".")[0] for key in odd} - in_part
    anew = odd | {key for key in own.keys() | weights.keys() if key.partition(".")[0] in whole}
    rooms = sorted({key.partition(".")[0] for key in own.keys() & anew})
    if rooms:
        told = (f"{room} (in part)" if room in in_part else room for room in rooms)
        print(f"{where}: {', '.join(told)} of another make: starting anew")
    left = sorted({key.partition(".")[0] for key in weights.keys() - own.keys()})
    if left:
        print(f"{where}: left out what this model has no place for in {', '.join(left)}")
    kept = {key: value for key, value in weights.items() if key not in anew}
    load_weights(family, kept | {key: value for key, value in own.items() if key in anew}, where)


def load_family(path: str | os.PathLike, averaged: bool = True) -> tuple[Family, DictConfig]:
    """A family ready to generate, in eval mode on the CPU, and its config: from a .ckpt or an exported folder.

    averaged: with the averaged (EMA) weights; an exported folder holds no others. Raises ValueError when it is neither,
    has not the weights asked for, holds another program's, or does not fit; nothing in the file is ever run.
    """
    path = Path(path)
    if path.is_dir() and (path / WEIGHTS).is_file() and (path / CONFIG_FILE).is_file():
        if not averaged:
            raise ValueError(f"ckpt_weights=raw: {path} is an exported folder, which holds averaged weights only")
        config = read_config((path / CONFIG_FILE).read_text(errors="replace"), path / CONFIG_FILE)
        try:
            weights = load_file(path / WEIGHTS)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path / WEIGHTS} cannot be read: {error}") from None
    else:
        found = read_checkpoint(path)
        config = read_config(found["config"], path)
        weights = family_weights(found["state_dict"], averaged)
    family = build_family(config)
    load_weights(family, weights, path)
    return family.eval().requires_grad_(False), config


def export(path: str | os.PathLike, directory: str | os.PathLike, dtype: str = "fp32") -> Path:
    """Write the averaged weights of a .ckpt or folder to DIRECTORY, as model.safetensors with config.yaml; answers it.

    dtype: of the parameters, a key of DTYPES; buffers (normalisers) keep theirs. The folder appears whole, under its
    name, or not at all. Raises ValueError when it exists and is not empty.
    """
    directory = Path(directory)
    check_new_folder(directory)
    family, config = load_family(path)
    parameters = {name for name, _ in family.named_parameters()}
    weights = {
        name: (value.to(DTYPES[dtype]) if name in parameters and value.is_floating_point() else value)
        .clone()
        .contiguous()
        for name, value in family.state_dict().items()
    }
    kept = OmegaConf.create({name: config[name] for name in ("model", "music", "size", "seed") if name in config})
    with replacing(directory) as temporary:
        temporary.mkdir()
        save_file(weights, temporary / WEIGHTS, metadata={"format": "pt", "family": str(config.model.name)})
        (temporary / CONFIG_FILE).write_text(OmegaConf.to_yaml(kept, resolve=True))
    print(f"{directory}: {sum(value.numel() for value in weights.values()) / 1e6:.2f} M values, {dtype}")
    return directory
