"""Files made by several processes: each appears whole, so that an interrupted run continues with the missing ones."""

from collections.abc import Callable
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from rich.progress import track

from zoo.processes import WorkerPool

FileJob = tuple[Path, Callable[[Path], Any]]  # a file, and the function that writes it; picklable


def groups(count: int, size: int) -> list[range]:
    """Split range(count) into consecutive ranges of `size`; the last one may be shorter."""
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def run_jobs(jobs: list[FileJob], workers: int, description: str) -> list[Any]:
    """Run the jobs whose file does not exist, in spawned processes, with a progress bar. Returns their results.

    The results are in the order of `jobs`. With one worker everything runs in this process.
    """
    missing = [(path, job) for path, job in jobs if not path.is_file()]
    if not missing:
        return []
    progress: dict[str, Any] = {"total": len(missing), "description": description}
    if workers <= 1:
        return [job(path) for path, job in track(missing, **progress)]
    with WorkerPool(min(workers, len(missing))) as pool:
        futures = [pool.submit(job, path) for path, job in missing]
        for future in track(as_completed(futures), **progress):
            future.result()
    return [future.result() for future in futures]
