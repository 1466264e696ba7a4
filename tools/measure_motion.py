"""Measure how the dances of a checkpoint follow songs: python tools/measure_motion.py CKPT MOTION SONG SONG ...

MOTION: a name in conf/motion. Prints a row a song and the means, of seed 0 and the first 60 s, by
`zoo.metrics.song_response`. Lively songs are the upper half by mean onset strength.
"""

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from zoo.body.skeleton import joints_of
from zoo.families.base import SamplingParams
from zoo.media import Sound
from zoo.metrics.motion import foot_sliding
from zoo.metrics.rhythm import beat_alignment, kinematic_beats, matchable_beats
from zoo.metrics.song_response import arms_used, loudness_response, song_correlation, upright_head, variety
from zoo.music.beats import RATE
from zoo.music.encoder import encode_song
from zoo.music.structure import analyze_structure
from zoo.run.build import build_encoder
from zoo.run.checkpoint import load_family
from zoo.run.config import load_choice
from zoo.run.models import checkpoint_path

SECONDS = 60


def main(checkpoint: str, motion: str, paths: list[Path]) -> None:
    """Print the table."""
    family, config = load_family(checkpoint_path(checkpoint))
    family.configure({"motion": load_choice("motion", {"name": motion})})
    encoder = build_encoder(config)
    dances, rows, onsets = [], [], []
    print("song | arms | upright | variety m | slide m/s | quiet m/s | loud m/s | dB | align | onsets")
    for path in paths:
        music = encode_song(Sound(path), encoder, Fraction(SECONDS), keep_waveform=True)
        with torch.inference_mode():
            blocks = family.generate_motion(music, int(music.seconds * 30), 0, SamplingParams())
            joints = joints_of(torch.cat(list(blocks)).cpu()).numpy()
        structure = analyze_structure(music.waveform, RATE, music.beats)
        beats = music.beats.times
        align = beat_alignment(matchable_beats(kinematic_beats(joints, 30), beats), beats)
        slide, response = foot_sliding(joints), loudness_response(joints, music.waveform, RATE)
        row = (arms_used(joints), upright_head(joints), variety(joints, structure.times), slide, *response, align)
        dances.append(joints)
        rows.append(row)
        onsets.append(structure.onset_strength)
        print(f"{path.name} | {' | '.join(f'{value:.3f}' for value in (*row, onsets[-1]))}", flush=True)
    table, lively = np.array(rows), np.array(onsets) >= np.median(onsets)
    contrast = table[:, 6] >= 6
    print(f"correlation between songs: {song_correlation(dances):.3f}")
    print(f"means: {' | '.join(f'{value:.3f}' for value in np.nanmean(table, 0))}")
    print(f"a hand above the shoulders, lively songs: {table[lively, 0].mean():.3f}")
    if contrast.any():
        ratios = table[contrast, 5] / table[contrast, 4]
        print(f"loud over quiet, {contrast.sum()} songs of 6 dB or more: {ratios.mean():.2f}, least {ratios.min():.2f}")


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], [Path(path) for path in sys.argv[3:]])
