"""The 3D U-Net that denoises flow and occlusion (DabFusion sec. 3.2): LFDM's network, after Video Diffusion Models.

Space and time are factorised: convolutions and linear attention within a frame, attention with rotary and relative
positions over the frames of each pixel. Volumes are (B, C, F, H, W) with channels last in memory. The terms that depend
on the request alone, of the first convolution and of every residual block, are computed once by
`FlowUNet.precompute_conditioning`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

HEAD_DIM = 32  # channels of every attention head
CHUNK_VALUES = 2**17  # values of an attention input that are processed at once on a CPU


@dataclass(frozen=True)
class FlowConditioning:
    """Terms of the network that depend on the request alone. B: samples, both halves of guided pairs included."""

    reference: Tensor  # (B, base_channels, 1, H, W): the first convolution of z0
    music_modulations: list[Tensor]  # for each residual block (B, 2C, F or 1): the music's term of its scale and shift


def per_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a 2D layer to every frame: (B, C, F, H, W) -> (B, C', F, H', W')."""
    y = layer(rearrange(x, "b c f h w -> (b f) c h w"))
    return rearrange(y, "(b f) c h w -> b c f h w", b=len(x))


def _cache_sized_chunks(y: Tensor) -> Sequence[Tensor]:
    """Split rows (N, ...) into chunks whose attention fits into a CPU's cache."""
    return y.split(max(1, CHUNK_VALUES // y[0].numel())) if y.device.type == "cpu" else [y]


class ChannelNorm(nn.Module):
    """Layer norm over the channels, without a bias."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return F.layer_norm(x, x.shape[-1:], self.gamma)


class Block(nn.Module):
    """Convolution, group norm over frames and space, scale and shift, SiLU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.GroupNorm(8, out_channels)

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x (B, in, F, H, W); scale and shift (B, out, F or 1, 1, 1) -> (B, out, F, H, W)."""
        y = self.norm(per_frame(self.proj, x))
        if scale_shift is not None:
            y = torch.addcmul(scale_shift[1], y, scale_shift[0] + 1)
        return F.silu(y)


class ResBlock(nn.Module):
    """Residual block of two `Block`s; diffusion step and music scale and shift the first."""

    fsdp_forward_methods = ("music_modulation",)

    def __init__(self, in_channels: int, out_channels: int, time_dim: int = 0, music_dim: int = 0):
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time_dim + music_dim, 2 * out_channels)) if time_dim else None
        self.time_dim = time_dim
        self.block1, self.block2 = Block(in_channels, out_channels), Block(out_channels, out_channels)
        self.res_conv = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def music_modulation(self, music: Tensor) -> Tensor:
        """Return the music's term of `mlp`: (B, F or 1, D) -> (B, 2 out, F or 1)."""
        return F.linear(F.silu(music), self.mlp[1].weight[:, self.time_dim :]).movedim(1, 2)

    def forward(self, x: Tensor, time: Tensor | None = None, music_modulation: Tensor | None = None) -> Tensor:
        """x (B, in, F, H, W); time (B, time_dim); music (B, 2 out, F or 1) of `music_shift`."""
        scale_shift = None
        if self.mlp is not None:
            modulation = F.linear(F.silu(time), self.mlp[1].weight[:, : self.time_dim], self.mlp[1].bias)[:, :, None]
            modulation = modulation if music_modulation is None else modulation + music_modulation
            scale_shift = modulation[..., None, None].chunk(2, 1)
        y = self.block2(self.block1(x, scale_shift))
        return y + (x if self.res_conv is None else per_frame(self.res_conv, x))


class SpatialAttention(nn.Module):
    """Linear attention within each frame, with a skip connection."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * heads * HEAD_DIM, 1, bias=False)
        self.to_out = nn.Conv2d(heads * HEAD_DIM, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) -> the same shape."""
        y = rearrange(self.norm(x.movedim(1, -1)), "b f h w c -> (b f) (h w) c")
        y = torch.cat([self._attend(chunk) for chunk in _cache_sized_chunks(y)])
        return x + rearrange(y, "(b f) (h w) c -> b c f h w", b=len(x), h=x.shape[3])

    def _attend(self, y: Tensor) -> Tensor:
        """(N, pixels, C) -> the same shape."""
        qkv = F.linear(y, self.to_qkv.weight.flatten(1))
        q, k, v = rearrange(qkv, "n p (three h d) -> three n h p d", three=3, h=self.heads)
        context = k.softmax(-2).mT @ v  # (N, h, d, d)
        y = (q.softmax(-1) * HEAD_DIM**-0.5) @ context
        return F.linear(rearrange(y, "n h p d -> n p (h d)"), self.to_out.weight.flatten(1), self.to_out.bias)


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("freqs", 10_000 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM))

    def forward(self, even: Tensor, odd: Tensor) -> Tensor:
        """Rotate the even and odd channels of heads, (..., HEAD_DIM / 2, T) each -> (..., HEAD_DIM, T), even first."""
        angle = self.freqs[:, None] * torch.arange(even.shape[-1], device=even.device)
        cos, sin = angle.cos().to(even.dtype), angle.sin().to(even.dtype)
        rotated = torch.addcmul(even * cos, odd, sin, value=-1), torch.addcmul(odd * cos, even, sin)
        return torch.stack(rotated, -3).flatten(-3, -2)


class TemporalAttention(nn.Module):
    """Attention over the frames of each pixel, or (`along_time=False`) over the pixels of each frame.

    With rows as short as 40, two batched products are several times as fast on a CPU as a fused kernel. Time is the
    innermost dimension, (N, heads, HEAD_DIM, T), so that no head is copied into a matrix.
    """

    def __init__(self, channels: int, heads: int, along_time: bool = True):
        super().__init__()
        self.heads = heads
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * heads * HEAD_DIM, bias=False)
        self.to_out = nn.Linear(heads * HEAD_DIM, channels, bias=False)
        self.rotary_emb = Rotary() if along_time else None

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (B, C, F, H, W); bias (heads, F, F) of key and query -> the shape of x."""
        batch_size, _, num_frames, height, _ = x.shape
        rows_pattern = "(b h w) c f" if self.rotary_emb is not None else "(b f) c (h w)"
        y = rearrange(self.norm(x.movedim(1, -1)), f"b f h w c -> {rows_pattern}").contiguous()
        qkv_weight, out_weight = self._qkv_weight_by_head(), self.to_out.weight
        y = torch.cat([self._attend(chunk, qkv_weight, out_weight, bias) for chunk in _cache_sized_chunks(y)])
        return x + rearrange(y, f"{rows_pattern} -> b c f h w", b=batch_size, f=num_frames, h=height)

    def _qkv_weight_by_head(self) -> Tensor:
        """Reorder `to_qkv` by heads: (heads * 3 * HEAD_DIM, C), even channels of q and k first, q scaled."""
        q, k, v = self.to_qkv.weight.unflatten(0, (3, self.heads, HEAD_DIM))
        q, k = (rearrange(weight, "h (d two) c -> h (two d) c", two=2) for weight in (q * HEAD_DIM**-0.5, k))
        return torch.stack([q, k, v], 1).flatten(0, 2)

    def _attend(self, y: Tensor, qkv_weight: Tensor, out_weight: Tensor, bias: Tensor | None) -> Tensor:
        """(N, C, T) -> the same shape."""
        num_rows, _, row_length = y.shape
        qkv = torch.bmm(qkv_weight.expand(num_rows, -1, -1), y).view(num_rows * self.heads, 3, HEAD_DIM, row_length)
        qk, v = qkv.split((2, 1), 1)
        if self.rotary_emb is not None:
            qk = self.rotary_emb(*qk.unflatten(2, (2, -1)).unbind(2))
        q, k = qk.unbind(1)
        scores = torch.bmm(k.mT, q).unflatten(0, (num_rows, self.heads))  # (N, heads, key, query)
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        weights = scores.softmax(-2).flatten(0, 1).to(v.dtype)
        y = torch.bmm(v.flatten(0, 1), weights).unflatten(0, (num_rows, self.heads)).flatten(1, 2)
        return torch.bmm(out_weight.expand(num_rows, -1, -1), y)


class RelativeBias(nn.Module):
    """A learned attention bias for each bucket of frame distances (T5's buckets, up to 32 frames)."""

    def __init__(self, heads: int, num_buckets: int = 32, max_distance: int = 32):
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.relative_attention_bias = nn.Embedding(num_buckets, heads)
        # initialised to ALiBi's slopes 1, 1/2, 1/4 ..: that neighbouring frames are alike takes long to learn
        bucket, num_buckets_per_side, num_exact = (
            torch.arange(num_buckets) % (num_buckets // 2),
            num_buckets // 2,
            num_buckets // 4,
        )
        log_distance = num_exact * (max_distance / num_exact) ** (
            (bucket - num_exact) / (num_buckets_per_side - num_exact)
        )
        distance = torch.where(bucket < num_exact, bucket.float(), log_distance)
        self.relative_attention_bias.weight.data = -distance[:, None] * 0.5 ** torch.arange(heads)

    def forward(self, num_frames: int) -> Tensor:
        """Return the bias (heads, F, F) of key and query."""
        index = torch.arange(num_frames, device=self.relative_attention_bias.weight.device)
        offset = index[None] - index[:, None]  # query minus key
        num_buckets_per_side, num_exact = self.num_buckets // 2, self.num_buckets // 4
        distance = offset.abs()
        fraction = torch.log(distance.clamp(min=1).float() / num_exact) / math.log(self.max_distance / num_exact)
        log_bucket = num_exact + (fraction * (num_buckets_per_side - num_exact)).long()
        bucket = torch.where(
            distance < num_exact, distance, log_bucket.clamp(max=num_buckets_per_side - 1)
        ) + num_buckets_per_side * (offset < 0)
        return self.relative_attention_bias(bucket).movedim(-1, 0).contiguous()


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding of the diffusion step."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, time: Tensor) -> Tensor:
        """(B,) -> (B, dim)."""
        half = self.dim // 2
        rates = torch.exp(torch.arange(half, device=time.device) * -(math.log(10_000) / (half - 1)))
        angle = time[:, None] * rates
        return torch.cat([angle.sin(), angle.cos()], -1)


class FlowUNet(nn.Module):
    """Predicts the noise of [flow x, flow y, 2 occlusion - 1], or the target of another `prediction_type`."""

    def __init__(
        self,
        *,
        music_dim: int,  # D of the music embedding (of LFDM's text embedding)
        latent_channels: int,  # of z0, the autoencoder's latent
        base_channels: int,
        channel_multipliers: Sequence[int],  # one for each level
        num_attention_heads: int,  # of every attention, with HEAD_DIM channels each
        patch_size: int,  # side of the squares of pixels that become channels; 1 in LFDM, more is faster
        flow_upsample: int,  # resolution of the flow over that of z0
    ):
        super().__init__()
        time_dim = 4 * base_channels
        self.music_dim, self.patch_size, self.flow_patch_size = music_dim, patch_size, patch_size * flow_upsample
        self.time_rel_pos_bias = RelativeBias(num_attention_heads)
        self.volume_channels = 3 * self.flow_patch_size**2
        in_channels = self.volume_channels + latent_channels * patch_size**2
        self.init_conv = nn.Conv2d(in_channels, base_channels, 7, padding=3)
        self.init_temporal_attn = TemporalAttention(base_channels, num_attention_heads)
        self.time_mlp = nn.Sequential(
            TimeEmbedding(base_channels), nn.Linear(base_channels, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim)
        )

        def make_level(in_channels: int, out_channels: int, resample: nn.Module) -> nn.ModuleList:
            return nn.ModuleList(
                [
                    ResBlock(in_channels, out_channels, time_dim, music_dim),
                    ResBlock(out_channels, out_channels, time_dim, music_dim),
                    SpatialAttention(out_channels, num_attention_heads),
                    TemporalAttention(out_channels, num_attention_heads),
                    resample,
                ]
            )

        channels = [base_channels, *(base_channels * multiplier for multiplier in channel_multipliers)]
        channel_pairs = list(pairwise(channels))
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for index, (outer_channels, inner_channels) in enumerate(channel_pairs):
            is_last = index == len(channel_pairs) - 1
            self.downs.append(
                make_level(
                    outer_channels,
                    inner_channels,
                    nn.Identity() if is_last else nn.Conv2d(inner_channels, inner_channels, 4, 2, 1),
                )
            )
        mid_channels = channels[-1]
        self.mid_block1 = ResBlock(mid_channels, mid_channels, time_dim, music_dim)
        self.mid_spatial_attn = TemporalAttention(mid_channels, num_attention_heads, along_time=False)
        self.mid_temporal_attn = TemporalAttention(mid_channels, num_attention_heads)
        self.mid_block2 = ResBlock(mid_channels, mid_channels, time_dim, music_dim)
        for index, (outer_channels, inner_channels) in enumerate(reversed(channel_pairs)):
            is_last = index == len(channel_pairs) - 1
            self.ups.append(
                make_level(
                    2 * inner_channels,
                    outer_channels,
                    nn.Identity() if is_last else nn.ConvTranspose2d(outer_channels, outer_channels, 4, 2, 1),
                )
            )
        flow_channels, occlusion_channels = 2 * self.flow_patch_size**2, self.flow_patch_size**2
        self.final_conv = nn.Sequential(
            ResBlock(2 * base_channels, base_channels), nn.Conv2d(base_channels, flow_channels, 1)
        )
        self.occlusion_map = nn.Sequential(
            ResBlock(2 * base_channels, base_channels), nn.Conv2d(base_channels, occlusion_channels, 1)
        )
        for output_head in (self.final_conv, self.occlusion_map):  # an initial output of 0 is better than one of noise
            nn.init.zeros_(output_head[1].weight)
            nn.init.zeros_(output_head[1].bias)

    def _music_blocks(self) -> list[ResBlock]:
        """Return the blocks with a music term, in the order of their use."""
        down = [block for level in self.downs for block in level[:2]]
        up = [block for level in self.ups for block in level[:2]]
        return [*down, self.mid_block1, self.mid_block2, *up]

    @staticmethod
    def _patchify(x: Tensor, size: int) -> Tensor:
        """(B, C, H, W) -> (B, C size^2, H / size, W / size), channels last in memory, as all later layers keep it."""
        return F.pixel_unshuffle(x, size).contiguous(memory_format=torch.channels_last)

    def precompute_conditioning(self, z0: Tensor, music: Tensor) -> FlowConditioning:
        """z0 (B, C, H, W): the reference's latent; music (B, F, D), or (B, 1, D): one embedding for all frames."""
        z0 = self._patchify(z0, self.patch_size)
        reference = F.conv2d(z0, self.init_conv.weight[:, self.volume_channels :], self.init_conv.bias, padding=3)
        return FlowConditioning(
            reference[:, :, None], [block.music_modulation(music) for block in self._music_blocks()]
        )

    def forward(self, x: Tensor, time: Tensor, condition: FlowConditioning | tuple[Tensor, Tensor]) -> Tensor:
        """x (B, 3, F, H, W) noisy; time (B,) steps -> (B, 3, F, H, W).

        condition: of `precompute_conditioning`, or its arguments.
        """
        if not isinstance(condition, FlowConditioning):
            condition = self.precompute_conditioning(*condition)
        bias = self.time_rel_pos_bias(x.shape[2])
        volume_weight = self.init_conv.weight[:, : self.volume_channels]
        volume_features = per_frame(
            lambda y: F.conv2d(self._patchify(y, self.flow_patch_size), volume_weight, padding=3), x
        )
        x = volume_features + condition.reference
        first_features = x
        x = self.init_temporal_attn(x, bias)
        time = self.time_mlp(time)
        music_modulations = iter(condition.music_modulations)
        skips = []
        for block1, block2, spatial, temporal, down in self.downs:
            x = block2(block1(x, time, next(music_modulations)), time, next(music_modulations))
            x = temporal(spatial(x), bias)
            skips.append(x)
            x = per_frame(down, x)
        x = self.mid_block1(x, time, next(music_modulations))
        x = self.mid_temporal_attn(self.mid_spatial_attn(x), bias)
        x = self.mid_block2(x, time, next(music_modulations))
        for block1, block2, spatial, temporal, up in self.ups:
            x = torch.cat([x, skips.pop()], 1)
            x = block2(block1(x, time, next(music_modulations)), time, next(music_modulations))
            x = per_frame(up, temporal(spatial(x), bias))
        x = torch.cat([x, first_features], 1)
        outputs = [per_frame(conv, block(x)) for block, conv in (self.final_conv, self.occlusion_map)]
        return torch.cat(
            [per_frame(lambda y: F.pixel_shuffle(y, self.flow_patch_size), output) for output in outputs], 1
        )


def from_lfdm(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the public `denoise_fn.*` state dict: names without wrappers, 3D kernels of depth 1 as 2D kernels."""
    converted = {}
    for name, value in state_dict.items():
        if not name.startswith("denoise_fn."):
            continue
        name = name.removeprefix("denoise_fn.").replace(".fn", "")
        if name.endswith("gamma"):
            value = value.flatten()
        converted[name] = value.squeeze(2) if value.ndim == 5 else value
    return converted
