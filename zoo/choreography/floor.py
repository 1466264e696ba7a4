"""Dances as poses on the floor: the moves of a dance become poses at beats, at the dancer's place on the floor."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from zoo.choreography.dancer import Poses, Traits, crouch, flight
from zoo.choreography.moves import MOVES
from zoo.choreography.poses import ARMS, HOME, PIVOT, SCALARS, STANCE, STAY, ArmPattern, Foot, KeyPose, mirror

LENGTHS = {"shift", "fore", "drop"}  # the rest of SCALARS are angles
FAST_BPM = 138.0  # from this tempo on, a count lasts two beats
PHRASE_COUNTS = 4
BALL_OFFSET = 0.07  # m that the ball of a foot at home lies ahead of the pelvis, as in SMPL's rest pose
MIN_STEP = 0.012  # m; a smaller displacement of a foot is no step
MIN_LIFT = 0.02  # m above the floor; a lower foot stands on it


@dataclass(frozen=True)
class Dance:
    """A motion and its moves.

    motion float32 torch (T, 151) at 30 Hz, as long as the song; moves [(start_s, stop_s, name, side, energy, words)] in
    order, from the first beat to the end: side "left" or "right", energy 0..1, words that describe the motion.
    """

    motion: torch.Tensor
    moves: list[tuple[float, float, str, str, float, str]]


@dataclass(frozen=True)
class MoveChoice:
    """One move with its variations, for one or two phrases (the second one mirrored or repeated)."""

    name: str
    side: str
    phrases: int
    mirrored: bool
    arms: ArmPattern | None  # None where the move has its own arm shapes
    size: float
    quick: bool
    drift: float  # heading, degrees

    def words(self, side: str) -> str:
        """Describe the move to one side, as the end of a sentence about the dancer."""
        opposite = "right" if side == "left" else "left"
        words = MOVES[self.name].words.format(side=side, other=opposite)
        if self.arms is not None:
            words += f" and {self.arms.words}"
        if self.size > 1.12:
            words += ", with big movements"
        elif self.size < 0.82:
            words += ", with small movements"
        return words


def draw_traits(rng: np.random.Generator) -> Traits:
    """Draw the manner of a dancer."""
    amplitude = np.where([name in LENGTHS for name in SCALARS], 0.006, 1.5)
    return Traits(
        bounce=rng.uniform(0.03, 0.06),
        sway=rng.uniform(0.012, 0.035),
        lean=rng.uniform(-2, 8),
        knees=rng.uniform(0.015, 0.05),
        lag=rng.uniform(0.0, 0.035),
        nod=rng.uniform(3, 11),
        phase=int(rng.choice([-1, 1])),
        wobble=np.stack([rng.uniform(0.05, 0.25, 12), rng.random(12), amplitude * rng.uniform(0.3, 1.0, 12)]),
    )


class FloorState:
    """The dancer's home point, heading and feet on the floor at the current beat, and all poses up to it."""

    def __init__(self, rng: np.random.Generator, beat_seconds: float, groove: float = 0.3):
        """beat_seconds: length of a beat; groove: of the first pose, in which the dancer waits for beat 0."""
        self.rng, self.beat_seconds = rng, beat_seconds
        self.stance = rng.uniform(0.10, 0.15)
        self.home = rng.uniform(-0.2, 0.2, 2)
        self.heading = float(rng.normal(0, 12))
        self.current_beat = 0
        self.rows: list[dict] = []
        feet = [self._foot(side, HOME, self.home, self.heading, None, 1.0) for side in (0, 1)]
        for beat in (-4.0, 0.0):
            self.add_pose(
                beat, {}, self.home, self.heading, feet, ((0, 1), (0, 1)), 0, 0, groove, ("down", "down"), 1.0, 0.0
            )

    def add_move(self, choice: MoveChoice, count: int, end: int, energy: float) -> list[tuple[int, int, str]]:
        """Add the poses of a choice from the current beat on, `count` beats a count, never past beat `end`.

        Returns [(first beat, last beat, side)] of its phrases.
        """
        move, phrases = MOVES[choice.name], []
        jitter = self.rng.normal(0, 0.07, (2, 2, 3))
        for phrase in range(choice.phrases):
            if self.current_beat >= end:
                break
            is_left = (choice.side == "left") != (phrase % 2 == 1 and choice.mirrored)
            counts = min(PHRASE_COUNTS, (end - self.current_beat) / count)
            poses = [pose for pose in move.poses if pose.count <= counts]
            if not poses:  # less than one count is left: only a return home
                counts = (end - self.current_beat) / count
                poses = [replace(move.poses[-1], count=counts)]
            lat = poses[-1].lat if is_left else -poses[-1].lat
            if abs(lat) > 0.2 and abs((self.home + _turn(self.heading, (lat, 0)))[0]) > 0.85:
                is_left = not is_left  # to the side with more room
            poses = [pose if is_left else mirror(pose) for pose in poses]
            self._phrase(choice, poses, counts, count, energy, jitter, is_left)
            first_beat, self.current_beat = self.current_beat, int(round(self.current_beat + counts * count))
            phrases.append((first_beat, self.current_beat, "left" if is_left else "right"))
        return phrases

    def rest(self, end: int, beats: float = 2.0) -> None:
        """Stand still at the home point until beat `end`, after `beats` beats of settling down."""
        settled_beat = min(self.current_beat + beats, float(end))
        for beat in (settled_beat, float(end)):
            if beat <= self.rows[-1]["beat"]:
                continue
            feet = [self._foot(side, HOME, self.home, self.heading, self.feet[side], 1.0) for side in (0, 1)]
            span = self._spans(feet, False, (beat - self.rows[-1]["beat"]) * self.beat_seconds, 0)
            self.add_pose(beat, {}, self.home, self.heading, feet, span, 0, 0, 0.0, ("down", "down"), 1.0, 0.0)
        self.current_beat = end

    def _phrase(
        self,
        choice: MoveChoice,
        poses: list[KeyPose],
        counts: float,
        count: int,
        energy: float,
        jitter: np.ndarray,
        is_left: bool,
    ) -> None:
        start_home, start_heading = self.home, self.heading
        has_turn = any(pose.turn for pose in poses)
        size = choice.size
        # The home point moves back to the centre under the steps of the phrase, and the heading back to the front.
        return_path = -0.5 * start_home if np.linalg.norm(start_home) > 0.3 else np.zeros(2)
        facing = choice.drift - (start_heading - 360 * round(start_heading / 360))
        for pose in poses:
            fraction = pose.count / counts
            stretch = 1.0 if has_turn else size
            home = (
                start_home + fraction * return_path + _turn(start_heading, (pose.lat * stretch, pose.ahead * stretch))
            )
            heading = start_heading + pose.turn + fraction * facing
            is_last = pose is poses[-1]
            feet = [
                self._foot(side, HOME if is_last else foot, home, heading, self.feet[side], size)
                for side, foot in enumerate((pose.left_foot, pose.right_foot))
            ]
            body = {name: value * (size if name != "drop" else 0.5 + 0.5 * size) for name, value in pose.body.items()}
            if choice.arms is not None:
                index = int(np.ceil(pose.count)) - 1
                arms = choice.arms.counts[index % len(choice.arms.counts)]
                arms = arms if is_left else (arms[1], arms[0])
            else:
                assert pose.left_arm is not None and pose.right_arm is not None, choice.name
                arms = pose.left_arm, pose.right_arm
            beat = self.current_beat + pose.count * count
            hop = pose.hop * min(size, 1.0)
            if hop:
                depth = crouch(hop, (beat - self.rows[-1]["beat"]) * self.beat_seconds)
                drop_index = SCALARS.index("drop")
                self.rows[-1]["body"][drop_index] = max(self.rows[-1]["body"][drop_index], depth)
                body["drop"] = max(body.get("drop", 0.0), depth)
            span = self._spans(feet, bool(hop), (beat - self.rows[-1]["beat"]) * self.beat_seconds, hop)
            self.add_pose(
                beat, body, home, heading, feet, span, hop, pose.flow, 0.35 + 0.7 * energy, arms, size, jitter
            )
        self.home, self.heading = home, heading

    def _foot(
        self,
        side: int,
        foot: Foot | str,
        home: np.ndarray,
        heading: float,
        previous: np.ndarray | None,
        size: float,
    ) -> np.ndarray:
        """World state (x, z, yaw, height, heel) of a pose's foot. previous: its state before; None at the start."""
        sign = 1.0 if side == 0 else -1.0
        if foot == STAY:
            assert previous is not None, "the first pose names both feet"
            if previous[3] > MIN_LIFT or abs(previous[2] - heading) < 55:
                return previous
            foot = HOME
        if foot == PIVOT:
            assert previous is not None, "the first pose names both feet"
            return np.array([previous[0], previous[1], heading + sign * 6, 0.0, 16.0])
        if foot == HOME:
            foot = Foot(sign * self.stance, 0.0, sign * 10)
            size = 1.0
        assert isinstance(foot, Foot)
        x = sign * STANCE + (foot.x - sign * STANCE) * size if size != 1.0 else foot.x
        ground = home + _turn(heading, (x, BALL_OFFSET + foot.z * size))
        return np.array([*ground, heading + foot.yaw, foot.height * min(size, 1.1), foot.heel])

    def _spans(
        self, feet: list[np.ndarray], is_hopping: bool, seconds: float, hop: float
    ) -> tuple[tuple[float, float], ...]:
        """Part of the way from the previous pose in which each foot moves: both at once only in a hop."""
        if is_hopping:
            air, _ = flight(hop, seconds)
            margin = float((1 - air / seconds) / 2)
            return ((margin, 1 - margin),) * 2
        distances = [np.hypot(*(new[:2] - old[:2])) for new, old in zip(feet, self.feet, strict=True)]
        if min(distances) < MIN_STEP:
            return ((0.0, 1.0),) * 2
        heights = [old[3] for old in self.feet]
        first = int(np.argmax(heights)) if max(heights) > MIN_LIFT else int(np.argmax(distances))
        return ((0.0, 0.52), (0.48, 1.0)) if first == 0 else ((0.48, 1.0), (0.0, 0.52))

    def add_pose(
        self,
        beat: float,
        body: dict[str, float],
        home: np.ndarray,
        heading: float,
        feet: list[np.ndarray],
        span: tuple[tuple[float, float], ...],
        hop: float,
        flow: float,
        groove: float,
        arms: tuple[str, str],
        size: float,
        jitter: np.ndarray | float,
    ) -> None:
        """Add the pose at `beat`."""
        values = np.array([body.get(name, 0.0) for name in SCALARS])
        shapes = np.array([ARMS[shape] for shape in arms])  # (2 arms, upper and fore, 3)
        shapes /= np.linalg.norm(shapes, axis=-1, keepdims=True)
        relaxed = np.array(ARMS["low"])
        relaxed = relaxed / np.linalg.norm(relaxed, axis=-1, keepdims=True)
        shapes = relaxed + (shapes - relaxed) * np.clip(0.55 + 0.5 * size, 0.8, 1.0) + jitter
        self.feet = feet
        self.rows.append(
            dict(
                beat=float(beat),
                body=values,
                home=np.array(home),
                heading=heading,
                feet=np.array(feet),
                span=np.array(span),
                hop=float(hop),
                flow=float(flow),
                groove=groove,
                upper=shapes[:, 0],
                fore=shapes[:, 1],
            )
        )

    def poses(self) -> Poses:
        """All poses as arrays."""
        return Poses(**{name: np.array([row[name] for row in self.rows], float) for name in self.rows[0]})


def _turn(heading: float, ground: tuple[float, float]) -> np.ndarray:
    """Rotate a vector (x, z) of the body frame into the world; heading: degrees to the left."""
    c, s = np.cos(np.radians(heading)), np.sin(np.radians(heading))
    return np.array([c * ground[0] + s * ground[1], -s * ground[0] + c * ground[1]])
