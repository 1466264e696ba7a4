"""The video U-Net: Stable Diffusion's (1.x) applied to each frame, with temporal modules between its layers.

Parameters are named as in diffusers' `UNet2DConditionModel`, and motion modules as in AnimateDiff and in the published
UNet3D of Moore-AnimateAnyone, Champ and MagicAnimate, so that all of them load by name. Features of a ReferenceNet are
arguments; modules keep no state between calls, and the number of frames is free. `precompute_conditioning` computes
once per request all values that do not depend on the noisy input.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.upsampling import Upsample2D
from einops import rearrange
from torch import Tensor, nn

from zoo.nn.init import init_delta_orthogonal_
from zoo.nn.temporal import MotionModule, MusicAttentionModule
from zoo.nn.video_unet.blocks import BlockConfig, FrameNorm, SpatialTransformer, UNetLevel, leaf_modules
from zoo.nn.video_unet.conditioning import Conditioning, ForwardState, fold_frames, position_map, repeat_for_cfg


class VideoUNet(nn.Module):
    """Down and up through several resolutions: noisy video (B, C, F, H, W) and time -> network output.

    The defaults are Stable Diffusion 1.5's.
    """

    def __init__(
        self,
        channels: Sequence[int] = (320, 640, 1280, 1280),  # one per level
        attention_levels: Sequence[bool] = (True, True, True, False),  # levels with spatial transformers
        layers_per_block: int = 2,
        num_attention_heads: int = 8,  # of every attention: dim / heads channels each
        text_dim: int = 768,
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        dropout: float = 0.0,
        use_motion_modules: bool = False,  # behind every layer
        motion_in_middle: bool = False,  # also in the middle block (AnimateDiff v2, Moore, Champ)
        music_token_dims: Mapping[str, int] | None = None,  # music modules in their order, width of their tokens
        norm_across_frames: bool = False,  # in residual blocks (AnimateDiff v1, MagicAnimate)
        face_dim: int | None = None,  # width of face tokens; None: no face attention
        position_encoding: bool = False,  # add the positions of pixels after the first convolution
        init: str | None = None,  # 'orthogonal': see `init_delta_orthogonal_`, for training from scratch
        extra_out_channels: int = 0,  # behind those that the noise schedule needs
    ):
        """Raises ValueError for an unknown `init`."""
        super().__init__()
        if init not in (None, "orthogonal"):
            raise ValueError(f"unet.init={init}: use orthogonal or null")
        first_dim, last_dim, time_dim = channels[0], channels[-1], 4 * channels[0]
        block_config = BlockConfig(
            time_dim,
            text_dim,
            face_dim,
            num_attention_heads,
            norm_num_groups,
            dropout,
            norm_across_frames,
            music_token_dims or {},
        )
        self.conv_in = nn.Conv2d(latent_channels, first_dim, 3, padding=1)
        self.time_proj = Timesteps(first_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(first_dim, time_dim)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skip_channels, previous_dim = [first_dim], first_dim
        for index, (dim, has_attention) in enumerate(zip(channels, attention_levels, strict=True)):
            # (in, out) of each layer
            layer_channels = [(previous_dim if layer == 0 else dim, dim) for layer in range(layers_per_block)]
            level = UNetLevel(layer_channels, has_attention, use_motion_modules, block_config)
            skip_channels += [dim] * layers_per_block
            if index < len(channels) - 1:
                level.downsamplers = nn.ModuleList([Downsample2D(dim, use_conv=True, name="op")])
                skip_channels.append(dim)
            self.down_blocks.append(level)
            previous_dim = dim
        self.mid_block = UNetLevel([(last_dim, last_dim)], True, use_motion_modules and motion_in_middle, block_config)
        self.mid_block.resnets.append(block_config.resnet_block(last_dim, last_dim))
        up_settings = zip(reversed(channels), reversed(attention_levels), strict=True)
        for index, (dim, has_attention) in enumerate(up_settings):
            layer_channels = [
                ((previous_dim if layer == 0 else dim) + skip_channels.pop(), dim)
                for layer in range(layers_per_block + 1)
            ]
            level = UNetLevel(layer_channels, has_attention, use_motion_modules, block_config)
            if index < len(channels) - 1:
                level.upsamplers = nn.ModuleList([Upsample2D(dim, use_conv=True)])
            self.up_blocks.append(level)
            previous_dim = dim
        self.conv_norm_out = FrameNorm(norm_num_groups, first_dim, 1e-5, norm_across_frames)
        self.conv_out = nn.Conv2d(first_dim, latent_channels + extra_out_channels, 3, padding=1)
        self.position_encoding = position_encoding
        if init == "orthogonal":
            init_delta_orthogonal_(self)
            for level in self._levels():
                for modules in level.music_modules.values():
                    for module in modules:
                        module.init_to_identity()

    def _levels(self) -> list[UNetLevel]:
        return [*self.down_blocks, self.mid_block, *self.up_blocks]

    def attention_blocks(self) -> list[SpatialTransformer]:
        """Return the spatial transformers in the order of the forward pass."""
        transformers = [transformer for level in self._levels() for transformer in level.attentions or ()]
        return [transformer for transformer in transformers if isinstance(transformer, SpatialTransformer)]

    def temporal_modules(self) -> dict[str, nn.Module]:
        """Return motion and music modules by their paths."""
        return {
            path: module
            for path, module in leaf_modules(self)
            if isinstance(module, MotionModule | MusicAttentionModule)
        }

    def spatial_modules(self) -> dict[str, nn.Module]:
        """Return all other modules that have parameters, by their paths."""
        temporal = self.temporal_modules()
        return {
            path: module
            for path, module in leaf_modules(self)
            if path not in temporal and any(True for _ in module.parameters())
        }

    def precompute_conditioning(
        self,
        text: Tensor | None = None,
        reference: Sequence[Tensor | None] = (),
        context: Sequence[Tensor] = (),
        music: Mapping[str, Tensor] | None = None,
        face: Tensor | None = None,
        use_motion_modules: bool = True,
    ) -> Conditioning:
        """Compute keys and values of all conditions, once per request.

        text: (B, L, text_dim). reference: features of R <= B images from a `ReferenceNet`, of the first samples; None
        where a transformer does not attend to them. context: features of the M frames before, (B, M, H W, C) per
        transformer. music: tokens (B, L, token_dim) by module name; modules without tokens are skipped. face:
        (B, L, face_dim). use_motion_modules: False for frames that are independent images.
        """
        transformers, levels = self.attention_blocks(), self._levels()
        for name in music or {}:
            assert any(name in level.music_modules for level in levels), f"no module attends to {name} tokens"
        reference_pairs = zip(transformers, reference, strict=True) if reference else ()
        return Conditioning(
            text=[] if text is None else [transformer.text_kv(text) for transformer in transformers],
            face=[] if face is None else [transformer.face_kv(face) for transformer in transformers],
            reference=[
                None if feature is None else transformer.reference_kv(feature)
                for transformer, feature in reference_pairs
            ],
            context=context,
            music={
                name: [
                    module.precompute_kv(tokens)
                    for level in levels
                    if name in level.music_modules
                    for module in level.music_modules[name]
                ]
                for name, tokens in (music or {}).items()
            },
            use_motion_modules=use_motion_modules,
        )

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        conditioning: Conditioning = Conditioning(),  # noqa: B008 (frozen)
        cond_features: Tensor | None = None,
        block_residuals: Sequence[Tensor] = (),
        share_cfg_encoder: bool = False,
    ) -> Tensor:
        """Noisy x (B, latent_channels, F, H, W) at steps time (B,) -> the same shape with `extra_out_channels` more.

        cond_features (B, channels[0], F, H, W) are added to the first convolution, as by a pose encoder.
        block_residuals: a ControlNet's, (B, C, F, h, w) for each skip connection, then one for the middle block.
        share_cfg_encoder: the second half of the samples equals the first except for the reference, to which no
        transformer on the way down attends; the way down is then computed once for both halves, and block_residuals
        have B / 2 samples.
        """
        num_frames = x.shape[2]
        y, _ = self._forward_features(x, time, conditioning, cond_features, block_residuals, None, share_cfg_encoder)
        y = self.conv_out(F.silu(self.conv_norm_out(y, num_frames)))
        return rearrange(y, "(b f) c h w -> b c f h w", f=num_frames)

    def _forward_features(
        self, x, time, conditioning, cond_features, block_residuals, recorded_features, share_cfg_encoder=False
    ) -> tuple[Tensor, ForwardState]:
        """Noisy x (B, C, F, H, W) -> input of the output layers (B F, channels[0], H, W), and the state of the pass.

        recorded_features: receives the input of each spatial attention, unless None; see `ForwardState`.
        """
        if share_cfg_encoder:
            x, skips, state = self._down_shared_for_cfg(x, time, conditioning, cond_features, block_residuals[:-1])
        else:
            x, skips, state = self._down(x, time, conditioning, cond_features, recorded_features)
            if block_residuals:
                skips = _add_residuals(skips, block_residuals[:-1])
        x = self._middle(x, state)
        if block_residuals:
            residual = fold_frames(block_residuals[-1])
            x = x + (repeat_for_cfg(residual) if share_cfg_encoder else residual)
        for level in self.up_blocks:
            for layer in range(len(level.resnets)):
                x = level.forward_layer(layer, torch.cat([x, skips.pop()], 1), state)
            if level.upsamplers is not None:
                # to the size of the next skip connection: an odd size was rounded up on the way down
                x = level.upsamplers[0].conv(F.interpolate(x, skips[-1].shape[2:], mode="nearest"))
        return x, state

    def _down_shared_for_cfg(
        self, x, time, conditioning, cond_features, skip_residuals
    ) -> tuple[Tensor, list[Tensor], ForwardState]:
        """Compute `_down` for the first half of the samples, add residuals to its skips, repeat all for both halves."""
        half_batch = len(x) // 2
        num_down_attentions = sum(len(level.attentions or ()) for level in self.down_blocks)
        is_shareable = not (
            any(conditioning.reference[:num_down_attentions])
            or conditioning.face
            or conditioning.context
            or conditioning.music
        )
        assert is_shareable, "share_cfg_encoder: the halves differ on the way down"
        text = [tuple(tensor[:half_batch] for tensor in text_kv) for text_kv in conditioning.text]
        shared_conditioning = Conditioning(text=text, use_motion_modules=conditioning.use_motion_modules)
        half_cond_features = None if cond_features is None else cond_features[:half_batch]
        x, skips, state = self._down(x[:half_batch], time[:half_batch], shared_conditioning, half_cond_features, None)
        if skip_residuals:
            skips = _add_residuals(skips, skip_residuals)
        state = ForwardState(state.num_frames, repeat_for_cfg(state.time_embedding), conditioning, None)
        return repeat_for_cfg(x), [repeat_for_cfg(skip) for skip in skips], state

    def _middle(self, x: Tensor, state: ForwardState) -> Tensor:
        """(B F, C, h, w) -> the same shape"""
        return self.mid_block.resnets[1](self.mid_block.forward_layer(0, x, state), state)

    def _down(
        self, x, time, conditioning, cond_features, recorded_features
    ) -> tuple[Tensor, list[Tensor], ForwardState]:
        """(B, C, F, H, W) -> input of the middle block (B F, C, h, w), and the skip connections."""
        embedding = self.time_embedding(self.time_proj(time).to(self.conv_in.weight.dtype))
        state = ForwardState(x.shape[2], F.silu(embedding), conditioning, recorded_features)
        x = self.conv_in(fold_frames(x))
        if self.position_encoding:
            x = x + position_map(x)
        if cond_features is not None:
            x = x + fold_frames(cond_features).to(x.dtype)
        skips = [x]
        for level in self.down_blocks:
            for layer in range(len(level.resnets)):
                x = level.forward_layer(layer, x, state)
                skips.append(x)
            if level.downsamplers is not None:
                x = level.downsamplers[0](x)
                skips.append(x)
        return x, skips, state


def _add_residuals(skips: Sequence[Tensor], residuals: Sequence[Tensor]) -> list[Tensor]:
    """Skips (B F, C, h, w) plus residuals (B, C, F, h, w)."""
    return [skip + fold_frames(residual) for skip, residual in zip(skips, residuals, strict=True)]
