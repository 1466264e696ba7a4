"""The rasterizer against closed forms and the camera's projection; appearances from images."""

import numpy as np
import pytest
import torch

from zoo.body.camera import CAMERAS, Camera, camera
from zoo.body.labels import BOTTOM, FACE, HAIR, SHOES, SKIN, TOP
from zoo.body.render.appearance import Appearance, appearance_from_image, random_appearance, vertex_colors
from zoo.body.render.mesh import Body, body_names
from zoo.body.render.pose_maps import draw_skeleton, heatmaps
from zoo.body.render.primitives import PrimitiveMesh
from zoo.body.render.rasterizer import _draw, clothed_body, inverse_depth, render, render_motion
from zoo.body.skeleton import FEET, OFFSETS, STANDING, matrix_from_axis_angle

T_POSE = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
T_POSE[0] = STANDING.numpy()
ROOT = np.array([0, 0, 0.976], np.float32)


def facing(degrees: float) -> np.ndarray:
    """T-pose, turned about the vertical."""
    pose = T_POSE.copy()
    pose[0] = matrix_from_axis_angle(torch.tensor([0, 0, np.radians(degrees)])).float().numpy() @ pose[0]
    return pose


def test_a_ball_has_the_normals_depth_and_size_of_a_ball():
    mesh = PrimitiveMesh(OFFSETS.numpy().astype(float))
    mesh.add_ellipsoid(0, TOP, (0, 0, 0), (0.5, 0.5, 0.5), rings=61)
    ball = Body("ball", False, **mesh.to_arrays())
    view = Camera((0, -4, 0), (0, 0, 0), 30)
    pose = np.tile(np.eye(4, dtype=np.float32)[:3], (24, 1, 1))
    out = _draw(
        Appearance("robot"), ball, pose, ball.joints, view, 97, 97, None, False, ("depth", "normal", "parts", "rgb")
    )
    is_body = out["depth"] > 0
    rays = view.rays(194, 194)[::2, ::2].astype(float)  # maps are sampled a quarter pixel off the center
    # the nearer root of |eye + t ray| = 0.5, with rays one metre deep
    b, c = rays @ [0, -4.0, 0], 16 - 0.25
    a = np.square(rays).sum(-1)
    root = b * b - a * c
    is_inside = root > 0.02
    expected = (-b - np.sqrt(np.maximum(root, 0))) / a
    assert np.abs(out["depth"] - expected)[is_inside].max() < 0.005
    assert (is_body[is_inside]).all() and not is_body[root < -0.02].any()
    hit = rays * expected[..., None] + [0, -4, 0]
    normal = (hit / 0.5) @ view.axes.T
    assert np.abs(out["normal"] - normal)[is_inside].max() < 0.06
    np.testing.assert_allclose(out["normal"][48, 48], [0, 0, 1], atol=0.03)
    assert np.linalg.norm(out["normal"][is_body], axis=1) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", CAMERAS)
def test_projection_and_rays_are_inverse(name):
    view = camera(name)
    points = np.random.default_rng(0).uniform([-1, -1, 0], [1, 1, 2], (50, 3))
    pixels, depth = view.project(points, 120, 90)
    rays = view.rays(120, 90)
    column, row = np.floor(pixels).astype(int).T
    is_inside = (column >= 0) & (column < 90) & (row >= 0) & (row < 120)
    unprojected = np.array(view.position) + rays[row[is_inside], column[is_inside]] * depth[is_inside, None]
    assert np.abs(unprojected - points[is_inside]).max() < 1.2 * 6 / view.focal(120, 90), "within a pixel's size"
    floor = view.floor(120, 90)
    floor_pixels, _ = view.project(np.concatenate([floor[-1], np.zeros((90, 1))], 1), 120, 90)
    np.testing.assert_allclose(floor_pixels, np.stack([np.arange(90) + 0.5, np.full(90, 119.5)], 1), atol=1e-2)


def test_cameras_have_the_positions_of_aist():
    position = {name: np.array(camera(name).position) for name in CAMERAS}
    assert position["C01"][1] < -4 and position["C01"][0] == 0  # in front: the dancer faces -Y
    assert position["C02"][0] < -2 and position["C02"][1] < -2 and position["C02"][2] > position["C01"][2] + 0.5
    assert position["C03"][0] < -4 and abs(position["C03"][1]) < 1e-9  # the dancer's right hand is at -X
    assert np.linalg.norm(position["C09"]) < np.linalg.norm(position["C01"])
    with pytest.raises(ValueError, match="unknown camera 'C42'"):
        camera("C42")


@pytest.mark.parametrize("name", ["C01", "C02", "C03"])
def test_a_dancer_within_a_metre_stays_in_the_image(name):
    arms_up = T_POSE.copy()
    arms_up[16] = matrix_from_axis_angle(torch.tensor([0, 0, 1.4])).numpy()
    for pose in (T_POSE, facing(90), arms_up):
        for spot in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            moved_root = ROOT + np.array([*spot, 0])
            joints2d = render(Appearance("slim"), pose, moved_root, camera(name), 64, 64, maps=())["joints2d"]
            assert (joints2d >= 0).all() and (joints2d <= 64).all()


@pytest.mark.parametrize("name", body_names())
def test_parts_under_projected_joints(name):
    """From the front in T-pose; DensePose's left is on the image's right."""
    out = render(Appearance(name), T_POSE, ROOT, camera("C09", 0), 256, 256)
    joints2d = out["joints2d"]

    def part(joint: int, child: int, weight: float = 0.5) -> int:
        column, row = np.floor((1 - weight) * joints2d[joint] + weight * joints2d[child]).astype(int)
        return int(out["parts"][row, column])

    assert part(3, 9) == 2 or part(9, 9) == 2
    assert part(1, 4) in (8, 10) and part(2, 5) in (7, 9)
    assert part(4, 7) in (12, 14) and part(5, 8) in (11, 13)
    assert part(16, 18) in (15, 17) and part(17, 19) in (16, 18)
    assert part(18, 20) in (19, 21) and part(19, 21) in (20, 22)
    assert part(20, 22) == 4 and part(21, 23) == 3
    assert joints2d[20, 0] > 128 > joints2d[21, 0]
    assert (out["parts"] > 0).sum() == (out["depth"] > 0).sum() == (out["semantic"] > 0).sum()
    assert {23, 24} <= set(np.unique(out["parts"]))
    from_behind = render(Appearance(name), facing(180), ROOT, camera("C09", 0), 256, 256)
    front, behind = (np.bincount(view["parts"].ravel(), minlength=25) for view in (out, from_behind))
    assert front[2] > 5 * front[1] and behind[1] > 5 * behind[2]


def test_nearer_surfaces_hide_farther_ones():
    reaching = T_POSE.copy()  # the left arm stretched forwards, across the view from the front
    reaching[16] = matrix_from_axis_angle(torch.tensor([0, -1.45, 0])).numpy()
    front = render(Appearance("man"), reaching, ROOT, camera("C01"), 256, 256)
    from_behind = render(Appearance("man"), reaching, ROOT, Camera((0, 6.2, 1.3), (0, 0, 1.0), 35), 256, 256)
    hand_front, hand_back = ((view["parts"] == 4).sum() for view in (front, from_behind))
    assert hand_front > 20 and hand_back < 0.5 * hand_front
    depth = front["depth"]
    assert depth[front["parts"] == 4].mean() < depth[front["parts"] == 2].mean() - 0.3
    inverse = inverse_depth(depth)
    assert inverse.max() == 1 and inverse[depth == 0].max() == 0 and inverse[depth > 0].min() > 0
    assert inverse[front["parts"] == 4].mean() > inverse[front["parts"] == 2].mean()


def test_clothes_cover_the_right_body_parts():
    appearance = Appearance(
        "man", skin=(200, 150, 120), top=(200, 0, 0), bottom=(0, 0, 200), shoes=(0, 200, 0), hair=(90, 50, 20)
    )
    out = render(appearance, T_POSE, ROOT, camera("C09", 0), 256, 256)
    joints2d = np.floor(out["joints2d"]).astype(int)
    label = out["semantic"][joints2d[:, 1], joints2d[:, 0]]
    assert label[[6, 9]].tolist() == [TOP] * 2 and label[[4, 5]].tolist() == [BOTTOM] * 2
    assert label[[20, 21]].tolist() == [SKIN] * 2 and label[[10, 11]].tolist() == [SHOES] * 2
    rows = {zone: np.nonzero(out["semantic"] == zone)[0].mean() for zone in (HAIR, FACE, TOP, BOTTOM, SHOES)}
    assert sorted(rows, key=rows.get) == [HAIR, FACE, TOP, BOTTOM, SHOES]
    red, green, blue = out["rgb"][out["semantic"] == TOP].mean(0)
    assert red > 100 and green < 20 and blue < 20
    from_behind = render(appearance, facing(180), ROOT, camera("C09", 0), 256, 256)
    assert (from_behind["semantic"] == FACE).sum() == 0 < (out["semantic"] == FACE).sum()


def test_background_shadow_and_clip():
    background = np.full((64, 64, 3), 200, np.uint8)
    unshaded = render(Appearance(), T_POSE, ROOT, camera("C01"), 64, 64, background=background, shadow=False)
    assert (
        (unshaded["rgb"][unshaded["depth"] == 0] >= 0).all()
        and (unshaded["rgb"][0] == 200).all()
        and (unshaded["rgb"][-1] == 200).all()
    )
    shaded = render(Appearance(), T_POSE, ROOT, camera("C01"), 64, 64, background=background)["rgb"].astype(int)
    darker = np.argwhere((unshaded["rgb"] - shaded).sum(-1) > 30)
    feet = unshaded["joints2d"][list(FEET)].mean(0)
    assert len(darker) and np.linalg.norm(darker[:, ::-1].mean(0) - feet) < 6
    clip = render_motion(Appearance(), np.stack([T_POSE, facing(40)]), np.stack([ROOT, ROOT]), camera("C01"), 48, 40)
    single = render(Appearance(), facing(40), ROOT, camera("C01"), 48, 40)
    for key, value in single.items():
        np.testing.assert_array_equal(clip[key][1], value)
    assert clip["rgb"].shape == (2, 48, 40, 3)
    with pytest.raises(ValueError, match="unknown map 'heat'"):
        render(Appearance(), T_POSE, ROOT, camera("C01"), 8, 8, maps=("heat",))


def test_a_body_outside_or_behind_the_camera_leaves_the_background():
    beside = render(Appearance(), T_POSE, ROOT + [50, 0, 0], camera("C01"), 32, 32)
    behind = render(Appearance(), T_POSE, ROOT + [0, -20, 0], camera("C01"), 32, 32)
    assert beside["parts"].max() == behind["parts"].max() == 0


def test_a_translated_camera_keeps_the_dancer_in_place():
    reference = render(Appearance(), T_POSE, ROOT, camera("C01"), 64, 64, maps=())["joints2d"]
    translated = render(Appearance(), T_POSE, ROOT + [3, 1, 0], camera("C01").translated(3, 1), 64, 64, maps=())[
        "joints2d"
    ]
    np.testing.assert_allclose(reference, translated, atol=1e-3)


def test_heatmaps_and_skeletons_mark_the_joints():
    joints2d = np.random.default_rng(1).uniform(8, 56, (24, 2))
    joints2d[5] = np.floor(joints2d[5]) + 0.5
    maps = heatmaps(joints2d, 64, 64)
    peak = np.stack(np.unravel_index(maps.reshape(24, -1).argmax(1), (64, 64)), 1)[:, ::-1]
    np.testing.assert_array_equal(peak, np.floor(joints2d))
    assert maps[5].max() == 1
    image = draw_skeleton(joints2d, 64, 64)
    column, row = np.floor(joints2d).astype(int).T
    assert (image[row, column].max(-1) > 100).all() and (image == 0).mean() > 0.3
    joints2d[22] = np.nan
    assert heatmaps(joints2d, 64, 64)[22].max() == 0 and draw_skeleton(joints2d, 64, 64).shape == (64, 64, 3)


def test_random_appearances_depend_on_the_seed_and_render():
    appearances = [random_appearance(np.random.default_rng(seed)) for seed in range(40)]
    assert appearances == [random_appearance(np.random.default_rng(seed)) for seed in range(40)]
    assert len({appearance.body for appearance in appearances}) >= 7 and len(set(appearances)) == 40
    for appearance in appearances[:12]:
        assert render(appearance, T_POSE, ROOT, camera("C02"), 32, 32)["parts"].max() > 0
        assert vertex_colors(appearance, clothed_body(appearance)).shape == clothed_body(appearance).vertices.shape
    with pytest.raises(ValueError, match="'mullet'"):
        Appearance(hair_style="mullet")


@pytest.mark.parametrize("shape", [(300, 200), (128, 128), (90, 240)])
def test_colors_are_recovered_from_an_image(shape):
    """Render an appearance, and recover its colors from the image."""
    appearance = Appearance(
        "woman",
        (176, 125, 92),
        (30, 24, 22),
        (40, 140, 70),
        (150, 40, 120),
        (240, 240, 240),
        background=(120, 150, 200),
    )
    arms_down = T_POSE.copy()
    for joint, sign in ((16, -1), (17, 1)):
        arms_down[joint] = matrix_from_axis_angle(torch.tensor([0, 0, sign * 1.2])).numpy()
    image = render(appearance, arms_down, ROOT, camera("C09", 0), *shape, maps=("rgb",))["rgb"]
    recovered = appearance_from_image(image)
    for name, limit in {"background": 40, "top": 45, "bottom": 45, "skin": 60, "hair": 60}.items():
        assert np.abs(np.subtract(getattr(recovered, name), getattr(appearance, name))).max() < limit, name


@pytest.mark.parametrize("kind", ["black", "noise", "one pixel", "thin", "gradient", "half"])
def test_any_image_gives_an_appearance(kind):
    rng = np.random.default_rng(0)
    image = {
        "black": np.zeros((64, 64, 3), np.uint8),
        "noise": rng.integers(0, 256, (200, 100, 3)).astype(np.uint8),
        "one pixel": np.full((1, 1, 3), 7, np.uint8),
        "thin": rng.integers(0, 256, (500, 2, 3)).astype(np.uint8),
        "gradient": np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 80, 3)),
        "half": np.repeat(np.array([[0] * 50 + [255] * 50], np.uint8), 60, 0)[..., None].repeat(3, 2),
    }[kind]
    appearance = appearance_from_image(image)
    assert render(appearance, T_POSE, ROOT, camera("C01"), 16, 16)["rgb"].shape == (16, 16, 3)
    with pytest.raises(ValueError, match="uint8"):
        appearance_from_image(image.astype(np.float32))
