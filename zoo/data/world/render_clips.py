"""Rendered dances: clips with a reference image and every map, in shards that match the shards of dances."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from zoo.batch import MOTION_FPS
from zoo.body.render.pose_maps import draw_skeleton, heatmaps
from zoo.body.render.rasterizer import inverse_depth, render_motion
from zoo.body.skeleton import resample, unpack
from zoo.data.shard_builder.move_captions import caption
from zoo.data.shard_file import Sample, ShardReader, write_shard
from zoo.data.world.recipe import RenderSpec, seed_of
from zoo.data.world.scene import make_scene


def render_shard(rendering: RenderSpec, seed: int, dances_shard: Path, path: Path) -> None:
    """Render the dances of the shard `dances_shard`, and write their clips as a shard to `path`; seed: the world's."""
    torch.set_num_threads(1)
    reader = ShardReader([dances_shard])
    write_shard(path, (clip for sample in reader.samples for clip in _clips(rendering, seed, reader, sample)))


def _clips(rendering: RenderSpec, seed: int, reader: ShardReader, sample: Sample) -> Iterator[tuple[str, dict]]:
    """The clips of one dance, at random times, each with another camera and place."""
    motion = torch.from_numpy(reader.read(sample, "motion"))
    sound = reader.read_bytes(sample, "sound")  # the whole song, byte for byte: it is encoded once
    clip_length = round(rendering.seconds * MOTION_FPS)  # motion frames, as `clip_start`
    if len(motion) < clip_length:
        return
    for clip_index in range(rendering.clips_per_dance):
        key = f"{sample.key}-{clip_index}"
        rng = np.random.default_rng(seed_of(seed, "clip", key))
        clip_start = int(rng.integers(len(motion) - clip_length + 1))
        reference_index = _reference_frame(rng, len(motion), clip_start, clip_length)
        times = clip_start / MOTION_FPS + np.arange(rendering.num_frames) / rendering.fps
        dancer, reference_time = sample.info["dancer"], reference_index / MOTION_FPS
        fields, scene_info = _render_clip(rendering, seed, key, dancer, motion, times, reference_time)
        start, stop = clip_start / MOTION_FPS, (clip_start + clip_length) / MOTION_FPS
        info = {
            **sample.info,
            **scene_info,
            "start": start,
            "seconds": rendering.seconds,
            "caption": caption(sample.info["moves"], start, stop, key),
            "reference_time": reference_time,
        }
        clip_motion = motion[clip_start : clip_start + clip_length].numpy()
        yield key, {"info": info, "sound": sound, "motion": clip_motion, **fields}


def _reference_frame(rng: np.random.Generator, num_motion_frames: int, clip_start: int, clip_length: int) -> int:
    """A random motion frame outside the clip, half a second away from it where there is room. All in motion frames."""
    for gap in (MOTION_FPS // 2, 0):
        num_earlier, num_later = max(0, clip_start - gap), max(0, num_motion_frames - (clip_start + clip_length + gap))
        if num_earlier + num_later:
            index = int(rng.integers(num_earlier + num_later))
            return index if index < num_earlier else clip_start + clip_length + gap + index - num_earlier
    return 0  # the clip is the whole dance


def _render_clip(
    rendering: RenderSpec,
    seed: int,
    key: str,
    dancer: str,
    motion: torch.Tensor,
    times: np.ndarray,
    reference_time: float,
) -> tuple[dict, dict]:
    """Fields and labels of a clip: the frames at `times` (F,) seconds of the dance, and a reference image."""
    height, width = rendering.height, rendering.width
    _, root, rotations = unpack(resample(motion, torch.from_numpy(np.append(times, reference_time))))
    root[-1, :2] = root[:-1, :2].mean(0)  # the reference pose of another time, rendered at the clip's place
    local_rotations, roots = rotations.numpy(), root.numpy()
    scene = make_scene(seed, key, dancer, roots[:-1], height, width)
    view_args = (scene.camera, height, width, scene.backdrop_image)
    images = render_motion(scene.appearance, local_rotations[:-1], roots[:-1], *view_args)
    reference_images = render_motion(scene.appearance, local_rotations[-1:], roots[-1:], *view_args, maps=("rgb",))
    fields = {
        "frames": images["rgb"],
        "reference": reference_images["rgb"][0],
        "parts": images["parts"],
        "semantic": images["semantic"],
        "depth": inverse_depth(images["depth"]),
        "normal": images["normal"],
        "skeleton": draw_skeleton(images["joints2d"], height, width),
        "heatmaps": heatmaps(images["joints2d"] / 4, height // 4, width // 4),
        "joints2d": images["joints2d"],
        "joints3d": images["joints3d"],
    }
    return fields, {**scene.info(), "fps": str(rendering.fps), "frames": len(times), "height": height, "width": width}
