"""PYTHONPATH=. python tools/film_strip.py VIDEO OUT.png [PICTURE]: frames spread over a video, side by side."""

import sys

import cv2
import numpy as np
from PIL import Image

from zoo.media import read_image, read_video

COUNT, SIDE = 10, 192

if __name__ == "__main__":
    frames, _, _ = read_video(sys.argv[1])
    shown = [frames[i] for i in np.linspace(0, len(frames) - 1, COUNT + 2).round().astype(int)[1:-1]]
    if len(sys.argv) > 3:
        shown = [read_image(sys.argv[3]), *shown[: COUNT - 1]]
    tiles = [cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in shown]
    rows = [np.hstack(tiles[i : i + COUNT // 2]) for i in (0, COUNT // 2)]
    Image.fromarray(np.vstack(rows)).save(sys.argv[2])
