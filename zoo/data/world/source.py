"""The world as a data source: a corpus made on demand from a seed, in two parts that are only made when asked for.

`dances`: songs, dances to them, and words (quick). `clips`: the same dances filmed, with every map (see film.py).
A shard's content depends on the settings and its place alone, whatever the number of workers; shards appear whole, so
that an interrupted making goes on with those missing. Cached under a mark of the settings and of the code that made
them: another seed or a changed line of that code makes a corpus of its own.
"""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

from rich.progress import track
from torch.utils.data import Dataset

from zoo.batch import Batch
from zoo.data.base import PICTURES, SPLITS, Cut, DataSource, Piece, Takes, WindowSpec
from zoo.data.eval_clips import ShardTakes, content_of
from zoo.data.music_cache import Features
from zoo.data.sources.mocap import RealDances
from zoo.data.sources.shards import ShardReader
from zoo.data.windows import make_dataset, pieces_of
from zoo.data.world.dances import make_dances
from zoo.data.world.recipe import Filming, Recipe
from zoo.files import cache_root
from zoo.music.encoder import MusicEncoder

SHARD_SONGS = 8  # songs in one shard of dances
# the code that decides the content of shards, from the package folder, and what of it has no say in the dances
DANCES_CODE = ("data/world/*.py", "data/sample_format.py", "body/skeleton.py")
CLIPS_CODE = (*DANCES_CODE, "body/camera.py", "body/labels.py", "body/render/*.py", "body/render/assets/*")
NOT_DANCES = ("source.py", "render_clips.py", "scene.py", "backdrop.py")
NOT_CLIPS = ("source.py",)
EVERYTHING = frozenset(Batch.__annotations__)


class World(DataSource):
    """The built-in synthetic dance data. Splits share no song and no dancer."""

    name = "world"

    def __init__(
        self,
        seed: int = 1,
        songs: Mapping[str, int] | None = None,
        seconds: float = 30.0,
        dances_per_song: int = 2,
        dancers: Mapping[str, int] | None = None,
        filming: Filming | None = None,
        real: str | None = None,
        workers: int = 2,
    ):
        """songs, dancers: how many a split ('train', 'val', 'test'); seconds: length of a song; workers: processes.

        filming: how clips are rendered; real: a folder of real motion with music, which joins the train split
        (zoo.data.sources.mocap). Raises ValueError for a split without songs or dancers.
        """
        self.songs = {"train": 240, "val": 24, "test": 48} | dict(songs or {})
        dancers = {"train": 160, "val": 16, "test": 32} | dict(dancers or {})
        for label, counts in (("songs", self.songs), ("dancers", dancers)):
            if set(counts) != set(SPLITS) or min(counts.values()) < 1:
                raise ValueError(
                    f"data.{label} gives a number of at least 1 for each of {', '.join(SPLITS)}, not {counts}"
                )
        if seconds < 5 or dances_per_song < 1:
            raise ValueError("data.seconds must be at least 5 and data.dances_per_song at least 1")
        self.recipe = Recipe(int(seed), float(seconds), int(dances_per_song), dancers)
        self.filming, self.workers = filming or Filming(), workers
        self.real = RealDances(real) if real else None
        self._readers: dict[tuple[str, bool], ShardReader] = {}

    @property
    def provides(self) -> frozenset[str]:
        """Every key of the contract."""
        return EVERYTHING

    def prepare(self, needs: Iterable[str], encoder: MusicEncoder, splits: Iterable[str] = SPLITS) -> None:
        """Makes the missing shards of dances, of clips too if `needs` has pictures, and listens to the songs."""
        needs = set(needs)
        filmed = bool(needs & PICTURES)
        self._make(splits, filmed)
        if needs & {"music", "beats"}:
            Features(encoder).make([self._reader(split, filmed) for split in splits], self.workers)

    def dataset(self, split: str, needs: Iterable[str], clip: WindowSpec, encoder: MusicEncoder) -> Dataset:
        """See DataSource."""
        reader = self._reader(split, bool(PICTURES & set(needs)))
        return make_dataset(reader, reader.samples, needs, clip, split, Features(encoder))

    def pieces(self, split: str, encoder: MusicEncoder) -> Iterator[Piece]:
        """See DataSource; the dances to one song follow each other."""
        reader = self._reader(split, False)
        return pieces_of(reader, reader.samples, Features(encoder))

    def takes(self, split: str, cut: Cut, encoder: MusicEncoder) -> Takes:
        """See DataSource; one take from the beginning of every filmed clip. Raises ValueError for what was not filmed:
        more frames a second, more seconds, other proportions."""
        self.prepare({"frames", "music"}, encoder, [split])
        filmed, danced = self._reader(split, True), self._reader(split, False)
        return ShardTakes(filmed, filmed.samples, cut, Features(encoder), dances=(danced, danced.samples))

    def content(self, split: str) -> str:
        """See DataSource; makes the clips if they are not there."""
        self._make([split], filmed=True)
        return content_of([path] for path, _ in self._film_jobs(split))

    def _make(self, splits: Iterable[str], filmed: bool) -> None:
        """The missing shards of dances, and of clips."""
        if self.real and "train" in splits:
            self.real.make()
        _work([job for split in splits for job in self._dance_jobs(split)], self.workers, "making songs and dances")
        if filmed:
            _work([job for split in splits for job in self._film_jobs(split)], self.workers, "filming dances")

    def _reader(self, split: str, filmed: bool) -> ShardReader:
        if (split, filmed) not in self._readers:
            jobs = self._film_jobs(split) if filmed else self._dance_jobs(split)
            paths = [path for path, _ in jobs]
            if self.real and split == "train" and not filmed:
                paths.append(self.real.path)
            self._readers[split, filmed] = ShardReader(paths)
        return self._readers[split, filmed]

    def _dance_jobs(self, split: str) -> list[tuple[Path, Callable[[Path], None]]]:
        """(shard, what makes it) for a split's dances."""
        folder = cache_root() / "world" / f"dances-{_mark(asdict(self.recipe), _code(DANCES_CODE, NOT_DANCES))}"
        return [
            (folder / f"{split}-{songs[0]:05d}-{songs[-1]:05d}.tar", partial(make_dances, self.recipe, split, songs))
            for songs in _groups(self.songs[split], SHARD_SONGS)
        ]

    def _film_jobs(self, split: str) -> list[tuple[Path, Callable[[Path], None]]]:
        """(shard, what makes it) for a split's clips: one shard for each of the first `filming.songs` songs' shards."""
        settings = {"dances": asdict(self.recipe), "filming": self.filming.content()}
        folder = cache_root() / "world" / f"clips-{_mark(settings, _code(CLIPS_CODE, NOT_CLIPS))}"
        jobs = []
        wanted = min(self.filming.songs[split], self.songs[split])
        for dances, _ in self._dance_jobs(split)[: -(-wanted // SHARD_SONGS)]:
            jobs.append((folder / dances.name, partial(_film, self.filming, self.recipe.seed, dances)))
        if self.real and split == "train":
            jobs.append((folder / self.real.path.name, partial(_film, self.filming, self.recipe.seed, self.real.path)))
        return jobs


def _groups(count: int, size: int) -> list[range]:
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def _mark(settings: dict, code: str) -> str:
    """A short name for these settings and the code that reads them: other ones never meet the same files."""
    return hashlib.sha256(f"{json.dumps(settings, sort_keys=True)} {code}".encode()).hexdigest()[:16]


@cache  # of the code that this process runs, whatever is edited meanwhile
def _code(patterns: tuple[str, ...], but: tuple[str, ...] = ()) -> str:
    root = Path(__file__).parents[2]
    files = sorted({path for pattern in patterns for path in root.glob(pattern) if path.name not in but})
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _film(filming: Filming, seed: int, dances: Path, path: Path) -> None:
    from zoo.data.world.render_clips import film  # late: dances alone need no renderer

    film(filming, seed, dances, path)


def _work(jobs: list[tuple[Path, Callable[[Path], None]]], workers: int, description: str) -> None:
    """Do the jobs whose file is not there, in processes, with a progress bar."""
    missing = [(path, job) for path, job in jobs if not path.is_file()]
    if not missing:
        return
    bar = {"total": len(missing), "description": description}
    if workers <= 1:
        for path, job in track(missing, **bar):
            job(path)
        return
    context = multiprocessing.get_context("spawn")  # a forked copy of a process with running torch threads may hang
    with ProcessPoolExecutor(min(workers, len(missing)), context) as pool:
        futures = [pool.submit(job, path) for path, job in missing]
        try:
            for future in track(as_completed(futures), **bar):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
