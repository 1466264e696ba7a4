"""Guidance maps of a body become features that are added to the U-Net's: Champ's encoders (M2PEnc sec. 3.1, 3.3)."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import Transformer2DModel
from torch import Tensor, nn

from zoo.batch import Batch
from zoo.body.render.densepose import PART_COLORS

KIND_KEYS = {"depth": "depth", "normal": "normal", "semantic": "parts", "skeleton": "skeleton"}  # kind -> batch key
SETUPS = {  # Table 3
    "dns": ("depth", "normal", "semantic"),
    "p": ("skeleton",),
    "pdns": ("depth", "normal", "semantic", "skeleton"),
}
PUBLIC_FILE_KINDS = {"depth": "depth", "normal": "normal", "semantic_map": "semantic", "dwpose": "skeleton"}  # Champ's


class GuidanceEncoder(nn.Module):
    """One kind of map -> features: convolutions that halve the sides, self-attention, a convolution that begins at 0.

    Layers and names are those of Champ's files, in which the attention is called `attentions.5`.
    """

    def __init__(self, channels: Sequence[int], out_channels: int, num_attention_heads: int, norm_num_groups: int):
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for dim, next_dim in zip(channels, channels[1:], strict=False):
            self.blocks.append(nn.Conv2d(dim, dim, 3, padding=1))
            self.blocks.append(nn.Conv2d(dim, next_dim, 3, padding=1, stride=2))
        last_dim = channels[-1]
        self.attention = Transformer2DModel(
            num_attention_heads, last_dim // num_attention_heads, last_dim, norm_num_groups=norm_num_groups
        )
        self.conv_out = nn.Conv2d(last_dim, out_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, out_channels, H / 2^n, W / 2^n), n = len(channels) - 1."""
        x = F.silu(self.conv_in(images))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(self.attention(x, return_dict=False)[0])


class GuidanceEncoders(nn.Module):
    """One encoder for each kind of map; their features are summed."""

    def __init__(self, kinds: Sequence[str], **config: Any):
        """kinds: of KIND_KEYS; config: arguments of `GuidanceEncoder`."""
        super().__init__()
        self.encoders = nn.ModuleDict({kind: GuidanceEncoder(**config) for kind in kinds})

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of maps."""
        return tuple(self.encoders)

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Images (B, 3, F, H, W) in [0, 1] by kind -> features (B, C, F, h, w)."""
        features = []
        for kind, encoder in self.encoders.items():
            batch, _, frames = images[kind].shape[:3]
            y = encoder(images[kind].movedim(2, 1).flatten(0, 1))
            features.append(y.unflatten(0, (batch, frames)).movedim(1, 2))
        return torch.stack(features).sum(0)


def guidance_kinds(setup: str) -> tuple[str, ...]:
    """The kinds of maps of a setup of Table 3. Raises ValueError for another name."""
    if setup not in SETUPS:
        raise ValueError(f"setup={setup}: use {', '.join(SETUPS)}")
    return SETUPS[setup]


def guidance_keys(kinds: Sequence[str]) -> tuple[str, ...]:
    """The batch keys of the kinds' maps."""
    return tuple(KIND_KEYS[kind] for kind in kinds)


def guidance_images(batch: Batch, kinds: Sequence[str]) -> dict[str, Tensor]:
    """Each kind's maps as images (B, 3, F, H, W) float32 in [0, 1], black where there is no body.

    'semantic' is DensePose's 24 parts in their usual colors. Champ colors the vertices of SMPL instead, by a table that
    is not public here, so its semantic weights see other colors than they were trained on.
    """
    maps = cast(Mapping[str, Tensor], batch)
    images = {}
    for kind in kinds:
        values = maps[KIND_KEYS[kind]]
        if kind == "depth":
            image = values[:, :, None].expand(-1, -1, 3, -1, -1)
        elif kind == "normal":
            image = (values + 1) / 2 * (values != 0).any(2, keepdim=True)
        elif kind == "semantic":
            palette = torch.tensor(PART_COLORS.copy(), device=values.device).float() / 255
            palette[0] = 0
            image = palette[values.long()].movedim(-1, 2)
        else:
            image = (values + 1) / 2
        images[kind] = image.movedim(2, 1)
    return images


def from_champ(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Convert a guidance encoder of Champ. Five of its attention layers, and `guidance_attention`, are never used."""
    converted = {}
    for name, value in state_dict.items():
        layer, _, rest = name.partition(".")
        if layer == "guidance_attention":
            continue
        if layer == "attentions":
            index, _, rest = rest.partition(".")
            if index != "5":
                continue
            name = f"attention.{rest}"
        converted[prefix + name] = value
    return converted
