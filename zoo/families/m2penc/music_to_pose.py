"""M2PEnc: music features become pose guidance and joint heat maps (M2PEnc sec. 3.2).

The paper gives the input, the 64 x 64 grid and the two outputs. Docstrings say how the rest was read.
"""

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from einops import rearrange
from torch import Tensor, nn

from zoo.nn.attention import CrossAttention
from zoo.nn.temporal import TemporalAttention

HEATMAP_SIGMA = 1.5  # cells, of a joint's density, if no other one is given
DENSITY_SCALE = 4.0  # a joint's density has a peak of about 1/4, if it is as narrow as at size=tiny
MIN_MASS = 0.5  # of a joint's density that must lie within the grid; joints with less are left out


class SpatialAttention(CrossAttention):
    """Self-attention of the cells of one frame."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)"""
        return super().forward(x, self.keys_values(x))


class SpaceTimeBlock(nn.Module):
    """The paper's "3D attention": within a frame, a feed-forward layer, then along each cell's time.

    Joint attention over 75 x 64 x 64 tokens is out of reach; the paper's purpose is long-range temporal relationships.
    Champ's Transformer3DModel with temporal attention has the same order. The output projection is 0 at first.
    """

    def __init__(self, dim: int, num_heads: int, num_groups: int, use_spatial_attention: bool):
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, dim, eps=1e-6)
        self.proj_in = nn.Linear(dim, dim)
        self.spatial_norm = nn.LayerNorm(dim) if use_spatial_attention else None
        self.spatial_attention = SpatialAttention(dim, num_heads) if use_spatial_attention else None
        self.ff_norm = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)
        self.temporal_norm = nn.LayerNorm(dim)
        self.temporal_attention = TemporalAttention(dim, num_heads)
        self.proj_out = nn.Linear(dim, dim)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N, G, G) -> the same shape."""
        batch, _, frames, height, _ = x.shape
        y = self.norm(rearrange(x, "b c n h w -> (b n) c h w"))  # over frames apart
        y = self.proj_in(rearrange(y, "m c h w -> m (h w) c"))
        if self.spatial_attention is not None and self.spatial_norm is not None:
            y = y + self.spatial_attention(self.spatial_norm(y))
        y = y + self.ff(self.ff_norm(y))
        y = rearrange(y, "(b n) p c -> (b p) n c", n=frames)
        y = y + self.temporal_attention(self.temporal_norm(y))
        y = self.proj_out(y)
        return x + rearrange(y, "(b h w) n c -> b c n h w", b=batch, h=height)


class JointGuidance(nn.Module):
    """Guidance of the joints' densities, frame by frame; not in the paper.

    Guidance is a local function of the pose, and the heat maps have the pose already.
    """

    def __init__(self, num_joints: int, guidance_channels: int, width: int):
        super().__init__()
        channels = [num_joints, width, width, guidance_channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in zip(channels, channels[1:], strict=False)
        )
        self.convs[-1].weight.data.mul_(0.1)  # training begins near the targets' means
        nn.init.zeros_(self.convs[-1].bias)

    def forward(self, logits: Tensor) -> Tensor:
        """Heat-map logits (B, J, N, G, G) -> guidance (B, C_guid, N, G, G)."""
        density = logits.flatten(-2).float().softmax(-1).unflatten(-1, logits.shape[-2:])
        x = (DENSITY_SCALE * density).movedim(1, 2).flatten(0, 1)
        for index, conv in enumerate(self.convs):
            x = conv(F.silu(x) if index else x)
        return x.unflatten(0, (len(logits), -1)).movedim(1, 2)


class MusicToPose(nn.Module):
    """Music features of N frames -> guidance for the U-Net, and logits of the joints' heat maps.

    "Inflated 3D convolution" is read as 3 x 3 x 3, because the paper says that it captures spatio-temporal dependencies
    by expanding 2D convolutions into time. Champ's class of that name works frame by frame. Number of layers, width and
    heads are not given: 4, 256 (Champ's last guidance width) and 8 at the paper's size. The encoder is deterministic.
    """

    def __init__(
        self,
        *,
        music_dim: int,  # D, of one token of the music encoder (4800 for Jukebox)
        grid_size: int,  # G, cells per side (64)
        width: int,  # channels between the layers
        num_layers: int,  # L
        num_attention_heads: int,
        norm_num_groups: int,
        guidance_channels: int,  # C_guid: of the U-Net's first features, which the guidance is added to
        num_joints: int,  # C_heat; SMPL's 24, whose places are known exactly in rendered data
        use_spatial_attention: bool,  # takes as long as the rest at the tiny size
        joint_guidance_width: int | None = None,  # channels of `JointGuidance`, which is added to the guidance
    ):
        super().__init__()
        self.grid_size = grid_size
        self.input_projection = nn.Linear(music_dim, grid_size * grid_size)
        self.convs = nn.ModuleList(nn.Conv3d(width if index else 1, width, 3, padding=1) for index in range(num_layers))
        self.norms = nn.ModuleList(nn.GroupNorm(norm_num_groups, width) for _ in range(num_layers))
        self.blocks = nn.ModuleList(
            SpaceTimeBlock(width, num_attention_heads, norm_num_groups, use_spatial_attention)
            for _ in range(num_layers)
        )
        self.guidance_head = nn.Conv3d(width, guidance_channels, 3, padding=1)
        self.heatmap_head = nn.Conv3d(width, num_joints, 3, padding=1)
        for head in (self.guidance_head, self.heatmap_head):  # training begins near the targets' means
            head.weight.data.mul_(0.1)
            nn.init.zeros_(head.bias)
        self.joint_guidance = None
        if joint_guidance_width is not None:
            self.joint_guidance = JointGuidance(num_joints, guidance_channels, joint_guidance_width)

    def forward(self, music: Tensor, heatmap_mean: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """(B, N, D), one token a video frame -> guidance (B, C_guid, N, G, G), logits (B, C_heat, N, G, G).

        heatmap_mean (C_heat, 1, G, G): added to the logits. The guidance's loss does not reach the heat maps through
        `JointGuidance`.
        """
        x = self.input_projection(music).unflatten(2, (self.grid_size, self.grid_size))[:, None]
        for index, (conv, norm, block) in enumerate(zip(self.convs, self.norms, self.blocks, strict=True)):
            y = F.silu(norm(conv(x)))
            x = block(x + y if index else y)
        guidance, logits = self.guidance_head(x), self.heatmap_head(x) + heatmap_mean
        if self.joint_guidance is not None:
            guidance = guidance + self.joint_guidance(logits.detach())
        return guidance, logits


def frame_features(music: Tensor, music_rate: float, times: Tensor) -> Tensor:
    """Features (B, L, D), token i at i / music_rate, at `times` (N,) seconds: linear interpolation -> (B, N, D)."""
    position = (times.to(music.device).double() * music_rate).clamp(0, music.shape[1] - 1)
    lower = position.floor().long()
    weight = (position - lower).to(music.dtype)[:, None]
    return torch.lerp(music[:, lower], music[:, (lower + 1).clamp(max=music.shape[1] - 1)], weight)


def joint_density(joints: Tensor, grid_size: int, sigma: float = HEATMAP_SIGMA) -> tuple[Tensor, Tensor]:
    """Densities (..., G, G) of joints (..., 2) in cells, each of sum 1, and whether they count (...,) bool.

    sigma: of a density, in cells. A joint counts if at least half of its density lies within the grid.
    """
    cells = torch.arange(grid_size, device=joints.device) + 0.5
    x, y = (torch.exp(-(cells - joints[..., axis, None]).square() / (2 * sigma**2)) for axis in (0, 1))
    density = y[..., :, None] * x[..., None, :]
    mass = density.sum((-2, -1))
    counts = mass >= MIN_MASS * 2 * torch.pi * sigma**2
    return density / mass.clamp(min=1e-12)[..., None, None], counts


def expected_joints(logits: Tensor) -> Tensor:
    """Soft-argmax of heat maps (..., G, G): the expected places (..., 2) in cells, x right, y down."""
    probability = logits.flatten(-2).float().softmax(-1).unflatten(-1, logits.shape[-2:])
    cells = torch.arange(logits.shape[-1], device=logits.device) + 0.5
    return torch.stack([(probability.sum(axis) * cells).sum(-1) for axis in (-2, -1)], -1)


def heatmap_loss(logits: Tensor, joints: Tensor, sigma: float = HEATMAP_SIGMA, use_divergence: bool = False) -> Tensor:
    """Mean squared error of the joints' densities, in units of a heat map of peak 1 (M2PEnc sec. 3.4).

    logits (B, J, N, G, G); joints (B, N, J, 2) in cells. The formula's sums are lost in the text. It is read as a
    softmax over the places against a density, because the text speaks of spatial probability and of keypoint density
    maps. Joints outside the image are left out. use_divergence: the Kullback-Leibler divergence of the densities
    instead, whose gradient does not vanish with the probability (not in the paper).
    """
    density, counts = joint_density(joints.movedim(2, 1), logits.shape[-1], sigma)
    log_probability = logits.flatten(-2).float().log_softmax(-1).unflatten(-1, logits.shape[-2:])
    if use_divergence:
        errors = (density * (density.clamp(min=1e-12).log() - log_probability)).sum((-2, -1))
    else:
        squared_error = (log_probability.exp() - density).square().mean((-2, -1))
        errors = (2 * torch.pi * sigma**2) ** 2 * squared_error
    return (errors * counts).sum() / counts.sum().clamp(min=1)


def guidance_loss(predicted: Tensor, target: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Mean absolute error of the guidance (B, C, N, G, G), divided by `scale` (M2PEnc sec. 3.4)."""
    return (predicted - target).abs().mean() / scale
