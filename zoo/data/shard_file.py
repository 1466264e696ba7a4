"""Shard files: webdataset tars, written whole or not at all, and read sample by sample in any order."""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from webdataset.writer import TarWriter

from zoo.data.sample_format import EXTENSIONS, FIELD_OF_EXTENSION, decode_field, encode_sample, sound_id
from zoo.files import cache_root, replacing, write_atomic
from zoo.processes import is_first_process

MAX_INFO_BYTES = 1 << 20  # of a sample's .json; ours have 2 kB
MAX_OPEN_SHARDS = 128  # in one process: many systems allow it 1024 files
FINITE_FIELDS = ("motion", "joints3d")  # joints2d is NaN where no figure was detected
_PRINTED: set[str] = set()  # messages of this process: a training opens its shards more than once


class DamageError(ValueError):
    """A shard, or one of its samples, cannot be used. The message names it."""


def write_shard(path: Path, samples: Iterable[tuple[str, dict]]) -> None:
    """Write (key, sample) pairs to a tar at `path`, which appears when it is complete and never before.

    The bytes depend on the samples alone. Keys may hold no dot: in a shard the dot ends the key.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        with TarWriter(file, encoder=False, mtime=0) as writer:
            for key, sample in samples:
                assert "." not in key, f"a sample's key holds no dot: {key}"
                writer.write({"__key__": key, **encode_sample(sample)})


@dataclass(frozen=True)
class Sample:
    """One sample of a shard: its .json, already read, and where its other fields lie in the tar."""

    path: str  # of the shard
    key: str
    info: dict[str, Any]
    byte_ranges: dict[str, tuple[int, int]]  # field -> (offset, size) in the tar


class ShardReader:
    """Random access to the samples of local shards. Safe in forked and spawned loader processes."""

    def __init__(self, paths: Iterable[Path], skip_damaged: bool = False):
        """Read each tar's index, from the cache where the tar is unchanged.

        skip_damaged: leave out and name what cannot be read, see `skip`. Raises ValueError naming the shard that is
        missing, cut off or not a tar; with `skip_damaged` only where it is missing, or none can be read.
        """
        self.skip_damaged = skip_damaged
        self.damaged: list[str] = []  # messages of what was left out
        self.samples: list[Sample] = []
        self._files: dict[str, int] = {}  # shard -> file descriptor, the latest one last
        for path in map(Path, paths):
            try:
                samples = _index(path)
                if skip_damaged and not samples:
                    raise DamageError(f"shard {path} has no sample")
                self.samples += samples
            except DamageError as error:
                self.skip(error)
        if self.damaged and not self.samples:
            raise ValueError(self.damaged[0])

    def skip(self, error: DamageError, in_all_processes: bool = True) -> None:
        """Count and name, once, what is left out. Raises the error where damage is refused.

        in_all_processes: each process of a training meets this damage, so the first one alone prints it.
        """
        if not self.skip_damaged:
            raise error
        if str(error) not in self.damaged:
            self.damaged.append(str(error))
            if str(error) not in _PRINTED and (is_first_process() or not in_all_processes):
                _PRINTED.add(str(error))
                print(f"left out ({len(self.damaged)}): {error}", flush=True)

    def read_bytes(self, sample: Sample, field: str) -> bytes:
        """Read the content of one field's file. Raises DamageError where the sample has none."""
        if field not in sample.byte_ranges:
            raise DamageError(f"shard {sample.path}: {sample.key} has no .{EXTENSIONS[field]}")
        file = self._files.pop(sample.path, None)
        if file is None:
            if len(self._files) >= MAX_OPEN_SHARDS:
                os.close(self._files.pop(next(iter(self._files))))
            file = os.open(sample.path, os.O_RDONLY)
        self._files[sample.path] = file
        offset, size = sample.byte_ranges[field]
        content = os.pread(file, size, offset)  # no shared position: safe in forked readers
        if len(content) != size:
            raise ValueError(f"shard {sample.path} was cut off while it was in use: {sample.key}.{EXTENSIONS[field]}")
        return content

    def read(self, sample: Sample, field: str) -> Any:
        """Decode one field (zoo.data.sample_format).

        Raises DamageError naming the shard when it is damaged, ValueError when the system cannot read it now.
        """
        try:
            content = self.read_bytes(sample, field)
        except OSError as error:
            raise ValueError(f"shard {sample.path} cannot be read: {error}") from error
        try:
            values = decode_field(field, content)
            if field in FINITE_FIELDS and not np.isfinite(values).all():
                raise ValueError("it has values that are not finite")
        except Exception as error:
            name = f"{sample.key}.{EXTENSIONS[field]}"
            raise DamageError(f"shard {sample.path}: {name} is damaged: {error}") from error
        return values

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # open files stay in their process

    def __del__(self) -> None:
        for file in self.__dict__.get("_files", {}).values():
            os.close(file)


def _index(path: Path) -> list[Sample]:
    """The samples of a shard; the index is cached by path, size and modification time."""
    if not path.is_file():
        raise ValueError(f"shard {path} does not exist; data.urls names it")
    file_stat = path.stat()
    state_text = f"{path.resolve()}:{file_stat.st_size}:{file_stat.st_mtime_ns}"
    cache_file = cache_root() / "index" / f"{hashlib.sha256(state_text.encode()).hexdigest()[:24]}.json"
    if cache_file.is_file():
        index_rows = json.loads(cache_file.read_text())
    else:
        index_rows = _scan(path, file_stat.st_size)
        write_atomic(cache_file, json.dumps(index_rows).encode())
    return [
        Sample(str(path), key, info, {field: (offset, size) for field, (offset, size) in byte_ranges.items()})
        for key, info, byte_ranges in index_rows
    ]


def _scan(path: Path, file_size: int) -> list[list]:
    """[key, info, byte_ranges] for each sample of a tar."""
    byte_ranges: dict[str, dict[str, tuple[int, int]]] = {}
    infos, member_names = {}, []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                member_names.append(member.name)
                folder, slash, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = folder + slash + stem
                field = FIELD_OF_EXTENSION.get(extension)
                if not member.isfile() or field is None:
                    continue
                if member.offset_data + member.size > file_size:
                    raise tarfile.ReadError("unexpected end of data")
                byte_ranges.setdefault(key, {})[field] = (member.offset_data, member.size)
                if key.startswith("/") or ".." in key.split("/") or not key.isprintable():
                    raise tarfile.ReadError(f"it names a file {member.name!r}")
                if field == "info":
                    if member.size > MAX_INFO_BYTES:
                        raise tarfile.ReadError(f"{member.name} is larger than {MAX_INFO_BYTES} bytes")
                    content = tar.extractfile(member)
                    assert content is not None  # a file, as checked above
                    infos[key] = json.load(content)
                    if not isinstance(infos[key], dict) or not isinstance(infos[key].get("sound_id", ""), str):
                        raise tarfile.ReadError(f"{member.name} does not describe a sample")
        with open(path, "rb") as file:  # a tar ends in two empty blocks; one cut between two members does not
            file.seek(max(0, file_size - 2 * tarfile.BLOCKSIZE))
            if any(file.read()):
                raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, ValueError, OSError, EOFError, RecursionError) as error:
        raise DamageError(f"shard {path} cannot be read: {error}; make or download it again") from error
    without_info = [key for key in byte_ranges if key not in infos]
    if without_info or (member_names and not byte_ranges):  # an empty tar is a shard whose dances were all too short
        name = without_info[0] if without_info else member_names[0]
        raise DamageError(f"shard {path} is not one of DanceZoo's: {name} has no .json")
    for key, info in infos.items():
        if "sound" in byte_ranges[key] and "sound_id" not in info:  # a shard of another program
            offset, length = byte_ranges[key]["sound"]
            with open(path, "rb") as file:
                file.seek(offset)
                info["sound_id"] = sound_id(file.read(length))
    return [[key, infos[key], byte_ranges[key]] for key in byte_ranges]
