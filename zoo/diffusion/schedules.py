"""Noise schedules, as diffusers' schedulers. `zoo.diffusion` is the only package that reads a beta.

Shape letters: B samples; x (B, ...) is x0 noised to step t (B,) int64 of a schedule.
"""

from functools import cache

import torch
from diffusers import DDPMScheduler
from torch import Tensor

NOISE_SCHEDULES = ("stable_diffusion", "animatediff", "zero_snr", "cosine")


def make_noise_schedule(name: str, prediction_type: str, shift: float = 1.0) -> DDPMScheduler:
    """Return the schedule of a `noise_schedule` node of a configuration.

    name: 'stable_diffusion', 'animatediff' (the same with evenly rising betas), 'zero_snr' (that with pure noise at the
    last step, see `stable_diffusion_schedule`) or 'cosine'. shift: of the cosine schedule only. Raises ValueError for
    another name, and for 'zero_snr' with epsilon: pure noise tells it nothing about x0.
    """
    if name not in NOISE_SCHEDULES:
        raise ValueError(f"noise_schedule.name={name}: use {', '.join(NOISE_SCHEDULES[:-1])} or {NOISE_SCHEDULES[-1]}")
    if name == "zero_snr" and prediction_type == "epsilon":
        raise ValueError("noise_schedule.name=zero_snr: its prediction_type is v_prediction or sample, not epsilon")
    with torch.device("cpu"):  # schedules are cached: one that is first built on the meta device would have no values
        if name == "cosine":
            return cosine_schedule(prediction_type, shift=shift)
        beta_schedule = "scaled_linear" if name == "stable_diffusion" else "linear"
        return stable_diffusion_schedule(prediction_type, beta_schedule=beta_schedule, use_zero_snr=name == "zero_snr")


@cache
def cosine_schedule(
    prediction_type: str = "sample", num_train_timesteps: int = 1000, shift: float = 1.0
) -> DDPMScheduler:
    """Return the cosine schedule (Nichol and Dhariwal 2021, eq. 17: s = 0.008, beta <= 0.999), as EDGE uses it.

    LFDM clips beta at 0.9999, which changes the last step only. prediction_type: the target of the network, 'epsilon',
    'sample' (x0) or 'v_prediction'. shift: factor of the ratio of noise to signal at each step (Hoogeboom et al. 2023,
    "simple diffusion", eq. 3). White noise hides a signal that is smooth over n pixels sqrt(n) times less, so without
    a shift nearly all of such a signal is decided in the first few sampling steps.
    """
    options = {"num_train_timesteps": num_train_timesteps, "prediction_type": prediction_type}
    unshifted_schedule = DDPMScheduler(beta_schedule="squaredcos_cap_v2", **options)
    if shift == 1:
        return unshifted_schedule
    alpha_bar = unshifted_schedule.alphas_cumprod.double()
    alpha_bar = alpha_bar / (alpha_bar + shift**2 * (1 - alpha_bar))
    betas = 1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    return DDPMScheduler(trained_betas=betas.clamp(max=0.999).tolist(), **options)


@cache
def stable_diffusion_schedule(
    prediction_type: str = "epsilon",
    num_train_timesteps: int = 1000,
    beta_schedule: str = "scaled_linear",
    use_zero_snr: bool = False,
) -> DDPMScheduler:
    """Return Stable Diffusion's schedule: the square roots of beta rise evenly, from sqrt(0.00085) to sqrt(0.012).

    beta_schedule: 'linear' where beta itself rises evenly, as in AnimateDiff and MagicAnimate. use_zero_snr: rescale
    the betas so that the last step holds no signal (Lin et al. 2024, algorithm 1), as Champ and Moore-AnimateAnyone.
    """
    return DDPMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule=beta_schedule,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=use_zero_snr,
    )


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ...), to broadcast over x (B, ...)."""
    return values.view(-1, *[1] * (x.ndim - 1))


def alpha_sigma(schedule: DDPMScheduler, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors alpha of x0 and sigma of the noise in x at steps t, each (B, 1, ...)."""
    alpha_bar = per_sample(schedule.alphas_cumprod.to(x.device)[t], x)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
