"""Which detector finds people in real pictures: the one whose files `weights.people=` names."""

from pathlib import Path

from zoo.body.detection.blazepose_detector import FindsPeople, PeopleDetector
from zoo.body.detection.dwpose import WholeBodyDetector, networks_at


def people_detector(path: str | Path) -> FindsPeople:
    """DWPose where `path` has .onnx files, else BlazePose. Raises ValueError, one line, where it has nobody's files."""
    files = networks_at(path)
    return PeopleDetector(path) if files is None else WholeBodyDetector(files)
