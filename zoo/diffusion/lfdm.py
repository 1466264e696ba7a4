"""LFDM's DDIM sampler, with its uneven, shifted timesteps, which diffusers' DDIM does not have."""

import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor


class LfdmScheduler(DDIMScheduler):
    """DDIM (Song et al. 2021, eq. 12 and 16) at the times int(linspace(0, 1000, steps + 2))[:-1], in falling order.

    100 steps begin at 990, and the last step goes from 9 to 0, where x holds no noise. The factors of a step are taken
    one time earlier than the network's t (the public code reads `alphas_cumprod_prev[t]`). The noise that a step keeps
    is the predicted one, before x0 is thresholded.
    """

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Set the times at which the network is evaluated."""
        assert 1 <= num_inference_steps < self.config.num_train_timesteps
        times = torch.linspace(0, self.config.num_train_timesteps, num_inference_steps + 2)[:-1].int()
        self.num_inference_steps, self.timesteps = num_inference_steps, times[1:].flip(0)

    def step(
        self, x0: Tensor, t: int, x: Tensor, eta: float = 0.0, variance_noise: Tensor | None = None
    ) -> DDIMSchedulerOutput:
        """Take x at t to x at the next, lower of the times; variance_noise: standard normal, like x, for eta > 0."""
        index = self.timesteps.tolist().index(t)
        next_t = self.timesteps[index + 1] if index + 1 < len(self.timesteps) else 0
        alpha_bar_t = self.alphas_cumprod[t]
        noise = (x - alpha_bar_t.sqrt() * x0) / (1 - alpha_bar_t).sqrt()
        # of the step's two ends, both one time earlier (see the class)
        alpha_bar_current = self.alphas_cumprod[t - 1]
        alpha_bar_next = self.alphas_cumprod[next_t - 1] if next_t else torch.ones_like(alpha_bar_current)
        sigma = eta * ((1 - alpha_bar_current / alpha_bar_next) * (1 - alpha_bar_next) / (1 - alpha_bar_current)).sqrt()
        if self.config.thresholding:
            x0 = self._threshold_sample(x0)
        previous_sample = alpha_bar_next.sqrt() * x0 + (1 - alpha_bar_next - sigma**2).sqrt() * noise
        if variance_noise is not None:
            previous_sample = previous_sample + sigma * variance_noise
        return DDIMSchedulerOutput(previous_sample, x0)
