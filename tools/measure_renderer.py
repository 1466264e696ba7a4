"""How well MagicDance's diffusion renderer draws held-out dancers, driven by the exact parts of held-out dances.

python tools/measure_renderer.py CKPT [CKPT ...] [--clips 32] [--steps N] [--strip OUT.png]; prints one JSON line a
checkpoint, each value with its 95% bootstrap interval over clips, and of those after the first what they have more than
it, clip by clip. The world's test split, 4 s at 12 fps, one picture from outside each clip.

psnr: of the frames, dB, and what it is above copying the picture. face, rest: the same inside and outside of the head's
box; by its tokens alone: with the picture's head hidden. pose: mean distance of the world judge's joints from the exact
ones, in body heights, and that of the true frames. background: grey levels by which pixels that no body comes near
change over time, and those of the true frames. colours, head's colours: how far those of the figure and of its head are
from the picture's (`identity`). right: share of clips whose dancer is nearest, by colours (`identity`),
to its own picture among all held-out ones. other_face: with the next dancer's face in place of its own, whose picture
the head is nearer to, and whose the rest.
"""

import argparse
import json
from collections.abc import Sequence
from fractions import Fraction

import cv2
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tqdm import tqdm

from zoo.body.detection.synthetic_detector import SyntheticPoseDetector
from zoo.data.base import WindowSpec
from zoo.families.magicdance.renderers.animator import head_boxes
from zoo.families.magicdance.renderers.diffusion import DiffusionRenderer
from zoo.files import conf_folder
from zoo.metrics.identity import Signature, signature, signature_distance
from zoo.metrics.statistics import bootstrap_interval
from zoo.run.build import build_encoder
from zoo.run.checkpoint import load_family

FPS, SIDE = 12, 128
NEAR = 9  # pixels about a body where its shadow may fall
PARTS = {"head": slice(0, 1), "body": slice(1, None)}  # of a signature
NEEDS = ("key", "frames", "reference", "parts", "joints2d", "dancer")


def decibels(made: np.ndarray, true: np.ndarray, where: np.ndarray | None = None) -> float:
    """Mean PSNR of frames (F, H, W, 3) uint8, of the pixels `where` (F, H, W); frames without any are left out."""
    wrong = ((made.astype(np.float32) - true) ** 2).mean(-1)
    share = np.ones_like(wrong) if where is None else where.astype(np.float32)
    there = share.sum((1, 2)) > 0
    error = (wrong * share).sum((1, 2))[there] / share.sum((1, 2))[there]
    return float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-2)))) if there.any() else float("nan")


def heads(parts: torch.Tensor) -> np.ndarray:
    """(F, H, W) bool: squares about the heads of parts."""
    found = np.zeros(parts.shape, bool)
    for one, box in zip(found, head_boxes(parts).numpy(), strict=True):
        if np.isfinite(box).all():
            left, top, right, bottom = (np.clip(box, 0, 1) * parts.shape[1]).round().astype(int)
            one[top:bottom, left:right] = True
    return found


def unsteady(frames: np.ndarray, still: np.ndarray) -> float:
    """Deviation over time, in grey levels, of the pixels `still` (H, W)."""
    return float(frames[:, still].astype(np.float32).std(0).mean()) if still.any() else float("nan")


def seen(frames: np.ndarray) -> Signature:
    """The colours of the figure that the judge sees in frames, all together."""
    return signature(frames, SyntheticPoseDetector().detect(frames)).pooled()


def told(values: Sequence[float]) -> list[float]:
    """Mean, low, high."""
    return [round(one, 4) for one in bootstrap_interval(values)[:3]]


class Clips:
    """Held-out clips and pictures of their dancers."""

    def __init__(self, ckpt: str, count: int):
        with initialize_config_dir(str(conf_folder()), version_base=None):
            config = compose("train", overrides=["model=magicdance"])
        encoder, world = build_encoder(load_family(ckpt)[1]), instantiate(config.data)
        world.prepare_data(NEEDS, encoder, ["test"])
        self.clips = world.dataset("test", NEEDS, WindowSpec(4.0, FPS, SIDE, SIDE), encoder)
        first = {}  # a clip of every dancer, others after them
        for index in range(len(self.clips)):
            first.setdefault(self.clips[index]["dancer"], index)
        rest = (i for i in range(len(self.clips)) if i not in first.values())
        self.order = [*first.values(), *rest][:count]
        self.pictures = {name: _bytes(self.clips[index]["reference"][None]) for name, index in first.items()}
        self.names, self.known = list(first), [seen(picture) for picture in self.pictures.values()]


def measured(ckpt: str, held: Clips, steps: int | None) -> tuple[list[dict[str, float]], list[np.ndarray]]:
    """What there is to say of each clip, nothing of one whose picture does not do; and strips of frames."""
    judge = SyntheticPoseDetector()
    animator = load_family(ckpt)[0].eval().animator
    renderer = DiffusionRenderer(animator, judge)
    animator.num_inference_steps = steps or animator.num_inference_steps
    names, known = held.names, held.known
    said, strips = [], []
    for number, index in enumerate(tqdm(held.order, desc="clips", disable=None)):
        clip = held.clips[index]
        parts, true, picture = clip["parts"], _bytes(clip["frames"]), _bytes(clip["reference"][None])
        try:
            session = renderer.begin(_picture(picture), Fraction(FPS), number)
        except ValueError as error:
            print(f"{clip['key']} is left out: {error}")
            said.append({})
            continue
        made = session.render_parts(parts).permute(0, 2, 3, 1).numpy()
        still = np.broadcast_to(picture, true.shape)
        head = heads(parts)
        joints = clip["joints2d"].numpy()
        stature = float(np.ptp(joints[..., 1], axis=1).max())
        body = (parts > 0).any(0).numpy() | (judge.detect(picture).mask[0] > 0.5)
        free = cv2.dilate(body.astype(np.uint8), np.ones((2 * NEAR + 1,) * 2, np.uint8)) == 0
        own, mine = seen(made), known[names.index(clip["dancer"])]
        apart = [float(signature_distance(own, one)) for one in known]
        values = {
            "psnr": decibels(made, true),
            "above copying": decibels(made, true) - decibels(still, true),
            "face": decibels(made, true, head),
            "rest": decibels(made, true, ~head),
            "colours": apart[names.index(clip["dancer"])],
            "head's colours": float(signature_distance(_of(own, PARTS["head"]), _of(mine, PARTS["head"]))),
            "pose": _off(judge.detect(made).joints, joints) / stature,
            "pose of the truth": _off(judge.detect(true).joints, joints) / stature,
            "background": unsteady(made, free),
            "background of the truth": unsteady(true, free),
            "right": float(names[int(np.nanargmin(apart))] == clip["dancer"]),
        }
        if animator.head_drop_prob:
            by_face = DiffusionRenderer(animator, judge, face=_picture(picture))
            faced = (
                by_face.begin(_picture(picture), Fraction(FPS), number).render_parts(parts).permute(0, 2, 3, 1).numpy()
            )
            values["face by its tokens alone"] = decibels(faced, true, head)
            values["rest then"] = decibels(faced, true, ~head)
        other, lent = (names.index(clip["dancer"]) + 1) % len(names), None
        if animator.face is not None and len(names) > 1:
            try:
                lent = DiffusionRenderer(animator, judge, face=_picture(held.pictures[names[other]]))
            except ValueError:  # that picture does not do
                lent = None
        if lent is not None:
            mixed = seen(
                lent.begin(_picture(picture), Fraction(FPS), number).render_parts(parts).permute(0, 2, 3, 1).numpy()
            )
            for part, where in PARTS.items():
                near = [float(signature_distance(_of(mixed, where), _of(one, where))) for one in (mine, known[other])]
                values[f"other_face: {part} is of the {'face' if part == 'head' else 'body'}"] = float(
                    (near[1] < near[0]) == (part == "head")
                )
        said.append(values)
        strips.append(np.concatenate([picture[0], *true[8::16], *made[8::16]], 1))
    return said, strips


def together(clips: Sequence[dict[str, float]]) -> dict:
    """Each value's mean and interval over the clips that have it."""
    names = dict.fromkeys(name for one in clips for name in one)
    found = {name: [one[name] for one in clips if name in one] for name in names}
    return {name: told(values) for name, values in found.items()} | {"clips": max(map(len, found.values()))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", nargs="+")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--strip", help="a png: pictures, true frames, frames made by the last checkpoint")
    options = parser.parse_args()
    held, first = Clips(options.ckpt[0], options.clips), None
    for ckpt in options.ckpt:
        said, strips = measured(ckpt, held, options.steps)
        if first is None:
            first, more = said, {}
        else:
            pairs = zip(said, first, strict=True)
            more = {
                "more": together([{name: new[name] - old[name] for name in new.keys() & old} for new, old in pairs])
            }
        print(json.dumps({"ckpt": ckpt} | together(said) | more), flush=True)
    if options.strip:
        cv2.imwrite(options.strip, np.concatenate(strips[:12])[..., ::-1])


def _of(one: Signature, regions: slice) -> Signature:
    return Signature(one.counts[regions])


def _off(found: np.ndarray, true: np.ndarray) -> float:
    """Mean distance in pixels of joints (F, 24, 2), of those found."""
    return float(np.nanmean(np.linalg.norm(found - true, axis=-1)))


def _bytes(pictures: torch.Tensor) -> np.ndarray:
    """(F, 3, H, W) in [-1, 1] -> (F, H, W, 3) uint8"""
    return ((pictures + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def _picture(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture[0]).permute(2, 0, 1)


if __name__ == "__main__":
    main()
