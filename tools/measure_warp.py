"""How well photographed people follow a motion with renderer=warp: one row of a Markdown table for each image.

PYTHONPATH=. python tools/measure_warp.py dance.npz PHOTO... [--person N] [--sheets FOLDER]

The motion is any file that motion=FILE reads, for example `sample.py image=... music=... out=dance.npz`'s. Joints are
those that are drawn: the legs of an upper body are left out, and so is what leaves the image. The columns:

- joint error: distance between the intended joint and where BlazePose detects it in the drawn frame, as a share of the
  stature, after subtracting the same distance in the pictured pose; arms: of elbows, wrists and hands alone. Dancers
  of a group are drawn on grey for it, as BlazePose would detect another person in some frames
- edge: mean absolute difference of consecutive measured frames in the three lowest rows, in grey levels
- spikes: share of the figure's pixels that opening and closing by a disc of 2.5 % of the stature changes; in
  brackets of the pictured pose
- segmentation IoU: of the drawn figure on grey with mediapipe's selfie segmentation, a network that had no part in
  cutting out the figure; in brackets of the pictured pose
"""

import argparse
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter

from zoo.body.detection.blazepose import suppress_stderr
from zoo.body.detection.blazepose_detector import BlazePoseDetector
from zoo.body.detection.factory import load_detector
from zoo.body.image.puppet import Puppet, PuppetAnimator, make_puppets
from zoo.body.motion_io.formats import read_motion
from zoo.body.skeleton import JOINTS, unpack
from zoo.families.renderer import check_quality
from zoo.files import cache_root
from zoo.media import read_image

FPS, FRAME_STEP, GREY = 30, 6, 127
MARGIN, DISC_DIAMETER = 0.25, 0.025  # of the stature
SHEET_TIMES, SHEET_HEIGHT = (0, 0.3, 1.5, 3, 4.7, 7.7, 10.7, 16), 420  # seconds, pixels
ARM_JOINTS = [index for index, name in enumerate(JOINTS) if name.split("_")[-1] in ("elbow", "wrist", "hand")]
LEG_JOINTS = [index for index, name in enumerate(JOINTS) if name.split("_")[-1] in ("knee", "ankle", "foot")]
SEGMENTER = "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite"


class Segmenter:
    """mediapipe's selfie segmentation, which reads a square image of 256 pixels."""

    def __init__(self, wheel: Path):
        with suppress_stderr():
            self.network = Interpreter(model_content=zipfile.ZipFile(wheel).read(SEGMENTER), num_threads=1)
            self.network.allocate_tensors()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) bool"""
        small = cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)
        self.network.set_tensor(self.network.get_input_details()[0]["index"], np.float32(small[None]) / 255)
        self.network.invoke()
        probability = self.network.get_tensor(self.network.get_output_details()[0]["index"])[0, ..., 0]
        return cv2.resize(probability, image.shape[1::-1]) > 0.5


def outline(puppet: Puppet, segmenter: Segmenter, joints: np.ndarray, depth: np.ndarray) -> tuple[float, float]:
    """Share of spikes, and IoU with the segmentation, of the figure in one pose."""
    black, white, grey = (
        PuppetAnimator(replace(puppet, background=np.full_like(puppet.background, tone)), FPS).draw(
            joints[None], depth[None]
        )[0]
        for tone in (0, 255, GREY)
    )
    figure = white.astype(int).mean(-1) - black.mean(-1) < 128
    side = round(DISC_DIAMETER * puppet.stature)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    opened, closed = (cv2.morphologyEx(np.uint8(figure), kind, disc) > 0 for kind in (cv2.MORPH_OPEN, cv2.MORPH_CLOSE))
    spikes = float((opened != closed).sum() / figure.sum())
    rows, columns = (np.flatnonzero(figure.any(axis)) for axis in (1, 0))
    center = np.array([columns[0] + columns[-1], rows[0] + rows[-1]]) / 2
    half = 0.6 * max(np.ptp(rows), np.ptp(columns))
    crop_matrix = np.array([[1, 0, half - center[0]], [0, 1, half - center[1]]])
    side = int(2 * half)
    crop = cv2.warpAffine(grey, crop_matrix, (side, side), borderValue=(GREY,) * 3)
    figure_crop = cv2.warpAffine(np.uint8(figure), crop_matrix, (side, side), flags=cv2.INTER_NEAREST) > 0
    segmented = segmenter(crop)
    return spikes, float((segmented & figure_crop).sum() / (segmented | figure_crop).sum())


def is_drawn(puppet: Puppet, joints: np.ndarray) -> np.ndarray:
    """(F, 24) bool: the joints (F, 24, 2) that the frame shows."""
    height, width = puppet.background.shape[:2]
    drawn = ((joints >= 0) & (joints < (width, height))).all(-1)
    if puppet.cut is not None:
        drawn[:, LEG_JOINTS] = False
        drawn &= joints[..., 1] < puppet.cut.row
    return drawn


def measure(photo: Path, motion: torch.Tensor, detector: BlazePoseDetector, segmenter: Segmenter, sheet: Path | None):
    """The row of one photo. Raises ValueError where it is refused."""
    image = read_image(photo)
    (puppet,) = make_puppets(image, [detector], grow_canvas=True)
    check_quality(puppet.quality, puppet.note)
    animator = PuppetAnimator(puppet, FPS)
    _, root, rotations = unpack(motion)
    all_joints, all_depth = animator.joints(rotations, root)
    if sheet is not None:
        moments = [min(round(FPS * seconds), len(all_joints) - 1) for seconds in SHEET_TIMES]
        write_sheet(sheet, animator.draw(all_joints[moments], all_depth[moments]))
    joints, depth = all_joints[::FRAME_STEP], all_depth[::FRAME_STEP]
    began = time.process_time()
    frames = animator.draw(joints, depth)
    milliseconds = 1000 * (time.process_time() - began) / len(frames)
    edge = float(np.abs(np.diff(frames[:, -3:].astype(int), axis=0)).mean())
    # only the dancer is measured: where others are in the image, it dances on grey
    height, width = frames.shape[1:3]
    low = (joints.min((0, 1)) - MARGIN * puppet.stature).astype(int).clip(0)
    high = np.minimum((joints.max((0, 1)) + MARGIN * puppet.stature).astype(int), (width, height))
    if len(detector.find_people(image)) > 1:
        animator = PuppetAnimator(replace(puppet, shadow=None, background=np.full_like(puppet.background, GREY)), FPS)
        frames = animator.draw(joints, depth)
    pictured = animator.draw(puppet.joints[None], np.zeros((1, len(JOINTS))))
    crops = np.concatenate([pictured, frames])[:, low[1] : high[1], low[0] : high[0]]
    detected = detector.detect(np.ascontiguousarray(crops)).joints + low
    pictured_error = detected[0] - puppet.joints
    errors = np.linalg.norm(detected[1:] - pictured_error - joints, axis=-1) / puppet.stature
    errors[~is_drawn(puppet, joints)] = np.nan
    pictured_outline = outline(puppet, segmenter, puppet.joints, np.zeros(len(JOINTS)))
    spikes, iou = np.mean([outline(puppet, segmenter, *pose) for pose in zip(joints, depth, strict=True)], 0)
    part = "whole" if puppet.cut is None else "upper"
    return (
        f"| {photo.stem} | {width}x{height} | {part} | {puppet.quality:.2f} | {np.nanmean(errors):.3f} | "
        f"{np.nanmean(errors[:, ARM_JOINTS]):.3f} | {edge:.3f} | {spikes:.3f} ({pictured_outline[0]:.3f}) | "
        f"{iou:.3f} ({pictured_outline[1]:.3f}) | {milliseconds:.1f} |"
    )


def write_sheet(path: Path, frames: np.ndarray) -> None:
    """Frames (F, H, W, 3) in two rows, as a PNG."""
    width = round(frames.shape[2] * SHEET_HEIGHT / frames.shape[1])
    panels = [cv2.resize(frame, (width, SHEET_HEIGHT), interpolation=cv2.INTER_AREA) for frame in frames]
    half = len(panels) // 2
    sheet = np.concatenate([np.concatenate(row, 1) for row in (panels[:half], panels[half:])])
    cv2.imwrite(str(path), sheet[..., ::-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("motion", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--person", type=int)
    parser.add_argument("--sheets", type=Path, help="folder for a PNG of eight moments of each photo")
    options = parser.parse_args()
    wheel = next(cache_root().joinpath("people").glob("mediapipe-0.10.21-*.whl"))
    detector, segmenter, motion = load_detector(wheel, options.person), Segmenter(wheel), read_motion(options.motion)
    print(
        "| photo | size drawn | body | quality | joint error | arms | edge | spikes | segmentation IoU | ms a frame |"
    )
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for photo in options.photos:
        sheet = None if options.sheets is None else options.sheets / f"{photo.stem}.png"
        try:
            print(measure(photo, motion, detector, segmenter, sheet), flush=True)
        except ValueError as error:
            print(f"| {photo.stem} | refused: {error} |", flush=True)


if __name__ == "__main__":
    main()
