"""`evaluate.py`: checkpoints and videos made elsewhere, side by side with the ground truth and two baselines.

Nothing that was danced or measured before is done again: see zoo/run/evaluate/records.py. metrics.json holds

provenance   command, commit, seed, machine, torch, date
protocol     id and hash, the content of the data, and every value of conf/protocol; weights: metric -> hash
columns      column -> metric, heading, title, better, digits, unit, instrument, docs
rows         name, kind, id, clips, excluded (clip, reason), scores (column -> mean, low, high, n, or reason), per_clip,
             over_time (column -> a mean a frame), by (camera, style -> value -> column -> mean...), cost, videos, notes
comparisons  a minus b: difference, low, high, p, p_holm, n, for every two rows and every column that both have
clips        clip -> labels, sound
Paths are relative to its folder, no number is NaN (null), and infinity is the text "inf".
"""

import os
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig
from tqdm import tqdm

from zoo.data.base import DataSource
from zoo.families.base import SamplingParams
from zoo.metrics.base import OTHER_SONG, STILL_IMAGE
from zoo.music.encoder import MusicEncoder
from zoo.music.spectral import Spectral
from zoo.run.evaluate.export_inputs import write_inputs
from zoo.run.evaluate.protocol import Protocol, digest, protocol_hash
from zoo.run.evaluate.provenance import provenance
from zoo.run.evaluate.records import Facts, Measurements, keep_take, open_folder, read_index, write_index, write_json
from zoo.run.evaluate.results import Numbers, compare_all, describe_columns, describe_row
from zoo.run.evaluate.scores import Measurer, score
from zoo.run.evaluate.systems import (
    PROMPTS,
    SUFFIXES,
    TRUTH,
    Row,
    checkpoint_row,
    frozen_row,
    load_dancer,
    other_row,
    truth_row,
    videos_row,
)
from zoo.run.models import checkpoint_path
from zoo.run.report.report import write_report
from zoo.run.sample.generate import pick_device
from zoo.run.sample.request import read_sampler
from zoo.run.validate import existing_path, int_at_least, read_precision


def evaluate(config: DictConfig) -> Path:
    """Score what `config` names by its protocol; returns the folder with metrics.json and the report.

    With `config.inputs` it only writes what others need to make videos. Raises ValueError, before any work, for a
    checkpoint that cannot be loaded, data that the protocol is not defined on, and values out of range.
    """
    checkpoints, folders = _named(config.ckpt, "ckpt"), _named(config.videos, "videos")
    if not isinstance(config.use_ema, bool):
        raise ValueError(f"use_ema={config.use_ema}: use true or false")
    if config.prompt not in PROMPTS:
        raise ValueError(f"prompt={config.prompt}: use {' or '.join(PROMPTS)}")
    averaged, device = config.use_ema, pick_device(str(config.device))
    int_at_least(config.workers, "workers", 0)
    sampler, precision = _sampling_params(config.sampler), read_precision(config.precision)
    for name, path in folders.items():
        if not path.is_dir():
            raise ValueError(f"videos={name} is no folder; give the folder that holds KEY.mp4 for each clip")
    measurer = Measurer(config)
    protocol, source = measurer.protocol, instantiate(config.data)
    if config.inputs is not None:
        folder = open_folder(config.inputs, "inputs")
        return write_inputs(protocol, source.eval_clips(protocol.split, protocol.cut, Spectral()), folder, SUFFIXES)
    dancers = [load_dancer(name, path, averaged, precision) for name, path in checkpoints.items()]
    out = open_folder(config.out)

    clips, content, skipped = _clips(source, protocol, dancers[0].encoder if dancers else Spectral(), out)
    rows = [truth_row(clips, content), frozen_row(clips, content, protocol, out), other_row(clips, content)]
    rows[0].excluded.update(skipped)
    made_elsewhere = [videos_row(path, name, clips) for name, path in folders.items()]  # first: they may be refused
    for dancer in dancers:
        dancer.use_renderer(config.get("renderer"), measurer.detector)
        rows.append(
            checkpoint_row(dancer, source, clips, content, protocol, sampler, averaged, config.prompt, device, out)
        )
    rows += made_elsewhere
    measured = score(config, measurer, rows, clips, content, out)
    results = _results(measurer, source, rows, clips, measured, out)
    write_json(out / "metrics.json", results)
    write_report(results, out)
    print(out / "report.html")
    return out


def _sampling_params(node: DictConfig) -> SamplingParams:
    return SamplingParams(**read_sampler(node))


def _named(value: str | ListConfig | None, option: str) -> dict[str, Path]:
    """Row name -> existing path. Raises ValueError for a path that is not there, and for the same one twice."""
    values = [] if value is None else list(value) if isinstance(value, ListConfig) else [value]
    names = [str(one) for one in values]
    for name in names:
        if names.count(name) > 1 or name in (TRUTH, STILL_IMAGE, OTHER_SONG):
            raise ValueError(f"{option}= names {name} twice")
    find = checkpoint_path if option == "ckpt" else existing_path
    return {name: find(value, option) for name, value in zip(names, values, strict=True)}


def _clips(source: DataSource, protocol: Protocol, encoder: MusicEncoder, out: Path) -> tuple[list[Facts], str, dict]:
    """The protocol's clips, kept in `out`; the hash of what they are; and why the data cannot give others."""
    cut = {name: protocol.spec()[name] for name in ("split", "frames", "fps", "height", "width", "crop", "clips")}
    content = digest(source.fingerprint(protocol.split), cut)
    folder = out / f"clips-{content}"
    found = read_index(folder)
    if found is None:
        takes = source.eval_clips(protocol.split, protocol.cut, encoder)
        if len(takes) < 2:
            raise ValueError(f"data has {len(takes)} clip of the {protocol.split} split, and a table needs two")
        bar = tqdm(range(len(takes)), desc="clips", unit="clip", disable=None, dynamic_ncols=True)
        found = [keep_take(takes, index, protocol.cut.rate, folder) for index in bar], dict(takes.skipped)
        write_index(folder, *found)
    clips, skipped = found
    return clips, content, skipped


def _results(
    measurer: Measurer,
    source: DataSource,
    rows: list[Row],
    clips: list[Facts],
    measured: dict[str, dict[str, Measurements]],
    out: Path,
) -> dict[str, Any]:
    """What metrics.json holds."""
    protocol, gauges = measurer.protocol, measurer.gauges
    content = source.fingerprint(protocol.split)
    numbers = Numbers(gauges, rows, measured)
    return {
        "provenance": provenance(protocol.seed),
        "protocol": {
            **protocol.spec(),
            "hash": protocol_hash(protocol, content, gauges),
            "content": content,
            "weights": {gauge.name: gauge.identity["weights"] for gauge in gauges if gauge.identity["weights"]},
        },
        "columns": describe_columns(gauges),
        "rows": [describe_row(numbers, row, clips, out) for row in rows],
        "comparisons": compare_all(numbers),
        "clips": {
            clip.key: {"labels": clip.labels, "sound": os.path.relpath(clip.file(".wav"), out)} for clip in clips
        },
    }
