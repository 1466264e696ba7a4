"""Motion files by suffix: writes .bvh, .glb, .npz; reads these, AIST++ .pkl, DeepMimic .txt and .json."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from zoo.body.motion_io.bvh import read_bvh, write_bvh
from zoo.body.motion_io.gltf import read_glb, write_glb
from zoo.body.motion_io.mocap import read_aistpp_pickle, read_deepmimic, read_npz, write_npz
from zoo.body.render.appearance import Appearance, vertex_colors
from zoo.body.render.rasterizer import clothed_body
from zoo.files import replacing

READERS = {
    ".bvh": read_bvh,
    ".glb": read_glb,
    ".npz": read_npz,
    ".pkl": read_aistpp_pickle,
    ".txt": read_deepmimic,
    ".json": read_deepmimic,
}
WRITABLE_SUFFIXES = (".bvh", ".glb", ".npz")
MAX_FILE_BYTES = 128 * 2**20
MAX_OBJECT_FILE_BYTES = 16 * 2**20  # of formats whose values become Python objects first, which take much memory
OBJECT_SUFFIXES = (".pkl", ".txt", ".json")


def read_motion(path: Path | str) -> Tensor:
    """Read a motion file as motion (T, 151) float32 at 30 Hz.

    Its lowest foot stands on the floor; files of `write_motion` are read as they were written. Raises ValueError for a
    missing file, an unknown suffix, unexpected content, and a file that is too large.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"cannot read motion from {path}: its suffix is none of {' '.join(READERS)}")
    if not path.is_file():
        raise ValueError(f"cannot read motion from {path}: there is no such file")
    max_bytes = MAX_OBJECT_FILE_BYTES if path.suffix.lower() in OBJECT_SUFFIXES else MAX_FILE_BYTES
    if path.stat().st_size > max_bytes:
        raise ValueError(f"cannot read {path}: it is larger than {max_bytes // 2**20} MiB")
    try:
        return reader(path)
    except (ValueError, OSError):
        raise
    except Exception as error:  # damaged files make the libraries that parse them raise many kinds
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise ValueError(f"cannot read {path}: it is damaged ({reason})") from error


def write_motion(path: Path | str, motion: Tensor, appearance: Appearance | None = None) -> None:
    """Write motion (T, 151) to a file with one of WRITABLE_SUFFIXES. After a failure no partial file is left.

    appearance: of the dancer in a .glb file. Raises ValueError for another suffix or no frames.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITABLE_SUFFIXES:
        raise ValueError(f"cannot write motion to {path}: its suffix is none of {' '.join(WRITABLE_SUFFIXES)}")
    if not len(motion):
        raise ValueError(f"cannot write motion to {path}: it has no frames")
    try:
        with replacing(path) as temporary:
            if suffix == ".bvh":
                write_bvh(temporary, motion)
            elif suffix == ".npz":
                write_npz(temporary, motion)
            else:  # colors are stored at vertices, which are too far apart for a pattern
                appearance = replace(appearance or Appearance(), pattern="plain")
                body = clothed_body(appearance)
                write_glb(temporary, motion, body, vertex_colors(appearance, body))
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror}); choose another path") from None
