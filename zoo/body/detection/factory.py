"""Choose a pose detector by name or by its weight files."""

from pathlib import Path

from zoo.body.detection.base import PersonDetector, PoseDetector
from zoo.body.detection.blazepose_detector import BlazePoseDetector
from zoo.body.detection.dwpose import DWPoseDetector, find_networks
from zoo.body.detection.synthetic_detector import SyntheticPoseDetector

SYNTHETIC = "synthetic"


def load_detector(name_or_path: str | Path, person: int | tuple[int, ...] | None = None) -> PoseDetector:
    """'synthetic': the shipped detector of rendered figures. A path: see `load_person_detector`.

    person: see `PersonDetector`. Raises ValueError, one line, also for a number where one figure is detected at most.
    """
    if name_or_path != SYNTHETIC:
        return load_person_detector(name_or_path, person)
    if person is not None:
        raise ValueError(f"person={person} needs a detector of people: `dancezoo setup` downloads it")
    return SyntheticPoseDetector()


def load_person_detector(path: str | Path, person: int | tuple[int, ...] | None = None) -> PersonDetector:
    """The detector of people in photographs: DWPose if the path has .onnx files, else BlazePose.

    Raises ValueError, one line, for missing files.
    """
    files = find_networks(path)
    detector = BlazePoseDetector(path) if files is None else DWPoseDetector(files)
    detector.person = person
    return detector
