"""The pose detector for photographs that needs one download: BlazePose, as SMPL's joints and a mask."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from zoo.body.detection.base import PersonDetector, Poses, SegmentedFigure, joint_weights, weighted_joints
from zoo.body.detection.blazepose import MIN_SCORE, NUM_BODY_POINTS, BlazePose, Face, Landmarks, Person, Region
from zoo.body.detection.figure_mask import Body, fill_uncertain_holes, largest_component, mask_to_alpha, separate_people
from zoo.body.image_skeleton import SMPL_STATURE
from zoo.body.skeleton import JOINTS, OFFSETS, PARENTS

# SMPL's joints without their side -> BlazePose's points, left and right
POINTS_OF_JOINT = {
    "knee": ((25,), (26,)), "ankle": ((27,), (28,)), "foot": ((31,), (32,)),
    "shoulder": ((11,), (12,)), "elbow": ((13,), (14,)), "wrist": ((15,), (16,)), "hand": ((17, 19), (18, 20)),
}  # fmt: skip
NOSE, SHOULDERS, HIPS, KNEES, EARS, EYES = 0, (11, 12), (23, 24), (25, 26), (7, 8), (2, 5)
HEAD_POINTS, HAND_POINTS, FOOT_POINTS = slice(0, 11), slice(15, 23), slice(27, 33)
ARM_AND_LEG_POINTS = [*range(11, 17), *range(23, 29)]
TO_JOINTS = joint_weights(NUM_BODY_POINTS, POINTS_OF_JOINT, SHOULDERS, HIPS, EARS)
NECK, HEAD = JOINTS.index("neck"), JOINTS.index("head")

REFINE_BELOW_PRESENCE = 0.9  # below this presence the landmarks are predicted a second time
EAR_TO_ANKLE_RATIO = 0.852  # length ear - shoulder - hip - knee - ankle over the stature (rendered bodies: +- 0.006)
MAX_HEIGHT_RATIO = (
    1.4  # largest height of a figure with raised arms over its stature; above it the body is foreshortened
)
# widths of the mask on an image edge, as fractions of the stature, above which a part of the body is cut off
MAX_EDGE_WIDTH = {"feet": 0.13, "head": 0.09, "side": 0.05}
MAX_OUTSIDE = 0.02  # of the stature: distance beyond the image edge up to which a point counts as inside
# lengths over the stature, of rendered bodies seen from the front: ear to shoulder, shoulder to hip, between shoulders
HEAD_RATIO, TRUNK_RATIO, SHOULDER_RATIO = 0.11, 0.29, 0.2
MIN_HEAD_DISTANCE = 0.08  # of the stature, between the heads of two people
MIN_VISIBILITY = 0.5  # of a point that counts as seen
# of people seen from the front, in widths of the face from its center: the shoulders, the hips and half their widths;
# the radius of the region around the hips (medians of 37 people)
SHOULDERS_BELOW_FACE, HIPS_BELOW_FACE, HALF_SHOULDERS, HALF_HIPS, REGION_RADIUS = 1.0, 3.7, 0.9, 0.6, 4.7
REGION_SCALES = (1.0, 0.75, 0.55, 0.4)  # of a face's region: in a smaller one the landmarks stay with the face's person
MAX_HEAD_DISTANCE = 0.4  # of the face's width, from its center to the mean of its person's head points
MIN_FACE_LINE = 0.06  # of the stature: shorter sums of the eyes' and the ears' vectors do not show the head's tilt


class BlazePoseDetector(PersonDetector):
    """BlazePose (`zoo.body.detection.blazepose`): detects people in photographs and in rendered images.

    path: the mediapipe 0.10.21 wheel, or a folder with its pose_detection.tflite and pose_landmark_full.tflite. Raises
    ValueError in one line when it is neither.
    """

    def __init__(self, path: str | Path):
        self._path = path
        self._network = BlazePose(path)
        self.name = f"BlazePose full, mediapipe's files {self._network.hash}"

    def __reduce__(self) -> tuple:
        return type(self), (self._path,)  # for other processes: the networks cannot be pickled

    def find_people(self, image: np.ndarray) -> list[Person]:
        """The people in an image (H, W, 3) uint8, highest score first.

        Detects figures that fill at least a quarter of the image's shorter side. In a group it may miss some, whom
        `segment_figure` finds by their faces.
        """
        return self._network.detect_people(image)

    def find_landmarks(self, image: np.ndarray, person: Person) -> tuple[Landmarks, np.ndarray]:
        """Landmarks and mask (H, W) float32 in [0, 1] of one of the people in an image (H, W, 3) uint8.

        Landmarks of low presence are predicted a second time, in the region that the first ones give.
        """
        region = person.region
        landmarks = self._network.predict_landmarks(image, region)
        if landmarks.presence < REFINE_BELOW_PRESENCE:
            region = landmarks.next_region
            landmarks = self._network.predict_landmarks(image, region)
        return landmarks, self._network.paste_mask(landmarks.mask, region, *image.shape[:2])

    def detect(self, frames: np.ndarray) -> Poses:
        """Track the highest-scoring person of the first frame that has one, through (F, H, W, 3) uint8 frames.

        The previous frame gives the region; if the figure is lost there, the whole frame is searched.
        """
        num_frames, height, width, _ = frames.shape
        joints = np.full((num_frames, len(JOINTS), 2), np.nan, np.float32)
        confidence = np.zeros((num_frames, len(JOINTS)), np.float32)
        mask = np.zeros((num_frames, height, width), np.float32)
        region = None
        for index, frame in enumerate(frames):
            region, landmarks = self._track(frame, region)
            if landmarks is not None:
                joints[index], confidence[index] = weighted_joints(TO_JOINTS, landmarks.points, landmarks.visibility)
                mask[index] = self._network.paste_mask(landmarks.mask, region, height, width)
                region = landmarks.next_region
        return Poses(joints, confidence, mask)

    def segment_figure(
        self, image: np.ndarray, min_confidence: float = 0.0, half_body: bool = False
    ) -> SegmentedFigure:
        """Segment person number `person` of an image (H, W, 3) uint8, or the largest one.

        A presence of at least MIN_SCORE decides; min_confidence is not used. half_body: legs that are not visible are
        placed below the hips, and only arms that the image shows count for the quality. Raises ValueError, one line
        without the image's name, for no person, and for one that is cut off.
        """
        people, faces, other_faces = self._find_bodies(image)
        if not people and self.person is None:
            raise ValueError(
                "no person was detected; use an image in which one person fills at least a quarter of the height, "
                "or a png with a transparent background"
            )
        masks = [mask for *_, mask in people]
        if len(people) + len(other_faces) > 1:
            bodies = [*(_body(landmarks, faces) for _, landmarks, _ in people), *map(_body_below, other_faces)]
            masks += [body.draw(image.shape[:2]).astype(np.float32) for body in bodies[len(people) :]]
            masks = separate_people(image, masks, bodies)
        index, note = self.choose_person([person.box for person, *_ in people])
        landmarks, mask = people[index][1], masks.pop(index)
        other_people = np.any([other > 0.5 for other in masks], 0) if masks else None
        mask = largest_component(mask)
        stature = _stature_from_points(landmarks.points)
        is_half = half_body and not _shows_feet(landmarks, mask, stature)
        if is_half:
            stature = _stature_from_upper_body(landmarks.points)
        try:
            _check_whole_body(landmarks, mask, stature, is_half)
        except ValueError as error:
            raise ValueError(f"{error}{f'; {note}' if note else ''}") from None
        alpha = fill_uncertain_holes(mask_to_alpha(mask))
        if is_half:
            return replace(_half_body(landmarks, alpha, stature, note), other_people=other_people)
        figure_height = float(np.ptp(np.flatnonzero((alpha > 0.5).any(1)))) + 1
        stature = max(stature, figure_height / MAX_HEIGHT_RATIO)
        joints = (TO_JOINTS @ landmarks.points).astype(np.float32)
        joints[HEAD] = _head_joint(landmarks.points, joints[NECK], joints[HEAD], stature)
        quality = float(landmarks.visibility[ARM_AND_LEG_POINTS].mean())
        return SegmentedFigure(alpha, joints, quality, stature, note, other_people=other_people)

    def _find_bodies(
        self, image: np.ndarray
    ) -> tuple[list[tuple[Person, Landmarks, np.ndarray]], list[Face], list[Face]]:
        """The people in an image with landmarks and mask, all faces, and those of whom no body was detected.

        In a group the landmarks of one person's region may be those of a neighbour, or of none. Such a person is
        searched again below the face.
        """
        people: list[tuple[Person, Landmarks, np.ndarray]] = []
        for person in self.find_people(image):
            landmarks, mask = self.find_landmarks(image, person)
            is_new = not any(_is_same_head(landmarks, other) for _, other, _ in people)
            if landmarks.presence >= MIN_SCORE and is_new:
                people.append((person, landmarks, mask))
        faces = self._network.detect_faces(image)
        if len(faces) < 2:
            return people, faces, []
        # without landmarks that lie between two people: the region has a face, but of another head
        people = [
            (person, landmarks, mask)
            for person, landmarks, mask in people
            if any(_is_head_of(landmarks, face) for face in faces)
            or not any(_is_inside(face.center, person.face) for face in faces)
        ]
        bodies = [_body(landmarks).draw(image.shape[:2]) for _, landmarks, _ in people]
        other_faces = []
        for face in faces:
            x, y = np.clip(face.center.astype(int), 0, np.array(image.shape[1::-1]) - 1)
            is_head = any(_is_head_of(landmarks, face) for _, landmarks, _ in people)
            if is_head or any(body[y, x] for body in bodies):  # the second kind is printed on clothes
                continue
            for scale in REGION_SCALES:
                person = _person_below(face, scale)
                landmarks, mask = self.find_landmarks(image, person)
                if landmarks.presence >= MIN_SCORE and _is_head_of(landmarks, face):
                    people.append((person, landmarks, mask))
                    break
            else:
                other_faces.append(face)
        return people, faces, other_faces

    def _track(self, frame: np.ndarray, region: Region | None) -> tuple[Region | None, Landmarks | None]:
        """The region that was searched in a frame and the landmarks there; None, None without a figure."""
        if region is not None:
            landmarks = self._network.predict_landmarks(frame, region)
            if landmarks.presence >= MIN_SCORE:
                return region, landmarks
        for person in self.find_people(frame)[:1]:
            landmarks = self._network.predict_landmarks(frame, person.region)
            if landmarks.presence >= MIN_SCORE:
                return person.region, landmarks
        return None, None


def _is_same_head(landmarks: Landmarks, other: Landmarks) -> bool:
    """Whether two regions, of which the detector took each for a person, show the same one."""
    distance = landmarks.points[HEAD_POINTS].mean(0) - other.points[HEAD_POINTS].mean(0)
    return bool(np.linalg.norm(distance) < MIN_HEAD_DISTANCE * _stature_from_upper_body(landmarks.points))


def _is_head_of(landmarks: Landmarks, face: Face) -> bool:
    """Whether a face belongs to the person of some landmarks."""
    distance = np.linalg.norm(landmarks.points[HEAD_POINTS].mean(0) - face.center)
    return bool(distance < MAX_HEAD_DISTANCE * face.width)


def _is_inside(point: np.ndarray, box: np.ndarray) -> bool:
    """Whether a point (2,) lies in a box (4,)."""
    return bool((box[:2] <= point).all() and (point <= box[2:]).all())


def _person_below(face: Face, scale: float) -> Person:
    """An upright person with a face; the region is `scale` times as large as the whole body's."""
    center = face.center + np.array([0, HIPS_BELOW_FACE * scale * face.width])
    region = Region(center, np.array([0, -REGION_RADIUS * scale * face.width]))
    return Person(face.score, face.box, region, is_only_face=True)


def _body_below(face: Face) -> Body:
    """Head and trunk of an upright person of whom the face alone is detected."""
    joints = np.tile(face.center, (len(JOINTS), 1)).astype(np.float32)
    is_visible = np.zeros(len(JOINTS), bool)
    for name, half_width, below in (
        ("head", 0, 0),
        ("neck", 0, SHOULDERS_BELOW_FACE),
        ("left_shoulder", HALF_SHOULDERS, SHOULDERS_BELOW_FACE),
        ("right_shoulder", -HALF_SHOULDERS, SHOULDERS_BELOW_FACE),
        ("left_hip", HALF_HIPS, HIPS_BELOW_FACE),
        ("right_hip", -HALF_HIPS, HIPS_BELOW_FACE),
    ):
        joint = JOINTS.index(name)
        joints[joint] += np.array([half_width, below]) * face.width
        is_visible[joint] = True
    stature = (HIPS_BELOW_FACE - SHOULDERS_BELOW_FACE) * face.width / TRUNK_RATIO
    return Body(joints, is_visible, stature, (face.center, face.width))


def _body(landmarks: Landmarks, faces: Sequence[Face] = ()) -> Body:
    """A person, to be told from others. faces: all faces in the image"""
    joints, visibility = weighted_joints(TO_JOINTS, landmarks.points, landmarks.visibility)
    face = next(((face.center, face.width) for face in faces if _is_head_of(landmarks, face)), None)
    return Body(joints, visibility >= MIN_VISIBILITY, _stature_from_upper_body(landmarks.points), face)


def _head_joint(points: np.ndarray, neck: np.ndarray, head: np.ndarray, stature: float) -> np.ndarray:
    """Position of the head joint: over the neck, perpendicular to the line of BlazePose's eyes and ears.

    A head that is upright over a leaning trunk stays upright. `head`, the position by `TO_JOINTS`, gives the distance
    from the neck, and is returned if the line is too short.
    """
    face_line = points[EYES[0]] - points[EYES[1]] + points[EARS[0]] - points[EARS[1]]
    if np.linalg.norm(face_line) < MIN_FACE_LINE * stature:
        return head
    normal = np.array([face_line[1], -face_line[0]]) / np.linalg.norm(face_line)
    return neck + np.linalg.norm(head - neck) * (normal if normal[1] < 0 else -normal)


def _half_body(landmarks: Landmarks, alpha: np.ndarray, stature: float, note: str | None) -> SegmentedFigure:
    """The figure whose legs are hidden or below the image: each joint that is not visible hangs below its parent."""
    points, visibility = landmarks.points, landmarks.visibility
    cut_row = float(np.flatnonzero((alpha > 0.5).any(1))[-1] + 1)
    is_visible = (visibility >= MIN_VISIBILITY) & (points >= 0).all(1) & (points < (alpha.shape[1], cut_row)).all(1)
    joints = (TO_JOINTS @ points).astype(np.float32)
    joints[HEAD] = _head_joint(points, joints[NECK], joints[HEAD], stature)
    nose_x = points[NOSE, 0] - points[list(EARS), 0].mean()
    for side in (0, 1):
        hangs = False
        for joint in ("knee", "ankle", "foot"):
            index = JOINTS.index(f"{('left', 'right')[side]}_{joint}")
            hangs = hangs or not is_visible[list(POINTS_OF_JOINT[joint][side])].all()
            if hangs:
                length = float(OFFSETS[index].norm()) / SMPL_STATURE * stature
                # toes point where the nose does: they tell a profile (`zoo.body.image.puppet_motion`)
                move = np.array([nose_x if joint == "foot" else 0, length], np.float32)
                joints[index] = joints[PARENTS[index]] + move
    arm_points = {
        name: [POINTS_OF_JOINT[joint][side][0] for joint in ("elbow", "wrist")]
        for side, name in enumerate(("left", "right"))
        if all(is_visible[list(POINTS_OF_JOINT[joint][side])].all() for joint in ("elbow", "wrist", "hand"))
    }
    quality = float(visibility[[*SHOULDERS, *sum(arm_points.values(), [])]].mean())
    part = "feet" if all(is_visible[list(pair)].any() for pair in (HIPS, KNEES)) else "legs"
    side_columns = {"left": alpha[:, 0], "right": alpha[:, -1]}
    cut_sides = tuple(
        side for side, column in side_columns.items() if (column > 0.5).sum() > MAX_EDGE_WIDTH["side"] * stature
    )
    notes = [note] if note else []
    notes.append(f"the {part} are not in the picture: the upper body dances")
    return SegmentedFigure(alpha, joints, quality, stature, "; ".join(notes), cut_row, cut_sides, tuple(arm_points))


def _shows_feet(landmarks: Landmarks, mask: np.ndarray, stature: float) -> bool:
    """Whether the feet of the figure are neither cut off nor hidden."""
    feet_overshoot = (landmarks.points[FOOT_POINTS, 1].max() - len(mask)) / stature
    return (
        (mask[-1] > 0.5).sum() / stature <= MAX_EDGE_WIDTH["feet"]
        and feet_overshoot <= MAX_OUTSIDE
        and landmarks.visibility[FOOT_POINTS].max() >= MIN_VISIBILITY
    )


def _check_whole_body(landmarks: Landmarks, mask: np.ndarray, stature: float, is_half: bool) -> None:
    """Raises ValueError if the head is cut off, or, unless `is_half`, a side or the feet of the figure."""
    image_width = mask.shape[1]
    is_figure = mask > 0.5
    top_width, *side_widths = (edge.sum() / stature for edge in (is_figure[0], is_figure[:, 0], is_figure[:, -1]))
    hint = "use an image that shows the whole body"
    if not is_half and not _shows_feet(landmarks, mask, stature):
        raise ValueError(f"the feet of the person are cut off or hidden; {hint}")
    if top_width > MAX_EDGE_WIDTH["head"] or landmarks.points[HEAD_POINTS, 1].min() < 0:
        raise ValueError(f"the head or a raised hand of the person is cut off; {hint}")
    hands_x, max_outside = landmarks.points[HAND_POINTS, 0], MAX_OUTSIDE * stature
    if not is_half and (
        max(side_widths) > MAX_EDGE_WIDTH["side"]
        or hands_x.min() < -max_outside
        or hands_x.max() > image_width + max_outside
    ):
        raise ValueError(f"the person is cut off at the side; {hint}")


def _stature_from_points(points: np.ndarray) -> float:
    """Stature in pixels from BlazePose's points (33, 2): raised arms and bent knees do not change it."""
    mid_ear, mid_shoulder, mid_hip = (points[list(pair)].mean(0) for pair in (EARS, SHOULDERS, HIPS))
    hip_pair, knee_pair, ankle_pair = points[23:25], points[25:27], points[27:29]
    # thigh and shank; of the two sides the longer one, which is less foreshortened
    leg_lengths = [
        np.linalg.norm(lower - upper, axis=1).max() for lower, upper in ((knee_pair, hip_pair), (ankle_pair, knee_pair))
    ]
    ear_to_ankle = np.linalg.norm(mid_ear - mid_shoulder) + np.linalg.norm(mid_shoulder - mid_hip) + sum(leg_lengths)
    return float(ear_to_ankle) / EAR_TO_ANKLE_RATIO


def _stature_from_upper_body(points: np.ndarray) -> float:
    """Stature in pixels from the head, the trunk and the shoulders of BlazePose's points (33, 2): their median."""
    mid_ear, mid_shoulder, mid_hip = (points[list(pair)].mean(0) for pair in (EARS, SHOULDERS, HIPS))
    lengths = mid_ear - mid_shoulder, mid_shoulder - mid_hip, points[SHOULDERS[0]] - points[SHOULDERS[1]]
    return float(np.median(np.linalg.norm(lengths, axis=1) / (HEAD_RATIO, TRUNK_RATIO, SHOULDER_RATIO)))
