"""The one sampling loop. Step rules come from diffusers; editing and long form come through `constrain`."""

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from zoo.diffusion.lfdm import LfdmScheduler

RULES = {
    "ddim": DDIMScheduler,
    "lfdm": LfdmScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}

Constrain = Callable[[Tensor, int, int], Tensor]  # (x, t, i) -> x: after step i, x is noised to t


def step_rule(
    schedule: SchedulerMixin, steps: int, name: str = "ddim", threshold: float | None = None
) -> SchedulerMixin:
    """A fresh diffusers scheduler that goes from pure noise to x0 in `steps` evaluations.

    name: 'ddim' (`eta` 0..1), 'lfdm' (DDIM as LFDM has it, see there), 'dpm' (DPM-Solver++ 2M) or 'unipc'. Steps but
    LFDM's are spaced evenly and begin at the last one of the schedule: with 1000 and 50 that is 999, 979, ..., 19,
    EDGE's linspace(-1, 999, 51) reversed.
    threshold: dynamic thresholding (Imagen sec. 2.3): x0 is held to this quantile of its sizes, at least 1, and divided
    by it; the noise is not worked out again. Raises ValueError for an unknown name or a number of steps that the rule
    cannot do.
    """
    if name not in RULES:
        raise ValueError(f"unknown sampling rule '{name}'; there are: {', '.join(RULES)}")
    most = schedule.config.num_train_timesteps
    # diffusers' DDIM assumes one whole-numbered stride
    if name == "lfdm":
        if not 1 <= steps < most:
            raise ValueError(f"sampling with 'lfdm' in {steps} steps: it takes 1 to {most - 1}")
    elif not 1 <= steps <= most or (name == "ddim" and most % steps):
        nearest = min((n for n in range(1, most + 1) if most % n == 0), key=lambda n: abs(n - steps))
        raise ValueError(f"sampling with '{name}' in {steps} steps: it must divide {most}; the nearest is {nearest}")
    config = {"timestep_spacing": "trailing", "prediction_type": "sample", "clip_sample": False}
    config |= {"thresholding": threshold is not None, "dynamic_thresholding_ratio": threshold, "sample_max_value": 1e6}
    rule = RULES[name].from_config(schedule.config, **config)
    rule.set_timesteps(steps)
    if name in ("ddim", "lfdm"):
        # at eta 1 the first step takes the root of 1 - abar - sigma^2, about 1e-9: float32 may make it negative
        rule.alphas_cumprod = rule.alphas_cumprod.double()
    return rule


@torch.no_grad()
def sample(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    rule: SchedulerMixin,
    draw: Callable[[], Tensor] | None = None,
    eta: float = 0.0,
    constrain: Constrain | None = None,
    clamp: float | None = 1.0,
) -> Tensor:
    """From noise x (B, ...) ~ N(0, 1) to x0 (B, ...), by the steps of `rule` (a fresh one: some have a memory).

    draw: fresh standard noise like x, asked for once a step but the last, when DDIM's eta > 0. clamp: x0 is held to
    [-clamp, clamp] in each step, the noise is worked out again from it (EDGE). constrain: changes x after each step but
    the last.
    """
    times = rule.timesteps.tolist()
    stochastic = eta > 0 and isinstance(rule, DDIMScheduler)
    for i, t in enumerate(times):
        x0 = denoiser(x, torch.full((len(x),), t, device=x.device))
        if clamp is not None:
            x0 = x0.clamp(-clamp, clamp)
        last = i + 1 == len(times)
        if last and isinstance(rule, DDIMScheduler):  # the step to no noise at all, whose factors of noise are 0
            return rule._threshold_sample(x0) if rule.config.thresholding else x0
        options = {"eta": eta, "variance_noise": draw()} if stochastic else {}
        x = rule.step(x0, t, x, **options).prev_sample
        if constrain is not None and not last:
            x = constrain(x, times[i + 1], i)
    return x
