"""The songs of a corpus, listened to once: whole-song music features and found beats, kept on disk, cut exactly."""

import hashlib
import json
import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from rich.progress import track

from zoo.files import cache_root, replacing, write_atomic
from zoo.music import beats as beats_module
from zoo.music import mel as mel_module
from zoo.music.beats import Beats, find_beats
from zoo.music.encoder import MusicEncoder, MusicFeatures, source_hash

SMALL = 4 << 20  # bytes; a song's features up to this are kept in memory, larger ones are mapped from disk
MAPPED = 256  # songs mapped at a time: each map holds a file open


class Features:
    """What one encoder hears in the songs of a corpus; `make` before reading. Found by the sound's content.

    The whole song is encoded at once and cut afterwards, so that a token does not depend on where a clip begins.
    """

    def __init__(self, encoder: MusicEncoder):
        self.encoder = encoder
        mark = hashlib.sha256(f"{encoder.cache_key} {source_hash(beats_module, mel_module)}".encode()).hexdigest()[:16]
        self.folder = cache_root() / "songs" / mark
        self._open: dict[str, tuple[np.ndarray, Beats]] = {}

    def make(self, readers: Iterable, workers: int) -> None:
        """Listen to the sounds of shards that are not kept yet, with a progress bar.

        readers: `ShardReader`s; workers: processes, used by encoders without weights.
        """
        missing = {}
        for reader in readers:
            for sample in reader.samples:
                sound_id = sample.info.get("sound_id")
                if sound_id and sound_id not in missing and not (self.folder / f"{sound_id}.json").is_file():
                    missing[sound_id] = reader, sample
        if not missing:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs = ((sound_id, *reader.read(sample, "sound")) for sound_id, (reader, sample) in missing.items())
        bar = {"total": len(missing), "description": "listening to songs"}
        if workers > 1 and not self.encoder.needs_weights_file:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, context, _be_one_thread) as pool:
                for _ in track(_in_order(pool, self._listen, jobs, ahead=4 * workers), **bar):
                    pass
        else:
            for job in track(jobs, **bar):
                self._listen(job)

    def _listen(self, job: tuple[str, np.ndarray, int]) -> None:
        sound_id, waveform, sample_rate = job
        beats = find_beats(waveform, sample_rate)
        with torch.inference_mode():
            features = self.encoder.encode(torch.from_numpy(waveform)[None], sample_rate, [beats])[0]
            features = features.float().cpu().numpy()
        with replacing(self.folder / f"{sound_id}.npy") as file:
            np.save(file, features)
        kept = {"times": beats.times.tolist(), "tempo": float(beats.tempo), "downbeat": int(beats.downbeat)}
        write_atomic(self.folder / f"{sound_id}.json", json.dumps(kept).encode())

    def get(self, sound_id: str) -> tuple[np.ndarray, Beats]:
        """(features (L, D) float32 of the whole song, found beats)."""
        if sound_id not in self._open:
            path = self.folder / f"{sound_id}.npy"
            large = path.stat().st_size > SMALL
            if large and len(self._open) >= MAPPED:
                self._open.pop(next(iter(self._open)))
            kept = json.loads(path.with_suffix(".json").read_text())
            beats = Beats(np.array(kept["times"], np.float64), kept["tempo"], kept["downbeat"])
            self._open[sound_id] = np.load(path, mmap_mode="r" if large else None), beats
        return self._open[sound_id]

    def music(self, sound_id: str) -> MusicFeatures:
        """The whole song."""
        features, beats = self.get(sound_id)
        return MusicFeatures(torch.from_numpy(np.array(features)), self.encoder.rate, beats)

    def __getstate__(self):
        return {**self.__dict__, "_open": {}}


def _in_order(pool: ProcessPoolExecutor, function, jobs, ahead: int):
    """Like pool.map, with at most `ahead` jobs waiting: the songs of a corpus do not fit in memory at once."""
    waiting = []
    for job in jobs:
        waiting.append(pool.submit(function, job))
        if len(waiting) >= ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def _be_one_thread() -> None:
    torch.set_num_threads(1)
