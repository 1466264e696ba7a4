"""Beats of a song: when they fall, how fast, and which of them open a bar."""

from dataclasses import dataclass
from fractions import Fraction

import librosa
import numpy as np

from zoo.music.mel import mel_blocks

RATE, HOP, WINDOW, MELS = 15360, 128, 1024, 64  # Hz, samples, samples, bands: 120 onset values a second
BIAS = 0.013  # s by which librosa's beats come late at these settings, measured on clicks (tests/test_music_beats.py)


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
    """Beats of a waveform (S,) float32; silence and music without a beat have none (no times, tempo 0)."""
    wave = librosa.resample(mono, orig_sr=sample_rate, target_sr=RATE) if sample_rate != RATE else mono
    onset, low = _onsets(wave)
    if onset.max(initial=0) <= 0:
        return NO_BEATS
    tempo, times = librosa.beat.beat_track(onset_envelope=onset, sr=RATE, hop_length=HOP, units="time", trim=False)
    if len(times) < 4:
        return NO_BEATS
    times = times - BIAS
    times = times[times >= 0]
    frames = np.round(times * RATE / HOP).astype(int)
    weight = np.array([low[max(f - 3, 0) : f + 4].max() for f in frames])
    downbeat = int(np.argmax([weight[phase::4].mean() for phase in range(4)]))
    return Beats(times, float(60 / np.median(np.diff(times))), downbeat)


def _onsets(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Onset envelopes (frames,) at RATE / HOP Hz: of all bands, and of the low ones."""
    frames = -(-len(wave) // HOP)
    onset, low, last = [], [], None
    for power in mel_blocks(wave, RATE, WINDOW, HOP, MELS, frames):
        level = librosa.power_to_db(power, amin=1e-5, top_db=None)
        rise = np.maximum(np.diff(level, axis=1, prepend=level[:, :1] if last is None else last), 0)
        last = level[:, -1:]
        onset.append(rise.mean(0))
        low.append(rise[:6].mean(0))
    return np.concatenate(onset), np.concatenate(low)


def frame_beats(times: np.ndarray, frames: int, fps: Fraction | float) -> np.ndarray:
    """int64 (frames,): 1 on the frame nearest to each beat, frame i being at i / fps, else 0; others are left out."""
    marks = np.zeros(frames, np.int64)
    index = np.round(np.asarray(times, np.float64) * float(fps)).astype(np.int64)
    marks[index[(index >= 0) & (index < frames)]] = 1
    return marks
