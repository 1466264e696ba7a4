"""Turn measurements into a table: means with intervals, curves, breakdowns, and paired comparisons of systems."""

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
from zoo.run.evaluate.protocol import ConfiguredMetric
from zoo.run.evaluate.records import Measurements, StoredClip
from zoo.run.evaluate.systems import System

BREAKDOWN_LABELS = ("camera", "style", "figure")  # the first two are DabFusion's Tables 2 and 4
MISSING_REASONS = {  # required input of a metric -> the reason why a system without it has no value
    "joints": "it needs the exact motion, which this system does not provide",
    "second_joints": "it needs a second dance to the same clip, which this system does not provide",
    "beats": "no beat was found in these songs",
    "caption": "the clips have no captions",
}


class ResultTable:
    """All values that are computed from the measurements of all systems.

    measured: system -> clip -> measurements. The first system is the ground truth, the reference of set metrics.
    """

    def __init__(
        self,
        metrics: Sequence[ConfiguredMetric],
        systems: Sequence[System],
        measured: Mapping[str, Mapping[str, Measurements]],
    ):
        self.metrics, self.systems, self.measured = metrics, systems, measured
        self.columns = {column: metric for metric in metrics for column in metric.metric.columns}
        self.set_values, self.set_samples = cache(self._set_values), cache(self._set_samples)

    def keys(self, system: str, metric: ConfiguredMetric) -> tuple[str, ...]:
        """Return the clips of a system that a metric measured."""
        measured = self.measured[system].items()
        return tuple(key for key, measurements in measured if measurements.get(metric.fingerprint))

    def clip_values(self, system: str, column: str) -> dict[str, float]:
        """Clip -> value of a `ClipMetric`'s column; NaN where a clip has no value."""
        fingerprint = self.columns[column].fingerprint
        return {
            key: float(measurements[fingerprint][column])
            for key, measurements in self.measured[system].items()
            if column in measurements.get(fingerprint, {})
        }

    def _set_values(self, system: str, metric: ConfiguredMetric, keys: Sequence[str]) -> dict[str, float]:
        measured, true = self.measured[system], self.measured[self.systems[0].name]
        assert isinstance(metric.metric, SetMetric)
        fingerprint = metric.fingerprint
        true_clips = [true[key][fingerprint] for key in keys if true.get(key, {}).get(fingerprint)]
        return metric.metric.combine([measured[key][fingerprint] for key in keys], true_clips)

    def _set_samples(self, system: str, metric: ConfiguredMetric, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Column -> values of bootstrap samples; systems with the same clips get the same samples."""
        return bootstrap_sets(lambda indices: self._set_values(system, metric, [keys[i] for i in indices]), len(keys))

    def summary(self, system: str, column: str, subset: frozenset[str] | None = None) -> Interval | None:
        """A system's value in a column, over all clips or those in `subset`; None where no clip has a value."""
        metric = self.columns[column]
        if isinstance(metric.metric, ClipMetric):
            clip_values = self.clip_values(system, column).items()
            values = np.array([value for key, value in clip_values if subset is None or key in subset])
            return None if np.isnan(values).all() else bootstrap_interval(values)
        keys = tuple(key for key in self.keys(system, metric) if subset is None or key in subset)
        value = self.set_values(system, metric, keys)[column] if keys else math.nan
        if math.isnan(value):
            return None
        return set_interval(value, self.set_samples(system, metric, keys)[column], len(keys))

    def missing_reason(self, system: str, column: str) -> str:
        """Explain why a system has no value in a column."""
        metric = self.columns[column]
        if metric.unavailable_reason:
            return metric.unavailable_reason
        if not self.measured[system]:
            return "none of its clips could be scored"
        if self.keys(system, metric):
            return "it has too few clips, or they show nothing to measure"
        required = metric.metric.required_inputs
        return next((reason for name, reason in MISSING_REASONS.items() if name in required), "nothing was measured")

    def curve(self, system: str, column: str) -> list[float | str | None] | None:
        """The mean over clips at every frame, for metrics with values over time."""
        fingerprint, name = self.columns[column].fingerprint, column + TIME_SUFFIX
        measured = [measurements.get(fingerprint, {}) for measurements in self.measured[system].values()]
        curves = [values[name] for values in measured if name in values]
        if not curves:
            return None
        stacked = np.stack(curves)
        counts = (~np.isnan(stacked)).sum(0)
        means = np.where(counts > 0, np.nansum(stacked, 0) / np.maximum(counts, 1), np.nan)
        return [to_json_number(mean) for mean in means]

    def compare(self, a: str, b: str) -> list[dict[str, Any]]:
        """System `a` minus system `b` in every common column, over the common clips; Holm-corrected p over columns."""
        lines: list[dict[str, Any]] = []
        for column, metric in self.columns.items():
            if isinstance(metric.metric, ClipMetric):
                values_a, values_b = self.clip_values(a, column), self.clip_values(b, column)
                differences = np.array([values_a[key] - values_b[key] for key in values_a if key in values_b])
                if np.isnan(differences).all():
                    continue
                difference, p = bootstrap_interval(differences), paired_p_value(differences)
            else:
                keys_b = frozenset(self.keys(b, metric))
                keys = tuple(key for key in self.keys(a, metric) if key in keys_b)
                if not keys:
                    continue
                value_a, value_b = (self.set_values(system, metric, keys)[column] for system in (a, b))
                if math.isnan(value_a - value_b):
                    continue
                samples_a, samples_b = (self.set_samples(system, metric, keys)[column] for system in (a, b))
                difference = set_interval(value_a - value_b, samples_a - samples_b, len(keys))
                p = bootstrap_p_value(value_a - value_b, samples_a - samples_b)
            line = {"a": a, "b": b, "column": column, "difference": to_json_number(difference.mean)}
            bounds = {"low": to_json_number(difference.low), "high": to_json_number(difference.high)}
            lines.append(line | bounds | {"p": p, "n": difference.n})
        p_values: list[float] = [line["p"] for line in lines]
        for line, p_value, corrected in zip(lines, p_values, holm(p_values), strict=True):
            line["p"], line["p_holm"] = to_json_number(p_value), to_json_number(corrected)
        return lines


def to_json_number(value: float) -> float | str | None:
    """A number for JSON: None for NaN, 'inf' or '-inf' for infinity."""
    if math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def interval_to_json(interval: Interval) -> dict[str, float | str | int | None]:
    """An interval for JSON."""
    bounds = {name: to_json_number(getattr(interval, name)) for name in ("mean", "low", "high")}
    return {**bounds, "n": interval.n}


def describe_columns(metrics: Sequence[ConfiguredMetric]) -> dict[str, dict[str, Any]]:
    """Column -> its heading, format and metric, for metrics.json."""
    return {
        name: {
            "metric": metric.name,
            "fingerprint": metric.fingerprint,
            "group": type(metric.metric).__module__.rpartition(".")[2],
            "heading": column.heading,
            "title": column.title,
            "better": column.better,
            "digits": column.digits,
            "unit": column.unit,
            "depends_on": metric.depends_on,
            "docs": (type(metric.metric).__doc__ or "").strip().split("\n")[0],
        }
        for metric in metrics
        for name, column in metric.metric.columns.items()
    }


def describe_system(table: ResultTable, system: System, clips: Sequence[StoredClip], out: Path) -> dict[str, Any]:
    """A row of metrics.json."""
    scored = [clip for clip in clips if clip.key in table.measured[system.name]]
    scores, per_clip, over_time = {}, {}, {}
    for column, metric in table.columns.items():
        summary = table.summary(system.name, column)
        scores[column] = interval_to_json(summary) if summary else {"reason": table.missing_reason(system.name, column)}
        if isinstance(metric.metric, ClipMetric):
            values = table.clip_values(system.name, column)
            per_clip[column] = {key: to_json_number(value) for key, value in values.items()}
            curve = table.curve(system.name, column)
            if curve is not None:
                over_time[column] = curve
    return {
        "name": system.name,
        "kind": system.kind,
        "id": system.id,
        "clips": [clip.key for clip in scored],
        "excluded": [{"clip": key, "reason": system.excluded[key]} for key in sorted(system.excluded)],
        "scores": scores,
        "per_clip": per_clip,
        "over_time": over_time,
        "by": {label: _breakdown(table, system, scored, label) for label in BREAKDOWN_LABELS},
        "cost": system.cost,
        "videos": {clip.key: os.path.relpath(system.videos[clip.key], out) for clip in scored},
        "notes": system.notes,
    }


def _breakdown(
    table: ResultTable, system: System, scored: Sequence[StoredClip], label: str
) -> dict[str, dict[str, Any]]:
    """Value of a label -> column -> summary over the clips with that value."""
    breakdown = {}
    for value in sorted({clip.labels[label] for clip in scored if label in clip.labels}):
        subset = frozenset(clip.key for clip in scored if clip.labels.get(label) == value)
        summaries = {column: table.summary(system.name, column, subset) for column in table.columns}
        breakdown[value] = {column: interval_to_json(summary) for column, summary in summaries.items() if summary}
    return breakdown


def compare_all(table: ResultTable) -> list[dict[str, Any]]:
    """Compare every system with every earlier one."""
    pairs = [(later.name, earlier.name) for earlier, later in combinations(table.systems, 2)]
    progress = tqdm(pairs, desc="comparing", unit="pair", disable=None, dynamic_ncols=True)
    return [line for a, b in progress for line in table.compare(a, b)]
