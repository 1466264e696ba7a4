"""Dances of any length from a network that sees five seconds, and edits of given ones.

EDGE's long form (sec. 3, "long-form sampling"): windows of 150 frames overlap by half, and after each step the first
half of a window becomes the second half of the one before. Information only ever flows from left to right, so
windows can be denoised a few at a time: remembering the last one's second half after each step gives exactly what EDGE
computes in one batch, in constant memory.

Shape letters: T motion frames, D values of a music token, W windows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from zoo.batch import MOTION_DIM, MOTION_FPS
from zoo.body.skeleton import (
    JOINTS,
    matrix_from_quaternion,
    quaternion_from_matrix,
    sixd_from_matrix,
    slerp,
    unpack,
)
from zoo.diffusion.constraints import ReplaceKnownFrames
from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.guidance import ClassifierFreeGuidance
from zoo.diffusion.samplers import sample

WINDOW = 150  # frames the network sees at once
HOP = WINDOW // 2  # frames from one window to the next


def window_count(frames: int) -> int:
    """Windows that cover so many frames."""
    return max(1, -(-(frames - HOP) // HOP))


def at_motion_rate(features: Tensor, rate: float, start: int, frames: int) -> Tensor:
    """Music tokens of motion frames start .. start + frames - 1: (..., L, D) at `rate` Hz -> (..., frames, D), linear.

    Past its end the song is heard backwards, and so to and fro: what a network was trained on, for as long as needed.
    """
    place = torch.arange(start, start + frames, dtype=torch.float64) * (rate / MOTION_FPS)
    last = features.shape[-2] - 1
    place = last - (place % (2 * last) - last).abs() if last else place * 0
    before = place.floor().long()
    after = (before + 1).clamp(max=last)
    weight = (place - before).to(features)[:, None]
    return torch.lerp(features[..., before, :], features[..., after, :], weight)


class WindowNoise:
    """Standard normal noise of a few windows, each from its own generator: grouping the windows changes nothing."""

    def __init__(self, seed: int, windows: range, device: torch.device, stream: int = 0):
        # a function of (seed, window, stream) alone, drawn on the CPU, so that every device gets the same
        first = seed * 1_000_003 + stream * 2**40
        self.generators = [torch.Generator().manual_seed((first + i) % 2**63) for i in windows]
        self.device = device

    def __call__(self) -> Tensor:
        """(W, WINDOW, 151), new ones with each call."""
        draws = [torch.randn(WINDOW, MOTION_DIM, generator=g) for g in self.generators]
        return torch.stack(draws).to(self.device)


@dataclass(frozen=True)
class Known:
    """Part of a motion that an edit must keep. Both (T, 151): normalised values, and 1 where they are to be kept."""

    value: Tensor
    mask: Tensor

    def window(self, index: int) -> tuple[Tensor, Tensor]:
        """Values and mask (WINDOW, 151) of one window, nothing kept after the end."""
        rows = slice(index * HOP, index * HOP + WINDOW)
        value, mask = self.value[rows], self.mask[rows]
        pad = (0, 0, 0, WINDOW - len(value))
        return F.pad(value, pad), F.pad(mask, pad)


class Constraint:
    """Imposed on a group of windows after each step: what an edit keeps, and that each goes on from the one before."""

    def __init__(
        self,
        before: list[Tensor],
        indices: range,
        denoiser: ClassifierFreeGuidance | Denoiser,
        draw,
        known: Known | None,
    ):
        """before: the `after` of the group to the left, empty for the first group; draw: noise for what is known."""
        self.before, self.after = before, []
        self.replace_known = None
        if known:
            value, mask = (torch.stack(part) for part in zip(*map(known.window, indices), strict=True))
            self.replace_known = ReplaceKnownFrames(value, mask > 0, denoiser, draw)

    def __call__(self, x: Tensor, t: int, i: int) -> Tensor:
        """x (W, WINDOW, 151) at step t, the i-th of the run -> the same, constrained."""
        x = x.clone() if self.replace_known is None else self.replace_known(x, t, i)
        x[1:, :HOP] = x[:-1, HOP:]
        if self.before:
            x[0, :HOP] = self.before[i]
        self.after.append(x[-1, HOP:].clone())
        return x


def long_form(
    listen: Callable[[range], ClassifierFreeGuidance | Denoiser],
    windows: int,
    make_rule: Callable[[], SchedulerMixin],
    eta: float,
    seed: int,
    device: torch.device,
    group: int = 4,
    known: Known | None = None,
) -> Iterator[Tensor]:
    """Yield the windows (WINDOW, 151) of a dance, normalised, from left to right.

    listen: a denoiser of the windows in a range, that has heard their music. make_rule: a fresh `make_sampler`. group:
    windows denoised at a time, which changes memory and speed only.
    """
    before: list[Tensor] = []
    for first in range(0, windows, group):
        indices = range(first, min(first + group, windows))
        denoiser, draw = listen(indices), WindowNoise(seed, indices, device)
        # noise of its own: an edit that keeps nothing is the plain dance
        constraint = Constraint(before, indices, denoiser, WindowNoise(seed, indices, device, stream=1), known)
        yield from sample(denoiser, draw(), make_rule(), draw, eta, constraint)
        before = constraint.after


def crossfade(windows: Iterator[Tensor]) -> Iterator[Tensor]:
    """Join un-normalised windows (WINDOW, 151) into blocks (HOP, 151): positions fade linearly, rotations by slerp.

    The last denoising step is not constrained, so the two answers for the same frames differ a little.
    """
    weight = torch.linspace(0, 1, HOP)
    old = None
    for window in windows:
        yield window[:HOP] if old is None else _fade(old, window[:HOP], weight.to(window))
        old = window[HOP:]
    if old is not None:
        yield old


def _fade(old: Tensor, new: Tensor, weight: Tensor) -> Tensor:
    """From old (T, 151) to new (T, 151) by weight (T,)."""
    (contacts, root, turns), (new_contacts, new_root, new_turns) = unpack(old), unpack(new)
    turns = slerp(quaternion_from_matrix(turns), quaternion_from_matrix(new_turns), weight[:, None])
    contacts = torch.lerp(contacts, new_contacts, weight[:, None])
    root = torch.lerp(root, new_root, weight[:, None])
    return torch.cat([contacts, root, sixd_from_matrix(matrix_from_quaternion(turns)).flatten(-2)], -1)


def keep_frames(frames: int, *kept: slice) -> Tensor:
    """Mask (frames, 151) of an edit that keeps whole poses: the start to go on from it, both ends to fill between."""
    mask = torch.zeros(frames, MOTION_DIM)
    for rows in kept:
        mask[rows] = 1
    return mask


def keep_joints(frames: int, names: list[str]) -> Tensor:
    """Mask (frames, 151) of an edit that keeps some joints' local rotations (and with the pelvis, its position).

    Raises ValueError for a name that is not in `zoo.body.skeleton.JOINTS`.
    """
    mask = torch.zeros(frames, MOTION_DIM)
    for name in names:
        if name not in JOINTS:
            raise ValueError(f"no joint is called '{name}'; there are: {', '.join(JOINTS)}")
        start = 7 + 6 * JOINTS.index(name)
        mask[:, start : start + 6] = 1
    if "pelvis" in names:
        mask[:, 4:7] = 1
    return mask
