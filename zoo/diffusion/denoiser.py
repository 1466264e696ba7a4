"""Denoisers: callables (x, t) -> x0, whatever the network predicts.

x (B, ...) is x0 noised to step t (B,) int64 of the schedule; x0 has the shape of x.
"""

from collections.abc import Callable

from diffusers import DDPMScheduler
from torch import Tensor

from zoo.diffusion.schedules import alpha_sigma

Predict = Callable[[Tensor, Tensor], Tensor]  # (x, t) -> network output


class Denoiser:
    """A network with its noise schedule. `network(x, t)` is a closure over its conditions."""

    def __init__(self, network: Predict, schedule: DDPMScheduler):
        self.network, self.schedule = network, schedule

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return x0 (B, ...)."""
        return self.to_x0(self.network(x, t), x, t)

    def to_x0(self, model_output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return x0 (B, ...) for a network output (B, ...) at x and t."""
        return to_x0(model_output, x, t, self.schedule)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x at steps t, see `add_noise`."""
        return add_noise(x0, noise, t, self.schedule)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the correct network output, see `training_target`."""
        return training_target(x0, noise, t, self.schedule)


def add_noise(x0: Tensor, noise: Tensor, t: Tensor, schedule: DDPMScheduler) -> Tensor:
    """Return x at steps t: sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise (DDPM eq. 4)."""
    alpha, sigma = alpha_sigma(schedule, x0, t)
    return alpha * x0 + sigma * noise


def training_target(x0: Tensor, noise: Tensor, t: Tensor, schedule: DDPMScheduler) -> Tensor:
    """Return the network output that is correct for `add_noise(x0, noise, t, schedule)`."""
    prediction_type = schedule.config.prediction_type
    if prediction_type == "sample":
        return x0
    if prediction_type == "epsilon":
        return noise
    alpha, sigma = alpha_sigma(schedule, x0, t)
    return alpha * noise - sigma * x0


def to_x0(model_output: Tensor, x: Tensor, t: Tensor, schedule: DDPMScheduler) -> Tensor:
    """Return x0 (B, ...) for a network output (B, ...) at x and steps t."""
    prediction_type = schedule.config.prediction_type
    if prediction_type == "sample":
        return model_output
    alpha, sigma = alpha_sigma(schedule, x, t)
    if prediction_type == "epsilon":
        return (x - sigma * model_output) / alpha
    assert prediction_type == "v_prediction", prediction_type
    return alpha * x - sigma * model_output


def prior_mean_offset(x0: Tensor, t: Tensor, schedule: DDPMScheduler) -> Tensor:
    """Return the change of the ideal network output when the prior mean of x0 is x0 (B, ...) instead of 0.

    t (B,): steps of the schedule. The ideal output is that for normal data of standard deviation 1 about the mean; in
    the denoised x0 the change is sigma^2 x0. Not in any of the papers.
    """
    alpha, sigma = alpha_sigma(schedule, x0, t)
    factors = {"sample": sigma**2, "v_prediction": -sigma, "epsilon": -alpha * sigma}
    return factors[schedule.config.prediction_type] * x0
