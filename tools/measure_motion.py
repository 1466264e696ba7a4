"""Measure how the dances of a checkpoint follow songs: python tools/measure_motion.py CKPT MOTION SONG SONG ...

MOTION: a name in conf/motion. Prints a row a song and the means, of seed 0 and the first 60 s, by
`zoo.metrics.song_response`. Lively songs are the upper half by mean onset strength. Then each song changed: at half the
volume, as mp3 of 128 kbit/s, and with 0.3 s of silence in front, of which the dances are correlated with those of the
song itself; and with 6 s of silence behind, in which the dancer should rest. Last, 16 s of whole bars, the next 16 s
and the first ones again: how the dances of equal and of different sections correlate.
"""

import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from zoo.body.skeleton import joints_of
from zoo.families.base import SamplingParams
from zoo.media import Sound
from zoo.metrics.motion import foot_sliding
from zoo.metrics.rhythm import beat_alignment, kinematic_beats, matchable_beats
from zoo.metrics.song_response import (
    arms_used,
    loudness_response,
    mean_speed,
    slow_poses,
    song_correlation,
    upright_head,
    variety,
)
from zoo.music.beats import RATE, Beats
from zoo.music.compiled_librosa import librosa
from zoo.music.encoder import MusicEncoder, MusicFeatures, encode_song
from zoo.music.structure import analyze_structure
from zoo.run.build import build_encoder
from zoo.run.checkpoint import load_family
from zoo.run.config import load_choice
from zoo.run.models import checkpoint_path

SECONDS = 60
SILENCE_FRONT, SILENCE_BEHIND, SETTLING = 0.3, 6.0, 2.0  # seconds
SECTION_SECONDS = 16.0  # of a repeated section, about
MP3_RATE, MP3_BITS = 44100, 128_000  # Hz, bits a second


def main(checkpoint: str, motion: str, paths: list[Path]) -> None:
    """Print the table."""
    family, config = load_family(checkpoint_path(checkpoint))
    family.configure({"motion": load_choice("motion", {"name": motion})})
    encoder = build_encoder(config)

    def dance(music: MusicFeatures) -> np.ndarray:
        with torch.inference_mode():
            blocks = family.generate_motion(music, int(music.seconds * 30), 0, SamplingParams())
            return joints_of(torch.cat(list(blocks)).cpu()).numpy()

    dances, rows, onsets, waves, songs_beats = [], [], [], [], []
    print("song | arms | upright | variety m | slide m/s | quiet m/s | loud m/s | dB | align | onsets")
    for path in paths:
        music = encode_song(Sound(path), encoder, Fraction(SECONDS), keep_waveform=True)
        joints = dance(music)
        waves.append(music.waveform)
        songs_beats.append(music.beats)
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
    _print_changed(dances, waves, lambda wave: dance(_encode(wave, encoder)))
    print_repeated(dances, waves, songs_beats, lambda wave: dance(_encode(wave, encoder)))


def print_repeated(
    dances: list[np.ndarray], waves: list[np.ndarray], beats: list[Beats], dance: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Print how a section's dance correlates with that to its repeat, and with that to the section between both."""
    mean, rows = np.concatenate([slow_poses(joints) for joints in dances]).mean(0), []
    for wave, song_beats in zip(waves, beats, strict=True):
        downbeats = song_beats.times[song_beats.downbeat :: song_beats.meter]
        num_bars = round(SECTION_SECONDS / np.median(np.diff(downbeats))) if len(downbeats) > 2 else len(downbeats)
        if len(downbeats) <= 2 * num_bars:
            continue
        first, second, stop = (round(downbeats[bar] * RATE) for bar in (0, num_bars, 2 * num_bars))
        joints = dance(np.concatenate([wave[first:stop], wave[first:second]]))
        starts, length = (0, second - first, stop - first), int(min(second - first, stop - second) / RATE * 30)
        parts = [slow_poses(joints[(frame := round(start / RATE * 30)) : frame + length]) - mean for start in starts]
        parts = [part[: min(map(len, parts))].ravel() for part in parts]
        a, b, repeat = (part / np.linalg.norm(part) for part in parts)
        rows.append((a @ repeat, (a @ b + repeat @ b) / 2))
        print(f"repeated section {rows[-1][0]:.2f}, other section {rows[-1][1]:.2f}", flush=True)
    if rows:
        equal, other = np.mean(rows, 0)
        print(f"{len(rows)} songs: repeated section {equal:.3f}, other section {other:.3f}")


def _print_changed(
    dances: list[np.ndarray], waves: list[np.ndarray], dance: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Print the correlation of each dance with that to its song changed, and the speed in silence."""
    mean = np.concatenate([slow_poses(joints) for joints in dances]).mean(0)
    front, behind = (np.zeros(int(seconds * RATE), np.float32) for seconds in (SILENCE_FRONT, SILENCE_BEHIND))
    changes: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
        "half the volume": (lambda wave: wave / 2, 0),
        "mp3": (_as_mp3, 0),
        "silence in front": (lambda wave: np.concatenate([front, wave]), round(SILENCE_FRONT * 30)),
    }
    for label, (change, delay) in changes.items():
        values = []
        for joints, wave in zip(dances, waves, strict=True):
            a, b = (slow_poses(x) - mean for x in (joints, dance(change(wave))[delay:]))
            length = min(len(a), len(b))
            a, b = a[:length].ravel(), b[:length].ravel()
            values.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
        print(
            f"with itself, {label}: {np.mean(values):.3f} ({' '.join(f'{value:.2f}' for value in values)})", flush=True
        )
    speeds = []
    for wave in waves:
        joints = dance(np.concatenate([wave[-20 * RATE :], behind]))
        speeds.append(mean_speed(joints, len(joints) / 30 - SILENCE_BEHIND + SETTLING, len(joints) / 30))
    print(f"speed in silence, m/s: {np.mean(speeds):.3f}, most {np.max(speeds):.3f}")


def _encode(wave: np.ndarray, encoder: MusicEncoder) -> MusicFeatures:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "song.wav"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_f32le", rate=RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="flt", layout="mono")
            frame.sample_rate = RATE
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)
        return encode_song(Sound(path), encoder, Fraction(2 * SECONDS), keep_waveform=True)


def _as_mp3(wave: np.ndarray) -> np.ndarray:
    """Encode and decode the waveform."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "song.mp3"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libmp3lame", rate=MP3_RATE, layout="mono")
            stream.bit_rate = MP3_BITS
            samples = librosa.resample(wave, orig_sr=RATE, target_sr=MP3_RATE).clip(-1, 1)
            frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate = MP3_RATE
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)
        return Sound(path).mono(RATE)[: len(wave)]


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], [Path(path) for path in sys.argv[3:]])
