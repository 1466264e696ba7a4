"""Music features of a corpus: every song is encoded once, whole, with its detected beats, and cached on disk."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from zoo.data.shard_file import DamageError, Sample, ShardReader
from zoo.files import cache_root, replacing, safe_name, write_atomic
from zoo.music.beats import Beats
from zoo.music.encoder import MusicEncoder, MusicFeatures
from zoo.processes import WorkerPool

MAX_BYTES_IN_MEMORY = 4 << 20  # of a song's features: larger ones are mapped from disk
SILENCE = 1e-4  # largest value of a silent sound
MIN_SOUNDS_PER_WORKER = 4  # a process needs longer to start than to encode fewer
MAX_MAPPED_SONGS = 256  # songs mapped at a time: each map holds a file open


class MusicFeatureCache:
    """Features of one encoder for the songs of a corpus, found by the content of the sound; `build` before reading.

    The whole song is encoded at once and cut afterwards, so that a token does not depend on where a clip begins.
    """

    def __init__(self, encoder: MusicEncoder):
        self.encoder = encoder
        self.needs_weights_file = encoder.needs_weights_file or encoder.beat_tracker.needs_weights_file
        self.folder = cache_root() / "songs" / hashlib.sha256(encoder.song_cache_key.encode()).hexdigest()[:16]
        self._loaded: dict[str, tuple[np.ndarray, Beats]] = {}

    def build(self, readers: Iterable[ShardReader], workers: int) -> None:
        """Encode the sounds of shards that are not in the cache yet, with a progress bar.

        workers: at most so many processes, for encoders and beat trackers without weights.
        """
        missing_sounds: dict[str, tuple[ShardReader, Sample]] = {}  # sound id -> (reader, a sample that has it)
        for reader in readers:
            for sample in reader.samples:
                sound_id = sample.info.get("sound_id")
                if not sound_id or "sound" not in sample.byte_ranges:  # the description may name one that is not there
                    continue
                if sound_id not in missing_sounds and not self._file(sound_id, ".json").is_file():
                    missing_sounds[sound_id] = reader, sample
        if not missing_sounds:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs = _read_sounds(missing_sounds)
        progress_options: dict[str, Any] = {"total": len(missing_sounds), "description": "encoding songs"}
        workers = min(workers, len(missing_sounds) // MIN_SOUNDS_PER_WORKER)
        if workers > 1 and not self.needs_weights_file:
            with WorkerPool(workers, _use_one_thread) as pool:
                for _ in track(_map_in_order(pool, self._encode, jobs, max_waiting=4 * workers), **progress_options):
                    pass
            return
        num_threads = torch.get_num_threads()
        if not self.needs_weights_file:
            _use_one_thread()  # as in worker processes: sums depend on it, and a killed build may leave few songs
        try:
            for job in track(jobs, **progress_options):
                self._encode(job)
        finally:
            torch.set_num_threads(num_threads)

    def _file(self, sound_id: str, suffix: str) -> Path:
        return self.folder / f"{safe_name(sound_id)}{suffix}"  # the id stands in the shard, and may be any text

    def _encode(self, job: tuple[str, np.ndarray, int]) -> None:
        """Encode one sound, (sound id, waveform (S,), sample rate), into the cache."""
        sound_id, waveform, sample_rate = job
        beats = self.encoder.beat_tracker.track(waveform, sample_rate)
        with torch.inference_mode():
            encoded = self.encoder.encode(torch.from_numpy(waveform)[None], sample_rate, [beats])[0]
            features = encoded.float().cpu().numpy()
        with replacing(self._file(sound_id, ".npy")) as file:
            np.save(file, features)
        beat_info = {
            "times": beats.times.tolist(),
            "tempo": float(beats.tempo),
            "downbeat": int(beats.downbeat),
            "meter": int(beats.meter),
            "problem": _problem(waveform, features),
        }
        write_atomic(self._file(sound_id, ".json"), json.dumps(beat_info).encode())

    def get(self, sound_id: str) -> tuple[np.ndarray, Beats]:
        """Load (features (L, D) float32 of the whole song, detected beats)."""
        if sound_id not in self._loaded:
            path = self._file(sound_id, ".npy")
            is_large = path.stat().st_size > MAX_BYTES_IN_MEMORY
            if is_large and len(self._loaded) >= MAX_MAPPED_SONGS:
                self._loaded.pop(next(iter(self._loaded)))
            beat_info = json.loads(path.with_suffix(".json").read_text())
            times = np.array(beat_info["times"], np.float64)
            beats = Beats(times, beat_info["tempo"], beat_info["downbeat"], beat_info["meter"])
            self._loaded[sound_id] = np.load(path, mmap_mode="r" if is_large else None), beats
        return self._loaded[sound_id]

    def problem(self, sound_id: str) -> str | None:
        """Reason why no model can learn from a sound, or None."""
        path = self._file(sound_id, ".json")
        return json.loads(path.read_text()).get("problem") if path.is_file() else "cannot be decoded"

    def music(self, sound_id: str) -> MusicFeatures:
        """Load the features of the whole song with their rate and beats."""
        features, beats = self.get(sound_id)
        return MusicFeatures(torch.from_numpy(np.array(features)), self.encoder.rate, beats)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": {}}


def _read_sounds(sounds: dict[str, tuple[ShardReader, Sample]]) -> Iterator[tuple[str, np.ndarray, int]]:
    """(sound id, waveform (S,), sample rate) of each sound that can be decoded."""
    for sound_id, (reader, sample) in sounds.items():
        try:
            waveform, sample_rate = reader.read(sample, "sound")
        except DamageError as error:
            reader.skip(error)
            continue
        yield sound_id, waveform, sample_rate


def _problem(waveform: np.ndarray, features: np.ndarray) -> str | None:
    if not np.abs(waveform).max(initial=0.0) > SILENCE:
        return "is silent"
    return None if np.isfinite(features).all() else "has music features that are not finite"


def _map_in_order(pool: WorkerPool, function: Callable, jobs: Iterable, max_waiting: int) -> Iterator:
    """Like pool.map, with a bound on waiting jobs: the songs of a corpus do not fit in memory at once."""
    futures = []
    for job in jobs:
        futures.append(pool.submit(function, job))
        if len(futures) >= max_waiting:
            yield futures.pop(0).result()
    for future in futures:
        yield future.result()


def _use_one_thread() -> None:
    torch.set_num_threads(1)
