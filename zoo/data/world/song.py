"""Songs of the world: drums, bass, chords and a melody in twelve styles, with exact beats and sections."""

from dataclasses import dataclass

import numpy as np

from zoo.data.world.synth import SAMPLE_RATE, add_reverberation, drum_kit, ducked, mix_notes, note

STEPS = 16  # sixteenth notes in a 4/4 bar


@dataclass(frozen=True)
class Style:
    """A kind of music. Patterns are strings of 16 steps: `x` accent, `o` soft, `-` rest."""

    bpm: tuple[float, float]  # slowest, fastest
    drums: dict[str, str]  # sound of the kit -> pattern
    bass: tuple[str, str]  # instrument, pattern
    chords: tuple[str, str]  # instrument, pattern
    melody: str  # instrument
    minor: bool
    swing: float = 0.0  # odd sixteenths are delayed by 0.66 of it, in sixteenths; from 0.5 on the last third of a beat
    duck: float = 0.2  # how much the kick ducks the other tracks, 0..1


STYLES = {
    "house": Style(
        (118, 130),
        {"kick": "x---x---x---x---", "clap": "----x-------x---", "open": "--x---x---x---x-", "hat": "o-o-o-o-o-o-o-o-"},
        ("saw_bass", "--x---x---x-x-x-"),
        ("organ", "x--x--x---x--x--"),
        "square",
        True,
        0.08,
        0.6,
    ),
    "hiphop": Style(
        (82, 104),
        {"kick": "x-----o-x-x-----", "snare": "----x-------x---", "hat": "x-o-x-o-x-o-x-oo"},
        ("sub", "x-----o-x-x---o-"),
        ("epiano", "x-------x-----o-"),
        "bell",
        True,
        0.28,
    ),
    "break": Style(
        (104, 124),
        {
            "kick": "x---o-o-x-------",
            "snare": "----x----o--x--o",
            "hat": "x-o-x-o-x-o-x-o-",
            "cowbell": "x---x---x---x---",
        },
        ("slap_bass", "x---x-o-x---x-o-"),
        ("brass", "x-----o---------"),
        "square",
        True,
        0.12,
    ),
    "pop": Style(
        (96, 128),
        {
            "kick": "x---o---x---o---",
            "snare": "----x-------x---",
            "hat": "x-o-x-o-x-o-x-o-",
            "shaker": "oooooooooooooooo",
        },
        ("saw_bass", "x-x-x-x-x-x-x-x-"),
        ("pad", "x---------------"),
        "bell",
        False,
        0.0,
        0.35,
    ),
    "funk": Style(
        (98, 118),
        {"kick": "x---o-o-x---o---", "snare": "----x--o----x--o", "hat": "x-o-x-oox-o-x-oo"},
        ("slap_bass", "x--ox---x-o-x-o-"),
        ("guitar", "x--o--o-x--o--o-"),
        "brass",
        True,
        0.14,
    ),
    "disco": Style(
        (108, 126),
        {
            "kick": "x---x---x---x---",
            "snare": "----x-------x---",
            "open": "--o---o---o---o-",
            "conga": "x--ox-o-x--ox-o-",
        },
        ("finger_bass", "x-o-x-o-x-o-x-o-"),
        ("guitar", "x--ox--ox--ox--o"),
        "brass",
        False,
        0.05,
    ),
    "krump": Style(
        (76, 96),
        {"kick": "x---o-o-x---o---", "clap": "----x-------x---", "hat": "x-o-x-o-x-o-x-oo", "tom": "----------o---oo"},
        ("growl", "x---o-x-x---o---"),
        ("brass", "x-----x---------"),
        "bell",
        True,
        0.0,
        0.4,
    ),
    "jazz": Style(
        (108, 150),
        {
            "kick": "x---o---x---o---",
            "rim": "----x-------x---",
            "hat": "x---x--ox---x--o",
            "shaker": "o---o--oo---o--o",
        },
        ("finger_bass", "x---x---x---x---"),
        ("piano", "x-----o---x---o-"),
        "marimba",
        False,
        0.5,
        0.0,
    ),
    "rock": Style(
        (106, 152),
        {"kick": "x-----o-x-x-----", "snare": "----x-------x---", "hat": "x-x-x-x-x-x-x-x-"},
        ("saw_bass", "x-x-x-x-x-x-x-x-"),
        ("power", "x-----x-x-----x-"),
        "guitar",
        True,
        0.0,
        0.1,
    ),
    "dnb": Style(
        (158, 175),
        {"kick": "x---o-----x-o---", "snare": "----x-------x---", "hat": "x-o-x-o-x-o-x-o-", "rim": "x---x---x---x---"},
        ("growl", "x-----x---x-----"),
        ("pad", "x---------------"),
        "bell",
        True,
        0.0,
        0.3,
    ),
    "reggae": Style(
        (75, 94),
        {
            "kick": "x---o---x---o---",
            "rim": "----x---o---x---",
            "hat": "x--ox---x--ox---",
            "shaker": "o---o---o---o---",
        },
        ("sub", "x---o-x-x---o-o-"),
        ("organ", "--o---o---o---o-"),
        "brass",
        False,
        0.2,
    ),
    "latin": Style(
        (92, 112),
        {
            "kick": "x---x---x---x---",
            "rim": "x--x--x-x--x--x-",
            "conga": "o-ox-oxoo-ox-oxo",
            "shaker": "x-o-x-o-x-o-x-o-",
        },
        ("finger_bass", "x-----x-x-----x-"),
        ("piano", "x-x--x-x-x-x-x-x"),
        "brass",
        True,
    ),
}

DRUM_GAINS = {
    "kick": 0.85,
    "snare": 0.65,
    "clap": 0.5,
    "hat": 0.26,
    "open": 0.2,
    "shaker": 0.15,
    "rim": 0.3,
    "tom": 0.45,
    "conga": 0.28,
    "cowbell": 0.14,
    "crash": 0.3,
}
PROGRESSIONS = {  # scale degrees, one a bar
    True: ((0, 5, 2, 6), (0, 3, 0, 4), (0, 6, 5, 6), (0, 0, 3, 4), (0, 2, 3, 5)),
    False: ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 3), (1, 4, 0, 0), (0, 2, 3, 4)),
}
SCALES = {True: (0, 2, 3, 5, 7, 8, 10), False: (0, 2, 4, 5, 7, 9, 11)}
SONG_FORM = ("intro", "verse", "chorus", "verse", "chorus", "break", "chorus")
MEAN_ENERGY = {"intro": 0.3, "verse": 0.55, "chorus": 0.9, "break": 0.35, "outro": 0.3}


@dataclass(frozen=True)
class Song:
    """A song with its true beats and sections.

    waveform float32 (S,) mono at `sample_rate` (22050 Hz), peak <= 0.9; beats, downbeats float64 (N,) seconds;
    sections [(start_s, stop_s, name, energy 0..1)], which cover it from 0 to its end; style a key of `STYLES`; bpm.
    """

    waveform: np.ndarray
    beats: np.ndarray
    downbeats: np.ndarray
    sections: list[tuple[float, float, str, float]]
    style: str
    bpm: float
    sample_rate: int = SAMPLE_RATE

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.waveform.size / self.sample_rate


def _sections(rng: np.random.Generator, bars: int) -> list[tuple[int, int, str]]:
    """[(first bar, past last bar, name)] of a song of `bars` bars. Short songs have short sections."""
    unit = 8 if bars >= 48 else 4 if bars >= 10 else 2
    form_index = int(rng.choice([0, 0, 1, 2, 5]))  # a song may begin in the middle of its form
    sections: list[tuple[int, int, str]] = []
    bar = 0
    while bar < bars:
        name = SONG_FORM[form_index % len(SONG_FORM)] if form_index < len(SONG_FORM) else SONG_FORM[1 + form_index % 6]
        length = max(1, unit // 2) if name in ("intro", "break") else unit
        if bars - bar - length < unit // 2:
            length = bars - bar
        sections.append((bar, bar + length, name))
        bar += length
        form_index += 1
    if len(sections) > 2 and rng.random() < 0.6:
        start, stop, _ = sections[-1]
        sections[-1] = (start, stop, "outro")
    return sections


class _Track:
    """The notes of one track as (sample, sound, gain)."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.sounds: list[np.ndarray] = []
        self.gains: list[float] = []

    def add(self, start: float, sound: np.ndarray, gain: float) -> None:
        """Add a note at `start` seconds."""
        self.starts.append(int(round(start * SAMPLE_RATE)))
        self.sounds.append(sound)
        self.gains.append(gain)

    def mix(self, length: int) -> np.ndarray:
        """Mix the notes: (length,) float32."""
        return mix_notes(length, self.starts, self.sounds, self.gains)


def make_song(seed: int, seconds: float, style: str | None = None, bpm: float | None = None) -> Song:
    """Compose and synthesize a song.

    seconds > 0; style: one of `STYLES`, None draws it; bpm: beats a minute, None draws it from the style's range. The
    first beat falls in the first 0.5 s, and the tempo is constant. Raises ValueError for an unknown style, a length
    that is not positive, or a tempo outside 40 to 240.
    """
    if not seconds > 0:
        raise ValueError(f"a song of {seconds} seconds cannot be made: give a positive length")
    if style is not None and style not in STYLES:
        raise ValueError(f"no style {style!r}: choose one of {', '.join(STYLES)}")
    if bpm is not None and not 40 <= bpm <= 240:
        raise ValueError(f"a tempo of {bpm} BPM is outside 40 to 240")
    rng = np.random.default_rng([seed, 0x50F6])
    style = style or str(rng.choice(list(STYLES)))
    style_settings = STYLES[style]
    bpm = float(bpm if bpm is not None else np.round(rng.uniform(*style_settings.bpm), 1))
    length = int(round(seconds * SAMPLE_RATE))
    beat = 60.0 / bpm
    first = rng.uniform(0.0, min(0.5, beat))
    bars = max(1, int(np.ceil((seconds - first) / (4 * beat))))
    form = _sections(rng, bars)
    energies = {name: float(np.clip(MEAN_ENERGY[name] + rng.uniform(-0.08, 0.08), 0, 1)) for name in MEAN_ENERGY}

    waveform = _synthesize(rng, style_settings, form, energies, first, beat, length)
    beats = first + beat * np.arange(int(np.ceil((seconds - first) / beat)))
    beats = beats[beats < seconds]
    edges = [0.0] + [first + 4 * beat * start for start, _, _ in form[1:]] + [seconds]
    sections = [
        (edges[i], min(edges[i + 1], seconds), name, energies[name])
        for i, (_, _, name) in enumerate(form)
        if edges[i] < seconds
    ]
    return Song(waveform, beats, beats[::4], sections, style, bpm)


def _synthesize(
    rng: np.random.Generator,
    style: Style,
    form: list[tuple[int, int, str]],
    energies: dict[str, float],
    first: float,
    beat: float,
    length: int,
) -> np.ndarray:
    """Mix all tracks: float32 (length,). first: time of the first beat, s; beat: seconds of one."""
    kit = drum_kit(rng)
    sixteenth = beat / 4
    tonic = int(rng.integers(40, 52))
    scale = SCALES[style.minor]
    progression = PROGRESSIONS[style.minor][rng.integers(5)]
    brightness = rng.uniform(0.85, 1.25)
    melody_rhythm = rng.random(STEPS) < 0.38  # the melody: a rhythm and a contour of two bars, over the chords
    melody_rhythm[0] = True
    melody_contour = np.clip(np.cumsum(rng.integers(-2, 3, (2, STEPS)), axis=1), -5, 6)
    cache: dict[tuple[str, int, int], np.ndarray] = {}

    def pitch_of(degree: int, base: int) -> int:
        return base + 12 * (degree // 7) + scale[degree % 7]

    def tone(instrument: str, midi: int, steps: int) -> np.ndarray:
        key = (instrument, midi, steps)
        if key not in cache:
            cache[key] = note(instrument, midi, steps * sixteenth * 0.95, brightness)
        return cache[key]

    drums, bass, chords, melody = _Track(), _Track(), _Track(), _Track()
    kick_samples: list[int] = []

    def time_of(bar: int, step: int) -> float:
        delay = style.swing * sixteenth * (0.66 if step % 2 else 0.0)
        if style.swing >= 0.5 and step % 4 == 3:
            delay = -sixteenth / 3  # swung eighths: the last third of the beat
        return first + (4 * bar + step / 4) * beat + delay

    def accents_of(pattern: str) -> list[tuple[int, float]]:
        return [(step, 1.0 if mark == "x" else 0.5) for step, mark in enumerate(pattern) if mark != "-"]

    def steps_to_next(pattern: str, step: int) -> int:
        gap = 1
        while step + gap < STEPS and pattern[step + gap] == "-":
            gap += 1
        return min(gap, 8)

    for start, stop, name in form:
        section_gain = 0.55 + 0.45 * energies[name]
        is_full = name in ("verse", "chorus")
        for bar in range(start, stop):
            has_fill = bar == stop - 1 and rng.random() < 0.75
            for drum, pattern in style.drums.items():
                if name in ("intro", "break") and drum in ("snare", "clap", "open", "tom", "cowbell") and not has_fill:
                    continue
                if name == "break":
                    pattern = "x-------x-------" if drum == "kick" else pattern
                for step, accent in accents_of(pattern):
                    if has_fill and step >= 12 and drum in ("snare", "clap", "tom"):
                        continue
                    velocity = rng.uniform(0.88, 1.0)
                    drums.add(time_of(bar, step), kit[drum], DRUM_GAINS[drum] * accent * velocity * section_gain)
                    if drum == "kick":
                        kick_samples.append(int(round(time_of(bar, step) * SAMPLE_RATE)))
            if name == "break" or name == "intro":  # a quiet click keeps the beat in sections with few instruments
                for step in range(0, STEPS, 4):
                    drums.add(time_of(bar, step), kit["rim"], 0.22)
            if has_fill:
                fill_sound = kit["tom" if rng.random() < 0.5 else "snare"]
                for step in (12, 13, 14, 15) if rng.random() < 0.5 else (12, 14, 15):
                    drums.add(time_of(bar, step), fill_sound, (0.25 + 0.07 * (step - 12)) * section_gain)
            if bar == start and name == "chorus":
                drums.add(time_of(bar, 0), kit["crash"], DRUM_GAINS["crash"])
            root = progression[bar % 4]
            if name != "intro" or bar > start:
                instrument, pattern = style.bass
                for step, accent in accents_of(pattern):
                    bass_leap = 4 if accent < 1 and rng.random() < 0.3 else 0
                    sound = tone(instrument, pitch_of(root + bass_leap, tonic - 12), steps_to_next(pattern, step))
                    bass.add(time_of(bar, step), sound, 0.25 * (0.6 + 0.4 * accent) * section_gain)
            instrument, pattern = style.chords
            thinned_pattern = pattern if is_full or pattern[0] == "-" else pattern[:1] + "-" * (STEPS - 1)
            for step, accent in accents_of(thinned_pattern):
                steps = steps_to_next(pattern, step) if is_full else 8
                steps = 16 if instrument == "pad" else steps
                for voice in (0, 2, 4) if instrument != "power" else (0, 4, 7):
                    octave_shift = 12 if instrument != "power" else 0
                    pitch = pitch_of(root + voice, tonic + octave_shift - (12 if tonic > 46 and octave_shift else 0))
                    chords.add(
                        time_of(bar, step), tone(instrument, pitch, steps), 0.19 * (0.5 + 0.5 * accent) * section_gain
                    )
            if name == "chorus" or (name == "verse" and bar % 4 >= 2) or (name == "break" and bar % 2):
                for step in np.flatnonzero(melody_rhythm):
                    melody_degree = melody_contour[bar % 2, step]
                    sound = tone(style.melody, pitch_of(int(root + melody_degree), tonic + 12), 3)
                    melody.add(time_of(bar, int(step)), sound, 0.2 * section_gain)

    rhythm_section = drums.mix(length) + ducked(bass.mix(length), kick_samples, style.duck * 0.7)
    harmony_section = ducked(chords.mix(length), kick_samples, style.duck) + melody.mix(length)
    mix = (
        add_reverberation(0.25 * rhythm_section, rng, 0.12)
        + 0.75 * rhythm_section
        + add_reverberation(harmony_section, rng, rng.uniform(0.25, 0.5))
    )
    mix = np.tanh(1.15 * mix / max(np.quantile(np.abs(mix), 0.999), 1e-3))  # a fraction of a second may be silent
    return (mix * (rng.uniform(0.7, 0.9) / max(np.abs(mix).max(), 1e-3))).astype(np.float32)
