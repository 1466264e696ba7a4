"""The reference image as one token that the U-Net's cross-attention takes in place of text (M2PEnc sec. 3.3)."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.weights.lazy import LazyWeights
from zoo.nn.weights.loading import load_strict, unwrap_state_dict

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_RESOLUTION = 224  # pixels per side
POOLED_SIZE = 4  # cells per side of the pooled latents


class ImageEncoder(nn.Module, ABC):
    """Images -> one token each. Its output does not depend on the other images."""

    dim: int  # of the token

    @abstractmethod
    def forward(self, images: Tensor, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], with their latents (B, C, h, w) -> tokens (B, 1, dim)."""


class PooledImageEncoder(ImageEncoder):
    """Mean and standard deviation of the latents in 4 x 4 cells, projected. Trained with the family."""

    def __init__(self, latent_channels: int, dim: int):
        super().__init__()
        self.dim = dim
        self.projection = nn.Linear(2 * latent_channels * POOLED_SIZE**2, dim)

    def forward(self, images: Tensor, latents: Tensor) -> Tensor:
        """See ImageEncoder."""
        mean = F.adaptive_avg_pool2d(latents, POOLED_SIZE)
        variance = F.adaptive_avg_pool2d(latents.square(), POOLED_SIZE) - mean.square()
        return self.projection(torch.cat([mean, variance.clamp(min=0).sqrt()], 1).flatten(1))[:, None]


class ClipImageEncoder(LazyWeights, ImageEncoder):
    """CLIP's image embedding, as Champ's. Frozen, and not part of checkpoints.

    weights: a folder with config.json and model.safetensors or pytorch_model.bin, as Stable Diffusion's image_encoder.
    """

    def __init__(self, weights: str | None, dim: int):
        super().__init__()
        self.weights, self.dim = weights, dim

    def load(self) -> nn.Module:
        """See LazyWeights. transformers' own loader is not used: it searches the network for missing files."""
        if self.weights is None:
            raise ValueError("give model.family.image_encoder.weights=FOLDER, CLIP's image_encoder of Stable Diffusion")
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection  # takes seconds

        folder = Path(self.weights).expanduser()
        files = [folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()]
        if not files or not (folder / "config.json").is_file():
            raise ValueError(f"{folder} lacks config.json, or model.safetensors (or pytorch_model.bin)")
        try:
            config = json.loads((folder / "config.json").read_text())
            vision_config = CLIPVisionConfig.from_dict(config.get("vision_config", config))
        except (ValueError, TypeError, AttributeError):
            raise ValueError(f"{folder / 'config.json'} does not describe a CLIP model") from None
        if vision_config.projection_dim != self.dim:
            raise ValueError(f"{folder}: it gives {vision_config.projection_dim} values, not {self.dim}")
        model = CLIPVisionModelWithProjection(vision_config).eval().requires_grad_(False)
        load_strict(model, files[0], _image_tower_weights)
        return model

    def build_untrained(self) -> nn.Module:
        """See `LazyWeights`: the image tower of CLIP ViT-L/14, as Stable Diffusion's image variations have it."""
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        config = CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14,
            image_size=CLIP_RESOLUTION, projection_dim=self.dim,
        )  # fmt: skip
        return CLIPVisionModelWithProjection(config).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor, latents: Tensor) -> Tensor:
        """See ImageEncoder."""
        model = self.loaded
        if model.device != images.device:
            model.to(images.device)
        size = (CLIP_RESOLUTION, CLIP_RESOLUTION)
        pixels = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        return model(((pixels + 1) / 2 - mean) / std).image_embeds[:, None]


def _image_tower_weights(contents: Any) -> Mapping[str, Tensor]:
    """The image tower's weights; older files also hold the indices of the patches."""
    return {name: value for name, value in unwrap_state_dict(contents).items() if not name.endswith(".position_ids")}
