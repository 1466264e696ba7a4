"""The sampling loop. Samplers are diffusers' schedulers; editing and long form are constraints."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from zoo.diffusion.constraints import Constraint
from zoo.diffusion.lfdm import LfdmScheduler

SAMPLERS = {
    "ddim": DDIMScheduler,
    "lfdm": LfdmScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}


def make_sampler(
    schedule: SchedulerMixin, num_inference_steps: int, name: str = "ddim", dynamic_threshold: float | None = None
) -> SchedulerMixin:
    """Return a fresh diffusers scheduler that goes from pure noise to x0 in `num_inference_steps` evaluations.

    name: 'ddim' (`eta` 0..1), 'lfdm' (LFDM's DDIM, see `LfdmScheduler`), 'dpm' (DPM-Solver++ 2M) or 'unipc'. All
    timesteps but LFDM's are spaced evenly and begin at the last one of the schedule: for 50 of 1000 these are 999, 979,
    ..., 19, as EDGE's linspace(-1, 999, 51) reversed. dynamic_threshold: quantile of |x0| (Imagen sec. 2.3): x0 is
    clipped to it, or to 1 if that is larger, and divided by it; the noise is not computed again. Raises ValueError for
    an unknown name, or a number of steps that the sampler cannot take.
    """
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler '{name}'; available: {', '.join(SAMPLERS)}")
    max_steps = schedule.config.num_train_timesteps
    # diffusers' DDIM assumes one whole-numbered stride
    if name == "lfdm":
        if not 1 <= num_inference_steps < max_steps:
            raise ValueError(f"sampling with 'lfdm' in {num_inference_steps} steps: it takes 1 to {max_steps - 1}")
    elif not 1 <= num_inference_steps <= max_steps or (name == "ddim" and max_steps % num_inference_steps):
        divisors = (n for n in range(1, max_steps + 1) if max_steps % n == 0)
        nearest_divisor = min(divisors, key=lambda n: abs(n - num_inference_steps))
        raise ValueError(
            f"sampling with '{name}' in {num_inference_steps} steps: it must divide {max_steps}; "
            f"the nearest is {nearest_divisor}"
        )
    overrides = {"timestep_spacing": "trailing", "prediction_type": "sample", "clip_sample": False}
    overrides |= {
        "thresholding": dynamic_threshold is not None,
        "dynamic_thresholding_ratio": dynamic_threshold,
        "sample_max_value": 1e6,
    }
    sampler = SAMPLERS[name].from_config(schedule.config, **overrides)
    sampler.set_timesteps(num_inference_steps)
    if name in ("ddim", "lfdm"):
        # at eta 1 the first step takes the root of 1 - abar - sigma^2, about 1e-9, which float32 may make negative
        sampler.alphas_cumprod = sampler.alphas_cumprod.double()
    return sampler


@torch.no_grad()
def sample(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sampler: SchedulerMixin,
    noise_fn: Callable[[], Tensor] | None = None,
    eta: float = 0.0,
    constraint: Constraint | None = None,
    clamp: float | None = 1.0,
) -> Tensor:
    """Take noise x (B, ...) ~ N(0, 1) to x0 (B, ...) by the steps of a fresh `sampler` (some have a memory).

    noise_fn: fresh standard noise like x, called once a step but the last, when DDIM's eta > 0. clamp: x0 is clipped to
    [-clamp, clamp] in each step, and the noise is computed again from it (EDGE). constraint: changes x after each step
    but the last.
    """
    timesteps = sampler.timesteps.tolist()
    is_stochastic = eta > 0 and isinstance(sampler, DDIMScheduler)
    for i, t in enumerate(timesteps):
        x0 = denoiser(x, torch.full((len(x),), t, device=x.device))
        if clamp is not None:
            x0 = x0.clamp(-clamp, clamp)
        is_last = i + 1 == len(timesteps)
        if is_last and isinstance(sampler, DDIMScheduler):  # the step to x0 itself, where the noise has the factor 0
            return sampler._threshold_sample(x0) if sampler.config.thresholding else x0
        step_options: dict[str, Any] = {}
        if is_stochastic:
            assert noise_fn is not None, "eta > 0 needs noise_fn"
            step_options = {"eta": eta, "variance_noise": noise_fn()}
        x = sampler.step(x0, t, x, **step_options).prev_sample
        if constraint is not None and not is_last:
            x = constraint(x, timesteps[i + 1], i)
    return x
