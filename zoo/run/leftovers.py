"""A refused command leaves nothing behind."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.files import remove_empty, user_path
from zoo.run.errors import error_message


@contextmanager
def removed_if_refused(path: str | Path | None, has_results: Callable[[Path], bool]) -> Iterator[None]:
    """Remove a folder that the block made, with its new parents, when a user's mistake ends the block.

    has_results: whether a folder holds work that another try would use; it stays then. path: None does nothing.
    """
    folder = user_path(str(path))
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        yield
    except Exception as error:
        is_new = path is not None and folder in missing and folder.is_dir()
        if is_new and error_message(error) is not None and not has_results(folder):
            shutil.rmtree(folder)
        if is_new:
            remove_empty(missing)
        raise
