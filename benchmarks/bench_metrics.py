"""What measuring costs beside decoding: every metric that needs no weights, on 100 clips of a finished evaluation.

PYTHONPATH=. python benchmarks/bench_metrics.py outputs/evaluate      # after python evaluate.py
"""

import sys
import time
from collections import Counter
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from zoo.body.detection.synthetic_detector import SyntheticPoseDetector
from zoo.body.skeleton import joints_of
from zoo.files import conf_folder
from zoo.media import decode_frames
from zoo.metrics.base import MetricInput
from zoo.run.evaluate.protocol import read_metrics, read_protocol
from zoo.run.evaluate.records import read_index

CLIPS = 100


def main(folder: Path) -> None:
    """Print seconds for decoding, for each metric, and for all of them."""
    with initialize_config_dir(str(conf_folder()), version_base=None):
        config = compose("evaluate")
    detector = SyntheticPoseDetector()
    metrics = read_metrics(config, read_protocol(config), detector, "")
    metrics = [metric for metric in metrics if metric.unavailable_reason is None]
    truth, _ = read_index(next(folder.glob("clips-*")))
    rows = [path for path in sorted(folder.iterdir()) if any(path.glob("*.json")) and not path.name.startswith("clips")]
    rows = [path for path in rows if len(list(path.glob("*.mp4"))) == len(truth) and "frozen" not in path.name]
    spent, decoding = Counter(), 0.0
    for index, clip in enumerate(islice(cycle(truth), CLIPS + 2)):
        if index == 2:  # the first ones warm up
            spent.clear()
            decoding = 0.0
        began = time.perf_counter()
        true_frames = decode_frames(clip.file(".mp4").read_bytes())  # of the protocol's size, as a row's are measured
        decoding += time.perf_counter() - began
        frames, kept = decode_frames((rows[0] / clip.file(".mp4").name).read_bytes()), clip.read()
        if frames.shape != true_frames.shape:  # the rows are brought to the protocol's size before they are measured
            frames = frames[:, :: frames.shape[1] // true_frames.shape[1], :: frames.shape[2] // true_frames.shape[2]]
        joints = joints_of(torch.from_numpy(kept["motion"])).numpy()
        evidence = MetricInput(
            clip.key, clip.labels, Fraction(12), frames, true_frames, kept["reference"], kept["waveform"],
            int(kept["sample_rate"]), kept["beats"], joints, joints, detector,
        )  # fmt: skip
        began = time.perf_counter()
        assert evidence.poses is not None  # found here, and used by the metrics below
        spent["the world's judge"] += time.perf_counter() - began
        for metric in metrics:
            began = time.perf_counter()
            metric.metric.measure(evidence)
            spent[metric.name] += time.perf_counter() - began
    total = sum(spent.values())
    for name, seconds in [("decoding", decoding), *spent.most_common(), ("all metrics", total)]:
        print(f"{name:24s} {seconds:7.2f} s {1000 * seconds / CLIPS:7.1f} ms a clip")
    print(f"all metrics take {total / decoding:.2f} times what decoding takes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
