"""ControlNet (Zhang et al. 2023) for the video U-Net."""

from collections.abc import Sequence

from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from einops import rearrange
from torch import Tensor, nn

from zoo.nn.video_unet.blocks import UNetLevel, zero_conv
from zoo.nn.video_unet.conditioning import Conditioning
from zoo.nn.video_unet.unet import VideoUNet


class ControlNet(VideoUNet):
    """A copy of the way down and the middle block, which turns condition images into residuals of the U-Net's skips.

    Frames are independent. Parameters are named as in diffusers' `ControlNetModel`; `encode_condition` computes the
    embedding of the condition images once per request.
    """

    fsdp_forward_methods = ("encode_condition",)

    def __init__(self, pose_encoder_channels: Sequence[int] = (16, 32, 96, 256), **config):
        """pose_encoder_channels: of the condition encoder, which halves the resolution between each two of them.

        config: arguments of `VideoUNet`.
        """
        super().__init__(**config)
        first_dim = self.conv_in.out_channels
        del self.up_blocks, self.conv_norm_out, self.conv_out
        self.controlnet_cond_embedding = ControlNetConditioningEmbedding(first_dim, 3, tuple(pose_encoder_channels))
        skip_channels = [first_dim]
        for level in self.down_blocks:
            dim = level.resnets[0].out_channels
            skip_channels += [dim] * (len(level.resnets) + (level.downsamplers is not None))
        self.controlnet_down_blocks = nn.ModuleList(zero_conv(channels) for channels in skip_channels)
        self.controlnet_mid_block = zero_conv(skip_channels[-1])

    def _levels(self) -> list[UNetLevel]:
        return [*self.down_blocks, self.mid_block]

    def encode_condition(self, images: Tensor) -> Tensor:
        """Condition images (B, F, 3, H, W) in [0, 1] -> features (B, channels[0], F, h, w), once per request."""
        features = self.controlnet_cond_embedding(images.flatten(0, 1))
        return rearrange(features, "(b f) c h w -> b c f h w", b=len(images))

    def forward(self, x: Tensor, time: Tensor, conditioning: Conditioning, cond_features: Tensor) -> list[Tensor]:
        """Return `block_residuals` of `VideoUNet.forward` for noisy x (B, latent_channels, F, H, W) at steps time (B,).

        cond_features: result of `encode_condition`.
        """
        num_frames = x.shape[2]
        x, skips, state = self._down(x, time, conditioning, cond_features, None)
        residuals = [conv(skip) for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        residuals.append(self.controlnet_mid_block(self._middle(x, state)))
        return [rearrange(residual, "(b f) c h w -> b c f h w", f=num_frames) for residual in residuals]
