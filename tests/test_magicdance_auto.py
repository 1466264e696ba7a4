"""The default renderer: the pictured figure dances where one is detected, else a mesh, and the user is told why."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from zoo.body.detection.base import PersonNumberError
from zoo.body.detection.blazepose_detector import BlazePoseDetector
from zoo.body.detection.factory import load_detector
from zoo.body.detection.synthetic_detector import SyntheticPoseDetector
from zoo.body.skeleton import JOINTS, STANDING, matrix_from_axis_angle, pack
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
    """In noise BlazePose finds nobody, so the reason is the synthetic detector's. People without legs dance."""
    session = begin(BlazePoseDetector(wheel), noise())
    assert isinstance(session, MeshSession) and "synthetic pose detector" in session.note
    session = begin(BlazePoseDetector(wheel), figure[:, :300])
    assert isinstance(session, WarpSession)
    assert session.note.endswith(" are not in the picture: the upper body dances")


def test_one_of_two_people_dances(figure, wheel):
    """The number of a person that is not there is refused, not danced by a mesh."""
    two = torch.cat([figure, figure], 2)
    assert begin(load_detector(wheel), two).note.startswith("2 people were detected, of whom person ")
    detector = BlazePoseDetector(wheel)
    people = detector.find_people(two.permute(1, 2, 0).numpy())
    detector.find_people = lambda image: [*people, *people]  # the network may detect a person twice
    assert detector.segment_figure(two.permute(1, 2, 0).numpy()).note.startswith("2 people were detected, of whom")
    for person in (1, 2):
        session = begin(load_detector(wheel, person=person), two)
        assert isinstance(session, WarpSession) and session.note is None
        (animator,) = session.animators
        puppet = animator.puppet
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


def test_two_people_dance_together(figure, wheel):
    """Each on the same beats, the right one mirrored, the nearer one drawn last; the rest of the image is still."""
    farther = torch.full_like(figure, 200)
    farther[:, 40:440, 50:450] = torch.nn.functional.interpolate(figure[None].float(), (400, 400), mode="area")[
        0
    ].byte()
    image = torch.cat([figure, farther], 2)
    session = begin(load_detector(wheel, person=(1, 2)), image)
    assert isinstance(session, WarpSession) and session.note is None and session.is_mirrored == [True, False]
    columns = [float(animator.puppet.joints[0, 0]) / image.shape[2] for animator in session.animators]
    assert columns[0] > 0.5 > columns[1]  # the farther one is drawn first
    rotations = torch.eye(3).repeat(60, 24, 1, 1)
    rotations[:, 0] = STANDING
    angles = torch.linspace(0, 2, 60)
    rotations[:, JOINTS.index("left_shoulder")] = matrix_from_axis_angle(
        torch.stack([0 * angles, 0 * angles, angles], 1)
    )
    frames = session.draw(pack(rotations, torch.tensor([0, 0, 0.9]).expand(60, 3))).float()
    change = (frames - frames[30]).abs().amax((0, 1))  # (H, W)
    half = change.shape[1] // 2
    moved = [float((part > 30).float().mean()) for part in (change[:, :half], change[:, half:])]
    assert min(moved) > 0.01 and (change[:, half - 8 : half + 8] < 8).all()
    for wrong in ((1, 3), (3, 1)):
        with pytest.raises(PersonNumberError, match="^person=3: 2 people were detected$"):
            begin(load_detector(wheel, person=wrong), image)
    with pytest.raises(PersonNumberError, match=r"^person=\[1,2\]: several people dance together with renderer=warp"):
        load_detector(wheel, person=(1, 2)).segment_figure(image.permute(1, 2, 0).numpy())
