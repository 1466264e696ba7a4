"""The denoising loss, and how training draws steps and noise."""

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from zoo.diffusion.batch_random import BatchRandom
from zoo.diffusion.denoiser import add_noise, to_x0, training_target

GLOBAL_RANDOM = BatchRandom()  # torch's global generator


@dataclass(frozen=True)
class NoisySample:
    """Training samples with the noise that was added to them; `add_training_noise` makes one."""

    x0: Tensor  # (B, ...)
    noise: Tensor  # (B, ...) standard normal
    t: Tensor  # (B,) int64 steps of the schedule
    x: Tensor  # (B, ...): x0 noised to step t
    schedule: DDPMScheduler


def sample_timesteps(
    num_samples: int,
    schedule: DDPMScheduler,
    device: torch.device,
    timestep_bias: float = 0.0,
    random: BatchRandom = GLOBAL_RANDOM,
) -> Tensor:
    """Draw steps (num_samples,) int64 of the schedule, distributed as u^(1 / (1 + timestep_bias)) for uniform u.

    timestep_bias above 0 prefers noisy steps, which decide the coarse content (diffusers' training scripts: "later").
    """
    u = random.rand(num_samples, device=device)
    t = (u ** (1 / (1 + timestep_bias)) * schedule.config.num_train_timesteps).long()
    return t.clamp(max=schedule.config.num_train_timesteps - 1)  # a float just below 1 may be rounded up


def add_training_noise(
    x0: Tensor, t: Tensor, schedule: DDPMScheduler, noise_offset: float = 0.0, random: BatchRandom = GLOBAL_RANDOM
) -> NoisySample:
    """Add fresh noise to x0 (B, C, ...) at steps t (B,).

    noise_offset: standard deviation of a part of the noise that is constant over a sample's channel (Champ: 0.05).
    Without it, training hardly changes a channel's mean.
    """
    noise = random.randn_like(x0)
    if noise_offset:
        offset = random.randn_like(x0.flatten(2)[:, :, 0])
        noise = noise + noise_offset * offset.reshape(*x0.shape[:2], *(1 for _ in x0.shape[2:]))
    return NoisySample(x0, noise, t, add_noise(x0, noise, t, schedule), schedule)


def min_snr_weights(t: Tensor, schedule: DDPMScheduler, max_snr: float) -> Tensor:
    """Weights (B,) of the squared error at steps t (B,): min(s, max_snr) / s (min-SNR weighting, Hang et al. 2023).

    s is alpha^2 / sigma^2, and 1 more than it for v_prediction. Champ's and Moore's training adds the 1 before the
    minimum is taken, so that the step without signal has weight 1, not 0. For a network that predicts x0 the weights
    of its error are min(s, max_snr).
    """
    alpha_bar = schedule.alphas_cumprod.to(t.device)[t].float()
    snr = alpha_bar / (1 - alpha_bar).clamp(min=1e-8)
    if schedule.config.prediction_type == "sample":
        return snr.clamp(max=max_snr)
    if schedule.config.prediction_type == "v_prediction":
        snr = snr + 1
    return snr.clamp(max=max_snr) / snr.clamp(min=1e-8)


def denoising_loss(
    model_output: Tensor, sample: NoisySample, velocity_weight: float = 0.0, max_snr: float | None = None
) -> dict[str, Tensor]:
    """Return the mean squared error of the network output (B, ...) for `sample.x` at `sample.t`, as 'noise'.

    max_snr: weight the samples by `min_snr_weights`; None: equally.
    velocity_weight: weight of 'velocity', the error of the differences between consecutive frames of x0 (EDGE eq. 4),
    for samples (B, C, F, ...) with frames in the third axis.
    """
    model_output = model_output.float()
    target = training_target(sample.x0, sample.noise, sample.t, sample.schedule)
    squared_error = (model_output - target).square()
    if max_snr is not None:
        weights = min_snr_weights(sample.t, sample.schedule, max_snr)
        squared_error = squared_error.flatten(1).mean(1) * weights.to(squared_error)
    losses = {"noise": squared_error.mean()}
    if velocity_weight:
        x0_error = to_x0(model_output, sample.x, sample.t, sample.schedule) - sample.x0
        losses["velocity"] = velocity_weight * x0_error.diff(dim=2).square().mean()
    return losses
