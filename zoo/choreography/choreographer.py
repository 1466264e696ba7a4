"""The choreographer for any song: chooses moves by the song's sound, and places them on its beats (not in a paper).

The song is cut into blocks of two bars. Each block's sound (timbre, harmony, rhythm, loudness) decides its move, arms
and size, by weights that the seed draws: equal sounds give equal moves, another seed draws other weights. No random
number depends on the song, so that another encoding of a song gives the same dance. Sides belong to the dancer: near
a threshold, a slightly different sound would mirror all that follows.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.batch import MOTION_FPS
from zoo.choreography.dancer import perform
from zoo.choreography.floor import FAST_BPM, PHRASE_COUNTS, Dance, FloorState, MoveChoice, draw_traits
from zoo.choreography.moves import MOVES
from zoo.choreography.poses import ARM_PATTERNS, Move
from zoo.choreography.styles import STYLES, style_probabilities
from zoo.music.structure import ONSET_COLUMNS, SongStructure

BLOCK_BARS = {4: 2, 3: 4}  # bars of a block, by the beats of a bar: phrases of four counts fill it
SLOW_ENERGY = 0.32  # below it, a count lasts two beats
MIN_COUNT_SECONDS = 0.30  # of a count; quicker counts last two beats
SONG_GAIN, BLOCK_GAIN = 1.2, 1.4  # standard deviations of a move's score: by the song, and by the block within it
PREFERENCE = 0.4  # standard deviation of the dancer's liking of each move
MATCH_SCORE = 25.0  # of a move that the prompt names
ENERGY_PER_DB = 0.10  # loudness to energy: 6 dB halve the speed
ENERGY_RANGE = (0.05, 0.97)
MIN_ENERGY_WEIGHT = 1e-4  # of any move at any energy; at 0.01 a quiet block may get a kick, for its style
ONSET_STRENGTH_RANGE = (0.6, 1.9)  # dB a frame, of calm and of lively songs
LOUD_ENERGY_RANGE = (0.65, 0.92)  # of the loud parts of calm and of lively songs
SIZE_RANGE = (0.4, 1.4)  # of the movements; 1 is as the moves are written
NOVELTY = {1: -5.0, 2: -3.0, 3: -1.5, 4: -1.0, 5: -0.6}  # score of a move that was danced so many blocks ago
STOP_WORDS = frozenset(
    "a an and the to of in on with both from side left right first then one other dancer dances dance "
    "dancing person someone while is are his her their its it does do up down".split()
)


@dataclass(frozen=True)
class _Block:
    """Consecutive beats with one move: [start, stop) in beats of the structure."""

    start: int
    stop: int
    is_silent: bool
    is_pickup: bool  # the beats after a silence and before its first downbeat
    begins_section: bool


@dataclass(frozen=True)
class PromptMatch:
    """Names of moves and indices of arm patterns that a prompt names; both empty where it names none."""

    moves: frozenset[str]
    arms: frozenset[int]


def match_prompt(prompt: str) -> PromptMatch:
    """The moves and arm patterns whose name or words share the most words with a prompt."""
    words = _stems(prompt)
    moves = {name: len(words & _stems(f"{name.replace('_', ' ')} {move.words}")) for name, move in MOVES.items()}
    arms = {index: len(words & _stems(pattern.words)) for index, pattern in enumerate(ARM_PATTERNS)}
    best = max(1, *moves.values(), *arms.values())
    return PromptMatch(
        frozenset(name for name, score in moves.items() if score == best),
        frozenset(index for index, score in arms.items() if score == best),
    )


def _stems(text: str) -> set[str]:
    words = re.findall(r"[a-z]+", text.lower())
    stems = set()
    for word in words:
        if word in STOP_WORDS:
            continue
        for ending in ("ing", "es", "ed", "s", "e"):
            if word.endswith(ending) and len(word) - len(ending) >= 3:
                word = word[: -len(ending)]
                break
        if len(word) > 3 and word[-1] == word[-2]:
            word = word[:-1]  # hopping, stepping
        stems.add(word)
    return stems


class Choreographer:
    """Generates dances to any song. The seed decides the dancer's body, manner and weights."""

    def __init__(self, seed: int, style: str | None = None, prompt: str = ""):
        """style: one of `STYLES`; None chooses it from each song. Raises ValueError for an unknown style."""
        if style is not None and style not in STYLES:
            raise ValueError(f"there is no style {style}; use one of {', '.join(STYLES)}")
        self.seed, self.style = seed, style
        self.match = match_prompt(prompt)

    def dance(self, song: SongStructure, num_frames: int) -> Dance:
        """A dance of `num_frames` frames at 30 Hz."""
        taste = _Taste(self.seed, song.descriptors.shape[1])
        styles = style_probabilities(song, self.style)
        beat_seconds = song.beat_seconds
        beat_offset = -song.first_downbeat % song.meter  # beat 0 of the structure in a count from a downbeat on
        floor_state = FloorState(np.random.default_rng([self.seed, 1]), beat_seconds, groove=0.0)
        song_mean, spread = _song_moments(song)
        loud_energy = float(np.interp(song.onset_strength, ONSET_STRENGTH_RANGE, LOUD_ENERGY_RANGE))
        recent: list[str] = []
        moves = []
        if beat_offset:
            floor_state.rest(beat_offset)
        for block in _blocks(song):
            end_beat = block.stop + beat_offset
            if block.is_silent or block.is_pickup:
                floor_state.rest(end_beat, 2.0 if block.is_silent else 1.0)
                continue
            if block.begins_section:
                recent = []
            block_beats = slice(block.start, block.stop)
            is_sounding = ~song.silent[block_beats]
            descriptor = song.descriptors[block_beats][is_sounding].mean(0)
            loudness = 10 * np.log10(np.mean(10 ** (song.loudness[block_beats][is_sounding] / 10)))
            onsets = float(np.clip(descriptor[ONSET_COLUMNS].mean() - song_mean[ONSET_COLUMNS].mean(), -1, 1))
            energy = float(np.clip(loud_energy + ENERGY_PER_DB * loudness + 0.1 * onsets, *ENERGY_RANGE))
            features = np.concatenate(
                [SONG_GAIN * song_mean, BLOCK_GAIN * np.clip((descriptor - song_mean) / spread, -2, 2)]
            )
            choice, count = self._choose(taste, features, energy, styles, beat_seconds, song.meter, recent)
            recent = [choice.name, *recent[:4]]
            while floor_state.current_beat < end_beat:
                floor_state.rng = np.random.default_rng([self.seed, 2, list(MOVES).index(choice.name)])
                for start_beat, stop_beat, side in floor_state.add_move(choice, count, end_beat, 1.3 * energy - 0.3):
                    start_time, stop_time = (
                        song.times[min(beat - beat_offset, len(song.times) - 1)] for beat in (start_beat, stop_beat)
                    )
                    if start_time < num_frames / MOTION_FPS:
                        words = choice.words(side)
                        moves.append(
                            (float(start_time), float(stop_time), choice.name, side, MOVES[choice.name].energy, words)
                        )
        floor_state.rest(len(song.times) + beat_offset + 8)
        frame_times = np.arange(num_frames) / MOTION_FPS
        beat_positions = np.interp(frame_times, song.times, np.arange(len(song.times)) + beat_offset)
        motion = perform(floor_state.poses(), taste.traits, beat_positions, beat_seconds, MOTION_FPS)
        return Dance(motion, moves)

    def _choose(
        self,
        taste: "_Taste",
        features: np.ndarray,
        energy: float,
        styles: dict[str, float],
        beat_seconds: float,
        meter: int,
        recent: Sequence[str],
    ) -> tuple[MoveChoice, int]:
        """The move of a block, and the beats of a count."""
        is_slow = beat_seconds < 60 / FAST_BPM or (energy < SLOW_ENERGY and beat_seconds < 0.9)
        slow_count = 3 if meter == 3 else 2  # a waltz's count is a bar
        count = slow_count if is_slow else 1
        scores = taste.scores("moves", features) + taste.preferences
        for index, (name, move) in enumerate(MOVES.items()):
            scores[index] += np.log(np.exp(-(((move.energy - energy) / 0.18) ** 2)) + MIN_ENERGY_WEIGHT)
            scores[index] += np.log(_style_weight(move, styles))
            if name in recent:
                scores[index] += NOVELTY[recent.index(name) + 1]
            if name in self.match.moves:
                scores[index] += MATCH_SCORE
            if self.match.arms and not self.match.moves and move.sets_arms:
                scores[index] -= MATCH_SCORE
            if count * beat_seconds < move.pace and name not in self.match.moves:
                scores[index] -= 10
        name = list(MOVES)[int(np.argmax(scores))]
        move = MOVES[name]
        if count * beat_seconds < move.pace:
            count = slow_count
        quick = bool(count == 2 and move.quick and energy > 0.6 and beat_seconds > MIN_COUNT_SECONDS)
        arm_pattern = None
        if not move.sets_arms:
            arm_scores = taste.scores("arms", features)
            for index, pattern in enumerate(ARM_PATTERNS):
                arm_scores[index] += np.log(np.exp(-(((pattern.energy - energy - 0.08) / 0.25) ** 2)) + 0.05)
                if index in self.match.arms:
                    arm_scores[index] += MATCH_SCORE
            arm_pattern = ARM_PATTERNS[int(np.argmax(arm_scores))]
        drift_score, size_score = taste.scores("manner", features)
        side, mirrored = taste.sides[name]
        return (
            MoveChoice(
                name,
                side,
                2 if count == 1 or quick else 1,
                mirrored,
                arm_pattern,
                float(np.clip(taste.size * (1 + 0.08 * np.clip(size_score, -2, 2)) * (0.4 + energy), *SIZE_RANGE)),
                quick,
                float(np.clip(12 * drift_score, -30, 30)),
            ),
            1 if quick else count,
        )


class _Taste:
    """A dancer's random weights of the descriptor for each decision, its preferences, and its manner."""

    def __init__(self, seed: int, dim: int):
        rng = np.random.default_rng([seed, 0xDA2CE])
        sizes = {"moves": len(MOVES), "arms": len(ARM_PATTERNS), "manner": 2}
        self.weights = {name: rng.standard_normal((2 * dim, size)) / np.sqrt(dim) for name, size in sizes.items()}
        self.preferences = PREFERENCE * rng.standard_normal(len(MOVES))
        self.sides = {name: ("left" if rng.random() < 0.8 else "right", bool(rng.random() < 0.8)) for name in MOVES}
        self.size = rng.uniform(0.95, 1.15)
        self.traits = draw_traits(np.random.default_rng([seed, 0x7A175]))

    def scores(self, name: str, features: np.ndarray) -> np.ndarray:
        """A score for each choice of a decision."""
        return features @ self.weights[name]


def _song_moments(song: SongStructure) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the descriptor, and its deviation within the song, of a bar."""
    rows = song.descriptors[~song.silent]
    if not len(rows):
        return np.zeros(song.descriptors.shape[1]), np.ones(song.descriptors.shape[1])
    return rows.mean(0), 0.7 * rows.std(0) + 0.1


def _style_weight(move: Move, styles: dict[str, float]) -> float:
    """Weight of a move: 6 in its styles, 0.5 in all if it belongs to none, little in others."""
    if not move.styles:
        return 0.5
    return 0.02 + 6 * sum(probability for style, probability in styles.items() if style in move.styles)


def _blocks(song: SongStructure) -> Iterator[_Block]:
    """Cut a song at silences and section boundaries, then into blocks of two bars from each boundary on."""
    num_beats = len(song.silent)
    silence_edges = [beat for beat in range(1, num_beats) if song.silent[beat] != song.silent[beat - 1]]
    edges = sorted({0, num_beats, *silence_edges, *song.boundaries})
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        if song.silent[start]:
            yield _Block(start, stop, True, False, True)
            continue
        position = start + min((song.first_downbeat - start) % song.meter, stop - start)
        if position > start:
            yield _Block(start, position, False, True, True)
        begins_section = True
        while position < stop:
            length = BLOCK_BARS[song.meter] * song.meter
            if stop - position - length < PHRASE_COUNTS // 2:
                length = stop - position
            end = min(position + length, stop)
            yield _Block(position, end, False, False, begins_section)
            position, begins_section = end, False
