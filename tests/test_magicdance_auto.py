"""The default renderer: the pictured figure dances where one is detected, else a mesh, and the user is told why."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from zoo.body.detection.base import PersonNumberError
from zoo.body.detection.blazepose_detector import BlazePoseDetector
from zoo.body.detection.factory import load_detector
from zoo.body.detection.synthetic_detector import SyntheticPoseDetector
from zoo.families.magicdance.renderers.auto import AutoRenderer
from zoo.families.magicdance.renderers.mesh import MeshRenderer, MeshSession
from zoo.families.magicdance.renderers.warp import WarpSession
from zoo.files import resource_root
from zoo.media import read_image

MESH = MeshRenderer(64, 64)


@pytest.fixture(scope="module")
def figure() -> torch.Tensor:
    """The demo's image: one whole rendered figure."""
    return torch.from_numpy(read_image(resource_root() / "assets/demo/picture.png")).permute(2, 0, 1)


def noise() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 128, 128), np.uint8))


def begin(detector, image):
    return AutoRenderer(detector, MESH).begin(image, Fraction(30), 0)


def test_a_detected_figure_dances_itself(figure):
    session = begin(SyntheticPoseDetector(), figure)
    assert isinstance(session, WarpSession) and session.note is None and session.quality > 0.75


def test_an_image_without_people_goes_to_the_detector_of_drawn_figures(figure, wheel):
    """In noise BlazePose finds nobody, so the reason is the synthetic detector's. People stay with BlazePose."""
    session = begin(BlazePoseDetector(wheel), noise())
    assert isinstance(session, MeshSession) and "synthetic pose detector" in session.note
    cut_off = figure[:, :300]  # a person without feet
    session = begin(BlazePoseDetector(wheel), cut_off)
    assert isinstance(session, MeshSession) and "feet of the person" in session.note


def test_one_of_two_people_dances(figure, wheel):
    """The number of a person that is not there is refused, not danced by a mesh."""
    two = torch.cat([figure, figure], 2)
    assert begin(load_detector(wheel), two).note.startswith("2 people were detected, of whom person ")
    for person in (1, 2):
        session = begin(load_detector(wheel, person=person), two)
        assert isinstance(session, WarpSession) and session.note is None
        puppet = session.animator.puppet
        assert (puppet.joints[0, 0] > puppet.background.shape[1] / 2) == (person == 2)
    with pytest.raises(PersonNumberError, match="^person=3: 2 people were detected$"):
        begin(load_detector(wheel, person=3), two)


@pytest.mark.parametrize("case", ["noise", "no image", "no detector"])
def test_otherwise_a_mesh_dances(figure, case):
    image = {"noise": noise(), "no image": None, "no detector": figure}[case]
    session = begin(None if case == "no detector" else SyntheticPoseDetector(), image)
    assert isinstance(session, MeshSession)
    if case == "noise":
        assert session.note.startswith("a body mesh dances instead of the pictured figure: ")
    else:
        assert session.note is None
