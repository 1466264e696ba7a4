"""Weights that came from elsewhere: read without running any code, loaded strictly or not at all."""

import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

Translate = Callable[[Any], Mapping[str, Tensor]]


class Inert:
    """Stands in for an instance of a pickled class: it gets the attributes, and has no code."""

    def __init__(self, *arguments: Any):
        """What it would have been made of is dropped."""

    def __setstate__(self, state: Any) -> None:
        """Attributes are kept; what else a class says of itself (numpy's types: a tuple) is dropped."""
        if isinstance(state, dict):
            self.__dict__.update(state)


@dataclass(frozen=True)
class Report:
    """What a strict load did: names of the module's state dict."""

    path: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # in the module, not in the file, and allowed to be
    left_over: tuple[str, ...]  # in the file only; always empty after a successful load

    def __str__(self) -> str:
        values = f"{self.path}: {len(self.loaded)} tensors loaded"
        return f"{values}, {_some(self.missing, 'missing')}, {_some(self.left_over, 'left over')}"


def _some(names: tuple[str, ...], kind: str) -> str:
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} {kind}" + (f" ({', '.join(names[:3])}{more})" if names else "")


def read_weights(path: str | Path, classes: tuple[str, ...] = ()) -> Any:
    """What a .safetensors, or any file that torch.save wrote, holds: tensors and plain values, on the CPU.

    classes: full names of pickled classes whose attributes are wanted; their instances come as `Inert` objects. Raises
    ValueError for a file that is not there, is damaged, or holds any other class or function; nothing in it is run.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is {'a directory' if path.is_dir() else 'not there'}; weights are in one file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError:
            raise ValueError(f"{path} is damaged, or not a .safetensors file") from None
    stand_ins = [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in classes]
    try:
        with safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an error says it all in one line
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        raise ValueError(f"{path} {_what_is_wrong(path, classes)}") from None


def _what_is_wrong(path: Path, classes: tuple[str, ...]) -> str:
    try:
        foreign = sorted(set(get_unsafe_globals_in_checkpoint(path)) - set(classes))
    except (ValueError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError):
        foreign = []
    if foreign:
        return f"holds more than weights ({', '.join(foreign[:3])}); nothing of it was run"
    return "cannot be read as weights: it is damaged, of another kind, or holds code; nothing of it was run"


def plain(found: Any) -> Mapping[str, Tensor]:
    """The state dict in a file's contents: itself or under 'state_dict', without the 'module.' of DataParallel."""
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError("it holds no table of weights")
    if all(name.startswith("module.") for name in found):
        return {name.removeprefix("module."): value for name, value in found.items()}
    return found


def load_foreign(
    module: nn.Module,
    path: str | Path,
    translate: Translate = plain,
    classes: tuple[str, ...] = (),
    allowed_missing: tuple[str, ...] = (),
    assign: bool = False,
) -> Report:
    """Fill a module with the weights in a file; prints and returns what was loaded and what is missing.

    translate: the file's contents -> the module's names; may raise ValueError saying what they are not. classes: see
    `read_weights`. allowed_missing: beginnings of names that the file may lack. assign: the file's tensors take the
    place of the module's, in their own precision. Raises ValueError, with nothing loaded, when anything else is
    missing, anything is left over, or a shape differs.
    """
    try:
        state = translate(read_weights(path, classes))
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    own = module.state_dict()
    missing = tuple(name for name in own if name not in state)
    report = Report(
        path=str(path),
        loaded=tuple(name for name in own if name in state),
        missing=missing,
        left_over=tuple(name for name in state if name not in own),
    )
    refused = tuple(name for name in missing if not name.startswith(allowed_missing or ("\0",)))
    if refused or report.left_over:
        wrong = f"{_some(refused, 'missing')}, {_some(report.left_over, 'left over')}"
        raise ValueError(f"{path} does not fit {type(module).__name__}: {wrong}; nothing was loaded")
    for name in report.loaded:
        if own[name].shape != state[name].shape:
            shapes = f"{tuple(state[name].shape)} in the file and {tuple(own[name].shape)} here"
            raise ValueError(f"{path} does not fit {type(module).__name__}: {name} is {shapes}; nothing was loaded")
    module.load_state_dict(state, strict=False, assign=assign)
    print(report)
    return report
