"""Worker processes that end with the process that started them, and leave no partial files."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

RANK_VARIABLES = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")  # set by what starts processes; all 0 in the first
PR_SET_PDEATHSIG = 1  # of Linux's prctl
PARENT_POLL_SECONDS = 1.0  # where there is no prctl
MIN_PROCESS_LIMIT, PROCESSES_PER_CORE = 16, 4  # beyond, processes take all memory and none advances


def is_first_process() -> bool:
    """Whether this is the only process of its job, or the first of all on all machines (srun, torchrun, Lightning)."""
    return not any(os.environ.get(name, "0") not in ("", "0") for name in RANK_VARIABLES)


def process_count(value: Any, name: str) -> int:
    """An option's number of processes: at most 16, or 4 for each core of this machine. Raises ValueError."""
    limit = max(MIN_PROCESS_LIMIT, PROCESSES_PER_CORE * (os.cpu_count() or 1))
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        raise ValueError(f"{name}={value}: it must be a whole number of processes, at most {limit} on this machine")
    return value


class WorkerPool(ProcessPoolExecutor):
    """A process pool that an exception ends at once: its workers delete their partial files and exit.

    Workers also end when their parent is killed. They leave Ctrl-C, which a terminal sends to all, to the parent.
    """

    def __init__(self, num_workers: int, initializer: Callable[..., None] | None = None, initargs: tuple = ()):
        # spawn: a forked copy of a process with running torch threads may hang
        super().__init__(num_workers, multiprocessing.get_context("spawn"), _start_worker, (initializer, initargs))

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Run a function in a worker."""
        return super().submit(_run, function, *args, **kwargs)

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:
            for process in list((self._processes or {}).values()):
                process.terminate()
        self.shutdown(wait=True, cancel_futures=kind is not None)


def _start_worker(initializer: Callable[..., None] | None, initargs: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit_on_signal)
    parent = multiprocessing.parent_process()
    end_with_parent(signal.SIGTERM, parent.pid if parent else None)
    if initializer is not None:
        initializer(*initargs)


def _exit_on_signal(signum: int, _: Any) -> None:
    signal.signal(signum, signal.SIG_IGN)  # the clean-up is not interrupted
    raise SystemExit(128 + signum)


def _run(function: Callable, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except SystemExit as end:  # the pool would go on with the next job
        os._exit(end.code if isinstance(end.code, int) else 1)


def end_with_parent(signum: int = signal.SIGKILL, parent: int | None = None) -> None:
    """Let the kernel send `signum` to this process when the thread that started it ends.

    parent: its process, where it is known. It may have ended already; and in a container it may be process 1.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signum))
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), signum)
    else:
        threading.Thread(target=_watch_parent, args=(os.getppid(), signum), daemon=True).start()


def _watch_parent(parent: int, signum: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os.kill(os.getpid(), signum)
