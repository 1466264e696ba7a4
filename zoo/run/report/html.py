"""report.html: one file that holds everything, styles, script, scores, videos and songs, and needs no network.

What a reader sees without JavaScript is made here; the scripts in zoo/run/report/assets draw plots and play the videos.
"""

import base64
import hashlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.progress import track

from zoo.media import Sound, VideoWriter, read_video, write_sound
from zoo.run.report.table import LEGEND, MADE, Sheet, grouped, plain

ASSETS = Path(__file__).with_name("assets")
SCRIPTS = ("tools.js", "plots.js", "tables.js", "player.js")
CLIPS = 12  # at most, in the page
PAGE = 15_000_000  # bytes, about; at least one clip is always shown
LONG_SIDE = 320  # px: larger videos are shown smaller
BLOCK = 8  # columns side by side


def to_html(results: dict[str, Any], sheet: Sheet, out: Path) -> str:
    """The page of `results`; videos and sounds are read from the folder `out`."""
    data = _data(results)
    budget = PAGE - len(str(data))
    data["media"], shown, left_out = _media(results, out, pick_clips(results, CLIPS), budget)
    style = (ASSETS / "report.css").read_text()
    script = "".join((ASSETS / name).read_text() for name in SCRIPTS)
    world = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    world.filters |= {"plain": plain, "breaks": _breaks}
    return world.get_template("report.html.jinja").render(
        results=results,
        sheet=sheet,
        blocks=sheet.blocks(BLOCK),
        legend=LEGEND,
        columns=[column for _, column in grouped(results["columns"]).values()],
        data=data,
        shown=len(shown),
        left_out=left_out,
        in_all=len(results["clips"]),
        main=main_column(results),
        style=Markup(style),  # ours, and so is the script
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; media-src data: blob:; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'",
    )


def _breaks(path: str) -> Markup:
    """A name that may go on in a new line after a slash."""
    return Markup("/<wbr>").join(path.split("/"))


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def main_column(results: dict[str, Any]) -> str | None:
    """The first column with a direction that has a value for clips of every row that was made."""
    rows = [row for row in results["rows"] if row["kind"] in MADE]
    for key, (_, column) in grouped(results["columns"]).items():
        if column["better"] and rows and all(_values(row, key) for row in rows):
            return key
    return None


def _values(row: dict[str, Any], column: str) -> dict[str, float]:
    """Clip -> finite value."""
    values = {clip: float("nan" if value is None else value) for clip, value in row["per_clip"].get(column, {}).items()}
    return {clip: value for clip, value in values.items() if np.isfinite(value)}


def pick_clips(results: dict[str, Any], most: int) -> list[str]:
    """At most `most` clips to show: the worst of each made row by `main_column`, then many cameras and styles.

    The same results give the same clips. Of each some row has a video; clips that made rows lack come last.
    """
    rows, labels = [row for row in results["rows"] if row["kind"] in MADE], results["clips"]
    filmed = {clip for row in results["rows"] for clip in row["videos"]}
    lacking = {clip: sum(clip not in row["videos"] for row in rows) for clip in labels if clip in filmed}
    column, chosen = main_column(results), []
    used: Counter = Counter()

    def names(clip: str) -> list[tuple[str, str]]:
        return [item for item in labels[clip]["labels"].items() if item[0] in ("camera", "style", "song")]

    def choose(clip: str) -> None:
        chosen.append(clip)
        used.update(names(clip))

    for row in rows:
        values = {clip: value for clip, value in _values(row, column).items() if clip in lacking} if column else {}
        sign = 1 if column and results["columns"][column]["better"] == "higher" else -1
        worst = min(((sign * value, clip) for clip, value in values.items()), default=(0, None))[1]
        if worst is not None and worst not in chosen and len(chosen) < most:
            choose(worst)
    while len(chosen) < most and (rest := [clip for clip in lacking if clip not in chosen]):
        choose(min(rest, key=lambda clip: (lacking[clip], sum(used[name] for name in names(clip)))))
    return chosen


def _data(results: dict[str, Any]) -> dict[str, Any]:
    """What the script draws: the scores, as short as can be."""
    clips, protocol = list(results["clips"]), results["protocol"]
    names = [row["name"] for row in results["rows"]]
    columns = [
        {"key": key, **{name: column[name] for name in ("heading", "title", "better", "digits", "unit")}}
        for key, (_, column) in grouped(results["columns"]).items()
    ]
    rows = [
        {
            "name": plain(row["name"]),
            "kind": row["kind"],
            "scores": row["scores"],
            "clips": {
                key: [_short(values.get(clip)) for clip in clips] for key, values in row["per_clip"].items() if values
            },
            "time": {key: [_short(value) for value in curve] for key, curve in row["over_time"].items() if curve},
            "by": row["by"],
            "cost": (row.get("cost") or {}).get("seconds_per_second"),
        }
        for row in results["rows"]
    ]
    return {
        "fps": float(Fraction(protocol["fps"])),
        "frames": protocol["frames"],
        "columns": columns,
        "rows": rows,
        "clips": [
            {"key": plain(clip), "labels": {plain(k): plain(v) for k, v in results["clips"][clip]["labels"].items()}}
            for clip in clips
        ],
        "comparisons": [
            {**line, "a": names.index(line["a"]), "b": names.index(line["b"])} for line in results["comparisons"]
        ],
        "main": main_column(results),
    }


def _short(value: float | str | None) -> float | str | None:
    """Five digits are more than a plot shows; "inf" stays a word."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _media(
    results: dict[str, Any], out: Path, chosen: list[str], budget: int
) -> tuple[dict[int, dict[str, Any]], list[str], list[str]]:
    """Clip's number -> its sound and its videos by row, as base64; the clips shown; what could not be shown and why."""
    clips, media, left_out, used = list(results["clips"]), {}, [], 0
    shown: list[str] = []
    progress = track(chosen, "report: videos", console=Console(stderr=True), disable=not sys.stderr.isatty())
    with tempfile.TemporaryDirectory() as folder:
        for clip in progress:
            videos, sound = {}, None
            for number, row in enumerate(results["rows"]):
                if clip not in row["videos"]:
                    continue
                try:
                    videos[number] = _small_video(out / row["videos"][clip], Path(folder))
                except ValueError as error:
                    left_out.append(plain(f"{row['name']}, {clip}: {error}"))
            if results["clips"][clip].get("sound"):
                try:
                    sound = _small_sound(out / results["clips"][clip]["sound"], Path(folder))
                except ValueError as error:
                    left_out.append(plain(f"sound of {clip}: {error}"))
            size = sum(map(len, _strings([*videos.values(), sound])))
            if not videos or (shown and used + size > budget):
                continue
            used += size
            shown.append(clip)
            media[clips.index(clip)] = {"sound": sound, "videos": videos}
    return media, shown, left_out


def _strings(texts: Iterable[str | None]) -> list[str]:
    return [text for text in texts if text]


def _small_video(path: Path, folder: Path) -> str:
    """A file's pictures as an mp4 that browsers play, in base64."""
    frames, fps, _ = read_video(path)
    height, width = frames.shape[1:3]
    if (scale := LONG_SIDE / max(height, width)) < 1:
        size = (round(width * scale), round(height * scale))
        frames = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
    with VideoWriter(folder / "video.mp4", fps) as video:
        video.write(frames)
    return base64.b64encode((folder / "video.mp4").read_bytes()).decode()


def _small_sound(path: Path, folder: Path) -> str:
    sound = Sound(path)
    write_sound(folder / "sound.m4a", sound.mono(sound.sample_rate), sound.sample_rate)
    return base64.b64encode((folder / "sound.m4a").read_bytes()).decode()
