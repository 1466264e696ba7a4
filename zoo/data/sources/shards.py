"""Ready-made shards as a data source: `data=shards` (docs/data.md describes a sample)."""

import hashlib
import os
from collections.abc import Iterable
from glob import escape, glob
from pathlib import Path

from braceexpand import braceexpand

from zoo.data.base import SPLITS, DataSource, EvalClips, EvalSpec, ItemDataset, WindowSpec
from zoo.data.eval_clips import ShardEvalClips, content_fingerprint
from zoo.data.music_cache import MusicFeatureCache
from zoo.data.shard_file import Sample, ShardReader
from zoo.data.windows import available_keys_of, check_windows, make_dataset, song_of
from zoo.files import user_path
from zoo.music.encoder import MusicEncoder
from zoo.processes import process_count

SONGS_PER_HELD_OUT = 20  # one song in so many is held out where there are no val shards


def expand(urls: str | Iterable[str]) -> list[Path]:
    """'a-{000..099}.tar' or 'a-*.tar' (or a list of such) to paths, in order.

    Raises ValueError for addresses that are not local, and for a * that matches no file.
    """
    patterns = [urls] if isinstance(urls, str) else list(urls)
    return [path for pattern in map(str, patterns) for path in _expand(pattern)]


def _expand(pattern: str) -> list[Path]:
    """The files that one pattern stands for; the name of a file that is there stands for itself."""
    if user_path(pattern).is_file():
        return [user_path(pattern)]
    if "://" in pattern or pattern.startswith("pipe:"):
        raise ValueError(f"shard {pattern} is not on this machine: download it and name the local file in data.urls")
    try:
        names = list(braceexpand(pattern))
    except ValueError:  # unbalanced braces
        names = [pattern]
    return [path for name in names for path in _matches(name)]


def _matches(name: str) -> list[Path]:
    """The files that match 'a*.tar', sorted by name; a name without * is itself. No other character is special."""
    if "*" not in name:
        return [user_path(name)]
    matches = sorted(glob("*".join(map(escape, os.path.expanduser(name).split("*")))))
    if not matches:
        raise ValueError(f"data.urls={name} matches no file")
    return [Path(match) for match in matches]


class Shards(DataSource):
    """Ready-made shards on this machine: `data=shards data.urls='dir/train-{000..099}.tar'`.

    A training leaves out what is damaged and names it; an evaluation refuses it.
    Without `val_urls`, the songs whose names hash lowest, one in twenty and at least one, are held out as val and test.
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
        """urls: paths with {000..099} braces; test_urls: None is the same as val_urls.

        workers: processes to encode songs.
        """
        self.paths = {"train": expand(urls)}
        for split, split_urls in (("val", val_urls), ("test", test_urls or val_urls)):
            self.paths[split] = expand(split_urls) if split_urls else []
        self.workers = process_count(workers, "data.workers")
        self._readers: dict[tuple[str, bool], ShardReader] = {}

    def _reader(self, split: str, skip_damaged: bool = True) -> ShardReader:
        """The split's own shards, or the train shards where the split has none."""
        split = split if self.paths[split] else "train"
        if (split, skip_damaged) not in self._readers:
            self._readers[split, skip_damaged] = ShardReader(self.paths[split], skip_damaged)
        return self._readers[split, skip_damaged]

    def _samples(self, split: str, skip_damaged: bool = True) -> list[Sample]:
        samples = self._reader(split, skip_damaged).samples
        if self.paths["val"] and self.paths[split]:
            return samples
        songs = sorted(set(map(song_of, samples)), key=lambda song: hashlib.sha256(song.encode()).digest())
        held_out_songs = set(songs[: max(1, len(songs) // SONGS_PER_HELD_OUT)])
        return [sample for sample in samples if (song_of(sample) in held_out_songs) == (split != "train")]

    @property
    def available_keys(self) -> frozenset[str]:
        """Keys that every sample of the train shards has."""
        samples = self._reader("train").samples
        if not samples:
            raise ValueError(f"shard {self.paths['train'][0]} has no sample; name others in data.urls")
        return frozenset.intersection(*map(available_keys_of, samples))

    def missing_keys_hint(self, missing: frozenset[str]) -> str:
        """See DataSource; names the first sample that lacks one of the keys."""
        samples = self._reader("train").samples
        incomplete_sample = next((sample for sample in samples if missing - available_keys_of(sample)), None)
        return (
            f"{incomplete_sample.key} in {incomplete_sample.path} is the first without; {self.hint}"
            if incomplete_sample
            else self.hint
        )

    def check_window(self, keys: Iterable[str], window: WindowSpec) -> None:
        """See DataSource; reads the index of the train and val shards."""
        keys = frozenset(keys)
        for split in ("train", "val"):
            check_windows(self._samples(split), keys, window, split)

    def prepare_data(self, keys: Iterable[str], encoder: MusicEncoder, splits: Iterable[str] = SPLITS) -> None:
        """Encode every song once, where a key needs music or beats."""
        if {"music", "beats", "beat_phase"} & set(keys):
            MusicFeatureCache(encoder).build([self._reader(split) for split in splits], self.workers)

    def dataset(self, split: str, keys: Iterable[str], window: WindowSpec, encoder: MusicEncoder) -> ItemDataset:
        """See DataSource."""
        reader, samples = self._reader(split), self._samples(split)
        return make_dataset(reader, samples, keys, window, split, MusicFeatureCache(encoder))

    def eval_clips(self, split: str, spec: EvalSpec, encoder: MusicEncoder) -> EvalClips:
        """See DataSource; one clip from the beginning of every sample that can be cut so."""
        reader, features = self._reader(split, skip_damaged=False), MusicFeatureCache(encoder)
        features.build([reader], self.workers)
        return ShardEvalClips(reader, self._samples(split, skip_damaged=False), spec, features)

    def fingerprint(self, split: str) -> str:
        """See DataSource; covers the choice of held-out songs too."""
        reader, samples = self._reader(split, skip_damaged=False), self._samples(split, skip_damaged=False)
        paths = dict.fromkeys(sample.path for sample in reader.samples)
        return content_fingerprint(([Path(path)] for path in paths), " ".join(sample.key for sample in samples))
