"""Shards of songs and dances: sound, motion and their labels; no images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from zoo.batch import MOTION_FPS
from zoo.data.shard_file import write_shard
from zoo.data.world.choreography import choreograph
from zoo.data.world.recipe import DanceSpec, seed_of
from zoo.data.world.song import make_song


def make_dances(spec: DanceSpec, split: str, songs: range, path: Path) -> None:
    """Write one shard: the songs of a split with the indices `songs`, each with dances by different dancers of it."""
    torch.set_num_threads(1)
    write_shard(path, _dances(spec, split, songs))


def _dances(spec: DanceSpec, split: str, songs: range) -> Iterator[tuple[str, dict]]:
    for song_index in songs:
        name = f"{split}-song-{song_index:05d}"
        song = make_song(seed_of(spec.seed, name), spec.seconds)
        dancer_ids = np.random.default_rng(seed_of(spec.seed, name, "cast")).permutation(spec.dancers[split])
        for dance_index in range(spec.dances_per_song):
            dancer = f"{split}-dancer-{dancer_ids[dance_index % len(dancer_ids)]:03d}"
            dance = choreograph(song, seed_of(spec.seed, name, dancer, dance_index))
            motion = np.asarray(dance.motion, np.float32)
            info = {
                "split": split,
                "song": name,
                "dancer": dancer,
                "style": song.style,
                "bpm": float(song.bpm),
                "fps": MOTION_FPS,
                "start": 0.0,  # where the motion begins in the sound, seconds
                "seconds": len(motion) / MOTION_FPS,
                "beats": [float(time) for time in song.beats],
                "downbeats": [float(time) for time in song.downbeats],
                "sections": [list(section) for section in song.sections],
                "moves": [list(move) for move in dance.moves],
            }
            yield f"{name}-{dance_index}", {"info": info, "sound": (song.waveform, song.sample_rate), "motion": motion}
