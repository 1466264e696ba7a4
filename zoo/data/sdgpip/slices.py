"""SDGPip (M2PEnc sec. 3.1): songs become slices of body motion with guidance maps, in shards.

A teacher dances to each slice of a song. The motion is rendered once: all maps of a slice show the same body. A slice
is a sample of the usual layout (docs/data.md).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.batch import MOTION_FPS
from zoo.body.camera import camera
from zoo.body.guidance_maps import check_skeleton_style, render_guidance_maps
from zoo.body.render.appearance import random_appearance
from zoo.body.render.mesh import human_names
from zoo.body.render.rasterizer import render_motion
from zoo.body.skeleton import resample, unpack
from zoo.data.sample_format import decode_field, encode_sample
from zoo.data.shard_file import write_shard
from zoo.data.world.place import random_backdrop
from zoo.data.world.recipe import seed_of
from zoo.data.world.song import make_song
from zoo.media import Sound

ROOT_XY = slice(4, 6)  # of a motion vector


@dataclass(frozen=True)
class SliceSpec:
    """A slice: `seconds` of frames of height x width pixels at fps.

    camera, max_offset: the still camera before the slice's mean position, see `zoo.body.camera.camera`. body: a human
    one, the same in all slices: the paper has SMPL with zero betas, and music does not tell a body's size. None draws
    one for each slice. Clothes and hair are random. with_frames: draw the person in color too, before a backdrop;
    otherwise there are maps only. skeleton_style: see `zoo.body.guidance_maps`. Raises ValueError, one line, for values
    out of range.
    """

    seconds: float = 5.0
    fps: int | str = 15
    height: int = 640
    width: int = 640
    camera: str = "C09"
    max_offset: float = 0.6
    body: str | None = "man"
    with_frames: bool = True
    skeleton_style: str = "smpl"

    def __post_init__(self) -> None:
        for name in ("seconds", "rate", "height", "width"):
            if getattr(self, name) <= 0:
                raise ValueError(f"slices.{name.replace('rate', 'fps')} must be above 0, not {getattr(self, name)}")
        if self.height % 4 or self.width % 4:
            raise ValueError(f"slices.height and slices.width must be multiples of 4, not {self.height}x{self.width}")
        camera(self.camera, self.max_offset)
        if self.body not in (None, *human_names()):
            raise ValueError(f"slices.body={self.body}: use {', '.join(human_names())}, or null for all of them")
        check_skeleton_style(self.skeleton_style, self.height, self.width)

    @property
    def rate(self) -> Fraction:
        """Frames a second, exactly."""
        return Fraction(str(self.fps))

    @property
    def duration(self) -> Fraction:
        """Seconds of a slice, exactly."""
        return Fraction(str(self.seconds))

    @property
    def num_frames(self) -> int:
        """F: frames of a slice."""
        return max(1, int(self.duration * self.rate))

    @property
    def num_motion_frames(self) -> int:
        """T: motion frames of a slice."""
        return -int(-self.duration * MOTION_FPS // 1)


@dataclass(frozen=True)
class SliceSong:
    """A song to make slices of: a file, or without one the world's song of this name."""

    name: str  # without a dot
    split: str
    path: Path | None = None


class MotionTeacher(ABC):
    """Makes body motion from music. It is pickled: it loads its weights where it is used."""

    cache_key: str  # of weights and settings: motions of equal keys are equal

    @abstractmethod
    def motions(
        self, waveform: np.ndarray, sample_rate: int, starts: Sequence[Fraction], seconds: Fraction, song: str
    ) -> Iterator[Tensor]:
        """Yield the motion (T, 151) of each slice [start, start + seconds) of a song (S,) float32 called `song`.

        A motion depends on its slice and the settings alone.
        """


@dataclass(frozen=True)
class SliceMaker:
    """Writes shards of slices. Their content is a function of the settings and the songs alone.

    seed: of the world's songs, the persons and the backdrops; song_seconds: length of the world's songs.
    """

    spec: SliceSpec
    teacher: MotionTeacher
    seed: int
    song_seconds: float

    def write(self, songs: Sequence[SliceSong], path: Path) -> list[tuple[str, str]]:
        """Write the slices of some songs to one shard. Returns (song, reason) of each song that cannot be used."""
        unusable: list[tuple[str, str]] = []
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums of several threads are in another order
        try:
            write_shard(path, (sample for song in songs for sample in self._samples(song, unusable)))
        finally:
            torch.set_num_threads(num_threads)
        return unusable

    def _samples(self, song: SliceSong, unusable: list[tuple[str, str]]) -> Iterator[tuple[str, dict]]:
        spec, seconds = self.spec, self.spec.duration
        try:
            sound, info = self._sound(song)
            # as the shard stores it: the teacher takes the samples that the student will
            waveform, sample_rate = decode_field("sound", sound)
            count = int(Fraction(len(waveform), sample_rate) / seconds)
            if not count:
                raise ValueError(f"it lasts {len(waveform) / sample_rate:.2f} s, a slice lasts {float(seconds):g} s")
        except ValueError as error:
            unusable.append((song.name, str(error)))
            return
        starts = [index * seconds for index in range(count)]
        motions = [
            _centred(motion) for motion in self.teacher.motions(waveform, sample_rate, starts, seconds, song.name)
        ]
        for index, (start, motion) in enumerate(zip(starts, motions, strict=True)):
            assert len(motion) == spec.num_motion_frames, (song.name, len(motion))
            key = f"{song.name}-{index:03d}"
            other_slices = [other for position, other in enumerate(motions) if position != index] or motions
            fields, scene = self._render(key, motion, other_slices)
            labels = {
                "split": song.split,
                "song": song.name,
                "dancer": f"{song.split}-person-{key}",
                "camera": spec.camera,
            }
            times = {"start": float(start), "seconds": float(seconds), "fps": str(spec.fps), "frames": spec.num_frames}
            size = {"height": spec.height, "width": spec.width}
            yield (
                key,
                {"info": {**info, **labels, **times, **size, **scene}, "sound": sound, "motion": motion, **fields},
            )

    def _sound(self, song: SliceSong) -> tuple[bytes, dict[str, Any]]:
        """The FLAC bytes of the whole song, and its entries of a sample's .json."""
        if song.path is None:
            made = make_song(seed_of(self.seed, song.name), self.song_seconds)
            info = {"style": made.style, "bpm": float(made.bpm), "beats": [float(time) for time in made.beats]}
            sound = made.waveform, made.sample_rate
        else:
            file = Sound(song.path)
            info = {"style": "unknown"}
            sound = file.mono(file.sample_rate), file.sample_rate
        return encode_sample({"info": {}, "sound": sound})["flac"], info

    def _render(self, key: str, motion: Tensor, other_slices: list[Tensor]) -> tuple[dict, dict]:
        """Maps of a slice, frames and a reference image if they are asked for, and the .json's entries of the scene.

        The reference shows the same person at the same place, in a pose of another slice of the song.
        """
        spec = self.spec
        rng = np.random.default_rng(seed_of(self.seed, "slice", key))
        appearance = random_appearance(rng, human=True)
        if spec.body is not None:
            appearance = replace(appearance, body=spec.body)
        view = camera(spec.camera, spec.max_offset)
        rotations, root = _poses(motion, torch.arange(spec.num_frames, dtype=torch.float64) / float(spec.rate))
        scene: dict[str, Any] = {"look": asdict(appearance)}
        backdrop = None
        if spec.with_frames:
            scene["backdrop"], backdrop = random_backdrop(rng, view, spec.height, spec.width)
        fields = render_guidance_maps(
            appearance,
            rotations,
            root,
            view,
            spec.height,
            spec.width,
            background=backdrop,
            with_frames=spec.with_frames,
            skeleton_style=spec.skeleton_style,
        )
        if spec.with_frames:
            other = other_slices[int(rng.integers(len(other_slices)))]
            time = torch.tensor([int(rng.integers(len(other))) / MOTION_FPS], dtype=torch.float64)
            rotations, root = _poses(other, time)
            root[:, :2] = 0
            image = render_motion(appearance, rotations, root, view, spec.height, spec.width, backdrop, maps=("rgb",))
            fields["reference"] = image["rgb"][0]
        return fields, scene


def _centred(motion: Tensor) -> Tensor:
    """A motion (T, 151), moved so that its mean position is above the origin."""
    motion = motion.clone()
    motion[:, ROOT_XY] -= motion[:, ROOT_XY].mean(0)
    return motion


def _poses(motion: Tensor, times: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Local rotations (F, 24, 3, 3) and root (F, 3) at `times` (F,) seconds of a motion."""
    _, root, rotations = unpack(resample(motion, times))
    return rotations.numpy(), root.numpy()
