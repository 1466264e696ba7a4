"""Motion of any length from a network with windows of five seconds, and edits of a given motion.

EDGE's long form (sec. 3, "long-form sampling"): windows of 150 frames overlap by half. After each denoising step, the
second half of a window replaces the first half of the next one. Information only flows from left to right, so windows
can be denoised in groups: storing the last window's second half after each step gives exactly the result of EDGE's
single batch, in constant memory.

Shape letters: T motion frames, D values of a music token, W windows.
"""

from collections.abc import Callable, Iterator, Sequence
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

WINDOW_FRAMES = 150  # of the network's input (EDGE sec. 4)
HOP_FRAMES = WINDOW_FRAMES // 2  # from one window to the next
EASE_FRAMES = 15  # beside a preserved part, over which the generated motion leaves it


def num_windows(num_frames: int) -> int:
    """Number of windows that cover `num_frames` motion frames."""
    return max(1, -(-(num_frames - HOP_FRAMES) // HOP_FRAMES))


def resample_music(features: Tensor, rate: float, start: int, num_frames: int) -> Tensor:
    """Interpolate music features (..., L, D) at `rate` Hz to motion frames start .. start + num_frames - 1, linearly.

    Returns (..., num_frames, D). Past the end of the song its features are reflected, back and forth.
    """
    position = torch.arange(start, start + num_frames, dtype=torch.float64) * (rate / MOTION_FPS)
    last_index = features.shape[-2] - 1
    position = last_index - (position % (2 * last_index) - last_index).abs() if last_index else position * 0
    lower_index = position.floor().long()
    upper_index = (lower_index + 1).clamp(max=last_index)
    weight = (position - lower_index).to(features)[:, None]
    return torch.lerp(features[..., lower_index, :], features[..., upper_index, :], weight)


class WindowNoise:
    """Standard normal noise of several windows. Each window has its own generator, so that grouping changes nothing."""

    def __init__(self, seed: int, windows: range, device: torch.device, stream: int = 0):
        # a function of (seed, window, stream) alone, drawn on the CPU, so that every device gets the same
        base_seed = seed * 1_000_003 + stream * 2**40
        self.generators = [torch.Generator().manual_seed((base_seed + i) % 2**63) for i in windows]
        self.device = device

    def __call__(self) -> Tensor:
        """(W, WINDOW_FRAMES, 151), new values at each call."""
        noise = [torch.randn(WINDOW_FRAMES, MOTION_DIM, generator=generator) for generator in self.generators]
        return torch.stack(noise).to(self.device)


@dataclass(frozen=True)
class MotionMask:
    """The part of a motion that an edit preserves."""

    value: Tensor  # (T, 151) normalised
    mask: Tensor  # (T, 151), 1 where the value is preserved

    def window(self, index: int) -> tuple[Tensor, Tensor]:
        """Values and mask (WINDOW_FRAMES, 151) of one window. After the end of the motion the mask is 0."""
        rows = slice(index * HOP_FRAMES, index * HOP_FRAMES + WINDOW_FRAMES)
        value, mask = self.value[rows], self.mask[rows]
        pad = (0, 0, 0, WINDOW_FRAMES - len(value))
        return F.pad(value, pad), F.pad(mask, pad)


class LongFormConstraint:
    """Applied to a group of windows after each denoising step: windows agree where they overlap, edits are preserved.

    second_halves: of the group's last window, one (HOP_FRAMES, 151) for each step so far.
    """

    def __init__(
        self,
        previous_halves: Sequence[Tensor],
        indices: range,
        denoiser: ClassifierFreeGuidance | Denoiser,
        noise_fn: Callable[[], Tensor],
        motion_mask: MotionMask | None,
    ):
        """previous_halves: `second_halves` of the group to the left, empty for the first group.

        indices: of the windows; noise_fn: draws the noise of preserved values.
        """
        self.previous_halves = previous_halves
        self.second_halves: list[Tensor] = []
        self.replace_known: ReplaceKnownFrames | None = None
        if motion_mask:
            value, mask = (torch.stack(tensors) for tensors in zip(*map(motion_mask.window, indices), strict=True))
            self.replace_known = ReplaceKnownFrames(value, mask > 0, denoiser, noise_fn)

    def __call__(self, x: Tensor, t: int, i: int) -> Tensor:
        """Constrain x (W, WINDOW_FRAMES, 151) at timestep t, after the i-th step of the sampling loop."""
        x = x.clone() if self.replace_known is None else self.replace_known(x, t, i)
        x[1:, :HOP_FRAMES] = x[:-1, HOP_FRAMES:]
        if self.previous_halves:
            x[0, :HOP_FRAMES] = self.previous_halves[i]
        self.second_halves.append(x[-1, HOP_FRAMES:].clone())
        return x


def long_form(
    denoiser_for: Callable[[range], ClassifierFreeGuidance | Denoiser],
    num_windows: int,
    make_sampler: Callable[[], SchedulerMixin],
    eta: float,
    seed: int,
    device: torch.device,
    windows_per_batch: int = 4,
    motion_mask: MotionMask | None = None,
) -> Iterator[Tensor]:
    """Yield normalised windows (WINDOW_FRAMES, 151) of a motion, from left to right.

    denoiser_for: the denoiser of the windows in a range, conditioned on their music. make_sampler: a new sampler for
    each batch. windows_per_batch: changes memory and speed only.
    """
    previous_halves: list[Tensor] = []
    for first in range(0, num_windows, windows_per_batch):
        indices = range(first, min(first + windows_per_batch, num_windows))
        denoiser, noise_fn = denoiser_for(indices), WindowNoise(seed, indices, device)
        # a stream of its own: an edit that preserves nothing equals sampling without an edit
        mask_noise_fn = WindowNoise(seed, indices, device, stream=1)
        constraint = LongFormConstraint(previous_halves, indices, denoiser, mask_noise_fn, motion_mask)
        yield from sample(denoiser, noise_fn(), make_sampler(), noise_fn, eta, constraint)
        previous_halves = constraint.second_halves


def crossfade(windows: Iterator[Tensor]) -> Iterator[Tensor]:
    """Join un-normalised windows (WINDOW_FRAMES, 151) into blocks (HOP_FRAMES, 151).

    Positions are interpolated linearly, rotations by slerp. The last denoising step is not constrained, so the two
    windows differ slightly where they overlap.
    """
    weight = torch.linspace(0, 1, HOP_FRAMES)
    previous_half = None
    for window in windows:
        first_half = window[:HOP_FRAMES]
        yield first_half if previous_half is None else _fade(previous_half, first_half, weight.to(window))
        previous_half = window[HOP_FRAMES:]
    if previous_half is not None:
        yield previous_half


def _fade(source: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Interpolate from source (T, 151) to target (T, 151) by weight (T,)."""
    (contacts, root, rotations), (target_contacts, target_root, target_rotations) = unpack(source), unpack(target)
    rotations = slerp(quaternion_from_matrix(rotations), quaternion_from_matrix(target_rotations), weight[:, None])
    contacts = torch.lerp(contacts, target_contacts, weight[:, None])
    root = torch.lerp(root, target_root, weight[:, None])
    return torch.cat([contacts, root, sixd_from_matrix(matrix_from_quaternion(rotations)).flatten(-2)], -1)


def ease_edges(output: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """The source where it is preserved, else the output, which begins and ends at the source where they meet.

    output, source and mask: (T, 151). The last denoising step is not constrained, so the two differ at an edge: the
    difference there is added to the generated values beside it, and fades within EASE_FRAMES.
    """
    is_preserved, difference, eased = mask > 0, source - output, output.clone()
    fade = (0.5 + 0.5 * torch.cos(torch.pi * torch.arange(1, EASE_FRAMES + 1) / (EASE_FRAMES + 1))).to(output)[:, None]
    changes = (is_preserved[1:] != is_preserved[:-1]).any(1)
    for last_frame in changes.nonzero()[:, 0].tolist():  # before the edge
        next_frame = last_frame + 1
        frames_after = eased[next_frame : next_frame + EASE_FRAMES]
        frames_before = eased[max(0, next_frame - EASE_FRAMES) : next_frame]
        ends_here = is_preserved[last_frame] & ~is_preserved[next_frame]
        begins_here = ~is_preserved[last_frame] & is_preserved[next_frame]
        frames_after += fade[: len(frames_after)] * difference[last_frame] * ends_here
        frames_before += fade.flip(0)[-len(frames_before) :] * difference[next_frame] * begins_here
    return torch.where(is_preserved, source, eased)


def frame_mask(num_frames: int, *preserved: slice) -> Tensor:
    """Mask (num_frames, 151) of an edit that preserves whole poses: a start, or both ends."""
    mask = torch.zeros(num_frames, MOTION_DIM)
    for rows in preserved:
        mask[rows] = 1
    return mask


def joint_mask(num_frames: int, names: Sequence[str]) -> Tensor:
    """Mask (num_frames, 151) of an edit that preserves the local rotations of joints, and the position of the pelvis.

    Raises ValueError for a name that is not in `zoo.body.skeleton.JOINTS`.
    """
    mask = torch.zeros(num_frames, MOTION_DIM)
    for name in names:
        if name not in JOINTS:
            raise ValueError(f"there is no joint {name}; use one of {', '.join(JOINTS)}")
        start = 7 + 6 * JOINTS.index(name)
        mask[:, start : start + 6] = 1
    if "pelvis" in names:
        mask[:, 4:7] = 1
    return mask
