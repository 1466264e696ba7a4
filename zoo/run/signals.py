"""Signals end a command in order. Light: no torch.

| signal | exit code | a training |
|---|---|---|
| SIGTERM | 143 | saves a checkpoint after this step |
| SIGINT (Ctrl-C) | 130 | saves a checkpoint after this step |
| SIGUSR1, in a SLURM job | 0 | saves a checkpoint after this step and puts the job into the queue again |

A second signal ends the command at once: partial files are deleted and the last checkpoint stays. A third one does not
even wait for that.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C", signal.SIGUSR1: "SIGUSR1"}


class Stopped(SystemExit):
    """A signal ended the command. Not an Exception: nothing that handles errors may go on after it."""

    def __init__(self, signum: int, message: str = ""):
        """message: what the user should know besides the signal."""
        super().__init__(0 if signum == signal.SIGUSR1 else 128 + signum)
        self.signum, self.message = signum, message

    def __str__(self) -> str:
        return f"interrupted by {NAMES[signal.Signals(self.signum)]}{self.message and f'; {self.message}'}"


class SignalState:
    """The signals that this process received. is_deferred: the first one is only noted, as `signum`."""

    def __init__(self) -> None:
        self.count, self.signum, self.is_deferred = 0, 0, False

    def reset(self) -> None:
        """Forget all signals."""
        self.count, self.signum, self.is_deferred = 0, 0, False

    def handle(self, signum: int, _: Any) -> None:
        """Note the first signal while it is deferred; raise Stopped otherwise; end at the third."""
        self.count, self.signum = self.count + 1, self.signum or signum
        if self.count > 2:
            os._exit(128 + signum)
        if self.count == 2 or not self.is_deferred:
            raise Stopped(signum)


STATE = SignalState()  # of this process


@contextmanager
def handled_signals() -> Iterator[None]:
    """Turn the signals of this module into Stopped within the block. Only a main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signums = [signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else [])]
    previous = {signum: signal.signal(signum, STATE.handle) for signum in signums}
    STATE.reset()
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def requeue_job() -> str:
    """Put this SLURM job into the queue again. Returns what happened."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        result = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    except OSError as error:
        return f"scontrol requeue {job} failed: {error.strerror}"
    return (
        f"job {job} is queued again" if result.returncode == 0 else f"scontrol requeue {job}: {result.stderr.strip()}"
    )
