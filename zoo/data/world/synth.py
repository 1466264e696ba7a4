"""Instruments of the world's songs: drums from noise and swept sines, notes from decaying harmonics, reverberation.

All sounds are mono float32 at `SAMPLE_RATE`. A sound starts at its first sample, so that beats are exact.
"""

from collections.abc import Sequence

import numpy as np
from scipy.signal import butter, oaconvolve, sosfilt

SAMPLE_RATE = 22050

# Harmonic recipe of each instrument: (harmonics, slope of 1/n^slope, odd harmonics only, decay 1/s, brightness decay
# 1/s per harmonic, attack s, detune of a second voice in cents)
INSTRUMENTS = {
    "sub": (3, 2.2, False, 1.5, 0.5, 0.006, 0),
    "saw_bass": (10, 1.0, False, 2.5, 1.2, 0.004, 6),
    "finger_bass": (8, 1.4, False, 3.5, 1.6, 0.004, 0),
    "slap_bass": (14, 1.0, False, 5.0, 1.4, 0.002, 0),
    "growl": (14, 0.8, True, 1.5, 0.4, 0.004, 14),
    "pad": (7, 1.5, False, 0.25, 0.05, 0.060, 9),
    "organ": (6, 1.1, False, 0.3, 0.0, 0.008, 4),
    "epiano": (5, 1.7, False, 2.4, 1.1, 0.003, 3),
    "piano": (10, 1.3, False, 2.6, 0.7, 0.002, 2),
    "guitar": (12, 1.0, False, 5.5, 0.9, 0.002, 0),
    "power": (14, 0.7, False, 1.2, 0.1, 0.003, 10),
    "brass": (10, 0.9, False, 1.4, 0.15, 0.020, 5),
    "square": (9, 1.0, True, 3.0, 0.4, 0.003, 7),
    "bell": (4, 1.0, True, 3.5, 0.8, 0.001, 2),
    "marimba": (3, 1.9, True, 7.0, 2.0, 0.001, 0),
}


def _sample_times(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _filter_band(noise: np.ndarray, low_cut: float | None, high_cut: float | None) -> np.ndarray:
    """Keep the frequencies from `low_cut` to `high_cut`, Hz; None: no limit."""
    kind = "highpass" if high_cut is None else "lowpass" if low_cut is None else "bandpass"
    cutoff = low_cut if high_cut is None else high_cut if low_cut is None else (low_cut, high_cut)
    return sosfilt(butter(2, cutoff, kind, fs=SAMPLE_RATE, output="sos"), noise)


def _swept_sine(
    times: np.ndarray, end_frequency: float, start_frequency: float, sweep_rate: float, decay: float
) -> np.ndarray:
    """A decaying sine whose frequency, Hz, falls exponentially; sweep_rate, decay: 1/s."""
    frequency = end_frequency + (start_frequency - end_frequency) * np.exp(-times * sweep_rate)
    return np.sin(2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE) * np.exp(-times * decay)


def drum_kit(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One kit, its tuning drawn from `rng`: name -> mono sound, peak 1."""
    noise = rng.standard_normal(int(1.2 * SAMPLE_RATE))

    def noise_burst(seconds: float, low_cut: float, high_cut: float | None, decay: float, skip: int = 0) -> np.ndarray:
        """Decaying noise within a band (Hz); decay: 1/s; skip: the sample of the kit's noise at which it begins."""
        times = _sample_times(seconds)
        return _filter_band(noise[skip : skip + times.size], low_cut, high_cut) * np.exp(-times * decay)

    pitch_factor = rng.uniform(0.88, 1.14)
    kick_times = _sample_times(0.32)
    kick = _swept_sine(kick_times, 46 * pitch_factor, 190 * pitch_factor, rng.uniform(28, 45), rng.uniform(8, 14))
    kick[:220] += 0.35 * noise_burst(0.01, 1500, 6000, 300)[:220]
    snare_times = _sample_times(0.24)
    snare_body = np.sin(2 * np.pi * 185 * pitch_factor * snare_times) * np.exp(-snare_times * 24)
    snare = 0.7 * snare_body + 1.1 * noise_burst(0.24, 1200, 8000, rng.uniform(14, 22), 500)
    clap_times = _sample_times(0.25)
    burst_envelope = sum(
        np.exp(-np.clip(clap_times - delay, 0, None) * 90) * (clap_times >= delay) for delay in (0, 0.009, 0.018)
    )
    clap = _filter_band(noise[900 : 900 + clap_times.size], 900, 4000) * (
        burst_envelope + 0.8 * np.exp(-clap_times * 18)
    )
    times = _sample_times(0.3)
    sounds = {
        "kick": kick,
        "snare": snare,
        "clap": clap,
        "hat": noise_burst(0.07, 7000, None, rng.uniform(50, 80), 1500),
        "open": noise_burst(0.28, 6500, None, rng.uniform(10, 15), 2500),
        "shaker": noise_burst(0.09, 5000, 9000, 38, 3500),
        "rim": np.sin(2 * np.pi * 1700 * pitch_factor * _sample_times(0.05)) * np.exp(-_sample_times(0.05) * 90),
        "tom": _swept_sine(times, 90 * pitch_factor, 180 * pitch_factor, 18, 11),
        "conga": _swept_sine(_sample_times(0.2), 210 * pitch_factor, 300 * pitch_factor, 40, 17),
        "cowbell": _filter_band(
            np.sign(np.sin(2 * np.pi * 562 * times)) + np.sign(np.sin(2 * np.pi * 845 * times)), 500, 3000
        )
        * np.exp(-times * 16),
        "crash": noise_burst(1.0, 4000, None, 4.0),
    }
    return {name: (sound / np.abs(sound).max()).astype(np.float32) for name, sound in sounds.items()}


def note(instrument: str, midi: int, seconds: float, brightness: float = 1.0) -> np.ndarray:
    """One note of an instrument of `INSTRUMENTS`; midi: its pitch; brightness: about 1, more: louder high harmonics."""
    num_harmonics, slope, odd_only, decay, brightness_decay, attack, detune_cents = INSTRUMENTS[instrument]
    frequency = 440.0 * 2 ** ((midi - 69) / 12)
    times = _sample_times(seconds + 0.05)
    harmonic_numbers = np.arange(1, num_harmonics + 1)
    harmonic_numbers = 2 * harmonic_numbers - 1 if odd_only else harmonic_numbers
    harmonic_numbers = harmonic_numbers[harmonic_numbers * frequency < 0.42 * SAMPLE_RATE]
    amplitudes = harmonic_numbers ** (-slope / brightness)
    phase = 2 * np.pi * frequency * times
    waves = np.sin(harmonic_numbers[:, None] * phase)
    if detune_cents:
        waves = 0.6 * waves + 0.4 * np.sin(harmonic_numbers[:, None] * phase * 2 ** (detune_cents / 1200))
    waves *= amplitudes[:, None] * np.exp(-brightness_decay * (harmonic_numbers[:, None] - 1) * times)
    envelope = np.minimum(times / attack, 1) * np.exp(-decay * times) * np.clip((seconds + 0.05 - times) / 0.05, 0, 1)
    return (waves.sum(0) * envelope / amplitudes.sum() ** 0.5).astype(np.float32)


def mix_notes(length: int, starts: Sequence[int], sounds: Sequence[np.ndarray], gains: Sequence[float]) -> np.ndarray:
    """Mix `sounds[i] * gains[i]` at sample `starts[i]` into a new track of `length` samples."""
    track = np.zeros(length, np.float32)
    for start, sound, gain in zip(starts, sounds, gains, strict=True):
        stop = min(start + sound.size, length)
        if 0 <= start < stop:
            track[start:stop] += sound[: stop - start] * np.float32(gain)
    return track


def add_reverberation(track: np.ndarray, rng: np.random.Generator, wet: float) -> np.ndarray:
    """Add the reverberation of a room (decaying filtered noise, 0.4 to 1 s) at level `wet`."""
    seconds = rng.uniform(0.4, 1.0)
    times = _sample_times(seconds)
    impulse_response = _filter_band(rng.standard_normal(times.size), 300, 5000) * np.exp(-times * 6.9 / seconds)
    impulse_response[: int(0.012 * SAMPLE_RATE)] = 0  # the direct sound and the beat stay clear
    impulse_response = (impulse_response / np.sqrt((impulse_response**2).sum())).astype(np.float32)
    return track + wet * oaconvolve(track, impulse_response)[: track.size].astype(np.float32)


def ducked(track: np.ndarray, starts: Sequence[int], depth: float) -> np.ndarray:
    """Apply side-chain compression: the track dips by `depth` (0..1) at each start sample and recovers in 0.2 s."""
    dip_curve = depth * np.exp(-_sample_times(0.25) * 16).astype(np.float32)
    gain = np.ones_like(track)
    for start in starts:
        if 0 <= start < track.size:
            gain[start : start + dip_curve.size] -= dip_curve[: track.size - start]
    return track * np.clip(gain, 0, 1)
