"""A user's mistake is answered by one line on stderr and exit code 2, without a traceback."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from zoo.run.signals import Stopped, requeue_job

TRACE_VARIABLE = "DANCEZOO_TRACE"  # set in the environment: show the traceback of a refused request too
MAX_LINE = 400  # characters


@contextmanager
def report_errors(command: str) -> Iterator[None]:
    """Print exceptions that a user can mend as one line and exit with code 2; others pass.

    A signal gives one line too, and the exit code of `zoo.run.signals`.
    """
    try:
        yield
    except Stopped as stop:
        print(f"{command}: {stop}", file=sys.stderr, flush=True)
        if stop.signum == signal.SIGUSR1:
            print(f"{command}: {requeue_job()}", file=sys.stderr, flush=True)
        sys.exit(stop.code)
    except KeyboardInterrupt:  # outside of a main thread
        print(f"{command}: interrupted", file=sys.stderr, flush=True)
        sys.exit(130)
    except Exception as error:
        line = error_message(error)
        if line is None or TRACE_VARIABLE in os.environ:
            raise
        print(f"{command}: {line}", file=sys.stderr, flush=True)
        sys.exit(2)


def error_message(error: BaseException) -> str | None:
    """One line for a user's mistake, None for a bug: ValueError, unusable files, and Hydra's refusals are mistakes."""
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, InstantiationException):
        # a constructor refused its arguments: its own message is the useful one
        cause = error.__cause__
        if isinstance(cause, TypeError | ArithmeticError | RuntimeError):  # no such option, dim=abc, heads=0
            return _one_line(f"{str(error).splitlines()[0]} {cause}")
        return error_message(cause) if cause is not None else _one_line(str(error))
    if isinstance(error, HydraException | OmegaConfBaseException):
        text = str(error).split("Config search path")[0].split("full_key:")[0].split("See https:")[0]
        unknown = re.match(r"Could not override '([^']+)'", text)
        return f"there is no option {unknown[1]} (conf/ lists them all)" if unknown else _one_line(text)
    if isinstance(error, ImportError) and (library := re.match(r"(\S+\.so\S*): cannot open shared", str(error))):
        return (
            f"this machine lacks {library[1]}; install its package (apt install libgl1 libglib2.0-0 for OpenCV), "
            "or opencv-python-headless in place of opencv-python"
        )
    if isinstance(error, BrokenProcessPool):
        return "a worker process was killed, perhaps because memory is short; fewer workers need less"
    if isinstance(error, ValueError):
        return _one_line(str(error))
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {(error.strerror or 'cannot be used').lower()}"
    return None


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_LINE else line[: MAX_LINE - 3] + "..."
