"""LFDM's own DDIM, by which its published samples were made: what diffusers' cannot do is its uneven, shifted steps."""

import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor


class LfdmScheduler(DDIMScheduler):
    """DDIM (Song et al. 2021, eq. 12 and 16) at the times int(linspace(0, 1000, steps + 2))[:-1], the last one first.

    With 100 steps it begins at 990, and its last step goes from 9 to 0, which stands for no noise at all: the step's
    factors are taken one time earlier than the network's t (the public code reads `alphas_cumprod_prev[t]`). The noise
    that the step keeps is the one that was predicted, whatever thresholding makes of x0.
    """

    def set_timesteps(self, num_inference_steps: int) -> None:
        """The times at which the network is asked."""
        assert 1 <= num_inference_steps < self.config.num_train_timesteps
        times = torch.linspace(0, self.config.num_train_timesteps, num_inference_steps + 2)[:-1].int()
        self.num_inference_steps, self.timesteps = num_inference_steps, times[1:].flip(0)

    def step(
        self, x0: Tensor, t: int, x: Tensor, eta: float = 0.0, variance_noise: Tensor | None = None
    ) -> DDIMSchedulerOutput:
        """From x at t to x at the next of the times; variance_noise like x, standard, for eta > 0."""
        place = self.timesteps.tolist().index(t)
        following = self.timesteps[place + 1] if place + 1 < len(self.timesteps) else 0
        kept = self.alphas_cumprod[t]
        noise = (x - kept.sqrt() * x0) / (1 - kept).sqrt()
        before = self.alphas_cumprod[t - 1]
        after = self.alphas_cumprod[following - 1] if following else torch.ones_like(before)
        sigma = eta * ((1 - before / after) * (1 - after) / (1 - before)).sqrt()
        if self.config.thresholding:
            x0 = self._threshold_sample(x0)
        moved = after.sqrt() * x0 + (1 - after - sigma**2).sqrt() * noise
        if variance_noise is not None:
            moved = moved + sigma * variance_noise
        return DDIMSchedulerOutput(moved, x0)
