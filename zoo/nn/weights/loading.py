"""Weights of other programs: read without running any code, and loaded strictly or not at all."""

import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from zoo.nn.weights.quantization import dequantize

PLAIN_DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
Convert = Callable[[Any], Mapping[str, Tensor]]  # contents of a file -> state dict of a module


class UnpickledStub:
    """Stand-in for an instance of a pickled class: it gets the attributes, and has no code."""

    def __init__(self, *arguments: Any):
        """Ignore the arguments of the pickled constructor."""

    def __setstate__(self, state: Any) -> None:
        """Keep attributes; drop any other state (of numpy's types: a tuple)."""
        if isinstance(state, dict):
            self.__dict__.update(state)


@dataclass(frozen=True)
class LoadReport:
    """Result of a strict load: the names of the tensors that were loaded, missing or unexpected."""

    path: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # in the module, not in the file, and allowed to be
    unexpected: tuple[str, ...]  # in the file only; always empty after a successful load

    def __str__(self) -> str:
        loaded_text = f"{self.path}: {len(self.loaded)} tensors loaded"
        return f"{loaded_text}, {_count_names(self.missing, 'missing')}, {_count_names(self.unexpected, 'unexpected')}"


def _count_names(names: tuple[str, ...], kind: str) -> str:
    ellipsis = ", ..." if len(names) > 3 else ""
    return f"{len(names)} {kind}" + (f" ({', '.join(names[:3])}{ellipsis})" if names else "")


def read_weights(path: str | Path, classes: tuple[str, ...] = ()) -> Any:
    """Read a .safetensors file, or any file of torch.save: tensors and plain values, on the CPU.

    Weights in int8, as exported folders store them, become float32.

    classes: full names of pickled classes whose instances are read as `UnpickledStub` objects with their attributes.
    Raises ValueError for a file that does not exist, is damaged, or holds any other class or function; no code in it is
    run.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is {'a directory' if path.is_dir() else 'not there'}; weights are in one file")
    if path.suffix == ".safetensors":
        try:
            contents = load_file(path)
        except SafetensorError:
            raise ValueError(f"{path} is damaged, or not a .safetensors file") from None
        check_plain_tensors(contents, path)
        try:
            return dequantize(contents)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    check_zip_size(path)
    stubs = [(type(name.rpartition(".")[2], (UnpickledStub,), {}), name) for name in classes]
    try:
        with safe_globals(stubs), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below is one line
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        raise ValueError(f"{path} {_failure_reason(path, classes)}") from None
    check_plain_tensors(contents, path, allow_views=True)  # shapes are compared with a network that exists
    return contents


def check_zip_size(path: Path) -> None:
    """Raise ValueError for a zip bomb: its contents are larger than the file. torch.save never compresses."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if size > path.stat().st_size:
        raise ValueError(f"{path} is compressed: it would grow to {size} bytes; nothing of it was read")


def check_plain_tensors(contents: Any, path: str | Path, allow_views: bool = False) -> None:
    """Raise ValueError for tensors that no module can take: sparse, quantised, nested, without values, of odd types.

    Without `allow_views`, also for views that are larger than their storage. A view of one value may have any shape,
    which matters where the shapes in the file decide the size of a network.
    """
    pending, containers = [contents], set()
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping | list | tuple):
            if id(value) in containers:  # it may contain itself
                continue
            containers.add(id(value))
        if isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, list | tuple):
            pending.extend(value)
        elif isinstance(value, Tensor):
            if value.is_nested or value.layout != torch.strided or value.is_quantized or value.is_meta:
                raise ValueError(f"{path} holds sparse, quantised, nested or empty tensors; only dense ones are read")
            if value.dtype not in PLAIN_DTYPES:
                raise ValueError(f"{path} holds tensors of {value.dtype}, which are not read; convert it to float32")
            if not allow_views and value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError(f"{path} holds a tensor of {tuple(value.shape)} without that many values")


def _failure_reason(path: Path, classes: tuple[str, ...]) -> str:
    try:
        unsafe = sorted(set(get_unsafe_globals_in_checkpoint(path)) - set(classes))
    except (ValueError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError):
        unsafe = []
    if unsafe:
        return f"holds more than weights ({', '.join(unsafe[:3])}); nothing of it was run"
    return "cannot be read as weights: it is damaged, of another kind, or holds code; nothing of it was run"


def unwrap_state_dict(contents: Any) -> Mapping[str, Tensor]:
    """Return the state dict in a file: its contents or their 'state_dict', without the 'module.' of DataParallel.

    Raises ValueError for contents that are no state dict.
    """
    if isinstance(contents, Mapping) and isinstance(contents.get("state_dict"), Mapping):
        contents = contents["state_dict"]
    has_entries = isinstance(contents, Mapping) and bool(contents)
    is_flat = has_entries and all(isinstance(value, Tensor) for value in contents.values())
    if not is_flat or not all(isinstance(name, str) for name in contents):
        raise ValueError("it holds no state dict")
    if all(name.startswith("module.") for name in contents):
        return {name.removeprefix("module."): value for name, value in contents.items()}
    return contents


def check_overwrites(reports: Sequence[LoadReport]) -> None:
    """Raise ValueError when all weights that a file brought are overwritten by a later file, which must come first.

    Champ's denoising_unet.pth initialises the ReferenceNet too: after reference_unet.pth it would replace its weights.
    """
    for index, later in enumerate(reports):
        for earlier in reports[:index]:
            if set(earlier.loaded) <= set(later.loaded):
                raise ValueError(
                    f"{later.path} overwrites all weights of {earlier.path}: give it first, or leave one of them out"
                )


def load_strict(
    module: nn.Module,
    path: str | Path,
    convert: Convert = unwrap_state_dict,
    classes: tuple[str, ...] = (),
    allowed_missing: tuple[str, ...] = (),
    assign: bool = False,
) -> LoadReport:
    """Load the weights in a file into a module; print and return which were loaded and which are missing.

    convert: contents of the file -> state dict of the module; may raise ValueError with the reason why it cannot.
    classes: see `read_weights`. allowed_missing: prefixes of names that the file may lack. assign: use the file's
    tensors, in their precision, as the module's. Raises ValueError, with nothing loaded, when anything else is missing,
    anything is unexpected, or a shape differs.
    """
    try:
        state_dict = convert(read_weights(path, classes))
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    module_state = module.state_dict()
    missing = tuple(name for name in module_state if name not in state_dict)
    report = LoadReport(
        path=str(path),
        loaded=tuple(name for name in module_state if name in state_dict),
        missing=missing,
        unexpected=tuple(name for name in state_dict if name not in module_state),
    )
    forbidden = tuple(name for name in missing if not name.startswith(allowed_missing or ("\0",)))
    if forbidden or report.unexpected:
        differences = f"{_count_names(forbidden, 'missing')}, {_count_names(report.unexpected, 'unexpected')}"
        raise ValueError(f"{path} does not fit {type(module).__name__}: {differences}; nothing was loaded")
    for name in report.loaded:
        if module_state[name].shape != state_dict[name].shape:
            both_shapes = (
                f"{tuple(state_dict[name].shape)} in the file and {tuple(module_state[name].shape)} in the model"
            )
            raise ValueError(
                f"{path} does not fit {type(module).__name__}: {name} is {both_shapes}; nothing was loaded"
            )
    module.load_state_dict(state_dict, strict=False, assign=assign)
    print(report)
    return report
