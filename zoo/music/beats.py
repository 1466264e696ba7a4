"""Beat tracking: times, tempo, metre and downbeats of a song.

Onset strength in five bands, tempo from its autocorrelation at one beat to a bar, librosa's dynamic programming
(Ellis 2007) for the beats. Where no steady tempo is found, dynamic programming over windows of 8 s finds one that
drifts. The drums of the whole song decide the metrical level, 58 to 208 BPM, and whether a bar has four beats or
three. Beats are marked by drums: the kick below 150 Hz, snare and attacks above 1.2 kHz. Chords and melodies in the
middle bands also start between beats, so bands have different weights.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from zoo.files import file_hash
from zoo.music import mel as mel_module
from zoo.music.compiled_librosa import librosa
from zoo.music.mel import mel_blocks

RATE, HOP, WINDOW, MELS = 15360, 128, 512, 40  # Hz, samples, samples, bands
ONSETS = RATE / HOP  # 120 onset values a second: 8.3 ms apart
EDGES = (0, 150, 300, 1200, 3500, RATE / 2)  # Hz
WEIGHTS = np.array([0.5, 0.5, 0.2, 1.0, 1.0])
KICK_BANDS, SNARE_BAND = slice(0, 2), 3
MIN_TEMPO, MAX_TEMPO = 74.0, 176.0  # BPM; where the drums decide nothing, see _metrical_level
TEMPO_PRIOR_BPM, TEMPO_PRIOR_OCTAVES = 124.0, 1.5  # mean and standard deviation of the prior
MIN_SECONDS = 2.0  # from which a tempo can be estimated
MIN_LOUDNESS = 0.01  # summed band amplitude; about -80 dB of full scale
MIN_ONSET_RATIO = 0.01  # of onsets to loudness: a sustained note has 0.004, white noise 0.02, soft music 0.03
MIN_PERIODICITY = 0.25  # mean autocorrelation at 1, 2, 4 and 8 beats: noise has up to 0.15, songs with drums 0.5 to 0.9
END_BEATS = 4  # at either end of the sound, where the tracked beats may slip
TIGHTNESS = 300  # librosa's default of 100 lets beats of steady songs deviate by 25 ms
DOUBLE_TEMPO_THRESHOLD = 0.73  # see _tempo; songs of 75..88 BPM lie below, those of 150..176 above
MIN_CURVE_PERIODICITY = 0.3  # of a tempo that drifts: noise and rain have up to 0.1, drums 0.8
MAX_TEMPO_STEPS = 4  # of the tempo in a second: 1.1 %
SLOW_TEMPO, FAST_TEMPO, MAX_FAST_TEMPO = 58.0, 174.0, 208.0  # BPM of slower and faster levels than the range above
MIN_KICK_RATIO, MIN_SNARE_RATIO = 6.0, 1.6  # of one parity of beats to the other: both drums mark every second beat
MAX_HAT_EVENNESS = 0.3  # of the hi-hat on beats and half beats, above which it divides the beat
MIN_FAST_EVENNESS = 0.88  # of the drums on beats and half beats, above which half beats are beats
TRIPLE_GAIN = 1.5  # of the drums that three halves of the tempo explain
MIN_TRIPLE_BEATS, MIN_TRIPLE_CONTRAST = 24, 0.2  # beats; correlation at 3 and 6 beats over that at 4 and 8
ONSET_DELAY = 0.001  # s from a drum's start to its steepest rise, measured on songs with known beats


@dataclass(frozen=True)
class Beats:
    """Beats of a sound.

    times: (N,) float64 seconds, ascending. tempo: mean BPM, 0 without beats. downbeat: index in `times` of the first
    downbeat; every `meter`th beat after it is a downbeat, too. meter: beats of a bar, 4 or 3.
    """

    times: np.ndarray
    tempo: float
    downbeat: int
    meter: int = 4

    def slice(self, start: float, stop: float) -> "Beats":
        """Cut the beats in [start, stop); their times count from `start`."""
        first, last = np.searchsorted(self.times, [start, stop])
        return Beats(self.times[first:last] - start, self.tempo, (self.downbeat - int(first)) % self.meter, self.meter)


NO_BEATS = Beats(np.empty(0), 0.0, 0)


class BeatTracker(ABC):
    """Waveform -> beats. Deterministic."""

    sample_rate: int  # Hz, that `track` works at; it resamples other waveforms
    needs_weights_file: bool = False  # if so, one process tracks a whole corpus, with one copy of the weights
    cache_key: str  # of tracker, code and weights: beats with the same key are equal

    @abstractmethod
    def track(self, waveform: np.ndarray, sample_rate: int) -> Beats:
        """Find the beats of a waveform (S,) float32. Silence and music without a beat have none."""


class OnsetBeatTracker(BeatTracker):
    """`find_beats` of this module, which needs no weights."""

    sample_rate = RATE
    cache_key = f"onsets-{file_hash(__file__, str(mel_module.__file__))}"

    def track(self, waveform: np.ndarray, sample_rate: int) -> Beats:
        """See `BeatTracker`."""
        return find_beats(waveform, sample_rate)


def find_beats(mono: np.ndarray, sample_rate: int) -> Beats:
    """Find the beats of a waveform (S,) float32; silence and music without a beat have none (no times, tempo 0).

    The tempo lies in MIN_TEMPO..MAX_TEMPO, or outside where kick and snare mark another level. It is steady, or drifts
    by at most 1 % a second. Times are accurate to a few milliseconds where a drum marks the beat.
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
        curve, salience = _tempo_curve(onset, bands)
        if salience < MIN_CURVE_PERIODICITY:
            return NO_BEATS
        times = _track(onset, curve)
    else:
        times = _track(onset, _metrical_level(onset, bands, bpm))
    audible = np.flatnonzero(onset > 0.05 * onset.max()) / ONSETS  # no beats in silence before and after the music
    times = times[(times > audible[0] - 0.1) & (times < audible[-1] + 0.1)] - ONSET_DELAY
    times = times[(times >= 0) & (times < len(mono) / sample_rate)]
    if len(times) < 3:
        return NO_BEATS
    tempo = 60 / np.polyfit(np.arange(len(times)), times, 1)[0]
    return Beats(times, float(tempo), *_bars(wave, bands, times))


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
    is_fast = _is_fast(bands, _track(onset, fast), float(np.interp(60 / fast, lags, correlation)))
    return (fast if is_fast else fast / 2), salience


def _is_fast(bands: np.ndarray, times: np.ndarray, correlation: float) -> bool:
    """Whether these are the beats, not their halves: all are alike, or at least kick and snare both play on each.

    correlation: of the onsets one beat apart.
    """
    ratio: list[Any] = [_evenness(band, times) for band in bands]
    return bool(correlation + 0.3 * min(np.mean(ratio[KICK_BANDS]), ratio[SNARE_BAND]) > DOUBLE_TEMPO_THRESHOLD)


def _metrical_level(onset: np.ndarray, bands: np.ndarray, bpm: float) -> float:
    """Correct the tempo where the drums of the whole song mark another metrical level: half, double or three halves."""
    drums = _drums(bands)
    times = _track(onset, bpm)
    if 2 * SLOW_TEMPO <= bpm < 2 * MIN_TEMPO and len(times) > 3:
        kick, snare = (_parity_ratio(band, times) for band in (bands[KICK_BANDS].sum(0), bands[SNARE_BAND]))
        if kick < 1:
            kick, snare = 1 / kick, 1 / snare
        halves = np.sort(np.concatenate([times, (times[1:] + times[:-1]) / 2]))
        is_divided = _evenness(bands[-1], halves) > MAX_HAT_EVENNESS
        if kick > MIN_KICK_RATIO and snare > MIN_SNARE_RATIO and not is_divided:
            return bpm / 2
    if FAST_TEMPO / 2 <= bpm < MAX_FAST_TEMPO / 2 and _evenness(drums, _track(onset, 2 * bpm)) > MIN_FAST_EVENNESS:
        return 2 * bpm
    triple = 1.5 * bpm if bpm < MAX_TEMPO / 1.4 else 0.75 * bpm
    if _explained(drums, _track(onset, triple)) > TRIPLE_GAIN * _explained(drums, times):
        return triple
    return bpm


def _parity_ratio(onset: np.ndarray, times: np.ndarray) -> float:
    """Strength on the first, third, ... of these times over that on the others."""
    strength = _strength(onset, times)
    return float((strength[::2].mean() + 1e-9) / (strength[1::2].mean() + 1e-9))


def _drums(bands: np.ndarray) -> np.ndarray:
    """Onsets (frames,) of the stronger of kick and snare, each relative to its own strong hits."""
    kick, snare = bands[KICK_BANDS].sum(0), bands[SNARE_BAND]
    return np.maximum(kick / (np.quantile(kick, 0.99) + 1e-9), snare / (np.quantile(snare, 0.99) + 1e-9)).clip(max=1)


def _explained(onset: np.ndarray, times: np.ndarray) -> float:
    """Share of the onsets that lies within 42 ms of these times."""
    near = np.zeros(len(onset) + 10)
    indices = np.round(times * ONSETS).astype(int)[:, None] + np.arange(-5, 6)
    near[indices.clip(0, len(near) - 1)] = 1
    return float((onset * near[: len(onset)]).sum() / (onset.sum() + 1e-9))


def _tempo_curve(onset: np.ndarray, bands: np.ndarray) -> tuple[np.ndarray, float]:
    """BPM at each onset value of a tempo that drifts, and its salience: dynamic programming over windows of 8 s."""
    lags, correlation = _window_autocorrelations(onset)  # (W, L)
    bpm = np.geomspace(MAX_TEMPO / 2, MAX_TEMPO, 250)
    multiples = [beats for beats in (1, 2, 4, 8) if beats * 120 / MAX_TEMPO < 0.75 * lags[-1]]
    periodicity = np.mean(
        [[np.interp(beats * 60 / bpm, lags, row) for row in correlation] for beats in multiples], axis=0
    )
    score = periodicity[0].copy()
    steps = np.arange(-MAX_TEMPO_STEPS, MAX_TEMPO_STEPS + 1)
    origins = []
    for row in periodicity[1:]:
        candidates = np.stack([np.roll(score, step) for step in steps])  # wraps where an octave does
        origins.append(candidates.argmax(0))
        score = candidates.max(0) + row
    index = int(score.argmax())
    path = [index]
    for origin in reversed(origins):
        index = (index - steps[origin[index]]) % len(bpm)
        path.append(index)
    path = path[::-1]
    salience = float(np.mean([row[index] for row, index in zip(periodicity, path, strict=True)]))
    octaves = np.unwrap(np.array(path) / len(bpm), period=1)  # a tempo that leaves the octave goes on
    centers = np.arange(len(path)) + min(4.0, len(onset) / ONSETS / 2)
    curve = np.interp(np.arange(len(onset)) / ONSETS, centers, octaves)
    curve = MAX_TEMPO / 2 * 2**curve
    one_beat = [np.interp(60 / bpm[index], lags, row) for index, row in zip(path, correlation, strict=True)]
    if curve.mean() >= 2 * MIN_TEMPO and not _is_fast(bands, _track(onset, curve), float(np.mean(one_beat))):
        curve = curve / 2
    return curve, salience * len(multiples) / 4


def _track(onset: np.ndarray, bpm: float | np.ndarray) -> np.ndarray:
    """Track the times of the beats at about this tempo, one value or one for each onset value.

    Dynamic programming may slip at the ends of the sound. There the beats are cut back to the regular intervals inside
    of the innermost slip within END_BEATS, and extrapolated with the median interval, or with that of the tempo there.
    """
    settings = {"sr": RATE, "hop_length": HOP, "units": "time", "trim": False, "tightness": TIGHTNESS}
    times = librosa.beat.beat_track(onset_envelope=onset, bpm=bpm, **settings)[1]
    steps = np.full(max(len(times) - 1, 1), np.median(np.diff(times)) if len(times) > 3 else 0.0)
    if isinstance(bpm, np.ndarray) and len(times) > 3:
        steps = 60 / bpm[(times[:-1] * ONSETS).astype(int).clip(0, len(bpm) - 1)]
    regular = np.flatnonzero(np.abs(np.diff(times) - steps[: len(times) - 1]) < 0.05 * steps[: len(times) - 1])
    if not len(regular):
        return times
    is_slip = ~np.isin(np.arange(len(times) - 1), regular)
    # indices of the innermost slips near the ends; without one, of the ends
    after = np.flatnonzero(is_slip[:END_BEATS])[-1:].sum()
    before = len(is_slip) - np.flatnonzero(is_slip[::-1][:END_BEATS])[-1:].sum()
    inner = regular[(regular >= after) & (regular < before)]
    regular = inner if len(inner) else regular
    times = times[regular[0] : regular[-1] + 2]
    first, last = steps[regular[0]], steps[regular[-1]]
    left = times[0] - first * np.arange(int(times[0] / first), 0, -1)
    right = times[-1] + last * np.arange(1, int((len(onset) / ONSETS - times[-1]) / last) + 1)
    return np.concatenate([left, times, right])


def _bars(wave: np.ndarray, bands: np.ndarray, times: np.ndarray) -> tuple[int, int]:
    """Index of the first downbeat, and the beats of a bar: chords change there, and the kick tends to be strong."""
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
    snare = _strength(bands[SNARE_BAND], times)
    rows = [score, *((x - x.mean()) / (x.std() + 1e-9) for x in (kick, snare))]
    similarity = [np.mean([_lag_correlation(row, lag) for row in rows for lag in lags]) for lags in ((3, 6), (4, 8))]
    meter = 3 if len(times) >= MIN_TRIPLE_BEATS and similarity[0] - similarity[1] > MIN_TRIPLE_CONTRAST else 4
    return int(np.argmax([score[phase::meter].mean() for phase in range(min(meter, len(times)))])), meter


def _lag_correlation(values: np.ndarray, lag: int) -> float:
    return float((values[lag:] * values[:-lag]).mean()) if len(values) > lag else 0.0


def _autocorrelation(onset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute lags in seconds and the autocorrelation of the onsets, 1 at lag 0: a mean over windows of up to 8 s."""
    lags, correlation = _window_autocorrelations(onset, normalize=False)
    correlation = correlation.mean(0)
    return lags, correlation / correlation[0]


def _window_autocorrelations(onset: np.ndarray, normalize: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Compute lags (L,) in seconds and the autocorrelation (W, L) of windows of up to 8 s, one each second."""
    length = min(int(8 * ONSETS), len(onset))
    taper = np.hanning(length)
    windows = librosa.util.frame(onset - onset.mean(), frame_length=length, hop_length=int(ONSETS))
    correlation = librosa.autocorrelate(windows * taper[:, None], axis=0).T
    overlap = librosa.autocorrelate(taper)
    correlation = correlation / np.maximum(overlap, 1e-3 * overlap[0])
    if normalize:
        correlation = correlation / np.maximum(correlation[:, :1], 1e-9)
    return np.arange(length) / ONSETS, correlation


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
