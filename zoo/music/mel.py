"""Mel spectrogram of a sound of any length, in blocks of constant memory."""

from collections.abc import Iterator

import numpy as np

from zoo.music.compiled_librosa import librosa

BLOCK_FRAMES = 1024


def mel_blocks(
    wave: np.ndarray, sample_rate: int, window: int, hop: int, mels: int, frames: int
) -> Iterator[np.ndarray]:
    """Yield the mel power (mels, n) of `frames` frames, n <= BLOCK_FRAMES; frame i is centred on sample i * hop.

    wave (S,) float32. Equal to librosa.feature.melspectrogram (Hann window, zero padding) of the whole sound.
    """
    for first in range(0, frames, BLOCK_FRAMES):
        count = min(BLOCK_FRAMES, frames - first)
        start, stop = first * hop - window // 2, (first + count - 1) * hop + window // 2
        section = wave[max(start, 0) : max(stop, 0)]
        num_left = max(-start, 0)
        section = np.pad(section, (num_left, stop - start - num_left - len(section)))
        yield librosa.feature.melspectrogram(
            y=section, sr=sample_rate, n_fft=window, hop_length=hop, n_mels=mels, center=False
        )
