"""The choreographer: chooses moves that suit a song's style and sections, and turns them into a dance on its beats."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from zoo.data.world.dancer import Poses, Traits, crouch, flight, perform
from zoo.data.world.moves import MOVES
from zoo.data.world.poses import ARM_PATTERNS, ARMS, HOME, PIVOT, SCALARS, STANCE, STAY, Foot, mirror

FPS = 30
FAST = 138.0  # BPM from which a count lasts two beats
LENGTHS = {"shift", "fore", "drop"}  # the rest of SCALARS are angles
PHRASE = 4  # counts
BALL = 0.07  # the ball of a foot at home lies this far ahead of the pelvis, m, as in SMPL's rest pose


@dataclass(frozen=True)
class Dance:
    """A motion and what is danced in it.

    motion float32 torch (T, 151) at 30 Hz, as long as the song; moves [(start_s, stop_s, name, side, energy, words)] in
    order, from the first beat to the end: side "left" or "right", energy 0..1, words of the motion and not of looks.
    """

    motion: torch.Tensor
    moves: list


@dataclass(frozen=True)
class _Choice:
    """One move as it will be danced, for one or two phrases (the second one mirrored or repeated)."""

    name: str
    side: str
    phrases: int
    mirrored: bool
    arms: object  # an ArmPattern, or None where the move brings its own
    size: float
    quick: bool
    drift: tuple  # heading, degrees

    def words(self, side):
        """What is danced when the move is done to a side, as the end of a sentence about the dancer."""
        other = "right" if side == "left" else "left"
        words = MOVES[self.name].words.format(side=side, other=other)
        if self.arms is not None:
            words += f" and {self.arms.words}"
        if self.size > 1.12:
            words += ", with big movements"
        elif self.size < 0.82:
            words += ", with small movements"
        return words


def choreograph(song, seed):
    """Makes a dance to a song. song: `zoo.data.world.song.Song`; seed: any int, another one gives another dance."""
    rng = np.random.default_rng([seed, 0xDA2CE])
    stage = _Stage(rng, 60.0 / song.bpm, float(song.beats[0]) if len(song.beats) else 0.0)
    total = int(np.ceil((song.seconds - stage.first) / stage.beat_seconds))
    taste = {name: float(np.exp(0.5 * rng.standard_normal())) for name in MOVES}
    bold = rng.uniform(0.8, 1.2)
    repertoire, recent, moves = {}, [], []  # a section that comes again may be danced as it was before
    for index, (_, stop, name, energy) in enumerate(song.sections):
        last = index == len(song.sections) - 1
        end = total if last else int(round((stop - stage.first) / stage.beat_seconds))
        known = repertoire.setdefault(name, []) if rng.random() < 0.6 else []
        step = 0
        while stage.now < end:
            count = 2 if song.bpm >= FAST else 1
            room = -(-(end - stage.now) // (PHRASE * count))
            if step < len(known):
                choice = known[step]
            else:
                choice = _choose(rng, song, energy, taste, bold, recent)
                known.append(choice)
            step += 1
            if choice.phrases > room:
                choice = replace(choice, phrases=1)
            count = 1 if choice.quick else count
            recent = [*recent[-5:], choice.name]
            for start, stop, side in stage.dance(choice, count, end if not last else total + 1000, energy):
                begin, finish = (stage.first + beat * stage.beat_seconds for beat in (start, stop))
                if begin < song.seconds:
                    strength = float(MOVES[choice.name].energy)
                    moves.append((begin, min(finish, song.seconds), choice.name, side, strength, choice.words(side)))
    frames = int(np.floor(song.seconds * FPS + 1e-9))
    motion = perform(stage.poses(), _traits(rng), stage.first, song.bpm, frames, FPS)
    return Dance(motion, moves)


def _choose(rng, song, energy, taste, bold, recent):
    """Draws a move by style, energy, the dancer's taste, and what was just danced."""
    weights = []
    count = 60 / song.bpm * (2 if song.bpm >= FAST else 1)
    for name, move in MOVES.items():
        suits = 0.0 if count < move.pace else 0.5 if not move.styles else 6.0 if song.style in move.styles else 0.02
        fits = np.exp(-(((move.energy - energy) / 0.15) ** 2)) + 0.01
        stale = 0.08 if name in recent[-2:] else 0.4 if name in recent else 1.0
        weights.append(suits * fits * stale * taste[name])
    weights = np.array(weights)
    name = str(rng.choice(list(MOVES), p=weights / weights.sum()))
    move = MOVES[name]
    arms = None
    if not move.arms:
        fits = np.array([np.exp(-(((arm.energy - energy) / 0.3) ** 2)) + 0.05 for arm in ARM_PATTERNS])
        arms = ARM_PATTERNS[rng.choice(len(ARM_PATTERNS), p=fits / fits.sum())]
    return _Choice(
        name,
        "left" if rng.random() < 0.8 else "right",  # most dancers set out with the left foot
        2 if rng.random() < 0.85 else 1,
        bool(rng.random() < 0.75),
        arms,
        float(np.clip(bold * rng.uniform(0.85, 1.15) * (0.75 + 0.4 * energy), 0.6, 1.25)),
        bool(move.quick and rng.random() < 0.3 + 0.5 * (energy > 0.6)),
        float(rng.normal(0, 16)),
    )


def _traits(rng):
    size = np.where([name in LENGTHS for name in SCALARS], 0.006, 1.5)
    return Traits(
        bounce=rng.uniform(0.03, 0.06),
        sway=rng.uniform(0.012, 0.035),
        lean=rng.uniform(-2, 8),
        knees=rng.uniform(0.015, 0.05),
        lag=rng.uniform(0.0, 0.035),
        nod=rng.uniform(3, 11),
        phase=int(rng.choice([-1, 1])),
        wobble=np.stack([rng.uniform(0.05, 0.25, 12), rng.random(12), size * rng.uniform(0.3, 1.0, 12)]),
    )


class _Stage:
    """Where the dancer is while the dance is being made: home point, heading, feet; and the poses so far."""

    def __init__(self, rng, beat_seconds, first):
        self.rng, self.beat_seconds, self.first = rng, beat_seconds, first
        self.stance = rng.uniform(0.10, 0.15)
        self.home = rng.uniform(-0.2, 0.2, 2)
        self.heading = float(rng.normal(0, 12))
        self.now = 0  # beat
        self.rows = []
        feet = [self._foot(side, HOME, self.home, self.heading, None, 1.0) for side in (0, 1)]
        for beat in (-4.0, 0.0):
            self._add(beat, {}, self.home, self.heading, feet, ((0, 1), (0, 1)), 0, 0, 0.3, ("down", "down"), 1.0, 0.0)

    def dance(self, choice, count, end, energy):
        """Adds the poses of a choice from the present beat on, `count` beats a count, never past beat `end`.

        Returns [(first beat, last beat, side)] of its phrases.
        """
        move, danced = MOVES[choice.name], []
        jitter = self.rng.normal(0, 0.07, (2, 2, 3))
        for phrase in range(choice.phrases):
            if self.now >= end:
                break
            left = (choice.side == "left") != (phrase % 2 == 1 and choice.mirrored)
            counts = min(PHRASE, (end - self.now) / count)
            keys = [key for key in move.keys if key.t <= counts]
            if not keys:  # less than one count is left: a plain return home
                counts, keys = (end - self.now) / count, [replace(move.keys[-1], t=(end - self.now) / count)]
            lat = keys[-1].lat if left else -keys[-1].lat
            if abs(lat) > 0.2 and abs((self.home + _turn(self.heading, (lat, 0)))[0]) > 0.85:
                left = not left  # rather to the side where there is room
            keys = [key if left else mirror(key) for key in keys]
            self._phrase(choice, keys, counts, count, energy, jitter, left)
            was, self.now = self.now, int(round(self.now + counts * count))
            danced.append((was, self.now, "left" if left else "right"))
        return danced

    def _phrase(self, choice, keys, counts, count, energy, jitter, left):
        home0, heading0 = self.home, self.heading
        turns = any(key.turn for key in keys)
        size = choice.size
        # A dancer who has wandered off or turned away comes back: the home point moves under the steps of the phrase.
        wander = -0.5 * home0 if np.linalg.norm(home0) > 0.3 else np.zeros(2)
        facing = choice.drift - (heading0 - 360 * round(heading0 / 360))
        for key in keys:
            part = key.t / counts
            stretch = 1.0 if turns else size
            home = home0 + part * wander + _turn(heading0, (key.lat * stretch, key.ahead * stretch))
            heading = heading0 + key.turn + part * facing
            last = key is keys[-1]
            feet = [
                self._foot(side, HOME if last else foot, home, heading, self.feet[side], size)
                for side, foot in enumerate((key.lf, key.rf))
            ]
            body = {name: value * (size if name != "drop" else 0.5 + 0.5 * size) for name, value in key.body.items()}
            if choice.arms is not None:
                index = int(np.ceil(key.t)) - 1
                arms = choice.arms.counts[index % len(choice.arms.counts)]
                arms = arms if left else arms[::-1]
            else:
                arms = (key.left, key.right)
            beat = self.now + key.t * count
            hop = key.hop * min(size, 1.0)
            if hop:
                depth = crouch(hop, (beat - self.rows[-1]["beat"]) * self.beat_seconds)
                drop = SCALARS.index("drop")
                self.rows[-1]["body"][drop] = max(self.rows[-1]["body"][drop], depth)
                body["drop"] = max(body.get("drop", 0.0), depth)
            span = self._spans(feet, bool(hop), (beat - self.rows[-1]["beat"]) * self.beat_seconds, hop)
            self._add(beat, body, home, heading, feet, span, hop, key.flow, 0.35 + 0.7 * energy, arms, size, jitter)
        self.home, self.heading = home, heading

    def _foot(self, side, foot, home, heading, before, size):
        """World state (x, z, yaw, height, heel) of a foot that a pose asks for."""
        sign = 1.0 if side == 0 else -1.0
        if foot == STAY:
            if before[3] > 0.02 or abs(before[2] - heading) < 55:
                return before
            foot = HOME
        if foot == PIVOT:
            return np.array([before[0], before[1], heading + sign * 6, 0.0, 16.0])
        if foot == HOME:
            foot = Foot(sign * self.stance, 0.0, sign * 10)
            size = 1.0
        x = sign * STANCE + (foot.x - sign * STANCE) * size if size != 1.0 else foot.x
        ground = home + _turn(heading, (x, BALL + foot.z * size))
        return np.array([*ground, heading + foot.yaw, foot.height * min(size, 1.1), foot.heel])

    def _spans(self, feet, hopping, seconds, hop):
        """When, between the last pose and this one, each foot moves: never both at once, but in a hop."""
        if hopping:
            air, _ = flight(hop, seconds)
            inset = (1 - air / seconds) / 2
            return ((inset, 1 - inset),) * 2
        moved = [np.hypot(*(new[:2] - old[:2])) for new, old in zip(feet, self.feet, strict=True)]
        if min(moved) < 0.012:
            return ((0.0, 1.0),) * 2
        airborne = [old[3] for old in self.feet]
        first = int(np.argmax(airborne)) if max(airborne) > 0.02 else int(np.argmax(moved))
        return ((0.0, 0.52), (0.48, 1.0)) if first == 0 else ((0.48, 1.0), (0.0, 0.52))

    def _add(self, beat, body, home, heading, feet, span, hop, flow, groove, arms, size, jitter):
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

    def poses(self):
        """All poses so far as arrays."""
        return Poses(**{name: np.array([row[name] for row in self.rows], float) for name in self.rows[0]})


def _turn(heading, ground):
    """A vector (x, z) of the body frame as seen from the stage, heading in degrees to the left."""
    c, s = np.cos(np.radians(heading)), np.sin(np.radians(heading))
    return np.array([c * ground[0] + s * ground[1], -s * ground[0] + c * ground[1]])
