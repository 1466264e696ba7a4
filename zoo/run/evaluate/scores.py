"""Run all metrics on all clips of all systems; each measurement is computed once and stored.

All systems are measured from decoded files by the same rules. A video must have the protocol's number of frames, its
frame rate (to less than half a frame over the clip) and its aspect ratio (to less than a pixel). Other sizes are
resized.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from zoo.body.detection.base import PoseDetector
from zoo.body.skeleton import joints_of
from zoo.data.base import EvalSpec
from zoo.media import decode_frames, read_frames
from zoo.metrics.base import MetricInput
from zoo.processes import WorkerPool
from zoo.run.config import config_files
from zoo.run.evaluate.protocol import (
    ConfiguredMetric,
    Protocol,
    fingerprint,
    read_detector,
    read_metrics,
    read_protocol,
)
from zoo.run.evaluate.records import (
    Measurements,
    StoredClip,
    clip_stem,
    file_stem,
    read_arrays,
    read_measurements,
    write_measurements,
)
from zoo.run.evaluate.systems import System, file_fingerprint

RESIZED = "resized"  # key of `Measurements` for the original size of a resized video


@dataclass(frozen=True)
class MetricJob:
    """One clip of one system to measure."""

    system: str
    clip: StoredClip
    video: Path
    motion: Path | None
    use_second_motion: bool
    output: Path  # of the measurements
    inputs_hash: str  # of everything that is measured


class MetricRunner:
    """Measures jobs. Instances with the same configuration, in any process, give the same measurements."""

    def __init__(self, config: DictConfig, metric_files: Mapping[str, Path] | None = None):
        """metric_files: name -> YAML file; None searches Hydra's folders, which worker processes do not know."""
        self.metric_files = config_files("metric") if metric_files is None else metric_files
        self.protocol: Protocol = read_protocol(config)
        self.detector: PoseDetector | None
        self.detector, detector_hint = read_detector(config, self.protocol)
        self.metrics = read_metrics(config, self.protocol, self.detector, detector_hint, self.metric_files)

    def missing_metrics(self, job: MetricJob) -> list[ConfiguredMetric]:
        """Return the available metrics without a stored measurement of this job."""
        stored = read_measurements(job.output, job.inputs_hash)
        return [metric for metric in self.metrics if metric.fingerprint not in stored and not metric.unavailable_reason]

    def measure(self, job: MetricJob) -> str | None:
        """Compute and store the missing measurements. Returns the reason why the video is excluded, or None."""
        missing, clip_spec = self.missing_metrics(job), self.protocol.clip_spec
        if not missing:
            return None
        try:
            frames, original_size = read_clip(job.video, clip_spec)
        except ValueError as error:
            return str(error)
        truth = job.clip.read()
        motion = read_arrays(job.motion) if job.motion else {}
        clip = MetricInput(
            key=job.clip.key,
            labels=job.clip.labels,
            fps=clip_spec.rate,
            frames=frames,
            true_frames=decode_frames(job.clip.file(".mp4").read_bytes()),
            reference=truth["reference"],
            waveform=truth["waveform"],
            sample_rate=int(truth["sample_rate"]),
            beats=truth["beats"],
            caption=str(truth.get("caption", "")),  # clips that an older version stored have none
            joints=_joints(motion.get("motion")),
            second_joints=_joints(motion.get("second_motion") if job.use_second_motion else None),
            detector=self.detector,
        )
        measurements = read_measurements(job.output, job.inputs_hash)
        optional = {"joints": clip.joints, "second_joints": clip.second_joints, "detector": self.detector}
        unavailable = {name for name, value in optional.items() if value is None}
        unavailable |= {name for name in ("beats", "caption") if not len(getattr(clip, name))}
        for metric in missing:
            values = {} if metric.metric.required_inputs & unavailable else metric.metric.measure(clip)
            measurements[metric.fingerprint] = {name: np.asarray(value) for name, value in values.items()}
        measurements[RESIZED] = {"size": np.array(original_size)} if original_size else {}
        write_measurements(job.output, job.inputs_hash, measurements)
        return None


def _joints(motion: np.ndarray | None) -> np.ndarray | None:
    return None if motion is None else joints_of(torch.from_numpy(motion)).numpy()


def read_clip(path: Path, spec: EvalSpec) -> tuple[np.ndarray, str]:
    """Read a system's video: frames uint8 (F, H, W, 3), and its original size, '' where that is the protocol's.

    A larger video is resized by area averaging, a smaller one by bicubic interpolation. Raises ValueError with the
    reason why the video is excluded.
    """
    frames, fps, _ = read_frames(path, limit=spec.frames + 1)
    if len(frames) != spec.frames:
        count = f"more than {spec.frames}" if len(frames) > spec.frames else len(frames)
        raise ValueError(f"it has {count} frames, not {spec.frames}")
    if abs(spec.frames / Fraction(fps) - spec.seconds) >= 1 / (2 * spec.rate):
        raise ValueError(f"it has {float(fps):g} frames a second, not {float(spec.rate):g}")
    height, width = frames.shape[1:3]
    if (height, width) == (spec.height, spec.width):
        return frames, ""
    if abs(Fraction(width * spec.height, height) - spec.width) >= 1:
        raise ValueError(f"it is {width}x{height}, another aspect ratio than {spec.width}x{spec.height}")
    interpolation = cv2.INTER_AREA if height > spec.height else cv2.INTER_CUBIC
    resized = [cv2.resize(frame, (spec.width, spec.height), interpolation=interpolation) for frame in frames]
    return np.stack(resized), f"{width}x{height}"


# All jobs ------------------------------------------------------------------------------------------------------------


def score(
    config: DictConfig,
    runner: MetricRunner,
    systems: Sequence[System],
    clips: Sequence[StoredClip],
    content: str,
    out: Path,
) -> dict[str, dict[str, Measurements]]:
    """Measure all systems in `config.workers` processes. Returns system -> clip -> measurements.

    content: the fingerprint of the clips. Videos that break a rule are added to `System.excluded`.
    """
    jobs = [_job(system, index, clip, runner.protocol.repeats, content, out) for system in systems
            for index, clip in enumerate(clips) if clip.key in system.videos]  # fmt: skip
    groups = defaultdict(list)
    for job in jobs:
        if runner.missing_metrics(job):
            groups[job.clip.key].append(job)
    by_name = {system.name: system for system in systems}
    for group, reasons in _run_jobs(config, runner, list(groups.values())):
        for job, reason in zip(group, reasons, strict=True):
            if reason is not None:
                by_name[job.system].excluded[job.clip.key] = reason
    measured: dict[str, dict[str, Measurements]] = {system.name: {} for system in systems}
    for job in jobs:
        if job.clip.key not in by_name[job.system].excluded:
            measured[job.system][job.clip.key] = read_measurements(job.output, job.inputs_hash)
    spec = runner.protocol.clip_spec
    for system in systems:
        resized = (measurements.get(RESIZED) for measurements in measured[system.name].values())
        sizes = sorted({str(values["size"]) for values in resized if values})
        if sizes:
            system.notes.append(f"frames of {', '.join(sizes)} were resized to {spec.width}x{spec.height}")
    return measured


def _job(system: System, index: int, clip: StoredClip, repeats: int, content: str, out: Path) -> MetricJob:
    video, motion = system.videos[clip.key], system.motions.get(clip.key)
    use_second_motion = index < repeats
    hashes = [file_fingerprint(path) for path in (video, motion) if path]
    output = out / "measured" / file_stem(system.name) / f"{clip_stem(clip.key)}.npz"
    inputs_hash = fingerprint(content, clip.key, hashes, use_second_motion)
    return MetricJob(system.name, clip, video, motion, use_second_motion, output, inputs_hash)


GroupResult = tuple[list[MetricJob], list[str | None]]


def _run_jobs(config: DictConfig, runner: MetricRunner, groups: list[list[MetricJob]]) -> Iterable[GroupResult]:
    progress = {"total": len(groups), "desc": "scoring", "unit": "clip", "disable": None, "dynamic_ncols": True}
    if config.workers <= 1 or len(groups) < 2:
        num_threads, num_cv_threads = torch.get_num_threads(), cv2.getNumThreads()
        _use_one_thread()  # as in worker processes: sums depend on the number of threads
        try:
            for group in tqdm(groups, **progress):
                yield group, [runner.measure(job) for job in group]
        finally:
            torch.set_num_threads(num_threads)
            cv2.setNumThreads(num_cv_threads)
        return
    num_workers = min(config.workers, len(groups))
    initargs = (config, runner.metric_files)
    with WorkerPool(num_workers, _start_worker, initargs) as pool:
        futures = {pool.submit(_measure_group, group): group for group in groups}
        for future in tqdm(as_completed(futures), **progress):
            yield futures[future], future.result()


_worker_runner: dict[str, MetricRunner] = {}  # the only entry: this worker process's runner


def _start_worker(config: DictConfig, metric_files: Mapping[str, Path]) -> None:
    _use_one_thread()
    _worker_runner["runner"] = MetricRunner(config, metric_files)


def _measure_group(jobs: list[MetricJob]) -> list[str | None]:
    return [_worker_runner["runner"].measure(job) for job in jobs]


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
