"""The world's choreographer: draws moves that suit a song's style and sections, and places their poses on its beats."""

from dataclasses import replace

import numpy as np

from zoo.choreography.dancer import perform
from zoo.choreography.floor import FAST_BPM, PHRASE_COUNTS, Dance, FloorState, MoveChoice, draw_traits
from zoo.choreography.moves import MOVES
from zoo.choreography.poses import ARM_PATTERNS
from zoo.data.world.song import Song

FPS = 30


def choreograph(song: Song, seed: int) -> Dance:
    """Make a dance to a song; each seed gives another dance."""
    rng = np.random.default_rng([seed, 0xDA2CE])
    floor = FloorState(rng, 60.0 / song.bpm)
    first = float(song.beats[0]) if len(song.beats) else 0.0
    num_beats = int(np.ceil((song.seconds - first) / floor.beat_seconds))
    preferences = {name: float(np.exp(0.5 * rng.standard_normal())) for name in MOVES}
    base_size = rng.uniform(0.8, 1.2)
    repertoire: dict[str, list[MoveChoice]] = {}  # a section that is repeated may have the same moves
    recent: list[str] = []
    moves = []
    for index, (_, stop, name, energy) in enumerate(song.sections):
        is_last_section = index == len(song.sections) - 1
        end = num_beats if is_last_section else int(round((stop - first) / floor.beat_seconds))
        choices = repertoire.setdefault(name, []) if rng.random() < 0.6 else []
        position = 0
        while floor.current_beat < end:
            count = 2 if song.bpm >= FAST_BPM else 1
            max_phrases = -(-(end - floor.current_beat) // (PHRASE_COUNTS * count))
            if position < len(choices):
                choice = choices[position]
            else:
                choice = _choose(rng, song, energy, preferences, base_size, recent)
                choices.append(choice)
            position += 1
            if choice.phrases > max_phrases:
                choice = replace(choice, phrases=1)
            count = 1 if choice.quick else count
            recent = [*recent[-5:], choice.name]
            limit = num_beats + 1000 if is_last_section else end
            for start, stop, side in floor.add_move(choice, count, limit, energy):
                begin, finish = (first + beat * floor.beat_seconds for beat in (start, stop))
                if begin < song.seconds:
                    strength = float(MOVES[choice.name].energy)
                    moves.append((begin, min(finish, song.seconds), choice.name, side, strength, choice.words(side)))
    frames = int(np.floor(song.seconds * FPS + 1e-9))
    beats = (np.arange(frames) / FPS - first) / floor.beat_seconds
    motion = perform(floor.poses(), draw_traits(rng), beats, floor.beat_seconds, FPS)
    return Dance(motion, moves)


def _choose(
    rng: np.random.Generator,
    song: Song,
    energy: float,
    preferences: dict[str, float],
    base_size: float,
    recent: list[str],
) -> MoveChoice:
    """Draw a move by style, energy, the dancer's preferences, and the recent moves."""
    weights = []
    count = 60 / song.bpm * (2 if song.bpm >= FAST_BPM else 1)
    for name, move in MOVES.items():
        style_weight = (
            0.0 if count < move.pace else 0.5 if not move.styles else 6.0 if song.style in move.styles else 0.02
        )
        energy_weight = np.exp(-(((move.energy - energy) / 0.15) ** 2)) + 0.01
        novelty = 0.08 if name in recent[-2:] else 0.4 if name in recent else 1.0
        weights.append(style_weight * energy_weight * novelty * preferences[name])
    probabilities = np.array(weights)
    name = str(rng.choice(list(MOVES), p=probabilities / probabilities.sum()))
    move = MOVES[name]
    arms = None
    if not move.sets_arms:
        arm_weights = np.array([np.exp(-(((arm.energy - energy) / 0.3) ** 2)) + 0.05 for arm in ARM_PATTERNS])
        arms = ARM_PATTERNS[rng.choice(len(ARM_PATTERNS), p=arm_weights / arm_weights.sum())]
    return MoveChoice(
        name,
        "left" if rng.random() < 0.8 else "right",  # most dancers begin with the left foot
        2 if rng.random() < 0.85 else 1,
        bool(rng.random() < 0.75),
        arms,
        float(np.clip(base_size * rng.uniform(0.85, 1.15) * (0.75 + 0.4 * energy), 0.6, 1.25)),
        bool(move.quick and rng.random() < 0.3 + 0.5 * (energy > 0.6)),
        float(rng.normal(0, 16)),
    )
