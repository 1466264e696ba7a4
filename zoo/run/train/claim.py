"""One run, one process: a training claims its folder before it writes there."""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from zoo.files import remove_empty, remove_partial_files, write_atomic
from zoo.run.config import CONFIG_FILE
from zoo.run.errors import error_message
from zoo.run.signals import Stopped
from zoo.run.train.callbacks import TrainingDiverged

LOCK_FILE = "lock"  # held by the first process; the kernel frees it when that dies


@contextmanager
def claimed_run(run: Path, config_yaml: str, is_new: bool, is_named: bool) -> Iterator[Path]:
    """Yield a run's folder, which no other process trains in meanwhile, with its configuration written.

    A new folder is made by exclusive creation: one that is there already is refused when the user named it, else
    another name is taken. Partial files of a killed process are deleted. A refusal before the first checkpoint leaves
    nothing of a new run behind. Raises ValueError when another process trains in the folder.
    """
    missing = [path for path in run.parents if not path.exists()]
    if is_new:
        run = _make_folder(run, is_named)
    lock = _lock(run)
    try:
        remove_partial_files(run)
        write_atomic(run / CONFIG_FILE, config_yaml.encode())
        yield run
    except BaseException as error:
        is_refusal = isinstance(error, Stopped) or error_message(error) is not None
        if is_new and is_refusal and not isinstance(error, TrainingDiverged) and not any(run.rglob("*.ckpt")):
            shutil.rmtree(run)
            remove_empty(missing)
        raise
    finally:
        _locks.discard(lock)
        fcntl.flock(lock, fcntl.LOCK_UN)  # also where a child that was forked just now still has it open
        os.close(lock)


def _make_folder(run: Path, is_named: bool) -> Path:
    for number in count(2):
        try:
            run.mkdir(parents=True)
            return run
        except FileExistsError:
            if is_named:
                raise ValueError(f"{run} exists already; use resume={run}, or another name=") from None
        run = run.with_name(f"{run.name.partition('-v')[0]}-v{number}")  # another run of this second
    raise AssertionError


def _lock(run: Path) -> int:
    """An open file that is locked until it is closed, in no child of this process."""
    descriptor = os.open(run / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(descriptor, 200).decode(errors="replace").strip()
        os.close(descriptor)
        raise ValueError(f"{run} is in use: {owner or 'another process'} trains there") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _locks.add(descriptor)
    return descriptor


_locks: set[int] = set()


def _close_locks() -> None:
    for descriptor in _locks:
        with suppress(OSError):
            os.close(descriptor)
    _locks.clear()


os.register_at_fork(after_in_child=_close_locks)  # a loader process that outlives a killed training holds no lock
