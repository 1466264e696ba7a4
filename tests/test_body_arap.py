"""The mesh is unchanged at rest, rigid within limbs, closed at joints, and separable where limbs only overlap."""

import cv2
import numpy as np
import pytest

from zoo.body.image.arap import Connection, Limb, Mesh

HEIGHT, WIDTH, CELL = 120, 200, 6.0
ELBOW = np.array([100.0, 60.0])


def rotation(degrees: float, center: np.ndarray = ELBOW, stretch: float = 1.0) -> np.ndarray:
    """(2, 3): a stretch in x, then a rotation about a center."""
    angle = np.radians(degrees)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([stretch, 1])
    return np.hstack([linear, (center - linear @ center)[:, None]])


def bar(first: int, end: int, top: int = 48, bottom: int = 72, value: int = 200) -> np.ndarray:
    """(H, W, 4): an opaque rectangle."""
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[top:bottom, first:end] = value, value // 2, 40, 255
    return pixels


def handles(first: int, end: int) -> np.ndarray:
    """The inside of a bar between two columns, and a pin at its middle."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (abs(y - 60) < 10) & (first <= x) & (x < end) | (np.hypot(x - ELBOW[0], y - ELBOW[1]) < 5)


@pytest.fixture(scope="module")
def arm() -> Mesh:
    """Two halves of a bar, connected at its middle, where they overlap."""
    limbs = {"upper": Limb(bar(20, 110), handles(20, 90)), "lower": Limb(bar(90, 180), handles(110, 180))}
    return Mesh(limbs, [Connection("upper", "lower", ELBOW, 24.0)], CELL)


def draw(mesh: Mesh, transforms: dict[str, np.ndarray], order: tuple[str, ...] = ("upper", "lower")) -> np.ndarray:
    canvas = np.zeros((260, 260, 4), np.uint8)
    shifted = {name: transform + [[0, 0, 30], [0, 0, 70]] for name, transform in transforms.items()}
    mesh.draw(canvas, mesh.deform(shifted), order)
    return canvas


def test_the_rest_pose_reproduces_the_image(arm):
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rest = {"upper": np.eye(2, 3), "lower": np.eye(2, 3)}
    np.testing.assert_allclose(arm.deform(rest), arm.rest, atol=1e-6)
    arm.draw(frame, arm.rest, ("upper", "lower"))
    assert np.abs(frame.astype(int) - bar(20, 180)[..., :3]).max() <= 1


@pytest.mark.parametrize("degrees", [-100, -60, 45, 90])
def test_a_bent_elbow_has_no_gaps(arm, degrees):
    """The arm is one component without holes, covers the joint, and has the straight arm's area within 10%."""
    alpha = draw(arm, {"upper": np.eye(2, 3), "lower": rotation(degrees)})[..., 3]
    solid = np.uint8(alpha > 128)
    assert cv2.connectedComponents(solid)[0] == 2  # with the background
    assert cv2.connectedComponents(1 - solid, connectivity=4)[0] == 2
    y, x = np.mgrid[:260, :260]
    assert solid[np.hypot(x - ELBOW[0] - 30, y - ELBOW[1] - 70) < 5].all()
    assert 0.9 < solid.sum() / (160 * 24) < 1.1


@pytest.mark.parametrize("degrees", [-120, 90])
def test_limbs_stay_rigid(arm, degrees):
    """Edges stretch at the joint; by less than 10% a limb's width beyond its disc, and 3% two widths beyond."""
    nodes = arm.deform({"upper": np.eye(2, 3), "lower": rotation(degrees)})
    lengths = np.abs(arm.difference_matrix @ nodes) / np.abs(arm.edges)
    middle = (arm.rest[arm.start] + arm.rest[arm.end]) / 2
    distance = np.where(np.abs(middle.imag - ELBOW[1]) < 12, np.abs(middle - complex(*ELBOW)), 0)
    change = np.abs(lengths - 1)
    assert change[distance > 36].max() < 0.1 < change.max() and change[distance > 48].max() < 0.03


def test_a_foreshortened_limb_keeps_its_shorter_form(arm):
    nodes = arm.deform({"upper": np.eye(2, 3), "lower": rotation(90, stretch=0.5)})
    lower = arm.limbs["lower"].nodes
    lower = lower[(arm.rest[lower].real > 130) & (np.abs(arm.rest[lower].imag - ELBOW[1]) < 12)]
    rest = arm.rest[lower] - complex(*ELBOW)
    expected = complex(*ELBOW) + 1j * (0.5 * rest.real + 1j * rest.imag)
    assert np.abs(nodes[lower] - expected).max() < 1.0


def test_overlapping_limbs_can_separate_and_follow_the_drawing_order():
    """An arm in front of a trunk, connected at its upper end only."""
    arm, trunk = bar(90, 110, 20, 100, 250), bar(60, 140, 10, 110, 100)
    arm_handles, trunk_handles = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    arm_handles[40:95, 95:105], trunk_handles[15:105, 65:135] = True, True
    shoulder = np.array([100.0, 25.0])
    mesh = Mesh(
        {"trunk": Limb(trunk, trunk_handles), "arm": Limb(arm, arm_handles)},
        [Connection("arm", "trunk", shoulder, 14)],
        CELL,
    )
    transforms = {"trunk": np.eye(2, 3), "arm": rotation(-90, shoulder)}
    behind, in_front = (draw(mesh, transforms, order) for order in (("arm", "trunk"), ("trunk", "arm")))
    row_range = slice(70 + 22, 70 + 28)
    assert (behind[row_range, 200] == in_front[row_range, 200]).all() and behind[
        row_range, 200, 3
    ].min() == 255  # beside the trunk
    assert (in_front[row_range, 155, 0] > 240).all() and (behind[row_range, 155, 0] < 110).all()
    assert (in_front[100:170, 100:160, 3] == 255).all()  # the trunk is complete under the arm's old position
