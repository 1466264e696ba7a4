"""Validate `body_integrity`: true frames of the world's clips against damaged ones.

    python tools/measure_integrity.py [--split val] [--clips 16] [--frames 24] [--images FILE.png]

Prints a table: mean over clips with interval, and the AUC of single frames against the true ones, for the product and
for each of its scores. The renderer draws the damage: it knows the parts and the picture without the figure.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.stats import rankdata
from tqdm import tqdm

from zoo.body.detection.synthetic_detector import SyntheticPoseDetector
from zoo.body.labels import FOOT, FOREARM, HAND, HEAD, PARTS, SHIN, THIGH, UPPER_ARM
from zoo.body.render.rasterizer import SHADOW_JOINTS, render_motion, shade_floor
from zoo.body.skeleton import JOINTS, matrix_from_axis_angle, resample, unpack
from zoo.data.base import WindowSpec
from zoo.data.world.scene import Scene, make_scene
from zoo.data.world.source import World
from zoo.metrics.body_integrity import SCORE_RANGES, integrity_scores, integrity_signals
from zoo.metrics.statistics import Interval, bootstrap_interval
from zoo.music.spectral import Spectral

SEED, FPS, CLIP_FRAMES, SIDE = 1, 12, 48, 128
KEYS = ("frames", "reference", "motion", "dancer")
ARM_LIMBS, LEG_LIMBS = [HAND, UPPER_ARM, FOREARM], [FOOT, THIGH, SHIN]
RAISED = (-90, 90)  # degrees by which the second arm is turned about the axis that the body faces
MIN_PIXELS = {"head removed": 8, "arm doubled": 30, "arm removed": 12, "leg removed": 12}  # less is hardly visible
BLUR_SIDE = 64
IMAGE_ROWS, IMAGE_FRAME = 6, 10


class DamageableClip:
    """A rendered clip with its parts, and the same frames with damage."""

    def __init__(self, clip: dict, num_frames: int):
        """clip: an item of the world's data set."""
        times = torch.arange(CLIP_FRAMES, dtype=torch.float64) / FPS
        _, root, rotations = unpack(resample(clip["motion"], times))
        self.scene: Scene = make_scene(SEED, clip["key"].partition("@")[0], clip["dancer"], root.numpy(), SIDE, SIDE)
        self.roots, self.rotations = root.numpy()[:num_frames], rotations.numpy()[:num_frames]
        self.reference = clip["reference"].add(1).mul(127.5).round().byte().permute(1, 2, 0).contiguous().numpy()
        maps = self._render(self.rotations)
        self.frames, self.parts = maps["rgb"], maps["parts"]
        self.background = np.repeat(self.scene.backdrop_image[None], num_frames, 0)
        for image, joints in zip(self.background, maps["joints3d"], strict=True):
            shade_floor(image, joints[list(SHADOW_JOINTS)], self.scene.camera)

    def _render(self, rotations: np.ndarray, **options) -> dict[str, np.ndarray]:
        view = (self.scene.camera, SIDE, SIDE, self.scene.backdrop_image)
        options = {"maps": ("rgb", "parts")} | options
        return render_motion(self.scene.appearance, rotations, self.roots[: len(rotations)], *view, **options)

    def damaged(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Name, frames (F, H, W, 3) and whether the damage is visible in a frame, (F,) bool."""
        always = np.ones(len(self.frames), bool)
        yield "true", self.frames, always
        yield self._without("head removed", PARTS[HEAD])
        yield self._second_arm()
        yield "blend 50 %", np.uint8((self.frames.astype(int) + self.background + 1) // 2), always
        yield self._without("arm removed", PARTS[ARM_LIMBS, self._visible_side()])
        yield self._without("leg removed", PARTS[LEG_LIMBS, 1])
        small = [cv2.resize(frame, (BLUR_SIDE, BLUR_SIDE), interpolation=cv2.INTER_AREA) for frame in self.frames]
        yield "true, blurred", np.stack([cv2.resize(frame, (SIDE, SIDE)) for frame in small]), always

    def _visible_side(self) -> int:
        """The side of the arm that more pixels show: 0 right, 1 left."""
        return int(np.argmax([np.isin(self.parts, PARTS[ARM_LIMBS, side]).sum() for side in (0, 1)]))

    def _without(self, name: str, parts: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
        removed = np.isin(self.parts, parts)
        visible = removed.sum((1, 2)) >= MIN_PIXELS[name]
        removed |= _grow(removed) & (self.parts == 0)  # pixels of the edge show the part in their other half
        return name, np.where(removed[..., None], self.background, self.frames), visible

    def _second_arm(self) -> tuple[str, np.ndarray, np.ndarray]:
        """A second arm on the same shoulder, behind the body: of both arms and directions the most visible one."""
        body = _grow(self.parts > 0)

        def draw(side: int, angle: float, **options) -> tuple[dict[str, np.ndarray], np.ndarray]:
            joint = JOINTS.index(("right_shoulder", "left_shoulder")[side])
            turn = matrix_from_axis_angle(torch.tensor([0.0, 0.0, np.deg2rad(angle)])).numpy()
            rotations = self.rotations.copy()
            rotations[:, joint] = turn @ rotations[:, joint]
            maps = self._render(rotations, shadow=False, **options)
            return maps, np.isin(maps["parts"], PARTS[ARM_LIMBS, side])

        options = [(side, angle) for side in (0, 1) for angle in RAISED]
        sizes = [np.sqrt((draw(*option, maps=("parts",))[1] & ~body).sum((1, 2))).mean() for option in options]
        maps, arm = draw(*options[int(np.argmax(sizes))])
        drawn = arm & (self.parts == 0)
        drawn |= (
            _grow(drawn) & (self.parts == 0) & (maps["parts"] == 0) & (maps["rgb"] != self.scene.backdrop_image).any(-1)
        )
        visible = (arm & ~body).sum((1, 2)) >= MIN_PIXELS["arm doubled"]
        return "arm doubled", np.where(drawn[..., None], maps["rgb"], self.frames), visible


def _grow(masks: np.ndarray) -> np.ndarray:
    """Masks (F, H, W) bool, a pixel wider."""
    return np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) for mask in masks]) > 0


def auc(true: np.ndarray, damaged: np.ndarray) -> float:
    """Probability that a true frame has a higher value than a damaged one; ties count half."""
    ranks = rankdata(np.concatenate([true, damaged]))
    count = len(true)
    return float((ranks[:count].sum() - count * (count + 1) / 2) / (count * len(damaged)))


def measure(split: str, num_clips: int, num_frames: int, images: Path | None) -> dict[str, list[dict[str, np.ndarray]]]:
    """Damage -> scores of the visible frames of each clip."""
    world, encoder, detector = World(seed=SEED), Spectral(), SyntheticPoseDetector()
    world.prepare_data(KEYS, encoder, [split])
    clips = world.dataset(split, KEYS, WindowSpec(num_frames=CLIP_FRAMES, fps=FPS), encoder)
    results: dict[str, list[dict[str, np.ndarray]]] = {}
    rows = []
    for index in tqdm(range(min(num_clips, len(clips))), "clips"):
        rendered = DamageableClip(clips[index], num_frames)
        reference = rendered.reference
        reference_poses, row = detector.detect(reference[None]), [reference]
        for name, frames, visible in rendered.damaged():
            signals = integrity_signals(frames, detector.detect(frames), reference, reference_poses)
            scores = integrity_scores(signals)
            scores = {"body integrity": np.prod(list(scores.values()), 0), **scores}
            results.setdefault(name, []).append({key: values[visible] for key, values in scores.items()})
            row.append(frames[min(IMAGE_FRAME, num_frames - 1)])
        rows.append(np.concatenate(row, 1))
    if images is not None:
        cv2.imwrite(str(images), np.concatenate(rows[:: max(1, len(rows) // IMAGE_ROWS)])[..., ::-1])
    return results


def table(results: dict[str, list[dict[str, np.ndarray]]]) -> str:
    """The table of the module's docstring, in Markdown."""

    def interval(clips: list[np.ndarray]) -> Interval:
        return bootstrap_interval([values.mean() for values in clips if len(values)])

    names = ("body integrity", *SCORE_RANGES)
    lines = [f"| frames | clips | number | body integrity | AUC | {' | '.join(SCORE_RANGES)} |"]
    lines.append("|---|" + "---:|" * (4 + len(SCORE_RANGES)))
    true = {name: np.concatenate([clip[name] for clip in results["true"]]) for name in names}
    for damage, clips in results.items():
        frames = {name: np.concatenate([clip[name] for clip in clips]) for name in names}
        mean, low, high, count = interval([clip["body integrity"] for clip in clips])
        cells = [damage, str(count), str(len(frames["body integrity"])), f"{mean:.2f} [{low:.2f}, {high:.2f}]"]
        cells.append("" if damage == "true" else f"{auc(true['body integrity'], frames['body integrity']):.3f}")
        for name in SCORE_RANGES:
            separation = "" if damage == "true" else f" ({auc(true[name], frames[name]):.2f})"
            cells.append(f"{frames[name].mean():.2f}{separation}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("val", "train"), default="val", help="the ranges were chosen on val")
    parser.add_argument("--clips", type=int, default=16, help="first clips of the split")
    parser.add_argument("--frames", type=int, default=24, help="first frames of each clip, at most 48")
    parser.add_argument("--images", type=Path, help="a PNG of some clips: reference, true frame, damaged frames")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(table(measure(args.split, args.clips, args.frames, args.images)))


if __name__ == "__main__":
    main()
