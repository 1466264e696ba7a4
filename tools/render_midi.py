"""Render MIDI files with their beats: PYTHONPATH=. python tools/render_midi.py SOUNDFONT FOLDER FILE ... [--seconds 60]

Needs PyPI's mido and tinysoundfont. FILE: a MIDI file, or a WAD of Doom with MIDI lumps. Writes FOLDER/NAME.wav and
FOLDER/NAME.beats, a line a beat with its time in seconds and its number in the bar, for tools/measure_beats.py. The
beats are those of the tempo map and the time signatures, dotted quarters in 6/8, 9/8 and 12/8, from the first to the
last note. Files whose notes do not lie on sixteenths and triplets of these beats are left out: they were played freely.
"""

import argparse
import io
import struct
import wave
from collections.abc import Iterator
from pathlib import Path

import mido
import numpy as np
import tinysoundfont

RATE = 22050  # Hz
MIN_NOTES, MIN_BEATS = 100, 32  # of a file
MIN_GRID_FRACTION, GRID_WIDTH = 0.9, 0.05  # of the notes, which lie so near to the grid, beats


def main() -> None:
    """Render the files, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("soundfont")
    parser.add_argument("folder", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, data in midi_files(options.files):
        try:
            file = mido.MidiFile(file=io.BytesIO(data), clip=True)
        except (EOFError, OSError, ValueError) as error:
            print(f"{name}: {error}")
            continue
        messages, beats, numbers, notes = read_midi(file, options.seconds)
        fraction = grid_fraction(notes, beats)
        if len(notes) < MIN_NOTES or len(beats) < MIN_BEATS or fraction < MIN_GRID_FRACTION:
            print(f"{name}: left out, {len(notes)} notes, {fraction:.2f} of them on the grid", flush=True)
            continue
        is_inside = (beats > notes[0] - 0.02) & (beats < notes[-1] + 0.02)
        samples = render(options.soundfont, messages, notes[-1] + 1)
        with wave.open(str(options.folder / f"{name}.wav"), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(RATE)
            sound.writeframes((samples * 32767).astype("<i2").tobytes())
        lines = [f"{beat:.6f}\t{number}\n" for beat, number in zip(beats[is_inside], numbers[is_inside], strict=True)]
        (options.folder / f"{name}.beats").write_text("".join(lines))
        print(f"{name}: {len(lines)} beats, {60 / np.median(np.diff(beats)):.1f} BPM, {max(numbers)} a bar", flush=True)


def midi_files(paths: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of MIDI files, and of the different MIDI lumps of WADs."""
    known_lumps = set()
    for path in paths:
        data = path.read_bytes()
        if path.suffix.lower() != ".wad":
            yield path.stem, data
            continue
        _, num_lumps, directory = struct.unpack("<4sii", data[:12])
        for index in range(num_lumps):
            start, size, name = struct.unpack_from("<ii8s", data, directory + 16 * index)
            lump = data[start : start + size]
            if lump[:4] == b"MThd" and lump not in known_lumps:
                known_lumps.add(lump)
                yield f"{path.stem}_{name.rstrip(bytes(1)).decode().lower()}", lump


def read_midi(file: mido.MidiFile, seconds: float) -> tuple[list, np.ndarray, np.ndarray, np.ndarray]:
    """Timed messages, beats and their numbers in the bar, and note onsets of the first `seconds`."""
    tick, time, tempo, beat_ticks, next_beat, meter, number = 0, 0.0, 500_000, file.ticks_per_beat, 0, 4, 1
    messages, beats, numbers, notes = [], [], [], []
    for message in mido.merge_tracks(file.tracks):
        stop = tick + message.time
        # a beat at the tick of a time signature belongs to the new bar
        while next_beat < stop or (next_beat == stop and not message.is_meta):
            beats.append(time + mido.tick2second(next_beat - tick, file.ticks_per_beat, tempo))
            numbers.append(number)
            next_beat, number = next_beat + beat_ticks, number % meter + 1
        time += mido.tick2second(message.time, file.ticks_per_beat, tempo)
        tick = stop
        if time > seconds:
            break
        if message.type == "set_tempo":
            tempo = message.tempo
        elif message.type == "time_signature":
            is_compound = message.denominator == 8 and message.numerator in (6, 9, 12)
            meter = message.numerator // 3 if is_compound else message.numerator
            beat_ticks = round(file.ticks_per_beat * (1.5 if is_compound else 4 / message.denominator))
            next_beat, number = tick, 1
        elif not message.is_meta:
            messages.append((time, message))
            if message.type == "note_on" and message.velocity > 0:
                notes.append(time)
    return messages, np.array(beats), np.array(numbers), np.array(notes)


def grid_fraction(notes: np.ndarray, beats: np.ndarray) -> float:
    """Fraction of the notes on sixteenths or triplets of the beats."""
    if len(beats) < 2:
        return 0.0
    positions = np.interp(notes, beats, np.arange(len(beats)))
    offsets = [np.abs(positions * parts - np.round(positions * parts)) / parts for parts in (4, 3)]
    return float((np.minimum(*offsets) < GRID_WIDTH).mean())


def render(soundfont: str, messages: list, seconds: float) -> np.ndarray:
    """Mono waveform (S,) at RATE, peak 0.9."""
    synth = tinysoundfont.Synth(samplerate=RATE, gain=-6)
    font = synth.sfload(soundfont)
    for channel in range(16):
        synth.program_select(channel, font, 128 if channel == 9 else 0, 0)
    parts, num_samples = [], 0
    for time, message in [*messages, (seconds, None)]:
        count = round(time * RATE) - num_samples
        if count > 0:
            parts.append(np.frombuffer(bytes(synth.generate(count)), np.float32).reshape(-1, 2).mean(1))
            num_samples += count
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
    samples = np.concatenate(parts)
    return samples * 0.9 / max(np.abs(samples).max(), 1e-6)


if __name__ == "__main__":
    main()
