"""Hashes of this package's source files, for cache keys of the data that they make."""

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]  # the package's folder


def matching_files(patterns: tuple[str, ...], excluded: tuple[str, ...] = ()) -> list[Path]:
    """The package's files that match a glob pattern of `patterns` and none of `excluded`, sorted."""
    files = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(files - {path for pattern in excluded for path in ROOT.glob(pattern)})


@cache  # of the code that this process runs, whatever is edited meanwhile
def code_hash(patterns: tuple[str, ...], excluded: tuple[str, ...] = ()) -> str:
    """Hash the content of the matching files: 64 hex digits."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in matching_files(patterns, excluded))).hexdigest()
