"""The folder of an evaluation: what was made and measured so far, each file there whole or not at all.

OUT/clips-ID/       the protocol's clips: KEY.wav, KEY.mp4 (the ground truth), KEY.npz, and clips.json, which comes last
OUT/NAME-ID/        one row's clips: KEY.mp4 without loss, KEY.npz (exact motion), KEY.json (cost), which comes last
OUT/measured/NAME/  what every metric measured on each of a row's clips: KEY.npz
An ID is the hash of what decides the content, and what was measured says of which evidence: nothing old is ever taken
for something new.
"""

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.base import EvalClips
from zoo.files import write_atomic
from zoo.media import encode_frames, write_sound

MARK = ".dancezoo-evaluation"  # in every folder that an evaluation made
Measurements = dict[str, dict[str, np.ndarray]]  # mark of a metric (Gauge.mark) -> name -> values


def open_folder(path: str, name: str = "out") -> Path:
    """A folder of this program's, made if need be, that can be written. Raises ValueError where anything else lies."""
    folder = Path(path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{name}={path} is a file; name a folder")
    if folder.is_dir() and not (folder / MARK).is_file() and any(folder.iterdir()):
        raise ValueError(f"{name}={path} holds other files, and nothing is ever written over; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / MARK, b"Files of evaluate.py; delete the folder when you need them no more.\n")
    except OSError as error:
        raise ValueError(f"{name}={path}: nothing can be written there ({(error.strerror or '').lower()})") from None
    return folder


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz that appears whole."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    write_atomic(path, file.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as kept:
        return dict(kept)


def with_suffix(path: Path, suffix: str) -> Path:
    """PATH.suffix, whatever dots PATH has."""
    return path.with_name(path.name + suffix)


def write_json(path: Path, value: Any) -> None:
    """A .json that appears whole; NaN is refused."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """What `write_json` wrote, None where there is no such file, or no whole one."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def file_name(name: str) -> str:
    """A key or a row's name as the stem of a file."""
    return re.sub(r"[^\w.@+-]+", "_", name).strip("._") or "_"


# The protocol's clips ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """One clip as it is kept: an `EvalClip` without what an encoder heard."""

    key: str
    path: Path  # of its files, without suffix
    labels: dict[str, str]

    def read(self) -> dict[str, np.ndarray]:
        """waveform, sample_rate, beats, reference, and motion and motion_again where they are known."""
        return read_arrays(self.file(".npz"))

    def file(self, suffix: str) -> Path:
        """.npz all that `read` reads, .mp4 the ground truth's frames, .wav the song."""
        return with_suffix(self.path, suffix)


def keep_take(takes: EvalClips, index: int, fps: Fraction, folder: Path) -> Facts:
    """Write all that is known of a clip but for what an encoder heard; what is there already is left alone."""
    clip = Facts(takes.keys[index], folder / file_name(takes.keys[index]), takes.labels[index])
    if clip.file(".npz").is_file():
        return clip
    take = takes[index]
    arrays = {
        "waveform": take.waveform,
        "sample_rate": np.array(take.sample_rate),
        "beats": take.beats,
        "reference": take.reference,
    }
    for name, motion in (("motion", take.motion), ("motion_again", take.second_motion)):
        if motion is not None:
            arrays[name] = motion.float().numpy()
    folder.mkdir(parents=True, exist_ok=True)
    write_sound(clip.file(".wav"), take.waveform, take.sample_rate)
    write_atomic(clip.file(".mp4"), encode_frames(take.frames, fps, crf=0))
    write_arrays(clip.file(".npz"), arrays)
    return clip


def write_index(folder: Path, clips: list[Facts], skipped: dict[str, str]) -> None:
    """Say that all clips are there. skipped: clip -> why the data cannot give it."""
    listed = [{"key": clip.key, "labels": clip.labels} for clip in clips]
    write_json(folder / "clips.json", {"clips": listed, "skipped": skipped})


def read_index(folder: Path) -> tuple[list[Facts], dict[str, str]] | None:
    """What `write_index` said, None where not all clips are there yet."""
    found = read_json(folder / "clips.json")
    if found is None:
        return None
    clips = [Facts(one["key"], folder / file_name(one["key"]), one["labels"]) for one in found["clips"]]
    return clips, found["skipped"]


# What was measured ---------------------------------------------------------------------------------------------------


def write_measured(path: Path, evidence: str, measured: Measurements) -> None:
    """evidence: the hash of everything that was measured on."""
    arrays = {f"{mark}/{name}": values for mark, kept in measured.items() for name, values in kept.items()}
    write_arrays(path, {"evidence": np.array(evidence), "marks": np.array(sorted(measured), str), **arrays})


def read_measured(path: Path, evidence: str) -> Measurements:
    """What is there of the same evidence, whatever metrics it is of; nothing where there is no whole file."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["evidence"]) != evidence:
                return {}
            measured: Measurements = {str(mark): {} for mark in kept["marks"]}
            for name in kept.files:
                mark, slash, value = name.partition("/")
                if slash:
                    measured[mark][value] = kept[name]
            return measured
    except Exception:  # np.load raises what it likes on broken files
        return {}
