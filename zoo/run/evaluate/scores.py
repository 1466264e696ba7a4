"""Every metric on every clip of every row, each measured once and kept.

What is scored is always a decoded file, whoever made it, by the same rules: as many frames as the protocol has, at its
rate (to less than half a frame over the clip) and of its proportions (to less than a pixel); another size is resized.
"""

import multiprocessing
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
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
from zoo.run.evaluate.protocol import Gauge, Protocol, digest, read_detector, read_gauges, read_protocol
from zoo.run.evaluate.records import Facts, Measurements, file_name, read_arrays, read_measured, write_measured
from zoo.run.evaluate.systems import Row, mark_of

RESIZED = "resized"  # what `measured` says of a video that was brought to the protocol's size


@dataclass(frozen=True)
class Job:
    """One clip of one row to measure. again: whether its second dance counts; evidence: the hash of all it rests on."""

    row: str
    clip: Facts
    video: Path
    motion: Path | None
    again: bool
    kept: Path
    evidence: str


class Measurer:
    """Measures jobs. The same in every process that is given the same config."""

    def __init__(self, config: DictConfig):
        self.protocol: Protocol = read_protocol(config)
        self.detector: PoseDetector | None
        self.detector, without = read_detector(config, self.protocol)
        self.gauges: list[Gauge] = read_gauges(config, self.protocol, self.detector, without)

    def missing(self, job: Job) -> list[Gauge]:
        """The metrics that have not measured it yet and are not in want of files."""
        there = read_measured(job.kept, job.evidence)
        return [gauge for gauge in self.gauges if gauge.mark not in there and not gauge.reason]

    def measure(self, job: Job) -> str | None:
        """Measure what is missing and keep it. Why its video is not scored, None when it is."""
        missing, cut = self.missing(job), self.protocol.cut
        if not missing:
            return None
        try:
            frames, resized = read_clip(job.video, cut)
        except ValueError as error:
            return str(error)
        known = job.clip.read()
        motion = read_arrays(job.motion) if job.motion else {}
        evidence = MetricInput(
            key=job.clip.key,
            labels=job.clip.labels,
            fps=cut.rate,
            frames=frames,
            true_frames=decode_frames(job.clip.file(".mp4").read_bytes()),
            reference=known["reference"],
            waveform=known["waveform"],
            sample_rate=int(known["sample_rate"]),
            beats=known["beats"],
            joints=_joints(motion.get("motion")),
            second_joints=_joints(motion.get("motion_again") if job.again else None),
            detector=self.detector,
        )
        measured = read_measured(job.kept, job.evidence)
        given = {"joints": evidence.joints, "second_joints": evidence.second_joints, "detector": self.detector}
        lacks = {name for name, value in given.items() if value is None} | (
            {"beats"} if not len(known["beats"]) else set()
        )
        for gauge in missing:
            values = {} if gauge.metric.required_inputs & lacks else gauge.metric.measure(evidence)
            measured[gauge.mark] = {name: np.asarray(value) for name, value in values.items()}
        measured[RESIZED] = {"was": np.array(resized)} if resized else {}
        write_measured(job.kept, job.evidence, measured)
        return None


def _joints(motion: np.ndarray | None) -> np.ndarray | None:
    return None if motion is None else joints_of(torch.from_numpy(motion)).numpy()


def read_clip(path: Path, cut: EvalSpec) -> tuple[np.ndarray, str]:
    """Frames uint8 (F, H, W, 3) of a row's video, and the size it had, '' where that is the protocol's.

    A larger one comes down by averaging areas, a smaller one up by bicubic interpolation. Raises ValueError, the reason
    why the video is not scored.
    """
    frames, fps, _ = read_frames(path, limit=cut.frames + 1)
    if len(frames) != cut.frames:
        there = f"more than {cut.frames}" if len(frames) > cut.frames else len(frames)
        raise ValueError(f"it has {there} frames, not {cut.frames}")
    if abs(cut.frames / Fraction(fps) - cut.seconds) >= 1 / (2 * cut.rate):
        raise ValueError(f"it has {float(fps):g} frames a second, not {float(cut.rate):g}")
    height, width = frames.shape[1:3]
    if (height, width) == (cut.height, cut.width):
        return frames, ""
    if abs(Fraction(width * cut.height, height) - cut.width) >= 1:
        raise ValueError(f"it is {width}x{height}, other proportions than {cut.width}x{cut.height}")
    how = cv2.INTER_AREA if height > cut.height else cv2.INTER_CUBIC
    resized = [cv2.resize(frame, (cut.width, cut.height), interpolation=how) for frame in frames]
    return np.stack(resized), f"{width}x{height}"


# All of them -------------------------------------------------------------------------------------------------------


def score(
    config: DictConfig, measurer: Measurer, rows: Sequence[Row], clips: Sequence[Facts], content: str, out: Path
) -> dict[str, dict[str, Measurements]]:
    """Row -> clip -> what was measured. Videos that are not scored go to `Row.excluded`, with the reason.

    content: the hash of the clips and their cut. Measures in `config.workers` processes.
    """
    jobs = [_job(row, index, clip, measurer.protocol.repeats, content, out) for row in rows
            for index, clip in enumerate(clips) if clip.key in row.videos]  # fmt: skip
    open_jobs = defaultdict(list)
    for job in jobs:
        if measurer.missing(job):
            open_jobs[job.clip.key].append(job)
    named = {row.name: row for row in rows}
    for done, reasons in _work(config, measurer, list(open_jobs.values())):
        for job, reason in zip(done, reasons, strict=True):
            if reason is not None:
                row = named[job.row]
                row.excluded[job.clip.key] = reason
    measured: dict[str, dict[str, Measurements]] = {row.name: {} for row in rows}
    for job in jobs:
        if job.clip.key not in named[job.row].excluded:
            measured[job.row][job.clip.key] = read_measured(job.kept, job.evidence)
    for row in rows:
        sizes = {str(kept[RESIZED]["was"]) for kept in measured[row.name].values() if kept.get(RESIZED)}
        if sizes:
            cut = measurer.protocol.cut
            row.notes.append(f"frames of {', '.join(sorted(sizes))} were resized to {cut.width}x{cut.height}")
    return measured


def _job(row: Row, index: int, clip: Facts, repeats: int, content: str, out: Path) -> Job:
    video, motion = row.videos[clip.key], row.motions.get(clip.key)
    again = index < repeats
    hashes = [mark_of(path) for path in (video, motion) if path]
    kept = out / "measured" / file_name(row.name) / f"{file_name(clip.key)}.npz"
    return Job(row.name, clip, video, motion, again, kept, digest(content, clip.key, hashes, again))


Done = tuple[list[Job], list[str | None]]


def _work(config: DictConfig, measurer: Measurer, groups: list[list[Job]]) -> Iterable[Done]:
    bar = {"total": len(groups), "desc": "scoring", "unit": "clip", "disable": None, "dynamic_ncols": True}
    if config.workers <= 1 or len(groups) < 2:
        threads = torch.get_num_threads()
        _one_thread()  # as in the processes: sums depend on the number of threads
        try:
            for group in tqdm(groups, **bar):
                yield group, [measurer.measure(job) for job in group]
        finally:
            torch.set_num_threads(threads)
        return
    context = multiprocessing.get_context("spawn")  # a forked copy of a process with running torch threads may hang
    with ProcessPoolExecutor(min(config.workers, len(groups)), context, _start, (config,)) as pool:
        futures = {pool.submit(_measure, group): group for group in groups}
        try:
            for future in tqdm(as_completed(futures), **bar):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_here: dict[str, Measurer] = {}  # a worker process's own


def _start(config: DictConfig) -> None:
    _one_thread()
    _here["measurer"] = Measurer(config)


def _measure(jobs: list[Job]) -> list[str | None]:
    return [_here["measurer"].measure(job) for job in jobs]


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
