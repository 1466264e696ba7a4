"""Captions from the words of a clip's moves: one line that describes the motion, never the appearance."""

import hashlib
from collections.abc import Sequence

import numpy as np

OPENINGS = ("the dancer", "a dancer", "the figure", "someone", "the performer")
CONJUNCTIONS = (", then ", " and then ", ", next ", " and after that ")
MANNERS = {
    "low": ("softly", "gently", "with little effort", "calmly", "in a relaxed way"),
    "middle": ("in time with the music", "on the beat", "steadily", "rhythmically", ""),
    "high": ("with force", "energetically", "with full power", "sharply", "vigorously"),
}
LOW_ENERGY, HIGH_ENERGY = 0.4, 0.7  # bounds of MANNERS' middle, in 0..1
MAX_NAMED_MOVES = 3  # in one caption
MIN_MOVE_SECONDS = 0.3  # a move that lasts shorter within the clip is not named


def caption(moves: Sequence[Sequence], start: float, stop: float, key: str) -> str:
    """Describe the motion in [start, stop) seconds in one line.

    moves: (start_s, stop_s, name, side, energy 0..1, words) in order of time, words in the third person ('steps to the
    left'); key: any text, it seeds the choice among equally good wordings.
    """
    overlaps = [
        (min(stop, move[1]) - max(start, move[0]), move) for move in moves if move[0] < stop and move[1] > start
    ]
    if not overlaps:
        return "a dance"
    named_moves = [move for overlap_seconds, move in overlaps if overlap_seconds >= MIN_MOVE_SECONDS] or [
        max(overlaps)[1]
    ]
    phrases: list[str] = []
    for move in named_moves:
        if not phrases or phrases[-1] != move[5]:
            phrases.append(move[5])
    overlap_weights = [overlap_seconds + 1e-6 for overlap_seconds, _ in overlaps]
    energy = float(np.average([float(move[4]) for _, move in overlaps], weights=overlap_weights))
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"))

    def choose(options: Sequence[str]) -> str:
        return options[rng.integers(len(options))]

    text = choose(OPENINGS) + " " + phrases[0]
    for phrase in phrases[1:MAX_NAMED_MOVES]:
        text += choose(CONJUNCTIONS) + phrase
    manner = choose(MANNERS["low" if energy < LOW_ENERGY else "high" if energy > HIGH_ENERGY else "middle"])
    return text if " movements" in text else f"{text} {manner}".strip()
