"""The 35 values a frame that FACT and EDGE call their baseline features, at the motion's 30 Hz, or those of them that
say no rhythm; needs no weights."""

import sys
from fractions import Fraction

import librosa
import numpy as np
import torch
from torch import Tensor

from zoo.music import beats as beats_module
from zoo.music import mel as mel_module
from zoo.music.beats import NO_BEATS, Beats, beats_to_frames, find_beats
from zoo.music.encoder import MusicEncoder, source_hash, token_count
from zoo.music.mel import mel_blocks

RATE, HOP, WINDOW, MELS = 15360, 512, 2048, 128  # Hz, samples, samples, bands (EDGE data/audio_extraction)
MFCC = 20
BINS, OCTAVE, LOWEST = 252, 36, 32.703  # constant-Q bins in 7 octaves, bins an octave, Hz (C1)
FLOOR = 1e-5  # mel power; about 80 dB below the loudest of a mastered song
LOUD = 16.0  # dB; songs of the world reach 20 to 30, mastered ones 6 to 15
CQT_BLOCK, CQT_MARGIN = 1024, 64  # frames; the longest constant-Q filter reaches 24 frames to either side


class Spectral(MusicEncoder):
    """Onset envelope 1, MFCC 20, CENS chroma 12, onset peak 1, beat 1 (EDGE sec. 5.1, FACT sec. 4.2); not scaled.

    Three things of the public formula depend on the whole file, so that a frame changes with where the sound is cut.
    Here they do not: loudness has a fixed floor (EDGE: 80 dB below the file's maximum), peaks are measured against a
    fixed height (EDGE: the file's highest), chroma takes A = 440 Hz (EDGE: the file's estimated tuning). The beats are
    those of `find_beats`, which are centred on the beat; EDGE's come about a frame late, as librosa finds them.

    rhythm: False leaves out onset envelope, peaks and beats. What stays, 32 values, tells timbre and chords, and so
    style; a network that follows how loudness (the first MFCC) moves can still guess at the rhythm: it is not told it.
    """

    dim, rate, sample_rate = 35, 30.0, RATE

    def __init__(self, rhythm: bool = True):
        super().__init__()
        self.rhythm = rhythm
        self.dim = 35 if rhythm else MFCC + 12
        mark = source_hash(sys.modules[__name__], beats_module, mel_module)
        self.cache_key = f"{'spectral' if rhythm else 'timbre'}-{mark}"

    def encode(self, waveform: Tensor, sample_rate: int, beats: list[Beats] | None = None) -> Tensor:
        """(B, S) float32 -> (B, L, dim) float32, L = ceil(30 S / sample_rate). Silence gives finite values."""
        rows = waveform.detach().cpu().numpy()
        if not self.rhythm:
            beats = [NO_BEATS] * len(rows)
        known = beats if beats is not None else [find_beats(row, sample_rate) for row in rows]
        features = [_features(row, sample_rate, its) for row, its in zip(rows, known, strict=True)]
        if not self.rhythm:
            features = [row[:, 1 : 1 + self.dim] for row in features]
        return torch.from_numpy(np.stack(features)).to(waveform.device)


def _features(wave: np.ndarray, sample_rate: int, beats: Beats) -> np.ndarray:
    frames = token_count(Fraction(len(wave), sample_rate), Spectral.rate)
    if sample_rate != RATE:
        wave = librosa.resample(wave, orig_sr=sample_rate, target_sr=RATE)
    onset, mfcc = _onset_and_mfcc(wave, frames)
    marks = np.zeros((2, frames))
    marks[0, librosa.util.peak_pick(onset / LOUD, pre_max=0, post_max=1, pre_avg=3, post_avg=4, delta=0.07, wait=0)] = 1
    marks[1] = beats_to_frames(beats.times, frames, 30)
    return np.concatenate([onset[None], mfcc, _chroma(wave, frames), marks]).T.astype(np.float32)


def _onset_and_mfcc(wave: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """(frames,) dB a frame and (20, frames): both from one mel spectrogram."""
    rises, mfccs, last = [], [], None
    for power in mel_blocks(wave, RATE, WINDOW, HOP, MELS, frames):
        level = librosa.power_to_db(power, amin=FLOOR, top_db=None)
        rises.append(np.maximum(np.diff(level, axis=1, prepend=level[:, :1] if last is None else last), 0).mean(0))
        mfccs.append(librosa.feature.mfcc(S=level, n_mfcc=MFCC))
        last = level[:, -1:]
    delay = WINDOW // (2 * HOP)  # as librosa.onset.onset_strength: a window hears an onset half its length early
    return np.concatenate([np.zeros(delay), *rises])[:frames], np.concatenate(mfccs, axis=1)


def _chroma(wave: np.ndarray, frames: int) -> np.ndarray:
    """(12, frames) CENS chroma of a constant-Q transform that is made in blocks."""
    blocks = []
    for first in range(0, frames, CQT_BLOCK):
        count = min(CQT_BLOCK, frames - first)
        start, stop = (first - CQT_MARGIN) * HOP, (first + count + CQT_MARGIN) * HOP
        piece = wave[max(start, 0) : stop]
        before = max(-start, 0)
        piece = np.pad(piece, (before, stop - start - before - len(piece)))
        bins = librosa.cqt(piece, sr=RATE, hop_length=HOP, fmin=LOWEST, n_bins=BINS, bins_per_octave=OCTAVE, tuning=0.0)
        blocks.append(np.abs(bins[:, CQT_MARGIN : CQT_MARGIN + count]))
    bins = np.concatenate(blocks, axis=1)
    return librosa.feature.chroma_cens(C=bins, fmin=LOWEST, bins_per_octave=OCTAVE, tuning=0.0)
