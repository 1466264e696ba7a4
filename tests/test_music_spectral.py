"""The 35 spectral values: EDGE's formula, the same wherever a sound is cut, finite for silence."""

import numpy as np
import pytest
import torch

from zoo.data.world.song import make_song
from zoo.music.beats import NO_BEATS, find_beats
from zoo.music.compiled_librosa import librosa
from zoo.music.encoder import token_count
from zoo.music.spectral import RATE, Spectral


@pytest.fixture(scope="module")
def wave():
    song = make_song(11, 12, "pop", 120)
    wave = np.tile(librosa.resample(song.waveform, orig_sr=song.sample_rate, target_sr=RATE)[: 12 * RATE], 3)
    hiss = np.random.default_rng(0).standard_normal(len(wave)) * 0.003  # as a recording has: nothing is at the floor
    return (wave + hiss).astype(np.float32)  # 36 s: longer than a block


@pytest.fixture(scope="module")
def features(wave):
    return Spectral().encode(torch.from_numpy(wave)[None], RATE)[0].numpy()


def test_the_formula_of_edge(wave, features):
    """librosa's whole-file calls with EDGE's settings (data/audio_extraction); they give one frame more."""
    onset = librosa.onset.onset_strength(y=wave, sr=RATE)[:-1]
    mfcc = librosa.feature.mfcc(y=wave, sr=RATE, n_mfcc=20).T[:-1]
    chroma = librosa.feature.chroma_cens(y=wave, sr=RATE, hop_length=512, n_chroma=12, tuning=0.0).T[:-1]
    peaks = np.isin(np.arange(len(onset)), librosa.onset.onset_detect(onset_envelope=onset, sr=RATE, hop_length=512))
    assert features.shape == (36 * 30, 35) and features.dtype == np.float32
    assert np.abs(features[:, 0] - onset).max() < 1e-3
    assert np.abs(features[:, 1:21] - mfcc).max() < 1e-2
    assert np.corrcoef(features[:, 21:33].ravel(), chroma.ravel())[0, 1] > 0.9999
    found = features[:, 33] > 0
    assert 2 * (found & peaks).sum() / (found.sum() + peaks.sum()) > 0.8


def test_beats_are_on_their_frames(wave, features):
    times = find_beats(wave, RATE).times
    assert len(times) > 60 and np.array_equal(np.flatnonzero(features[:, 34]), np.round(times * 30))


@pytest.mark.parametrize("first", [7, 100, 331])
def test_equal_wherever_it_is_cut(wave, features, first):
    part = Spectral().encode(torch.from_numpy(wave[first * 512 : 35 * RATE])[None], RATE, [NO_BEATS])[0].numpy()
    margin = 60  # frames: half a constant-Q filter and half the smoothing of CENS
    same = np.abs(part[margin:-margin] - features[first + margin : 35 * 30 - margin])[:, :34]
    assert same.max() < 1e-4


def test_without_rhythm(wave, features):
    """MFCC and chroma as they are, without onsets, peaks and beats, under a name of its own."""
    timbre = Spectral(rhythm=False)
    piece = torch.from_numpy(wave[None, : 6 * RATE])
    assert timbre.encode(piece, RATE).shape == (1, 180, timbre.dim) == (1, 180, 32)
    heard = timbre.encode(piece, RATE, [find_beats(wave, RATE)])[0].numpy()
    np.testing.assert_allclose(
        heard[:100], features[:100, 1:33], rtol=1e-4, atol=1e-4
    )  # another length, other FFT kernels
    assert timbre.cache_key != Spectral().cache_key == Spectral(rhythm=True).cache_key


def test_silence_lengths_and_other_rates(wave):
    encoder = Spectral()
    silent = encoder.encode(torch.zeros(2, 44100), 22050)
    assert silent.shape == (2, 60, 35) and silent.isfinite().all() and silent[..., 33:].sum() == 0
    assert encoder.encode(torch.zeros(1, 8001), 16000).shape == (1, token_count(8001 / 16000, 30), 35) == (1, 16, 35)
    piece = wave[: 6 * RATE]
    other = librosa.resample(piece, orig_sr=RATE, target_sr=44100)
    here, there = (
        encoder.encode(torch.from_numpy(w)[None], r, [NO_BEATS])[0] for w, r in ((piece, RATE), (other, 44100))
    )
    assert (here[5:-5, 1:21] - there[5:-5, 1:21]).abs().mean() < 4  # of -130..90; the top is filtered away
