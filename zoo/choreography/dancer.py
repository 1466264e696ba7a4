"""Motion from the poses of a dance: easing between beats, steps, jumps, groove, and feet that stay on the floor."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from zoo.body import skeleton
from zoo.choreography import ik
from zoo.choreography.poses import SCALARS

OFFSETS = np.asarray(skeleton.OFFSETS, dtype=np.float64)
BALL_HEIGHT = skeleton.FOOT_HEIGHTS[2]  # height of the ball of a flat foot above the floor, m
LEGS = ((1, 4, 7, 10), (2, 5, 8, 11))
ARMS = ((13, 16, 18, 20), (14, 17, 19, 21))
STANDING_HEIGHT = BALL_HEIGHT - sum(OFFSETS[j, 1] for j in LEGS[0])  # pelvis height with straight legs, m
MAX_LEG_EXTENSION = 0.988  # of its length that a standing leg may reach: the knee is never quite straight
GRAVITY = 9.81
STEP_HEIGHT = (0.03, 0.13, 0.11)  # a step lifts the foot by the first plus the second a metre, at most the third, m


@dataclass(frozen=True)
class Traits:
    """The manner of one dancer in every move."""

    bounce: float  # depth of the dip on every beat, m
    sway: float  # width of the hips' sway, m
    lean: float  # degrees the spine leans ahead
    knees: float  # bend of the knees at rest, as pelvis drop, m
    lag: float  # delay of the arms behind the body, s
    nod: float  # degrees the head nods on the beat
    phase: int  # direction of the sway on even beats: 1 or -1
    wobble: np.ndarray  # (3, 12) frequencies Hz, phases, amplitudes (degrees or m) of the drift of `SCALARS`


@dataclass
class Poses:
    """A dance as poses: row k is reached at beat `beat[k]`. World: Y up, x and z on the floor, m; degrees.

    body (K,12) in the order of `SCALARS`; home (K,2); heading (K,); feet (K,2,5) x, z, yaw, height, heel; span (K,2,2)
    the part of the way from the previous pose in which each foot moves; hop, flow, groove (K,); upper, fore (K,2,3) of
    the arms.
    """

    beat: np.ndarray
    body: np.ndarray
    home: np.ndarray
    heading: np.ndarray
    feet: np.ndarray
    span: np.ndarray
    hop: np.ndarray
    flow: np.ndarray
    groove: np.ndarray
    upper: np.ndarray
    fore: np.ndarray


def flight(hop: ArrayLike, seconds: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Seconds in the air and seconds of push for a hop of strength 0..1 within `seconds` between two poses."""
    seconds = np.asarray(seconds)
    air = np.minimum(0.40 * np.sqrt(hop), 0.55 * seconds)
    return air, np.minimum(0.45 * (seconds - air), 0.16)


def crouch(hop: float, seconds: float) -> float:
    """Drop of the pelvis, m, before and after a hop, from which the legs can push it off and catch it."""
    air, push = flight(hop, seconds)
    return float(GRAVITY * air / 2 * push / 2 + 0.02)


def _ease(u: np.ndarray) -> np.ndarray:
    """Minimum-jerk easing: speed and acceleration are 0 at both ends, on the beat."""
    return u**3 * (10 - 15 * u + 6 * u**2)


class _Track:
    """Interpolates rows of values at beats: it stops at each row, or moves through it by its flow (0..1)."""

    def __init__(self, beat: np.ndarray, flow: np.ndarray, times: np.ndarray):
        """beat, flow: of each row; times: to interpolate at, in beats."""
        self.right = np.clip(np.searchsorted(beat, times, side="right"), 1, len(beat) - 1)
        self.left = self.right - 1
        self.interval_beats = (beat[self.right] - beat[self.left])[:, None]
        self.fraction = np.clip((times - beat[self.left])[:, None] / self.interval_beats, 0, 1)
        self.beat, self.flow = beat, flow

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        slopes = np.zeros_like(rows)
        slopes[1:-1] = (rows[2:] - rows[:-2]) / (self.beat[2:] - self.beat[:-2])[:, None] * self.flow[1:-1, None]
        a, b, u = rows[self.left], rows[self.right], self.fraction
        start_slope_basis = u - 6 * u**3 + 8 * u**4 - 3 * u**5
        stop_slope_basis = -4 * u**3 + 7 * u**4 - 3 * u**5
        return (
            a
            + (b - a) * _ease(u)
            + self.interval_beats * (slopes[self.left] * start_slope_basis + slopes[self.right] * stop_slope_basis)
        )


def perform(
    poses: Poses, traits: Traits, beats: np.ndarray, beat_seconds: float | np.ndarray, fps: int = 30
) -> torch.Tensor:
    """Motion of the poses: float32 (T, 151), see `zoo.body.skeleton.pack`.

    beats: (T,) the position in the song at each frame, in beats; beat_seconds: length of a beat, one or (T,).
    """
    num_frames = len(beats)
    seconds = np.arange(num_frames) / fps
    track = _Track(poses.beat, poses.flow, beats)
    delayed_track = _Track(poses.beat, poses.flow, beats - traits.lag / beat_seconds)
    groove = track(poses.groove[:, None])[:, 0]
    body = dict(zip(SCALARS, _with_groove(track(poses.body), groove, beats, seconds, traits).T, strict=True))
    home, heading = track(poses.home), np.radians(track(poses.heading[:, None])[:, 0])

    local = np.broadcast_to(np.eye(3), (num_frames, 24, 3, 3)).copy()
    heading_rotation = ik.rotation(1, heading)
    ground_shift = (heading_rotation @ np.stack([body["shift"], 0 * heading, body["fore"]], -1)[..., None])[..., 0]
    lift, air = _hops(poses, track, beat_seconds)
    root = np.stack(
        [home[:, 0] + ground_shift[:, 0], STANDING_HEIGHT - body["drop"] + lift, home[:, 1] + ground_shift[:, 2]], -1
    )
    pelvis = heading_rotation @ _euler(body["pitch"], body["roll"], body["twist"])
    local[:, 0] = pelvis
    for joint in (3, 6, 9):
        local[:, joint] = _euler(body["bend"] / 3, body["side"] / 3, body["wind"] / 3)
    for joint in (12, 15):
        local[:, joint] = _euler(body["nod"] / 2, body["tilt"] / 2, body["look"] / 2)
    root = _legs(local, pelvis, root, heading, *_feet(poses, track, air))
    _arms(local, poses, delayed_track, groove * traits.nod, beats)

    y_to_z_up = ik.rotation(0, np.pi / 2)
    local[:, 0] = y_to_z_up @ local[:, 0]
    return skeleton.pack(
        torch.from_numpy(local.astype(np.float32)), torch.from_numpy((root @ y_to_z_up.T).astype(np.float32))
    )


def _euler(pitch: np.ndarray, roll: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Rotation matrices of a lean ahead, a lean to the left and a turn to the left, degrees (T,)."""
    pitch, roll, turn = np.radians(pitch), np.radians(roll), np.radians(turn)
    return ik.rotation(1, turn) @ ik.rotation(0, pitch) @ ik.rotation(2, -roll)


def _with_groove(
    body: np.ndarray, groove: np.ndarray, beats: np.ndarray, seconds: np.ndarray, traits: Traits
) -> np.ndarray:
    """Add the continuous motion: dips, sway, nods and slow drift; the gaze stays in front."""
    body = body.copy()
    index = {name: i for i, name in enumerate(SCALARS)}
    dip = (1 + np.cos(2 * np.pi * beats)) / 2 * groove  # lowest on the beat
    swing = traits.phase * np.cos(np.pi * beats) * groove  # at rest on every beat
    rates, phases, amplitudes = traits.wobble
    body += amplitudes * np.sin(2 * np.pi * (rates * seconds[:, None] + phases))
    body[:, index["drop"]] += traits.knees + traits.bounce * dip
    body[:, index["shift"]] += traits.sway * swing
    body[:, index["roll"]] -= 60 * traits.sway * swing
    body[:, index["side"]] += 80 * traits.sway * swing
    body[:, index["wind"]] += 130 * traits.sway * swing
    body[:, index["bend"]] += traits.lean + 60 * traits.bounce * dip
    body[:, index["nod"]] += traits.nod * (dip - 0.4 * groove) - 0.5 * traits.lean
    body[:, index["tilt"]] -= 50 * traits.sway * swing
    turn = body[:, index["twist"]] + body[:, index["wind"]]
    body[:, index["look"]] = np.clip(body[:, index["look"]] - 0.6 * turn, -65, 65)
    return body


def _hops(poses: Poses, track: _Track, beat_seconds: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Extra height of the pelvis (T,) m and height of the feet (T,) m in every hop."""
    hop = poses.hop[track.right]
    interval = track.interval_beats[:, 0] * beat_seconds
    duration, push = flight(hop, interval)
    time = track.fraction[:, 0] * interval - (interval - duration) / 2  # seconds since take-off
    speed = GRAVITY * duration / 2
    air_time = np.clip(time, 0, duration)
    height = speed * air_time - GRAVITY * air_time**2 / 2
    push_off = np.clip(time + push, 0, push)  # constant acceleration up to take-off, and its mirror after landing
    landing = np.clip(duration + push - time, 0, push)
    push_time = np.minimum(push_off, landing)
    extension = speed * push_time**2 / (2 * np.maximum(push, 1e-9))
    is_hopping = hop > 0
    return np.where(is_hopping, extension + height, 0.0), np.where(is_hopping, height, 0.0)


def _feet(poses: Poses, track: _Track, air: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Balls of the feet (T,2,3) m, their yaw and heel angles (T,2) rad, and their contact with the floor (T,2) 0..1."""
    a, b = poses.feet[track.left], poses.feet[track.right]
    span = poses.span[track.right]
    u = np.clip((track.fraction - span[..., 0]) / np.maximum(span[..., 1] - span[..., 0], 1e-6), 0, 1)
    bump = (4 * u * (1 - u)) ** 2
    state = a + (b - a) * _ease(u)[..., None]
    distance = np.hypot(*(np.moveaxis((b - a)[..., :2], -1, 0)))
    is_hopping = (poses.hop[track.right] > 0)[:, None]
    is_stepping = (distance > 0.012) & ~is_hopping
    is_low = np.maximum(a[..., 3], b[..., 3]) < 0.1
    step_lift = np.where(is_low, np.minimum(STEP_HEIGHT[0] + STEP_HEIGHT[1] * distance, STEP_HEIGHT[2]), 0.02)
    height = state[..., 3] + air[:, None] + np.where(is_stepping, step_lift * bump, 0)
    is_turning = (np.abs(b[..., 2] - a[..., 2]) > 8) & ~is_stepping & ~is_hopping & is_low
    heel = state[..., 4] + bump * np.where(is_stepping, 16, np.where(is_hopping, 26, np.where(is_turning, 8, 0)))
    balls = np.stack([state[..., 0], BALL_HEIGHT + height, state[..., 1]], -1)
    contact = 1 - _ease(np.clip((height - 0.005) / 0.06, 0, 1))
    return balls, np.radians(state[..., 2]), np.radians(heel), contact


def _legs(
    local: np.ndarray,
    pelvis: np.ndarray,
    root: np.ndarray,
    heading: np.ndarray,
    balls: np.ndarray,
    yaw: np.ndarray,
    heel: np.ndarray,
    contact: np.ndarray,
) -> np.ndarray:
    """Write hips, knees, ankles and toes into `local`; return the root, lowered until both feet reach the floor."""
    foot_rotation = ik.rotation(1, yaw) @ ik.rotation(0, heel)  # (T, 2, 3, 3)
    ankles, hips, reach = [], [], []
    for side, (hip, knee, ankle, toe) in enumerate(LEGS):
        ankles.append(balls[:, side] - foot_rotation[:, side] @ OFFSETS[toe])
        hips.append(pelvis @ OFFSETS[hip])
        reach.append(ik.leg_reach(OFFSETS[knee], OFFSETS[ankle], MAX_LEG_EXTENSION))

    def excess_height(lowered: np.ndarray | float) -> np.ndarray:
        excess = []
        for side in (0, 1):
            leg = ankles[side] - hips[side] - root
            leg[:, 1] += lowered
            horizontal_distance = np.minimum(np.hypot(leg[:, 0], leg[:, 2]), reach[side] * 0.97)
            height = -leg[:, 1] - np.sqrt(reach[side] ** 2 - horizontal_distance**2)
            excess.append(height * contact[:, side] - (1 - contact[:, side]) * 0.2)
        return np.stack(excess, -1)

    softness = 0.008  # m, of the softplus of both legs
    lowered = softness * np.log1p(np.exp(np.clip(excess_height(0.0) / softness, -60, 60)).sum(-1))
    padded = np.pad(lowered, 3, mode="edge")
    lowered = np.convolve(padded, np.array([1, 6, 15, 20, 15, 6, 1]) / 64, mode="valid")
    lowered = lowered + np.maximum(excess_height(lowered).max(-1), 0)
    root = root - lowered[:, None] * np.array([0.0, 1.0, 0.0])

    for side, (hip, knee, ankle, toe) in enumerate(LEGS):
        target = ankles[side] - hips[side] - root
        distance = np.linalg.norm(target, axis=-1, keepdims=True)
        target = target * np.minimum(1, reach[side] / distance)
        knee_frame = ik.rotation(1, heading + 0.65 * (yaw[:, side] - heading))  # it points between hips and toes
        thigh, flexion = ik.solve_leg(OFFSETS[knee], OFFSETS[ankle], target, knee_frame[..., 2])
        local[:, hip] = np.swapaxes(pelvis, -1, -2) @ thigh
        local[:, knee] = ik.rotation(0, flexion)
        shin = thigh @ local[:, knee]
        local[:, ankle] = np.swapaxes(shin, -1, -2) @ foot_rotation[:, side]
        lifted_heel = contact[:, side] * np.clip(heel[:, side], 0, None)
        local[:, toe] = ik.rotation(0, -0.9 * lifted_heel)  # the toes stay flat when the heel is lifted
    return root


def _arms(local: np.ndarray, poses: Poses, track: _Track, nod: np.ndarray, beats: np.ndarray) -> None:
    """Write collars, shoulders, elbows and wrists into `local`; the elbows bend a little on every beat."""
    for side, (collar, shoulder, elbow, wrist) in enumerate(ARMS):
        sign = 1.0 if side == 0 else -1.0
        rest_direction = ik.unit(OFFSETS[elbow])
        hinge = ik.unit(np.cross(rest_direction, np.array([0.0, 0, 1.0])))
        side_sign = np.array([sign, 1, 1])
        rotation, flexion = ik.solve_arm(
            poses.upper[:, side] * side_sign, poses.fore[:, side] * side_sign, rest_direction, hinge
        )
        q = ik.quaternions(rotation)
        signs = np.cumprod(np.where((q[1:] * q[:-1]).sum(-1) < 0, -1.0, 1.0))
        q[1:] *= signs[:, None]
        upper_arm = ik.matrices(track(q))
        bend = track(flexion[:, None])[:, 0]
        beat_bend = np.radians(0.6 * nod) * np.cos(2 * np.pi * beats)
        bend = np.clip(bend + beat_bend, 0.05, 2.6)
        elevation = np.arcsin(np.clip((upper_arm @ rest_direction)[:, 1], -1, 1))
        local[:, collar] = ik.rotation(2, sign * (0.02 + 0.2 * np.clip(elevation, -0.9, 1.3)))
        local[:, shoulder] = np.swapaxes(local[:, collar], -1, -2) @ upper_arm
        local[:, elbow] = ik.rotation_about(hinge, bend)
        wrist_swing = np.clip(-1.6 * np.gradient(bend), -0.4, 0.4)  # the hand lags behind the forearm
        local[:, wrist] = ik.rotation_about(hinge, 0.12 + np.convolve(wrist_swing, np.ones(3) / 3, mode="same"))
