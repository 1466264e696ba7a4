"""Choose a pose detector by name or by its weight files."""

from pathlib import Path

from zoo.body.detection.base import PoseDetector
from zoo.body.detection.blazepose_detector import BlazePoseDetector
from zoo.body.detection.dwpose import DWPoseDetector, find_networks
from zoo.body.detection.synthetic_detector import SyntheticPoseDetector

SYNTHETIC = "synthetic"


def load_detector(name_or_path: str | Path) -> PoseDetector:
    """'synthetic': the shipped detector of rendered figures. A path: DWPose if it has .onnx files, else BlazePose.

    A detector that is loaded from a path is a `PersonDetector`. Raises ValueError, one line, for missing files.
    """
    if name_or_path == SYNTHETIC:
        return SyntheticPoseDetector()
    files = find_networks(name_or_path)
    return BlazePoseDetector(name_or_path) if files is None else DWPoseDetector(files)
