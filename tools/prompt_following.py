"""Does a checkpoint dance what it is told? The same picture, song and seed with two prompts, told apart by their moves.

python tools/prompt_following.py CKPT [--pairs 32] [--seconds 4] [--steps N] [--guidance W] [--precision bf16]
prints one JSON line.

A small network learns the world's moves from the exact joints of its training dances, seen by three cameras. Then each
two held-out clips lend their captions to one picture and one song, and the network says which of the two videos is
which, by the joints that the world judge sees: the moves that only one caption names are to show more in its own video
than in the other. What is printed is the share of pairs that are told apart rightly (chance .5), with a bootstrap
interval, and that share of the clips' true videos.
"""

import argparse
import json
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from zoo.body.camera import camera
from zoo.body.detection.synthetic_detector import SyntheticPoseDetector
from zoo.body.skeleton import JOINTS
from zoo.choreography.moves import MOVES
from zoo.data.base import EvalSpec, WindowSpec
from zoo.families.base import GenerationRequest, SamplingParams
from zoo.files import conf_folder
from zoo.metrics.statistics import bootstrap_interval
from zoo.nn.cpu_inference import PRECISIONS
from zoo.run.build import build_encoder
from zoo.run.checkpoint import load_family
from zoo.run.evaluate.systems import pair_clips
from zoo.run.sample.generate import fast_denoisers

FPS, SIDE, STEPS, BATCH = 12, 128, 1500, 64
TORSO = [JOINTS.index(name) for name in ("pelvis", "neck")]
VIEWS = ("C01", "C02", "C03")
SIDES = ("left", "right")
CLASSES = [(name, side) for name in MOVES for side in SIDES]


def named(text: str) -> Tensor:
    """(moves,) 0 or 1: the moves whose words are in a caption, of a side where they say one."""
    told = []
    for name, side in CLASSES:
        other = SIDES[1 - SIDES.index(side)]
        told.append(float(MOVES[name].words.format(side=side, other=other) in text))
    return torch.tensor(told)


def seen(joints: np.ndarray | Tensor) -> Tensor:
    """Joints (F, 24, 2) in pixels -> (48, F): about the clip's middle, in lengths of the torso."""
    joints = torch.as_tensor(np.asarray(joints), dtype=torch.float32)
    pelvis, neck = joints[:, TORSO].unbind(1)
    length = (neck - pelvis).norm(dim=1).nanmedian().clamp(min=1.0)
    return torch.nan_to_num((joints - pelvis.nanmedian(0).values) / length).flatten(1).T


class Moves(nn.Module):
    """Which moves are in a stretch of joints."""

    def __init__(self):
        super().__init__()
        self.time = nn.Sequential(
            nn.Conv1d(2 * len(JOINTS), 96, 5, padding=2), nn.GELU(), nn.Dropout(0.2),
            nn.Conv1d(96, 96, 5, padding=2, stride=2), nn.GELU(), nn.Dropout(0.2),
            nn.Conv1d(96, 96, 5, padding=2), nn.GELU(),
        )  # fmt: skip
        self.said = nn.Linear(96, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 48, F) -> logits (B, moves): each move's where it shows most."""
        return self.said(self.time(x).mT).logsumexp(1) - np.log(x.shape[2] / 2)


def filmed(dances: Dataset) -> list[tuple[Tensor, Tensor]]:
    """Joints and moves of every window, from each of `VIEWS`."""
    found = []
    for first in tqdm(range(0, len(dances), BATCH), desc="filming joints", disable=None):
        windows = dances.__getitems__(list(range(first, min(first + BATCH, len(dances)))))
        for joints, text in zip(windows["joints3d"].numpy(), windows["caption"], strict=True):
            x, y = joints[:, JOINTS.index("pelvis"), :2].mean(0)
            shots = [camera(view).translated(x, y).project(joints, SIDE, SIDE)[0] for view in VIEWS]
            found += [(seen(shot), named(text)) for shot in shots]
    return found


def learned(clips: Sequence) -> Moves:
    """The network, taught clips' joints (48, F) and moves."""
    torch.manual_seed(0)
    x, y = torch.stack([one for one, _ in clips]), torch.stack([two for _, two in clips])
    moves = Moves()
    optimizer = torch.optim.AdamW(moves.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, STEPS)
    for _ in tqdm(range(STEPS), desc="learning the moves", disable=None):
        rows = torch.randint(len(x), (BATCH,))
        # the judge is a pixel off, dancers differ in size
        shown = x[rows] * (1 + 0.1 * torch.randn(BATCH, 1, 1)) + 0.05 * torch.randn(BATCH, *x.shape[1:])
        loss = F.binary_cross_entropy_with_logits(moves(shown), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return moves.eval()


@torch.inference_mode()
def margin(moves: Moves, frames: np.ndarray, own: Tensor, other: Tensor) -> float:
    """How much more a video (F, H, W, 3) shows moves of `own` alone than of `other` alone."""
    logits = moves(seen(SyntheticPoseDetector().detect(frames).joints)[None])[0]
    return float(logits[(own > other)].mean() - logits[(other > own)].mean())


def told_apart(moves: Moves, videos: Sequence[np.ndarray], said: Sequence[Tensor]) -> float:
    """1 when each of two videos (F, H, W, 3) is taken for its own caption's, else 0."""
    return float(margin(moves, videos[0], *said) - margin(moves, videos[1], *said) > 0)


def share(right: Sequence[float]) -> dict:
    """Of pairs, with its 95% interval."""
    told = bootstrap_interval(np.array(right))
    return {"share": told.mean, "low": told.low, "high": told.high, "pairs": len(right)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--precision", choices=PRECISIONS)
    options = parser.parse_args()
    with initialize_config_dir(str(conf_folder()), version_base=None):
        config = compose("train", overrides=["model=musedance"])
    family, trained = load_family(options.ckpt)
    encoder, world = build_encoder(trained), instantiate(config.data)
    world.prepare_data(("joints2d", "caption"), encoder, ["train", "test"])
    dances = world.dataset("train", ("joints3d", "caption"), WindowSpec(options.seconds, FPS, stride=1.0), encoder)
    moves = learned(filmed(dances))
    cut = EvalSpec(round(options.seconds * FPS), FPS, SIDE, SIDE)
    takes, rate = world.eval_clips("test", cut, encoder), cut.rate
    shown = [takes[index] for index in range(len(takes))]
    others = pair_clips([take.labels for take in shown])
    truth, danced = [], []
    for index, (take, second) in enumerate(tqdm(list(zip(shown, others, strict=True)), desc="pairs", disable=None)):
        if len(danced) == options.pairs or second is None:
            continue
        texts = take.caption, shown[second].caption
        said = [named(text) for text in texts]
        if not ((said[0] > said[1]).any() and (said[1] > said[0]).any()):
            continue  # one of them says nothing of its own
        truth.append(told_apart(moves, [take.frames, shown[second].frames], said))
        picture = torch.from_numpy(take.reference).permute(2, 0, 1)
        sampler, both = SamplingParams(num_inference_steps=options.steps, guidance_scale=options.guidance), []
        for text in texts:
            with torch.inference_mode(), fast_denoisers(family, options.precision):
                blocks = family.generate(
                    GenerationRequest(picture, take.music, len(take.frames), rate, text, index, sampler)
                )
                both.append(torch.cat(list(blocks)).permute(0, 2, 3, 1).numpy())
        danced.append(told_apart(moves, both, said))
    print(json.dumps({"danced": share(danced), "truth": share(truth)}))


if __name__ == "__main__":
    main()
