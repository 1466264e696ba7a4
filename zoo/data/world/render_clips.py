"""Filming dances: clips with a reference picture and every map, in shards that match the shards of dances."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from zoo.batch import MOTION_FPS
from zoo.body.render.rasterizer import draw_skeleton, heatmaps, inverse_depth, render_motion
from zoo.body.skeleton import resample, unpack
from zoo.data.shard_builder.move_captions import caption
from zoo.data.sources.shards import Sample, ShardReader, write_shard
from zoo.data.world.recipe import Filming, seed_of
from zoo.data.world.scene import make_scene


def film(filming: Filming, seed: int, dances: Path, path: Path) -> None:
    """Write the shard of clips of the shard of dances `dances`; seed: the world's."""
    torch.set_num_threads(1)
    reader = ShardReader([dances])
    write_shard(path, (clip for sample in reader.samples for clip in _clips(filming, seed, reader, sample)))


def _clips(filming: Filming, seed: int, reader: ShardReader, sample: Sample) -> Iterator[tuple[str, dict]]:
    """The clips of one dance, at chance times, each by another camera in another place."""
    motion = torch.from_numpy(reader.read(sample, "motion"))
    sound = reader.read_bytes(sample, "sound")  # the whole song, byte for byte: it is listened to once
    length = round(filming.seconds * MOTION_FPS)
    if len(motion) < length:
        return
    for take in range(filming.clips_per_dance):
        key = f"{sample.key}-{take}"
        rng = np.random.default_rng(seed_of(seed, "clip", key))
        first = int(rng.integers(len(motion) - length + 1))
        reference = _elsewhere(rng, len(motion), first, length)
        times = first / MOTION_FPS + np.arange(filming.frames) / filming.fps
        clip, info = _shoot(filming, seed, key, sample.info["dancer"], motion, times, reference / MOTION_FPS)
        start, stop = first / MOTION_FPS, (first + length) / MOTION_FPS
        info = {
            **sample.info,
            **info,
            "start": start,
            "seconds": filming.seconds,
            "caption": caption(sample.info["moves"], start, stop, key),
            "reference_time": reference / MOTION_FPS,
        }
        yield key, {"info": info, "sound": sound, "motion": motion[first : first + length].numpy(), **clip}


def _elsewhere(rng: np.random.Generator, total: int, first: int, length: int) -> int:
    """A motion frame outside [first, first + length), half a second away from it where there is room."""
    for gap in (MOTION_FPS // 2, 0):
        before, after = max(0, first - gap), max(0, total - (first + length + gap))
        if before + after:
            place = int(rng.integers(before + after))
            return place if place < before else first + length + gap + place - before
    return 0  # the clip is the whole dance


def _shoot(
    filming: Filming, seed: int, key: str, dancer: str, motion: torch.Tensor, times: np.ndarray, reference: float
) -> tuple[dict, dict]:
    """Fields and labels of a clip: the frames at `times` (F,) seconds of the dance, and a picture from `reference`."""
    height, width = filming.height, filming.width
    _, root, rotations = unpack(resample(motion, torch.from_numpy(np.append(times, reference))))
    root[-1, :2] = root[:-1, :2].mean(0)  # a picture from elsewhere in the dance, taken on this spot
    scene = make_scene(seed, key, dancer, root[:-1].numpy(), height, width)
    view = (scene.camera, height, width, scene.behind)
    drawn = render_motion(scene.look, rotations[:-1], root[:-1], *view)
    still = render_motion(scene.look, rotations[-1:], root[-1:], *view, maps=("rgb",))
    fields = {
        "frames": drawn["rgb"],
        "reference": still["rgb"][0],
        "parts": drawn["parts"],
        "semantic": drawn["semantic"],
        "depth": inverse_depth(drawn["depth"]),
        "normal": drawn["normal"],
        "skeleton": draw_skeleton(drawn["joints2d"], height, width),
        "heatmaps": heatmaps(drawn["joints2d"] / 4, height // 4, width // 4),
        "joints2d": drawn["joints2d"],
        "joints3d": drawn["joints3d"],
    }
    return fields, {**scene.info(), "fps": str(filming.fps), "frames": len(times), "height": height, "width": width}
