"""Checkpoints: written whole or not at all, read without running anything that is in them.

A `.ckpt` is Lightning's: raw weights as `family.*`, averaged ones as `ema.*`, optimiser, step, and the resolved config
as YAML text. An exported folder is what diffusers users know: `model.safetensors` (averaged weights) and `config.yaml`.
Each of the family's optional parts has a file of its own, `PART.safetensors`.
"""

import os
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from lightning.pytorch.plugins.io import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy

from zoo.families.base import Family
from zoo.files import replacing
from zoo.nn.weights.loading import check_plain_tensors, check_zip_size
from zoo.nn.weights.quantization import dequantize, quantize
from zoo.run.build import build_family
from zoo.run.checkpoint_upgrade import upgrade_checkpoint
from zoo.run.config import CONFIG_FILE, read_config
from zoo.run.train.runs import check_new_folder

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
MAX_REASON = 200  # characters
MAX_RESOLUTION = 4096  # pixels a side
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
RANDOM_PARAMETERS = "random_parameters"  # entry of a .ckpt: names that no stage has trained and no file has given
EMA_PREFIX = "ema.module."  # AveragedModel keeps its copy as `module`, a ModuleDict of what learns


class AtomicCheckpoint(TorchCheckpointIO):
    """Lightning's checkpoint files, under a temporary name until every byte is on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`; a process killed at any moment leaves the old file or the new one."""
        with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read a .ckpt of this program: `state_dict`, `config` (YAML text), `stage`, `global_step` and Lightning's entries.

    Only tensors and plain values are read. Raises ValueError for anything else, running nothing of it.
    """
    path = Path(path)
    if path.is_dir():
        candidates = [
            str(file)
            for folder_pattern in ("", "*/", "*/*/")
            for file in sorted(path.glob(f"{folder_pattern}last.ckpt"))
        ][:3]
        hint = (
            f"; did you mean {' or '.join(candidates)}?" if candidates else f" without {WEIGHTS_FILE} and {CONFIG_FILE}"
        )
        raise ValueError(f"ckpt={path} is a directory{hint}")
    if not path.is_file():
        raise ValueError(f"ckpt={path}: there is no such file")
    check_zip_size(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below says it in one line
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:  # torch does not notice flipped bits
                    raise zipfile.BadZipFile
            checkpoint = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)  # reads what is used
    except Exception:
        raise ValueError(
            f"ckpt={path} is no checkpoint: it is damaged, or holds more than tensors and plain values; nothing was run"
        ) from None
    check_plain_tensors(checkpoint, path)
    state_dict = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    is_state_dict = isinstance(state_dict, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state_dict.items()
    )
    if not (is_state_dict and "config" in checkpoint):
        raise ValueError(
            f"ckpt={path} is no checkpoint of this program; train.py init=FILE starts from foreign weights"
        )
    return checkpoint


def family_weights(state_dict: Mapping[str, Tensor], use_ema: bool) -> dict[str, Tensor]:
    """The family's state dict in that of a .ckpt: raw, or with the averaged (EMA) weights in place of the raw ones."""
    weights = {key.removeprefix("family."): value for key, value in state_dict.items() if key.startswith("family.")}
    if use_ema:
        for key, value in state_dict.items():
            if key.startswith(EMA_PREFIX):
                path, _, key_in_module = key.removeprefix(EMA_PREFIX).partition(".")
                weights[f"{path.replace('/', '.')}.{key_in_module}"] = value
    return weights


def load_strict(family: Family, weights: Mapping[str, Tensor], source: str | os.PathLike) -> None:
    """Load a state dict into a family: every key and no other. Raises ValueError, naming the keys that do not fit."""
    state_dict = family.state_dict()
    missing, unexpected = sorted(state_dict.keys() - weights.keys()), sorted(weights.keys() - state_dict.keys())
    mismatched = sorted(
        key for key in state_dict.keys() & weights.keys() if state_dict[key].shape != weights[key].shape
    )
    if missing or unexpected or mismatched:
        groups = ((missing, "missing"), (unexpected, "unexpected"), (mismatched, "of another shape"))
        differences = [f"{len(keys)} {problem} ({keys[0]})" for keys, problem in groups if keys]
        raise ValueError(f"{source} does not fit {type(family).__name__}: {', '.join(differences)}")
    parameters = {key for key, _ in family.named_parameters()}  # a buffer may be infinite: a bound that is not set
    nonfinite_keys = sorted(
        key
        for key, value in weights.items()
        if (not value.isfinite().all() if key in parameters else value.isnan().any())
    )
    if nonfinite_keys:
        raise ValueError(f"{source} holds values that are not finite ({nonfinite_keys[0]}): its training diverged")
    family.load_state_dict(weights)


def load_for_stage(
    family: Family, weights: Mapping[str, Tensor], source: str | os.PathLike, trained: Collection[str]
) -> frozenset[str]:
    """Load what earlier stages trained (`trained`: module paths in the family), and everything else that fits.

    A later stage may use another music encoder or network than the checkpoint that it starts from. A module that no
    earlier stage trained and that does not fit is initialised from scratch, and a line says so. Of a module that was
    trained in part, only the rest is initialised. Raises ValueError, naming the keys, where a trained module does not
    fit.
    """
    state_dict = family.state_dict()
    misfits = {
        key
        for key in state_dict.keys() | weights.keys()
        if key not in state_dict or key not in weights or state_dict[key].shape != weights[key].shape
    }
    partly_trained_modules = {path.partition(".")[0] for path in trained}
    misfits = {key for key in misfits if not key.startswith(tuple(f"{path}." for path in trained))}
    untrained_modules = {key.partition(".")[0] for key in misfits} - partly_trained_modules
    scratch_keys = misfits | {
        key for key in state_dict.keys() | weights.keys() if key.partition(".")[0] in untrained_modules
    }
    scratch_modules = sorted({key.partition(".")[0] for key in state_dict.keys() & scratch_keys})
    if scratch_modules:
        labels = (f"{name} (in part)" if name in partly_trained_modules else name for name in scratch_modules)
        print(f"{source}: {', '.join(labels)}: other shapes; initialised from scratch")
    ignored_modules = sorted({key.partition(".")[0] for key in weights.keys() - state_dict.keys()})
    if ignored_modules:
        print(f"{source}: {', '.join(ignored_modules)}: ignored weights that this model has no module for")
    fitting = {key: value for key, value in weights.items() if key not in scratch_keys}
    own = {key: value for key, value in state_dict.items() if key in scratch_keys}
    load_strict(family, fitting | own, source)
    return frozenset(own)


def random_parameters(checkpoint: Mapping[str, Any]) -> frozenset[str]:
    """Names of the family's parameters that are random in a .ckpt that was read. Older files name none."""
    names = checkpoint.get(RANDOM_PARAMETERS)
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def read_family_weights(path: str | os.PathLike, use_ema: bool = True) -> tuple[DictConfig, dict[str, Tensor]]:
    """Configuration and family state dict of a .ckpt or an exported folder, see `read_start`."""
    config, weights, _ = read_start(path, use_ema)
    return config, weights


def read_start(path: str | os.PathLike, use_ema: bool = True) -> tuple[DictConfig, dict[str, Tensor], frozenset[str]]:
    """Configuration and family state dict of a .ckpt or an exported folder, upgraded to this version, and the names of
    parameters that are random in it, which an exported folder does not know.

    use_ema: with the averaged weights; an exported folder holds no others. Raises ValueError for other files.
    """
    path = Path(path)
    if path.is_dir() and (path / WEIGHTS_FILE).is_file() and (path / CONFIG_FILE).is_file():
        if not use_ema:
            raise ValueError(f"use_ema=false: {path} is an exported folder, which holds averaged weights only")
        config = read_config((path / CONFIG_FILE).read_text(errors="replace"), path / CONFIG_FILE)
        weights: dict[str, Tensor] = {}
        for file in weight_files(path):
            try:
                stored_tensors = load_file(file)
                check_plain_tensors(stored_tensors, file)
                part = dequantize(stored_tensors)
            except (SafetensorError, OSError, ValueError) as error:
                raise ValueError(f"{file} cannot be read: {error}") from None
            repeated = sorted(weights.keys() & part.keys())
            if repeated:
                raise ValueError(f"{file} holds {repeated[0]}, which another file of the folder holds too")
            weights |= part
        random_names: frozenset[str] = frozenset()
    else:
        checkpoint = read_checkpoint(path)
        random_names = random_parameters(checkpoint)
        config = read_config(checkpoint["config"], path)
        weights = family_weights(checkpoint["state_dict"], use_ema)
    return *upgrade_checkpoint(config, weights, path), random_names


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights of an exported folder: `model.safetensors`, and `PART.safetensors` of its parts."""
    return sorted(folder.glob("*.safetensors"), key=lambda file: (file.name != WEIGHTS_FILE, file.name))


def load_family(path: str | os.PathLike, use_ema: bool = True) -> tuple[Family, DictConfig]:
    """A family ready to generate, in eval mode on the CPU, and its configuration: of a .ckpt or an exported folder.

    Raises ValueError when the path is neither, lacks the weights asked for, holds another program's, or does not fit.
    Nothing in the file is ever run.
    """
    config, weights = read_family_weights(path, use_ema)
    try:
        with torch.device("meta"), _bounded_by(weights):
            build_family(config)  # nothing is allocated yet
        family = build_family(config)
    except InstantiationException as error:
        cause = error.__cause__ or error
        message = " ".join(str(cause).split())
        raise ValueError(f"{path}: its configuration cannot be built: {message[:MAX_REASON]}") from None
    if not isinstance(family.resolution, int) or not 1 <= family.resolution <= MAX_RESOLUTION:
        raise ValueError(f"{path}: its resolution is {family.resolution}; it lies between 1 and {MAX_RESOLUTION}")
    load_strict(family, weights, path)
    return family.eval().requires_grad_(False), config


@contextmanager
def _bounded_by(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Raise ValueError in a module's constructor as soon as it is far larger than these weights.

    A configuration with height=1000000 or layers=100000 is refused so before it takes memory or time. The factor 4
    leaves room for layers that a constructor makes and drops.
    """
    max_tensors = 4 * len(weights) + 10_000
    max_values = 4 * sum(value.numel() for value in weights.values()) + (1 << 26)
    num_tensors = num_values = 0

    def count(module: nn.Module, name: str, value: Tensor | None) -> None:
        nonlocal num_tensors, num_values
        num_tensors += 1
        num_values += 0 if value is None or is_lazy(value) else value.numel()
        if num_tensors > max_tensors or num_values > max_values:
            raise ValueError("it describes a network that is far larger than the weights in the file")

    handles = [
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def export(path: str | os.PathLike, directory: str | os.PathLike, dtype: str = "fp32") -> Path:
    """Write the averaged weights of a .ckpt or folder to DIRECTORY, see `write_folder`."""
    check_new_folder(Path(directory))
    return write_folder(*load_family(path), directory, dtype)


def write_folder(family: Family, config: DictConfig, directory: str | os.PathLike, dtype: str = "fp32") -> Path:
    """Write a family to DIRECTORY: model.safetensors, config.yaml and README.md.

    Each of the family's `optional_parts` is written to PART.safetensors, which can be added to a folder without it.

    dtype: of the parameters, a key of DTYPES or 'int8' (`zoo.nn.weights.quantization`). Buffers (normalisers) keep
    theirs, and what is loaded again is float32. The folder appears whole, under its name, or not at all. Returns the
    directory. Raises ValueError when it exists and is not empty.
    """
    directory = Path(directory)
    check_new_folder(directory)
    parameter_names = {name for name, _ in family.named_parameters()}
    weights = family.state_dict()
    num_values = sum(value.numel() for value in weights.values())
    if dtype == "int8":
        weights = quantize(weights, parameter_names)
    else:
        cast_names = {name for name in parameter_names if weights[name].is_floating_point()}
        weights = {name: value.to(DTYPES[dtype]) if name in cast_names else value for name, value in weights.items()}
    weights = {name: value.clone().contiguous() for name, value in weights.items()}
    files: dict[str, dict[str, Tensor]] = {WEIGHTS_FILE: {}}
    for name, value in weights.items():
        part = name.partition(".")[0]
        file_name = f"{part}.safetensors" if part in family.optional_parts else WEIGHTS_FILE
        files.setdefault(file_name, {})[name] = value
    with replacing(directory) as temporary:
        temporary.mkdir()
        (temporary / CONFIG_FILE).write_text(OmegaConf.to_yaml(_sampling_config(config)))
        for file_name, tensors in files.items():
            save_file(tensors, temporary / file_name, metadata={"format": "pt", "family": str(config.model.name)})
            # safetensors keeps its files from everybody else
            (temporary / file_name).chmod((temporary / CONFIG_FILE).stat().st_mode)
        (temporary / CARD_FILE).write_text(_model_card(directory.name, config, num_values, dtype))
    print(f"{directory}: {num_values / 1e6:.2f} M values, {dtype}")
    return directory


def _sampling_config(config: DictConfig) -> DictConfig:
    """What an exported folder needs: the family, its music encoder, and where both come from. No training settings."""
    plain = OmegaConf.to_container(config, resolve=True)
    model = {name: plain["model"][name] for name in ("name", "family")}
    top_level_entries = {name: plain[name] for name in ("config_version", "music", "size", "seed") if name in plain}
    return OmegaConf.create({**top_level_entries, "model": model})


def _model_card(name: str, config: DictConfig, num_values: int, dtype: str) -> str:
    """The README.md of an exported folder; its header is what the Hugging Face hub reads."""
    size_name = config.size.name if "size" in config else "unknown"
    return (
        f"---\nlibrary_name: dancezoo\ntags: [dance, video-generation, {config.model.name}]\n---\n\n# {name}\n\n"
        f"| | |\n|---|---|\n| family | `{config.model.name}` |\n| size | `{size_name}` |\n"
        f"| music encoder | `{config.music._target_.rpartition('.')[2]}` |\n"
        f"| values | {num_values / 1e6:.2f} M, {dtype} |\n\n"
        "```python\nimport zoo\n\n"
        f'model = zoo.load("PATH/TO/{name}")\nmodel.dance(image="me.jpg", music="song.mp3").save("dance.mp4")\n```\n'
    )
