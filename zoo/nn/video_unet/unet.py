"""The video U-Net: Stable Diffusion's (1.x), frame by frame, with modules between its layers that look along time.

Parameters are named as in diffusers' `UNet2DConditionModel`, and motion modules as in AnimateDiff and in the public
UNet3D of Moore-AnimateAnyone, Champ and MagicAnimate, so that all of them load by name. What a ReferenceNet saw comes
as an argument, one tensor a place; nothing is kept on modules between calls, and no number of frames is built in.
What depends on the request alone (keys and values of text, reference and song) is computed once by `prepare`.

A *place* is a spatial transformer, counted in the order of the forward pass; a song's modules stand right behind one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from einops import rearrange
from torch import Tensor, nn

from zoo.nn.attention import CrossAttention, KeysValues
from zoo.nn.init import begin_orthogonal
from zoo.nn.temporal import MotionModule, SongModule, positions


@dataclass(frozen=True)
class Request:
    """What the network needs of a request, by places. B: its samples, of guided pairs the conditional ones first.

    A list may be empty: then there is no such thing at any place.
    """

    text: Sequence[KeysValues] = ()  # (B, heads, L, d) each
    reference: Sequence[KeysValues | None] = ()  # (R, heads, H W, d): of the first R <= B samples, the others have none
    face: Sequence[KeysValues] = ()  # (B, heads, L, d) each
    past: Sequence[Tensor] = ()  # (B, M, H W, C): hidden states of M frames before
    songs: Mapping[str, Sequence[KeysValues]] = field(default_factory=dict)  # (B, heads, L, d) each
    still: bool = False  # frames are pictures of their own: motion modules are left out


@dataclass
class _Pass:
    """One forward pass: what is given, and what is found on the way."""

    frames: int
    time: Tensor  # (B, time_dim), after SiLU
    request: Request
    features: list[Tensor] | None  # of every place, if they are wanted


class FrameNorm(nn.GroupNorm):
    """Group norm of (B F, C, H, W): each frame by itself, or (`jointly`) all frames of a video at once."""

    def __init__(self, groups: int, channels: int, eps: float, jointly: bool):
        super().__init__(groups, channels, eps)
        self.jointly = jointly

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(B F, C, H, W) -> the same"""
        if not self.jointly or frames == 1:
            return super().forward(x)
        y = super().forward(rearrange(x, "(b f) c h w -> b c f h w", f=frames))
        return rearrange(y, "b c f h w -> (b f) c h w")


class Residual(ResnetBlock2D):
    """diffusers' residual block, for videos: time is embedded once for all frames, which norms may span."""

    def __init__(self, channels: int, out: int, time_dim: int, groups: int, dropout: float, jointly: bool):
        options = {"temb_channels": time_dim, "groups": groups, "dropout": dropout, "eps": 1e-5}
        super().__init__(in_channels=channels, out_channels=out, **options)
        self.norm1, self.norm2 = (FrameNorm(groups, width, 1e-5, jointly) for width in (channels, out))

    def forward(self, x: Tensor, run: _Pass) -> Tensor:
        """(B F, C, H, W) -> (B F, out, H, W)"""
        y = self.conv1(F.silu(self.norm1(x, run.frames)))
        time = self.time_emb_proj(run.time).repeat_interleave(run.frames, 0)
        y = F.silu(self.norm2(y + time[:, :, None, None], run.frames))
        y = self.conv2(self.dropout(y))
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class SpatialBlock(nn.Module):
    """Attention within a frame and to a reference; to a text and a face; feed-forward. Each beside the identity."""

    fsdp_forward_methods = ("of_text", "of_face", "of_reference")  # from outside, beside forward

    def __init__(self, dim: int, heads: int, text_dim: int, face_dim: int | None, dropout: float):
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(dim), CrossAttention(dim, heads, dropout=dropout)
        self.norm2, self.attn2 = nn.LayerNorm(dim), CrossAttention(dim, heads, text_dim, dropout)
        self.norm3, self.ff = nn.LayerNorm(dim), FeedForward(dim, dropout=dropout)
        self.attn_face = None
        if face_dim is not None:
            self.attn_face = CrossAttention(dim, heads, face_dim, dropout)
            nn.init.zeros_(self.attn_face.to_out[0].weight)  # beside weights that know no faces it changes nothing
            nn.init.zeros_(self.attn_face.to_out[0].bias)

    def of_text(self, text: Tensor) -> KeysValues:
        """(B, L, text_dim) -> keys and values"""
        return self.attn2.keys_values(text)

    def of_face(self, face: Tensor) -> KeysValues:
        """(B, L, face_dim) -> keys and values"""
        return self.attn_face.keys_values(face)

    def of_reference(self, feature: Tensor) -> KeysValues:
        """A reference's feature here (R, H W, C) -> keys and values"""
        return self.attn1.keys_values(feature)

    def look(self, x: Tensor, reference: KeysValues | None, frames: int) -> Tensor:
        """Self-attention of normed x (N, T, C); of the first samples' frames jointly with a reference's tokens.

        This is the paper's joining of both along the width, of which the first half is kept (MuseDance sec. 3.2): only
        queries of the frame itself are ever asked.
        """
        own = self.attn1.keys_values(x)
        if reference is None:
            return self.attn1(x, own)
        rows = len(reference[0]) * frames
        both = [
            torch.cat([mine[:rows], other.to(mine.dtype).repeat_interleave(frames, 0)], 2)
            for mine, other in zip(own, reference, strict=True)
        ]
        seen = self.attn1(x[:rows], tuple(both))
        return seen if rows == len(x) else torch.cat([seen, self.attn1(x[rows:], tuple(mine[rows:] for mine in own))])

    def forward(self, y: Tensor, place: int, run: _Pass) -> Tensor:
        """(N, T, C) -> the same"""
        seen = self.norm1(y)
        if run.features is not None:
            run.features.append(seen)
        y = y + self.look(seen, run.request.reference[place] if run.request.reference else None, run.frames)
        known = []
        if run.request.text:
            known.append((self.attn2, run.request.text[place]))
        if run.request.face and self.attn_face is not None:
            known.append((self.attn_face, run.request.face[place]))
        if known:
            asked = self.norm2(y).unflatten(0, (-1, run.frames)).flatten(1, 2)  # (B, F T, C): one text for all frames
            for attention, tokens in known:
                y = y + attention(asked, tokens).unflatten(1, (run.frames, -1)).flatten(0, 1)
        return y + self.ff(self.norm3(y))


class SpatialTransformer(nn.Module):
    """Norm and 1x1 convolutions about a block."""

    fsdp_forward_methods = ("of_text", "of_face", "of_reference")  # from outside, beside forward

    def __init__(
        self, dim: int, heads: int, groups: int, text_dim: int, face_dim: int | None, dropout: float, place: int
    ):
        super().__init__()
        self.place = place
        self.norm = nn.GroupNorm(groups, dim, eps=1e-6)
        self.proj_in = nn.Conv2d(dim, dim, 1)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(dim, heads, text_dim, face_dim, dropout)])
        self.proj_out = nn.Conv2d(dim, dim, 1)

    def of_text(self, text: Tensor) -> KeysValues:
        """(B, L, text_dim) -> keys and values"""
        return self.transformer_blocks[0].of_text(text)

    def of_face(self, face: Tensor) -> KeysValues:
        """(B, L, face_dim) -> keys and values"""
        return self.transformer_blocks[0].of_face(face)

    def of_reference(self, feature: Tensor) -> KeysValues:
        """A reference's feature here (R, H W, C) -> keys and values"""
        return self.transformer_blocks[0].of_reference(feature)

    def forward(self, x: Tensor, run: _Pass) -> Tensor:
        """(N, C, H, W) -> the same"""
        height = x.shape[2]
        y = rearrange(self.proj_in(self.norm(x)), "n c h w -> n (h w) c")
        y = self.transformer_blocks[0](y, self.place, run)
        return x + self.proj_out(rearrange(y, "n (h w) c -> n c h w", h=height))


class LastLook(nn.Module):
    """What is left of the last spatial transformer of a network whose features alone are wanted."""

    def __init__(self, dim: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, dim, eps=1e-6)
        self.proj_in = nn.Conv2d(dim, dim, 1)
        self.transformer_blocks = nn.ModuleList([nn.ModuleDict({"norm1": nn.LayerNorm(dim)})])

    def forward(self, x: Tensor, run: _Pass) -> Tensor:
        """(N, C, H, W) -> the same; the feature is found"""
        y = rearrange(self.proj_in(self.norm(x)), "n c h w -> n (h w) c")
        run.features.append(self.transformer_blocks[0]["norm1"](y))
        return x


@dataclass(frozen=True)
class _Plan:
    """What is alike in all levels."""

    time_dim: int
    text_dim: int
    face_dim: int | None
    heads: int
    groups: int
    dropout: float
    jointly: bool
    songs: Mapping[str, int]
    places: Iterator[int] = field(default_factory=count)

    def residual(self, channels: int, out: int) -> Residual:
        """A residual block."""
        return Residual(channels, out, self.time_dim, self.groups, self.dropout, self.jointly)


class Level(nn.Module):
    """Layers at one size: a residual block, then maybe a spatial transformer, a song's modules, a motion module."""

    def __init__(self, widths: Sequence[tuple[int, int]], attends: bool, moves: bool, plan: _Plan):
        """widths: channels in and out of each layer; moves: it has motion modules."""
        super().__init__()
        dim = widths[0][1]
        sizes = dim, plan.heads, plan.groups
        self.resnets = nn.ModuleList(plan.residual(*width) for width in widths)
        self.attentions = self.motion_modules = self.downsamplers = self.upsamplers = None
        self.songs = nn.ModuleDict()
        if attends:
            self.attentions = nn.ModuleList(
                SpatialTransformer(*sizes, plan.text_dim, plan.face_dim, plan.dropout, next(plan.places))
                for _ in widths
            )
            for name, token_dim in plan.songs.items():
                self.songs[name] = nn.ModuleList(SongModule(*sizes, token_dim, plan.dropout) for _ in widths)
        if moves:
            self.motion_modules = nn.ModuleList(MotionModule(*sizes, plan.dropout) for _ in widths)

    def listeners(self, name: str) -> Iterable[SongModule]:
        """The modules here that hear this part of the song."""
        return self.songs[name] if name in self.songs else ()

    def layer(self, index: int, x: Tensor, run: _Pass) -> Tensor:
        """(N, C, H, W) -> (N, out, H, W)"""
        x, request, past = self.resnets[index](x, run), run.request, None
        if self.attentions is not None:
            transformer = self.attentions[index]
            x = transformer(x, run)
            past = request.past[transformer.place] if request.past else None
            for name, modules in self.songs.items():
                if name in request.songs:
                    x = modules[index](x, run.frames, request.songs[name][transformer.place])
        if self.motion_modules is not None and not request.still:
            x = self.motion_modules[index](x, run.frames, past)
        return x


class VideoUNet(nn.Module):
    """Four sizes down and up, of video and time to what its schedule wants."""

    def __init__(
        self,
        channels: Sequence[int] = (320, 640, 1280, 1280),
        attention_levels: Sequence[bool] = (True, True, True, False),
        layers_per_block: int = 2,
        num_attention_heads: int = 8,
        text_dim: int = 768,
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        dropout: float = 0.0,
        motion: bool = False,
        motion_middle: bool = False,
        songs: Mapping[str, int] | None = None,
        jointly: bool = False,
        face_dim: int | None = None,
        position_encoding: bool = False,
        init: str | None = None,
        extra: int = 0,
    ):
        """The defaults are Stable Diffusion 1.5's.

        attention_levels: which have spatial transformers; num_attention_heads: of dim / heads values each. motion:
        motion modules behind every layer, those of the middle only with `motion_middle` (AnimateDiff v2, Moore, Champ).
        songs: names of modules that listen, in order, and the width of the tokens each hears. jointly: residual blocks
        norm all frames of a video at once (AnimateDiff v1, MagicAnimate). face_dim: width of a
        face's tokens, None where there is no attention to one. position_encoding: sines of
        the pixels' positions are added. init: 'orthogonal' for training from scratch, see `begin_orthogonal`.
        extra: channels of the answer behind those that the schedule wants.
        """
        super().__init__()
        first, last, time_dim = channels[0], channels[-1], 4 * channels[0]
        plan = _Plan(time_dim, text_dim, face_dim, num_attention_heads, norm_num_groups, dropout, jointly, songs or {})
        self.conv_in = nn.Conv2d(latent_channels, first, 3, padding=1)
        self.time_proj = Timesteps(first, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(first, time_dim)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips, before = [first], first
        for index, (dim, attending) in enumerate(zip(channels, attention_levels, strict=True)):
            widths = [(before if layer == 0 else dim, dim) for layer in range(layers_per_block)]
            level = Level(widths, attending, motion, plan)
            skips += [dim] * layers_per_block
            if index < len(channels) - 1:
                level.downsamplers = nn.ModuleList([Downsample2D(dim, use_conv=True, name="op")])
                skips.append(dim)
            self.down_blocks.append(level)
            before = dim
        self.mid_block = Level([(last, last)], True, motion and motion_middle, plan)
        self.mid_block.resnets.append(plan.residual(last, last))
        for index, (dim, attending) in enumerate(zip(reversed(channels), reversed(attention_levels), strict=True)):
            widths = [((before if layer == 0 else dim) + skips.pop(), dim) for layer in range(layers_per_block + 1)]
            level = Level(widths, attending, motion, plan)
            if index < len(channels) - 1:
                level.upsamplers = nn.ModuleList([Upsample2D(dim, use_conv=True)])
            self.up_blocks.append(level)
            before = dim
        self.conv_norm_out = FrameNorm(norm_num_groups, first, 1e-5, jointly)
        self.conv_out = nn.Conv2d(first, latent_channels + extra, 3, padding=1)
        self.places = position_encoding
        if init == "orthogonal":
            begin_orthogonal(self)
            for level in self._levels():
                for module in [one for modules in level.songs.values() for one in modules]:
                    module.begin()

    def _levels(self) -> list[Level]:
        return [*self.down_blocks, self.mid_block, *self.up_blocks]

    def transformers(self) -> list[SpatialTransformer]:
        """All of them, by places."""
        found = [one for level in self._levels() for one in level.attentions or ()]
        return [one for one in found if isinstance(one, SpatialTransformer)]

    def temporal(self) -> dict[str, nn.Module]:
        """The modules that look along time, by their paths."""
        return {path: one for path, one in _parts(self) if isinstance(one, MotionModule | SongModule)}

    def spatial(self) -> dict[str, nn.Module]:
        """All other modules that have weights."""
        along = self.temporal()
        return {path: one for path, one in _parts(self) if path not in along and any(True for _ in one.parameters())}

    def prepare(
        self,
        text: Tensor | None = None,
        reference: Sequence[Tensor | None] = (),
        past: Sequence[Tensor] = (),
        songs: Mapping[str, Tensor] | None = None,
        face: Tensor | None = None,
        still: bool = False,
    ) -> Request:
        """Keys and values of what a request says, once.

        text (B, L, text_dim); reference: `features` of R <= B pictures, those of the first samples, None at a place
        that is not to see it; past: `features` of M frames a sample, (B, M, H W, C) a place; songs: tokens
        (B, L, token_dim) by the modules' names; a module that is not named here stays silent; face (B, L, face_dim);
        still: frames are pictures of their own, and motion modules are left out.
        """
        places, levels = self.transformers(), self._levels()
        assert all(any(name in level.songs for level in levels) for name in songs or {}), f"nobody hears {list(songs)}"
        seen = zip(places, reference, strict=True) if reference else ()
        return Request(
            text=[] if text is None else [place.of_text(text) for place in places],
            face=[] if face is None else [place.of_face(face) for place in places],
            reference=[None if feature is None else place.of_reference(feature) for place, feature in seen],
            past=past,
            songs={
                name: [one.prepare(tokens) for level in levels for one in level.listeners(name)]
                for name, tokens in (songs or {}).items()
            },
            still=still,
        )

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        request: Request = Request(),  # noqa: B008 (frozen)
        guidance: Tensor | None = None,
        residuals: Sequence[Tensor] = (),
        pairs: bool = False,
    ) -> Tensor:
        """x (B, latent_channels, F, H, W) noisy; time (B,) steps -> the same shape, and `extra` channels more.

        guidance (B, channels[0], F, H, W) is added to the first convolution, as pose guiders do; residuals, a
        ControlNet's: one (B, C, F, h, w) for every skip connection, then one for the middle. pairs: the second half of
        the samples is like the first, but for the reference, which nobody sees on the way down: that is gone once for
        both, and residuals are the first half's.
        """
        frames = x.shape[2]
        y, run = self._run(x, time, request, guidance, residuals, None, pairs)
        y = self.conv_out(F.silu(self.conv_norm_out(y, frames)))
        return rearrange(y, "(b f) c h w -> b c f h w", f=frames)

    def _run(self, x, time, request, guidance, residuals, features, pairs=False) -> tuple[Tensor, _Pass]:
        """(B, C, F, H, W) -> (B F, channels[0], H, W)"""
        if pairs:
            x, skips, run = self._down_once(x, time, request, guidance, residuals[:-1])
        else:
            x, skips, run = self._down(x, time, request, guidance, features)
            if residuals:
                skips = [skip + _flat(one) for skip, one in zip(skips, residuals[:-1], strict=True)]
        x = self._middle(x, run)
        if residuals:
            middle = _flat(residuals[-1])
            x = x + (_twice(middle) if pairs else middle)
        for level in self.up_blocks:
            for index in range(len(level.resnets)):
                x = level.layer(index, torch.cat([x, skips.pop()], 1), run)
            if level.upsamplers is not None:
                # to the size of what it meets: an odd one was rounded up on the way down
                x = level.upsamplers[0].conv(F.interpolate(x, skips[-1].shape[2:], mode="nearest"))
        return x, run

    def _down_once(self, x, time, request, guidance, residuals) -> tuple[Tensor, list[Tensor], _Pass]:
        """`_down` of pairs, with what is added to what skips the middle."""
        half, blind = len(x) // 2, sum(len(level.attentions or ()) for level in self.down_blocks)
        assert not (any(request.reference[:blind]) or request.face or request.past or request.songs), "pairs differ"
        text = [tuple(one[:half] for one in known) for known in request.text]
        alike = Request(text=text, still=request.still)
        x, skips, run = self._down(x[:half], time[:half], alike, None if guidance is None else guidance[:half], None)
        if residuals:
            skips = [skip + _flat(one) for skip, one in zip(skips, residuals, strict=True)]
        run = _Pass(run.frames, _twice(run.time), request, None)
        return _twice(x), [_twice(skip) for skip in skips], run

    def _middle(self, x: Tensor, run: _Pass) -> Tensor:
        """(B F, C, h, w) -> the same"""
        return self.mid_block.resnets[1](self.mid_block.layer(0, x, run), run)

    def _down(self, x, time, request, guidance, features) -> tuple[Tensor, list[Tensor], _Pass]:
        """(B, C, F, H, W) -> what comes before the middle (B F, C, h, w), and what skips it."""
        embedded = self.time_embedding(self.time_proj(time).to(self.conv_in.weight.dtype))
        run = _Pass(x.shape[2], F.silu(embedded), request, features)
        x = self.conv_in(_flat(x))
        if self.places:
            x = x + _places(x)
        if guidance is not None:
            x = x + _flat(guidance).to(x.dtype)
        skips = [x]
        for level in self.down_blocks:
            for index in range(len(level.resnets)):
                x = level.layer(index, x, run)
                skips.append(x)
            if level.downsamplers is not None:
                x = level.downsamplers[0](x)
                skips.append(x)
        return x, skips, run


class ReferenceNet(VideoUNet):
    """The same network for a picture, of which the features that spatial attention sees are wanted, and nothing else.

    It ends where the last of them is found, as MagicAnimate's appearance encoder does. Moore's and Champ's files hold
    the rest too, which they never use: see `zoo.nn.weights.layouts.convert_reference_net`.
    """

    def __init__(self, **sizes):
        """sizes: as of `VideoUNet`."""
        super().__init__(**sizes)
        del self.conv_norm_out, self.conv_out
        while self.up_blocks[-1].attentions is None:  # nobody sees what comes there
            del self.up_blocks[-1]
            self.up_blocks[-1].upsamplers = None
        norm = self.up_blocks[-1].attentions[-1].norm
        self.up_blocks[-1].attentions[-1] = LastLook(norm.num_channels, norm.num_groups)

    def forward(self, x: Tensor, time: Tensor | None = None, text: Tensor | None = None) -> list[Tensor]:
        """Latents (B, latent_channels, H, W), at step `time` (B,) or 0 -> what is seen at each place, (B, H W, C)."""
        time = torch.zeros(len(x), dtype=torch.long, device=x.device) if time is None else time
        text = [] if text is None else [place.of_text(text) for place in self.transformers()]
        found: list[Tensor] = []
        self._run(x[:, :, None], time, Request(text=text), None, (), found)
        return found


class ControlNet(VideoUNet):
    """The first half of the network once more, which sees guidance and says what to add to the other's skips.

    Frames do not see one another here. Zhang et al. 2023; parameters are named as in diffusers' `ControlNetModel`, and
    what it sees in the guidance is computed once, by `embed`.
    """

    fsdp_forward_methods = ("embed",)  # from outside, beside forward

    def __init__(self, guidance_channels: Sequence[int] = (16, 32, 96, 256), **sizes):
        """guidance_channels: of the convolutions on guidance, which halve it between each two; sizes: `VideoUNet`'s."""
        super().__init__(**sizes)
        first = self.conv_in.out_channels
        del self.up_blocks, self.conv_norm_out, self.conv_out
        self.controlnet_cond_embedding = ControlNetConditioningEmbedding(first, 3, tuple(guidance_channels))
        widths = [first]
        for level in self.down_blocks:
            dim = level.resnets[0].out_channels
            widths += [dim] * (len(level.resnets) + (level.downsamplers is not None))
        self.controlnet_down_blocks = nn.ModuleList(_silent(width) for width in widths)
        self.controlnet_mid_block = _silent(widths[-1])

    def _levels(self) -> list[Level]:
        return [*self.down_blocks, self.mid_block]

    def embed(self, pictures: Tensor) -> Tensor:
        """Guidance (B, F, 3, H, W) in [0, 1] -> what `forward` takes, (B, channels[0], F, h, w), once a request."""
        seen = self.controlnet_cond_embedding(pictures.flatten(0, 1))
        return rearrange(seen, "(b f) c h w -> b c f h w", b=len(pictures))

    def forward(self, x: Tensor, time: Tensor, request: Request, guidance: Tensor) -> list[Tensor]:
        """x (B, latent_channels, F, H, W), time (B,), guidance of `embed` -> `residuals` of `VideoUNet.forward`."""
        frames = x.shape[2]
        x, skips, run = self._down(x, time, request, guidance, None)
        said = [conv(skip) for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        said.append(self.controlnet_mid_block(self._middle(x, run)))
        return [rearrange(one, "(b f) c h w -> b c f h w", f=frames) for one in said]


def _silent(channels: int) -> nn.Conv2d:
    """A 1x1 convolution that begins at 0."""
    conv = nn.Conv2d(channels, channels, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def _flat(x: Tensor) -> Tensor:
    """(B, C, F, H, W) -> (B F, C, H, W)"""
    return rearrange(x, "b c f h w -> (b f) c h w").contiguous(memory_format=torch.channels_last)


def _twice(x: Tensor) -> Tensor:
    """(N, ...) -> (2 N, ...)"""
    return torch.cat([x, x])


def _places(x: Tensor) -> Tensor:
    """Half of the sines of each pixel's row and column (C, H, W), for x (N, C, H, W)."""
    width = x.shape[1] // 2
    rows, columns = (positions(torch.arange(size, device=x.device), width) for size in x.shape[2:])
    grid = torch.cat([rows[:, None].expand(-1, len(columns), -1), columns.expand(len(rows), -1, -1)], 2)
    return 0.5 * grid.permute(2, 0, 1).to(x.dtype)


def _parts(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules whose `forward` runs in a pass, outermost ones, with their paths."""
    for name, child in module.named_children():
        if isinstance(child, Level | nn.ModuleList | nn.ModuleDict | Upsample2D):
            yield from _parts(child, f"{path}{name}.")
        else:
            yield path + name, child
