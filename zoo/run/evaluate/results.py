"""From measurements to numbers: means with intervals, curves, breakdowns, and paired comparisons of the rows."""

import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from zoo.metrics.base import TIME_SUFFIX, ClipMetric, SetMetric
from zoo.metrics.statistics import (
    Interval,
    bootstrap_interval,
    bootstrap_p_value,
    bootstrap_sets,
    holm,
    paired_p_value,
    set_interval,
)
from zoo.run.evaluate.protocol import Gauge
from zoo.run.evaluate.records import Facts, Measurements
from zoo.run.evaluate.systems import Row

BREAKDOWNS = ("camera", "style", "figure")  # the first two are DabFusion's Tables 2 and 4
MISSING = {  # what of MetricInput a metric needs -> why a row has no value without it
    "joints": "it rests on the exact motion, which this row does not come with",
    "second_joints": "it rests on a second dance to the same clip, which this row does not have",
    "beats": "no beat was found in these songs",
}


class Numbers:
    """Everything that is computed from the measurements of all rows.

    measured: row -> clip -> measurements; the first row is the ground truth, which sets are compared with.
    """

    def __init__(
        self, gauges: Sequence[Gauge], rows: Sequence[Row], measured: Mapping[str, Mapping[str, Measurements]]
    ):
        self.gauges, self.rows, self.measured = gauges, rows, measured
        self.columns = {column: gauge for gauge in gauges for column in gauge.metric.columns}
        self.set_values, self.set_draws = cache(self._set_values), cache(self._set_draws)

    def keys(self, row: str, gauge: Gauge) -> tuple[str, ...]:
        """The clips of a row that a metric measured."""
        return tuple(key for key, kept in self.measured[row].items() if kept.get(gauge.mark))

    def clip_values(self, row: str, column: str) -> dict[str, float]:
        """Clip -> value, of a `ClipMetric`'s column; NaN where a clip has none."""
        mark = self.columns[column].mark
        return {
            key: float(kept[mark][column]) for key, kept in self.measured[row].items() if column in kept.get(mark, {})
        }

    def _set_values(self, row: str, gauge: Gauge, keys: Sequence[str]) -> dict[str, float]:
        own, truth = self.measured[row], self.measured[self.rows[0].name]
        beside = [truth[key][gauge.mark] for key in keys if truth.get(key, {}).get(gauge.mark)]
        assert isinstance(gauge.metric, SetMetric)
        return gauge.metric.combine([own[key][gauge.mark] for key in keys], beside)

    def _set_draws(self, row: str, gauge: Gauge, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Column -> values of sets with resampled clips; the same resamples for every row of the same clips."""
        return bootstrap_sets(lambda drawn: self._set_values(row, gauge, [keys[i] for i in drawn]), len(keys))

    def summary(self, row: str, column: str, only: frozenset[str] | None = None) -> Interval | None:
        """A row's value in a column, over all its clips or those in `only`; None where no clip has one."""
        gauge = self.columns[column]
        if isinstance(gauge.metric, ClipMetric):
            values = np.array([v for key, v in self.clip_values(row, column).items() if only is None or key in only])
            return None if np.isnan(values).all() else bootstrap_interval(values)
        keys = tuple(key for key in self.keys(row, gauge) if only is None or key in only)
        value = self.set_values(row, gauge, keys)[column] if keys else math.nan
        return None if math.isnan(value) else set_interval(value, self.set_draws(row, gauge, keys)[column], len(keys))

    def reason(self, row: str, column: str) -> str:
        """Why a row has no value in a column."""
        gauge = self.columns[column]
        if gauge.reason:
            return gauge.reason
        if not self.measured[row]:
            return "none of its clips could be scored"
        if self.keys(row, gauge):
            return "its clips are too few for it, or show nothing of what it measures"
        return next(
            (why for need, why in MISSING.items() if need in gauge.metric.required_inputs), "nothing was measured"
        )

    def curve(self, row: str, column: str) -> list[float | str | None] | None:
        """The mean over clips at every frame, where the metric says how its value goes over time."""
        mark, name = self.columns[column].mark, column + TIME_SUFFIX
        curves = [kept[mark][name] for kept in self.measured[row].values() if name in kept.get(mark, {})]
        if not curves:
            return None
        stacked = np.stack(curves)
        seen = (~np.isnan(stacked)).sum(0)
        return [number(v) for v in np.where(seen > 0, np.nansum(stacked, 0) / np.maximum(seen, 1), np.nan)]

    def compare(self, a: str, b: str) -> list[dict[str, Any]]:
        """Row `a` minus row `b` in every column that both have, on the clips that both have; p over columns by Holm."""
        lines: list[dict[str, Any]] = []
        for column, gauge in self.columns.items():
            if isinstance(gauge.metric, ClipMetric):
                ours, theirs = self.clip_values(a, column), self.clip_values(b, column)
                values = np.array([ours[key] - theirs[key] for key in ours if key in theirs])
                if np.isnan(values).all():
                    continue
                found, p = bootstrap_interval(values), paired_p_value(values)
            else:
                both = frozenset(self.keys(b, gauge))
                keys = tuple(key for key in self.keys(a, gauge) if key in both)
                if not keys:
                    continue
                one, two = (self.set_values(row, gauge, keys)[column] for row in (a, b))
                if math.isnan(one - two):
                    continue
                one_drawn, two_drawn = (self.set_draws(row, gauge, keys)[column] for row in (a, b))
                found = set_interval(one - two, one_drawn - two_drawn, len(keys))
                p = bootstrap_p_value(one - two, one_drawn - two_drawn)
            line = {"a": a, "b": b, "column": column, "difference": number(found.mean)}
            lines.append(line | {"low": number(found.low), "high": number(found.high), "p": p, "n": found.n})
        p_values: list[float] = [line["p"] for line in lines]
        for line, p_value, corrected in zip(lines, p_values, holm(p_values), strict=True):
            line["p"], line["p_holm"] = number(p_value), number(corrected)
        return lines


def number(value: float) -> float | str | None:
    """As JSON has it: None for NaN, 'inf' for what is infinite."""
    if math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def told(found: Interval) -> dict[str, float | str | int | None]:
    """An interval as JSON has it."""
    return {"mean": number(found.mean), "low": number(found.low), "high": number(found.high), "n": found.n}


def describe_columns(gauges: Sequence[Gauge]) -> dict[str, dict[str, Any]]:
    """Column -> what the report says of it."""
    return {
        name: {
            "metric": gauge.name,
            "group": type(gauge.metric).__module__.rpartition(".")[2],
            "heading": column.heading,
            "title": column.title,
            "better": column.better,
            "digits": column.digits,
            "unit": column.unit,
            "instrument": gauge.instrument,
            "docs": (type(gauge.metric).__doc__ or "").strip().split("\n")[0],
        }
        for gauge in gauges
        for name, column in gauge.metric.columns.items()
    }


def describe_row(numbers: Numbers, row: Row, clips: Sequence[Facts], out: Path) -> dict[str, Any]:
    """A row of metrics.json."""
    scored = [clip for clip in clips if clip.key in numbers.measured[row.name]]
    scores, per_clip, over_time = {}, {}, {}
    for column, gauge in numbers.columns.items():
        found = numbers.summary(row.name, column)
        scores[column] = told(found) if found else {"reason": numbers.reason(row.name, column)}
        if isinstance(gauge.metric, ClipMetric):
            values = numbers.clip_values(row.name, column)
            per_clip[column] = {key: number(value) for key, value in values.items()}
            curve = numbers.curve(row.name, column)
            if curve is not None:
                over_time[column] = curve
    return {
        "name": row.name,
        "kind": row.kind,
        "id": row.id,
        "clips": [clip.key for clip in scored],
        "excluded": [{"clip": key, "reason": row.excluded[key]} for key in sorted(row.excluded)],
        "scores": scores,
        "per_clip": per_clip,
        "over_time": over_time,
        "by": {label: _by(numbers, row, scored, label) for label in BREAKDOWNS},
        "cost": row.cost,
        "videos": {clip.key: os.path.relpath(row.videos[clip.key], out) for clip in scored},
        "notes": row.notes,
    }


def _by(numbers: Numbers, row: Row, scored: Sequence[Facts], label: str) -> dict[str, dict[str, Any]]:
    """Value of a label -> column -> what the clips with it have."""
    values = sorted({clip.labels[label] for clip in scored if label in clip.labels})
    parts = {}
    for value in values:
        only = frozenset(clip.key for clip in scored if clip.labels.get(label) == value)
        found = {column: numbers.summary(row.name, column, only) for column in numbers.columns}
        parts[value] = {column: told(summary) for column, summary in found.items() if summary}
    return parts


def compare_all(numbers: Numbers) -> list[dict[str, Any]]:
    """Every row against every one before it."""
    pairs = [(later.name, earlier.name) for earlier, later in combinations(numbers.rows, 2)]
    bar = tqdm(pairs, desc="comparing", unit="pair", disable=None, dynamic_ncols=True)
    return [line for a, b in bar for line in numbers.compare(a, b)]
