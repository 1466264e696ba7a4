"""Files as such: where they are kept, how they appear whole, and what tells their contents apart."""

import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

# of a file that is being written: machine, process and a random number; or eight digits, as earlier versions
PARTIAL_NAME = re.compile(r"\.(?:([0-9a-f]{4})([0-9a-f]{6}))?[0-9a-f]{8}-")


def cache_root() -> Path:
    """Where made and downloaded things are kept: $DANCEZOO_CACHE, else ~/.cache/dancezoo.

    Where there is no home folder, or nothing can be written in it, it is a temporary folder of this user.
    """
    if os.environ.get("DANCEZOO_CACHE"):
        return user_path(os.environ["DANCEZOO_CACHE"])
    try:
        folder = Path.home() / ".cache" / "dancezoo"
    except RuntimeError:  # a user without a name, as in containers
        return temporary_cache()
    return folder if is_writable(folder) else temporary_cache()


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which need not exist yet. Permissions alone do not say it: /proc."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return False
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True
    except OSError:
        return False


@cache
def temporary_cache() -> Path:
    """A folder for temporary files that only this user can write in. The same one in every process, where possible."""
    folder = Path(tempfile.gettempdir()) / f"dancezoo-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700)
    with suppress(OSError):
        state = folder.lstat()
        if stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o022:
            return folder
    return Path(tempfile.mkdtemp(prefix="dancezoo-"))  # another user has made the folder


def normalize_name(name: str) -> str:
    """Unicode NFC: one spelling for names that look the same."""
    return unicodedata.normalize("NFC", name)


def resource_root() -> Path:
    """The folder that holds conf/ and assets/: the package when it was installed from a wheel, else the checkout."""
    package = Path(__file__).resolve().parent
    return package if (package / "conf").is_dir() else package.parent


def conf_folder() -> Path:
    """The folder of all configuration files."""
    return resource_root() / "conf"


def user_path(path: str | os.PathLike) -> Path:
    """A path as a user wrote it: ~ is the home folder; ~NAME of no user is a name."""
    return Path(os.path.expanduser(path))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place for a file, or a folder, that takes the place of `path` when all went well and vanishes on any exception.

    It is hidden beside `path`, and ends as `path` does. Missing folders are made, and removed again on an exception.
    Raises OSError where nothing can be written.
    """
    with new_folders(path.parent):
        _remove_dead_files(path.parent)
        temporary = path.with_name(f".{_machine_mark()}{os.getpid():06x}{uuid.uuid4().hex[:8]}-{path.name}")
        try:
            temporary.touch()  # fails before any work is done, not after
            temporary.unlink()
            yield temporary
            os.replace(temporary, path)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary)
            temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for temporary files, which vanishes at the end; the next process removes that of a killed one."""
    root = Path(tempfile.gettempdir())
    _remove_dead_files(root)
    folder = root / f".{_machine_mark()}{os.getpid():06x}{uuid.uuid4().hex[:8]}-dancezoo"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def new_folders(folder: Path) -> Iterator[None]:
    """Make a folder and its missing parents; those of them that are empty after an exception are removed again."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        remove_empty(missing)
        raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove the folders that are there and empty, in this order."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def remove_partial_files(folder: Path) -> None:
    """Delete what `replacing` left in a folder, or in one below, of a process that was killed while it wrote."""
    for path in list(folder.rglob(".*")):
        if PARTIAL_NAME.match(path.name):
            _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):  # another process removes it too
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@cache
def _machine_mark() -> str:
    """Four hexadecimal digits of this machine and its container, within which process numbers mean something."""
    facts = [platform.node()]
    with suppress(OSError):
        facts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:4]


@cache  # once for each folder
def _remove_dead_files(folder: Path) -> None:
    """Delete what processes of this machine were writing in a folder when they were killed."""
    with suppress(OSError):
        for name in os.listdir(folder):
            match = PARTIAL_NAME.match(name)
            if match and match[1] == _machine_mark() and not _is_alive(int(match[2], 16)):
                _remove(folder / name)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file, which appears whole or not at all. Missing folders are made."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def safe_name(name: str) -> str:
    """A file name for a name that comes from data: itself when it is plain, else a hash of it.

    So `../x`, an absolute path and a name of 10,000 characters stay inside the folder that they are joined to.
    """
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        return name
    return f"x{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:20]}"


def file_in(folder: Path, name: str) -> Path:
    """The file `name` of a folder, as its index names it. Raises ValueError where it leads out of the folder."""
    if not name or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise ValueError(f"{folder} names the file {name!r}, which does not lie in it")
    return folder / name


def file_hash(*paths: str | Path) -> str:
    """The first 12 hexadecimal digits of the sha256 of these files' contents, one behind the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:12]
