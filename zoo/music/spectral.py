"""The 35 baseline features of FACT and EDGE at the motion's 30 Hz, optionally without rhythm. Needs no weights."""

import sys
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from zoo.music import beats as beats_module
from zoo.music import mel as mel_module
from zoo.music.beats import NO_BEATS, Beats, beats_to_frames
from zoo.music.compiled_librosa import librosa
from zoo.music.encoder import MusicEncoder, source_hash, token_count
from zoo.music.mel import mel_blocks

RATE, HOP, WINDOW, MELS = 15360, 512, 2048, 128  # Hz, samples, samples, bands (EDGE data/audio_extraction)
NUM_MFCC = 20
CQT_BINS, BINS_PER_OCTAVE, MIN_HERTZ = 252, 36, 32.703  # 7 octaves from C1 on
MIN_POWER = 1e-5  # mel power; about 80 dB below the maximum of a mastered song
ONSET_SCALE = 16.0  # dB; songs of the world reach 20 to 30, mastered ones 6 to 15
CQT_BLOCK, CQT_MARGIN = 1024, 64  # frames; the longest constant-Q filter reaches 24 frames to either side


class Spectral(MusicEncoder):
    """Onset envelope 1, MFCC 20, CENS chroma 12, onset peak 1, beat 1 (EDGE sec. 5.1, FACT sec. 4.2); not normalised.

    Three terms of the public formula depend on the whole file, so that a frame would change with the cut. Here they
    are fixed: the minimum power (EDGE: 80 dB below the file's maximum), the height of peaks (EDGE: relative to the
    file's highest) and the tuning A = 440 Hz (EDGE: estimated from the file). Beats are those of `beat_tracker`,
    centred on the beat; EDGE's, by librosa, are about one frame late.

    rhythm: False leaves out onset envelope, peaks and beats (music=timbre). The other 32 values describe timbre and
    chords, and so style. The rhythm is then only implicit, in changes of the loudness (the first MFCC).
    """

    dim, rate, sample_rate = 35, 30.0, RATE

    def __init__(self, rhythm: bool = True):
        super().__init__()
        self.rhythm = rhythm
        self.dim = 35 if rhythm else NUM_MFCC + 12
        code = source_hash(sys.modules[__name__], beats_module, mel_module)
        self.cache_key = f"{'spectral' if rhythm else 'timbre'}-{code}"

    def encode(self, waveform: Tensor, sample_rate: int, beats: list[Beats] | None = None) -> Tensor:
        """Encode (B, S) float32 to (B, L, dim) float32, L = ceil(30 S / sample_rate). Finite for silence, too."""
        rows = waveform.detach().cpu().numpy()
        if not self.rhythm:
            beats = [NO_BEATS] * len(rows)
        if beats is None:
            beats = [self.beat_tracker.track(row, sample_rate) for row in rows]
        features = [_features(row, sample_rate, row_beats) for row, row_beats in zip(rows, beats, strict=True)]
        if not self.rhythm:
            features = [row[:, 1 : 1 + self.dim] for row in features]
        return torch.from_numpy(np.stack(features)).to(waveform.device)


def _features(wave: np.ndarray, sample_rate: int, beats: Beats) -> np.ndarray:
    frames = token_count(Fraction(len(wave), sample_rate), Spectral.rate)
    if sample_rate != RATE:
        wave = librosa.resample(wave, orig_sr=sample_rate, target_sr=RATE)
    onset, mfcc = _onset_and_mfcc(wave, frames)
    marks = np.zeros((2, frames))
    marks[
        0, librosa.util.peak_pick(onset / ONSET_SCALE, pre_max=0, post_max=1, pre_avg=3, post_avg=4, delta=0.07, wait=0)
    ] = 1
    marks[1] = beats_to_frames(beats.times, frames, 30)
    return np.concatenate([onset[None], mfcc, _chroma(wave, frames), marks]).T.astype(np.float32)


def _onset_and_mfcc(wave: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Onset envelope (frames,), dB a frame, and MFCC (20, frames), from one mel spectrogram."""
    rises, mfccs, last = [], [], None
    for power in mel_blocks(wave, RATE, WINDOW, HOP, MELS, frames):
        level = librosa.power_to_db(power, amin=MIN_POWER, top_db=None)
        rises.append(np.maximum(np.diff(level, axis=1, prepend=level[:, :1] if last is None else last), 0).mean(0))
        mfccs.append(librosa.feature.mfcc(S=level, n_mfcc=NUM_MFCC))
        last = level[:, -1:]
    delay = WINDOW // (2 * HOP)  # as librosa.onset.onset_strength: a window contains an onset half its length early
    return np.concatenate([np.zeros(delay), *rises])[:frames], np.concatenate(mfccs, axis=1)


def _chroma(wave: np.ndarray, frames: int) -> np.ndarray:
    """CENS chroma (12, frames) of a constant-Q transform that is computed in blocks."""
    blocks = []
    for first in range(0, frames, CQT_BLOCK):
        count = min(CQT_BLOCK, frames - first)
        start, stop = (first - CQT_MARGIN) * HOP, (first + count + CQT_MARGIN) * HOP
        section = wave[max(start, 0) : stop]
        num_left = max(-start, 0)
        section = np.pad(section, (num_left, stop - start - num_left - len(section)))
        bins = librosa.cqt(
            section,
            sr=RATE,
            hop_length=HOP,
            fmin=MIN_HERTZ,
            n_bins=CQT_BINS,
            bins_per_octave=BINS_PER_OCTAVE,
            tuning=0.0,
        )
        blocks.append(np.abs(bins[:, CQT_MARGIN : CQT_MARGIN + count]))
    bins = np.concatenate(blocks, axis=1)
    return librosa.feature.chroma_cens(C=bins, fmin=MIN_HERTZ, bins_per_octave=BINS_PER_OCTAVE, tuning=0.0)
