"""The 3D U-Net that denoises flow and occlusion (DabFusion sec. 3.2), LFDM's network, which is video-diffusion's.

Space and time are factorised: convolutions and linear attention within a frame, attention with rotary and relative
positions along each pixel's time. Volumes are (B, C, F, H, W) with channels last in memory. What depends on the request
alone (the reference's share of the first convolution, the music's share of every block) is computed once by `prepare`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

HEAD_DIM = 32  # of every attention
PIECE = 2**17  # values


@dataclass(frozen=True)
class Prepared:
    """What the network needs of a request, computed once. B: its samples, guided pairs included."""

    reference: Tensor  # (B, width, 1, H, W): the first convolution of z0
    shifts: list[Tensor]  # for each residual block (B, 2C, F or 1): the music's share of its scale and shift


def within_frames(layer, x: Tensor) -> Tensor:
    """Apply a 2D layer to every frame. (B, C, F, H, W) -> (B, C', F, H', W')"""
    y = layer(rearrange(x, "b c f h w -> (b f) c h w"))
    return rearrange(y, "(b f) c h w -> b c f h w", b=len(x))


def _pieces(y: Tensor) -> Sequence[Tensor]:
    """Rows (N, ...) in pieces small enough that what an attention makes of one stays in a CPU's cache."""
    return y.split(max(1, PIECE // y[0].numel())) if y.device.type == "cpu" else [y]


class ChannelNorm(nn.Module):
    """Layer norm over the channels, without a bias."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)"""
        return F.layer_norm(x, x.shape[-1:], self.gamma)


class Block(nn.Module):
    """Convolution, group norm over frames and space, scale and shift, SiLU."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, out, 3, padding=1)
        self.norm = nn.GroupNorm(8, out)

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(B, C, F, H, W), (B, out, F or 1, 1, 1) twice -> (B, out, F, H, W)"""
        y = self.norm(within_frames(self.proj, x))
        if scale_shift is not None:
            y = torch.addcmul(scale_shift[1], y, scale_shift[0] + 1)
        return F.silu(y)


class ResBlock(nn.Module):
    """Two blocks beside a shortcut; time and music scale and shift the first."""

    def __init__(self, channels: int, out: int, time_dim: int = 0, music_dim: int = 0):
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time_dim + music_dim, 2 * out)) if time_dim else None
        self.time_dim = time_dim
        self.block1, self.block2 = Block(channels, out), Block(out, out)
        self.res_conv = nn.Conv2d(channels, out, 1) if channels != out else None

    def music_shift(self, music: Tensor) -> Tensor:
        """The music's share of `mlp`. (B, F or 1, D) -> (B, 2 out, F or 1)"""
        return F.linear(F.silu(music), self.mlp[1].weight[:, self.time_dim :]).movedim(1, 2)

    def forward(self, x: Tensor, time: Tensor | None = None, music: Tensor | None = None) -> Tensor:
        """x (B, C, F, H, W); time (B, time_dim); music (B, 2 out, F or 1) of `music_shift`"""
        scale_shift = None
        if self.mlp is not None:
            both = F.linear(F.silu(time), self.mlp[1].weight[:, : self.time_dim], self.mlp[1].bias)[:, :, None]
            both = both if music is None else both + music
            scale_shift = both[..., None, None].chunk(2, 1)
        y = self.block2(self.block1(x, scale_shift))
        return y + (x if self.res_conv is None else within_frames(self.res_conv, x))


class SpatialAttention(nn.Module):
    """Linear attention within each frame, beside the identity."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * heads * HEAD_DIM, 1, bias=False)
        self.to_out = nn.Conv2d(heads * HEAD_DIM, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) -> the same"""
        y = rearrange(self.norm(x.movedim(1, -1)), "b f h w c -> (b f) (h w) c")
        y = torch.cat([self._attend(piece) for piece in _pieces(y)])
        return x + rearrange(y, "(b f) (h w) c -> b c f h w", b=len(x), h=x.shape[3])

    def _attend(self, y: Tensor) -> Tensor:
        """(N, pixels, C) -> the same"""
        qkv = F.linear(y, self.to_qkv.weight.flatten(1))
        q, k, v = rearrange(qkv, "n p (three h d) -> three n h p d", three=3, h=self.heads)
        context = k.softmax(-2).mT @ v  # (N, h, d, d)
        y = (q.softmax(-1) * HEAD_DIM**-0.5) @ context
        return F.linear(rearrange(y, "n h p d -> n p (h d)"), self.to_out.weight.flatten(1), self.to_out.bias)


class Rotary(nn.Module):
    """Rotary positions."""

    def __init__(self):
        super().__init__()
        self.register_buffer("freqs", 10_000 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM))

    def forward(self, even: Tensor, odd: Tensor) -> Tensor:
        """Even and odd values of heads, (..., HEAD_DIM / 2, T) each -> (..., HEAD_DIM, T), turned, even ones first."""
        angle = self.freqs[:, None] * torch.arange(even.shape[-1], device=even.device)
        cos, sin = angle.cos().to(even.dtype), angle.sin().to(even.dtype)
        turned = torch.addcmul(even * cos, odd, sin, value=-1), torch.addcmul(odd * cos, even, sin)
        return torch.stack(turned, -3).flatten(-3, -2)


class TemporalAttention(nn.Module):
    """Attention of each pixel along its time, or (`along_time=False`) of each frame over its pixels.

    Its rows are so short (40) that two batched products are several times as fast on a CPU as a fused kernel. Time is
    kept innermost, (N, heads, HEAD_DIM, T): so no head is ever copied to make a matrix of it.
    """

    def __init__(self, channels: int, heads: int, along_time: bool = True):
        super().__init__()
        self.heads = heads
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * heads * HEAD_DIM, bias=False)
        self.to_out = nn.Linear(heads * HEAD_DIM, channels, bias=False)
        self.rotary_emb = Rotary() if along_time else None

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (B, C, F, H, W); bias (heads, F, F) of key and query -> the same shape as x"""
        batch, _, frames, height, _ = x.shape
        order = "(b h w) c f" if self.rotary_emb is not None else "(b f) c (h w)"
        y = rearrange(self.norm(x.movedim(1, -1)), f"b f h w c -> {order}").contiguous()
        into, out = self._into(), self.to_out.weight
        y = torch.cat([self._attend(piece, into, out, bias) for piece in _pieces(y)])
        return x + rearrange(y, f"{order} -> b c f h w", b=batch, f=frames, h=height)

    def _into(self) -> Tensor:
        """`to_qkv` by heads: (heads * 3 * HEAD_DIM, C). Of q and k the even values come first, q is scaled."""
        q, k, v = self.to_qkv.weight.unflatten(0, (3, self.heads, HEAD_DIM))
        q, k = (rearrange(part, "h (d two) c -> h (two d) c", two=2) for part in (q * HEAD_DIM**-0.5, k))
        return torch.stack([q, k, v], 1).flatten(0, 2)

    def _attend(self, y: Tensor, into: Tensor, out: Tensor, bias: Tensor | None) -> Tensor:
        """(N, C, T) -> the same"""
        count, _, time = y.shape
        qkv = torch.bmm(into.expand(count, -1, -1), y).view(count * self.heads, 3, HEAD_DIM, time)
        qk, v = qkv.split((2, 1), 1)
        if self.rotary_emb is not None:
            qk = self.rotary_emb(*qk.unflatten(2, (2, -1)).unbind(2))
        q, k = qk.unbind(1)
        scores = torch.bmm(k.mT, q).unflatten(0, (count, self.heads))  # (N, heads, key, query)
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        share = scores.softmax(-2).flatten(0, 1).to(v.dtype)
        y = torch.bmm(v.flatten(0, 1), share).unflatten(0, (count, self.heads)).flatten(1, 2)
        return torch.bmm(out.expand(count, -1, -1), y)


class RelativeBias(nn.Module):
    """A learned bias for each bucket of frame distances (T5's), up to 32 frames."""

    def __init__(self, heads: int, buckets: int = 32, most: int = 32):
        super().__init__()
        self.buckets, self.most = buckets, most
        self.relative_attention_bias = nn.Embedding(buckets, heads)
        # begins with ALiBi's slopes 1, 1/2, 1/4 ..: that near frames are alike takes long to be found out
        at, half, exact = torch.arange(buckets) % (buckets // 2), buckets // 2, buckets // 4
        apart = torch.where(at < exact, at.float(), exact * (most / exact) ** ((at - exact) / (half - exact)))
        self.relative_attention_bias.weight.data = -apart[:, None] * 0.5 ** torch.arange(heads)

    def forward(self, frames: int) -> Tensor:
        """(heads, F, F), of key and query"""
        at = torch.arange(frames, device=self.relative_attention_bias.weight.device)
        apart = at[None] - at[:, None]  # query minus key
        half, exact = self.buckets // 2, self.buckets // 4
        size = apart.abs()
        share = torch.log(size.clamp(min=1).float() / exact) / math.log(self.most / exact)
        far = exact + (share * (half - exact)).long()
        bucket = torch.where(size < exact, size, far.clamp(max=half - 1)) + half * (apart < 0)
        return self.relative_attention_bias(bucket).movedim(-1, 0).contiguous()


class TimeEmbedding(nn.Module):
    """Sines and cosines of the diffusion step."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, time: Tensor) -> Tensor:
        """(B,) -> (B, dim)"""
        half = self.dim // 2
        rates = torch.exp(torch.arange(half, device=time.device) * -(math.log(10_000) / (half - 1)))
        angle = time[:, None] * rates
        return torch.cat([angle.sin(), angle.cos()], -1)


class FlowUNet(nn.Module):
    """Four sizes down and up. Predicts the noise of [flow x, flow y, 2 occlusion - 1], or what its schedule wants."""

    def __init__(
        self,
        music_dim: int = 768,
        latent_channels: int = 256,
        width: int = 64,
        multiples: Sequence[int] = (1, 2, 4, 8),
        heads: int = 8,
        patch: int = 1,
        fine: int = 1,
    ):
        """The defaults are LFDM's.

        music_dim: D of the music embedding (of LFDM's text); latent_channels: of z0 (the autoencoder's); heads: of
        every attention, 32 values each; patch: squares of patch x patch pixels become one of the network's, channels
        for space, which a CPU thanks with time (1: as published); fine: how many times as fine as z0 the flow is.
        """
        super().__init__()
        time = 4 * width
        self.music_dim, self.patch, self.squares = music_dim, patch, patch * fine
        self.time_rel_pos_bias = RelativeBias(heads)
        self.flow_channels = 3 * self.squares**2
        self.init_conv = nn.Conv2d(self.flow_channels + latent_channels * patch**2, width, 7, padding=3)
        self.init_temporal_attn = TemporalAttention(width, heads)
        self.time_mlp = nn.Sequential(TimeEmbedding(width), nn.Linear(width, time), nn.GELU(), nn.Linear(time, time))

        def level(channels: int, out: int, joint: nn.Module) -> nn.ModuleList:
            first, second = ResBlock(channels, out, time, music_dim), ResBlock(out, out, time, music_dim)
            return nn.ModuleList([first, second, SpatialAttention(out, heads), TemporalAttention(out, heads), joint])

        widths = [width, *(width * multiple for multiple in multiples)]
        pairs = list(pairwise(widths))
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for index, (a, b) in enumerate(pairs):
            last = index == len(pairs) - 1
            self.downs.append(level(a, b, nn.Identity() if last else nn.Conv2d(b, b, 4, 2, 1)))
        middle = widths[-1]
        self.mid_block1 = ResBlock(middle, middle, time, music_dim)
        self.mid_spatial_attn = TemporalAttention(middle, heads, along_time=False)
        self.mid_temporal_attn = TemporalAttention(middle, heads)
        self.mid_block2 = ResBlock(middle, middle, time, music_dim)
        for index, (a, b) in enumerate(reversed(pairs)):
            last = index == len(pairs) - 1
            self.ups.append(level(2 * b, a, nn.Identity() if last else nn.ConvTranspose2d(a, a, 4, 2, 1)))
        self.final_conv = nn.Sequential(ResBlock(2 * width, width), nn.Conv2d(width, 2 * self.squares**2, 1))
        self.occlusion_map = nn.Sequential(ResBlock(2 * width, width), nn.Conv2d(width, self.squares**2, 1))
        for head in (self.final_conv, self.occlusion_map):  # to answer 0 is a better beginning than to answer the noise
            nn.init.zeros_(head[1].weight)
            nn.init.zeros_(head[1].bias)

    def _blocks(self) -> list[ResBlock]:
        """Those that hear the music, in the order they are used."""
        down = [block for level in self.downs for block in level[:2]]
        up = [block for level in self.ups for block in level[:2]]
        return [*down, self.mid_block1, self.mid_block2, *up]

    @staticmethod
    def _folded(x: Tensor, side: int) -> Tensor:
        """(B, C, H, W) -> (B, C side^2, H / side, W / side), channels last, which every later layer keeps."""
        return F.pixel_unshuffle(x, side).contiguous(memory_format=torch.channels_last)

    def prepare(self, z0: Tensor, music: Tensor) -> Prepared:
        """z0 (B, C, H, W): the reference's latent; music (B, F, D) or (B, 1, D): one embedding for all frames."""
        z0 = self._folded(z0, self.patch)
        reference = F.conv2d(z0, self.init_conv.weight[:, self.flow_channels :], self.init_conv.bias, padding=3)
        return Prepared(reference[:, :, None], [block.music_shift(music) for block in self._blocks()])

    def forward(self, x: Tensor, time: Tensor, request: Prepared | tuple[Tensor, Tensor]) -> Tensor:
        """x (B, 3, F, H, W) noisy; time (B,) steps; request: of `prepare`, or what it takes -> (B, 3, F, H, W)"""
        prepared = request if isinstance(request, Prepared) else self.prepare(*request)
        bias = self.time_rel_pos_bias(x.shape[2])
        weight = self.init_conv.weight[:, : self.flow_channels]
        noisy = within_frames(lambda y: F.conv2d(self._folded(y, self.squares), weight, padding=3), x)
        x = noisy + prepared.reference
        first = x
        x = self.init_temporal_attn(x, bias)
        time = self.time_mlp(time)
        shifts = iter(prepared.shifts)
        skips = []
        for block1, block2, spatial, temporal, down in self.downs:
            x = block2(block1(x, time, next(shifts)), time, next(shifts))
            x = temporal(spatial(x), bias)
            skips.append(x)
            x = within_frames(down, x)
        x = self.mid_block1(x, time, next(shifts))
        x = self.mid_temporal_attn(self.mid_spatial_attn(x), bias)
        x = self.mid_block2(x, time, next(shifts))
        for block1, block2, spatial, temporal, up in self.ups:
            x = torch.cat([x, skips.pop()], 1)
            x = block2(block1(x, time, next(shifts)), time, next(shifts))
            x = within_frames(up, temporal(spatial(x), bias))
        x = torch.cat([x, first], 1)
        heads = (self.final_conv, self.occlusion_map)
        answers = [within_frames(last, block(x)) for block, last in heads]
        return torch.cat([within_frames(lambda y: F.pixel_shuffle(y, self.squares), answer) for answer in answers], 1)


def from_lfdm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The public `denoise_fn.*` state -> this network's names and shapes: no wrappers, 3D kernels of depth 1 flat."""
    found = {}
    for name, value in state.items():
        if not name.startswith("denoise_fn."):
            continue
        name = name.removeprefix("denoise_fn.").replace(".fn", "")
        if name.endswith("gamma"):
            value = value.flatten()
        found[name] = value.squeeze(2) if value.ndim == 5 else value
    return found
