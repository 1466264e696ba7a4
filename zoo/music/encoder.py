"""What a music encoder is, and how a song is listened to: features and beats, cached on disk."""

import hashlib
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.files import cache_root, replacing
from zoo.media import Sound
from zoo.music import beats as beats_module
from zoo.music import mel as mel_module
from zoo.music.beats import RATE, Beats, find_beats

MARGIN = 3.0  # s heard on either side of what is asked for, so that its edges sound as they do in the whole song


@dataclass(frozen=True)
class MusicFeatures:
    """A song as the models hear it.

    features (L, D) float32, token i at time i / rate; rate in Hz; beats of the same span, on the same clock.
    """

    features: Tensor
    rate: float
    beats: Beats

    @property
    def seconds(self) -> float:
        """Time covered: L / rate."""
        return len(self.features) / self.rate

    def slice(self, start: float | Fraction, stop: float | Fraction) -> "MusicFeatures":
        """The part [start, stop) in seconds, on its own clock: tokens from the one nearest to `start` on, beats moved.

        It has token_count(stop - start) tokens. Asserts that it lies within the music.
        """
        first, count = round(start * self.rate), token_count(stop - start, self.rate)
        assert 0 <= first < first + count <= len(self.features), (float(start), float(stop), self.seconds)
        return MusicFeatures(
            self.features[first : first + count], self.rate, self.beats.slice(float(start), float(stop))
        )


def token_count(seconds: Fraction | float, rate: float) -> int:
    """L of so many seconds: tokens at 0, 1 / rate, ... before the end, so 5 s at 30 Hz are 150."""
    exact = Fraction(seconds).limit_denominator(1 << 24) * Fraction(rate).limit_denominator(1 << 16)
    return -(-exact.numerator // exact.denominator)


class MusicEncoder(nn.Module, ABC):
    """Waveform -> features at a fixed rate; the same sound gives the same features wherever it is cut."""

    dim: int  # D, values of one token
    rate: float  # Hz, tokens a second
    sample_rate: int  # Hz, what `encode` wants best; it resamples anything else
    context_seconds: float = MARGIN  # s on either side of a token that it is made of, or nearly so
    needs_weights_file: bool = False  # then one process encodes a whole corpus: they are held once
    cache_key: str  # names the encoder, its settings, code and weights: what is cached under it never changes

    @abstractmethod
    def encode(self, waveform: Tensor, sample_rate: int, beats: list[Beats] | None = None) -> Tensor:
        """(B, S) float32 -> (B, L, D) float32, L = token_count(S / sample_rate, rate), token i at i / rate.

        beats: of each waveform where they are known already; an encoder that has no use for them ignores them.
        """


def encode_song(
    sound: Sound | np.ndarray,
    encoder: MusicEncoder,
    seconds: float | Fraction | None = None,
    start: float | Fraction = 0,
    sample_rate: int | None = None,
) -> MusicFeatures:
    """Features and beats of `seconds` of a sound from `start` on (None: to its end), or of what there is of them.

    sound: a file, or a mono waveform (S,) float32 at `sample_rate`. Only the part asked for and the encoder's context
    around it is decoded and analysed. Results are kept under $DANCEZOO_CACHE (~/.cache/dancezoo), found by the samples
    themselves, the encoder's `cache_key` and the code that finds beats. Raises ValueError where the sound ended before
    `start`.
    """
    begin = Fraction(start).limit_denominator(1 << 24)
    if isinstance(sound, Sound):
        length = sound.duration
    else:
        assert sample_rate is not None and sound.ndim == 1, "a waveform needs its sample rate, and one channel"
        length = Fraction(len(sound), sample_rate)
    end = length if seconds is None else min(length, begin + Fraction(seconds).limit_denominator(1 << 24))
    if end <= begin:
        raise ValueError(f"no sound to listen to from {float(begin):.2f} s on: it lasts {float(length):.2f} s")

    step = 1 / Fraction(encoder.rate).limit_denominator(1 << 16)
    before = (
        min(begin, Fraction(encoder.context_seconds)) // step
    )  # tokens of margin: whole ones, so that the first one asked for is at 0
    first, last = begin - before * step, min(length, end + Fraction(encoder.context_seconds))
    if isinstance(sound, Sound):
        wave, rate = sound.mono(encoder.sample_rate, first, last), encoder.sample_rate
        rhythm, rhythm_rate = (wave if rate == RATE else sound.mono(RATE, first, last)), RATE
    else:
        assert sample_rate is not None, "a waveform needs its sample rate"
        wave, rate = np.ascontiguousarray(sound[round(first * sample_rate) : round(last * sample_rate)]), sample_rate
        rhythm, rhythm_rate = wave, rate

    name = hashlib.sha256(f"{encoder.cache_key} {BEAT_TRACKER_HASH} {rate}".encode() + wave.tobytes()).hexdigest()
    path = cache_root() / "music" / f"{name}.npz"
    heard = _load(path, encoder)
    if heard is None:
        beats = find_beats(rhythm, rhythm_rate)
        with torch.inference_mode():
            features = encoder.encode(torch.from_numpy(wave)[None], rate, [beats])[0].float().cpu()
        heard = MusicFeatures(features.clone(), encoder.rate, beats)
        _keep(path, heard)
    stop = min(end - first, Fraction(len(wave), rate))  # a cut-off file may hold less than its packets promise
    return heard.slice(before * step, stop)


def source_hash(*modules: ModuleType) -> str:
    """Changes whenever the code of these modules does: for the cache_key of what they compute."""
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in modules)
    return hashlib.sha256(sources).hexdigest()[:12]


BEAT_TRACKER_HASH = source_hash(beats_module, mel_module)


def _load(path: Path, encoder: MusicEncoder) -> MusicFeatures | None:
    """What was kept, or None where there is nothing, or nothing whole."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            features, times = kept["features"], kept["times"]
            beats = Beats(times, float(kept["tempo"]), int(kept["downbeat"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    whole = features.ndim == 2 and features.shape[1] == encoder.dim and features.dtype == np.float32 and times.ndim == 1
    return MusicFeatures(torch.from_numpy(features), encoder.rate, beats) if whole else None


def _keep(path: Path, music: MusicFeatures) -> None:
    """Write through a temporary name; a cache that cannot be written is no reason to stop."""
    beats = music.beats
    fields: dict[str, Any] = {"times": beats.times, "tempo": beats.tempo, "downbeat": beats.downbeat}
    try:
        with replacing(path) as temporary:
            np.savez(temporary, features=music.features.numpy(), **fields)
    except OSError:
        return
