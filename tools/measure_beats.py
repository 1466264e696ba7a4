"""F-measure of a beat tracker within 70 ms against the world's exact beats, song by song, with the kind of error.

PYTHONPATH=. python tools/measure_beats.py [--weights FILE] [--folder FOLDER]

FOLDER has other songs: NAME.wav with NAME.beats, as tools/render_midi.py makes them. Each half of its sorted names, of
even and of odd index, has its own mean.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from zoo.media import Sound
from zoo.music.beats import Beats, OnsetBeatTracker
from zoo.run.build import load_beat_tracker

TOLERANCE, RATE = 0.07, 22050  # s; Hz


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


def folder_songs(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, waveform, beats and downbeats of each sound of a folder that has a file of beats."""
    for path in sorted(folder.glob("*.beats")):
        beats, numbers = np.loadtxt(path).T
        yield path.stem, Sound(path.with_suffix(".wav")).mono(RATE), beats, beats[numbers == 1]


def main() -> None:
    """Print a line for each song, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="a checkpoint of Beat This!, as weights.beats=")
    parser.add_argument("--folder", type=Path, help="of other songs with their beats")
    options = parser.parse_args()
    tracker = load_beat_tracker(options.weights) or OnsetBeatTracker()
    scores, bar_scores = [], []
    for name, waveform, truth, downbeats in folder_songs(options.folder) if options.folder else world_songs():
        beats: Beats = tracker.track(waveform, RATE)
        scores.append(f_measure(beats.times, truth))
        bar_scores.append(f_measure(beats.times[beats.downbeat :: beats.meter], downbeats))
        line = f"{name}: F {scores[-1]:.3f}, tempo {beats.tempo:.1f}, downbeats {bar_scores[-1]:.3f}"
        print(line + ("" if scores[-1] > 0.99 else f" ({error_kind(beats.times, truth)})"), flush=True)
    for name, half in (("all", slice(None)), ("even", slice(0, None, 2)), ("odd", slice(1, None, 2))):
        if f := scores[half]:
            bars = np.mean(bar_scores[half])
            print(f"{name}: {len(f)} songs: F {np.mean(f):.4f}, lowest {min(f):.3f}; downbeats {bars:.4f}")


if __name__ == "__main__":
    main()
