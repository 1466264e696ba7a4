"""Protocols and metrics of an evaluation, and the hash that names both.

A protocol is a file in conf/protocol, a metric a file in conf/metric; folders of `hydra.searchpath` are searched, too.
Tables with the same protocol hash are comparable: they rest on the same clips, metrics, versions and weights.
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
from zoo.metrics.base import Metric
from zoo.run.config import config_files, to_dict
from zoo.run.validate import existing_path, frame_rate, int_at_least

DETECTORS = ("synthetic", "real")
FIELDS = "id description data split frames fps height width crop num_clips repeats seed pose_detector metrics".split()
OPTIONAL_FIELDS = ("exact_motion",)
DETECTOR_HINT = (
    "needs weights.pose_detector=FILE, the mediapipe 0.10.21 wheel (pip download --no-deps) or its .tflite files, "
    "or a folder with DWPose's two .onnx"
)


@dataclass(frozen=True)
class Protocol:
    """The resolved section `protocol` of a configuration. conf/protocol/world-v1.yaml explains each value."""

    id: str
    description: str
    data: str
    split: str
    clip_spec: EvalSpec
    repeats: int
    seed: int
    pose_detector: str  # one of DETECTORS
    metrics: Mapping[str, Mapping[str, Any]]  # metric -> arguments that differ from conf/metric
    exact_motion: bool = False  # checkpoints draw the ground truth's motion, see `Family.render_motion`

    def values(self) -> dict[str, Any]:
        """Return plain values, for metrics.json and the hash."""
        clip_spec = {**asdict(self.clip_spec), "fps": str(self.clip_spec.rate)}
        values = {name: getattr(self, name) for name in FIELDS if name not in (*clip_spec, "num_clips")}
        return {**values, **clip_spec, **({"exact_motion": True} if self.exact_motion else {})}


@dataclass(frozen=True, eq=False)  # compared by identity: the dict of arguments is not hashable
class ConfiguredMetric:
    """A metric with its arguments, and everything that its values depend on.

    depends_on: the source of poses or motion, None where frames and sound are enough. unavailable_reason: None where it
    can be measured. identity: name, version, arguments, the weights' hash and depends_on.
    """

    name: str
    metric: Metric
    depends_on: str | None
    unavailable_reason: str | None
    identity: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """12 hex digits of the identity, under which measurements are stored."""
        return fingerprint(self.identity)


def fingerprint(*values: Any) -> str:
    """Hash plain values to 12 hex digits."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_protocol(config: DictConfig) -> Protocol:
    """Check `config.protocol`, and that `config.data` is the data it is defined on. Raises ValueError."""
    values = to_dict(config.protocol)
    missing, unknown = [name for name in FIELDS if name not in values], sorted({*values} - {*FIELDS, *OPTIONAL_FIELDS})
    if missing or unknown:
        problem = f"lacks {', '.join(missing)}" if missing else f"has unknown keys {', '.join(unknown)}"
        raise ValueError(f"protocol {values.get('id')} {problem}; conf/protocol/world-v1.yaml lists all keys")
    name = str(values["id"])
    source_class: Any = get_class(config.data._target_)
    if source_class.name != values["data"]:
        raise ValueError(f"protocol={name} is defined on data={values['data']}, not on data={source_class.name}")
    if values["split"] not in SPLITS:
        raise ValueError(f"protocol.split={values['split']}: use one of {' '.join(SPLITS)}")
    if values["pose_detector"] not in DETECTORS:
        raise ValueError(f"protocol.pose_detector={values['pose_detector']}: use one of {' '.join(DETECTORS)}")
    exact_motion = values.get("exact_motion", False)
    if not isinstance(exact_motion, bool):
        raise ValueError(f"protocol.exact_motion={exact_motion}: use true or false")
    sizes = {key: int_at_least(values[key], f"protocol.{key}", 1) for key in ("frames", "height", "width")}
    num_clips = values["num_clips"]
    max_clips = None if num_clips is None else int_at_least(num_clips, "protocol.num_clips", 2)
    return Protocol(
        id=name if _is_unmodified(values) else f"{name}+changes",
        description=str(values["description"]),
        data=values["data"],
        split=values["split"],
        clip_spec=EvalSpec(fps=str(frame_rate(values["fps"])), clips=max_clips, crop=str(values["crop"]), **sizes),
        repeats=int_at_least(values["repeats"], "protocol.repeats", 0),
        seed=int_at_least(values["seed"], "protocol.seed", 0),
        pose_detector=values["pose_detector"],
        metrics=values["metrics"] or {},
        exact_motion=exact_motion,
    )


def _is_unmodified(values: Mapping[str, Any]) -> bool:
    """Whether the values are those of the file that the id names, with no change on the command line."""
    path = config_files("protocol").get(str(values["id"]))
    return path is not None and OmegaConf.to_container(OmegaConf.load(path))["protocol"] == values


def read_metrics(
    config: DictConfig,
    protocol: Protocol,
    detector: PoseDetector | None,
    detector_hint: str,
    metric_files: Mapping[str, Path] | None = None,
) -> list[ConfiguredMetric]:
    """Build the metrics that `config.metrics` names, sorted by name.

    detector_hint: how to get a detector, where there is none. metric_files: name -> YAML file; None searches for them.
    Raises ValueError for an unknown name, for a weights file that does not fit, and for overrides of unknown metrics.
    """
    files = config_files("metric") if metric_files is None else metric_files
    requested = list(config.metrics) if isinstance(config.metrics, ListConfig) else [config.metrics]
    names = list(files) if requested == ["all"] else list(dict.fromkeys(map(str, requested)))
    for name in [*names, *protocol.metrics]:
        if name not in files:
            raise ValueError(f"there is no metric {name}; conf/metric has {', '.join(files)}")
    if not names:
        raise ValueError("metrics=[] leaves nothing to measure; use all")
    metrics = []
    for name in sorted(names):
        metric, arguments = _build_metric(files[name], config, protocol.metrics.get(name, {}))
        if requested == ["all"] and metric.needs_exact_motion and not protocol.exact_motion:
            continue
        depends_on = None
        if "detector" in metric.required_inputs:
            depends_on = None if detector is None else detector.name
        elif "joints" in metric.required_inputs:
            depends_on = "exact motion"
        lacks_detector = "detector" in metric.required_inputs and detector is None
        identity = {
            "metric": name,
            "version": metric.version,
            "arguments": arguments,
            "weights": metric.weights_hash,
            "depends_on": depends_on,
        }
        reason = metric.unavailable_reason or (detector_hint if lacks_detector else None)
        metrics.append(ConfiguredMetric(name, metric, depends_on, reason, identity))
    return metrics


def _build_metric(path: Path, config: DictConfig, overrides: Mapping[str, Any]) -> tuple[Metric, dict[str, Any]]:
    """Build the metric of a YAML file. Returns it with its arguments, paths of weights files left out.

    The class may lie in any package: these files are the user's own, unlike the configurations in checkpoints.
    """
    node = OmegaConf.merge(OmegaConf.load(path), overrides)
    # the path of a weights file is not part of the metric's identity: its hash is
    own_keys = [key for key in node if not OmegaConf.is_interpolation(node, key)]
    # interpolations of the metric refer to the evaluation's configuration
    values = OmegaConf.to_container(OmegaConf.create({**config, "metric": node}).metric, resolve=True)
    target = str(values.get("_target_"))
    try:
        metric_class = get_class(target)
    except Exception as error:  # Hydra wraps any error of the import
        raise ValueError(f"{path} names {target}, which cannot be imported: {error}") from None
    if not issubclass(metric_class, Metric):
        raise ValueError(f"{path} names {target}, which is no zoo.metrics.base.Metric")
    arguments = {key: values[key] for key in own_keys if not key.startswith("_convert")}
    return instantiate(values, _convert_="all"), arguments


def read_detector(config: DictConfig, protocol: Protocol) -> tuple[PoseDetector | None, str]:
    """Load the pose detector of all systems' frames. Returns it, or None with a hint how to get one."""
    if config.weights.pose_detector is not None:
        from zoo.body.detection.factory import load_detector

        return load_detector(existing_path(config.weights.pose_detector, "weights.pose_detector")), ""
    if protocol.pose_detector == "synthetic":
        from zoo.body.detection.synthetic_detector import SyntheticPoseDetector

        return SyntheticPoseDetector(), ""
    return None, DETECTOR_HINT


def protocol_hash(protocol: Protocol, content: str, metrics: list[ConfiguredMetric]) -> str:
    """12 hex digits: equal where the clips, their cut, the metrics, their weights and the detector are equal.

    content: the fingerprint of the split (DataSource.fingerprint). Metrics with `in_protocol_hash` False stay out.
    """
    values = {key: value for key, value in protocol.values().items() if key not in ("id", "description")}
    return fingerprint(values, content, [metric.identity for metric in metrics if metric.metric.in_protocol_hash])
