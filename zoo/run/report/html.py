"""report.html: one self-contained file with styles, scripts, scores, videos and songs. It needs no network.

Tables and text are rendered here. The scripts in zoo/run/report/assets draw plots and play the videos.
"""

import base64
import hashlib
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.progress import track

from zoo.files import temporary_folder
from zoo.media import Sound, VideoWriter, read_video, write_sound
from zoo.run.report.table import LEGEND, RANKED_KINDS, Sheet, grouped, plain_text

ASSETS = Path(__file__).with_name("assets")
SCRIPTS = ("tools.js", "plots.js", "tables.js", "player.js")
MAX_CLIPS = 12  # in the page
MAX_PAGE_BYTES = 15_000_000  # about; at least one clip is always included
MAX_VIDEO_SIDE = 320  # pixels: larger videos are resized
MAX_BLOCK_COLUMNS = 8  # side by side


def to_html(results: dict[str, Any], sheet: Sheet, out: Path) -> str:
    """Render the page of `results`. Videos and sounds are read from the folder `out`."""
    data = _data(results)
    budget = MAX_PAGE_BYTES - len(str(data))
    data["media"], num_shown, omitted = _media(results, out, select_clips(results, MAX_CLIPS), budget)
    style = (ASSETS / "report.css").read_text()
    script = "".join((ASSETS / name).read_text() for name in SCRIPTS)
    environment = Environment(
        loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"plain": plain_text, "breaks": _with_line_breaks}
    return environment.get_template("report.html.jinja").render(
        results=results,
        sheet=sheet,
        blocks=sheet.blocks(MAX_BLOCK_COLUMNS),
        legend=LEGEND,
        columns=[column for _, column in grouped(results["columns"]).values()],
        data=data,
        num_shown=num_shown,
        omitted=omitted,
        num_clips=len(results["clips"]),
        main=main_column(results),
        style=Markup(style),  # trusted, as the script is
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; media-src data: blob:; "
        f"style-src '{_csp_hash(style)}'; script-src '{_csp_hash(script)}'",
    )


def _with_line_breaks(path: str) -> Markup:
    """Allow line breaks after slashes."""
    return Markup("/<wbr>").join(path.split("/"))


def _csp_hash(text: str) -> str:
    """The hash of an inline style or script for the content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def main_column(results: dict[str, Any]) -> str | None:
    """The first column with a direction and with values for clips of every competing row."""
    rows = [row for row in results["rows"] if row["kind"] in RANKED_KINDS]
    for key, (_, column) in grouped(results["columns"]).items():
        if column["better"] and rows and all(_finite_values(row, key) for row in rows):
            return key
    return None


def _finite_values(row: dict[str, Any], column: str) -> dict[str, float]:
    """Clip -> finite value."""
    values = {clip: float("nan" if value is None else value) for clip, value in row["per_clip"].get(column, {}).items()}
    return {clip: value for clip, value in values.items() if np.isfinite(value)}


def select_clips(results: dict[str, Any], max_clips: int) -> list[str]:
    """Select clips to show: the worst of each competing row by `main_column`, then various cameras and styles.

    Deterministic. At least one row has a video of each; clips that competing rows lack come last.
    """
    rows, clip_info = [row for row in results["rows"] if row["kind"] in RANKED_KINDS], results["clips"]
    available = {clip for row in results["rows"] for clip in row["videos"]}
    num_missing = {clip: sum(clip not in row["videos"] for row in rows) for clip in clip_info if clip in available}
    column, selected = main_column(results), []
    label_counts: Counter = Counter()

    def varied_labels(clip: str) -> list[tuple[str, str]]:
        return [item for item in clip_info[clip]["labels"].items() if item[0] in ("camera", "style", "song")]

    def select(clip: str) -> None:
        selected.append(clip)
        label_counts.update(varied_labels(clip))

    for row in rows:
        values = (
            {clip: value for clip, value in _finite_values(row, column).items() if clip in num_missing}
            if column
            else {}
        )
        sign = 1 if column and results["columns"][column]["better"] == "higher" else -1
        worst = min(((sign * value, clip) for clip, value in values.items()), default=(0, None))[1]
        if worst is not None and worst not in selected and len(selected) < max_clips:
            select(worst)
    while len(selected) < max_clips and (remaining := [clip for clip in num_missing if clip not in selected]):
        select(
            min(
                remaining,
                key=lambda clip: (num_missing[clip], sum(label_counts[label] for label in varied_labels(clip))),
            )
        )
    return selected


def _data(results: dict[str, Any]) -> dict[str, Any]:
    """The data of the scripts: scores with few digits."""
    clips, protocol = list(results["clips"]), results["protocol"]
    names = [row["name"] for row in results["rows"]]
    columns = [
        {"key": key, **{name: column[name] for name in ("heading", "title", "better", "digits", "unit")}}
        for key, (_, column) in grouped(results["columns"]).items()
    ]
    rows = [
        {
            "name": plain_text(row["name"]),
            "kind": row["kind"],
            "scores": row["scores"],
            "clips": {
                key: [_rounded(values.get(clip)) for clip in clips] for key, values in row["per_clip"].items() if values
            },
            "time": {key: [_rounded(value) for value in curve] for key, curve in row["over_time"].items() if curve},
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
            {
                "key": plain_text(clip),
                "labels": {plain_text(k): plain_text(v) for k, v in results["clips"][clip]["labels"].items()},
            }
            for clip in clips
        ],
        "comparisons": [
            {**line, "a": names.index(line["a"]), "b": names.index(line["b"])} for line in results["comparisons"]
        ],
        "main": main_column(results),
    }


def _rounded(value: float | str | None) -> float | str | None:
    """Round to five digits, more than a plot shows; "inf" stays text."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _media(
    results: dict[str, Any], out: Path, selected: list[str], budget: int
) -> tuple[dict[int, dict[str, Any]], int, list[str]]:
    """Encode sound and videos of clips in base64, at most `budget` characters.

    Returns index of the clip -> sound, and videos by row; the number of clips; files that are omitted, with reasons.
    """
    clips, omitted, total = list(results["clips"]), [], 0
    media: dict[int, dict[str, Any]] = {}
    progress = track(selected, "report: videos", console=Console(stderr=True), disable=not sys.stderr.isatty())
    with temporary_folder() as folder:
        for clip in progress:
            videos, sound = {}, None
            for index, row in enumerate(results["rows"]):
                if clip not in row["videos"]:
                    continue
                try:
                    videos[index] = _encode_video(out / row["videos"][clip], folder)
                except ValueError as error:
                    omitted.append(plain_text(f"{row['name']}, {clip}: {error}"))
            if results["clips"][clip].get("sound"):
                try:
                    sound = _encode_sound(out / results["clips"][clip]["sound"], folder)
                except ValueError as error:
                    omitted.append(plain_text(f"sound of {clip}: {error}"))
            size = sum(len(text) for text in [*videos.values(), sound] if text)
            if not videos or (media and total + size > budget):
                continue
            total += size
            media[clips.index(clip)] = {"sound": sound, "videos": videos}
    return media, len(media), omitted


def _encode_video(path: Path, folder: Path) -> str:
    """Convert a video file to an mp4 for browsers, in base64."""
    frames, fps, _ = read_video(path)
    height, width = frames.shape[1:3]
    if (scale := MAX_VIDEO_SIDE / max(height, width)) < 1:
        size = (round(width * scale), round(height * scale))
        frames = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
    with VideoWriter(folder / "video.mp4", fps) as video:
        video.write(frames)
    return base64.b64encode((folder / "video.mp4").read_bytes()).decode()


def _encode_sound(path: Path, folder: Path) -> str:
    """Convert a sound file to AAC, in base64."""
    sound = Sound(path)
    write_sound(folder / "sound.m4a", sound.mono(sound.sample_rate), sound.sample_rate)
    return base64.b64encode((folder / "sound.m4a").read_bytes()).decode()
