"""Prompt following: does a video show the moves that its caption names, more than the video of another caption does?

A small network (`MoveClassifier`) names the moves in a stretch of 2D joints. It was trained on the exact joints of the
built-in world's training dances, seen by three cameras: `tools/train_move_classifier.py`, card beside the weights.
"""

import json
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from zoo.body.skeleton import JOINTS
from zoo.files import file_hash
from zoo.metrics.base import Column, Measurement, MetricInput, SetMetric
from zoo.nn.weights.loading import read_weights

WEIGHTS = Path(__file__).parent / "assets" / "move_classifier.safetensors"
FPS = 12  # of the joints that the network was trained on
TORSO = [JOINTS.index(name) for name in ("pelvis", "neck")]
HIDDEN_DIM = 96


class MoveClassifier(nn.Module):
    """Which moves are in a stretch of joints: three convolutions over time, then a logit for each move."""

    def __init__(self, num_moves: int):
        super().__init__()
        self.temporal = nn.Sequential(
            nn.Conv1d(2 * len(JOINTS), HIDDEN_DIM, 5, padding=2), nn.GELU(), nn.Dropout(0.2),
            nn.Conv1d(HIDDEN_DIM, HIDDEN_DIM, 5, padding=2, stride=2), nn.GELU(), nn.Dropout(0.2),
            nn.Conv1d(HIDDEN_DIM, HIDDEN_DIM, 5, padding=2), nn.GELU(),
        )  # fmt: skip
        self.head = nn.Linear(HIDDEN_DIM, num_moves)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 48, F) -> logits (B, moves): the mean over time in the log domain, so that a short move counts."""
        logits = self.head(self.temporal(x).mT)
        return logits.logsumexp(1) - np.log(logits.shape[1])


def normalize_joints(joints: np.ndarray | Tensor) -> Tensor:
    """Joints (F, 24, 2) in pixels -> (48, F): from the clip's median pelvis, in lengths of the torso; NaN is 0."""
    joints = torch.as_tensor(np.asarray(joints), dtype=torch.float32)
    pelvis, neck = joints[:, TORSO].unbind(1)
    length = (neck - pelvis).norm(dim=1).nanmedian().clamp(min=1.0)
    return torch.nan_to_num((joints - pelvis.nanmedian(0).values) / length).flatten(1).T


def named_moves(caption: str, phrases: Sequence[str]) -> np.ndarray:
    """(moves,) bool: the moves whose phrase is part of the caption."""
    return np.array([phrase in caption for phrase in phrases])


@cache
def _load() -> tuple[MoveClassifier, list[str]]:
    """The trained network and the phrase of each move."""
    with safe_open(WEIGHTS, "pt") as file:
        phrases = json.loads(file.metadata()["phrases"])
    network = MoveClassifier(len(phrases))
    network.load_state_dict({name: value.float() for name, value in read_weights(WEIGHTS).items()})
    return network.eval().requires_grad_(False), phrases


@torch.inference_mode()
def move_logits(joints: np.ndarray, fps: Fraction) -> np.ndarray:
    """(moves,) float32 logits of a clip's detected joints (F, 24, 2) in pixels."""
    num_frames = max(1, round(len(joints) * FPS / fps))
    frames = (np.arange(num_frames) * float(fps) / FPS).round().astype(int).clip(max=len(joints) - 1)
    return _load()[0](normalize_joints(joints[frames])[None])[0].numpy()


def pair_share(logits: Sequence[np.ndarray], moves: Sequence[np.ndarray]) -> float:
    """The share of pairs of clips that are told apart rightly, 0..1. Chance is 0.5; NaN without a pair.

    logits, moves: (moves,) of each clip: what its video shows, and, as bool, what its caption names. Of a pair, A are
    the moves that only the first caption names, B those that only the second names; both must name some. With
    m(video) = mean of its logits over A - mean over B, the pair is right where m(first video) > m(second video). A tie
    counts half.
    """
    values = []
    for i, k in combinations(range(len(logits)), 2):
        own, other = moves[i] & ~moves[k], moves[k] & ~moves[i]
        if own.any() and other.any():
            difference = logits[i] - logits[k]
            margin = difference[own].mean() - difference[other].mean()
            values.append(0.5 * (1 + np.sign(margin)))
    return float(np.mean(values)) if values else float("nan")


class PromptFollowing(SetMetric):
    """The share of pairs of clips whose videos show the moves of their own captions, see `pair_share`.

    Pairs are all of the set's whose captions name different moves. No paper of the zoo measures this.
    """

    columns: ClassVar = {
        "prompt_following": Column(
            "prompt following", "higher", 2, must_beat=frozenset({"frozen reference", "other song"})
        )
    }
    required_inputs: ClassVar = frozenset({"detector", "caption"})
    in_protocol_hash: ClassVar = False

    @property
    def weights_hash(self) -> str:
        """Hash of the move classifier's file."""
        return file_hash(WEIGHTS)

    def measure(self, clip: MetricInput) -> Measurement:
        moves = named_moves(clip.caption, _load()[1])
        return {"logits": move_logits(clip.poses.joints, clip.fps), "moves": moves}

    def combine(self, measured: Sequence[Measurement], true: Sequence[Measurement]) -> dict[str, float]:
        logits, moves = ([clip[name] for clip in measured] for name in ("logits", "moves"))
        return {"prompt_following": pair_share(logits, moves)}
