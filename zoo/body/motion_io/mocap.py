"""Read motion capture of AIST++, AMASS and DeepMimic as motion (T, 151) at 30 Hz, standing on the floor."""

import json
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.batch import MOTION_FPS
from zoo.body.motion_io.retarget import retarget, to_motion_rate
from zoo.body.skeleton import (
    JOINTS,
    OFFSETS,
    STANDING,
    axis_angle_from_matrix,
    matrix_from_axis_angle,
    matrix_from_quaternion,
    unpack,
)

AIST_FPS = 60
# the pelvis joint of SMPL's mean body (metres, its own axes): SMPL rotates the body about it, then adds `trans`
SMPL_PELVIS = torch.tensor([-0.00179506, -0.22333382, 0.02821918], dtype=torch.float64)
MAX_ARRAY_BYTES = 256 * 2**20  # of one array of an npz, unpacked
_NUM_BODY_JOINTS = 22  # that SMPL, SMPL-H and SMPL-X share; the hands after them differ

# AIST++ --------------------------------------------------------------------------------------------------------------


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Stands for `codecs.encode`, with which pickles of protocol 2 restore bytes; other encodings are refused."""
    if encoding != "latin1":
        raise ValueError(f"it uses the text encoding '{encoding}'")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dicts, lists, numbers, text and numpy arrays. Everything else is refused, without running it."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.core.multiarray._reconstruct
        if (module, name) == ("numpy.core.multiarray", "scalar"):
            return np.core.multiarray.scalar
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        raise ValueError(f"it asks for {module}.{name}, which is not an array; nothing of it was run")


def read_aistpp_pickle(path: Path | str) -> Tensor:
    """Read an AIST++ motion file (`smpl_poses` (T, 72), `smpl_trans` (T, 3), `smpl_scaling`), 60 Hz, Y up.

    Every second frame is used and Y up becomes Z up, as in EDGE (its `process_dataset`). Code in the file is never run.
    Raises ValueError for any other content.
    """
    try:
        with open(path, "rb") as file:
            data = _ArraysOnly(file).load()
        poses = torch.from_numpy(np.asarray(data["smpl_poses"], np.float64)).unflatten(-1, (len(JOINTS), 3))
        root_positions = torch.from_numpy(
            np.asarray(data["smpl_trans"], np.float64) / float(np.ravel(data["smpl_scaling"])[0])
        )
        if not len(poses) or root_positions.shape != (len(poses), 3):
            raise ValueError("its poses and positions differ in length")
    except KeyError as error:
        raise ValueError(f"cannot read {path}: it is not an AIST++ motion, it has no {error}") from None
    except Exception as error:  # broken pickles raise many kinds
        raise ValueError(f"cannot read {path}: {error or 'it is not an AIST++ motion'}") from None
    local = matrix_from_axis_angle(poses)
    standing = STANDING.double()
    local = torch.cat([(standing @ local[:, 0])[:, None], local[:, 1:]], 1)
    frame_step = AIST_FPS // MOTION_FPS
    return _at_motion_rate(path, local[::frame_step], (root_positions @ standing.T)[::frame_step], MOTION_FPS)


def _at_motion_rate(path: Path | str, local: Tensor, root: Tensor, fps: float, on_floor: bool = True) -> Tensor:
    """As `to_motion_rate`, whose errors name the file."""
    try:
        return to_motion_rate(local, root, fps, on_floor)
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from None


# SMPL and AMASS npz --------------------------------------------------------------------------------------------------


def write_npz(path: Path | str, motion: Tensor) -> None:
    """Write motion (T, 151) in AMASS's format, Z up.

    Keys: `poses` (T, 72) axis-angle radians, `trans` (T, 3) metres (SMPL's translation; add `SMPL_PELVIS` for the
    pelvis joint), `betas` (10,) zero, `gender` neutral, `mocap_framerate` and `fps` 30, `contacts` (T, 4).
    """
    contacts, root, local = unpack(motion.detach().double().cpu())
    with open(path, "wb") as file:  # numpy would append a suffix to a name
        np.savez_compressed(
            file,
            poses=axis_angle_from_matrix(local).flatten(1).float().numpy(),
            trans=(root - SMPL_PELVIS).float().numpy(),
            betas=np.zeros(10, np.float32),
            gender="neutral",
            mocap_framerate=float(MOTION_FPS),
            fps=float(MOTION_FPS),
            contacts=contacts.float().numpy(),
        )


def _read_array(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """One array of numbers of an npz, float64. Raises KeyError, and ValueError before a huge one takes memory."""
    try:
        info = archive.getinfo(f"{key}.npy")
    except KeyError:
        raise KeyError(key) from None
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
    num_bytes = dtype.itemsize * int(np.prod(shape, dtype=object))
    if dtype.kind not in "fiu" or not 0 <= num_bytes <= min(MAX_ARRAY_BYTES, info.file_size):
        raise ValueError(f"its {key} is no array of numbers of at most {MAX_ARRAY_BYTES // 2**20} MiB")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False).astype(np.float64)


def read_npz(path: Path | str) -> Tensor:
    """Read a file of `write_npz` or of AMASS (SMPL 72, SMPL-H 156, SMPL-X 165 values a pose; hands are left out).

    A file of `write_npz`, which has `contacts`, keeps these and its height. Raises ValueError for any other content.
    """
    contacts = None
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not an npz file")
        with zipfile.ZipFile(path) as archive:
            poses, trans = (torch.from_numpy(_read_array(archive, key)) for key in ("poses", "trans"))
            names = archive.namelist()
            rate_keys = [key for key in ("mocap_framerate", "mocap_frame_rate", "fps") if f"{key}.npy" in names]
            if not rate_keys:
                raise ValueError("it has no frame rate")
            fps = float(_read_array(archive, rate_keys[0]))
            if "contacts.npy" in names and fps == MOTION_FPS:
                contacts = torch.from_numpy(_read_array(archive, "contacts"))
    except KeyError as error:
        raise ValueError(f"cannot read {path}: it is not an SMPL motion, it has no {error}") from None
    except (ValueError, TypeError, OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error or 'it is not an SMPL motion'}") from None
    if (
        poses.dim() != 2
        or poses.shape[1] % 3
        or poses.shape[1] < 3 * _NUM_BODY_JOINTS
        or trans.shape != (len(poses), 3)
    ):
        raise ValueError(
            f"cannot read {path}: poses {tuple(poses.shape)} and trans {tuple(trans.shape)} are not SMPL's"
        )
    poses = poses.unflatten(-1, (-1, 3))
    if poses.shape[1] != len(JOINTS):
        poses = torch.cat([poses[:, :_NUM_BODY_JOINTS], torch.zeros(len(poses), 2, 3, dtype=poses.dtype)], 1)
    is_own = contacts is not None and contacts.shape == (len(poses), 4) and bool(torch.isfinite(contacts).all())
    motion = _at_motion_rate(path, matrix_from_axis_angle(poses), trans + SMPL_PELVIS, fps, on_floor=not is_own)
    if is_own:
        motion[:, :4] = contacts
    return motion


# DeepMimic -----------------------------------------------------------------------------------------------------------

# (our joint, number of values), in the order of a frame after duration and root position: rotations to the parent as
# quaternions (w, x, y, z) or, for knees and elbows, an angle about z. The humanoid faces +X,
# Y up, its right at +Z; its arms hang down at rest.
_DEEPMIMIC_JOINTS = [
    (0, 4),
    (9, 4),
    (15, 4),
    (2, 4),
    (5, 1),
    (8, 4),
    (17, 4),
    (19, 1),
    (1, 4),
    (4, 1),
    (7, 4),
    (16, 4),
    (18, 1),
]
_DEEPMIMIC_PARENTS = {9: 0, 15: 9, 2: 0, 5: 2, 8: 5, 1: 0, 4: 1, 7: 4, 17: 9, 19: 17, 16: 9, 18: 16}
_DEEPMIMIC_OFFSETS = {  # metres, from the parent, in Bullet's humanoid.urdf
    9: (0.0, 0.236151, 0.0),
    15: (0.0, 0.223894, 0.0),
    2: (0.0, 0.0, 0.084887),
    5: (0.0, -0.421546, 0.0),
    8: (0.0, -0.40987, 0.0),
    1: (0.0, 0.0, -0.084887),
    4: (0.0, -0.421546, 0.0),
    7: (0.0, -0.40987, 0.0),
    17: (-0.02405, 0.24350, 0.18311),
    19: (0.0, -0.274788, 0.0),
    21: (0.0, -0.258947, 0.0),
    16: (-0.02405, 0.24350, -0.18311),
    18: (0.0, -0.274788, 0.0),
    20: (0.0, -0.258947, 0.0),
}


def read_deepmimic(path: Path | str) -> Tensor:
    """Read a motion of DeepMimic's humanoid, as shipped with Bullet (`humanoid3d_*.txt`: JSON, frames of 44 values).

    Raises ValueError for any other content.
    """
    try:
        frames = torch.tensor(json.loads(Path(path).read_text())["Frames"], dtype=torch.float64)
        if frames.dim() != 2 or frames.shape[1] != 44 or not (frames[:, 0].mean() > 0):
            raise ValueError("frames of 44 values are expected")
    except (ValueError, KeyError, TypeError, RuntimeError) as error:  # too deep, or numbers of too many digits
        raise ValueError(f"cannot read {path}: it is not a DeepMimic motion ({error})") from None
    rotations, rest, next_column = {}, {0: torch.zeros(3, dtype=frames.dtype)}, 4
    for joint, num_values in _DEEPMIMIC_JOINTS:
        values = frames[:, next_column : next_column + num_values]
        next_column += num_values
        if num_values == 1:
            local = matrix_from_axis_angle(torch.cat([torch.zeros_like(frames[:, :2]), values], 1))
        else:
            local = matrix_from_quaternion(values)
        parent = _DEEPMIMIC_PARENTS.get(joint)
        rotations[joint] = local if parent is None else rotations[parent] @ local
    for joint, offset in _DEEPMIMIC_OFFSETS.items():
        rest[joint] = rest[_DEEPMIMIC_PARENTS.get(joint, joint - 2)] + torch.tensor(offset, dtype=frames.dtype)
    for elbow, wrist in ((18, 20), (19, 21)):
        rotations[wrist] = rotations[elbow]
    local, root = retarget(rotations, rest, frames[:, 1:4], OFFSETS)  # its hips are level with its root
    seconds = float(frames[:, 0].median())
    return _at_motion_rate(path, local, root, 1 / seconds if seconds > 0 else 0.0)
