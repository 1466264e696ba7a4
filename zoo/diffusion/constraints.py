"""Constraints on a sampling run: functions that change x between two denoising steps."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.guidance import ClassifierFreeGuidance

Constraint = Callable[[Tensor, int, int], Tensor]  # (x, t, i) -> x: called after step i, when x is at step t


class ReplaceKnownFrames:
    """Replace the known part of x by its noised true values (RePaint, Lugmayr et al. 2022, eq. 8a and 8c)."""

    def __init__(
        self,
        known_frames: Tensor,
        mask: Tensor,
        denoiser: Denoiser | ClassifierFreeGuidance,
        noise_fn: Callable[[], Tensor],
    ):
        """known_frames: true x0, like x (B, ...). mask: bool, broadcast over x, True where x0 is known.

        noise_fn: standard noise like x, called once a step.
        """
        self.known_frames, self.mask = known_frames, mask
        self.denoiser, self.noise_fn = denoiser, noise_fn

    @classmethod
    def first_frames(
        cls, known_frames: Tensor, noise: Tensor, denoiser: Denoiser | ClassifierFreeGuidance
    ) -> "ReplaceKnownFrames":
        """Return the constraint that keeps the first K frames of x (B, C, F, H, W).

        known_frames (B, C, K, H, W): their x0; noise (B, C, F, H, W): used at every step, as x begins with it.
        """
        num_known, num_frames = known_frames.shape[2], noise.shape[2]
        mask = torch.arange(num_frames, device=noise.device)[:, None, None] < num_known
        known_frames = pad(known_frames, (0, 0, 0, 0, 0, num_frames - num_known))
        return cls(known_frames, mask, denoiser, lambda: noise)

    def __call__(self, x: Tensor, t: int, i: int) -> Tensor:
        """x (B, ...) at step t, the i-th of the run -> the same with the known part replaced."""
        timesteps = torch.full((len(x),), t, device=x.device)
        return torch.where(self.mask, self.denoiser.add_noise(self.known_frames, self.noise_fn(), timesteps), x)
