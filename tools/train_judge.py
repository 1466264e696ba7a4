"""Train the world judge (zoo/body/detection/synthetic_detector.py) from nothing, and measure it on songs and dancers it never saw.

    PYTHONPATH=. python tools/train_judge.py

It films a world of its own seed (minutes, kept in $DANCEZOO_CACHE), learns on it (half an hour of one core), writes
zoo/body/detection/assets/synthetic_detector.safetensors, measures that file on the test clips of the protocols' world, and writes the card
beside it. Pictures are sometimes coarsened or made noisy, so that joints are found in such ones too; the features that
`fvd_world` rests on are taught on clean pictures alone, and nothing is ever taught to tell the two apart.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from judge_films import FPS, SECONDS, Films, described
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.body.detection.synthetic_detector import (
    CELLS,
    FEATURES,
    SIDE,
    SPREAD,
    WEIGHTS,
    Eyes,
    Sense,
    SyntheticDetectorNetwork,
    SyntheticPoseDetector,
    place_of,
)
from zoo.data.base import EvalSpec, WindowSpec
from zoo.data.world.recipe import RenderSpec
from zoo.data.world.song import STYLES
from zoo.data.world.source import World
from zoo.metrics.rhythm import beat_alignment, detected_beats, matchable_beats
from zoo.music.spectral import Spectral
from zoo.run.evaluate.provenance import provenance

GROUPS = {
    "trunk and head": (0, 3, 6, 9, 12, 13, 14, 15),
    "hips and knees": (1, 2, 4, 5),
    "feet": (7, 8, 10, 11),
    "shoulders and elbows": (16, 17, 18, 19),
    "hands": (20, 21, 22, 23),
}

CARD = """# The world judge, v1

synthetic_detector.safetensors holds the network of zoo/body/detection/synthetic_detector.py: matrices in half precision, everything else in single. It
was trained on the zoo's own synthetic world and nothing else, and is under the zoo's licence. Accuracies are those of
this file on the test clips of the protocols' world, whose songs and dancers it never saw.

| | |
|---|---|
"""


def losses(heat: Tensor, mask: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Named losses of the eyes' logits."""
    joints, figure, somebody = batch["joints"], batch["figure"], batch["somebody"]
    seen = ((joints >= 0) & (joints < SIDE)).all(-1) & somebody[:, None, None]  # (B, 16, 24)
    at = (torch.arange(CELLS) + 0.5) * (SIDE / CELLS)
    width = 2 * (SPREAD * SIDE / CELLS) ** 2
    x, y = (-((at - joints[..., i, None]) ** 2) / width for i in (0, 1))
    target = torch.einsum("...y,...x->...yx", y.exp(), x.exp()).flatten(-2)
    target = target / target.sum(-1, keepdim=True).clamp(min=1e-6)
    cross = -(target * heat.float().flatten(-2).log_softmax(-1)).sum(-1)
    off = (place_of(heat)[0] - joints).clamp(-64, 64)
    moved = off.diff(dim=1)  # an error that stays is no movement
    chance = mask.float().sigmoid()
    missed = 1 - 2 * (chance * figure).sum((1, 2, 3)) / (chance + figure).sum((1, 2, 3)).clamp(min=1)  # Dice
    return {
        "heat": 0.3 * _mean(cross, seen),
        "joints": 0.3 * _mean(off.abs().mean(-1), seen),
        "moved": 0.3 * _mean(moved.abs().mean(-1), seen[:, 1:] & seen[:, :-1]),
        "mask": 5.0 * F.binary_cross_entropy_with_logits(mask.float(), figure) + 0.5 * _mean(missed, somebody),
    }


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum() / where.sum().clamp(min=1)


def learn(weights: list, rate: float, steps: int, loss: Callable[[], dict[str, Tensor]]) -> Iterator[None]:
    """One step of AdamW after another; says now and then how it goes."""
    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.05)
    began, shown = time.time(), {}
    for step in range(1, steps + 1):
        named = loss()
        optimiser.zero_grad()
        sum(named.values()).backward()
        nn.utils.clip_grad_norm_(weights, 5.0)
        optimiser.step()
        schedule.step()
        for name, value in named.items():
            shown[name] = 0.98 * shown.get(name, value.item()) + 0.02 * value.item()
        if step % 100 == 0:
            left = (time.time() - began) / step * (steps - step)
            print(f"{step}/{steps}, {left:.0f} s left:", *(f"{k} {v:.3f}" for k, v in shown.items()), flush=True)
        yield


def train_eyes(films: Films, steps: int, windows: int = 4) -> Eyes:
    """The average of the eyes over the last of `steps` batches."""
    eyes = Eyes().to(memory_format=torch.channels_last)
    average = AveragedModel(eyes, multi_avg_fn=get_ema_multi_avg_fn(0.998), use_buffers=True)

    def loss() -> dict[str, Tensor]:
        batch = films.batch(windows)
        with torch.autocast("cpu", torch.bfloat16):
            heat, mask = eyes(eyes.depths(batch["frames"]), windows)
        return losses(heat, mask, batch)

    for _ in learn([*eyes.parameters()], 3e-3, steps, loss):
        average.update_parameters(eyes)
    return average.module.eval()


def train_sense(films: Films, eyes: Eyes, steps: int, windows: int = 16) -> Sense:
    """Learns to describe what ready eyes see; sharp pictures of somebody only."""
    sense = Sense()
    sample = described(films.batch(256, plain=True))
    mean, deviation = sample.mean(0), sample.std(0)
    count = len(mean)
    heads = nn.Sequential(nn.Linear(FEATURES, 128), nn.GELU(), nn.Linear(128, count + len(STYLES)))

    def look() -> tuple[dict[str, Tensor], Tensor]:
        batch = films.batch(windows, plain=True)
        with torch.no_grad():
            depths = eyes.depths(batch["frames"].to(torch.bfloat16))
        return batch, sense(depths, windows)[:, 0]

    def loss() -> dict[str, Tensor]:
        batch, features = look()
        answers = heads(features)
        wanted = (described(batch) - mean) / deviation
        return {
            "described": F.smooth_l1_loss(answers[:, :count], wanted),
            "style": 0.05 * F.cross_entropy(answers[:, count:], batch["style"]),
        }

    for _ in learn([*sense.parameters(), *heads.parameters()], 2e-3, steps, loss):
        pass
    sense.eval()
    with torch.no_grad():
        found = sense.scale.running_var.sqrt() * torch.cat([look()[1] for _ in range(40)]) + sense.scale.running_mean
    sense.scale.running_mean, sense.scale.running_var = found.mean(0), found.var(0)
    return sense


def stored(part: nn.Module) -> nn.Module:
    """The part as the file will hold it: matrices in half precision."""
    part.load_state_dict({name: v.half() if v.ndim > 1 else v for name, v in part.state_dict().items()})
    return part


def save(network: SyntheticDetectorNetwork) -> None:
    """Writes the file: matrices in half precision, everything else as it is."""
    state = {name: value.half() if value.ndim > 1 else value for name, value in network.state_dict().items()}
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in state.items()}, WEIGHTS)


def measure() -> dict[str, str]:
    """How well the shipped file sees the test clips of the protocols' world."""
    world, encoder = World(seed=1), Spectral()
    world.prepare(("frames", "parts"), encoder, ["test"])
    clips = world.dataset("test", ("frames", "parts"), WindowSpec(SECONDS, FPS, SIDE, SIDE), encoder)
    windows = (clips[index] for index in range(len(clips)))  # called KEY@START, and START is 0
    figures = {clip["key"].rpartition("@")[0]: clip["parts"].numpy() > 0 for clip in windows}
    off, overlap, scores, met = [], [], [], np.zeros(4)
    for take in world.eval_clips("test", EvalSpec(round(SECONDS * FPS), FPS, SIDE, SIDE), encoder):
        poses, figure = SyntheticPoseDetector().detect(take.frames), figures[take.key]
        height = np.median(np.ptp(take.joints2d[..., 1], axis=1))
        off.append(np.linalg.norm(poses.joints - take.joints2d, axis=-1) / height)
        overlap.append(((poses.mask > 0.5) & figure).sum() / ((poses.mask > 0.5) | figure).sum())
        found, true = detected_beats(poses, FPS), detected_beats(replace(poses, joints=take.joints2d), FPS)
        scores.append([beat_alignment(matchable_beats(beats, take.beats), take.beats) for beats in (found, true)])
        near = np.abs(found[:, None] - true) <= 1 / FPS
        met += near.any(1).sum(), len(found), near.any(0).sum(), len(true)
    off, scores = np.stack(off), np.array(scores)  # (clips, F, 24), (clips, 2)
    return {
        "joints, mean distance in figure heights": f"{np.nanmean(off):.2%} (median {np.nanmedian(off):.2%})",
        **{f"- {name}": f"{np.nanmean(off[..., list(of)]):.2%}" for name, of in GROUPS.items()},
        "frames where nobody was found": f"{np.isnan(off[..., 0]).sum()} of {off[..., 0].size}",
        "mask, intersection over union": f"{np.mean(overlap):.3f} (worst clip {np.min(overlap):.3f})",
        "its kinematic beats that exact joints have, within a frame": f"{met[0] / met[1]:.0%} of {met[1]:.0f}",
        "kinematic beats of exact joints that it has": f"{met[2] / met[3]:.0%} of {met[3]:.0f}",
        "2D beat alignment by its joints, by exact joints": "{:.3f}, {:.3f}".format(*scores.mean(0)),
        "- correlation of the two over clips": f"{np.corrcoef(scores.T)[0, 1]:.2f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help="of the eyes; the sense takes a fifth as many")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    songs, dancers = {"train": 192, "val": 8, "test": 8}, {"train": 384, "val": 8, "test": 8}
    world = World(seed=2, songs=songs, dancers=dancers, rendering=RenderSpec(FPS, SIDE, SIDE, SECONDS, songs=songs))
    films, began = Films(world, "train", options.seed), time.time()
    network = SyntheticDetectorNetwork()
    network.eyes = stored(train_eyes(films, options.steps))
    network.sense = train_sense(films, deepcopy(network.eyes).ready(), options.steps // 5)
    save(network)
    minutes = (time.time() - began) / 60
    told = {
        "command": f"python tools/train_judge.py --steps {options.steps} --seed {options.seed}",
        **provenance(options.seed),
        "data": f"world of seed 2, {songs['train']} songs, {dancers['train']} dancers, {len(films.frames)} clips",
        "training": f"{minutes:.0f} minutes on {torch.get_num_threads()} thread(s)",
        **measure(),
    }
    WEIGHTS.with_suffix(".md").write_text(CARD + "".join(f"| {name} | {value} |\n" for name, value in told.items()))


if __name__ == "__main__":
    main()
