"""The world as a data source: a corpus made on demand from a seed, in two parts, each made only when it is needed.

`dances`: songs, dances to them, and captions (quick). `clips`: the same dances rendered, with every map (see
render_clips.py). A shard's content depends on the settings and its place alone, whatever the number of workers. Shards
appear whole, so that an interrupted run continues with the missing ones. The cache key covers the settings and the code
that makes the data: another seed or a changed line of that code makes another corpus.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from zoo.batch import MOTION_DIM, MOTION_FPS, Batch
from zoo.data.base import IMAGE_KEYS, SPLITS, DataSource, EvalClips, EvalSpec, ItemDataset, WindowSpec
from zoo.data.code_hash import code_hash
from zoo.data.eval_clips import ShardEvalClips, content_fingerprint
from zoo.data.jobs import FileJob, groups, run_jobs
from zoo.data.music_cache import MusicFeatureCache
from zoo.data.shard_file import Sample, ShardReader
from zoo.data.sources.mocap import MocapFolder
from zoo.data.windows import make_dataset
from zoo.data.world.dances import make_dances
from zoo.data.world.recipe import DanceSpec, RenderSpec
from zoo.files import cache_root
from zoo.music.encoder import MusicEncoder
from zoo.processes import process_count

SONGS_PER_SHARD = 8  # songs in one shard of dances
MIN_SONG_SECONDS = 5
# The code that decides the content of shards, by folders. tests/test_data_world_key.py fails when a module that takes
# part in making them is not covered.
DANCES_CODE = (
    "data/world/*.py",
    *(f"choreography/{name}.py" for name in ("dancer", "floor", "ik", "moves", "poses")),
    "data/sample_format.py",
    "data/shard_file.py",
    "body/skeleton.py",
    "media.py",
)
CLIPS_CODE = (
    *DANCES_CODE,
    "data/shard_builder/move_captions.py",
    "body/camera.py",
    "body/labels.py",
    "body/render/**/*",
)
CLIPS_CODE_EXCLUDED = ("data/world/source.py", "**/__pycache__/*")
DANCES_CODE_EXCLUDED = (
    *CLIPS_CODE_EXCLUDED,
    *(f"data/world/{name}.py" for name in ("render_clips", "scene", "place", "backdrop")),
)
ALL_KEYS = frozenset(Batch.__annotations__)


class World(DataSource):
    """The built-in synthetic dance data. Splits share no song and no dancer."""

    name = "world"
    motion_follows_music = False

    def __init__(
        self,
        seed: int = 1,
        songs: Mapping[str, int] | None = None,
        seconds: float = 30.0,
        dances_per_song: int = 2,
        dancers: Mapping[str, int] | None = None,
        rendering: RenderSpec | None = None,
        mocap_folder: str | None = None,
        workers: int = 2,
    ):
        """songs, dancers: number in each split ('train', 'val', 'test'); seconds: length of a song; workers: processes.

        rendering: how dances become clips; mocap_folder: recorded motion with music, which joins the train split
        (zoo.data.sources.mocap). Raises ValueError for a split without songs or dancers.
        """
        self.songs = {"train": 240, "val": 24, "test": 48} | dict(songs or {})
        dancers = {"train": 160, "val": 16, "test": 32} | dict(dancers or {})
        for label, counts in (("songs", self.songs), ("dancers", dancers)):
            if set(counts) != set(SPLITS) or min(counts.values()) < 1:
                raise ValueError(
                    f"data.{label} gives a number of at least 1 for each of {', '.join(SPLITS)}, not {counts}"
                )
        if seconds < MIN_SONG_SECONDS or dances_per_song < 1:
            raise ValueError(f"data.seconds must be at least {MIN_SONG_SECONDS} and data.dances_per_song at least 1")
        self.dance_spec = DanceSpec(int(seed), float(seconds), int(dances_per_song), dancers)
        self.rendering, self.workers = rendering or RenderSpec(), process_count(workers, "data.workers")
        self.mocap = MocapFolder(mocap_folder) if mocap_folder else None
        self._readers: dict[tuple[str, bool], ShardReader] = {}

    @property
    def available_keys(self) -> frozenset[str]:
        """Every key of the contract."""
        return ALL_KEYS

    def check_window(self, keys: Iterable[str], window: WindowSpec) -> None:
        """See DataSource."""
        rendering = self.rendering
        if not IMAGE_KEYS & set(keys):
            clip_seconds, setting = self.dance_spec.seconds, "data.seconds"
        else:
            clip_seconds, setting = rendering.num_frames / rendering.fps, "data.rendering.seconds"
            if window.rate > rendering.fps:
                raise ValueError(f"clip.fps={window.fps} is above data.rendering.fps={rendering.fps}")
            if rendering.height * window.width != rendering.width * window.height:
                raise ValueError(
                    f"clips of {window.height}x{window.width} cannot be made from data.rendering of "
                    f"{rendering.height}x{rendering.width} without distortion: use the same proportions"
                )
        if not window.window_starts(clip_seconds, "train"):
            raise ValueError(
                f"a window lasts {window.seconds:.2f} s, clips last {clip_seconds:.2f} s ({setting}): "
                "use longer clips, or a smaller clip.num_frames"
            )

    def prepare_data(self, keys: Iterable[str], encoder: MusicEncoder, splits: Iterable[str] = SPLITS) -> None:
        """Make the missing shards of dances, of clips too if `keys` need images, and encode the songs."""
        keys, splits = set(keys), list(splits)
        rendered = bool(keys & IMAGE_KEYS)
        self._make(splits, rendered)
        if keys & {"music", "beats", "beat_phase"}:
            MusicFeatureCache(encoder).build([self._reader(split, rendered) for split in splits], self.workers)

    def dataset(self, split: str, keys: Iterable[str], window: WindowSpec, encoder: MusicEncoder) -> ItemDataset:
        """See DataSource."""
        keys = set(keys)
        reader = self._reader(split, bool(IMAGE_KEYS & keys))
        return make_dataset(reader, reader.samples, keys, window, split, MusicFeatureCache(encoder))

    def eval_clips(self, split: str, spec: EvalSpec, encoder: MusicEncoder) -> EvalClips:
        """See DataSource; one clip from the beginning of every rendered one. Raises ValueError when the rendering has
        fewer frames a second, fewer seconds or other proportions."""
        self.prepare_data({"frames", "music"}, encoder, [split])
        clips, dances = self._reader(split, True), self._reader(split, False)
        samples = [_with_figure_label(sample) for sample in clips.samples]
        return ShardEvalClips(clips, samples, spec, MusicFeatureCache(encoder), dances=(dances, dances.samples))

    def fingerprint(self, split: str) -> str:
        """See DataSource; makes the clips if they do not exist."""
        self._make([split], rendered=True)
        return content_fingerprint([path] for path, _ in self._clip_jobs(split))

    def _make(self, splits: Iterable[str], rendered: bool) -> None:
        """Write the missing shards of dances, and of clips."""
        splits = list(splits)
        if self.mocap and "train" in splits:
            self.mocap.build()
        run_jobs([job for split in splits for job in self._dance_jobs(split)], self.workers, "making songs and dances")
        if rendered:
            run_jobs([job for split in splits for job in self._clip_jobs(split)], self.workers, "rendering dances")

    def _reader(self, split: str, rendered: bool) -> ShardReader:
        if (split, rendered) not in self._readers:
            jobs = self._clip_jobs(split) if rendered else self._dance_jobs(split)
            paths = [path for path, _ in jobs]
            if self.mocap and split == "train" and not rendered:
                paths.append(self.mocap.path)
            self._readers[split, rendered] = ShardReader(paths)
        return self._readers[split, rendered]

    def _dance_jobs(self, split: str) -> list[FileJob]:
        """The shards of a split's dances."""
        key = _cache_key(asdict(self.dance_spec), code_hash(DANCES_CODE, DANCES_CODE_EXCLUDED))
        folder = cache_root() / "world" / f"dances-{key}"
        return [
            (
                folder / f"{split}-{songs[0]:05d}-{songs[-1]:05d}.tar",
                partial(make_dances, self.dance_spec, split, songs),
            )
            for songs in groups(self.songs[split], SONGS_PER_SHARD)
        ]

    def _clip_jobs(self, split: str) -> list[FileJob]:
        """The shards of a split's clips: one per shard of dances, for as many as hold the first `rendering.songs`
        songs (rounded up to whole shards)."""
        settings = {"dances": asdict(self.dance_spec), "rendering": self.rendering.content_settings()}
        folder = cache_root() / "world" / f"clips-{_cache_key(settings, code_hash(CLIPS_CODE, CLIPS_CODE_EXCLUDED))}"
        num_songs = min(self.rendering.songs[split], self.songs[split])
        num_shards = -(-num_songs // SONGS_PER_SHARD)
        dance_shards = [path for path, _ in self._dance_jobs(split)[:num_shards]]
        if self.mocap and split == "train":
            dance_shards.append(self.mocap.path)
        render = partial(_render, self.rendering, self.dance_spec.seed)
        return [(folder / dances.name, partial(render, dances)) for dances in dance_shards]


def _cache_key(settings: dict[str, Any], code: str) -> str:
    """Hash the settings and the code that reads them (16 hex digits): other settings or code use other files."""
    settings = {**settings, "motion": [MOTION_FPS, MOTION_DIM]}
    return hashlib.sha256(f"{json.dumps(settings, sort_keys=True)} {code}".encode()).hexdigest()[:16]


def _render(rendering: RenderSpec, seed: int, dances: Path, path: Path) -> None:
    from zoo.data.world.render_clips import render_shard  # late: dances alone need no renderer

    render_shard(rendering, seed, dances, path)


def _with_figure_label(sample: Sample) -> Sample:
    from zoo.data.world.scene import figure_label  # late, as above

    return replace(sample, info={**sample.info, "figure": figure_label(sample.info)})
