"""A mesh that bends: still at rest, rigid within limbs, whole at joints, apart where limbs only overlap."""

import cv2
import numpy as np
import pytest

from zoo.body.image.arap import Connection, Limb, Mesh

HEIGHT, WIDTH, CELL = 120, 200, 6.0
ELBOW = np.array([100.0, 60.0])


def turned(degrees: float, about: np.ndarray = ELBOW, along: float = 1.0) -> np.ndarray:
    """(2, 3): `along` times as long in x, then turned about a place."""
    angle = np.radians(degrees)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([along, 1])
    return np.hstack([linear, (about - linear @ about)[:, None]])


def bar(begin: int, end: int, top: int = 48, bottom: int = 72, colour: int = 200) -> np.ndarray:
    """(H, W, 4): an opaque rectangle."""
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[top:bottom, begin:end] = colour, colour // 2, 40, 255
    return pixels


def held(begin: int, end: int) -> np.ndarray:
    """The rectangle's inside from column to column, and its middle, which is a pin."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (abs(y - 60) < 10) & (begin <= x) & (x < end) | (np.hypot(x - ELBOW[0], y - ELBOW[1]) < 5)


@pytest.fixture(scope="module")
def arm() -> Mesh:
    """Two halves of a bar, joined at its middle, that overlap there."""
    limbs = {"upper": Limb(bar(20, 110), held(20, 90)), "lower": Limb(bar(90, 180), held(110, 180))}
    return Mesh(limbs, [Connection("upper", "lower", ELBOW, 24.0)], CELL)


def drawn(mesh: Mesh, moves: dict[str, np.ndarray], order: tuple[str, ...] = ("upper", "lower")) -> np.ndarray:
    canvas = np.zeros((260, 260, 4), np.uint8)
    shifted = {name: move + [[0, 0, 30], [0, 0, 70]] for name, move in moves.items()}
    mesh.draw(canvas, mesh.deform(shifted), order)
    return canvas


def test_at_rest_it_is_the_picture(arm):
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rest = {"upper": np.eye(2, 3), "lower": np.eye(2, 3)}
    np.testing.assert_allclose(arm.deform(rest), arm.rest, atol=1e-6)
    arm.draw(frame, arm.rest, ("upper", "lower"))
    assert np.abs(frame.astype(int) - bar(20, 180)[..., :3]).max() <= 1


@pytest.mark.parametrize("degrees", [-100, -60, 45, 90])
def test_a_bent_elbow_is_whole(arm, degrees):
    """One piece without a hole, that covers the joint and is as large as the straight arm but for what folds."""
    alpha = drawn(arm, {"upper": np.eye(2, 3), "lower": turned(degrees)})[..., 3]
    solid = np.uint8(alpha > 128)
    assert cv2.connectedComponents(solid)[0] == 2  # with what is around it
    assert cv2.connectedComponents(1 - solid, connectivity=4)[0] == 2
    y, x = np.mgrid[:260, :260]
    assert solid[np.hypot(x - ELBOW[0] - 30, y - ELBOW[1] - 70) < 5].all()
    assert 0.9 < solid.sum() / (160 * 24) < 1.1


@pytest.mark.parametrize("degrees", [-120, 90])
def test_limbs_stay_rigid(arm, degrees):
    """At the joint lengths give; a limb's width beyond its disc they stay within 10%, two widths beyond within 3%."""
    found = arm.deform({"upper": np.eye(2, 3), "lower": turned(degrees)})
    lengths = np.abs(arm.difference @ found) / np.abs(arm.edges)
    middle = (arm.rest[arm.start] + arm.rest[arm.end]) / 2
    away = np.where(np.abs(middle.imag - ELBOW[1]) < 12, np.abs(middle - complex(*ELBOW)), 0)
    change = np.abs(lengths - 1)
    assert change[away > 36].max() < 0.1 < change.max() and change[away > 48].max() < 0.03


def test_a_foreshortened_limb_is_rigid_in_its_shorter_form(arm):
    found = arm.deform({"upper": np.eye(2, 3), "lower": turned(90, along=0.5)})
    lower = arm.limbs["lower"].nodes
    lower = lower[(arm.rest[lower].real > 130) & (np.abs(arm.rest[lower].imag - ELBOW[1]) < 12)]
    rest = arm.rest[lower] - complex(*ELBOW)
    meant = complex(*ELBOW) + 1j * (0.5 * rest.real + 1j * rest.imag)
    assert np.abs(found[lower] - meant).max() < 1.0


def test_what_only_overlaps_moves_apart_and_the_later_lies_before():
    """An arm before a trunk, joined at its upper end only."""
    arm, trunk = bar(90, 110, 20, 100, 250), bar(60, 140, 10, 110, 100)
    down, across = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    down[40:95, 95:105], across[15:105, 65:135] = True, True
    shoulder = np.array([100.0, 25.0])
    mesh = Mesh(
        {"trunk": Limb(trunk, across), "arm": Limb(arm, down)}, [Connection("arm", "trunk", shoulder, 14)], CELL
    )
    moves = {"trunk": np.eye(2, 3), "arm": turned(-90, shoulder)}
    behind, before = (drawn(mesh, moves, order) for order in (("arm", "trunk"), ("trunk", "arm")))
    at = slice(70 + 22, 70 + 28)
    assert (behind[at, 200] == before[at, 200]).all() and behind[at, 200, 3].min() == 255  # out of the trunk, 60 aside
    assert (before[at, 155, 0] > 240).all() and (behind[at, 155, 0] < 110).all()
    assert (before[100:170, 100:160, 3] == 255).all()  # the trunk is whole where the arm was
