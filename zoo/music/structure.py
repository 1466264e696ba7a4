"""The structure of a song: loudness, timbre, harmony and rhythm of each beat, silences, and section boundaries.

Values do not depend on the volume of the recording and little on its encoding. Shape letters: N beats, D values.
"""

from dataclasses import dataclass

import numpy as np

from zoo.music.beats import Beats
from zoo.music.compiled_librosa import librosa
from zoo.music.mel import mel_blocks

RATE, HOP, WINDOW, MELS = 15360, 512, 2048, 64  # Hz, samples, samples, bands
FRAME_RATE = RATE / HOP  # 30 Hz
NUM_MFCC = 8
ONSET_COLUMNS = slice(NUM_MFCC + 12, NUM_MFCC + 15)  # of the descriptor: behind MFCC and 12 pitch classes
BAND_EDGES = (0, 200, 2000, RATE / 2)  # Hz, of the onset bands
SUBDIVISIONS = 4  # of a beat, in the rhythm pattern
FREE_BEAT_SECONDS = 0.75  # of the grid of music without a beat
DYNAMIC_RANGE = 60.0  # dB below the song's loud level; quieter bands do not count
SILENCE = 40.0  # dB below the song's loud level
MIN_LEVEL = -75.0  # dB of full scale; below it there is silence, however loud the rest is
KERNEL_BARS = 4  # of the novelty kernel, on either side
MIN_NOVELTY = 0.35  # of a section boundary; 2 is the largest possible value
# means and standard deviations of the descriptor over bars of real songs, see `_descriptors`
TIMBRE_SCALE = np.array([40.0, 20.0, 14.0, 11.0, 9.0, 8.0, 7.0, 6.0])
TIMBRE_MEAN = np.array([70.0, 16.0, 15.0, 7.0, 5.0, 2.0, 2.0, 0.0])
ONSET_MEAN, ONSET_SCALE = 1.2, 0.6  # dB a frame
CHROMA_SCALE, PATTERN_SCALE = 0.08, 0.12
PATTERN_MEAN = np.array([0.4, 0.13, 0.25, 0.22])


@dataclass(frozen=True)
class SongStructure:
    """A song, beat by beat. Beat i lasts from times[i] to times[i + 1]; together they cover the recording.

    times (N + 1,) seconds; first_downbeat: index of the first downbeat; meter: beats of a bar, 4 or 3; loudness (N,)
    dB relative to the song's loud parts; silent (N,) bool; descriptors (N, D) of timbre, harmony and rhythm, each
    about 0 +- 1; boundaries: beats at which a section begins; onset_strength: mean rise of the level, dB a frame;
    has_beat: False where no beat was found and the grid is arbitrary.
    """

    times: np.ndarray
    first_downbeat: int
    meter: int
    loudness: np.ndarray
    silent: np.ndarray
    descriptors: np.ndarray
    boundaries: tuple[int, ...]
    onset_strength: float
    has_beat: bool

    @property
    def beat_seconds(self) -> float:
        """Median length of a beat."""
        return float(np.median(np.diff(self.times)))


def analyze_structure(wave: np.ndarray, sample_rate: int, beats: Beats) -> SongStructure:
    """Analyze a mono waveform (S,) float32 with its beats."""
    if sample_rate != RATE:
        wave = librosa.resample(wave, orig_sr=sample_rate, target_sr=RATE)
    seconds = len(wave) / RATE
    frames = max(1, -(-len(wave) // HOP))
    power = np.concatenate(list(mel_blocks(wave, RATE, WINDOW, HOP, MELS, frames)), axis=1)
    frame_level = 10 * np.log10(power.sum(0) / WINDOW + 1e-12)
    has_beat = len(beats.times) >= 2
    times, first_downbeat = _grid(beats, seconds, frame_level)
    edges = np.clip(times * FRAME_RATE, 0, frames)

    loudness = 10 * np.log10(_segment_means(power.sum(0) / WINDOW, edges) + 1e-12)
    loud = float(np.quantile(loudness, 0.95))
    silent = (loudness < loud - SILENCE) | (loudness < MIN_LEVEL)
    top = np.quantile(power, 0.999)
    level = 10 * np.log10(np.maximum(power / max(top, 1e-12), 10 ** (-DYNAMIC_RANGE / 10)))
    rises = np.maximum(np.diff(level, axis=1, prepend=level[:, :1]), 0)
    descriptors = _descriptors(wave, level, rises, edges)
    onset_strength = 0.0 if silent.all() else float(_segment_means(rises.mean(0), edges)[~silent].mean())
    boundaries = _boundaries(
        np.concatenate([descriptors, (loudness - loud)[:, None] / 6], 1), silent, first_downbeat, beats.meter
    )
    return SongStructure(
        times,
        first_downbeat,
        beats.meter,
        np.maximum(loudness - loud, -DYNAMIC_RANGE),
        silent,
        descriptors,
        boundaries,
        onset_strength,
        has_beat,
    )


def _segment_means(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(..., F) -> (..., N): means between N + 1 fractional frame numbers, at least a tenth of a frame apart.

    Frames count by the part of them that lies between the edges: a beat that moves by a few milliseconds, as it does in
    another encoding of the song, changes the mean by little.
    """
    last = values.shape[-1]
    start = np.minimum(edges[:-1], last - 0.1)
    stop = np.maximum(edges[1:], start + 0.1)
    total = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, -1, dtype=np.float64)], -1)

    def integral(frame: np.ndarray) -> np.ndarray:
        low = np.minimum(frame.astype(int), last - 1)
        return total[..., low] + (frame - low) * (total[..., low + 1] - total[..., low])

    return (integral(stop) - integral(start)) / (stop - start)


def _grid(beats: Beats, seconds: float, frame_level: np.ndarray) -> tuple[np.ndarray, int]:
    """Beat times that cover [0, seconds], and the index of the first downbeat."""
    if len(beats.times) >= 2:
        times, downbeat, step = beats.times, beats.downbeat, float(np.median(np.diff(beats.times)))
    else:
        sounding = np.flatnonzero(frame_level > max(frame_level.max() - SILENCE, MIN_LEVEL))
        times, downbeat, step = np.array([sounding[0] / FRAME_RATE if len(sounding) else 0.0]), 0, FREE_BEAT_SECONDS
    num_before = int(np.ceil(times[0] / step - 1e-9))
    num_after = max(1, int(np.ceil((seconds - times[-1]) / step)))
    grid = np.concatenate(
        [times[0] - step * np.arange(num_before, 0, -1), times, times[-1] + step * np.arange(1, num_after + 1)]
    )
    return grid, (downbeat + num_before) % beats.meter


def _descriptors(wave: np.ndarray, level: np.ndarray, rises: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(N, D): 8 MFCC without the level, 12 pitch classes, onsets of 3 bands, and the rhythm pattern of the beat."""
    mfcc = librosa.feature.mfcc(S=level, n_mfcc=NUM_MFCC + 1)[1:]
    chroma = librosa.feature.chroma_stft(y=wave, sr=RATE, n_fft=4096, hop_length=HOP, tuning=0.0, norm=None)
    chroma = np.pad(chroma, ((0, 0), (0, max(0, level.shape[1] - chroma.shape[1]))))[:, : level.shape[1]]
    hertz = librosa.mel_frequencies(n_mels=MELS + 2, fmax=RATE / 2)[1:-1]
    bands = np.stack(
        [
            rises[(hertz >= low) & (hertz < high)].mean(0)
            for low, high in zip(BAND_EDGES[:-1], BAND_EDGES[1:], strict=True)
        ]
    )
    pitch = _segment_means(chroma, edges)
    pitch /= np.maximum(pitch.sum(0), 1e-9)
    flux, patterns = rises.mean(0), []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        cuts = np.linspace(start, max(stop, start + 1), SUBDIVISIONS + 1)
        pattern = np.array([_mean(flux, cut - 1, cut + 1) for cut in cuts[:-1]])
        patterns.append(pattern / max(pattern.sum(), 1e-9))
    rows = [
        (_segment_means(mfcc, edges).T - TIMBRE_MEAN) / TIMBRE_SCALE,
        (pitch.T - 1 / 12) / CHROMA_SCALE,
        (_segment_means(bands, edges).T - ONSET_MEAN) / ONSET_SCALE,
        (np.stack(patterns) - PATTERN_MEAN) / PATTERN_SCALE,
    ]
    return np.clip(np.concatenate(rows, 1), -3, 3)


def _mean(values: np.ndarray, start: float, stop: float) -> float:
    """Mean of values between two fractional indices, linearly interpolated."""
    points = np.linspace(start, stop, 5)
    return float(np.interp(points, np.arange(len(values)), values).mean())


def _boundaries(features: np.ndarray, silent: np.ndarray, first_downbeat: int, meter: int) -> tuple[int, ...]:
    """Beats at which sections begin: peaks of Foote's novelty of the bars' similarity, and the ends of silences."""
    ends = {int(beat) for beat in np.flatnonzero(silent[:-1] & ~silent[1:]) + 1}
    starts = np.arange(first_downbeat, len(features) - meter + 1, meter)
    if len(starts) < 2 * KERNEL_BARS:
        return tuple(sorted(ends))
    bars = np.stack([features[start : start + meter].mean(0) for start in starts])
    bars = (bars - bars.mean(0)) / (bars.std(0).mean() + 1e-6)
    bars /= np.linalg.norm(bars, axis=1, keepdims=True) + 1e-6
    similarity = bars @ bars.T
    novelty = np.zeros(len(bars))
    for bar in range(2, len(bars) - 1):
        width = min(KERNEL_BARS, bar, len(bars) - bar)
        left, right = slice(bar - width, bar), slice(bar, bar + width)
        within = (similarity[left, left].mean() + similarity[right, right].mean()) / 2
        novelty[bar] = within - similarity[left, right].mean()
    peaks = [
        bar
        for bar in range(2, len(bars) - 1)
        if novelty[bar] > MIN_NOVELTY and novelty[bar] == novelty[max(0, bar - 3) : bar + 4].max()
    ]
    return tuple(sorted(ends | {int(starts[bar]) for bar in peaks}))
