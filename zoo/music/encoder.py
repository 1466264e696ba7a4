"""The interface of music encoders, and the features and beats of a song, cached on disk."""

import hashlib
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.files import cache_root, replacing
from zoo.media import Sound
from zoo.music.beats import RATE, Beats, BeatTracker, OnsetBeatTracker

DEFAULT_CONTEXT_SECONDS = 3.0  # encoded on either side of a section, so that its edges equal those of the whole song


@dataclass(frozen=True)
class MusicFeatures:
    """The features and beats of a song, or of a section of it.

    features (L, D) float32, token i at time i / rate; rate in Hz; beats of the same span, on the same clock; waveform
    (S,) float32 at `zoo.music.beats.RATE` of the same span, where it was asked for.
    """

    features: Tensor
    rate: float
    beats: Beats
    waveform: np.ndarray | None = None

    @property
    def seconds(self) -> float:
        """Time covered: L / rate."""
        return len(self.features) / self.rate

    def slice(self, start: float | Fraction, stop: float | Fraction) -> "MusicFeatures":
        """Cut the section [start, stop), in seconds. Its times count from the token nearest to `start`.

        It has token_count(stop - start, rate) tokens. Asserts that it lies within the music.
        """
        first, count = round(start * self.rate), token_count(stop - start, self.rate)
        assert 0 <= first < first + count <= len(self.features), (float(start), float(stop), self.seconds)
        wave = self.waveform
        return MusicFeatures(
            self.features[first : first + count],
            self.rate,
            self.beats.slice(float(start), float(stop)),
            None if wave is None else wave[round(start * RATE) : round(stop * RATE)],
        )


def token_count(seconds: Fraction | float, rate: float) -> int:
    """L of `seconds`: tokens at 0, 1 / rate, ... before the end. 5 s at 30 Hz are 150 tokens."""
    exact_count = Fraction(seconds).limit_denominator(1 << 24) * Fraction(rate).limit_denominator(1 << 16)
    return -(-exact_count.numerator // exact_count.denominator)


class MusicEncoder(nn.Module, ABC):
    """Waveform -> features at a fixed rate. Deterministic, and independent of where a song is cut."""

    dim: int  # D, values of one token
    rate: float  # Hz, tokens a second
    sample_rate: int  # Hz, that `encode` works at; it resamples other waveforms
    context_seconds: float = DEFAULT_CONTEXT_SECONDS  # on either side of a token that its values depend on
    needs_weights_file: bool = False  # if so, one process encodes a whole corpus, with one copy of the weights
    cache_key: str  # of encoder, settings, code and weights: features with the same key are equal
    beat_tracker: BeatTracker = OnsetBeatTracker()  # of the songs that it encodes

    @property
    def song_cache_key(self) -> str:
        """Of encoder and beat tracker: features and beats of a song with the same key are equal."""
        return f"{self.cache_key} {self.beat_tracker.cache_key}"

    @abstractmethod
    def encode(self, waveform: Tensor, sample_rate: int, beats: list[Beats] | None = None) -> Tensor:
        """Encode (B, S) float32 to (B, L, D) float32, L = token_count(S / sample_rate, rate), token i at i / rate.

        beats: of each waveform, if they are already computed. Encoders that do not use beats ignore them.
        """


def encode_song(
    sound: Sound | np.ndarray,
    encoder: MusicEncoder,
    seconds: float | Fraction | None = None,
    start: float | Fraction = 0,
    sample_rate: int | None = None,
    keep_waveform: bool = False,
) -> MusicFeatures:
    """Compute features and beats of `seconds` of a sound from `start` on (None: to its end), or of the available part.

    sound: a file, or a mono waveform (S,) float32 at `sample_rate`. keep_waveform: return a file's waveform, too.
    Only this section and the encoder's context around it are decoded and analysed. Results are cached in
    $DANCEZOO_CACHE (~/.cache/dancezoo), by a hash of the samples and the encoder's `song_cache_key`. Raises ValueError
    where the sound ends before `start`.
    """
    section_start = Fraction(start).limit_denominator(1 << 24)
    if isinstance(sound, Sound):
        length = sound.duration
    else:
        assert sample_rate is not None and sound.ndim == 1, "a waveform needs its sample rate, and one channel"
        length = Fraction(len(sound), sample_rate)
    section_stop = length
    if seconds is not None:
        section_stop = min(length, section_start + Fraction(seconds).limit_denominator(1 << 24))
    if section_stop <= section_start:
        raise ValueError(
            f"the sound lasts {float(length):.2f} s, so it has no section from {float(section_start):.2f} s on"
        )

    token_seconds = 1 / Fraction(encoder.rate).limit_denominator(1 << 16)
    context = Fraction(encoder.context_seconds)
    # whole tokens, so that the section's first token is at time 0
    context_tokens = min(section_start, context) // token_seconds
    decode_start, decode_stop = section_start - context_tokens * token_seconds, min(length, section_stop + context)
    if isinstance(sound, Sound):
        wave, rate = sound.mono(encoder.sample_rate, decode_start, decode_stop), encoder.sample_rate
    else:
        assert sample_rate is not None, "a waveform needs its sample rate"
        samples = slice(round(decode_start * sample_rate), round(decode_stop * sample_rate))
        wave, rate = np.ascontiguousarray(sound[samples]), sample_rate

    def decode(other_rate: int) -> np.ndarray:
        if not isinstance(sound, Sound) or rate == other_rate:
            return wave
        return sound.mono(other_rate, decode_start, decode_stop)

    cache_key = hashlib.sha256(f"{encoder.song_cache_key} {rate}".encode() + wave.tobytes()).hexdigest()
    path = cache_root() / "music" / f"{cache_key}.npz"
    music = _load_cached(path, encoder)
    if music is None:
        tracker = encoder.beat_tracker
        beat_rate = tracker.sample_rate if isinstance(sound, Sound) else rate
        beats = tracker.track(decode(beat_rate), beat_rate)
        with torch.inference_mode():
            features = encoder.encode(torch.from_numpy(wave)[None], rate, [beats])[0].float().cpu()
        music = MusicFeatures(features.clone(), encoder.rate, beats)
        _save(path, music)
    if keep_waveform and isinstance(sound, Sound):
        music = replace(music, waveform=decode(RATE))
    # a truncated file may hold less than its packets promise
    stop = min(section_stop - decode_start, Fraction(len(wave), rate))
    return music.slice(context_tokens * token_seconds, stop)


def source_hash(*modules: ModuleType) -> str:
    """Hash the source code of modules, for the cache key of their results."""
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in modules)
    return hashlib.sha256(sources).hexdigest()[:12]


def _load_cached(path: Path, encoder: MusicEncoder) -> MusicFeatures | None:
    """Read cached features; None where there is no complete file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            features, times = arrays["features"], arrays["times"]
            beats = Beats(times, float(arrays["tempo"]), int(arrays["downbeat"]), int(arrays["meter"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    is_valid = features.ndim == 2 and features.shape[1] == encoder.dim and features.dtype == np.float32
    return MusicFeatures(torch.from_numpy(features), encoder.rate, beats) if is_valid and times.ndim == 1 else None


def _save(path: Path, music: MusicFeatures) -> None:
    """Write atomically. A cache that cannot be written is skipped."""
    beats = music.beats
    fields: dict[str, Any] = {
        "times": beats.times,
        "tempo": beats.tempo,
        "downbeat": beats.downbeat,
        "meter": beats.meter,
    }
    try:
        with replacing(path) as temporary:
            np.savez(temporary, features=music.features.numpy(), **fields)
    except OSError:
        return
