"""PYTHONPATH=. python tools/measure_warp.py PICTURE SONG [SECONDS]: how well the picture's person dances, in one line.

The dance is `sample.py model=magicdance renderer=warp`'s with the shipped checkpoint and seed 0. Every sixth frame:

- joints off: between where BlazePose sees the 24 joints and where the motion means them to be, as a share of the
  stature; what BlazePose sees amiss in the picture itself is taken off, joint by joint;
- sure: how surely BlazePose sees the joints; in brackets, of the picture;
- ragged: share of the drawn figure that is spikes and notches narrower than 2.5% of the stature; in brackets, at rest;
- selfie: overlap (intersection over union) of what is drawn, before plain grey, with what mediapipe's segmenter of
  selfies takes for a person. It is another network than the one that found the person; in brackets, of the picture.

All networks are of mediapipe's wheel, which lies in $DANCEZOO_CACHE/people.
"""

import sys
import time
import zipfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter

from zoo.body.detection.blazepose import suppress_stderr
from zoo.body.detection.blazepose_detector import BlazePoseDetector
from zoo.body.image.puppet import PuppetAnimator, make_puppet
from zoo.body.skeleton import unpack
from zoo.families.base import SamplingParams
from zoo.families.magicdance.family import resample_to_video
from zoo.files import cache_root
from zoo.media import Sound, read_image
from zoo.music.encoder import encode_song
from zoo.run.build import build_encoder
from zoo.run.checkpoint import load_family

FPS, EACH, GREY, ROOM, NARROW = 30, 6, 127, 0.25, 0.025
SEGMENTER = "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite"


class Segmenter:
    """mediapipe's selfie segmentation: of a square picture of 256 pixels, how surely each shows a person."""

    def __init__(self, wheel: Path):
        with suppress_stderr():
            self.network = Interpreter(model_content=zipfile.ZipFile(wheel).read(SEGMENTER), num_threads=1)
            self.network.allocate_tensors()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) bool"""
        small = cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)
        self.network.set_tensor(self.network.get_input_details()[0]["index"], np.float32(small[None]) / 255)
        self.network.invoke()
        found = self.network.get_tensor(self.network.get_output_details()[0]["index"])[0, ..., 0]
        return cv2.resize(found, image.shape[1::-1]) > 0.5


def drawing(stage: PuppetAnimator, segmenter: Segmenter, joints: np.ndarray, depth: np.ndarray) -> tuple[float, float]:
    """How ragged what is drawn is, and how far it is taken for a person."""
    black, white, grey = (
        PuppetAnimator(replace(stage.puppet, background=np.full_like(stage.puppet.background, tone)), FPS).draw(
            joints[None], depth[None]
        )[0]
        for tone in (0, 255, GREY)
    )
    drawn = white.astype(int).mean(-1) - black.mean(-1) < 128
    side = round(NARROW * stage.puppet.stature)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    smooth = [cv2.morphologyEx(np.uint8(drawn), kind, disc) > 0 for kind in (cv2.MORPH_OPEN, cv2.MORPH_CLOSE)]
    ragged = float((smooth[0] != smooth[1]).sum() / drawn.sum())
    rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
    middle = np.array([columns[0] + columns[-1], rows[0] + rows[-1]]) / 2
    half = 0.6 * max(np.ptp(rows), np.ptp(columns))
    to = np.array([[1, 0, half - middle[0]], [0, 1, half - middle[1]]])
    side = int(2 * half)
    crop = cv2.warpAffine(grey, to, (side, side), borderValue=(GREY,) * 3)
    there = cv2.warpAffine(np.uint8(drawn), to, (side, side), flags=cv2.INTER_NEAREST) > 0
    found = segmenter(crop)
    return ragged, float((found & there).sum() / (found | there).sum())


def danced(song: Path, seconds: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotations and root of the shipped checkpoint's dance, at FPS."""
    family, config = load_family(Path("assets/magicdance-tiny"), True)
    music = encode_song(Sound(song), build_encoder(config), Fraction(seconds))
    frames = round(seconds * FPS)
    with torch.inference_mode():
        blocks = family.generate_motion(music, frames, 0, SamplingParams(None, None, None))
        _, root, rotations = unpack(torch.cat(list(resample_to_video(blocks, frames, Fraction(FPS)))))
    return rotations, root


def main(picture: str, song: str, seconds: str = "20") -> None:
    wheel = next(cache_root().joinpath("people").glob("mediapipe-0.10.21-*.whl"))
    detector, segmenter = BlazePoseDetector(wheel), Segmenter(wheel)
    image = read_image(Path(picture))
    puppet = make_puppet(image, detector)
    stage = PuppetAnimator(puppet, FPS)
    joints, depth = (each[::EACH] for each in stage.joints(*danced(Path(song), float(seconds))))
    began = time.process_time()
    frames = stage.draw(joints, depth)
    took = (time.process_time() - began) / len(frames)
    # only the dancer is looked at: others may be in the picture
    height, width = frames.shape[1:3]
    low = (joints.min((0, 1)) - ROOM * puppet.stature).astype(int).clip(0)
    high = np.minimum((joints.max((0, 1)) + ROOM * puppet.stature).astype(int), (width, height))
    pictured = cv2.resize(image, puppet.background.shape[1::-1], interpolation=cv2.INTER_AREA)
    shown = np.concatenate([pictured[None], frames])[:, low[1] : high[1], low[0] : high[0]]
    found = detector.detect(np.ascontiguousarray(shown))
    wrong = found.joints[0] + low - puppet.joints
    off = np.linalg.norm(found.joints[1:] + low - wrong - joints, axis=-1) / puppet.stature
    rest = drawing(stage, segmenter, puppet.joints, np.zeros(24))
    ragged, selfie = np.mean([drawing(stage, segmenter, *pose) for pose in zip(joints, depth, strict=True)], 0)
    print(
        f"{picture}: {width}x{height}, fit {puppet.quality:.2f}; joints off {np.nanmean(off):.4f}, "
        f"sure {found.confidence[1:].mean():.3f} [{found.confidence[0].mean():.3f}], "
        f"ragged {ragged:.3f} [{rest[0]:.3f}], selfie {selfie:.3f} [{rest[1]:.3f}]; {1000 * took:.1f} ms a frame"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
