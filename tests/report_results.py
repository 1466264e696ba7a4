"""Results as zoo/run/evaluate/benchmark.py writes them, with small videos and songs, for tests of the report."""

from fractions import Fraction
from pathlib import Path

import numpy as np

from zoo.media import VideoWriter, write_sound

HOSTILE = r"""runs/<script>alert(1)</script>_50%_{a}&b$^~\|`*[bold]x[/bold]" onload="x""" + "\x1b[31m\n\u202efin"
REASON = "needs the I3D torchscript file; name it by weights.i3d=FILE"
COLUMNS = {  # group, metric, unit, better, digits, good and bad value
    "psnr": ("frames", "psnr", "dB", "higher", 2, 26.0, 17.0),
    "ssim": ("frames", "ssim", "", "higher", 3, 0.86, 0.61),
    "lpips": ("frames", "lpips", "", "lower", 3, 0.09, 0.31),
    "fvd": ("video", "fvd", "", "lower", 1, 0.0, 0.0),
    "fvd_world": ("video", "fvd_world", "", "lower", 2, 3.1, 60.0),
    "fid_vid": ("video", "fid_vid", "", "lower", 2, 8.0, 41.0),
    "beat_align": ("rhythm", "beat_align", "", "higher", 3, 0.42, 0.19),
    "beat_hits": ("rhythm", "beat_hits", "%", "higher", 1, 61.0, 22.0),
    "av_align": ("rhythm", "av_align", "", "higher", 3, 0.33, 0.21),
    "foot_sliding": ("motion", "foot_sliding", "m/s", "lower", 3, 0.04, 0.34),
    "jitter": ("motion", "jitter", "1e3 m/s³", None, 2, 1.2, 9.8),
    "drift": ("identity", "drift", "", "lower", 3, 0.02, 0.14),
}
SET_ONLY, TIMED = ("fvd", "fvd_world", "fid_vid"), ("psnr", "ssim", "drift")
ARROW = {"higher": " ↑", "lower": " ↓", None: ""}
BASELINES = [("ground truth", "truth", 0.0), ("frozen reference", "baseline", 1.0), ("other song", "baseline", 0.8)]


def picture(index: int, count: int, size: int, hue: int) -> np.ndarray:
    """(size, size, 3): a disc on its way, and in the upper left corner a grey that tells the frame's index."""
    y, x = np.mgrid[:size, :size] / size
    image = np.stack([0.15 + 0.1 * y, 0.17 + 0.1 * x, 0.25 + 0 * x], -1)
    angle = 2 * np.pi * index / count
    disc = (x - 0.5 - 0.25 * np.sin(angle)) ** 2 + (y - 0.55 + 0.18 * np.abs(np.cos(angle))) ** 2 < 0.02
    image[disc] = np.roll([0.95, 0.7, 0.3], hue)
    image[: size // 4, : size // 4] = (index + 0.5) / count
    return (image * 255).round().astype(np.uint8)


def make_results(
    out: Path,
    clips: int = 6,
    models: tuple[str, ...] = ("runs/tiny/last.ckpt", HOSTILE),
    frames: int = 24,
    size: int = 64,
    fps: str = "12",
    videos: int | None = None,
    seed: int = 0,
) -> dict:
    """Results of `clips` clips; the first `videos` of them (all if None) have files in `out`."""  # fmt: skip
    chance = np.random.default_rng(seed)
    keys = [f"song{i:04d}-C{i % 3 + 1:02d}-d{i % 2}" for i in range(clips)]
    style = ("breaking", "waacking", "house")
    labels = {
        key: {"song": key[:8], "style": style[i // 2 % 3], "camera": f"C{i % 3 + 1:02d}"} for i, key in enumerate(keys)
    }
    names = BASELINES + [(name, "checkpoint", 0.2 + 0.5 * i / len(models)) for i, name in enumerate(models)]
    rows = [_row(*name, keys, labels, frames, chance) for name in names]
    filmed = keys[:videos]
    if filmed:
        (out / "videos").mkdir(parents=True, exist_ok=True)
    for key in filmed:
        time = np.arange(int(frames / float(Fraction(fps)) * 16000)) / 16000
        write_sound(out / "videos" / f"{key}.wav", 0.2 * np.sin(2 * np.pi * 220 * time) * (time % 0.5 < 0.1), 16000)
        for number, row in enumerate(rows):
            if key in row["clips"]:
                row["videos"][key] = f"videos/{number}-{key}.mp4"
                with VideoWriter(out / row["videos"][key], Fraction(fps)) as video:
                    video.write(np.stack([picture(i, frames, size, number) for i in range(frames)]))
    made = [row for row in rows if row["kind"] == "checkpoint"]
    return {
        "provenance": {
            "command": "python evaluate.py ckpt=[a,b]", "commit": "5c3ffc3a1b2c", "seed": 0,
            "machine": "a processor, 2 cores", "torch": "2.14.1", "date": "2025-01-01 12:00 UTC",
        },
        "protocol": {
            "id": "world-v1", "hash": "0123456789ab", "description": "Clips of the built-in world's test songs.",
            "data": "world", "content": "ba9876543210", "split": "test", "frames": frames, "fps": fps, "height": size,
            "width": size, "crop": None, "clips": clips, "repeats": 2, "seed": 0,
            "weights": {"fvd_world": "abcdef012345"}, "metrics": {"fvd": {"frames": 16}},
        },
        "columns": {
            key: {
                "group": group, "metric": metric, "heading": key.replace("_", " "), "better": better, "digits": digits,
                "title": f"{key.replace('_', ' ')}{f', {unit}' if unit else ''}{ARROW[better]}", "unit": unit,
                "depends_on": "BlazePose" if group == "rhythm" else None, "docs": f"What {key} is, in one line.",
            }
            for key, (group, metric, unit, better, digits, *_) in COLUMNS.items()
        },
        "rows": rows,
        "comparisons": [
            {"a": a["name"], "b": b["name"], "column": key, "difference": 0.1, "low": 0.02, "high": 0.17, "p": 0.003,
             "p_holm": 0.03, "n": clips}
            for a in made for b in rows if a is not b for key in COLUMNS if key not in SET_ONLY
        ],
        "clips": {
            key: {"labels": labels[key], "sound": f"videos/{key}.wav" if key in filmed else None} for key in keys
        },
    }  # fmt: skip


def _row(name: str, kind: str, badness: float, keys: list, labels: dict, frames: int, chance) -> dict:
    excluded = [{"clip": keys[-1], "reason": "23 frames where the protocol has 24"}] if kind == "checkpoint" else []
    scored = [key for key in keys if key not in [item["clip"] for item in excluded]]
    values, over_time = {}, {}
    for column, (*_, good, bad) in COLUMNS.items():
        if column in SET_ONLY or (column == "foot_sliding" and kind == "baseline"):
            continue
        middle, spread = good + badness * (bad - good), abs(bad - good) * 0.15
        values[column] = {key: float(middle + spread * chance.standard_normal()) for key in scored}
        if column in TIMED:
            over_time[column] = [float(middle + spread * (i / frames - 0.5)) for i in range(frames)]
    if kind == "truth":
        values["psnr"], over_time["psnr"] = {key: "inf" for key in scored}, ["inf"] * frames
    scores = {column: _score(list(known.values())) for column, known in values.items()}
    for column in SET_ONLY[1:]:
        *_, good, bad = COLUMNS[column]
        mean = good + badness * (bad - good)
        scores[column] = {"mean": mean, "low": mean * 0.9, "high": mean * 1.1, "n": len(scored)}
    scores["fvd"] = {"reason": REASON}
    scores |= {"foot_sliding": {"reason": "this row has no motion, only videos"}} if kind == "baseline" else {}
    by = {}
    for label in ("camera", "style"):
        for key in scored:
            by.setdefault(label, {}).setdefault(labels[key][label], []).append(key)
        by[label] = {
            value: {column: _score([known[key] for key in group]) for column, known in values.items()}
            for value, group in by.get(label, {}).items()
        }
    cost = {"seconds_per_second": 3.1 * (1 + 4 * badness), "peak_memory_mb": 812.0, "parameters": 5_900_000}
    return {
        "name": name, "kind": kind, "id": "000000000000", "clips": scored, "excluded": excluded, "scores": scores,
        "per_clip": values, "over_time": over_time, "by": by, "notes": [], "videos": {},
        "cost": cost if kind == "checkpoint" else dict.fromkeys(cost),
    }  # fmt: skip


def _score(values: list) -> dict:
    if "inf" in values:
        return {"mean": "inf", "low": "inf", "high": "inf", "n": len(values)}
    mean, error = float(np.mean(values)), float(np.std(values) / len(values) ** 0.5)
    return {"mean": mean, "low": mean - 2 * error, "high": mean + 2 * error, "n": len(values)}
