"""Does a long dance take more memory than a short one, or drift away from the picture?

python tools/measure_long.py PICTURE SONG SECONDS [SECONDS ...] [--runs 3] -- ckpt=CKPT [OPTION ...]

Runs `sample.py` so often for each length, with these options, in turn, and prints one line of JSON for each run: the
command's peak memory; how far the figure's colours are from the picture's (see zoo/metrics/identity.py), those of the
pixels beside it, and by how much both change a second: the slope of a line through every sixth frame. The world's judge
finds the figure.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from zoo.body.detection.synthetic_detector import SyntheticPoseDetector
from zoo.media import read_image, read_video
from zoo.metrics.identity import background_difference, signature, signature_distance

EACH = 6
ROOT = Path(__file__).parents[1]


def dance(options: list[str], out: Path) -> float:
    """Run sample.py; MB at its peak."""
    command = [sys.executable, ROOT / "sample.py", *options, f"out={out}"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"sample.py {' '.join(options)} failed")
    return usage.ru_maxrss / 1024


def apart(out: Path, picture: np.ndarray) -> dict[str, float]:
    """How far a video's figure and ground are from the picture's, CIELAB units, and by how much more each second."""
    frames, fps, _ = read_video(out)
    frames, seconds = frames[::EACH], np.arange(0, len(frames), EACH) / float(fps)
    still = cv2.resize(picture, frames.shape[2:0:-1], interpolation=cv2.INTER_AREA)
    judge = SyntheticPoseDetector()
    here, there = judge.detect(still[None]), judge.detect(frames)
    values = {
        "figure": signature_distance(signature(frames, there), signature(still[None], here)[0]),
        "ground": background_difference(frames, there.mask, still, here.mask[0]),
    }
    told = {}
    for name, value in values.items():
        known = np.isfinite(value)
        slope = np.polyfit(seconds[known], value[known], 1)[0]
        told |= {name: round(float(value[known].mean()), 2), f"{name}_a_second": round(float(slope), 4)}
    return told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("picture")
    parser.add_argument("song")
    parser.add_argument("seconds", type=float, nargs="+")
    parser.add_argument("--runs", type=int, default=3)
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    asked, options = parser.parse_args(sys.argv[1:cut]), sys.argv[cut + 1 :]
    picture = read_image(asked.picture)
    with tempfile.TemporaryDirectory() as folder:
        for run in range(asked.runs):
            for seconds in asked.seconds:
                out = Path(folder) / "dance.mp4"
                what = [f"image={asked.picture}", f"music={asked.song}", f"seconds={seconds:g}"]
                peak = dance([*options, *what], out)
                told = {"seconds": seconds, "run": run, "peak_mb": round(peak)}
                print(json.dumps(told | apart(out, picture)), flush=True)
                out.unlink()


if __name__ == "__main__":
    main()
