"""Classifier-free guidance (Ho and Salimans 2022), with a constant or a step-dependent scale."""

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.schedules import per_sample

GuidanceSchedule = Callable[[Tensor], Tensor]  # t (B,) -> guidance scale (B,)


class ClassifierFreeGuidance:
    """A denoiser: unconditional + guidance_scale * (conditional - unconditional), both in one pass of the network.

    denoiser: its condition has 2B rows, B conditional ones, then B unconditional ones. guidance_scale: a number, or a
    function of t (`guidance_ramp`).
    """

    def __init__(self, denoiser: Denoiser, guidance_scale: float | GuidanceSchedule):
        self.denoiser, self.guidance_scale = denoiser, guidance_scale
        self.schedule, self.add_noise = denoiser.schedule, denoiser.add_noise

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return x0 (B, ...)."""
        conditional, unconditional = self.denoiser(x.repeat(2, *[1] * (x.ndim - 1)), t.repeat(2)).chunk(2)
        scale = self.guidance_scale
        scale_value = per_sample(scale(t), x) if callable(scale) else scale
        return unconditional + scale_value * (conditional - unconditional)


def guidance_ramp(guidance_scale: float, num_inference_steps: int, num_train_timesteps: int = 1000) -> GuidanceSchedule:
    """Return EDGE's scale for long dances: clip(linspace(0, 2 guidance_scale, steps), max=guidance_scale).

    It rises from 0 at the first, noisiest step.
    """
    first_t, last_t = num_train_timesteps - 1, num_train_timesteps // num_inference_steps - 1

    def scale_at(t: Tensor) -> Tensor:
        if num_inference_steps == 1:
            return torch.full_like(t, guidance_scale, dtype=torch.float32)
        return (2 * guidance_scale * (first_t - t) / (first_t - last_t)).clamp(max=guidance_scale)

    return scale_at
