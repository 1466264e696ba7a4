"""Files of an evaluation's output folder. Each appears complete or not at all, so that an evaluation can be resumed.

OUT/clips-ID/       the protocol's clips: KEY.wav, KEY.mp4 (ground truth), KEY.npz; clips.json is written last
OUT/NAME-ID/        one system's clips: KEY.mp4 (lossless), KEY.npz (exact motion); KEY.json (cost) is written last
OUT/measured/NAME/  the measurements of all metrics on each of a system's clips: KEY.npz
An ID is the hash of everything that decides the content. Measurements also store the hash of their inputs. So a stale
file is never reused.
"""

import hashlib
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
from zoo.files import user_path, write_atomic
from zoo.media import encode_frames, write_sound

FOLDER_MARKER = ".dancezoo-evaluation"  # in every folder that an evaluation created
MAX_STEM_LENGTH = 80  # characters; file systems allow 255 bytes, with suffixes
Measurements = dict[str, dict[str, np.ndarray]]  # ConfiguredMetric.fingerprint -> name -> values


def open_folder(path: str, option: str = "out") -> Path:
    """Create or reopen an evaluation's folder. Raises ValueError where other files lie or nothing can be written."""
    folder = user_path(path)
    try:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{option}={path} is a file; name a folder")
        if folder.is_dir() and not (folder / FOLDER_MARKER).is_file() and any(folder.iterdir()):
            raise ValueError(f"{option}={path} holds other files, which are never overwritten; name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / FOLDER_MARKER, b"Files of evaluate.py. The folder can be deleted.\n")
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise ValueError(f"{option}={path}: nothing can be written there ({reason})") from None
    return folder


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz file atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the file that `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def with_suffix(path: Path, suffix: str) -> Path:
    """Append `suffix` to the name, which may itself contain dots."""
    return path.with_name(path.name + suffix)


def write_json(path: Path, value: Any) -> None:
    """Write a .json file atomically. Raises ValueError for NaN and infinity."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read the file that `write_json` wrote; None where it is missing or incomplete."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def file_stem(name: str) -> str:
    """Turn a system's name into the stem of a file; different names may have one stem."""
    return re.sub(r"[^\w.@+-]+", "_", name).strip("._") or "_"


def clip_stem(key: str) -> str:
    """The stem of a clip's files: its key, or, where that is no plain name, a similar one with a hash of the key."""
    stem = file_stem(key)
    if stem == key and len(key) <= MAX_STEM_LENGTH:
        return stem
    return f"{stem[:MAX_STEM_LENGTH]}-{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()[:6]}"


# The protocol's clips ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredClip:
    """One clip of the protocol in the output folder, without music features, which depend on the encoder."""

    key: str
    path: Path  # of its files, without suffix
    labels: dict[str, str]  # such as song, dancer and style

    def read(self) -> dict[str, np.ndarray]:
        """Return waveform, sample_rate, beats, caption, reference; motions where the data has them."""
        return read_arrays(self.file(".npz"))

    def file(self, suffix: str) -> Path:
        """Return a path: .npz for the arrays of `read`, .mp4 for the ground truth, .wav for the song."""
        return with_suffix(self.path, suffix)


def store_clip(clips: EvalClips, index: int, fps: Fraction, folder: Path) -> StoredClip:
    """Write the files of a clip, unless they exist."""
    stored = StoredClip(clips.keys[index], folder / clip_stem(clips.keys[index]), clips.labels[index])
    if stored.file(".npz").is_file():
        return stored
    clip = clips[index]
    arrays = {
        "waveform": clip.waveform,
        "sample_rate": np.array(clip.sample_rate),
        "beats": clip.beats,
        "caption": np.array(clip.caption),
        "reference": clip.reference,
    }
    for name in ("motion", "second_motion"):
        motion = getattr(clip, name)
        if motion is not None:
            arrays[name] = motion.float().numpy()
    folder.mkdir(parents=True, exist_ok=True)
    write_sound(stored.file(".wav"), clip.waveform, clip.sample_rate)
    write_atomic(stored.file(".mp4"), encode_frames(clip.frames, fps, crf=0))
    write_arrays(stored.file(".npz"), arrays)
    return stored


def write_index(folder: Path, clips: list[StoredClip], skipped: dict[str, str]) -> None:
    """Write clips.json, after all clips. skipped: clip -> the reason why the data cannot give it."""
    entries = [{"key": clip.key, "labels": clip.labels} for clip in clips]
    write_json(folder / "clips.json", {"clips": entries, "skipped": skipped})


def read_index(folder: Path) -> tuple[list[StoredClip], dict[str, str]] | None:
    """Read the clips and the skipped ones; None where not all clips are stored yet."""
    index = read_json(folder / "clips.json")
    if index is None:
        return None
    clips = [StoredClip(entry["key"], folder / clip_stem(entry["key"]), entry["labels"]) for entry in index["clips"]]
    return clips, index["skipped"]


# Measurements --------------------------------------------------------------------------------------------------------


def write_measurements(path: Path, inputs_hash: str, measurements: Measurements) -> None:
    """Write the measurements of one clip. inputs_hash: the hash of everything that was measured."""
    arrays = {
        f"{fingerprint}/{name}": array for fingerprint, values in measurements.items() for name, array in values.items()
    }
    header = {"inputs_hash": np.array(inputs_hash), "fingerprints": np.array(sorted(measurements), str)}
    write_arrays(path, {**header, **arrays})


def read_measurements(path: Path, inputs_hash: str) -> Measurements:
    """Read the measurements of the same inputs, by any metric; empty where there is no complete file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if str(arrays["inputs_hash"]) != inputs_hash:
                return {}
            measurements: Measurements = {str(fingerprint): {} for fingerprint in arrays["fingerprints"]}
            for key in arrays.files:  # of `header` in `write_measurements`: without a slash
                fingerprint, slash, name = key.partition("/")
                if slash:
                    measurements[fingerprint][name] = arrays[key]
            return measurements
    except Exception:  # np.load raises many kinds of errors for broken files
        return {}
