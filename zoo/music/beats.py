"""Beats of a song: when they fall, how fast, and which of them open a bar.

Onset strength in five bands, tempo from its autocorrelation at one beat to a bar, librosa's dynamic programming (Ellis
2007) for the beats. Bands, because what marks the beat is struck (drums: kick below 150 Hz, snare and attacks above
1.2 kHz), while the middle is full of chords and tunes that as often play between the beats.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import librosa
import numpy as np
from librosa.beat import beat_track

from zoo.music.mel import mel_blocks

RATE, HOP, WINDOW, MELS = 15360, 128, 512, 40  # Hz, samples, samples, bands
ONSETS = RATE / HOP  # 120 onset values a second: 8.3 ms apart
EDGES = (0, 150, 300, 1200, 3500, RATE / 2)  # Hz
WEIGHTS = np.array([0.5, 0.5, 0.2, 1.0, 1.0])
KICK, SNARE = slice(0, 2), 3  # which of the bands
SLOWEST, FASTEST = 74.0, 176.0  # BPM; a dancer steps within this, at half or double of what lies beyond
CENTRE, OCTAVES = 124.0, 1.5  # BPM, and the width of the preference for it
SHORTEST = 2.0  # s that a tempo can be told from
AUDIBLE = 0.01  # summed band amplitude; about -80 dB of full scale
MOVING = 0.01  # onsets over loudness: a held note has 0.004, white noise 0.02, the softest music tried 0.03
REGULAR = 0.25  # mean autocorrelation at 1, 2, 4 and 8 beats: noise has up to 0.15, songs with drums 0.5 to 0.9
TIGHTNESS = 300  # librosa's default of 100 lets beats of steady songs stray by 25 ms
FAST = 0.73  # see _tempo; songs of 75..88 BPM stay below, those of 150..176 above
LATE = (
    0.001  # s by which the steepest rise of a struck sound comes behind its start, measured on songs with known beats
)


@dataclass(frozen=True)
class Beats:
    """Where the beats of a sound are.

    times (N,) float64 seconds, ascending; tempo in BPM, 0 for no beat; downbeat: index 0..3 in `times` of the first
    beat that opens a bar, as does every fourth one after it.
    """

    times: np.ndarray
    tempo: float
    downbeat: int

    def slice(self, start: float, stop: float) -> "Beats":
        """The beats in [start, stop), their times from `start` on."""
        first, last = np.searchsorted(self.times, [start, stop])
        return Beats(self.times[first:last] - start, self.tempo, (self.downbeat - int(first)) % 4)


NO_BEATS = Beats(np.empty(0), 0.0, 0)


def find_beats(mono: np.ndarray, sample_rate: int) -> Beats:
    """Beats of a waveform (S,) float32; silence and music without a beat have none (no times, tempo 0).

    Tempo lies in SLOWEST..FASTEST and is taken to be steady; times may still bend with the music. They are right to a
    few milliseconds where something is struck on the beat.
    """
    if len(mono) < SHORTEST * sample_rate:
        return NO_BEATS
    wave = librosa.resample(mono, orig_sr=sample_rate, target_sr=RATE) if sample_rate != RATE else mono
    bands, loudness = _onsets(wave)
    spread = bands.std(axis=1, keepdims=True)
    if loudness < AUDIBLE or spread.max() < MOVING * loudness:
        return NO_BEATS
    onset = WEIGHTS @ (bands / (spread + 0.1 * spread.max()))
    bpm, salience = _tempo(onset, bands)
    if salience < REGULAR:
        return NO_BEATS
    times = _track(onset, bpm)
    heard = np.flatnonzero(onset > 0.05 * onset.max()) / ONSETS  # no beats in the silence before and after
    times = times[(times > heard[0] - 0.1) & (times < heard[-1] + 0.1)] - LATE
    times = times[(times >= 0) & (times < len(mono) / sample_rate)]
    if len(times) < 3:
        return NO_BEATS
    tempo = 60 / np.polyfit(np.arange(len(times)), times, 1)[0]
    return Beats(times, float(tempo), _downbeat(wave, bands, times))


def beats_to_frames(times: np.ndarray, frames: int, fps: Fraction | float) -> np.ndarray:
    """int64 (frames,): 1 on the frame nearest to each beat, frame i being at i / fps, else 0; others are left out."""
    marks = np.zeros(frames, np.int64)
    index = np.round(np.asarray(times, np.float64) * float(fps)).astype(np.int64)
    marks[index[(index >= 0) & (index < frames)]] = 1
    return marks


def _onsets(wave: np.ndarray) -> tuple[np.ndarray, float]:
    """Rise of amplitude in each band (5, frames) at ONSETS Hz, and the mean amplitude of all."""
    frames = -(-len(wave) // HOP)
    band = np.digitize(librosa.mel_frequencies(n_mels=MELS + 2, fmax=RATE / 2)[1:-1], EDGES[1:-1])
    collect = np.eye(len(WEIGHTS), dtype=np.float32)[:, band]  # (5, MELS)
    rises, total, last = [], 0.0, None
    for power in mel_blocks(wave, RATE, WINDOW, HOP, MELS, frames):
        amplitude = np.sqrt(power)  # not dB: there a hi-hat in a pause weighs as much as a kick
        before = amplitude[:, :1] if last is None else last
        rises.append(collect @ np.maximum(np.diff(amplitude, axis=1, prepend=before), 0))
        last, total = amplitude[:, -1:], total + float(amplitude.sum())
    return np.concatenate(rises, axis=1), total / frames


def _tempo(onset: np.ndarray, bands: np.ndarray) -> tuple[float, float]:
    """BPM, and how regular the onsets are at that beat and its multiples, up to 1; less where few of them fit in."""
    lags, likeness = _autocorrelation(onset)
    bpm = np.geomspace(FASTEST / 2, FASTEST, 500)
    within = [beats for beats in (1, 2, 4, 8) if beats * 120 / FASTEST < 0.75 * lags[-1]]  # to two slow bars
    regular = np.mean([np.interp(beats * 60 / bpm, lags, likeness) for beats in within], axis=0)
    best = np.argmax(regular * np.exp(-0.5 * (np.log2(bpm / CENTRE) / OCTAVES) ** 2))
    fast, salience = float(bpm[best]), float(regular[best]) * len(within) / 4
    if fast < 2 * SLOWEST:
        return fast, salience
    # Fast, or slow at half of it? Fast where every beat is alike, or at least is struck by both the kick and the snare.
    times = _track(onset, fast)
    ratio: list[Any] = [_evenness(band, times) for band in bands]
    alike = np.interp(60 / fast, lags, likeness) + 0.3 * min(np.mean(ratio[KICK]), ratio[SNARE])
    return (fast if alike > FAST else fast / 2), salience


def _track(onset: np.ndarray, bpm: float) -> np.ndarray:
    """Times of the beats at about this tempo.

    Toward the ends, where nothing more holds the chain of beats, it may slip: it is cut back to the outermost regular
    step and goes on from there in that step, up to the ends of the sound.
    """
    settings = {"sr": RATE, "hop_length": HOP, "units": "time", "trim": False, "tightness": TIGHTNESS}
    times = beat_track(onset_envelope=onset, bpm=bpm, **settings)[1]
    step = np.median(np.diff(times)) if len(times) > 3 else 0.0
    regular = np.flatnonzero(np.abs(np.diff(times) - step) < 0.05 * step)
    if not len(regular):
        return times
    times = times[regular[0] : regular[-1] + 2]
    before = times[0] - step * np.arange(int(times[0] / step), 0, -1)
    after = times[-1] + step * np.arange(1, int((len(onset) / ONSETS - times[-1]) / step) + 1)
    return np.concatenate([before, times, after])


def _downbeat(wave: np.ndarray, bands: np.ndarray, times: np.ndarray) -> int:
    """Which of the first four beats opens a bar: there the chord changes, and rather there the kick is strong."""
    size, length = 8192, int(np.median(np.diff(times)) * RATE)
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    tonal = (hertz >= 60) & (hertz < 1500)
    pitch = np.round(12 * np.log2(hertz[tonal] / 440)).astype(int) % 12
    fold = np.eye(12)[pitch]  # (bins, 12)
    chroma = np.empty((len(times), 12))  # of the beat that begins at each time
    for index, start in enumerate(np.round(times * RATE).astype(int)):
        piece = wave[start : start + min(length, size)]
        chroma[index] = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), size))[tonal] @ fold
    chroma /= np.linalg.norm(chroma, axis=1, keepdims=True) + 1e-9
    change = np.linalg.norm(np.diff(chroma, axis=0, prepend=chroma[:1]), axis=1)
    kick = _strength(bands[KICK].sum(axis=0), times)
    opens = (change - change.mean()) / (change.std() + 1e-9) + 0.5 * (kick - kick.mean()) / (kick.std() + 1e-9)
    return int(np.argmax([opens[phase::4].mean() for phase in range(min(4, len(times)))]))


def _autocorrelation(onset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lags in seconds and the autocorrelation of the onsets there, 1 at lag 0: mean over windows of up to 8 s."""
    length = min(int(8 * ONSETS), len(onset))
    taper = np.hanning(length)
    windows = librosa.util.frame(onset - onset.mean(), frame_length=length, hop_length=int(ONSETS))
    likeness = librosa.autocorrelate(windows * taper[:, None], axis=0).mean(axis=1)
    overlap = librosa.autocorrelate(taper)
    likeness = likeness / np.maximum(overlap, 1e-3 * overlap[0])
    return np.arange(length) / ONSETS, likeness / likeness[0]


def _strength(onset: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The highest onset within 33 ms of each time."""
    near = np.round(times * ONSETS).astype(int)[:, None] + np.arange(-4, 5)
    return onset[near.clip(0, len(onset) - 1)].max(axis=1)


def _evenness(onset: np.ndarray, times: np.ndarray) -> float:
    """Strength of the weaker of even and odd beats over that of the stronger."""
    strength = _strength(onset, times)
    even, odd = strength[::2].mean(), strength[1::2].mean()
    return float(min(even, odd) / max(even, odd, 1e-9))


def beat_phase(times: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Where between two beats each moment lies: (cos, sin) of a turn a beat, (1, 0) on it. -> (N, 2) float32

    times: beats, seconds; at (N,): moments, seconds. Before the first and after the last beat the nearest gap between
    beats goes on. With fewer than two beats there is no pulse: zeros.
    """
    if len(times) < 2:
        return np.zeros((len(at), 2), np.float32)
    left, right = (times[1] - times[0], times[-1] - times[-2])
    turn = np.interp(at, times, np.arange(len(times)))
    turn = np.where(at < times[0], (at - times[0]) / left, turn)
    turn = np.where(at > times[-1], len(times) - 1 + (at - times[-1]) / right, turn)
    return np.stack([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)], 1).astype(np.float32)
