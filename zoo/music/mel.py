"""Mel spectrogram of a sound of any length, in blocks, so that only a block's spectra are in memory at once."""

from collections.abc import Iterator

import librosa
import numpy as np

BLOCK = 1024  # frames


def mel_blocks(
    wave: np.ndarray, sample_rate: int, window: int, hop: int, mels: int, frames: int
) -> Iterator[np.ndarray]:
    """Yield the mel power (mels, n) of `frames` frames in order, n <= BLOCK; frame i is centred on sample i * hop.

    wave (S,) float32. Equal to librosa.feature.melspectrogram (Hann window, zeros beyond the ends) of the whole.
    """
    for first in range(0, frames, BLOCK):
        count = min(BLOCK, frames - first)
        start, stop = first * hop - window // 2, (first + count - 1) * hop + window // 2
        piece = wave[max(start, 0) : max(stop, 0)]
        before = max(-start, 0)
        piece = np.pad(piece, (before, stop - start - before - len(piece)))
        yield librosa.feature.melspectrogram(
            y=piece, sr=sample_rate, n_fft=window, hop_length=hop, n_mels=mels, center=False
        )
