"""Functions that the tests of worker processes run there; light, because every worker imports this file."""

import os
import time
from pathlib import Path

from zoo.files import replacing


def write_slowly(path: str) -> None:
    """Begin a file and never end it. Its worker's id is in PATH.pid first."""
    with replacing(Path(path)) as temporary:
        temporary.write_text("a part")
        Path(f"{path}.pid").write_text(str(os.getpid()))
        time.sleep(600)


def wait_for_file(path: Path) -> str:
    """Return a file's text as soon as it has one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.is_file() and path.read_text():
            return path.read_text()
        time.sleep(0.02)
    raise TimeoutError(path)


def is_running(process: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
