"""Checks of option values. Each raises ValueError with one line: the option, its value, and the valid ones."""

import math
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

from omegaconf import DictConfig

from zoo.files import is_writable, resource_root, user_path

VIDEO_SUFFIXES, MOTION_SUFFIXES = (".mp4", ".gif"), (".bvh", ".glb", ".npz")
READABLE_MOTION_SUFFIXES = (*MOTION_SUFFIXES, ".pkl", ".txt", ".json")
NTSC_NOMINAL_RATES = (24, 30, 48, 60, 120)  # their x1000/1001 rates are usually written with two or three decimals
PRECISIONS = ("fp32", "bf16")


def read_precision(value: str | None) -> str | None:
    """Precision of the denoisers; None: bf16 on a GPU, on a CPU as the weights are."""
    if value not in (None, *PRECISIONS):
        raise ValueError(f"precision={value}: use {' or '.join(PRECISIONS)}, or leave it out")
    return value


def frame_rate(value: float | str) -> Fraction:
    """Frames a second as an exact fraction: 30, '30000/1001', and 29.97 taken as NTSC's 30000/1001.

    Raises ValueError outside 1..240.
    """
    try:
        rate = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"fps={value} is not a frame rate; write 30, 29.97 or 30000/1001") from None
    for nominal_rate in NTSC_NOMINAL_RATES:
        exact = Fraction(nominal_rate * 1000, 1001)
        if rate.denominator != 1 and abs(rate - exact) < Fraction(6, 1000):
            rate = exact
    if not 1 <= rate <= 240:
        raise ValueError(f"fps={value}: a frame rate lies between 1 and 240")
    return rate


def finite(value: float | str, name: str) -> float:
    """A finite number. Raises ValueError."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}={value} is not a number")
    return number


def training_seed(value: int | str) -> int:
    """A seed that all of Lightning's generators take, from 0 to 2^32 - 1. Raises ValueError."""
    seed = int_at_least(value, "seed", 0)
    if seed >= 2**32:
        raise ValueError(f"seed={seed}: it must be below 2^32")
    return seed


def positive(value: float | str, name: str) -> float:
    """A finite number above 0. Raises ValueError."""
    number = finite(value, name)
    if number <= 0:
        raise ValueError(f"{name}={value}: it must be above 0")
    return number


def between(value: float | str, name: str, low: float, high: float) -> float:
    """A number in low..high. Raises ValueError."""
    number = finite(value, name)
    if not low <= number <= high:
        raise ValueError(f"{name}={value}: it lies between {low} and {high}")
    return number


def int_at_least(value: int | str, name: str, minimum: int) -> int:
    """A whole number of at least `minimum`. Raises ValueError."""
    number = finite(value, name)
    if number != int(number) or number < minimum:
        raise ValueError(f"{name}={value}: it must be a whole number of at least {minimum}")
    return value if isinstance(value, int) else int(Fraction(str(value)))  # exact above 2^53


def existing_path(path: str | Path | None, name: str) -> Path:
    """A file or folder that exists; shipped files (assets/...) are found from any folder. Raises ValueError."""
    if path is None or str(path) == "":
        raise ValueError(f"{name}= is empty; give it a file")
    for candidate in (user_path(str(path)), resource_root() / str(path)):
        if candidate.is_file() or candidate.is_dir():
            return candidate
        if candidate.exists():
            raise ValueError(f"{name}={path} is a pipe or a device, not a file")
    raise ValueError(f"{name}={path}: there is no such file")


def existing_file(path: str | Path | None, name: str) -> Path:
    """A non-empty file. Raises ValueError."""
    file = existing_path(path, name)
    if not file.is_file():
        raise ValueError(f"{name}={path} is a directory, not a file")
    if file.stat().st_size == 0:
        raise ValueError(f"{name}={path} is empty")
    return file


def writable(path: str) -> Path:
    """The path of the output; only outputs/ is made when missing. Raises ValueError for a bad suffix or folder."""
    out = user_path(str(path))
    suffixes = VIDEO_SUFFIXES + MOTION_SUFFIXES
    if out.suffix.lower() not in suffixes:
        raise ValueError(f"out={path}: the name must end in one of {' '.join(suffixes)}")
    if out.is_dir():
        raise ValueError(f"out={path} is a directory; add a file name")
    if not out.parent.is_dir() and Path("outputs") not in [out.parent, *out.parent.parents]:
        raise ValueError(f"out={path}: there is no directory {out.parent}")
    existing_parent = next(folder for folder in (out.parent, *out.parent.parents) if folder.exists())
    if not is_writable(existing_parent):
        raise ValueError(f"out={path}: nothing can be written in {existing_parent}")
    return out


def check_not_input(out: Path, inputs: Iterable[Path | None]) -> None:
    """Raises ValueError when the output is one of the inputs, or a file in one: also by a link or another spelling."""
    for path in inputs:
        if path is None or not out.exists():
            continue
        files = path.rglob("*") if path.is_dir() else [path]
        if any(os.path.samefile(out, file) for file in files if file.exists()):
            raise ValueError(f"out={out} is an input, {path}: it would be overwritten; name another file")


def check_strategy(strategy: object) -> None:
    """Raises ValueError for what is neither a name nor a node of a training strategy."""
    if not isinstance(strategy, str) and not (isinstance(strategy, DictConfig) and "_target_" in strategy):
        raise ValueError(f"trainer.strategy={strategy}: give the name of a strategy of Lightning, such as auto or ddp")
