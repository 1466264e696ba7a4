"""The denoising loss, and how training draws steps and noise."""

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from zoo.diffusion.denoiser import add_noise, to_x0, training_target


@dataclass(frozen=True)
class NoisySample:
    """Training samples with the noise that was added to them; `add_training_noise` makes one."""

    x0: Tensor  # (B, ...)
    noise: Tensor  # (B, ...) standard normal
    t: Tensor  # (B,) int64 steps of the schedule
    x: Tensor  # (B, ...): x0 noised to step t
    schedule: DDPMScheduler


def sample_timesteps(
    num_samples: int, schedule: DDPMScheduler, device: torch.device, timestep_bias: float = 0.0
) -> Tensor:
    """Draw steps (num_samples,) int64 of the schedule, distributed as u^(1 / (1 + timestep_bias)) for uniform u.

    timestep_bias above 0 prefers noisy steps, which decide the coarse content (diffusers' training scripts: "later").
    """
    u = torch.rand(num_samples, device=device)
    t = (u ** (1 / (1 + timestep_bias)) * schedule.config.num_train_timesteps).long()
    return t.clamp(max=schedule.config.num_train_timesteps - 1)  # a float just below 1 may be rounded up


def add_training_noise(x0: Tensor, t: Tensor, schedule: DDPMScheduler) -> NoisySample:
    """Add fresh noise to x0 (B, ...) at steps t (B,)."""
    noise = torch.randn_like(x0)
    return NoisySample(x0, noise, t, add_noise(x0, noise, t, schedule), schedule)


def denoising_loss(model_output: Tensor, sample: NoisySample, velocity_weight: float = 0.0) -> dict[str, Tensor]:
    """Return the mean squared error of the network output (B, ...) for `sample.x` at `sample.t`, as 'noise'.

    velocity_weight: weight of 'velocity', the error of the differences between consecutive frames of x0 (EDGE eq. 4),
    for samples (B, C, F, ...) with frames in the third axis.
    """
    model_output = model_output.float()
    target = training_target(sample.x0, sample.noise, sample.t, sample.schedule)
    losses = {"noise": (model_output - target).square().mean()}
    if velocity_weight:
        x0_error = to_x0(model_output, sample.x, sample.t, sample.schedule) - sample.x0
        losses["velocity"] = velocity_weight * x0_error.diff(dim=2).square().mean()
    return losses
