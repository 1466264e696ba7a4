"""`evaluate.py`: compare checkpoints and videos from outside with the ground truth and two baselines.

Finished dances and measurements are reused: see zoo/run/evaluate/records.py. metrics.json has these keys:

provenance   command, commit, seed, machine, torch, date
protocol     id and hash, the fingerprint of the data, and every value of conf/protocol; weights: metric -> hash
columns      column -> metric, heading, title, better, digits, unit, depends_on, docs
rows         name, kind, id, clips, excluded (clip, reason), scores (column -> mean, low, high, n, or reason), per_clip,
             over_time (column -> mean per frame), by (camera, style -> value -> column -> mean...), cost, videos, notes
comparisons  a minus b: difference, low, high, p, p_holm, n, for every two rows and every column that both have
clips        clip -> labels, sound
Paths are relative to its folder. NaN is null, and infinity is the text "inf".
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig
from tqdm import tqdm

from zoo.data.base import DataSource
from zoo.families.base import SamplingParams
from zoo.metrics.base import OTHER_SONG, STILL_IMAGE
from zoo.music.beats import BeatTracker
from zoo.music.encoder import MusicEncoder
from zoo.music.spectral import Spectral
from zoo.processes import process_count
from zoo.run.build import build_source, load_beat_tracker
from zoo.run.evaluate.export_inputs import write_inputs
from zoo.run.evaluate.protocol import Protocol, fingerprint, protocol_hash
from zoo.run.evaluate.provenance import provenance
from zoo.run.evaluate.records import (
    Measurements,
    StoredClip,
    open_folder,
    read_index,
    store_clip,
    write_index,
    write_json,
)
from zoo.run.evaluate.results import ResultTable, compare_all, describe_columns, describe_system
from zoo.run.evaluate.scores import MetricRunner, score
from zoo.run.evaluate.systems import (
    GROUND_TRUTH,
    PROMPTS,
    VIDEO_SUFFIXES,
    EvaluatedCheckpoint,
    System,
    ablated_checkpoints,
    checkpoint_system,
    ground_truth_system,
    load_checkpoint,
    other_song_system,
    reconstructions,
    still_image_system,
    videos_system,
    with_trained_renderers,
)
from zoo.run.models import checkpoint_path, find_model, shipped_models
from zoo.run.report.report import write_report
from zoo.run.sample.generate import pick_device
from zoo.run.sample.request import read_sampler
from zoo.run.validate import existing_path, read_precision

ALL_MODELS = "all"  # ckpt=all: every shipped model
ABLATION_CHOICES = ("shipped", "all", "none")  # checkpoints whose ablations are rows


def evaluate(config: DictConfig) -> Path:
    """Score the systems of `config` by its protocol. Returns the folder with metrics.json and the report.

    With `config.export_inputs` it only writes the inputs of the clips. Raises ValueError, before any work, for a
    checkpoint that cannot be loaded, data that the protocol is not defined on, and values out of range.
    """
    checkpoint_paths, video_folders = _named_paths(config.ckpt, "ckpt"), _named_paths(config.videos, "videos")
    if not isinstance(config.use_ema, bool):
        raise ValueError(f"use_ema={config.use_ema}: use true or false")
    if not isinstance(config.reconstructions, bool):
        raise ValueError(f"reconstructions={config.reconstructions}: use true or false")
    if config.prompt not in PROMPTS:
        raise ValueError(f"prompt={config.prompt}: use {' or '.join(PROMPTS)}")
    if config.ablations not in ABLATION_CHOICES:
        raise ValueError(f"ablations={config.ablations}: use {', '.join(ABLATION_CHOICES)}")
    device = pick_device(str(config.device))
    process_count(config.workers, "workers")
    sampling, precision = SamplingParams(**read_sampler(config.sampler)), read_precision(config.precision)
    for name, path in video_folders.items():
        if not path.is_dir():
            raise ValueError(f"videos={name} is no folder; give the folder that holds KEY.mp4 for each clip")
    runner = MetricRunner(config)
    protocol, source = runner.protocol, build_source(config)
    beat_tracker = load_beat_tracker(config.weights.beats)
    default_encoder = Spectral()
    if beat_tracker is not None:
        default_encoder.beat_tracker = beat_tracker
    if config.export_inputs is not None:
        folder = open_folder(config.export_inputs, "export_inputs")
        eval_clips = source.eval_clips(protocol.split, protocol.clip_spec, default_encoder)
        return write_inputs(protocol, eval_clips, folder, VIDEO_SUFFIXES)
    checkpoints = []
    for name, path in checkpoint_paths.items():
        own = load_checkpoint(name, path, config.use_ema, beat_tracker)
        for checkpoint in with_trained_renderers(own, config.use_ema, config.get("renderer")):
            checkpoints.append(checkpoint)
            if config.ablations == "all" or (config.ablations == "shipped" and path == find_model(name)):
                checkpoints += ablated_checkpoints(checkpoint, config.use_ema, config.get("renderer"))
            if config.reconstructions:
                checkpoints += reconstructions(checkpoint)
    if protocol.exact_motion:
        checkpoints = _motion_renderers(checkpoints, checkpoint_paths if config.ckpt != ALL_MODELS else ())
    for checkpoint in checkpoints:
        checkpoint.configure(config.get("renderer"), runner.detector, precision)
    if precision is not None and not any(checkpoint.precision for checkpoint in checkpoints):
        raise ValueError(f"precision={precision}: no ckpt= has a denoiser that it applies to")
    out = open_folder(config.out)

    encoder = checkpoints[0].encoder if checkpoints else default_encoder
    data = _data_fingerprint(source, protocol, beat_tracker)
    clips, content, skipped = _store_clips(source, protocol, encoder, data, out)
    systems = [
        ground_truth_system(clips, content),
        still_image_system(clips, content, protocol, out),
        other_song_system(clips, content),
    ]
    systems[0].excluded.update(skipped)
    video_systems = [videos_system(path, name, clips) for name, path in video_folders.items()]  # may be refused: first
    for checkpoint in checkpoints:
        systems.append(
            checkpoint_system(
                checkpoint, source, clips, content, protocol, sampling, config.use_ema, config.prompt, device, out
            )
        )
    systems += video_systems
    measured = score(config, runner, systems, clips, content, out)
    results = _results(runner, data, systems, clips, measured, out)
    write_json(out / "metrics.json", results)
    write_report(results, out)
    print(out / "report.html")
    return out


def _named_paths(value: str | ListConfig | None, option: str) -> dict[str, Path]:
    """Name of a system -> existing path. Raises ValueError for a missing path and for duplicates."""
    values = [] if value is None else list(value) if isinstance(value, ListConfig) else [value]
    if option == "ckpt" and ALL_MODELS in values:
        position = values.index(ALL_MODELS)
        values[position : position + 1] = [model.name for model in shipped_models()]
    names = [str(entry) for entry in values]
    for name in names:
        if names.count(name) > 1 or name in (GROUND_TRUTH, STILL_IMAGE, OTHER_SONG):
            raise ValueError(f"{option}= names {name} twice")
    find = checkpoint_path if option == "ckpt" else existing_path
    return {name: find(entry, option) for name, entry in zip(names, values, strict=True)}


def _motion_renderers(checkpoints: list[EvaluatedCheckpoint], required: Collection[str]) -> list[EvaluatedCheckpoint]:
    """The rows that draw a given motion. Raises ValueError for a `required` checkpoint that cannot."""
    for checkpoint in checkpoints:
        if checkpoint.name in required and not checkpoint.family.can_render_motion:
            raise ValueError(
                f"ckpt={checkpoint.name} does not draw a given motion, as this protocol needs; leave it out"
            )
    return [
        checkpoint
        for checkpoint in checkpoints
        if checkpoint.family.can_render_motion and not checkpoint.is_reconstruction
    ]


def _data_fingerprint(source: DataSource, protocol: Protocol, beat_tracker: BeatTracker | None) -> str:
    """Hash of the split, and of a chosen beat tracker: its beats are those of data that has none."""
    content = source.fingerprint(protocol.split)
    return content if beat_tracker is None else fingerprint(content, beat_tracker.cache_key)


def _store_clips(
    source: DataSource, protocol: Protocol, encoder: MusicEncoder, data: str, out: Path
) -> tuple[list[StoredClip], str, dict[str, str]]:
    """Store the protocol's clips in `out`. Returns them, their fingerprint, and skipped clips with the reason.

    data: the fingerprint of the split.
    """
    spec, values = protocol.clip_spec, protocol.values()
    cut_settings = {name: values[name] for name in ("split", "frames", "fps", "height", "width", "crop", "clips")}
    content = fingerprint(data, cut_settings)
    folder = out / f"clips-{content}"
    index = read_index(folder)
    if index is None:
        clips = source.eval_clips(protocol.split, spec, encoder)
        if len(clips) < 2:
            raise ValueError(f"data has {len(clips)} clip of the {protocol.split} split; at least 2 are required")
        progress = tqdm(range(len(clips)), desc="clips", unit="clip", disable=None, dynamic_ncols=True)
        index = [store_clip(clips, position, spec.rate, folder) for position in progress], dict(clips.skipped)
        write_index(folder, *index)
    stored, skipped = index
    return stored, content, skipped


def _results(
    runner: MetricRunner,
    content: str,
    systems: list[System],
    clips: list[StoredClip],
    measured: dict[str, dict[str, Measurements]],
    out: Path,
) -> dict[str, Any]:
    """The content of metrics.json. content: the fingerprint of the split."""
    protocol, metrics = runner.protocol, runner.metrics
    table = ResultTable(metrics, systems, measured)
    return {
        "provenance": provenance(protocol.seed),
        "protocol": {
            **protocol.values(),
            "hash": protocol_hash(protocol, content, metrics),
            "content": content,
            "weights": {metric.name: metric.identity["weights"] for metric in metrics if metric.identity["weights"]},
        },
        "columns": describe_columns(metrics),
        "rows": [describe_system(table, system, clips, out) for system in systems],
        "comparisons": compare_all(table),
        "clips": {
            clip.key: {"labels": clip.labels, "sound": os.path.relpath(clip.file(".wav"), out)} for clip in clips
        },
    }
