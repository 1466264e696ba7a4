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
    floor_state = FloorState(rng, 60.0 / song.bpm)
    first_beat_time = float(song.beats[0]) if len(song.beats) else 0.0
    num_beats = int(np.ceil((song.seconds - first_beat_time) / floor_state.beat_seconds))
    preferences = {name: float(np.exp(0.5 * rng.standard_normal())) for name in MOVES}
    base_size = rng.uniform(0.8, 1.2)
    choices_of_section: dict[str, list[MoveChoice]] = {}  # by section name: a repeated section may have the same moves
    recent_moves: list[str] = []
    moves = []
    for index, (_, section_stop_time, section_name, energy) in enumerate(song.sections):
        is_last_section = index == len(song.sections) - 1
        end_beat = (
            num_beats
            if is_last_section
            else int(round((section_stop_time - first_beat_time) / floor_state.beat_seconds))
        )
        choices = choices_of_section.setdefault(section_name, []) if rng.random() < 0.6 else []
        choice_index = 0
        while floor_state.current_beat < end_beat:
            beats_per_count = 2 if song.bpm >= FAST_BPM else 1
            max_phrases = -(-(end_beat - floor_state.current_beat) // (PHRASE_COUNTS * beats_per_count))
            if choice_index < len(choices):
                choice = choices[choice_index]
            else:
                choice = _choose(rng, song, energy, preferences, base_size, recent_moves)
                choices.append(choice)
            choice_index += 1
            if choice.phrases > max_phrases:
                choice = replace(choice, phrases=1)
            beats_per_count = 1 if choice.quick else beats_per_count
            recent_moves = [*recent_moves[-5:], choice.name]
            max_beat = num_beats + 1000 if is_last_section else end_beat
            for start_beat, stop_beat, side in floor_state.add_move(choice, beats_per_count, max_beat, energy):
                move_start_time, move_stop_time = (
                    first_beat_time + beat * floor_state.beat_seconds for beat in (start_beat, stop_beat)
                )
                if move_start_time < song.seconds:
                    move_energy = float(MOVES[choice.name].energy)
                    moves.append(
                        (
                            move_start_time,
                            min(move_stop_time, song.seconds),
                            choice.name,
                            side,
                            move_energy,
                            choice.words(side),
                        )
                    )
    num_frames = int(np.floor(song.seconds * FPS + 1e-9))
    # the time of each frame in beats, 0 at the first beat
    frame_beats = (np.arange(num_frames) / FPS - first_beat_time) / floor_state.beat_seconds
    motion = perform(floor_state.poses(), draw_traits(rng), frame_beats, floor_state.beat_seconds, FPS)
    return Dance(motion, moves)


def _choose(
    rng: np.random.Generator,
    song: Song,
    energy: float,
    preferences: dict[str, float],
    base_size: float,
    recent_moves: list[str],
) -> MoveChoice:
    """Draw a move and its variation.

    energy: of the section, 0..1; preferences: move -> factor of its probability for this dancer; base_size: the
    dancer's usual size of movements, about 1; recent_moves: names, the latest last, which are drawn less often.
    """
    weights = []
    count_seconds = 60 / song.bpm * (2 if song.bpm >= FAST_BPM else 1)
    for name, move in MOVES.items():
        style_weight = (
            0.0 if count_seconds < move.pace else 0.5 if not move.styles else 6.0 if song.style in move.styles else 0.02
        )
        energy_weight = np.exp(-(((move.energy - energy) / 0.15) ** 2)) + 0.01
        novelty_weight = 0.08 if name in recent_moves[-2:] else 0.4 if name in recent_moves else 1.0
        weights.append(style_weight * energy_weight * novelty_weight * preferences[name])
    probabilities = np.array(weights) / np.sum(weights)
    name = str(rng.choice(list(MOVES), p=probabilities))
    move = MOVES[name]
    arm_pattern = None
    if not move.sets_arms:
        arm_weights = np.array([np.exp(-(((pattern.energy - energy) / 0.3) ** 2)) + 0.05 for pattern in ARM_PATTERNS])
        arm_pattern = ARM_PATTERNS[rng.choice(len(ARM_PATTERNS), p=arm_weights / arm_weights.sum())]
    return MoveChoice(
        name,
        "left" if rng.random() < 0.8 else "right",  # most dancers begin with the left foot
        2 if rng.random() < 0.85 else 1,
        bool(rng.random() < 0.75),
        arm_pattern,
        float(np.clip(base_size * rng.uniform(0.85, 1.15) * (0.75 + 0.4 * energy), 0.6, 1.25)),
        bool(move.quick and rng.random() < 0.3 + 0.5 * (energy > 0.6)),
        float(rng.normal(0, 16)),
    )
