"""The vocabulary of the world's dancers: named moves as poses to be hit on the beat, and arm patterns to go with them.

A move is a phrase of four counts. It is written for the side "left" and mirrored for "right". Its poses are `Key`s; what
lies between them (eases, steps, jumps, groove) is `choreography.py`'s work. Body frame: +x the dancer's left, +z ahead.
"""

from dataclasses import dataclass, field, replace

import numpy as np

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
MIRRORED = {"shift", "roll", "twist", "side", "wind", "tilt", "look"}
STAY = "stay"  # the foot keeps its place on the floor
HOME = "home"  # the foot goes under the hip
PIVOT = "pivot"  # the foot turns with the body on its ball, heel up


@dataclass(frozen=True)
class Foot:
    """Where a foot is, from the home point: ball of the foot x, z in m, toes out by yaw degrees, height m, heel up degrees."""

    x: float
    z: float = 0.0
    yaw: float = 0.0
    height: float = 0.0
    heel: float = 0.0


@dataclass(frozen=True)
class Key:
    """A pose hit at count `t` (0 < t <= 4). `lat`, `ahead` (m) and `turn` (degrees) move the home point from the move's start.

    `hop` > 0: both feet leave the floor on the way to this pose. `flow` 0: the body stops on the count; 1: it swings through.
    """

    t: float
    lat: float = 0.0
    ahead: float = 0.0
    turn: float = 0.0
    body: dict = field(default_factory=dict)  # of SCALARS
    left: str | None = None  # arm shapes
    right: str | None = None
    lf: Foot | str = STAY
    rf: Foot | str = STAY
    hop: float = 0.0
    flow: float = 0.0


def K(t, left=None, right=None, lf=STAY, rf=STAY, lat=0.0, ahead=0.0, turn=0.0, hop=0.0, flow=0.0, **body):
    """Short for `Key`, with the values of `SCALARS` as keywords."""
    return Key(t, lat, ahead, turn, body, left, right, lf, rf, hop, flow)


def _mirror_foot(foot):
    return foot if isinstance(foot, str) else replace(foot, x=-foot.x, yaw=-foot.yaw)


def mirror(key):
    """The same pose seen in a mirror."""
    body = {name: -value if name in MIRRORED else value for name, value in key.body.items()}
    return replace(
        key,
        lat=-key.lat,
        turn=-key.turn,
        body=body,
        left=key.right,
        right=key.left,
        lf=_mirror_foot(key.rf),
        rf=_mirror_foot(key.lf),
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
    counts: tuple
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
    """A named phrase of four counts. `styles` are those it belongs to (empty: all); `words` say the motion and no looks,
    with {side} and {other}; `arms` says whether it brings its own; `quick` whether it may run at one count a fast beat;
    `pace` is the shortest count, s, in which a body can do it.
    """

    keys: tuple
    words: str
    energy: float
    styles: frozenset = frozenset()
    quick: bool = False
    pace: float = 0.0

    @property
    def arms(self):
        """True if the move says what the arms do."""
        return self.keys[0].left is not None


def _move(words, energy, styles, *keys, quick=False, pace=0.0):
    return Move(keys, words, energy, frozenset(styles.split()), quick, pace)


def F(x, z=0.0, yaw=0.0, height=0.0, heel=0.0):
    """Short for `Foot`."""
    return Foot(x, z, yaw, height, heel)


S = STANCE
MOVES = {
    # --- steps
    "step_touch": _move(
        "steps to the {side} and back",
        0.4,
        "",
        K(1, lf=F(S + 0.30, 0, 12), shift=0.22, drop=0.05, roll=3, side=-3),
        K(2, rf=F(0.12, 0.02, -8, 0, 14), shift=0.30, drop=0.02, roll=-2, side=4),
        K(3, rf=F(-S, 0, -12), shift=0.06, drop=0.05, roll=-3, side=3),
        K(4, lf=HOME, shift=-0.05, drop=0.02),
        quick=True,
    ),
    "side_step": _move(
        "takes two steps to the {side}",
        0.5,
        "house pop disco rock reggae",
        K(1, lf=F(S + 0.26, 0, 10), shift=0.16, drop=0.05, lat=0.0),
        K(2, rf=F(-S + 0.26, 0, -10), shift=0.24, drop=0.02, twist=-6),
        K(3, lf=F(S + 0.50, 0, 10), shift=0.42, drop=0.06),
        K(4, rf=HOME, lat=0.5, drop=0.02, twist=6),
    ),
    "grapevine": _move(
        "does a grapevine to the {side}",
        0.55,
        "house pop disco latin jazz",
        K(1, lf=F(S + 0.24, 0, 10), shift=0.16, drop=0.04),
        K(2, rf=F(S + 0.18, -0.20, -12), shift=0.26, drop=0.06, twist=-18, wind=14),
        K(3, lf=F(S + 0.52, 0, 10), shift=0.44, drop=0.05),
        K(4, rf=HOME, lat=0.52, drop=0.02),
    ),
    "box_step": _move(
        "steps in a box, {side} foot first",
        0.4,
        "jazz latin pop reggae hiphop",
        K(1, lf=F(0.02, 0.26, 0), shift=0.0, fore=0.14, drop=0.05, twist=-10, bend=4),
        K(2, rf=F(-S - 0.10, 0.24, -12), shift=-0.08, fore=0.22, drop=0.04, twist=6),
        K(3, lf=F(S, 0.0, 10), shift=0.0, fore=0.06, drop=0.05, roll=4),
        K(4, rf=HOME, drop=0.02),
    ),
    "rock_step": _move(
        "rocks forward on the {side} foot and back on the other",
        0.5,
        "latin reggae jazz disco",
        K(1, lf=F(S - 0.02, 0.25, 8), fore=0.16, drop=0.05, roll=-7, twist=-12, wind=10),
        K(2, lf=HOME, fore=-0.02, roll=6, twist=4, drop=0.02),
        K(3, rf=F(-S + 0.02, -0.25, -10), fore=-0.12, drop=0.05, roll=7, twist=-12, wind=10),
        K(4, rf=HOME, roll=-6, twist=-4, drop=0.02),
        quick=True,
    ),
    "skate": _move(
        "skates from side to side, {side} first",
        0.6,
        "hiphop funk disco pop",
        K(
            1,
            "out_low",
            "across_low",
            lf=F(S + 0.24, 0.14, 22),
            shift=0.20,
            fore=0.08,
            drop=0.12,
            roll=5,
            bend=10,
            twist=12,
        ),
        K(2, "bent", "bent", rf=F(0.10, -0.02, -6, 0.05, 22), shift=0.24, fore=0.05, drop=0.04),
        K(
            3,
            "across_low",
            "out_low",
            rf=F(-S - 0.14, 0.14, -22),
            shift=-0.08,
            fore=0.08,
            drop=0.12,
            roll=-5,
            bend=10,
            twist=-12,
        ),
        K(4, "bent", "bent", lf=HOME, shift=-0.06, drop=0.03),
    ),
    "march": _move(
        "marches on the spot with high knees, {side} first",
        0.6,
        "house pop rock dnb krump disco",
        K(1, lf=F(S, 0.20, 4, 0.34, 25), shift=-0.07, drop=0.02, bend=3, twist=-6, wind=10),
        K(2, lf=HOME, drop=0.05),
        K(3, rf=F(-S, 0.20, -4, 0.34, 25), shift=0.07, drop=0.02, bend=3, twist=6, wind=-10),
        K(4, rf=HOME, drop=0.05),
        quick=True,
    ),
    "running_man": _move(
        "runs on the spot, {side} knee first",
        0.85,
        "house hiphop dnb break pop",
        K(1, "swing_back", "swing_fwd", lf=F(S, 0.22, 3, 0.30, 25), rf=F(-S, -0.06, -6), drop=0.08, bend=8, hop=0.4),
        K(2, "swing_fwd", "swing_back", lf=F(S, -0.06, 6), rf=F(-S, 0.22, -3, 0.30, 25), drop=0.08, bend=8, hop=0.4),
        K(3, "swing_back", "swing_fwd", lf=F(S, 0.22, 3, 0.30, 25), rf=F(-S, -0.06, -6), drop=0.08, bend=8, hop=0.4),
        K(4, "swing_fwd", "swing_back", lf=HOME, rf=HOME, drop=0.08, bend=4, hop=0.4),
        quick=True,
    ),
    "charleston": _move(
        "kicks the {side} foot forward and taps the other one back",
        0.65,
        "jazz disco house funk",
        K(1, "swing_back", "swing_fwd", lf=F(S - 0.03, 0.42, 5, 0.20, -8), shift=-0.07, drop=0.05, bend=-3, twist=-10),
        K(2, "bent", "bent", lf=HOME, drop=0.05, shift=0.02),
        K(
            3,
            "swing_fwd",
            "swing_back",
            rf=F(-S, -0.34, -6, 0, 38),
            shift=0.06,
            fore=-0.02,
            drop=0.10,
            bend=14,
            twist=12,
        ),
        K(4, "bent", "bent", rf=HOME, drop=0.04),
    ),
    "heel_taps": _move(
        "taps the heels in front, {side} first",
        0.4,
        "funk pop reggae latin disco",
        K(1, lf=F(S + 0.02, 0.28, 12, 0.07, -24), shift=-0.07, drop=0.07, pitch=-3, roll=-4),
        K(2, lf=HOME, drop=0.02),
        K(3, rf=F(-S - 0.02, 0.28, -12, 0.07, -24), shift=0.07, drop=0.07, pitch=-3, roll=4),
        K(4, rf=HOME, drop=0.02),
        quick=True,
    ),
    "toe_points": _move(
        "points the toes out to the side, {side} first",
        0.45,
        "jazz disco pop house latin",
        K(1, lf=F(S + 0.30, 0.02, 22, 0, 34), shift=-0.08, drop=0.07, roll=-6, side=7, tilt=5),
        K(2, lf=HOME, drop=0.02),
        K(3, rf=F(-S - 0.30, 0.02, -22, 0, 34), shift=0.08, drop=0.07, roll=6, side=-7, tilt=-5),
        K(4, rf=HOME, drop=0.02),
        quick=True,
    ),
    # --- the body in place
    "bounce": _move(
        "bounces with bent knees",
        0.35,
        "",
        K(1, drop=0.10, bend=7, shift=0.03, nod=8),
        K(2, drop=0.01, shift=-0.02, nod=-3),
        K(3, drop=0.11, bend=7, shift=-0.03, nod=8),
        K(4, drop=0.01, nod=-3),
        quick=True,
    ),
    "sway": _move(
        "sways the hips from side to side, {side} first",
        0.2,
        "",
        K(1, shift=0.09, roll=-7, side=9, drop=0.03, tilt=5),
        K(2, shift=-0.09, roll=7, side=-9, drop=0.03, tilt=-5),
        K(3, shift=0.10, roll=-8, side=10, drop=0.04, tilt=6),
        K(4, shift=-0.05, roll=5, side=-6, drop=0.03, tilt=-3),
        quick=True,
    ),
    "hip_circle": _move(
        "circles the hips to the {side}",
        0.4,
        "latin reggae pop disco",
        K(1, shift=0.10, fore=0.0, roll=-7, side=8, drop=0.05, flow=0.3),
        K(2, shift=0.0, fore=-0.09, pitch=9, bend=2, drop=0.06, flow=0.3),
        K(3, shift=-0.10, fore=0.0, roll=7, side=-8, drop=0.05, flow=0.3),
        K(4, shift=0.0, fore=0.06, pitch=-6, drop=0.03, bend=-3),
    ),
    "body_roll": _move(
        "rolls the body from the chest down to the knees",
        0.4,
        "hiphop pop latin reggae jazz",
        K(1, "back", "back", fore=0.03, bend=-16, pitch=-2, drop=0.02, nod=-12),
        K(2, "low", "low", fore=0.06, bend=12, pitch=-12, drop=0.08, nod=10),
        K(3, "hip", "hip", fore=-0.07, bend=22, pitch=14, drop=0.15, nod=-8),
        K(4, "down", "down", bend=2, drop=0.03),
    ),
    "arm_wave": _move(
        "sends a wave through the arms from the {side} to the {other}",
        0.35,
        "hiphop funk break pop jazz",
        K(1, "wave_up", "side", shift=0.05, side=-5, look=22, drop=0.04),
        K(2, "wave_down", "side", shift=0.02, bend=-6, drop=0.02, look=10),
        K(2.5, "side", "wave_up", flow=0.7, side=2),
        K(3, "side", "wave_up", shift=-0.05, side=6, look=-22, drop=0.04),
        K(4, "low", "wave_down", drop=0.03, look=-10),
    ),
    "twist": _move(
        "twists on the balls of the feet, {side} first",
        0.6,
        "rock disco jazz pop latin",
        K(1, lf=F(S, 0, 40, 0, 14), rf=F(-S, 0, 16, 0, 14), twist=24, wind=-34, drop=0.09, bend=4),
        K(2, lf=F(S, 0, -16, 0, 14), rf=F(-S, 0, -40, 0, 14), twist=-24, wind=34, drop=0.06, bend=4),
        K(3, lf=F(S, 0, 42, 0, 14), rf=F(-S, 0, 18, 0, 14), twist=26, wind=-36, drop=0.14, bend=6),
        K(4, lf=HOME, rf=HOME, drop=0.04),
        quick=True,
    ),
    "chest_pop": _move(
        "pops the chest out and in",
        0.75,
        "krump hiphop break funk dnb",
        K(1, "back", "back", bend=-20, drop=0.10, fore=0.03, nod=-8),
        K(2, "chest", "chest", bend=18, drop=0.13, fore=-0.03, nod=12),
        K(3, "back", "back", bend=-22, drop=0.08, wind=12, nod=-10),
        K(4, "chest", "chest", bend=14, drop=0.10, nod=10),
        quick=True,
    ),
    "head_bang": _move(
        "throws the head and the upper body down and up",
        0.8,
        "rock krump dnb",
        K(1, "bent", "bent", bend=30, nod=28, drop=0.08, pitch=8),
        K(2, "low", "low", bend=-6, nod=-16, drop=0.02),
        K(3, "bent", "bent", bend=30, nod=28, drop=0.08, pitch=8, wind=14),
        K(4, "low", "low", bend=-6, nod=-12, drop=0.02),
    ),
    "drop_low": _move(
        "drops low and rises again",
        0.6,
        "hiphop krump break dnb latin",
        K(1, "cross_low", "cross_low", lf=F(S + 0.10, 0.02, 25), rf=STAY, drop=0.22, bend=16, pitch=8, shift=0.04),
        K(2, "hip", "hip", rf=F(-S - 0.10, 0.02, -25), drop=0.36, bend=20, pitch=12, fore=-0.06, nod=-12),
        K(3, "out_low", "out_low", drop=0.30, shift=0.07, roll=4, bend=16, pitch=10, fore=-0.05, nod=-8),
        K(4, "chest", "chest", lf=HOME, rf=HOME, drop=0.04),
        pace=0.42,
    ),
    "lunge": _move(
        "lunges to the {side} and then to the {other}",
        0.7,
        "jazz rock krump break funk",
        K(1, "point_side", "chest", lf=F(S + 0.42, 0.04, 35), shift=0.24, drop=0.21, roll=2, side=-6, look=25),
        K(2, "chest", "chest", lf=HOME, drop=0.03),
        K(3, "chest", "point_side", rf=F(-S - 0.42, 0.04, -35), shift=-0.24, drop=0.21, roll=-2, side=6, look=-25),
        K(4, "chest", "chest", rf=HOME, drop=0.03),
        pace=0.42,
    ),
    # --- arms in front
    "lock": _move(
        "locks the arms, then points to the {side}",
        0.65,
        "funk break disco hiphop",
        K(1, "lock", "lock", bend=14, drop=0.10, nod=6),
        K(2, "point_side", "hip", lf=F(S + 0.14, 0.06, 20), shift=0.09, drop=0.07, side=-6, look=35, wind=12),
        K(3, "clap", "clap", drop=0.03, bend=6),
        K(4, "lock", "lock", lf=HOME, bend=16, drop=0.10, nod=8),
    ),
    "pump": _move(
        "pumps one fist in the air, {side} first",
        0.75,
        "rock house dnb hiphop pop",
        K(1, "up", "bent", shift=0.06, drop=0.02, roll=-4, side=-7, look=8, nod=-10),
        K(2, "guard", "bent", drop=0.09, bend=6),
        K(3, "up", "bent", shift=0.06, drop=0.02, roll=-4, side=-7, nod=-10),
        K(4, "guard", "bent", drop=0.08, bend=6),
        quick=True,
    ),
    "punch": _move(
        "punches forward, {side} then {other}",
        0.8,
        "krump rock break dnb",
        K(1, "front", "guard", lf=F(S + 0.04, 0.22, 8), fore=0.10, drop=0.10, twist=-14, wind=-24, bend=6),
        K(2, "guard", "front", drop=0.11, fore=0.08, twist=10, wind=26, bend=8),
        K(3, "front", "guard", drop=0.12, fore=0.10, twist=-12, wind=-26, bend=8),
        K(4, "guard", "guard", lf=HOME, drop=0.04),
    ),
    "arm_circle": _move(
        "swings the {side} arm in a big circle",
        0.5,
        "jazz disco house reggae",
        K(1, "front_low", "hip", shift=0.04, wind=-10, drop=0.03, flow=0.2),
        K(2, "up", "hip", shift=0.0, side=4, nod=-10, drop=0.02, flow=0.3),
        K(3, "side", "hip", shift=0.07, side=-8, look=24, drop=0.06, flow=0.2),
        K(4, "low", "low", drop=0.02),
    ),
    "port_de_bras": _move(
        "opens the arms and extends the {side} leg behind",
        0.45,
        "jazz",
        K(1, "front_low", "front_low", drop=0.07, bend=6, shift=-0.03),
        K(
            2,
            "side",
            "up",
            lf=F(0.08, -0.58, 10, 0.14, 60),
            shift=-0.09,
            fore=0.05,
            drop=0.04,
            pitch=10,
            bend=-6,
            nod=-6,
        ),
        K(
            3,
            "v",
            "side",
            lf=F(0.08, -0.60, 10, 0.18, 62),
            shift=-0.09,
            fore=0.05,
            drop=0.02,
            pitch=12,
            bend=-8,
            wind=8,
        ),
        K(4, "low", "low", lf=HOME, drop=0.03),
    ),
    # --- kicks, stomps, jumps
    "kick": _move(
        "kicks forward, {side} leg first",
        0.75,
        "pop rock house disco break funk",
        K(
            1,
            "swing_back",
            "swing_fwd",
            lf=F(S - 0.05, 0.52, 3, 0.40, 12),
            shift=-0.08,
            fore=-0.03,
            drop=0.05,
            pitch=-6,
            bend=4,
        ),
        K(2, "bent", "bent", lf=HOME, drop=0.06),
        K(
            3,
            "swing_fwd",
            "swing_back",
            rf=F(-S + 0.05, 0.52, -3, 0.40, 12),
            shift=0.08,
            fore=-0.03,
            drop=0.05,
            pitch=-6,
            bend=4,
        ),
        K(4, "bent", "bent", rf=HOME, drop=0.06),
        pace=0.4,
    ),
    "side_kick": _move(
        "kicks out to the {side} and then to the {other}",
        0.8,
        "jazz krump break dnb",
        K(1, "side", "guard", lf=F(S + 0.46, 0.06, 14, 0.36, 10), shift=-0.08, drop=0.05, roll=-10, side=12),
        K(2, "guard", "guard", lf=HOME, drop=0.07),
        K(3, "guard", "side", rf=F(-S - 0.46, 0.06, -14, 0.36, 10), shift=0.08, drop=0.05, roll=10, side=-12),
        K(4, "guard", "guard", rf=HOME, drop=0.07),
        pace=0.4,
    ),
    "stomp": _move(
        "lifts the {side} knee and stomps",
        0.8,
        "krump hiphop rock dnb reggae",
        K(1, "cactus", "cactus", lf=F(S + 0.06, 0.18, 14, 0.36, 5), shift=-0.07, drop=0.05, bend=-4, roll=-5),
        K(2, "lock", "lock", lf=F(S + 0.14, 0.06, 20), shift=0.06, drop=0.16, bend=18, nod=8),
        K(3, "cactus", "cactus", rf=F(-S - 0.06, 0.18, -14, 0.36, 5), shift=0.09, drop=0.05, bend=-4, roll=5),
        K(4, "lock", "lock", lf=HOME, rf=HOME, drop=0.13, bend=14, nod=8),
    ),
    "jump": _move(
        "jumps up with both arms in the air",
        0.95,
        "pop house rock dnb disco",
        K(1, "swing_back", "swing_back", drop=0.20, bend=18, pitch=8, fore=-0.04),
        K(2, "up", "up", drop=0.15, bend=6, hop=1.0),
        K(3, "swing_back", "swing_back", drop=0.20, bend=18, pitch=8, fore=-0.04),
        K(4, "up", "up", drop=0.12, bend=4, hop=1.0),
        pace=0.42,
    ),
    "jumping_jack": _move(
        "hops the feet apart and together while both arms swing out and in",
        0.95,
        "pop house disco dnb",
        K(1, "v", "v", lf=F(S + 0.22, 0, 18), rf=F(-S - 0.22, 0, -18), drop=0.13, hop=0.55),
        K(2, "low", "low", lf=HOME, rf=HOME, drop=0.10, hop=0.55),
        K(3, "v", "v", lf=F(S + 0.22, 0, 18), rf=F(-S - 0.22, 0, -18), drop=0.13, hop=0.55),
        K(4, "low", "low", lf=HOME, rf=HOME, drop=0.10, hop=0.55),
        pace=0.36,
    ),
    "scissor_hop": _move(
        "hops with one foot in front and one behind, {side} first",
        0.85,
        "house dnb break jazz",
        K(1, lf=F(S, 0.22, 5), rf=F(-S, -0.20, -8, 0, 20), drop=0.11, hop=0.5, twist=-10, wind=12),
        K(2, lf=F(S, -0.20, 8, 0, 20), rf=F(-S, 0.22, -5), drop=0.11, hop=0.5, twist=10, wind=-12),
        K(3, lf=F(S, 0.22, 5), rf=F(-S, -0.20, -8, 0, 20), drop=0.11, hop=0.5, twist=-10, wind=12),
        K(4, lf=HOME, rf=HOME, drop=0.08, hop=0.5),
    ),
    "side_hop": _move(
        "hops to the {side} and back with both feet together",
        0.85,
        "house pop rock dnb disco hiphop",
        K(1, lf=F(S + 0.30, 0, 10), rf=F(-S + 0.30, 0, -10), shift=0.30, drop=0.11, hop=0.55, bend=6),
        K(2, drop=0.03, shift=0.28),
        K(3, lf=F(S, 0, 10), rf=F(-S, 0, -10), drop=0.11, hop=0.55, bend=6),
        K(4, drop=0.03),
        pace=0.34,
    ),
    "chasse": _move(
        "gallops to the {side}",
        0.75,
        "jazz pop disco house latin",
        K(1, lf=F(S + 0.26, 0.02, 15), shift=0.18, drop=0.09, roll=3),
        K(2, lf=F(S + 0.50, 0.02, 15), rf=F(S + 0.10, 0, -10), shift=0.40, drop=0.09, hop=0.45),
        K(3, lf=F(S + 0.58, 0.02, 15), rf=F(S + 0.28, 0, -10), shift=0.54, drop=0.09, hop=0.35),
        K(4, rf=HOME, lf=HOME, lat=0.55, drop=0.03),
        pace=0.34,
    ),
    "leap": _move(
        "leaps from foot to foot, {side} first",
        0.9,
        "jazz krump break house rock",
        K(
            1,
            "side",
            "across_low",
            lf=F(S + 0.34, 0.02, 15),
            rf=F(-0.02, -0.16, 0, 0.14, 40),
            shift=0.38,
            drop=0.12,
            hop=0.6,
            roll=-4,
        ),
        K(2, "bent", "bent", rf=F(0.14, 0.0, -8), shift=0.28, drop=0.10),
        K(
            3,
            "across_low",
            "side",
            rf=F(-S - 0.14, 0.02, -15),
            lf=F(0.10, -0.16, 0, 0.14, 40),
            shift=-0.20,
            drop=0.12,
            hop=0.6,
            roll=4,
        ),
        K(4, "bent", "bent", lf=HOME, rf=HOME, drop=0.05),
        pace=0.4,
    ),
    # --- turns and stillness
    "spin": _move(
        "winds up and spins round to the {side} on one foot",
        0.75,
        "jazz funk disco hiphop break latin",
        K(1, "across_low", "low", twist=-20, wind=-18, drop=0.11, shift=-0.06, look=10),
        K(2, "chest", "chest", lf=F(0.14, 0.04, 0, 0.16, 20), rf=PIVOT, lat=-S, turn=180, drop=0.03, look=15, flow=0.6),
        K(3, "chest", "chest", lf=F(2 * S, 0, 12), rf=PIVOT, lat=-S, turn=360, drop=0.06, shift=0.04, look=5),
        K(4, "out_low", "out_low", turn=360, drop=0.06, bend=4),
        pace=0.48,
    ),
    "walk_round": _move(
        "walks round in a small circle to the {side}",
        0.45,
        "hiphop reggae latin pop rock funk",
        K(1, lf=F(S, 0.06, 45), turn=60, drop=0.03),
        K(2, lf=HOME, rf=HOME, turn=150, drop=0.04),
        K(3, lf=HOME, rf=HOME, turn=255, drop=0.03),
        K(4, lf=HOME, rf=HOME, turn=360, drop=0.04),
        pace=0.4,
    ),
    "half_turn": _move(
        "jumps round to the back and round to the front by the {side}",
        0.9,
        "break krump house hiphop",
        K(1, "swing_back", "swing_back", drop=0.18, bend=14, wind=-16),
        K(2, "out_low", "out_low", lf=HOME, rf=HOME, turn=180, drop=0.16, bend=8, hop=0.9),
        K(3, "swing_back", "swing_back", turn=180, drop=0.18, bend=14, wind=-16),
        K(4, "out_low", "out_low", lf=HOME, rf=HOME, turn=360, drop=0.14, bend=8, hop=0.9),
        pace=0.5,
    ),
    "freeze": _move(
        "strikes a pose to the {side} and holds it",
        0.6,
        "",
        K(1, "point_up", "hip", lf=F(S + 0.22, 0.06, 25), shift=-0.06, drop=0.10, roll=-5, side=-8, look=20, nod=-10),
        K(2, "point_up", "hip", shift=-0.07, drop=0.11, roll=-5, side=-9, look=22, nod=-8),
        K(3, "point_up", "hip", shift=-0.06, drop=0.10, roll=-5, side=-8, look=20, nod=-10),
        K(4, "low", "low", lf=HOME, drop=0.03),
    ),
    "b_boy_stance": _move(
        "crosses the arms, leans back and holds it",
        0.55,
        "break hiphop krump",
        K(1, "cross_low", "cross_low", lf=F(S + 0.12, 0.08, 25), drop=0.06, bend=10),
        K(2, "cross", "cross", rf=F(-S - 0.10, -0.02, -25), fore=-0.05, drop=0.09, bend=-14, look=18, tilt=8),
        K(3, "cross", "cross", fore=-0.06, drop=0.10, bend=-15, look=20, tilt=8),
        K(4, "low", "low", lf=HOME, rf=HOME, drop=0.03),
    ),
}
