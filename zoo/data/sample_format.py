"""One sample of a shard: its fields in memory and their files (table in docs/data.md).

Every value has one file in the tar, `KEY.EXTENSION`. Maps are integers under deflate, which is lossless and small
on images that are mostly background; the frames are near-lossless H.264, the sound is FLAC.
"""

import hashlib
import io
import json
from fractions import Fraction
from typing import Any

import numpy as np

from zoo.files import temporary_folder
from zoo.media import Sound, decode_frames, encode_frames, read_image, write_sound

# field -> (dtype in the file, full scale): value in memory = value in the file / full scale
MAPS = {
    "parts": (np.uint8, 1),
    "semantic": (np.uint8, 1),
    "depth": (np.uint16, 65535),
    "normal": (np.int8, 127),
    "skeleton": (np.uint8, 1),
    "heatmaps": (np.uint8, 255),
}
ARRAYS = ("motion", "joints2d", "joints3d")  # float32 .npy
EXTENSIONS = {  # field -> the part of its file's name after KEY.
    "info": "json",
    "sound": "flac",
    "frames": "mp4",
    "reference": "reference.png",
    **{name: f"{name}.npy" for name in ARRAYS},
    **{name: f"{name}.npz" for name in MAPS},
}
FIELD_OF_EXTENSION = {extension: field for field, extension in EXTENSIONS.items()}


def encode_sample(sample: dict[str, Any]) -> dict[str, bytes]:
    """Encode fields to files: extension -> content. The same sample gives the same bytes.

    sample: 'info' dict; 'sound' (waveform (S,) float32, sample rate) or ready FLAC bytes; 'frames' (F, H, W, 3) uint8;
    'reference' (H, W, 3) uint8; maps as in `zoo.batch` but channels last; float arrays.
    """
    info = dict(sample["info"])
    files = {}
    for field, value in sample.items():
        if field == "sound":
            content = value if isinstance(value, bytes) else _flac(*value)
            info["sound_id"] = sound_id(content)
        elif field == "frames":
            content = encode_frames(value, Fraction(info["fps"]))
        elif field == "reference":
            content = _png(value)
        elif field in MAPS:
            content = _deflate(_quantize(value, *MAPS[field]))
        elif field in ARRAYS:
            buffer = io.BytesIO()
            np.save(buffer, np.asarray(value, np.float32))
            content = buffer.getvalue()
        else:
            assert field == "info", field
            continue
        files[EXTENSIONS[field]] = content
    files["json"] = json.dumps(info, sort_keys=True).encode()
    return files


def decode_field(field: str, content: bytes) -> Any:
    """Decode one field from its file's content; 'sound' is (waveform (S,) float32, sample rate)."""
    if field == "info":
        return json.loads(content)
    if field == "frames":
        return decode_frames(content)
    if field in MAPS:
        _, full_scale = MAPS[field]
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            values = archive["values"]
        return values if full_scale == 1 else values.astype(np.float32) / full_scale
    if field in ARRAYS:
        return np.load(io.BytesIO(content), allow_pickle=False)
    with temporary_folder() as folder:  # media files are read by path
        path = folder / f"value.{EXTENSIONS[field].split('.')[-1]}"
        path.write_bytes(content)
        if field == "reference":
            return read_image(path)
        sound_file = Sound(path)
        return sound_file.mono(sound_file.sample_rate), sound_file.sample_rate


def sound_id(content: bytes) -> str:
    """Hash of a sound's file (20 hex digits): equal sounds are encoded once."""
    return hashlib.sha256(content).hexdigest()[:20]


def _quantize(values: np.ndarray, dtype: type, full_scale: int) -> np.ndarray:
    return np.asarray(values, dtype) if full_scale == 1 else np.rint(np.asarray(values) * full_scale).astype(dtype)


def _deflate(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, values=values)
    return buffer.getvalue()


def _flac(waveform: np.ndarray, sample_rate: int) -> bytes:
    with temporary_folder() as folder:
        path = folder / "sound.flac"
        write_sound(path, waveform, sample_rate)
        return path.read_bytes()


def _png(image: np.ndarray) -> bytes:
    import cv2  # late: only writing needs it

    success, content = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    assert success
    return content.tobytes()
