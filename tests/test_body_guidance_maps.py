"""Guidance maps of a motion against known answers: the pinhole projection, closed forms and the parts' geometry."""

import numpy as np
import pytest

from zoo.body.camera import Camera
from zoo.body.guidance_maps import GUIDANCE_MAPS, render_guidance_maps
from zoo.body.render.appearance import Appearance
from zoo.body.render.openpose_video import POSE_COLORS, POSE_POINTS, pose_points
from zoo.body.render.pose_maps import draw_skeleton
from zoo.body.render.rasterizer import clothed_body, render_motion
from zoo.body.skeleton import STANDING

HEIGHT, WIDTH = 96, 96
VIEW = Camera((0.0, -4.0, 1.0), (0.0, 0.0, 1.0), 2 * np.degrees(np.arctan(0.3)))  # 1.2 m on either side at the dancer
T_POSE = np.tile(np.eye(3, dtype=np.float32), (2, 24, 1, 1))
T_POSE[:, 0] = STANDING.numpy()
ROOTS = np.array([[0, 0, 0.976], [0.25, 0.5, 0.976]], np.float32)  # the second frame: to the left and farther away
MAN = Appearance("man")


@pytest.fixture(scope="module")
def maps() -> dict[str, np.ndarray]:
    return render_guidance_maps(MAN, T_POSE, ROOTS, VIEW, HEIGHT, WIDTH, with_frames=True)


def test_shapes_and_types_are_those_of_the_batch_contract(maps):
    size = (2, HEIGHT, WIDTH)
    assert set(maps) == {*GUIDANCE_MAPS, "frames"}
    for name, shape, dtype in (
        ("depth", size, np.float32),
        ("normal", (*size, 3), np.float32),
        ("parts", size, np.uint8),
        ("semantic", size, np.uint8),
        ("skeleton", (*size, 3), np.uint8),
        ("frames", (*size, 3), np.uint8),
        ("heatmaps", (2, 24, HEIGHT // 4, WIDTH // 4), np.float32),
        ("joints2d", (2, 24, 2), np.float32),
        ("joints3d", (2, 24, 3), np.float32),
    ):
        assert maps[name].shape == shape and maps[name].dtype == dtype, name


def test_joints_are_projected_by_a_pinhole(maps):
    """focal length 48 / 0.3 = 160 pixels; the camera is 4 m before the origin, 1 m high, and looks along +Y."""
    x, y, z = np.moveaxis(maps["joints3d"].astype(float), -1, 0)
    expected = np.stack([48 + 160 * x / (4 + y), 48 - 160 * (z - 1) / (4 + y)], -1)
    np.testing.assert_allclose(maps["joints2d"], expected, atol=1e-3)
    np.testing.assert_allclose(maps["joints3d"][1] - maps["joints3d"][0], np.tile([0.25, 0.5, 0], (24, 1)), atol=1e-5)
    # the pelvis of 'man' is scaled about the floor: it projects to the column of its x
    np.testing.assert_allclose(maps["joints2d"][:, 0, 0], [48, 48 + 160 * 0.25 / 4.5], atol=0.2)


def test_depth_is_the_affine_inverse_of_the_metric_depth_of_the_clip(maps):
    metres = render_motion(MAN, T_POSE, ROOTS, VIEW, HEIGHT, WIDTH, maps=("depth",))["depth"]
    body = metres > 0
    near, far = metres[body].min(), metres[body].max() + 0.5
    expected = (1 / metres[body] - 1 / far) / (1 / near - 1 / far)
    np.testing.assert_allclose(maps["depth"][body], expected, atol=1e-6)
    assert maps["depth"].max() == 1 and (maps["depth"][~body] == 0).all()
    # half a metre farther away: the trunk's surface is 4 and 4.5 m from the camera, less half its thickness
    trunk = [metres[frame][maps["parts"][frame] == 2].mean() for frame in (0, 1)]
    assert trunk[1] - trunk[0] == pytest.approx(0.5, abs=0.01) and 3.8 < trunk[0] < 4


def test_normals_are_unit_vectors_and_the_trunk_faces_the_viewer(maps):
    body = maps["depth"] > 0
    np.testing.assert_allclose(np.linalg.norm(maps["normal"][body], axis=-1), 1, atol=1e-4)
    assert (maps["normal"][~body] == 0).all() and (maps["parts"][~body] == 0).all()
    right, up, viewer = maps["normal"][0][maps["parts"][0] == 2].mean(0)
    assert abs(right) < 0.03 and viewer > 0.8
    # left and right edges of the image-left thigh look to the left and to the right
    thigh = maps["parts"][0] == 9
    row = np.flatnonzero(thigh.any(1))[thigh.any(1).sum() // 2]
    columns = np.flatnonzero(thigh[row])
    assert maps["normal"][0, row, columns[0], 0] < -0.2 < 0.2 < maps["normal"][0, row, columns[-1], 0]


def test_parts_and_semantic_labels_cover_the_same_pixels(maps):
    body = maps["depth"] > 0
    assert ((maps["parts"] > 0) == body).all() and ((maps["semantic"] > 0) == body).all()
    assert maps["parts"].max() <= 24 and maps["semantic"].max() <= 7
    x, y = (
        np.floor(maps["joints2d"][0, [20, 21]]).astype(int).T
    )  # wrists: DensePose's left hand is on the image's right
    assert x[0] > WIDTH / 2 > x[1]
    assert set(maps["parts"][0][y, x]) <= {3, 4, 19, 20, 21, 22}


def test_heat_maps_are_gaussians_of_the_joints_in_quarter_resolution(maps):
    rows, columns = np.mgrid[:24, :24] + 0.5
    for joint in range(24):
        x, y = maps["joints2d"][1, joint] / 4
        expected = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.5**2))
        np.testing.assert_allclose(maps["heatmaps"][1, joint], expected, atol=1e-5)


def test_skeletons_have_the_joints_colors(maps):
    expected = draw_skeleton(maps["joints2d"], HEIGHT, WIDTH)
    assert (maps["skeleton"] == expected).all() and maps["skeleton"].any()
    openpose = render_guidance_maps(MAN, T_POSE, ROOTS, VIEW, HEIGHT, WIDTH, skeleton_style="openpose")
    assert "frames" not in openpose
    points = pose_points(clothed_body(MAN), T_POSE, ROOTS, VIEW, HEIGHT)
    for name in ("right_wrist", "left_ankle", "nose"):  # drawn last, over the limbs
        index = POSE_POINTS.index(name)
        x, y = points[0, index].astype(int)
        assert tuple(openpose["skeleton"][0, y, x]) == POSE_COLORS[index], name
    for name in ("depth", "normal", "parts", "semantic", "heatmaps"):
        assert (openpose[name] == maps[name]).all(), "the style changes the skeleton alone"


@pytest.mark.parametrize(
    "style, size, message",
    [("stick", (96, 96), "skeleton_style=stick: use smpl or openpose"), ("openpose", (96, 64), "square")],
)
def test_a_style_that_cannot_be_drawn_is_refused(style, size, message):
    with pytest.raises(ValueError, match=message):
        render_guidance_maps(MAN, T_POSE, ROOTS, VIEW, *size, skeleton_style=style)
