"""sample.py scene=: a picture's figure stands in a scene as the world's dancers do, and nothing else is changed."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from zoo.body.camera import camera
from zoo.body.detection.base import PersonNumberError
from zoo.body.detection.blazepose_detector import BlazePoseDetector
from zoo.body.detection.factory import load_detector
from zoo.body.image.segmentation import Cutout, _foreground_colors, extract_cutout, from_alpha
from zoo.body.render.appearance import Appearance
from zoo.body.render.rasterizer import render
from zoo.body.skeleton import STANDING, matrix_from_axis_angle
from zoo.data.world.place import FRONTAL_CAMERAS
from zoo.media import read_video, write_sound
from zoo.run.sample.scene import set_scene

SEEDS = range(6)
PHOTO = Path("/usr/share/doc/opencv-doc/examples/data/messi5.jpg")  # of the Debian package opencv-doc
COLOURS = dict(skin=(230, 150, 90), hair=(90, 40, 10), top=(30, 160, 60), bottom=(40, 60, 190), shoes=(200, 40, 40))


def standing(body: str, side: int, view: str, behind: int | np.ndarray, arms: float = 65) -> dict[str, np.ndarray]:
    """A figure of the world that stands at its origin, arms down by `arms` degrees: rgb and parts."""
    rotations = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
    rotations[0] = STANDING.numpy()
    for joint, sign in ((16, -1), (17, 1)):
        rotations[joint] = matrix_from_axis_angle(torch.tensor([0, 0, np.radians(sign * arms)])).numpy()
    root = np.array([0, 0, 0.976], np.float32)
    behind = np.broadcast_to(np.uint8(behind), (side, side, 3))
    look = Appearance(body=body, **COLOURS)
    return render(look, rotations, root, camera(view, 0), side, side, behind, shadow=False, maps=("rgb", "parts"))


def without_background(body: str, side: int = 400, **pose) -> np.ndarray:
    """The figure alone, (side, side, 4) uint8: what shows differently before black and white is not opaque."""
    black, white = (standing(body, side, "C01", behind, **pose)["rgb"].astype(float) for behind in (0, 255))
    alpha = 255 - (white - black).mean(-1)
    colours = np.clip(black * 255 / np.maximum(alpha, 1)[..., None], 0, 255)
    return np.dstack([colours, alpha]).round().astype(np.uint8)


@pytest.fixture(scope="module")
def figures() -> dict[str, Cutout]:
    return {body: from_alpha(without_background(body)) for body in ("woman", "robot", "cat")}


def extent(picture: np.ndarray) -> tuple[int, int, float]:
    """Top and bottom row and middle column of what is coloured before grey, where shadows are grey too."""
    coloured = np.ptp(picture.astype(int), axis=-1) > 12
    rows, columns = np.nonzero(coloured)
    return rows.min(), rows.max() + 1, float(np.median(columns))


@pytest.mark.parametrize("side", [128, 256])
def test_the_figure_stands_where_dancers_stand_and_as_tall(figures, side):
    """Grown-up people of the world, filmed by its frontal cameras, and figures that are set into grey."""
    grey = np.full((90, 60, 3), 128, np.uint8)
    heights, floors = [], []
    for view in FRONTAL_CAMERAS:
        for body in ("man", "woman", "slim", "curvy", "heavy"):
            top, bottom, _ = extent(standing(body, side, view, 128)["rgb"])
            heights.append(bottom - top)
            floors.append(bottom)
    seen = set()
    for cutout in figures.values():
        for seed in SEEDS:
            top, bottom, middle = extent(set_scene(cutout, grey, seed, side))
            assert 70 * side / 128 <= bottom - top <= 88 * side / 128 and min(heights) <= bottom - top <= max(heights)
            assert min(abs(bottom - floor) for floor in floors) <= side / 128
            assert abs(middle - side / 2) <= 2.5 * side / 128
            seen.add(bottom)
    assert len(seen) >= 2, "one place a camera"


def test_its_colours_and_the_backdrop_are_kept_but_for_a_shadow(figures):
    """On black, where no shadow is seen, the figure alone; before colours, every pixel of them but on the floor."""
    rng = np.random.default_rng(0)
    backdrop = cv2.resize(rng.integers(60, 255, (8, 8, 3), np.uint8), (128, 128), interpolation=cv2.INTER_CUBIC)
    for cutout in figures.values():
        alone = set_scene(cutout, np.zeros_like(backdrop), 1, 128)
        drawn = alone.max(-1) > 0
        rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
        area = cutout.alpha.sum() * ((np.ptp(rows) + 1) / len(cutout.alpha)) ** 2
        own = np.average(cutout.rgb.reshape(-1, 3), axis=0, weights=cutout.alpha.ravel())
        np.testing.assert_allclose(alone.sum((0, 1)) / area, own, rtol=0.03)
        darker = backdrop.astype(int) - set_scene(cutout, backdrop, 1, 128)
        drawn = cv2.dilate(np.uint8(drawn), np.ones((3, 3))) > 0  # with what is too thin to be seen on black
        floor = np.zeros_like(drawn)
        floor[rows[-1] - 15 : rows[-1] + 12] = True
        assert not darker[~drawn & ~floor].any()
        assert darker[~drawn & floor].min() >= 0 and darker[~drawn & floor].max() > 20, "a shadow at the feet"
    scenes = [set_scene(figures[name], None, 3, 128) for name in ("woman", "robot")]
    same = (scenes[0] == scenes[1]).all(-1)
    assert same.mean() > 0.85 and same[:, :30].all() and same[:, -30:].all(), "the backdrop is the seed's alone"
    assert (set_scene(figures["woman"], None, 4, 128)[:, :30] != scenes[0][:, :30]).any()


def test_no_colour_of_the_old_background_is_left_at_the_edge():
    """A red figure with a soft edge before green: its own red, which the picture there is not."""
    y, x = np.mgrid[:200, :200]
    alpha = np.clip((60 - np.hypot(x - 100, y - 100)) / 12 + 0.5, 0, 1).astype(np.float32)
    red, green = np.float32([200, 30, 30]), np.float32([20, 220, 40])
    image = alpha[..., None] * red + (1 - alpha[..., None]) * green
    edge = (alpha > 0.1) & (alpha < 0.9)
    own = _foreground_colors(image, alpha, 120.0)
    assert np.abs(image - red)[edge].mean() > 40
    assert np.abs(own - red)[edge].mean() < 7
    np.testing.assert_allclose(own[alpha == 1], image[alpha == 1], atol=0.5)


def refused(done, words: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and words in lines[0], done.stderr


@pytest.fixture(scope="module")
def song(scripts) -> Path:
    """Two seconds of noise."""
    path = scripts.folder / "noise.wav"
    write_sound(path, 0.3 * np.random.default_rng(2).standard_normal(44100).astype(np.float32).clip(-1, 1), 22050)
    return path


@pytest.mark.parametrize(
    "given, words",
    [
        ({"scene": "world"}, "weights.pose_detector=FILE, the mediapipe 0.10.21 wheel"),
        ({"scene": "world"}, "pip download"),
        (
            {"scene": "world", "weights.pose_detector": "missing.whl"},
            "weights.pose_detector=missing.whl: there is no such file",
        ),
        ({"scene": "world", "weights.pose_detector": "text.png"}, "is neither a mediapipe wheel nor a folder"),
        ({"scene": "world", "image": "null"}, "scene= needs image=FILE"),
        ({"scene": "world", "image": "clear.png"}, "clear.png: the image is completely transparent"),
        ({"scene": "world", "image": "text.png"}, "text.png cannot be read as a picture"),
        ({"scene": "text.png", "image": "figure.png"}, "text.png cannot be read as a picture"),
        ({"scene": "missing.png", "image": "figure.png"}, "scene=missing.png: there is no such file"),
        ({"weights": "raw"}, "weights.pose_detector="),
    ],
)
def test_a_mistake_gets_one_line(scripts, song, given, words):
    """Exit code 2, one clear line, and nothing made."""
    Image.fromarray(standing("man", 64, "C01", 90)["rgb"]).save(scripts.folder / "opaque.png")
    Image.new("RGBA", (64, 64)).save(scripts.folder / "clear.png")
    Image.fromarray(without_background("cat", 64)).save(scripts.folder / "figure.png")
    (scripts.folder / "text.png").write_text("no picture")
    before = sorted(scripts.folder.iterdir())
    given = {"image": "opaque.png", "ckpt": song, "music": song, "out": "scene.mp4"} | given
    refused(scripts.inside("sample", *(f"{name}={value}" for name, value in given.items())), words)
    assert sorted(scripts.folder.iterdir()) == before


def test_the_command_sets_a_transparent_figure_into_a_scene(scripts, small_run, song, tmp_path):
    """The whole way with the family that there is: the dance stands before the backdrop's colour."""
    Image.fromarray(without_background("woman")).save(tmp_path / "figure.png")
    blue = np.full((70, 90, 3), (30, 60, 200), np.uint8)
    Image.fromarray(blue).save(tmp_path / "blue.png")
    given = {
        "ckpt": small_run / "motion" / "last.ckpt", "music": song, "image": tmp_path / "figure.png",
        "seconds": 1, "fps": 12, "sampler.num_inference_steps": 2, "scene": tmp_path / "blue.png",
        "out": tmp_path / "dance.mp4",
    }  # fmt: skip
    done = scripts.inside("sample", *(f"{name}={value}" for name, value in given.items()))
    assert done.returncode == 0, done.stderr
    frames, _, _ = read_video(tmp_path / "dance.mp4")
    corner = frames[:, :10, :10].mean((0, 1, 2))
    assert corner[2] > 2 * corner[0]


@pytest.fixture(scope="module")
def detector(wheel) -> BlazePoseDetector:
    return BlazePoseDetector(wheel)


def test_a_person_is_cut_out_of_a_room(detector, figures):
    """By the mask of the one who is there, in the person's own colours; raised arms do not make a person taller."""
    room = set_scene(figures["cat"], None, 3, 300)[:, ::-1]  # with a cat in it, which is no person
    room[:, 100:200] = room[:, :100]
    for arms in (65, -60):
        shown = standing("woman", 300, "C09", room, arms=arms)
        cutout = extract_cutout(shown["rgb"], detector)
        true = shown["parts"] > 0
        rows, columns = (np.flatnonzero(true.any(axis)) for axis in (1, 0))
        assert np.abs(np.array(cutout.alpha.shape) - [np.ptp(rows) + 1, np.ptp(columns) + 1]).max() <= 6
        assert abs(cutout.alpha.sum() / true.sum() - 1) < 0.06
        tall = np.ptp(np.flatnonzero((standing("woman", 300, "C09", room)["parts"] > 0).any(1))) + 1
        assert abs(cutout.stature / tall - 1) < 0.05
        assert (
            abs(
                np.average(cutout.rgb.reshape(-1, 3), axis=0, weights=cutout.alpha.ravel()) - shown["rgb"][true].mean(0)
            ).max()
            < 6
        )


def test_who_is_no_whole_person_is_refused(detector, wheel):
    """Nobody, one without feet, head or arm. Of two the largest is taken, or the one of the number from the left."""
    one, other = (standing(body, 300, "C09", 150)["rgb"][:, 80:220] for body in ("man", "curvy"))
    small = cv2.copyMakeBorder(cv2.resize(other, (70, 150)), 120, 30, 35, 35, cv2.BORDER_REPLICATE)
    floor, head = (extent(one)[index] for index in (1, 0))
    for picture, words in (
        (np.full_like(one, 150), "no person was detected"),
        (one[: floor - 40], "feet"), (one[: floor - 25], "feet"), (one[head + 15 :], "head"), (one[:, 62:], "side"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words) as caught:
            extract_cutout(picture, detector)
        assert "\n" not in str(caught.value)
    alone, main = extract_cutout(one, detector), extract_cutout(np.hstack([one, small]), detector)
    assert abs(main.stature / alone.stature - 1) < 0.03
    assert np.abs(main.alpha.mean() - alone.alpha.mean()) < 0.03
    assert alone.note is None and "2 people were detected, of whom person 1 from the left" in main.note
    second = extract_cutout(np.hstack([one, small]), load_detector(wheel, person=2))
    assert abs(second.stature / alone.stature - 0.5) < 0.05 and second.note is None
    with pytest.raises(PersonNumberError, match="^person=3: 2 people were detected$"):
        extract_cutout(np.hstack([one, small]), load_detector(wheel, person=3))


def test_a_refusal_is_one_line_with_a_detector_too(scripts, song, wheel, tmp_path):
    """In a process of its own: the detector's library writes to stderr without asking."""
    two = np.hstack([standing(body, 300, "C09", 150)["rgb"][:, 80:220] for body in ("man", "curvy")])
    Image.fromarray(two).save(tmp_path / "two.png")
    given = {
        "ckpt": song,
        "music": song,
        "image": tmp_path / "two.png",
        "scene": "world",
        "person": 3,
        "weights.pose_detector": wheel,
    }
    done = scripts("sample", *(f"{name}={value}" for name, value in given.items()), f"out={tmp_path / 'out.mp4'}")
    refused(done, "two.png: person=3: 2 people were detected")
    Image.fromarray(np.tile(np.arange(96, dtype=np.uint8)[:, None, None], (1, 96, 3))).save(tmp_path / "sky.png")
    given |= {"scene": "null", "person": "null", "image": tmp_path / "sky.png"}
    done = scripts("sample", *(f"{name}={value}" for name, value in given.items()), f"out={tmp_path / 'out.mp4'}")
    refused(done, "sky.png shows no person")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["sky.png", "two.png"]


def test_a_photograph(detector):
    """The player without the ball, the grass and the spectators."""
    if not PHOTO.is_file():
        pytest.skip(f"the Debian package opencv-doc, which has {PHOTO}, is not installed")
    cutout = extract_cutout(cv2.cvtColor(cv2.imread(str(PHOTO)), cv2.COLOR_BGR2RGB), detector)
    assert np.abs(np.array(cutout.alpha.shape) - [273, 389]).max() < 12  # measured by eye: hair to sole, hand to toe
    green = (cutout.rgb[..., 1] > cutout.rgb[..., [0, 2]].max(-1) + 25) & (cutout.alpha > 0.5)
    assert green.mean() < 0.01
