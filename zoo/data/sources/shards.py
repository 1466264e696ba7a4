"""Shards: webdataset tars, written whole or not at all, and read sample by sample at random.

Also the data source `data=shards`, for tars that somebody already made (docs/data.md says what is in a sample).
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from braceexpand import braceexpand
from torch.utils.data import Dataset
from webdataset.writer import TarWriter

from zoo.data.base import SPLITS, Cut, DataSource, Piece, Takes, WindowSpec
from zoo.data.eval_clips import ShardTakes, content_of
from zoo.data.music_cache import Features
from zoo.data.sample_format import EXTENSIONS, FIELDS, decode_field, encode_sample, sound_id
from zoo.data.windows import make_dataset, pieces_of, provided_by, song_of
from zoo.files import cache_root, replacing, write_atomic
from zoo.music.encoder import MusicEncoder


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
    """Where one sample lies. `info` is its .json, already read; `places`: field -> (offset, size) in the tar, bytes."""

    path: str
    key: str
    info: dict
    places: dict[str, tuple[int, int]]


class ShardReader:
    """Random access to the samples of local shards. Safe in forked and spawned loader processes."""

    def __init__(self, paths: Iterable[Path]):
        """Reads each tar's index, from the cache where the tar is unchanged.

        Raises ValueError naming the shard that is missing, cut off or not a tar.
        """
        self.samples = [sample for path in paths for sample in _index(Path(path))]
        self._files: dict[str, int] = {}

    def read_bytes(self, sample: Sample, field: str) -> bytes:
        """The content of one field's file."""
        if sample.path not in self._files:
            self._files[sample.path] = os.open(sample.path, os.O_RDONLY)
        offset, size = sample.places[field]
        content = os.pread(self._files[sample.path], size, offset)  # no shared position: forked readers do not disturb
        if len(content) != size:
            raise ValueError(f"shard {sample.path} was cut off while it was in use: {sample.key}.{EXTENSIONS[field]}")
        return content

    def read(self, sample: Sample, field: str):
        """The value of one field (zoo.data.sample_format). Raises ValueError naming the shard when it is damaged."""
        try:
            return decode_field(field, self.read_bytes(sample, field))
        except Exception as error:
            raise ValueError(f"shard {sample.path}: {sample.key}.{EXTENSIONS[field]} is damaged: {error}") from error

    def __getstate__(self):
        return {"samples": self.samples, "_files": {}}  # open files stay in their process

    def __del__(self):
        for file in self.__dict__.get("_files", {}).values():
            os.close(file)


def expand(urls: str | Iterable[str]) -> list[Path]:
    """'a-{000..099}.tar' or 'a-*.tar' (or a list of such) to paths, in order.

    Raises ValueError for addresses that are not local, and where a * stands for nothing.
    """
    texts = [urls] if isinstance(urls, str) else list(urls)
    paths = [one for text in texts for one in braceexpand(str(text))]
    for path in paths:
        if "://" in path or path.startswith("pipe:"):
            raise ValueError(f"shard {path} is not on this machine: download it and name the local file in data.urls")
    return [one for path in paths for one in _there(path)]


def _there(path: str) -> list[Path]:
    """The files that 'a*.tar' stands for, in order of their names; a name without * is itself."""
    if "*" not in path:
        return [Path(path).expanduser()]
    found = sorted(glob(os.path.expanduser(path)))
    if not found:
        raise ValueError(f"no shard is called {path}; data.urls names them")
    return [Path(one) for one in found]


def _index(path: Path) -> list[Sample]:
    """The samples of a shard; kept in the cache by path, size and time of change."""
    if not path.is_file():
        raise ValueError(f"shard {path} does not exist; data.urls names it")
    state = path.stat()
    mark = f"{path.resolve()}:{state.st_size}:{state.st_mtime_ns}"
    kept = cache_root() / "index" / f"{hashlib.sha256(mark.encode()).hexdigest()[:24]}.json"
    if kept.is_file():
        rows = json.loads(kept.read_text())
    else:
        rows = _scan(path, state.st_size)
        write_atomic(kept, json.dumps(rows).encode())
    return [
        Sample(str(path), key, info, {field: tuple(place) for field, place in places.items()})
        for key, info, places in rows
    ]


def _scan(path: Path, size: int) -> list[list]:
    """[key, info, places] for each sample of a tar."""
    places: dict[str, dict[str, tuple[int, int]]] = {}
    infos, members = {}, []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                members.append(member.name)
                folder, slash, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = folder + slash + stem
                field = FIELDS.get(extension)
                if not member.isfile() or field is None:
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                places.setdefault(key, {})[field] = (member.offset_data, member.size)
                if field == "info":
                    infos[key] = json.load(tar.extractfile(member))
        with open(path, "rb") as file:  # a tar ends in two empty blocks; one cut between two members does not
            file.seek(max(0, size - 2 * tarfile.BLOCKSIZE))
            if any(file.read()):
                raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"shard {path} cannot be read: {error}; make or download it again") from error
    bad = [key for key in places if key not in infos]
    if bad or (members and not places):  # an empty tar is a shard without samples: every dance was too short to film
        raise ValueError(f"shard {path} is not one of DanceZoo's: {bad[0] if bad else members[0]} has no .json")
    for key, info in infos.items():
        if "sound" in places[key] and "sound_id" not in info:  # made by other hands
            offset, length = places[key]["sound"]
            with open(path, "rb") as file:
                file.seek(offset)
                info["sound_id"] = sound_id(file.read(length))
    return [[key, infos[key], places[key]] for key in places]


class Shards(DataSource):
    """Ready-made shards on this machine: `data=shards data.urls='dir/train-{000..099}.tar'`.

    Without `val_urls`, songs whose name hashes into the lowest twentieth (at least one) are held out as val and test.
    """

    name = "shards"
    hint = "add its file to every sample (docs/data.md), or use data=world, which has every key"

    def __init__(
        self,
        urls: str | list[str],
        val_urls: str | list[str] | None = None,
        test_urls: str | list[str] | None = None,
        workers: int = 2,
    ):
        """urls: paths with {000..099} braces; test_urls: None is the same as val; workers: processes that listen."""
        self.paths = {"train": expand(urls)}
        for split, chosen in (("val", val_urls), ("test", test_urls or val_urls)):
            self.paths[split] = expand(chosen) if chosen else []
        self.workers = workers
        self._readers: dict[str, ShardReader] = {}

    def _reader(self, split: str) -> ShardReader:
        """The split's own shards, or the train shards where the split has none."""
        split = split if self.paths[split] else "train"
        if split not in self._readers:
            self._readers[split] = ShardReader(self.paths[split])
        return self._readers[split]

    def _samples(self, split: str) -> list[Sample]:
        samples = self._reader(split).samples
        if self.paths["val"] and self.paths[split]:
            return samples
        songs = sorted(set(map(song_of, samples)), key=lambda song: hashlib.sha256(song.encode()).digest())
        held_out = set(songs[: max(1, len(songs) // 20)])
        return [sample for sample in samples if (song_of(sample) in held_out) == (split != "train")]

    @property
    def provides(self) -> frozenset[str]:
        """What every sample of the train shards has."""
        samples = self._reader("train").samples
        if not samples:
            raise ValueError(f"shard {self.paths['train'][0]} has no sample in it; name others in data.urls")
        return frozenset.intersection(*map(provided_by, samples))

    def remedy(self, missing: frozenset[str]) -> str:
        """See DataSource; names the first sample that lacks one of them."""
        samples = self._reader("train").samples
        bare = next((sample for sample in samples if missing - provided_by(sample)), None)
        return f"{bare.key} in {bare.path} is the first without; {self.hint}" if bare else self.hint

    def prepare(self, needs: Iterable[str], encoder: MusicEncoder, splits: Iterable[str] = SPLITS) -> None:
        """Listens to every song once, when music or beats are asked for."""
        if {"music", "beats"} & set(needs):
            Features(encoder).make([self._reader(split) for split in splits], self.workers)

    def dataset(self, split: str, needs: Iterable[str], clip: WindowSpec, encoder: MusicEncoder) -> Dataset:
        """See DataSource."""
        return make_dataset(self._reader(split), self._samples(split), needs, clip, split, Features(encoder))

    def pieces(self, split: str, encoder: MusicEncoder) -> Iterator[Piece]:
        """See DataSource."""
        return pieces_of(self._reader(split), self._samples(split), Features(encoder))

    def takes(self, split: str, cut: Cut, encoder: MusicEncoder) -> Takes:
        """See DataSource; one take from the beginning of every sample that can be cut so."""
        self.prepare({"music"}, encoder, [split])
        return ShardTakes(self._reader(split), self._samples(split), cut, Features(encoder))

    def content(self, split: str) -> str:
        """See DataSource; the songs held out of the train shards count as well."""
        reader, samples = self._reader(split), self._samples(split)
        paths = dict.fromkeys(sample.path for sample in reader.samples)
        return content_of(([Path(path)] for path in paths), " ".join(sample.key for sample in samples))
