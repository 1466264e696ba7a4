"""Identity against figures whose colours are known, and among dancers of the world in other poses and places."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from zoo.body import skeleton
from zoo.body.detection.base import PoseDetector, Poses
from zoo.body.render.rasterizer import render_motion
from zoo.data.world.choreography import choreograph
from zoo.data.world.scene import make_scene
from zoo.data.world.song import make_song
from zoo.metrics.base import TIME_SUFFIX, MetricInput
from zoo.metrics.identity import COLOR_REGIONS, Identity, Signature, signature, signature_distance

SIDE, FRAMES = 128, 12


class Known(PoseDetector):
    """Gives the poses that were put with each video."""

    name = "the truth"

    def __init__(self, known: list[tuple[np.ndarray, Poses]]):
        self.known = known

    def detect(self, frames: np.ndarray) -> Poses:
        return next(poses for video, poses in self.known if video is frames or video.base is frames.base)


def figure(colours: dict[str, tuple[int, int, int]], backdrop: int = 90) -> tuple[np.ndarray, Poses]:
    """A picture (1, H, W, 3) of a body with its arms out, thick lines in the regions' colours, and where it is."""
    rotations = torch.eye(3).repeat(1, 24, 1, 1)
    rotations[:, 0] = skeleton.STANDING
    place = skeleton.forward_kinematics(rotations, torch.zeros(1, 3))[0].numpy()
    joints = np.stack([64 + 60 * place[:, 0], 52 - 60 * place[:, 2]], -1)
    picture, mask = np.full((SIDE, SIDE, 3), backdrop, np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    bones = (
        ("thighs", 9, ((1, 4), (2, 5))), ("shins", 9, ((4, 7), (5, 8))), ("feet", 9, ((7, 10), (8, 11))),
        ("upper arms", 9, ((16, 18), (17, 19))), ("forearms", 9, ((18, 22), (19, 23))),
        ("torso", 21, ((3, 9),)), ("head", 9, ((12, 15),)),
    )  # fmt: skip
    for region, width, lines in bones:
        for first, last in lines:
            ends = [tuple(int(value) for value in joints[joint].round()) for joint in (first, last)]
            cv2.line(picture, *ends, colours[region], width)
            cv2.line(mask, *ends, 1, width)
    return picture[None], Poses(joints[None].astype(np.float32), np.ones((1, 24), np.float32), mask[None] * 1.0)


def video(pictures: list[np.ndarray], poses: Poses) -> tuple[np.ndarray, Poses]:
    many = [np.repeat(value, len(pictures), 0) for value in (poses.joints, poses.confidence, poses.mask)]
    return np.concatenate(pictures), Poses(*many)


def measure(seen: tuple[np.ndarray, Poses], reference: tuple[np.ndarray, Poses]) -> dict[str, np.ndarray]:
    frames, still = seen[0].copy(), reference[0].copy()
    clip = MetricInput(
        *("clip", {}, Fraction(12), frames, frames, still[0], np.zeros(10, np.float32), 22050, np.empty(0)),
        detector=Known([(frames, seen[1]), (still[0][None], reference[1])]),
    )
    clip.detector.known[1] = (clip.reference[None], reference[1])
    return dict(Identity().measure(clip))


def lab(colour: tuple[int, int, int]) -> np.ndarray:
    return cv2.cvtColor(np.float32([[colour]]) / 255, cv2.COLOR_RGB2LAB)[0, 0]


COLOURS = dict(zip(COLOR_REGIONS, [(200, 160, 130), (30, 60, 160), (40, 140, 60), (205, 150, 120), (60, 60, 60),
                             (150, 40, 50), (230, 230, 220)], strict=True))  # fmt: skip


def test_the_same_figure_has_no_distance_and_another_shirt_the_colours_own():
    reference = figure(COLOURS)
    same = measure(video([reference[0]] * FRAMES, reference[1]), reference)
    assert same["identity_distance"] == same["identity_drift"] == same["background_distance"] == 0
    assert same["figure_found"] == 1 and same["identity_distance" + TIME_SUFFIX].shape == (FRAMES,)
    other = figure(COLOURS | {"torso": (160, 60, 30)}, backdrop=100)
    changed = measure(video([other[0]] * FRAMES, other[1]), reference)
    away = np.linalg.norm(lab((160, 60, 30)) - lab((30, 60, 160)))
    # the ends of thick arms and thighs lie over the shirt's region: a quarter of it keeps its colour
    assert 0.6 < changed["identity_distance"] / (away / len(COLOR_REGIONS)) < 1
    grey = np.linalg.norm(lab((100,) * 3) - lab((90,) * 3))
    assert changed["background_distance"] == pytest.approx(grey, rel=1e-3)


def test_the_distance_of_plain_colours_is_cie76():
    red, blue = (figure(dict.fromkeys(COLOR_REGIONS, colour)) for colour in ((160, 60, 30), (30, 60, 160)))
    result = measure(video([blue[0]] * 4, blue[1]), red)
    away = np.linalg.norm(lab((160, 60, 30)) - lab((30, 60, 160)))
    assert result["identity_distance"] == pytest.approx(away, abs=2)  # the width of a bin


def test_a_figure_that_fades_drifts_by_as_much():
    reference = figure(COLOURS)
    shades = np.linspace(160, 40, FRAMES).round().astype(int)
    pictures = [figure(COLOURS | {"torso": (30, 60, int(blue))})[0] for blue in shades]
    result = measure(video(pictures, reference[1]), reference)
    course = result["identity_distance" + TIME_SUFFIX]
    assert (np.diff(course) > 0).all()
    quarter = FRAMES // 4
    assert result["identity_drift"] == pytest.approx(course[-quarter:].mean() - course[:quarter].mean())
    assert result["identity_drift"] > 3


def test_frames_without_a_figure_are_counted_and_left_out():
    reference = figure(COLOURS)
    frames, poses = video([reference[0]] * FRAMES, reference[1])
    joints, mask = poses.joints.copy(), poses.mask.copy()
    joints[:3], mask[3] = np.nan, 0
    result = measure((frames, Poses(joints, poses.confidence, mask)), reference)
    assert result["figure_found"] == pytest.approx((FRAMES - 4) / FRAMES) and result["identity_distance"] == 0
    assert np.isnan(result["identity_distance" + TIME_SUFFIX]).sum() == 4
    nobody = measure((frames, Poses(joints * np.nan, poses.confidence, mask * 0)), reference)
    assert nobody["figure_found"] == 0 and np.isnan(nobody["identity_distance"])


def test_a_dancer_is_known_again_among_all_others():
    """From another clip: another place, camera, light and pose; 16 dancers, colours alone, pooled over three frames."""
    motion = choreograph(make_song(5, 20, "pop"), 5).motion
    takes = [[], []]
    for take, at in enumerate((range(0, 120, 40), range(300, 420, 40))):
        _, root, rotations = skeleton.unpack(motion[list(at)])
        for number in range(16):
            scene = make_scene(3, f"clip-{take}-{number}", f"dancer-{number}", root.numpy(), SIDE, SIDE)
            need = ("rgb", "parts")
            drawn = render_motion(
                scene.appearance, rotations, root, scene.camera, SIDE, SIDE, scene.backdrop_image, maps=need
            )
            joints = drawn["joints2d"].astype(np.float32)
            poses = Poses(joints, np.ones(joints.shape[:2], np.float32), (drawn["parts"] > 0).astype(np.float32))
            takes[take].append(signature(drawn["rgb"], poses).pooled().counts)
    first, second = (Signature(np.stack(counts)) for counts in takes)
    distance = signature_distance(first[:, None], second[None])  # (16, 16)
    right = (distance.argmin(1) == np.arange(16)).mean()
    assert right >= 0.9, distance.round()
