"""The vocabulary of moves: key poses that fall on beats, their mirror images, arm shapes and arm patterns.

Body frame: +x the dancer's left, +z ahead, y up. Poses are written for the side "left" and mirrored for "right".
"""

from dataclasses import dataclass, field, replace

STANCE = 0.13  # half the distance between the feet at home, m
SCALARS = (
    "shift",  # pelvis to the left of the home point, m
    "fore",  # pelvis ahead of the home point, m
    "drop",  # pelvis below standing height, m
    "pitch",  # pelvis leans ahead, degrees; and so on for roll (to the left) and twist (turned left)
    "roll",
    "twist",
    "bend",  # the spine, same senses, degrees
    "side",
    "wind",
    "nod",  # the head, same senses, degrees
    "tilt",
    "look",
)
MIRRORED = {"shift", "roll", "twist", "side", "wind", "tilt", "look"}  # scalars that change their sign
STAY = "stay"  # the foot keeps its position on the floor
HOME = "home"  # the foot goes under the hip
PIVOT = "pivot"  # the foot turns with the body on its ball, heel up


@dataclass(frozen=True)
class Foot:
    """A foot relative to the home point: x, z and height of its ball in m; yaw to the left and heel lift in degrees."""

    x: float
    z: float = 0.0
    yaw: float = 0.0
    height: float = 0.0
    heel: float = 0.0


@dataclass(frozen=True)
class KeyPose:
    """A pose that is reached at `count` (0 < count <= 4). `lat`, `ahead` (m), `turn` (degrees) move the home point.

    `hop` > 0: both feet leave the floor on the way to it. `flow` 0: the body stops on the count; 1: it moves on.
    """

    count: float
    lat: float = 0.0
    ahead: float = 0.0
    turn: float = 0.0
    body: dict = field(default_factory=dict)  # of SCALARS
    left_arm: str | None = None  # shapes
    right_arm: str | None = None
    left_foot: Foot | str = STAY
    right_foot: Foot | str = STAY
    hop: float = 0.0
    flow: float = 0.0


def key_pose(
    count: float,
    left: str | None = None,
    right: str | None = None,
    lf: Foot | str = STAY,
    rf: Foot | str = STAY,
    lat: float = 0.0,
    ahead: float = 0.0,
    turn: float = 0.0,
    hop: float = 0.0,
    flow: float = 0.0,
    **body: float,
) -> KeyPose:
    """A `KeyPose` in short notation: arms by position, feet as lf and rf, the values of `SCALARS` as keywords."""
    return KeyPose(count, lat, ahead, turn, body, left, right, lf, rf, hop, flow)


def _mirror_foot(foot: Foot | str) -> Foot | str:
    return foot if isinstance(foot, str) else replace(foot, x=-foot.x, yaw=-foot.yaw)


def mirror(pose: KeyPose) -> KeyPose:
    """The pose with left and right exchanged."""
    body = {name: -value if name in MIRRORED else value for name, value in pose.body.items()}
    return replace(
        pose,
        lat=-pose.lat,
        turn=-pose.turn,
        body=body,
        left_arm=pose.right_arm,
        right_arm=pose.left_arm,
        left_foot=_mirror_foot(pose.right_foot),
        right_foot=_mirror_foot(pose.left_foot),
    )


# Arm shapes: direction of the upper arm and of the forearm; x away from the body's middle, y up, z ahead.
ARMS = {
    "down": ((0.25, -1.0, 0.02), (0.12, -1.0, 0.40)),
    "low": ((0.40, -0.9, 0.10), (0.20, -0.55, 0.80)),
    "out_low": ((0.80, -0.7, 0.10), (0.85, -0.35, 0.45)),
    "side": ((1.0, -0.05, 0.10), (1.0, 0.12, 0.35)),
    "v": ((0.75, 0.70, 0.12), (0.60, 0.85, 0.30)),
    "up": ((0.38, 1.0, 0.15), (0.05, 1.0, 0.25)),
    "front": ((0.30, -0.10, 1.0), (0.0, 0.05, 1.0)),
    "front_low": ((0.25, -0.65, 0.80), (0.05, -0.20, 1.0)),
    "bent": ((0.35, -0.90, 0.05), (0.05, 0.30, 1.0)),
    "guard": ((0.40, -0.80, 0.40), (-0.25, 0.85, 0.50)),
    "swing_fwd": ((0.25, -0.60, 0.70), (-0.15, 0.55, 0.90)),
    "swing_back": ((0.35, -0.75, -0.60), (0.20, -0.75, 0.55)),
    "hip": ((0.85, -0.60, -0.30), (-0.70, -0.55, 0.45)),
    "chest": ((0.55, -0.60, 0.45), (-0.80, 0.30, 0.55)),
    "cross": ((0.25, -0.35, 0.85), (-0.75, 0.15, 0.65)),
    "cross_low": ((0.15, -0.80, 0.60), (-0.45, -0.60, 0.65)),
    "cactus": ((1.0, 0.0, 0.12), (0.20, 0.95, 0.30)),
    "lock": ((0.95, -0.25, 0.20), (0.10, -0.95, 0.35)),
    "wing": ((0.95, 0.10, 0.10), (-0.55, -0.30, 0.80)),
    "head": ((0.85, 0.60, 0.10), (-0.70, 0.50, -0.10)),
    "point_up": ((0.60, 0.85, 0.25), (0.50, 0.90, 0.35)),
    "point_side": ((1.0, 0.12, 0.25), (1.0, 0.20, 0.42)),
    "across_high": ((0.10, 0.25, 0.95), (-0.60, 0.65, 0.55)),
    "across_low": ((0.15, -0.55, 0.80), (-0.60, -0.35, 0.65)),
    "back": ((0.45, -0.85, -0.45), (0.35, -0.95, -0.10)),
    "scoop": ((0.60, -0.45, 0.65), (0.20, 0.35, 0.95)),
    "clap": ((0.35, -0.45, 0.80), (-0.40, 0.30, 0.90)),
    "clap_up": ((0.45, 0.80, 0.40), (-0.40, 0.90, 0.35)),
    "wave_up": ((1.0, 0.30, 0.10), (0.85, -0.15, 0.70)),
    "wave_down": ((1.0, -0.30, 0.10), (0.85, 0.30, 0.60)),
    "reach": ((0.55, 0.20, 0.85), (0.35, 0.35, 0.95)),
}


@dataclass(frozen=True)
class ArmPattern:
    """Arm shapes for the four counts of a phrase, (left, right) each, for moves that leave the arms free."""

    words: str
    counts: tuple[tuple[str, str], ...]
    energy: float


ARM_PATTERNS = (
    ArmPattern("lets both arms hang loose", (("down", "low"), ("low", "down"), ("down", "low"), ("low", "down")), 0.2),
    ArmPattern("keeps both hands on the hips", (("hip", "hip"),) * 4, 0.3),
    ArmPattern(
        "swings the arms back and forth",
        (("swing_fwd", "swing_back"), ("swing_back", "swing_fwd")) * 2,
        0.45,
    ),
    ArmPattern("swings both arms up", (("v", "v"), ("low", "low"), ("up", "up"), ("low", "low")), 0.75),
    ArmPattern("raises one arm after the other", (("up", "low"), ("low", "low"), ("low", "up"), ("low", "low")), 0.55),
    ArmPattern("claps", (("out_low", "out_low"), ("clap", "clap")) * 2, 0.5),
    ArmPattern("claps overhead", (("side", "side"), ("clap_up", "clap_up")) * 2, 0.85),
    ArmPattern("crosses and opens the arms", (("cross", "cross"), ("side", "side")) * 2, 0.6),
    ArmPattern("pumps both fists", (("guard", "guard"), ("lock", "lock")) * 2, 0.8),
    ArmPattern(
        "waves both arms overhead from side to side",
        (("v", "across_high"), ("across_high", "v")) * 2,
        0.7,
    ),
    ArmPattern("points up and across", (("point_up", "hip"), ("across_low", "hip")) * 2, 0.65),
    ArmPattern("opens both arms wide", (("side", "side"), ("chest", "chest"), ("v", "v"), ("chest", "chest")), 0.6),
    ArmPattern("bends and straightens the arms", (("bent", "bent"), ("front_low", "front_low")) * 2, 0.4),
    ArmPattern("swings both arms across the body", (("out_low", "across_low"), ("across_low", "out_low")) * 2, 0.5),
    ArmPattern("lifts the elbows", (("wing", "wing"), ("bent", "bent"), ("cactus", "cactus"), ("bent", "bent")), 0.55),
    ArmPattern("reaches forward and pulls back", (("reach", "reach"), ("swing_back", "swing_back")) * 2, 0.6),
)


@dataclass(frozen=True)
class Move:
    """A phrase of four counts.

    poses: in order of their counts. words: describe the motion, never the appearance, with {side} and {other}. energy:
    0..1. styles: those it belongs to (empty: all). quick: it may run at one count a beat in fast songs. pace: the
    shortest count, s, in which a body can do it.
    """

    poses: tuple[KeyPose, ...]
    words: str
    energy: float
    styles: frozenset[str] = frozenset()
    quick: bool = False
    pace: float = 0.0

    @property
    def sets_arms(self) -> bool:
        """Whether the move's poses have arm shapes."""
        return self.poses[0].left_arm is not None


def make_move(words: str, energy: float, styles: str, *poses: KeyPose, quick: bool = False, pace: float = 0.0) -> Move:
    """A `Move` with its styles in one text."""
    return Move(poses, words, energy, frozenset(styles.split()), quick, pace)
