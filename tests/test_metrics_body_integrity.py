"""Body integrity of drawn figures, whose damage is known exactly, and of a rendered dancer."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from zoo.body import skeleton
from zoo.body.detection.base import PoseDetector, Poses
from zoo.body.detection.synthetic_detector import (
    HAND_JOINTS,
    HEATMAP_SIDE,
    INPUT_SIDE,
    NO_PEAK,
    PosesWithFeatures,
    SyntheticPoseDetector,
    third_peak,
)
from zoo.body.image_skeleton import stature_from_joints
from zoo.body.labels import HEAD, PARTS
from zoo.body.render.rasterizer import render_motion
from zoo.data.world.choreography import choreograph
from zoo.data.world.scene import make_scene
from zoo.data.world.song import make_song
from zoo.metrics.base import TIME_SUFFIX, MetricInput
from zoo.metrics.body_integrity import BodyIntegrity, integrity_scores, integrity_signals, skeleton_area

SIDE, FRAMES = 128, 8
COLOR, BACKDROP = np.array([200, 60, 40]), np.array([60, 100, 160])


def figure() -> tuple[np.ndarray, np.ndarray]:
    """Joints (24, 2) and area (H, W) bool of a figure with its arms out."""
    rotations = torch.eye(3).repeat(1, 24, 1, 1)
    rotations[:, 0] = skeleton.STANDING
    place = skeleton.forward_kinematics(rotations, torch.zeros(1, 3))[0].numpy()
    joints = np.stack([64 + 50 * place[:, 0], 56 - 50 * place[:, 2]], -1).astype(np.float32)
    return joints, skeleton_area(joints, stature_from_joints(joints), (SIDE, SIDE))


def clip_of(opacity: float = 1.0, extra: np.ndarray | None = None, head: float = 1.0, weakest: float = 1.0,
            third_hand: float = NO_PEAK) -> dict[str, np.ndarray]:  # fmt: skip
    """Signals of a clip with this damage in every frame but the first; extra (H, W) bool: more figure."""
    joints, area = figure()
    masks = np.stack([area] + [area | extra if extra is not None else area] * (FRAMES - 1))
    image = np.where(area[..., None], COLOR, BACKDROP)
    alpha = np.array([1.0] + [opacity] * (FRAMES - 1))[:, None, None, None] * masks[..., None]
    frames = (BACKDROP + alpha * (COLOR - BACKDROP)).round().astype(np.uint8)
    confidence = np.ones((FRAMES, 24), np.float32)
    confidence[1:, [12, 15]], confidence[1:, 20] = head, weakest
    many = np.repeat(joints[None], FRAMES, 0)
    peaks = np.array([NO_PEAK] + [third_hand] * (FRAMES - 1), np.float32)
    poses = PosesWithFeatures(many, confidence, masks.astype(np.float32), np.zeros((0, 64), np.float32), peaks)
    reference_poses = Poses(joints[None], np.ones((1, 24), np.float32), area[None].astype(np.float32))
    return integrity_signals(frames, poses, image.astype(np.uint8), reference_poses)


def test_each_damage_lowers_its_own_score_by_as_much_as_it_is():
    joints, area = figure()
    shoulder, apart = joints[16].round().astype(int), np.zeros_like(area)
    apart[4:20, 4:20] = True
    end = (int(shoulder[0] + 28), int(shoulder[1] - 28))
    beside = (cv2.line(np.zeros(area.shape, np.uint8), tuple(shoulder.tolist()), end, 1, 5) > 0) & ~area
    assert cv2.connectedComponents((area | beside).astype(np.uint8))[0] == 2  # a third arm on the shoulder
    size = area.sum()
    cases = {  # signal -> damage, the signal's value
        "opacity": ({"opacity": 0.5}, 0.5),
        "head": ({"head": 0.35}, 0.35),
        "weakest_joint": ({"weakest": 0.05}, 0.05),
        "third_hand": ({"third_hand": -3.0}, -3.0),
        "outside": ({"extra": beside}, beside.sum() / (size + beside.sum())),
        "one_piece": ({"extra": apart}, size / (size + apart.sum())),
    }
    for name, (damage, value) in cases.items():
        signals = clip_of(**damage)
        assert signals[name][1:] == pytest.approx(value, abs=0.01), name
        scores = integrity_scores(signals)
        assert all(scores[other][0] == 1 for other in scores), "the first frame is whole"
        assert (scores[name][1:] < 0.99).all(), name
        lowered = {other for other in scores if (scores[other][1:] < 0.99).any()}
        assert lowered <= {name, "outside"} and (name == "one_piece" or lowered == {name}), (name, lowered)


def test_a_third_hand_is_a_third_peak_on_the_figure():
    def peak_of(cells: list[tuple[int, int]], mask: torch.Tensor) -> float:
        heatmaps = torch.zeros(1, 24, HEATMAP_SIDE, HEATMAP_SIDE)
        for index, (row, column) in enumerate(cells):
            heatmaps[0, HAND_JOINTS[1][index % 2], row, column] = 12.0
        return float(third_peak(heatmaps, mask)[0])

    everywhere = torch.ones(1, INPUT_SIDE, INPUT_SIDE)
    two, three = [(8, 5), (8, 25)], [(8, 5), (8, 25), (20, 25)]
    assert peak_of(three, everywhere) == pytest.approx(np.log(0.5), abs=0.01)  # two peaks share a map
    assert peak_of(two, everywhere) < -6
    elsewhere = everywhere.clone()
    elsewhere[:, 72:] = 0
    assert peak_of(three, elsewhere) < -6


@pytest.fixture(scope="module")
def dance() -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """The reference of a rendered dance, its maps and its backdrop."""
    _, root, rotations = skeleton.unpack(choreograph(make_song(5, 20, "pop"), 5).motion[:60:5])
    scene = make_scene(3, "clip-0", "dancer-2", root.numpy(), SIDE, SIDE)
    view = (scene.camera, SIDE, SIDE, scene.backdrop_image)
    maps = render_motion(scene.appearance, rotations, root, *view, shadow=False, maps=("rgb", "parts"))
    return maps["rgb"][0], {name: values[1:] for name, values in maps.items()}, scene.backdrop_image


def test_a_rendered_dancer_is_whole_and_without_a_head_or_half_transparent_is_not(dance):
    reference, maps, backdrop = dance
    no_head = np.where(np.isin(maps["parts"], PARTS[HEAD])[..., None], backdrop, maps["rgb"])
    blend = ((maps["rgb"].astype(int) + backdrop) // 2).astype(np.uint8)

    def measure(frames: np.ndarray, detector: PoseDetector | None = None) -> dict[str, np.ndarray]:
        detector = detector or SyntheticPoseDetector()
        music = (np.zeros(10, np.float32), 22050, np.empty(0))
        clip = MetricInput("clip", {}, Fraction(6), frames, frames, reference, *music, detector=detector)
        return dict(BodyIntegrity().measure(clip))

    values = measure(maps["rgb"])
    assert values["body_integrity" + TIME_SUFFIX].shape == (len(maps["rgb"]),)
    assert values["body_integrity"] == pytest.approx(values["body_integrity" + TIME_SUFFIX].mean())
    assert values["body_integrity"] > 0.6
    assert measure(no_head)["body_integrity"] < 0.3 and measure(blend)["body_integrity"] < 0.3
    assert measure(np.repeat(backdrop[None], len(blend), 0))["body_integrity"] < 0.05  # nobody

    class Other(PoseDetector):
        name = "another detector"

        def detect(self, frames: np.ndarray) -> Poses:
            found = SyntheticPoseDetector().detect(frames)
            return Poses(found.joints, found.confidence, found.mask)

    assert np.isnan(measure(maps["rgb"], Other())["body_integrity"])


def test_it_is_not_part_of_the_protocol():
    assert not BodyIntegrity.in_protocol_hash
