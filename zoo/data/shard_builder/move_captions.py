"""Captions: one line that says the motion of a clip, and nothing of looks, made from its moves' words."""

import hashlib
from collections.abc import Sequence

import numpy as np

OPENINGS = ("the dancer", "a dancer", "the figure", "someone", "the performer")
JOINS = (", then ", " and then ", ", next ", " and after that ")
MANNERS = {
    "low": ("softly", "gently", "with little effort", "calmly", "in a relaxed way"),
    "middle": ("in time with the music", "on the beat", "steadily", "rhythmically", ""),
    "high": ("with force", "energetically", "with full power", "sharply", "vigorously"),
}
LONGEST = 3  # moves named in one caption
SHORTEST = 0.3  # seconds of a move inside the clip for it to be worth naming


def caption(moves: Sequence[Sequence], start: float, stop: float, key: str) -> str:
    """The motion in [start, stop) seconds as one line.

    moves: (start_s, stop_s, name, side, energy 0..1, words) in order of time, words in the third person ('steps to the
    left'); key: anything, it chooses among equally good wordings, always in the same way.
    """
    seen = [(min(stop, move[1]) - max(start, move[0]), move) for move in moves if move[0] < stop and move[1] > start]
    if not seen:
        return "a dance"
    named = [move for length, move in seen if length >= SHORTEST] or [max(seen)[1]]
    phrases = []
    for move in named:
        if not phrases or phrases[-1] != move[5]:
            phrases.append(move[5])
    energy = float(np.average([float(move[4]) for _, move in seen], weights=[length + 1e-6 for length, _ in seen]))
    choices = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"))

    def pick(options: Sequence[str]) -> str:
        return options[choices.integers(len(options))]

    text = pick(OPENINGS) + " " + phrases[0]
    for phrase in phrases[1:LONGEST]:
        text += pick(JOINS) + phrase
    manner = pick(MANNERS["low" if energy < 0.4 else "high" if energy > 0.7 else "middle"])
    return text if " movements" in text else f"{text} {manner}".strip()
