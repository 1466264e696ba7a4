"""Batch norm over the clips of all processes, on CPUs too: torch's SyncBatchNorm runs on GPUs only."""

from typing import Any

import torch
from torch import Tensor, distributed, nn


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` whose statistics in training are those of the joint batch of all processes.

    Processes may have batches of different sizes; all of them run each forward and backward pass. Gradients are those
    of the sum of all processes' losses, whose mean over processes DDP and FSDP2 take. Weights, buffers and everything
    outside of a training on several processes are as in the base class.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        is_alone = not distributed.is_initialized() or distributed.get_world_size() == 1
        if not self.training or is_alone:
            return super().forward(x)
        values = x.float()
        count = values.new_full((1,), x.numel() // x.shape[1])
        sums = _AllReduce.apply(torch.cat([values.sum((0, 2, 3)), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centered = values - mean[:, None, None]
        variance = _AllReduce.apply(centered.square().sum((0, 2, 3))) / total
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * total / (total - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _AllReduce(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient
