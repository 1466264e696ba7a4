"""Layers of the video U-Net. Parameter names are those of diffusers' `UNet2DConditionModel` and of AnimateDiff.

Shape letters: N = B F images (frames innermost), B samples, F frames, T = H W pixels, R references.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from einops import rearrange
from torch import Tensor, nn

from zoo.nn.attention import CrossAttention, KeysValues
from zoo.nn.temporal import MotionModule, MusicAttentionModule
from zoo.nn.video_unet.conditioning import ForwardState


class FrameNorm(nn.GroupNorm):
    """Group norm of (B F, C, H, W): of each frame, or with `norm_across_frames` of all frames of a video at once."""

    def __init__(self, num_groups: int, channels: int, eps: float, norm_across_frames: bool):
        super().__init__(num_groups, channels, eps)
        self.norm_across_frames = norm_across_frames

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """(B F, C, H, W) -> the same shape"""
        if not self.norm_across_frames or num_frames == 1:
            return super().forward(x)
        y = super().forward(rearrange(x, "(b f) c h w -> b c f h w", f=num_frames))
        return rearrange(y, "b c f h w -> (b f) c h w")


class VideoResnetBlock(ResnetBlock2D):
    """diffusers' residual block for videos: one time embedding for all frames, and norms that may span them."""

    def __init__(
        self, channels: int, out_channels: int, time_dim: int, num_groups: int, dropout: float, norm_across_frames: bool
    ):
        options = {"temb_channels": time_dim, "groups": num_groups, "dropout": dropout, "eps": 1e-5}
        super().__init__(in_channels=channels, out_channels=out_channels, **options)
        self.norm1, self.norm2 = (
            FrameNorm(num_groups, dim, 1e-5, norm_across_frames) for dim in (channels, out_channels)
        )

    def forward(self, x: Tensor, state: ForwardState) -> Tensor:
        """(B F, C, H, W) -> (B F, out_channels, H, W)"""
        y = self.conv1(F.silu(self.norm1(x, state.num_frames)))
        time_shift = self.time_emb_proj(state.time_embedding).repeat_interleave(state.num_frames, 0)
        y = F.silu(self.norm2(y + time_shift[:, :, None, None], state.num_frames))
        y = self.conv2(self.dropout(y))
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class SpatialBlock(nn.Module):
    """Self- and reference attention, text and face attention, feed-forward; each with a residual connection."""

    fsdp_forward_methods = ("text_kv", "face_kv", "reference_kv")

    def __init__(self, dim: int, num_heads: int, text_dim: int, face_dim: int | None, dropout: float):
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(dim), CrossAttention(dim, num_heads, dropout=dropout)
        self.norm2, self.attn2 = nn.LayerNorm(dim), CrossAttention(dim, num_heads, text_dim, dropout)
        self.norm3, self.ff = nn.LayerNorm(dim), FeedForward(dim, dropout=dropout)
        self.attn_face = None
        if face_dim is not None:
            self.attn_face = CrossAttention(dim, num_heads, face_dim, dropout)
            nn.init.zeros_(self.attn_face.to_out[0].weight)  # changes nothing beside pretrained weights
            nn.init.zeros_(self.attn_face.to_out[0].bias)

    def text_kv(self, text: Tensor) -> KeysValues:
        """Keys and values of text tokens (B, L, text_dim)."""
        return self.attn2.keys_values(text)

    def face_kv(self, face: Tensor) -> KeysValues:
        """Keys and values of face tokens (B, L, face_dim)."""
        return self.attn_face.keys_values(face)

    def reference_kv(self, feature: Tensor) -> KeysValues:
        """Keys and values of a reference's feature (R, H W, C)."""
        return self.attn1.keys_values(feature)

    def reference_attention(self, x: Tensor, reference: KeysValues | None, num_frames: int) -> Tensor:
        """Self-attention of normed x (N, T, C); the first R samples also attend to the tokens of their references.

        Equal to the paper's concatenation of both along the width, of which the first half is used (MuseDance sec.
        3.2), but queries of the second half are not computed.
        """
        self_kv = self.attn1.keys_values(x)
        if reference is None:
            return self.attn1(x, self_kv)
        num_with_reference = len(reference[0]) * num_frames
        joint_kv = [
            torch.cat(
                [
                    own_tensor[:num_with_reference],
                    reference_tensor.to(own_tensor.dtype).repeat_interleave(num_frames, 0),
                ],
                2,
            )
            for own_tensor, reference_tensor in zip(self_kv, reference, strict=True)
        ]
        output = self.attn1(x[:num_with_reference], tuple(joint_kv))
        if num_with_reference == len(x):
            return output
        remaining_kv = tuple(own_tensor[num_with_reference:] for own_tensor in self_kv)
        return torch.cat([output, self.attn1(x[num_with_reference:], remaining_kv)])

    def forward(self, x: Tensor, attention_index: int, state: ForwardState) -> Tensor:
        """(N, T, C) -> the same shape. attention_index: of the transformer in the forward pass."""
        conditioning, normed = state.conditioning, self.norm1(x)
        # a unit that is computed again for its gradient finds its feature there (activation checkpointing)
        if state.features is not None and len(state.features) == attention_index:
            state.features.append(normed)
        reference = conditioning.reference[attention_index] if conditioning.reference else None
        x = x + self.reference_attention(normed, reference, state.num_frames)
        cross_attentions = []
        if conditioning.text:
            cross_attentions.append((self.attn2, conditioning.text[attention_index]))
        if conditioning.face and self.attn_face is not None:
            cross_attentions.append((self.attn_face, conditioning.face[attention_index]))
        if cross_attentions:
            # (B, F T, C): all frames of a sample share its tokens
            queries = self.norm2(x).unflatten(0, (-1, state.num_frames)).flatten(1, 2)
            for attention, tokens_kv in cross_attentions:
                x = x + attention(queries, tokens_kv).unflatten(1, (state.num_frames, -1)).flatten(0, 1)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A norm and 1x1 convolutions around a spatial block."""

    fsdp_forward_methods = ("text_kv", "face_kv", "reference_kv")

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_groups: int,
        text_dim: int,
        face_dim: int | None,
        dropout: float,
        attention_index: int,  # of this transformer in the forward pass
    ):
        super().__init__()
        self.attention_index = attention_index
        self.norm = nn.GroupNorm(num_groups, dim, eps=1e-6)
        self.proj_in = nn.Conv2d(dim, dim, 1)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(dim, num_heads, text_dim, face_dim, dropout)])
        self.proj_out = nn.Conv2d(dim, dim, 1)

    def text_kv(self, text: Tensor) -> KeysValues:
        """Keys and values of text tokens (B, L, text_dim)."""
        return self.transformer_blocks[0].text_kv(text)

    def face_kv(self, face: Tensor) -> KeysValues:
        """Keys and values of face tokens (B, L, face_dim)."""
        return self.transformer_blocks[0].face_kv(face)

    def reference_kv(self, feature: Tensor) -> KeysValues:
        """Keys and values of a reference's feature (R, H W, C)."""
        return self.transformer_blocks[0].reference_kv(feature)

    def forward(self, x: Tensor, state: ForwardState) -> Tensor:
        """(N, C, H, W) -> the same shape"""
        height = x.shape[2]
        y = rearrange(self.proj_in(self.norm(x)), "n c h w -> n (h w) c")
        y = self.transformer_blocks[0](y, self.attention_index, state)
        return x + self.proj_out(rearrange(y, "n (h w) c -> n c h w", h=height))


class FeatureTap(nn.Module):
    """The layers of a spatial transformer up to its feature. It is the last module of a ReferenceNet."""

    def __init__(self, dim: int, num_groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, dim, eps=1e-6)
        self.proj_in = nn.Conv2d(dim, dim, 1)
        self.transformer_blocks = nn.ModuleList([nn.ModuleDict({"norm1": nn.LayerNorm(dim)})])

    def forward(self, x: Tensor, state: ForwardState) -> Tensor:
        """(N, C, H, W) -> x itself; the feature is appended to `state.features`"""
        y = rearrange(self.proj_in(self.norm(x)), "n c h w -> n (h w) c")
        state.features.append(self.transformer_blocks[0]["norm1"](y))
        return x


@dataclass(frozen=True)
class BlockConfig:
    """Settings that all levels of a U-Net share."""

    time_dim: int
    text_dim: int
    face_dim: int | None
    num_heads: int
    num_groups: int
    dropout: float
    norm_across_frames: bool
    music_token_dims: Mapping[str, int]  # name of a music module -> width of its tokens
    attention_indices: Iterator[int] = field(default_factory=count)

    def resnet_block(self, channels: int, out_channels: int) -> VideoResnetBlock:
        """A residual block of these settings."""
        return VideoResnetBlock(
            channels, out_channels, self.time_dim, self.num_groups, self.dropout, self.norm_across_frames
        )


class UNetLevel(nn.Module):
    """Layers at one resolution: a residual block, then optionally a spatial transformer, music and motion modules."""

    def __init__(
        self,
        layer_channels: Sequence[tuple[int, int]],  # input and output channels of each layer
        has_attention: bool,
        has_motion: bool,
        config: BlockConfig,
    ):
        super().__init__()
        dim = layer_channels[0][1]
        transformer_sizes = dim, config.num_heads, config.num_groups
        self.resnets = nn.ModuleList(config.resnet_block(*channels) for channels in layer_channels)
        self.attentions = self.motion_modules = self.downsamplers = self.upsamplers = None
        self.music_modules = nn.ModuleDict()
        if has_attention:
            self.attentions = nn.ModuleList(
                SpatialTransformer(
                    *transformer_sizes, config.text_dim, config.face_dim, config.dropout, next(config.attention_indices)
                )
                for _ in layer_channels
            )
            for name, token_dim in config.music_token_dims.items():
                self.music_modules[name] = nn.ModuleList(
                    MusicAttentionModule(*transformer_sizes, token_dim, config.dropout) for _ in layer_channels
                )
        if has_motion:
            self.motion_modules = nn.ModuleList(
                MotionModule(*transformer_sizes, config.dropout) for _ in layer_channels
            )

    def forward_layer(self, index: int, x: Tensor, state: ForwardState) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H, W)"""
        x, conditioning, context = self.resnets[index](x, state), state.conditioning, None
        if self.attentions is not None:
            transformer = self.attentions[index]
            x = transformer(x, state)
            context = conditioning.context[transformer.attention_index] if conditioning.context else None
            for name, modules in self.music_modules.items():
                if name in conditioning.music:
                    x = modules[index](x, state.num_frames, conditioning.music[name][transformer.attention_index])
        if self.motion_modules is not None and conditioning.use_motion_modules:
            x = self.motion_modules[index](x, state.num_frames, context)
        return x


def zero_conv(channels: int) -> nn.Conv2d:
    """Return a 1x1 convolution whose weights and bias are 0."""
    conv = nn.Conv2d(channels, channels, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def leaf_modules(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost modules whose `forward` runs in a pass, with their paths."""
    for name, child in module.named_children():
        if isinstance(child, UNetLevel | nn.ModuleList | nn.ModuleDict | Upsample2D):
            yield from leaf_modules(child, f"{path}{name}.")
        else:
            yield path + name, child
