"""A checkpoint that dances to songs, for data made from its motion (M2PEnc sec. 3.1: pseudo-motions of EDGE)."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from math import ceil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.batch import MOTION_FPS
from zoo.data.code_hash import code_hash
from zoo.data.sdgpip.slices import MotionTeacher
from zoo.data.world.recipe import seed_of
from zoo.families.base import Family, MotionGenerator, SamplingParams
from zoo.files import file_hash
from zoo.music.encoder import MusicEncoder, encode_song
from zoo.run.build import build_encoder, load_beat_tracker
from zoo.run.checkpoint import load_family, weight_files
from zoo.run.config import CONFIG_FILE
from zoo.run.validate import existing_path, int_at_least

MUSIC_CODE = ("music/*.py",)  # the encoders and the beat tracker


class CheckpointTeacher(MotionTeacher):
    """A trained family that generates body motion.

    Its DDIM sampling adds no noise (eta 0). noise='shared': all slices start from the same noise. Then the motion is a
    function of the music, which a regression can learn. noise='fresh': each slice starts from noise of its own. The
    paper does not say which one it used; a student of fresh noise does not beat the mean pose.
    """

    def __init__(
        self,
        ckpt: str,
        num_inference_steps: int = 10,
        guidance_scale: float = 2.0,
        noise: str = "shared",
        seed: int = 0,
        beats: str | None = None,
    ):
        """ckpt: a .ckpt or an exported folder; beats: see `load_beat_tracker`.

        Raises ValueError for a path that does not exist, a file that does not fit and other noise.
        """
        if noise not in ("shared", "fresh"):
            raise ValueError(f"teacher.noise={noise}: use shared or fresh")
        self.path = existing_path(ckpt, "teacher.ckpt")
        files = [*weight_files(self.path), self.path / CONFIG_FILE] if self.path.is_dir() else [self.path]
        for file in files:
            existing_path(file, "teacher.ckpt")
        steps = int_at_least(num_inference_steps, "teacher.num_inference_steps", 1)
        self.sampling = SamplingParams(num_inference_steps=steps, guidance_scale=float(guidance_scale), eta=0.0)
        self.noise, self.seed = noise, int_at_least(seed, "teacher.seed", 0)
        settings = f"{steps} {float(guidance_scale)} {noise} {self.seed}"
        tracker = load_beat_tracker(beats)
        if tracker is not None:
            settings += f" {tracker.cache_key}"
        self.beats_path = beats
        self.cache_key = f"{file_hash(*files)} {settings} {code_hash(MUSIC_CODE)}"

    def motions(
        self, waveform: np.ndarray, sample_rate: int, starts: Sequence[Fraction], seconds: Fraction, song: str
    ) -> Iterator[Tensor]:
        """See MotionTeacher. Slices are denoised one at a time: together, their last bits would differ."""
        generator, encoder = _load(self.path, self.beats_path)
        music = encode_song(waveform, encoder, sample_rate=sample_rate)
        num_frames = ceil(seconds * MOTION_FPS)
        for start in starts:
            seed = self.seed if self.noise == "shared" else seed_of(self.seed, "noise", song, str(start))
            part = music.slice(start, min(start + seconds, Fraction(music.seconds)))
            yield torch.cat(list(generator.generate_motion(part, num_frames, seed, self.sampling)))


@lru_cache(maxsize=1)
def _load(path: Path, beats_path: str | None) -> tuple[MotionGenerator, MusicEncoder]:
    """The family and its music encoder, loaded once in each process."""
    family: Family
    family, config = load_family(path)
    if not isinstance(family, MotionGenerator):
        raise ValueError(f"teacher.ckpt={path}: {config.model.name} generates no body motion")
    return family, build_encoder(config, load_beat_tracker(beats_path))
