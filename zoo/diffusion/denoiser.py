"""Everything becomes a denoiser: a callable (x, t) -> x0, whatever its network was taught to predict.

x (B, ...) is x0 noised to step t (B,) int64 of the schedule; x0 has the shape of x. This file and `sample.py` are the
only ones that know a beta, and they get them from a diffusers scheduler.
"""

from collections.abc import Callable
from functools import cache

import torch
from diffusers import DDPMScheduler
from torch import Tensor

Predict = Callable[[Tensor, Tensor], Tensor]  # (x, t) -> what the network was taught
Weight = Callable[[Tensor], Tensor]  # t (B,) -> guidance weight (B,)


@cache
def cosine_schedule(prediction: str = "sample", steps: int = 1000, noisier: float = 1.0) -> DDPMScheduler:
    """The cosine noise schedule (Nichol and Dhariwal 2021, eq. 17: s = 0.008, beta <= 0.999), as EDGE uses it.

    LFDM's has beta <= 0.9999, which only the last step feels. prediction: what the network is taught, 'epsilon',
    'sample' (x0) or 'v_prediction'. noisier: at each step the noise is so many times as large beside the signal as the
    cosine has it (Hoogeboom et al. 2023, "simple diffusion", eq. 3): what is smooth over n pixels is seen through white
    noise sqrt(n) times as well, and all that matters would be decided in the first few steps.
    """
    kind = {"num_train_timesteps": steps, "prediction_type": prediction}
    cosine = DDPMScheduler(beta_schedule="squaredcos_cap_v2", **kind)
    if noisier == 1:
        return cosine
    kept = cosine.alphas_cumprod.double()
    kept = kept / (kept + noisier**2 * (1 - kept))
    betas = 1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])
    return DDPMScheduler(trained_betas=betas.clamp(max=0.999).tolist(), **kind)


@cache
def stable_diffusion_schedule(
    prediction: str = "epsilon", steps: int = 1000, beta_schedule: str = "scaled_linear"
) -> DDPMScheduler:
    """Stable Diffusion's noise schedule: the roots of beta rise evenly from that of 0.00085 to that of 0.012.

    beta_schedule: 'linear' where beta itself rises evenly, as AnimateDiff and MagicAnimate have it.
    """
    return DDPMScheduler(
        num_train_timesteps=steps,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule=beta_schedule,
        prediction_type=prediction,
    )


def _per_row(value: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...), to multiply x (B, ...)."""
    return value.view(-1, *[1] * (x.ndim - 1))


def _signal(schedule: DDPMScheduler, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of x0 and of the noise in x."""
    kept = _per_row(schedule.alphas_cumprod.to(x.device)[t], x)
    return kept.sqrt(), (1 - kept).sqrt()


class Denoiser:
    """A network with its noise schedule. `network(x, t)` closes over its conditions."""

    def __init__(self, network: Predict, schedule: DDPMScheduler):
        self.network, self.schedule = network, schedule

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x0 (B, ...)."""
        answer = self.network(x, t)
        prediction = self.schedule.config.prediction_type
        if prediction == "sample":
            return answer
        signal, noise = _signal(self.schedule, x, t)
        if prediction == "epsilon":
            return (x - noise * answer) / signal
        assert prediction == "v_prediction", prediction
        return signal * x - noise * answer

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x at step t: sqrt(abar) x0 + sqrt(1 - abar) noise (DDPM eq. 4)."""
        signal, sigma = _signal(self.schedule, x0, t)
        return signal * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should answer to `noised(x0, noise, t)`."""
        prediction = self.schedule.config.prediction_type
        if prediction == "sample":
            return x0
        if prediction == "epsilon":
            return noise
        signal, sigma = _signal(self.schedule, x0, t)
        return signal * noise - sigma * x0


def expecting(x0: Tensor, t: Tensor, schedule: DDPMScheduler) -> Tensor:
    """What a network's answer is more where this x0 (B, ...) is expected and not 0, before anything is seen of x at
    steps t (B,): (B, ...).

    The best answer where x0 is normal, of deviation 1 about what is expected: sigma^2 x0 in the denoised. Of no paper.
    """
    signal, sigma = _signal(schedule, x0, t)
    shares = {"sample": sigma**2, "v_prediction": -sigma, "epsilon": -signal * sigma}
    return shares[schedule.config.prediction_type] * x0


class Guided:
    """Classifier-free guidance: unconditional + weight * (conditional - unconditional), in one pass.

    pair: a denoiser whose condition has 2B rows, B conditional ones and then B unconditional ones. weight: a number, or
    a function of t (`ramp`).
    """

    def __init__(self, pair: Denoiser, weight: float | Weight):
        self.pair, self.weight = pair, weight
        self.schedule, self.noised = pair.schedule, pair.noised

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x0 (B, ...)."""
        with_condition, without = self.pair(x.repeat(2, *[1] * (x.ndim - 1)), t.repeat(2)).chunk(2)
        weight = _per_row(self.weight(t), x) if callable(self.weight) else self.weight
        return without + weight * (with_condition - without)


def ramp(weight: float, steps: int, train_steps: int = 1000) -> Weight:
    """EDGE's guidance in long dances: clip(linspace(0, 2 weight, steps), max=weight) over a run's steps."""
    first, last = train_steps - 1, train_steps // steps - 1

    def at(t: Tensor) -> Tensor:
        if steps == 1:
            return torch.full_like(t, weight, dtype=torch.float32)
        return (2 * weight * (first - t) / (first - last)).clamp(max=weight)

    return at
