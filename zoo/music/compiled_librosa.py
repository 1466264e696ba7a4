"""librosa, imported at its first use, by one process at a time; every module of the zoo imports librosa from here.

librosa compiles some functions with numba while it is imported, and numba stores them in files that the processes of a
machine share. When two processes compile at the same time, their files do not match, and from then on every process
that loads them dies of a segmentation fault (numba issue 10128). DDP's processes, and tests, start at the same time.

The import takes 5 s (AMD EPYC). A training whose music features are in the cache does not need it.
"""

import contextlib
import hashlib
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import librosa as _librosa  # loads none of the submodules that are compiled
from filelock import FileLock

from zoo.files import is_writable, temporary_cache


def lock_path() -> Path:
    """The lock file: in $NUMBA_CACHE_DIR, else in librosa's `__pycache__`, else in the temporary folder."""
    library = Path(_librosa.__file__).resolve().parent
    # processes with one cache need one lock, so its name depends on the library and on nothing of the run
    name = f"dancezoo-{hashlib.sha256(str(library).encode()).hexdigest()[:8]}.lock"
    for folder in (os.environ.get("NUMBA_CACHE_DIR") or library / "__pycache__", library / "__pycache__"):
        with contextlib.suppress(OSError):
            Path(folder).mkdir(parents=True, exist_ok=True)  # all processes take one folder, the first one too
        if os.access(folder, os.W_OK):
            return Path(folder) / name
    return Path(tempfile.gettempdir()) / f"{os.getuid()}-{name}"


def choose_cache() -> None:
    """Set $NUMBA_CACHE_DIR where numba would find no folder to write in: a read-only library and home."""
    library = Path(_librosa.__file__).resolve().parent
    user_folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if "NUMBA_CACHE_DIR" in os.environ or is_writable(library / "__pycache__"):
        return
    if not (user_folder.is_absolute() and is_writable(user_folder)):
        os.environ["NUMBA_CACHE_DIR"] = str(temporary_cache() / "numba")


def _import_submodules() -> None:
    """Import, and so compile, everything of librosa that the zoo uses, under the file lock."""
    choose_cache()  # before numba is imported
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):  # a file system without locks
            stack.enter_context(FileLock(lock_path(), fallback_to_soft=False))
        import librosa.beat
        import librosa.core.audio
        import librosa.core.pitch
        import librosa.util.utils  # noqa: F401


class _LazyLibrosa:
    """librosa's attributes; the first one asked for imports the submodules."""

    def __init__(self) -> None:
        self._mutex, self._imported = threading.Lock(), False

    def __getattr__(self, name: str) -> Any:
        with self._mutex:
            if not self._imported:
                _import_submodules()
                self._imported = True
        return getattr(_librosa, name)


librosa: Any = _LazyLibrosa()  # the module's own stub exports no submodule

__all__ = ["librosa"]
