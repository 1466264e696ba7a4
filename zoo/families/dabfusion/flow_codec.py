"""The diffused representation of flow and occlusion."""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.families.dabfusion.blocks import identity_flow


class FlowCodec:
    """Packs flow and occlusion into a volume of three channels, about in [-1, 1], and back."""

    def __init__(self, *, flow_residual_scale: float | None, flow_pool_factor: int):
        """flow_residual_scale: None packs source coordinates in [-1, 1], as published; a number packs displacements,
        times the number (LFDM's `use_residual_flow`, which does not scale). flow_pool_factor: side of the squares of
        the autoencoder's flow whose mean is packed; 1 as published.
        """
        self.flow_residual_scale, self.flow_pool_factor = flow_residual_scale, flow_pool_factor

    def pack_flow(self, flow: Tensor, occlusion: Tensor) -> Tensor:
        """Flow (..., h, w, 2) and occlusion (..., 1, h, w) -> (..., 3, h / pool, w / pool)."""
        if self.flow_residual_scale is not None:
            flow = (flow - identity_flow(*flow.shape[-3:-1], flow)) * self.flow_residual_scale
        volume = torch.cat([flow.movedim(-1, -3), 2 * occlusion - 1], -3)
        return F.avg_pool2d(volume.flatten(0, -4), self.flow_pool_factor).unflatten(0, volume.shape[:-3])

    def unpack_flow(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Invert `pack_flow` at the packed resolution; occlusion is clipped to [0, 1]."""
        flow, occlusion = volume[..., :2, :, :].movedim(-3, -1), (volume[..., 2:, :, :] + 1) / 2
        if self.flow_residual_scale is not None:
            flow = flow / self.flow_residual_scale + identity_flow(*flow.shape[-3:-1], flow)
        return flow, occlusion.clamp(0, 1)
