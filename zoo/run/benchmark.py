"""`evaluate.py`: every checkpoint that makes motion, in one table with the ground truth and another song's beats.

One protocol for all rows: the same held-out songs, the same seconds of each, true beats, and intervals over songs.
"""

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table

from zoo.batch import MOTION_FPS
from zoo.body.skeleton import joints_of
from zoo.data.base import SPLITS, Piece
from zoo.families.base import DancesInMotion, Sampler
from zoo.metrics import motion as motion_metrics
from zoo.metrics import rhythm
from zoo.metrics.statistics import interval
from zoo.run.build import build_encoder
from zoo.run.checkpoint import load_family
from zoo.run.generate import pick_device
from zoo.run.provenance import provenance
from zoo.run.request import existing, positive, read_sampler, whole

COLUMNS = {  # key -> heading, digits; every value is a mean over songs with its 95% bootstrap interval
    "beat_align": ("beat alignment ↑", 3),
    "beat_align_other": ("… to another song's beats", 3),
    "own_minus_other": ("paired difference ↑", 3),
    "pfc": ("PFC ↓", 3),
    "foot_sliding": ("foot sliding m/s ↓", 3),
    "jitter": ("jitter 1e3 m/s³", 2),
    "two_seeds": ("distance of two dances to one song, m", 3),
}


@dataclass
class Row:
    """One line of the table: a value per song and metric."""

    name: str
    values: dict[str, list[float]] = field(default_factory=lambda: {key: [] for key in COLUMNS})
    real_time: float | None = None  # seconds of dance made in a second

    def add(self, first: np.ndarray, second: np.ndarray | None, beats: np.ndarray, other_beats: np.ndarray) -> None:
        """Score one song: joints (T, 24, 3) of a dance to it, of a second dance to it, its beats and another's (s)."""
        moments = rhythm.kinematic_beats(first, MOTION_FPS)
        own, other = (rhythm.beat_alignment(moments, times) for times in (beats, other_beats))
        scores = {
            "beat_align": own,
            "beat_align_other": other,
            "own_minus_other": own - other,
            "pfc": motion_metrics.physical_foot_contact(first, MOTION_FPS),
            "foot_sliding": motion_metrics.foot_sliding(first, MOTION_FPS),
            "jitter": motion_metrics.jitter(first, MOTION_FPS),
            "two_seeds": float("nan") if second is None else motion_metrics.dance_distance(first, second),
        }
        for key, value in scores.items():
            self.values[key].append(value)

    def summary(self) -> dict[str, tuple[float, float, float] | None]:
        """Metric -> (mean, low, high), None where no song has a value."""
        return {key: interval(v) if not np.isnan(v).all() else None for key, v in self.values.items()}


def evaluate(config: DictConfig) -> Path:
    """Score `config.ckpt` (one or a list) on `config.songs` held-out songs; returns the folder written.

    Writes scores.json (every value per song, with provenance) and table.md, and prints the table. Raises ValueError for
    a family that makes no motion, for too few songs, and for values out of range.
    """
    names = list(config.ckpt) if isinstance(config.ckpt, ListConfig) else [config.ckpt]
    if config.weights not in ("ema", "raw"):
        raise ValueError(f"weights={config.weights}: use ema or raw")
    if config.split not in SPLITS:
        raise ValueError(f"split={config.split}: use one of {' '.join(SPLITS)}")
    whole(config.songs, "songs", 2), positive(config.seconds, "seconds"), whole(config.seed, "seed", 0)
    device, sampler = pick_device(str(config.device)), Sampler(**read_sampler(config.sampler))
    loaded = [(str(name), *load_family(existing(name, "ckpt"), config.weights == "ema")) for name in names]
    for name, family, _ in loaded:
        if not isinstance(family, DancesInMotion):
            raise ValueError(f"{name} holds a '{type(family).__name__}', which makes no body motion to score")
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; name a folder")

    source = instantiate(config.data)
    truth = None
    rows = []
    for name, family, trained in loaded:
        encoder = build_encoder(trained)
        source.prepare(("motion", "music"), encoder, (config.split,))
        songs = _songs(source.pieces(config.split, encoder), config.songs, config.seconds)
        if truth is None:
            truth = Row("ground truth")
            _score(truth, [[_joints(piece.motion, config.seconds) for piece in song[:2]] for song in songs], songs)
            rows.append(truth)
        rows.append(_score_family(name, family.to(device), songs, sampler, config))
    _write(rows, config, out)
    return out


def _songs(pieces: Iterable[Piece], count: int, seconds: float) -> list[list[Piece]]:
    """The first `count` songs long enough, each with its dances."""
    long = (piece for piece in pieces if len(piece.motion) >= seconds * MOTION_FPS and len(piece.beats))
    grouped = groupby(long, key=lambda piece: piece.labels["song"])
    songs = list(islice((list(group) for _, group in grouped), count))
    if len(songs) < count:
        raise ValueError(
            f"found {len(songs)} held-out songs of {seconds} s with beats; ask for fewer, or for shorter ones"
        )
    return songs


def _joints(motion: torch.Tensor, seconds: float) -> np.ndarray:
    return joints_of(motion[: round(seconds * MOTION_FPS)].float()).numpy()


def _score(row: Row, dances: list[list[np.ndarray]], songs: list[list[Piece]]) -> None:
    """Add every song's dances to `row`; the other song is the one half the list away, whatever its tempo."""
    for index, joints in enumerate(dances):
        other = songs[(index + len(songs) // 2) % len(songs)][0]
        row.add(joints[0], joints[1] if len(joints) > 1 else None, songs[index][0].beats, other.beats)


def _score_family(
    name: str, family: DancesInMotion, songs: list[list[Piece]], sampler: Sampler, config: DictConfig
) -> Row:
    row = Row(name)
    frames = round(config.seconds * MOTION_FPS)
    dances, spent = [], 0.0
    progress = track(songs, f"{name}: dancing", console=Console(stderr=True), disable=not sys.stderr.isatty())
    for index, song in enumerate(progress):
        began = time.perf_counter()
        seeds = (config.seed + 2 * index, config.seed + 2 * index + 1)
        with torch.inference_mode():
            made = [torch.cat(list(family.dance(song[0].music, frames, seed, sampler))) for seed in seeds]
        spent += time.perf_counter() - began
        dances.append([_joints(motion, config.seconds) for motion in made])
    _score(row, dances, songs)
    row.real_time = len(songs) * 2 * config.seconds / spent
    return row


def _cell(value: tuple[float, float, float] | None, digits: int) -> str:
    return "n/a" if value is None else "{0:.{3}f} [{1:.{3}f}, {2:.{3}f}]".format(*value, digits)


def _write(rows: list[Row], config: DictConfig, out: Path) -> None:
    origin = provenance(config.seed)
    summaries = [row.summary() for row in rows]
    speeds = ["" if row.real_time is None else f"{row.real_time:.0f}" for row in rows]
    headings = ["", *(heading for heading, _ in COLUMNS.values()), "x real time"]
    cells = [
        [row.name, *(_cell(summary[key], digits) for key, (_, digits) in COLUMNS.items()), speed]
        for row, summary, speed in zip(rows, summaries, speeds, strict=True)
    ]
    table = Table(*headings)
    for line in cells:
        table.add_row(*line)
    Console().print(table)

    protocol = {key: config[key] for key in ("split", "songs", "seconds", "seed", "weights")}
    data = OmegaConf.to_container(config.data, resolve=True)
    out.mkdir(parents=True, exist_ok=True)
    scores = [
        {"name": r.name, "real_time": r.real_time, "summary": s, "songs": r.values}
        for r, s in zip(rows, summaries, strict=True)
    ]
    (out / "scores.json").write_text(
        json.dumps({**origin, "protocol": protocol, "data": data, "rows": scores}, indent=1)
    )
    markdown = ["| " + " | ".join(line) + " |" for line in [headings, ["---"] * len(headings), *cells]]
    facts = [f"- {key}: `{value}`" for key, value in {**origin, **protocol}.items()]
    (out / "table.md").write_text(
        "\n".join([*markdown, "", "Means over songs, 95% bootstrap intervals.", "", *facts, ""])
    )
    print(f"{out / 'table.md'}")
