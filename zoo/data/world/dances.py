"""Shards of songs and dances: sound, motion, and everything that is known about them; no pictures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from zoo.batch import MOTION_FPS
from zoo.data.sources.shards import write_shard
from zoo.data.world.choreography import choreograph
from zoo.data.world.recipe import Recipe, seed_of
from zoo.data.world.song import make_song


def make_dances(recipe: Recipe, split: str, songs: range, path: Path) -> None:
    """Write one shard: `songs` of a split, each with its dances by different dancers of that split."""
    torch.set_num_threads(1)
    write_shard(path, _dances(recipe, split, songs))


def _dances(recipe: Recipe, split: str, songs: range) -> Iterator[tuple[str, dict]]:
    for number in songs:
        name = f"{split}-song-{number:05d}"
        song = make_song(seed_of(recipe.seed, name), recipe.seconds)
        cast = np.random.default_rng(seed_of(recipe.seed, name, "cast")).permutation(recipe.dancers[split])
        for take in range(recipe.dances_per_song):
            dancer = f"{split}-dancer-{cast[take % len(cast)]:03d}"
            dance = choreograph(song, seed_of(recipe.seed, name, dancer, take))
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
            yield f"{name}-{take}", {"info": info, "sound": (song.waveform, song.sample_rate), "motion": motion}
