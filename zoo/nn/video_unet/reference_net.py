"""The ReferenceNet: a U-Net whose attention inputs are the features of a reference image."""

from collections import UserList

import torch
from torch import Tensor

from zoo.nn.video_unet.blocks import FeatureTap
from zoo.nn.video_unet.conditioning import Conditioning
from zoo.nn.video_unet.unet import VideoUNet


class ReferenceNet(VideoUNet):
    """The U-Net up to the input of its last spatial attention, applied to an image.

    It ends there, as MagicAnimate's appearance encoder does. Moore's and Champ's files also hold the remaining layers,
    which their code never uses: see `zoo.nn.weights.layouts.convert_reference_net`.
    """

    def __init__(self, **config):
        """config: arguments of `VideoUNet`."""
        super().__init__(**config)
        del self.conv_norm_out, self.conv_out
        while self.up_blocks[-1].attentions is None:  # no feature comes from there
            del self.up_blocks[-1]
            self.up_blocks[-1].upsamplers = None
        norm = self.up_blocks[-1].attentions[-1].norm
        self.up_blocks[-1].attentions[-1] = FeatureTap(norm.num_channels, norm.num_groups)

    def forward(self, x: Tensor, time: Tensor | None = None, text: Tensor | None = None) -> list[Tensor]:
        """Latents (B, latent_channels, H, W) at steps time (B,) -> features (B, H W, C), one per transformer.

        The default time is 0.
        """
        time = torch.zeros(len(x), dtype=torch.long, device=x.device) if time is None else time
        text_kv = [] if text is None else [transformer.text_kv(text) for transformer in self.attention_blocks()]
        features: UserList[Tensor] = UserList()
        self._forward_features(x[:, :, None], time, Conditioning(text=text_kv), None, (), features)
        return list(features)
