"""The style of a song: the nearest of the world's twelve styles.

A style is the mean of a song's tempo, timbre, onsets and rhythm pattern over six songs of the world.
"""

import numpy as np

from zoo.music.structure import SongStructure

TEMPO_SCALE = 3.0  # of an octave
# 3 log2(BPM / 120), then of `SongStructure.descriptors`: 8 MFCC, onsets of 3 bands, 4 values of the rhythm pattern
STYLES = {
    "house": (0.1, 0.4, 0.5, -0.4, 0.4, 0.0, -0.2, -0.3, -0.2, 0.6, 0.3, 1.3, 0.5, -0.4, 0.8, -1.0),
    "hiphop": (-1.2, -0.1, 1.0, 0.6, 1.3, 0.8, 0.8, 0.4, 0.2, -0.0, 0.8, 1.1, 1.4, -0.8, 0.2, -1.1),
    "break": (-0.3, -0.2, -0.1, 0.1, 0.4, 0.1, 0.2, 0.1, 0.0, 1.0, 0.6, 1.4, 1.0, 0.0, -0.5, -0.7),
    "pop": (-0.5, 0.3, 1.0, -0.8, 0.9, 0.0, -0.1, -0.1, -0.4, 0.1, 0.3, 2.1, 0.7, -0.1, -0.4, -0.3),
    "funk": (-0.6, -0.1, -0.1, 0.3, 0.5, -0.0, 0.2, 0.0, 0.3, 1.2, 0.9, 1.4, -0.1, -0.8, 0.1, 0.8),
    "disco": (-0.2, 0.1, 0.1, 0.3, 0.7, -0.0, 0.2, -0.1, 0.1, 0.8, 0.6, 1.0, 0.7, -0.8, -0.5, 0.5),
    "krump": (-1.6, 0.3, -0.3, -0.1, 0.7, 0.0, 0.2, -0.0, 0.1, 1.1, 0.4, 0.7, 1.4, -0.6, 0.0, -0.9),
    "jazz": (0.1, 0.4, 0.8, -0.0, 1.1, 0.1, -0.1, -0.1, 0.1, 0.6, 0.9, 1.0, 1.4, -0.8, 0.2, -1.4),
    "rock": (0.1, -0.0, -0.7, 0.7, 0.2, 0.1, 0.2, 0.1, 0.4, 0.2, 0.4, 0.8, 0.8, -0.6, 0.8, -1.1),
    "dnb": (1.4, 0.3, 0.0, -0.4, 1.0, -0.2, -0.1, -0.1, 0.1, 0.6, 0.3, 1.8, 1.5, -0.5, -0.2, -0.9),
    "reggae": (-1.7, 0.7, -0.2, -0.5, 0.7, 0.1, 0.0, -0.0, 0.2, -0.3, 0.1, 0.1, 0.8, -0.4, 0.3, -0.8),
    "latin": (-0.8, 0.4, -0.1, 0.5, 1.0, -0.1, -0.3, -0.3, -0.1, 0.9, 1.0, 1.1, -0.2, 0.2, 0.0, -0.1),
}
DEVIATION = np.array([0.38, 0.33, 0.46, 0.37, 0.44, 0.44, 0.4, 0.44, 0.44, 0.42, 0.35, 0.35, 0.42, 0.34, 0.37, 0.39])
TEMPERATURE = 25.0  # of the probabilities: real songs lie between the styles


def style_probabilities(song: SongStructure, style: str | None = None) -> dict[str, float]:
    """Probability of each style by its distance from the song; all of it on `style` if one is given."""
    if style is not None:
        return {name: float(name == style) for name in STYLES}
    sounding = song.descriptors[~song.silent]
    if not len(sounding):
        return {name: 1 / len(STYLES) for name in STYLES}
    mean = sounding.mean(0)
    values = np.concatenate([[TEMPO_SCALE * np.log2(60 / song.beat_seconds / 120)], mean[:8], mean[20:]])
    distances = np.array([(((values - center) / DEVIATION) ** 2).sum() for center in STYLES.values()])
    weights = np.exp(-(distances - distances.min()) / TEMPERATURE)
    return {name: float(weight) for name, weight in zip(STYLES, weights / weights.sum(), strict=True)}
