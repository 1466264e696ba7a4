"""librosa, imported by one process at a time; every module of the zoo imports librosa from here.

librosa compiles some functions with numba while it is imported, and numba stores them in files that the processes of a
machine share. When two processes compile at the same time, their files do not match, and from then on every process
that loads them dies of a segmentation fault (numba issue 10128). DDP's processes, and tests, start at the same time.
"""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import librosa  # loads none of the submodules that are compiled
from filelock import FileLock


def lock_path() -> Path:
    """The lock file: in $NUMBA_CACHE_DIR, else in librosa's `__pycache__`, else in the temporary folder."""
    library = Path(librosa.__file__).resolve().parent
    # processes with one cache need one lock, so its name depends on the library and on nothing of the run
    name = f"dancezoo-{hashlib.sha256(str(library).encode()).hexdigest()[:8]}.lock"
    for folder in (os.environ.get("NUMBA_CACHE_DIR") or library / "__pycache__", library / "__pycache__"):
        with contextlib.suppress(OSError):
            Path(folder).mkdir(parents=True, exist_ok=True)  # all processes take one folder, the first one too
        if os.access(folder, os.W_OK):
            return Path(folder) / name
    return Path(tempfile.gettempdir()) / f"{os.getuid()}-{name}"


with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError, NotImplementedError):  # a file system without locks
        stack.enter_context(FileLock(lock_path(), fallback_to_soft=False))
    import librosa.core.audio
    import librosa.core.pitch
    import librosa.util.utils
    from librosa.beat import beat_track

__all__ = ["beat_track", "librosa"]
