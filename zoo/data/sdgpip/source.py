"""SDGPip's slices as a data source: made once, in parallel, then read like any shards (M2PEnc sec. 3.1).

A shard's content depends on the settings and its songs alone, whatever the number of processes and machines. Shards
appear whole, so that an interrupted run continues with the missing ones.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from zoo.batch import Batch
from zoo.data.base import SPLITS, DataSource, EvalClips, EvalSpec, ItemDataset, WindowSpec
from zoo.data.code_hash import code_hash
from zoo.data.eval_clips import ShardEvalClips, content_fingerprint
from zoo.data.jobs import FileJob, groups, run_jobs
from zoo.data.music_cache import MusicFeatureCache
from zoo.data.sdgpip.slices import MotionTeacher, SliceMaker, SliceSong, SliceSpec
from zoo.data.shard_builder.build import shard_key
from zoo.data.shard_file import Sample, ShardReader
from zoo.data.windows import check_windows, make_dataset
from zoo.data.world.source import CLIPS_CODE, CLIPS_CODE_EXCLUDED
from zoo.files import cache_root, write_atomic
from zoo.media import SOUND_CODECS
from zoo.music.encoder import MusicEncoder
from zoo.processes import process_count

SHARD_SONGS = 2  # songs in one shard; an interrupted run makes at most so many again in each process
SONGS_PER_HELD_OUT = 20  # of a folder's songs: one in so many is validation data, and as many are test data
SETTINGS_FILE = "sdgpip.json"
SDGPIP_CODE = (*CLIPS_CODE, "data/sdgpip/slices.py", "body/guidance_maps.py", "body/image_skeleton.py")
FRAME_KEYS = frozenset({"frames", "frame_indices", "reference"})


class Sdgpip(DataSource):
    """Slices of a teacher's motion to songs, with guidance maps. Splits share no song and no person."""

    name = "sdgpip"
    hint = "use data.slices.with_frames=true for images, or data=world, which has every key"

    def __init__(
        self,
        teacher: MotionTeacher,
        slices: SliceSpec,
        seed: int = 1,
        songs_folder: str | None = None,
        songs: Mapping[str, int] | None = None,
        song_seconds: float = 30.0,
        workers: int = 2,
        folder: Path | None = None,
    ):
        """songs: number of the world's songs in each split, where there is no songs_folder; song_seconds: their length.

        workers: processes that make slices; folder: of the shards, None: the cache. Raises ValueError for a folder
        without sound files, for songs shorter than a slice, and for a split without songs.
        """
        self.slices, self.songs_folder = slices, songs_folder
        self.workers = process_count(workers, "data.workers")
        self.maker = SliceMaker(slices, teacher, int(seed), float(song_seconds))
        if songs_folder is None:
            self.songs = _world_songs({"train": 120, "val": 8, "test": 24} | dict(songs or {}))
            if song_seconds < slices.seconds:
                raise ValueError(f"data.song_seconds={song_seconds} is shorter than a slice of {slices.seconds} s")
        else:
            self.songs = _folder_songs(Path(songs_folder).expanduser())
        settings = {
            "slices": asdict(slices) | {"fps": str(slices.fps)},
            "teacher": teacher.cache_key,
            "seed": int(seed),
            "songs": float(song_seconds) if songs_folder is None else _file_sizes_hash(self.songs),
            "code": code_hash(SDGPIP_CODE, CLIPS_CODE_EXCLUDED),
        }
        self.settings = json.dumps(settings, indent=1, sort_keys=True)
        key = hashlib.sha256(self.settings.encode()).hexdigest()[:16]
        self.folder = folder or cache_root() / "sdgpip" / key
        self._readers: dict[str, ShardReader] = {}

    @property
    def available_keys(self) -> frozenset[str]:
        """Every key of the contract but texts, and without frames those that need them."""
        missing = {"caption", "move"} | (set() if self.slices.with_frames else FRAME_KEYS)
        return frozenset(Batch.__annotations__) - missing

    def check_window(self, keys: Iterable[str], window: WindowSpec) -> None:
        """See DataSource."""
        spec = self.slices
        info = {"fps": str(spec.fps), "frames": spec.num_frames, "height": spec.height, "width": spec.width}
        check_windows([Sample("data=sdgpip", "slice", info, {})], keys, window, "train")
        if not window.window_starts(spec.seconds, "train"):
            raise ValueError(
                f"a window lasts {window.seconds:.2f} s, slices last {spec.seconds:g} s (data.slices.seconds)"
            )

    def prepare_data(self, keys: Iterable[str], encoder: MusicEncoder, splits: Iterable[str] = SPLITS) -> None:
        """Make the missing shards, and encode the songs where a key needs music or beats."""
        splits = list(splits)
        self.make(splits)
        if {"music", "beats", "beat_phase"} & set(keys):
            MusicFeatureCache(encoder).build([self._reader(split) for split in splits], self.workers)

    def make(self, splits: Iterable[str] = SPLITS, shard: tuple[int, int] = (0, 1)) -> None:
        """Write the missing shards of the splits, and print the songs that cannot be used.

        shard (i, n): only every n-th shard, from the i-th on, so that n machines share the work. Raises ValueError when
        the folder holds slices of other settings, and when no song can be used.
        """
        settings_file = self.folder / SETTINGS_FILE
        if settings_file.is_file() and settings_file.read_text() != self.settings:
            raise ValueError(
                f"{self.folder} holds slices of other settings or of another version ({SETTINGS_FILE}); "
                "name another folder"
            )
        write_atomic(settings_file, self.settings.encode())
        shard_index, num_shares = shard
        jobs = [job for split in splits for job in self._jobs(split)][shard_index::num_shares]
        for path, _ in jobs:  # of a killed process
            for leftover in self.folder.glob(f".????????-{path.name}"):
                leftover.unlink(missing_ok=True)
        for unusable in run_jobs(jobs, self.workers, "making slices"):
            for song, reason in unusable:
                print(f"{song}: left out: {reason}", flush=True)
        if jobs and not ShardReader([path for path, _ in jobs]).samples:
            raise ValueError(f"no song of {self.songs_folder or 'the world'} can be used: no slice was made")

    def dataset(self, split: str, keys: Iterable[str], window: WindowSpec, encoder: MusicEncoder) -> ItemDataset:
        """See DataSource."""
        reader = self._reader(split)
        return make_dataset(reader, reader.samples, keys, window, split, MusicFeatureCache(encoder))

    def eval_clips(self, split: str, spec: EvalSpec, encoder: MusicEncoder) -> EvalClips:
        """See DataSource; one clip from the beginning of every slice."""
        self.prepare_data({"frames", "music"}, encoder, [split])
        reader = self._reader(split)
        return ShardEvalClips(reader, reader.samples, spec, MusicFeatureCache(encoder))

    def fingerprint(self, split: str) -> str:
        """See DataSource; makes the slices if they do not exist."""
        self.make([split])
        return content_fingerprint([path] for path, _ in self._jobs(split))

    def _jobs(self, split: str) -> list[FileJob]:
        """The shards of a split: SPLIT-00000.tar ..."""
        songs = [song for song in self.songs if song.split == split]
        return [
            (
                self.folder / f"{split}-{number:05d}.tar",
                partial(self.maker.write, songs[positions.start : positions.stop]),
            )
            for number, positions in enumerate(groups(len(songs), SHARD_SONGS))
        ]

    def _reader(self, split: str) -> ShardReader:
        if split not in self._readers:
            self._readers[split] = ShardReader([path for path, _ in self._jobs(split)])
        return self._readers[split]


def _world_songs(counts: Mapping[str, int]) -> list[SliceSong]:
    """Songs of the world by their names in it: equal seeds and lengths give its own songs."""
    if set(counts) != set(SPLITS) or min(counts.values()) < 0 or not counts["train"]:
        raise ValueError(f"data.songs gives a number for each of {', '.join(SPLITS)}, not {dict(counts)}")
    return [SliceSong(f"{split}-song-{index:05d}", split) for split in SPLITS for index in range(counts[split])]


def _folder_songs(folder: Path) -> list[SliceSong]:
    """The sound files of a folder and its subfolders. Those whose names hash lowest are held out."""
    if not folder.is_dir():
        raise ValueError(f"data.songs_folder: {folder} is not a folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SOUND_CODECS and path.is_file())
    if not paths:
        raise ValueError(f"data.songs_folder: no sound file in {folder}; put {', '.join(SOUND_CODECS)} files into it")
    names = {path: path.relative_to(folder).with_suffix("").as_posix().replace("/", "-") for path in paths}
    counts = Counter(names.values())  # a.mp3 and a.wav are told apart by their suffixes
    names = {path: shard_key(name if counts[name] == 1 else f"{name}{path.suffix}") for path, name in names.items()}
    by_hash = sorted(paths, key=lambda path: hashlib.sha256(names[path].encode()).digest())
    num_held_out = max(1, len(paths) // SONGS_PER_HELD_OUT)
    if len(paths) < len(SPLITS):  # too few to hold any out
        num_held_out = 0
    splits = dict.fromkeys(by_hash[:num_held_out], "val") | dict.fromkeys(
        by_hash[num_held_out : 2 * num_held_out], "test"
    )
    return [SliceSong(names[path], splits.get(path, "train"), path) for path in paths]


def _file_sizes_hash(songs: list[SliceSong]) -> str:
    """Hash the names and sizes of the songs' files: equal on all machines that hold a copy of the folder."""
    lines = [f"{song.name}:{song.path.stat().st_size}" for song in songs if song.path is not None]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
