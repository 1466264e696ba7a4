"""How well M2PEnc's predicted joints meet the teacher's, and the beat, on held-out slices; no image is drawn.

PYTHONPATH=. python tools/measure_joints.py m2penc-tiny --split test

The slices are those of data=sdgpip, which are made on first use. Intervals are 95 %, paired by slices. Beat alignment
is `zoo.metrics.rhythm.beat_alignment` of the joints' kinematic beats and the slice's beats. Song correlation is
`zoo.metrics.song_response.song_correlation` of joints in the image, over the first slice of each song.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from zoo.data.base import EvalSpec
from zoo.families.base import GenerationRequest
from zoo.families.m2penc.joint_accuracy import PCK_THRESHOLDS, Z_95, JointAccuracy
from zoo.metrics.rhythm import MIN_DIP_DEPTH, beat_alignment, kinematic_beats, matchable_beats
from zoo.metrics.song_response import song_correlation
from zoo.run.build import build_encoder, build_source
from zoo.run.checkpoint import load_family
from zoo.run.models import checkpoint_path

CONF = Path(__file__).parents[1] / "conf"


def main() -> None:
    """Print one line for each measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="shipped name, exported folder or .ckpt file")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    parser.add_argument("overrides", nargs="*", help="of the data, such as data.songs={train:20,val:8,test:16}")
    options = parser.parse_intermixed_args()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        source = build_source(compose("train", overrides=["model=m2penc", *options.overrides]))
    family, config = load_family(checkpoint_path(options.checkpoint))
    num_frames, fps, side = family.num_music_frames, family.fps, family.resolution
    clips = source.eval_clips(options.split, EvalSpec(num_frames, fps, side, side), build_encoder(config))
    accuracy, alignments = JointAccuracy(), {"predicted": [], "teacher": []}
    first_slices: dict[str, dict[str, np.ndarray]] = {"predicted": {}, "teacher": {}}  # of each song
    for clip in clips:
        with torch.inference_mode():
            joints = family.generate_joints2d(GenerationRequest(None, clip.music, num_frames, fps)).numpy()
        accuracy.add(torch.from_numpy(joints)[None], torch.from_numpy(clip.joints2d)[None], [clip.labels["song"]])
        for name, places in (("predicted", joints), ("teacher", clip.joints2d)):
            alignments[name].append(alignment(places, clip.beats, float(fps)))
            first_slices[name].setdefault(clip.labels["song"], places)
    print(accuracy.summary())
    results = accuracy.values()
    for threshold in PCK_THRESHOLDS:
        for baseline in ("mean_pose", "other_song"):
            name = f"pck_{threshold:g}_{baseline}_gain"
            print(f"PCK@{threshold:g}, gain over {baseline}: {results[name]:.3f} ± {results[name + '_error']:.3f}")
    for name, values in alignments.items():
        error = Z_95 * np.nanstd(values, ddof=1) / len(values) ** 0.5
        print(f"beat alignment, {name}: {np.nanmean(values):.3f} ± {error:.3f}")
    for name, slices in first_slices.items():
        print(
            f"song correlation, {name}: {song_correlation(list(slices.values()), int(fps)):.3f} ({len(slices)} songs)"
        )


def alignment(joints: np.ndarray, beats: np.ndarray, fps: float) -> float:
    """Beat alignment of joints (F, 24, 2) in pixels, as the evaluator measures detected joints."""
    height = float(np.median(np.ptp(joints[..., 1], axis=1)))
    kinematic = kinematic_beats(joints.astype(np.float64), fps, depth=MIN_DIP_DEPTH * height)
    return beat_alignment(matchable_beats(kinematic, beats), beats)


if __name__ == "__main__":
    main()
