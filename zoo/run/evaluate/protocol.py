"""What is compared and how: a named protocol, the metrics that measure, and the hash that names both.

A protocol is a file in conf/protocol, a metric a file in conf/metrics. Two tables with the same protocol hash can be
laid side by side: the same clips, cut alike, measured by the same versions of the same metrics with the same weights.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from zoo.body.detection.base import PoseDetector
from zoo.data.base import SPLITS, EvalSpec
from zoo.files import conf_folder
from zoo.metrics.base import Metric
from zoo.run.validate import existing_path, frame_rate, int_at_least

JUDGES = ("world", "people")
SPEC = "id description data split frames fps height width crop clips repeats seed judge metrics".split()


@dataclass(frozen=True)
class Protocol:
    """The resolved section `protocol` of a config; what each value means stands in conf/protocol/world-v1.yaml."""

    id: str
    description: str
    data: str
    split: str
    cut: EvalSpec
    repeats: int
    seed: int
    judge: str
    metrics: Mapping[str, Mapping[str, Any]]  # metric -> arguments set otherwise than in conf/metrics

    def spec(self) -> dict[str, Any]:
        """Plain values, as results carry them."""
        cut = {**asdict(self.cut), "fps": str(self.cut.rate)}
        return {**{name: getattr(self, name) for name in SPEC if name not in cut}, **cut}


@dataclass(frozen=True, eq=False)  # each is itself alone
class Gauge:
    """A metric, what names it, and what stands in its way.

    instrument: what its numbers rest on besides the frames and the sound, None where nothing; reason: why no row can be
    measured here, None where they can; identity: name, version, arguments, weights' hash and instrument.
    """

    name: str
    metric: Metric
    instrument: str | None
    reason: str | None
    identity: Mapping[str, Any]

    @property
    def mark(self) -> str:
        """The identity in 12 hex digits, under which measurements are kept."""
        return digest(self.identity)


def digest(*things: Any) -> str:
    """12 hex digits that belong to these plain values and to no others."""
    text = json.dumps(things, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_protocol(config: DictConfig) -> Protocol:
    """Check `config.protocol` and that `config.data` is what it is defined on. Raises ValueError."""
    given = OmegaConf.to_container(config.protocol, resolve=True)
    missing, unknown = [name for name in SPEC if name not in given], sorted(set(given) - set(SPEC))
    if missing or unknown:
        told = f"lacks {', '.join(missing)}" if missing else f"has no {', '.join(unknown)}"
        raise ValueError(f"protocol {given.get('id')} {told}; conf/protocol/world-v1.yaml shows what one holds")
    name = str(given["id"])
    source: Any = get_class(config.data._target_)
    if source.name != given["data"]:
        raise ValueError(f"protocol={name} is defined on data={given['data']}, not on data={source.name}")
    if given["split"] not in SPLITS:
        raise ValueError(f"protocol.split={given['split']}: use one of {' '.join(SPLITS)}")
    if given["judge"] not in JUDGES:
        raise ValueError(f"protocol.judge={given['judge']}: use one of {' '.join(JUDGES)}")
    sizes = {side: int_at_least(given[side], f"protocol.{side}", 1) for side in ("frames", "height", "width")}
    clips = None if given["clips"] is None else int_at_least(given["clips"], "protocol.clips", 2)
    return Protocol(
        id=name if _as_published(given) else f"{name}+changes",
        description=str(given["description"]),
        data=given["data"],
        split=given["split"],
        cut=EvalSpec(fps=str(frame_rate(given["fps"])), clips=clips, crop=str(given["crop"]), **sizes),
        repeats=int_at_least(given["repeats"], "protocol.repeats", 0),
        seed=int_at_least(given["seed"], "protocol.seed", 0),
        judge=given["judge"],
        metrics=given["metrics"] or {},
    )


def _as_published(given: Mapping[str, Any]) -> bool:
    """Whether the values are those of the file that the id names, none of them changed on the command line."""
    path = conf_folder() / "protocol" / f"{given['id']}.yaml"
    return path.is_file() and OmegaConf.to_container(OmegaConf.load(path))["protocol"] == given


def read_gauges(config: DictConfig, protocol: Protocol, detector: PoseDetector | None, without: str) -> list[Gauge]:
    """The metrics that `config.measure` names, ready to measure, in the order of their names.

    without: why there is no detector, where there is none.

    Raises ValueError for an unknown name, for a file of the user's that does not fit, and for overrides of no metric.
    """
    files = {path.stem: path for path in sorted((conf_folder() / "metrics").glob("*.yaml"))}
    asked = list(config.measure) if isinstance(config.measure, ListConfig) else [config.measure]
    names = list(files) if asked == ["all"] else list(dict.fromkeys(map(str, asked)))
    for name in [*names, *protocol.metrics]:
        if name not in files:
            raise ValueError(f"there is no metric {name}; conf/metrics has {', '.join(files)}")
    if not names:
        raise ValueError("measure=[] leaves nothing to measure; use all")
    gauges = []
    for name in sorted(names):
        metric, arguments = _metric(files[name], config, protocol.metrics.get(name, {}))
        sees = "detector" in metric.required_inputs
        if sees:
            instrument = None if detector is None else detector.name
        else:
            instrument = "exact motion" if "joints" in metric.required_inputs else None
        identity = {"metric": name, "version": metric.version, "arguments": arguments, "weights": metric.weights_hash}
        reason = metric.unavailable_reason or (without if sees and detector is None else None)
        gauges.append(Gauge(name, metric, instrument, reason, {**identity, "instrument": instrument}))
    return gauges


def _metric(path: Path, config: DictConfig, overrides: Mapping[str, Any]) -> tuple[Metric, dict[str, Any]]:
    """What a file of conf/metrics names, and its arguments but for files of the user's."""
    node = OmegaConf.merge(OmegaConf.load(path), overrides)
    # where a weights file lies on this machine is no part of what is measured: its hash is
    portable = [key for key in node if not OmegaConf.is_interpolation(node, key)]
    # the metric's interpolations look for their values in the evaluation's config
    values = OmegaConf.to_container(OmegaConf.create({**config, "metric": node}).metric, resolve=True)
    target = str(values["_target_"])
    found = get_class(target) if target.startswith("zoo.metrics.") else None
    if not (isinstance(found, type) and issubclass(found, Metric)):
        raise ValueError(f"conf/metrics/{path.name} names {target}, which is no metric of zoo.metrics")
    arguments = {key: values[key] for key in portable if not key.startswith("_convert")}
    return instantiate(values, _convert_="all"), arguments


def read_detector(config: DictConfig, protocol: Protocol) -> tuple[PoseDetector | None, str]:
    """What finds the figure in the pictures of every row, and, where nothing does, why and how to get it."""
    if config.weights.pose_detector is not None:
        from zoo.body.detection.factory import load_detector

        return load_detector(existing_path(config.weights.pose_detector, "weights.pose_detector")), ""
    if protocol.judge == "world":
        from zoo.body.detection.synthetic_detector import SyntheticPoseDetector

        return SyntheticPoseDetector(), ""
    why = "needs weights.pose_detector=FILE, the mediapipe 0.10.21 wheel (pip download --no-deps) or its .tflite files"
    return None, f"{why}, or a folder with DWPose's two .onnx"


def protocol_hash(protocol: Protocol, content: str, gauges: list[Gauge]) -> str:
    """12 hex digits: equal where the clips, their cut, the metrics, their weights and the detector are equal.

    content: of the split (DataSource.fingerprint).
    """
    spec = {key: value for key, value in protocol.spec().items() if key not in ("id", "description")}
    return digest(spec, content, [gauge.identity for gauge in gauges])
