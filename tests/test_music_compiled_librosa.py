"""librosa compiles its functions in one process at a time: no segmentation fault of processes that start together."""

import re
import subprocess
import sys
from pathlib import Path

from zoo.files import resource_root
from zoo.music.compiled_librosa import librosa

EVENTS = """
import fcntl, sys
def print_event(event, arguments):
    if event == "fcntl.flock":
        print("unlock" if arguments[1] & fcntl.LOCK_UN else "lock")
    elif event == "exec":  # a module's code
        print(arguments[0].co_filename)
sys.addaudithook(print_event)
from zoo.music.compiled_librosa import librosa
print("imported")
librosa.beat
"""


def test_all_functions_are_compiled_under_the_lock() -> None:
    """Modules with guvectorize, whose two cache files may not be of two processes (numba issue 10128)."""
    library = Path(librosa.__file__).parent
    declares = re.compile(r"^@(numba\.)?guvectorize", re.M)
    paths = [str(path) for path in library.rglob("*.py") if declares.search(path.read_text())]
    done = subprocess.run(
        [sys.executable, "-c", EVENTS], cwd=resource_root(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    events = done.stdout.splitlines()
    assert events.count("unlock") == 1 and events.index("imported") < events.index("lock")
    assert len(paths) >= 4
    assert set(paths) <= set(events[events.index("lock") : events.index("unlock")]) - set(
        events[: events.index("lock")]
    )


def test_librosa_is_imported_nowhere_else() -> None:
    """An import of its own in a module would compile without the lock."""
    pattern = re.compile(r"^\s*(import|from) librosa\b", re.M)
    paths = [path for name in ("zoo", "tests") for path in (resource_root() / name).rglob("*.py")]
    modules = [path.name for path in paths if pattern.search(path.read_text())]
    assert modules == ["compiled_librosa.py"]
