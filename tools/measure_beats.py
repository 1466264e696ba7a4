"""F-measure of a beat tracker within 70 ms against exact beats, song by song, with the kind of error.

PYTHONPATH=. python tools/measure_beats.py world                  the world's 48 test songs
PYTHONPATH=. python tools/measure_beats.py midi SOUNDFONT FILES   MIDI files, with PyPI's tinysoundfont and mido

For Debian's MIDI pieces: apt-get download openttd-openmsx planetblupi-music-midi timgm6mb-soundfont; dpkg -x each.
The grid of a MIDI file is that of its tempo map: quarter notes, in 6/8, 9/8 and 12/8 dotted ones, from the first to the
last note of the first --seconds. Files whose notes do not lie on the grid's sixteenths and triplets are left out.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from zoo.music.beats import Beats, OnsetBeatTracker
from zoo.run.build import load_beat_tracker

TOLERANCE, RATE = 0.07, 22050  # s; Hz
MIN_NOTES, MIN_SHARE, GRID_WIDTH = 50, 0.8, 0.04  # of a file; of its notes on the grid; beats, to either side


def f_measure(times: np.ndarray, truth: np.ndarray) -> float:
    """F of beats (N,) against true ones (M,), each matched at most once."""
    hits, index = 0, 0
    for time in truth:
        while index < len(times) and times[index] < time - TOLERANCE:
            index += 1
        if index < len(times) and times[index] <= time + TOLERANCE:
            hits, index = hits + 1, index + 1
    return 2 * hits / max(len(times) + len(truth), 1)


def error_kind(times: np.ndarray, truth: np.ndarray) -> str:
    """The grid that fits best: the true one, or one of another level or phase; with its F."""
    middle = (truth[1:] + truth[:-1]) / 2
    position = np.arange(0, len(truth) - 1, 2 / 3)
    grids = {
        "right": truth,
        "off-beat": middle,
        "double": np.sort(np.concatenate([truth, middle])),
        "half": truth[::2],
        "half, weak beats": truth[1::2],
        "half, off-beat": middle[::2],
        "3/2": np.interp(position, np.arange(len(truth)), truth),
        "third": truth[::3],
        "2/3": np.interp(np.arange(0, len(truth) - 1, 1.5), np.arange(len(truth)), truth),
    }
    scores = {name: f_measure(times, grid) for name, grid in grids.items()}
    best = max(scores, key=lambda name: scores[name])
    return f"{best} {scores[best]:.2f}" if len(times) else "no beats"


def world_songs() -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name and style, waveform, beats and downbeats of each test song of the world, from the cache or made."""
    from zoo.data.world.source import World
    from zoo.music.spectral import Spectral

    world = World()
    world.prepare_data({"motion"}, Spectral(), ["test"])
    reader = world._reader("test", rendered=False)
    for sample in reader.samples[:: world.dance_spec.dances_per_song]:
        waveform, _ = reader.read(sample, "sound")
        name = f"{sample.info['song']} {sample.info['style']} {sample.info['bpm']}"
        yield name, waveform, np.array(sample.info["beats"]), np.array(sample.info["downbeats"])


def midi_songs(soundfont: str, paths: list[str], seconds: float) -> Iterator[tuple[str, np.ndarray, np.ndarray, None]]:
    """Name, waveform and beats of each MIDI file on a grid."""
    for path in sorted(paths, key=lambda path: Path(path).name):
        messages, beats, notes = read_midi(path, seconds)
        share, name = share_on_grid(notes, beats), Path(path).name
        if len(notes) < MIN_NOTES or share < MIN_SHARE:
            print(f"{name}: left out, {len(notes)} notes, {share:.2f} of them on the grid", flush=True)
            continue
        is_inside = (beats > notes[0] - 0.02) & (beats < notes[-1] + 0.02)
        yield name, render(soundfont, messages, notes[-1] + 1), beats[is_inside], None


def share_on_grid(notes: np.ndarray, beats: np.ndarray) -> float:
    """Share of the notes that lie on sixteenths or triplets of the beats."""
    if len(beats) < 2:
        return 0.0
    places = np.interp(notes, beats, np.arange(len(beats)))
    offsets = [np.abs(places * parts - np.round(places * parts)) / parts for parts in (4, 3)]
    return float((np.minimum(*offsets) < GRID_WIDTH).mean())


def read_midi(path: str, seconds: float) -> tuple[list, np.ndarray, np.ndarray]:
    """Timed messages, beats and note onsets of the first `seconds`."""
    import mido

    file = mido.MidiFile(path, clip=True)
    tick, time, tempo, beat_ticks, next_beat = 0, 0.0, 500_000, file.ticks_per_beat, 0
    messages, beats, notes = [], [], []
    for message in mido.merge_tracks(file.tracks):
        stop = tick + message.time
        while next_beat <= stop:
            beats.append(time + mido.tick2second(next_beat - tick, file.ticks_per_beat, tempo))
            next_beat += beat_ticks
        time += mido.tick2second(message.time, file.ticks_per_beat, tempo)
        tick = stop
        if time > seconds:
            break
        if message.type == "set_tempo":
            tempo = message.tempo
        elif message.type == "time_signature":
            is_compound = message.denominator == 8 and message.numerator in (6, 9, 12)
            new_ticks = file.ticks_per_beat * 3 // 2 if is_compound else file.ticks_per_beat
            next_beat, beat_ticks = next_beat - beat_ticks + new_ticks, new_ticks
        elif not message.is_meta:
            messages.append((time, message))
            if message.type == "note_on" and message.velocity > 0:
                notes.append(time)
    return messages, np.array(beats), np.array(notes)


def render(soundfont: str, messages: list, seconds: float) -> np.ndarray:
    """Mono waveform (S,) float32 at RATE, peak 0.9."""
    import tinysoundfont

    synth = tinysoundfont.Synth(samplerate=RATE, gain=-6)
    font = synth.sfload(soundfont)
    for channel in range(16):
        synth.program_select(channel, font, 128 if channel == 9 else 0, 0)
    parts, num_done = [], 0
    for time, message in [*messages, (seconds, None)]:
        count = round(time * RATE) - num_done
        if count > 0:
            parts.append(np.frombuffer(bytes(synth.generate(count)), np.float32).reshape(-1, 2).mean(1))
            num_done += count
        if message is None or message.type == "sysex":
            continue
        if message.type == "note_on" and message.velocity > 0:
            synth.noteon(message.channel, message.note, message.velocity)
        elif message.type in ("note_on", "note_off"):
            synth.noteoff(message.channel, message.note)
        elif message.type == "control_change":
            synth.control_change(message.channel, message.control, message.value)
        elif message.type == "program_change":
            try:
                synth.program_change(message.channel, message.program, message.channel == 9)
            except Exception:  # a program that the soundfont lacks: the channel keeps its own
                continue
        elif message.type == "pitchwheel":
            synth.pitchbend(message.channel, message.pitch + 8192)
    wave = np.concatenate(parts)
    return (wave * 0.9 / max(np.abs(wave).max(), 1e-6)).astype(np.float32)


def main() -> None:
    """Print a line for each song, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", choices=("world", "midi"))
    parser.add_argument("files", nargs="*", help="of midi: a soundfont and MIDI files")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--weights", help="a checkpoint of Beat This!, as weights.beats=")
    options = parser.parse_args()
    tracker = load_beat_tracker(options.weights) or OnsetBeatTracker()
    is_world = options.songs == "world"
    songs = world_songs() if is_world else midi_songs(options.files[0], options.files[1:], options.seconds)
    scores, bar_scores = [], []
    for name, waveform, truth, downbeats in songs:
        beats: Beats = tracker.track(waveform, RATE)
        scores.append(f_measure(beats.times, truth))
        line = f"{name}: F {scores[-1]:.3f}, tempo {beats.tempo:.1f} of {60 / np.median(np.diff(truth)):.1f}"
        if downbeats is not None:
            bar_scores.append(f_measure(beats.times[beats.downbeat :: beats.meter], downbeats))
            line += f", downbeats {bar_scores[-1]:.3f}"
        print(line + ("" if scores[-1] > 0.99 else f" ({error_kind(beats.times, truth)})"), flush=True)
    print(f"{len(scores)} songs: F {np.mean(scores):.4f}, lowest {min(scores):.3f}")
    if bar_scores:
        print(f"downbeats: F {np.mean(bar_scores):.4f}")


if __name__ == "__main__":
    main()
