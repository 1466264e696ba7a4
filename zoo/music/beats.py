"""Beat tracking: times, tempo and downbeats of a song.

Onset strength in five bands, tempo from its autocorrelation at one beat to a bar, librosa's dynamic programming (Ellis
2007) for the beats. Beats are marked by drums: the kick below 150 Hz, snare and attacks above 1.2 kHz. Chords and
melodies in the middle bands also start between beats, so bands have different weights.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from zoo.music.compiled_librosa import librosa
from zoo.music.mel import mel_blocks

RATE, HOP, WINDOW, MELS = 15360, 128, 512, 40  # Hz, samples, samples, bands
ONSETS = RATE / HOP  # 120 onset values a second: 8.3 ms apart
EDGES = (0, 150, 300, 1200, 3500, RATE / 2)  # Hz
WEIGHTS = np.array([0.5, 0.5, 0.2, 1.0, 1.0])
KICK_BANDS, SNARE_BAND = slice(0, 2), 3
MIN_TEMPO, MAX_TEMPO = 74.0, 176.0  # BPM; dancers step at half or double of tempi outside
TEMPO_PRIOR_BPM, TEMPO_PRIOR_OCTAVES = 124.0, 1.5  # mean and standard deviation of the prior
MIN_SECONDS = 2.0  # from which a tempo can be estimated
MIN_LOUDNESS = 0.01  # summed band amplitude; about -80 dB of full scale
MIN_ONSET_RATIO = 0.01  # of onsets to loudness: a sustained note has 0.004, white noise 0.02, soft music 0.03
MIN_PERIODICITY = 0.25  # mean autocorrelation at 1, 2, 4 and 8 beats: noise has up to 0.15, songs with drums 0.5 to 0.9
TIGHTNESS = 300  # librosa's default of 100 lets beats of steady songs deviate by 25 ms
DOUBLE_TEMPO_THRESHOLD = 0.73  # see _tempo; songs of 75..88 BPM lie below, those of 150..176 above
ONSET_DELAY = 0.001  # s from a drum's start to its steepest rise, measured on songs with known beats


@dataclass(frozen=True)
class Beats:
    """Beats of a sound.

    times: (N,) float64 seconds, ascending. tempo: BPM, 0 without beats. downbeat: index 0..3 in `times` of the first
    downbeat; every fourth beat after it is a downbeat, too.
    """

    times: np.ndarray
    tempo: float
    downbeat: int

    def slice(self, start: float, stop: float) -> "Beats":
        """Cut the beats in [start, stop); their times count from `start`."""
        first, last = np.searchsorted(self.times, [start, stop])
        return Beats(self.times[first:last] - start, self.tempo, (self.downbeat - int(first)) % 4)


NO_BEATS = Beats(np.empty(0), 0.0, 0)


def find_beats(mono: np.ndarray, sample_rate: int) -> Beats:
    """Find the beats of a waveform (S,) float32; silence and music without a beat have none (no times, tempo 0).

    The tempo lies in MIN_TEMPO..MAX_TEMPO and is assumed steady; times may still follow small changes. They are
    accurate to a few milliseconds where a drum marks the beat.
    """
    if len(mono) < MIN_SECONDS * sample_rate:
        return NO_BEATS
    wave = librosa.resample(mono, orig_sr=sample_rate, target_sr=RATE) if sample_rate != RATE else mono
    bands, loudness = _onsets(wave)
    spread = bands.std(axis=1, keepdims=True)
    if loudness < MIN_LOUDNESS or spread.max() < MIN_ONSET_RATIO * loudness:
        return NO_BEATS
    onset = WEIGHTS @ (bands / (spread + 0.1 * spread.max()))
    bpm, salience = _tempo(onset, bands)
    if salience < MIN_PERIODICITY:
        return NO_BEATS
    times = _track(onset, bpm)
    audible = np.flatnonzero(onset > 0.05 * onset.max()) / ONSETS  # no beats in silence before and after the music
    times = times[(times > audible[0] - 0.1) & (times < audible[-1] + 0.1)] - ONSET_DELAY
    times = times[(times >= 0) & (times < len(mono) / sample_rate)]
    if len(times) < 3:
        return NO_BEATS
    tempo = 60 / np.polyfit(np.arange(len(times)), times, 1)[0]
    return Beats(times, float(tempo), _downbeat(wave, bands, times))


def beats_to_frames(times: np.ndarray, frames: int, fps: Fraction | float) -> np.ndarray:
    """Mark the frame nearest to each beat by 1, others by 0: int64 (frames,). Frame i is at time i / fps."""
    marks = np.zeros(frames, np.int64)
    index = np.round(np.asarray(times, np.float64) * float(fps)).astype(np.int64)
    marks[index[(index >= 0) & (index < frames)]] = 1
    return marks


def _onsets(wave: np.ndarray) -> tuple[np.ndarray, float]:
    """Compute the rise of amplitude in each band (5, frames) at ONSETS Hz, and the mean amplitude."""
    frames = -(-len(wave) // HOP)
    band = np.digitize(librosa.mel_frequencies(n_mels=MELS + 2, fmax=RATE / 2)[1:-1], EDGES[1:-1])
    collect = np.eye(len(WEIGHTS), dtype=np.float32)[:, band]  # (5, MELS)
    rises, total, last_column = [], 0.0, None
    for power in mel_blocks(wave, RATE, WINDOW, HOP, MELS, frames):
        amplitude = np.sqrt(power)  # not dB, in which a hi-hat in a pause would weigh as much as a kick
        previous = amplitude[:, :1] if last_column is None else last_column
        rises.append(collect @ np.maximum(np.diff(amplitude, axis=1, prepend=previous), 0))
        last_column, total = amplitude[:, -1:], total + float(amplitude.sum())
    return np.concatenate(rises, axis=1), total / frames


def _tempo(onset: np.ndarray, bands: np.ndarray) -> tuple[float, float]:
    """Estimate BPM and its salience: the mean autocorrelation at the beat and its multiples, at most 1."""
    lags, correlation = _autocorrelation(onset)
    bpm = np.geomspace(MAX_TEMPO / 2, MAX_TEMPO, 500)
    multiples = [beats for beats in (1, 2, 4, 8) if beats * 120 / MAX_TEMPO < 0.75 * lags[-1]]  # to two slow bars
    periodicity = np.mean([np.interp(beats * 60 / bpm, lags, correlation) for beats in multiples], axis=0)
    best = np.argmax(periodicity * np.exp(-0.5 * (np.log2(bpm / TEMPO_PRIOR_BPM) / TEMPO_PRIOR_OCTAVES) ** 2))
    fast, salience = float(bpm[best]), float(periodicity[best]) * len(multiples) / 4
    if fast < 2 * MIN_TEMPO:
        return fast, salience
    # `fast` or half of it? `fast` if all beats are alike, or at least if kick and snare both play on every beat
    times = _track(onset, fast)
    ratio: list[Any] = [_evenness(band, times) for band in bands]
    similarity = np.interp(60 / fast, lags, correlation) + 0.3 * min(np.mean(ratio[KICK_BANDS]), ratio[SNARE_BAND])
    return (fast if similarity > DOUBLE_TEMPO_THRESHOLD else fast / 2), salience


def _track(onset: np.ndarray, bpm: float) -> np.ndarray:
    """Track the times of the beats at about this tempo.

    Dynamic programming may slip at the ends of the sound. There the beats are cut back to the outermost regular
    interval and extrapolated with the median interval.
    """
    settings = {"sr": RATE, "hop_length": HOP, "units": "time", "trim": False, "tightness": TIGHTNESS}
    times = librosa.beat.beat_track(onset_envelope=onset, bpm=bpm, **settings)[1]
    step = np.median(np.diff(times)) if len(times) > 3 else 0.0
    regular = np.flatnonzero(np.abs(np.diff(times) - step) < 0.05 * step)
    if not len(regular):
        return times
    times = times[regular[0] : regular[-1] + 2]
    left = times[0] - step * np.arange(int(times[0] / step), 0, -1)
    right = times[-1] + step * np.arange(1, int((len(onset) / ONSETS - times[-1]) / step) + 1)
    return np.concatenate([left, times, right])


def _downbeat(wave: np.ndarray, bands: np.ndarray, times: np.ndarray) -> int:
    """Choose the downbeat among the first four beats: chords change there, and the kick tends to be strong."""
    size, length = 8192, int(np.median(np.diff(times)) * RATE)
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    is_tonal = (hertz >= 60) & (hertz < 1500)
    pitch = np.round(12 * np.log2(hertz[is_tonal] / 440)).astype(int) % 12
    fold = np.eye(12)[pitch]  # (bins, 12)
    chroma = np.empty((len(times), 12))  # of the interval after each beat
    for index, start in enumerate(np.round(times * RATE).astype(int)):
        section = wave[start : start + min(length, size)]
        chroma[index] = np.abs(np.fft.rfft(section * np.hanning(len(section)), size))[is_tonal] @ fold
    chroma /= np.linalg.norm(chroma, axis=1, keepdims=True) + 1e-9
    change = np.linalg.norm(np.diff(chroma, axis=0, prepend=chroma[:1]), axis=1)
    kick = _strength(bands[KICK_BANDS].sum(axis=0), times)
    score = (change - change.mean()) / (change.std() + 1e-9) + 0.5 * (kick - kick.mean()) / (kick.std() + 1e-9)
    return int(np.argmax([score[phase::4].mean() for phase in range(min(4, len(times)))]))


def _autocorrelation(onset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute lags in seconds and the autocorrelation of the onsets, 1 at lag 0: a mean over windows of up to 8 s."""
    length = min(int(8 * ONSETS), len(onset))
    taper = np.hanning(length)
    windows = librosa.util.frame(onset - onset.mean(), frame_length=length, hop_length=int(ONSETS))
    correlation = librosa.autocorrelate(windows * taper[:, None], axis=0).mean(axis=1)
    overlap = librosa.autocorrelate(taper)
    correlation = correlation / np.maximum(overlap, 1e-3 * overlap[0])
    return np.arange(length) / ONSETS, correlation / correlation[0]


def _strength(onset: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The highest onset within 33 ms of each time."""
    indices = np.round(times * ONSETS).astype(int)[:, None] + np.arange(-4, 5)
    return onset[indices.clip(0, len(onset) - 1)].max(axis=1)


def _evenness(onset: np.ndarray, times: np.ndarray) -> float:
    """Divide the strength of the weaker of even and odd beats by that of the stronger."""
    strength = _strength(onset, times)
    even, odd = strength[::2].mean(), strength[1::2].mean()
    return float(min(even, odd) / max(even, odd, 1e-9))


def beat_phase(times: np.ndarray, query_times: np.ndarray) -> np.ndarray:
    """Compute cosine and sine of the beat's phase, (1, 0) on a beat: (N, 2) float32.

    times: of the beats, seconds; query_times: (N,), seconds. Before the first and after the last beat the phase is
    extrapolated with the nearest interval. Zeros for fewer than two beats.
    """
    if len(times) < 2:
        return np.zeros((len(query_times), 2), np.float32)
    left, right = (times[1] - times[0], times[-1] - times[-2])
    position = np.interp(query_times, times, np.arange(len(times)))  # in beats
    position = np.where(query_times < times[0], (query_times - times[0]) / left, position)
    position = np.where(query_times > times[-1], len(times) - 1 + (query_times - times[-1]) / right, position)
    return np.stack([np.cos(2 * np.pi * position), np.sin(2 * np.pi * position)], 1).astype(np.float32)
