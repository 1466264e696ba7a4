"""Choose a pose detector by name or by its weight files."""

from pathlib import Path

from zoo.body.detection.base import PersonDetector, PoseDetector
from zoo.body.detection.blazepose_detector import BlazePoseDetector
from zoo.body.detection.dwpose import DWPoseDetector, find_networks
from zoo.body.detection.synthetic_detector import SyntheticPoseDetector

SYNTHETIC = "synthetic"


def load_detector(name_or_path: str | Path) -> PoseDetector:
    """'synthetic': the shipped detector of rendered figures. A path: see `load_person_detector`."""
    return SyntheticPoseDetector() if name_or_path == SYNTHETIC else load_person_detector(name_or_path)


def load_person_detector(path: str | Path) -> PersonDetector:
    """The detector of people in photographs: DWPose if the path has .onnx files, else BlazePose.

    Raises ValueError, one line, for missing files.
    """
    files = find_networks(path)
    return BlazePoseDetector(path) if files is None else DWPoseDetector(files)
