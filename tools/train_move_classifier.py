"""Train the move classifier of the metric `prompt_following` from scratch: a minute on two cores.

    python tools/train_move_classifier.py

It learns from the exact joints of the default world's training dances, seen by three cameras, writes
zoo/metrics/assets/move_classifier.safetensors, and prints how many pairs of held-out clips it tells apart by their
exact joints.
"""

import json
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from zoo.body.camera import camera
from zoo.body.skeleton import JOINTS
from zoo.choreography.moves import MOVES
from zoo.data.base import WindowSpec
from zoo.files import conf_folder
from zoo.metrics.prompt_following import (
    FPS,
    WEIGHTS,
    MoveClassifier,
    move_logits,
    named_moves,
    normalize_joints,
    pair_share,
)
from zoo.music.spectral import Spectral

SECONDS, SIDE, NUM_STEPS, BATCH_SIZE, SEED = 4.0, 128, 1500, 64, 0
VIEWS = ("C01", "C02", "C03")
SIDES = ("left", "right")
PHRASES = [
    move.words.format(side=side, other=opposite) for move in MOVES.values() for side, opposite in (SIDES, SIDES[::-1])
]
SCALE_NOISE, JOINT_NOISE = 0.1, 0.05  # dancers differ in size; the detector is some pixels off


def projected_clips(dances: Dataset, phrases: list[str], views: tuple[str, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Joints (F, 24, 2) in pixels, and named moves, of every window from each view."""
    clips = []
    for start in tqdm(range(0, len(dances), BATCH_SIZE), desc="joints", unit="batch", disable=None):
        windows = dances.__getitems__(list(range(start, min(start + BATCH_SIZE, len(dances)))))
        for joints, caption in zip(windows["joints3d"].numpy(), windows["caption"], strict=True):
            x, y = joints[:, JOINTS.index("pelvis"), :2].mean(0)
            for view in views:
                pixels = camera(view).translated(x, y).project(joints, SIDE, SIDE)[0]
                clips.append((np.asarray(pixels), named_moves(caption, phrases)))
    return clips


def train(clips: list[tuple[np.ndarray, np.ndarray]], num_moves: int) -> MoveClassifier:
    """The network, trained on joints with noise by binary cross-entropy."""
    torch.manual_seed(SEED)
    x: Tensor = torch.stack([normalize_joints(joints) for joints, _ in clips])
    y = torch.from_numpy(np.stack([moves for _, moves in clips])).float()
    network = MoveClassifier(num_moves)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
    lr_schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, NUM_STEPS)
    for _ in tqdm(range(NUM_STEPS), desc="training", unit="step", disable=None):
        rows = torch.randint(len(x), (BATCH_SIZE,))
        noisy = x[rows] * (1 + SCALE_NOISE * torch.randn(BATCH_SIZE, 1, 1))
        noisy = noisy + JOINT_NOISE * torch.randn_like(noisy)
        loss = F.binary_cross_entropy_with_logits(network(noisy), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lr_schedule.step()
    return network.eval()


def main() -> None:
    """Train, write the file, measure it."""
    torch.set_num_threads(1)  # small layers: as fast, and the same sums on every machine
    with initialize_config_dir(str(conf_folder()), version_base=None):
        world = instantiate(compose("train", overrides=["model=musedance"]).data)
    encoder, keys = Spectral(), ("joints3d", "caption")
    world.prepare_data(keys, encoder, ["train", "test"])
    splits = {
        name: world.dataset(name, keys, WindowSpec(SECONDS, FPS, stride=1.0), encoder) for name in ("train", "test")
    }
    network = train(projected_clips(splits["train"], PHRASES, VIEWS), len(PHRASES))
    WEIGHTS.parent.mkdir(exist_ok=True)
    tensors = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, WEIGHTS, {"format": "pt", "phrases": json.dumps(PHRASES)})
    clips = projected_clips(splits["test"], PHRASES, VIEWS[:1])[::7]  # windows of a song overlap
    logits = [move_logits(joints, Fraction(FPS)) for joints, _ in clips]
    share = pair_share(logits, [moves for _, moves in clips])
    print(f"{WEIGHTS}: {len(clips)} held-out windows, {share:.1%} of pairs told apart by exact joints")


if __name__ == "__main__":
    main()
