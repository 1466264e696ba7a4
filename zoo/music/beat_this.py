"""Beats and downbeats by Beat This! (Foscarin, Schlüter and Widmer, ISMIR 2024), with weights from a file.

Frames, chunks and peaks are those of the public code (github.com/CPJKU/beat_this) without its optional DBN.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.files import file_hash
from zoo.music.beats import MIN_SECONDS, NO_BEATS, Beats, BeatTracker
from zoo.music.compiled_librosa import librosa
from zoo.nn import beat_this as network_module
from zoo.nn.beat_this import FRAME_RATE, MELS, BeatThis
from zoo.nn.weights.lazy import LazyWeights

RATE, HOP, WINDOW = 22050, 441, 1024  # Hz, samples, samples
MIN_HERTZ, MAX_HERTZ, LOG_SCALE = 30, 11000, 1000
CHUNK_FRAMES, BORDER_FRAMES = 1500, 6  # frames the network sees at a time; of them, on either side, not used
PEAK_FRAMES = 3  # a peak is the highest frame within 60 ms
METERS = (4, 3)  # that `Beats` can express


class BeatThisTracker(LazyWeights, BeatTracker):
    """Tracks beats with a checkpoint of Beat This!. Times are multiples of 20 ms, its frames."""

    sample_rate, needs_weights_file = RATE, True

    def __init__(self, path: str | Path):
        """path: final0.ckpt, small0.ckpt or another of the published files, read for the first song."""
        self.path = Path(path)

    @cached_property
    def cache_key(self) -> str:  # type: ignore[override]
        """Hash of weights and code."""
        return f"beat-this-{file_hash(self.path, __file__, str(network_module.__file__))}"

    def load(self) -> BeatThis:
        """Read the network. Raises ValueError for another file."""
        return BeatThis(self.path)

    def track(self, waveform: np.ndarray, sample_rate: int) -> Beats:
        """See `BeatTracker`. Beats has one metre and one phase: those that most of the downbeats have."""
        if len(waveform) < MIN_SECONDS * sample_rate:
            return NO_BEATS
        return to_beats(*find_peaks(*self.logits(waveform, sample_rate)))

    def logits(self, waveform: np.ndarray, sample_rate: int) -> tuple[Tensor, Tensor]:
        """Logits of beats and of downbeats (T,) of a waveform (S,) float32, at FRAME_RATE, T = 1 + S / HOP.

        Chunks of 30 s, of which the earlier one decides where two overlap. Memory beside the waveform is that of one.
        """
        if sample_rate != RATE:
            waveform = librosa.resample(waveform, orig_sr=sample_rate, target_sr=RATE)
        num_frames = 1 + len(waveform) // HOP
        logits = torch.full((2, num_frames), -1000.0)
        num_done = 0
        with torch.inference_mode():
            for start in chunk_starts(num_frames):
                first, stop = max(start, 0), min(start + CHUNK_FRAMES, num_frames)
                padding = (first - start, min(BORDER_FRAMES, start + CHUNK_FRAMES - stop))
                frames = F.pad(log_mel(waveform, first, stop), (0, 0, *padding))
                chunk = torch.cat(self.loaded(frames[None]))[:, BORDER_FRAMES:-BORDER_FRAMES]
                chunk = chunk[:, num_done - (start + BORDER_FRAMES) :]
                logits[:, num_done : num_done + chunk.shape[1]] = chunk
                num_done += chunk.shape[1]
        return logits[0], logits[1]


def chunk_starts(num_frames: int) -> list[int]:
    """First frames of the chunks; the last one ends BORDER_FRAMES behind the sound, if there are several."""
    step = CHUNK_FRAMES - 2 * BORDER_FRAMES
    starts = list(range(-BORDER_FRAMES, num_frames - BORDER_FRAMES, step))
    if num_frames > step:
        starts[-1] = num_frames + BORDER_FRAMES - CHUNK_FRAMES
    return starts


def log_mel(waveform: np.ndarray, first: int, stop: int) -> Tensor:
    """Log-mel magnitudes (stop - first, MELS) of frames first .. stop - 1 of a waveform (S,) at RATE.

    Frame i is centred on sample i * HOP; beyond its ends the waveform is reflected.
    """
    indices = np.arange(first * HOP - WINDOW // 2, (stop - 1) * HOP + WINDOW // 2)
    last_sample = len(waveform) - 1
    indices = last_sample - np.abs(last_sample - np.abs(indices))
    section = torch.from_numpy(waveform[indices].astype(np.float32))
    spectrum = torch.stft(section, WINDOW, HOP, window=torch.hann_window(WINDOW), center=False, return_complex=True)
    return torch.log1p(LOG_SCALE / WINDOW**0.5 * (spectrum.abs().T @ _mel_filters().T))


def find_peaks(beat_logits: Tensor, downbeat_logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Times of beats and of downbeats in seconds; each downbeat is one of the beats, if there is any.

    Peaks of more than one half probability; neighbours are merged; a downbeat moves to the nearest beat (sec. 3.4).
    """
    beats, downbeats = (np.array(list(_peaks(x))) / FRAME_RATE for x in (beat_logits, downbeat_logits))
    if len(beats):
        downbeats = np.unique([beats[np.abs(beats - time).argmin()] for time in downbeats])
    return beats, downbeats


def _peaks(logits: Tensor) -> Iterator[float]:
    """Frames of the peaks. A frame next to the mean of those before it is merged with them."""
    is_peak = (logits == F.max_pool1d(logits[None], 2 * PEAK_FRAMES + 1, 1, PEAK_FRAMES)[0]) & (logits > 0)
    mean, count = 0.0, 0
    for frame in is_peak.nonzero()[:, 0].tolist():
        if count and frame - mean > 1:
            yield mean
            count = 0
        count += 1
        mean = frame if count == 1 else mean + (frame - mean) / count
    if count:
        yield mean


def to_beats(times: np.ndarray, downbeats: np.ndarray) -> Beats:
    """Beats of the metre and phase that most downbeats have; 4/4 where they do not decide."""
    if len(times) < 3:
        return NO_BEATS
    indices = np.searchsorted(times, downbeats)
    counts = {(meter, phase): int((indices % meter == phase).sum()) for meter in METERS for phase in range(meter)}
    meter, phase = max(counts, key=lambda key: counts[key])
    return Beats(times, float(60 / np.polyfit(np.arange(len(times)), times, 1)[0]), phase, meter)


def _mel_filters() -> Tensor:
    """(MELS, WINDOW / 2 + 1): Slaney's scale, triangles of height 1."""
    options = {"fmin": MIN_HERTZ, "fmax": MAX_HERTZ, "norm": None}
    return torch.from_numpy(librosa.filters.mel(sr=RATE, n_fft=WINDOW, n_mels=MELS, **options))
