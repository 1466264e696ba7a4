"""The network of Beat This! (Foscarin, Schlüter and Widmer, ISMIR 2024): log-mel frames -> beat and downbeat logits.

A convolutional front end halves the frequencies three times; between the convolutions, attention goes along frequency
and along time (sec. 3.2). Then come transformer layers along time. Modules have the names of the public checkpoints
(github.com/CPJKU/beat_this). The network is built when a file is read, with the sizes of its tensors: 20 M parameters
in final0, 2 M in small0.

Shape letters: B batch, T frames, F frequencies, C channels, N tokens.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.rotary import Rotary, rotate
from zoo.nn.weights.loading import check_plain_tensors, load_strict, unwrap_state_dict

MELS, FRAME_RATE = 128, 50  # values of a frame; Hz
NUM_BLOCKS, FREQUENCY_STRIDE = 3, 4  # of the front end; of its first convolution
NOT_A_CHECKPOINT = "it is no checkpoint of Beat This! (github.com/CPJKU/beat_this), such as final0.ckpt or small0.ckpt"


class BeatThis(nn.Module):
    """The network of a file, in evaluation mode."""

    def __init__(self, path: str | Path):
        """path: a .ckpt as published, or its state dict. Raises ValueError, which names the difference, for others."""
        super().__init__()
        load_strict(self, path, self._convert, assign=True)
        self.eval()

    def _convert(self, contents: Any) -> Mapping[str, Tensor]:
        """Build the layers that a file's tensors fit; return the tensors by this module's names, in float32."""
        try:
            state_dict = unwrap_state_dict(contents)
        except ValueError:
            raise ValueError(NOT_A_CHECKPOINT) from None
        # _orig_mod: of models that were saved compiled
        state_dict = {name.removeprefix("model.").replace("_orig_mod.", ""): x for name, x in state_dict.items()}
        check_plain_tensors(state_dict, "it")
        settings = contents.get("hyper_parameters", {})
        settings = settings if isinstance(settings, Mapping) else {}
        if settings.get("fps", FRAME_RATE) != FRAME_RATE:
            raise ValueError(f"its model works at fps={settings['fps']}; only {FRAME_RATE} is supported")
        self.use_sum_head = bool(settings.get("sum_head", True))
        try:
            with torch.device("meta"):  # the file's tensors take the places of these
                self._build(state_dict)
        except (KeyError, IndexError):
            raise ValueError(NOT_A_CHECKPOINT) from None
        self.requires_grad_(False)
        return {name: x if x.dtype == torch.int64 else x.float() for name, x in state_dict.items()}

    def _build(self, state_dict: Mapping[str, Tensor]) -> None:
        prefix = "transformer_blocks.layers."
        freqs = state_dict[f"{prefix}0.0.rotary_embed.freqs"]
        head_dim, stem_dim = 2 * freqs.shape[0], state_dict["frontend.stem.conv2d.weight"].shape[0]
        dim = state_dict["frontend.linear.weight"].shape[0]
        if not head_dim or not dim or not stem_dim or dim % head_dim or stem_dim % head_dim:
            raise ValueError(f"its widths {stem_dim} and {dim} are no multiples of {head_dim}, the width of its heads")
        feed_forward_dim = state_dict[f"{prefix}0.1.net.1.weight"].shape[0]
        depth = len({name[len(prefix) :].split(".")[0] for name in state_dict if name.startswith(prefix)})
        is_partial = any(".partial." in name for name in state_dict)
        rotary = Rotary(head_dim)
        self.frontend = _Frontend(stem_dim, dim, rotary, is_partial)
        self.transformer_blocks = _Transformer(dim, feed_forward_dim, depth, rotary)
        self.task_heads = nn.ModuleDict({"beat_downbeat_lin": nn.Linear(dim, 2)})

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel frames (B, T, MELS) at FRAME_RATE -> logits of beats and of downbeats, each (B, T) float32."""
        features = self.transformer_blocks(self.frontend(x))
        beat, downbeat = self.task_heads["beat_downbeat_lin"](features).float().unbind(-1)
        return (beat + downbeat if self.use_sum_head else beat), downbeat  # a downbeat is a beat (sec. 3.2)


class _RMSNorm(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * self.gamma


class _Attention(nn.Module):
    """Self-attention along N of (B, N, C), with rotary positions and a sigmoid gate for each head and token."""

    def __init__(self, dim: int, rotary: Rotary):
        super().__init__()
        self.num_heads = dim // (2 * rotary.freqs.shape[0])
        self.rotary_embed = rotary
        self.norm = _RMSNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_gates = nn.Linear(dim, self.num_heads)
        self.to_out = nn.Sequential(nn.Linear(dim, dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, N, C)
        tables = self.rotary_embed(0, x.shape[1])
        x_attended = F.scaled_dot_product_attention(rotate(q, tables), rotate(k, tables), v)
        gates = self.to_gates(x).sigmoid().transpose(1, 2)[..., None]
        return self.to_out((x_attended * gates).transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        hidden, output = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        self.net = nn.Sequential(_RMSNorm(dim), hidden, nn.GELU(), nn.Identity(), output)  # Identity: their dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class _PartialTransformer(nn.Module):
    """Attention and feed-forward of (B, C, F, T) along the frequencies, then along time."""

    def __init__(self, dim: int, rotary: Rotary):
        super().__init__()
        self.attnF, self.ffF = _Attention(dim, rotary), _FeedForward(dim, 4 * dim)
        self.attnT, self.ffT = _Attention(dim, rotary), _FeedForward(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        batch_size = x.shape[0]
        x = x.permute(0, 3, 2, 1).flatten(0, 1)  # (B T, F, C)
        x = x + self.attnF(x)
        x = x + self.ffF(x)
        x = x.unflatten(0, (batch_size, -1)).transpose(1, 2).flatten(0, 1)  # (B F, T, C)
        x = x + self.attnT(x)
        x = x + self.ffT(x)
        return x.unflatten(0, (batch_size, -1)).permute(0, 3, 1, 2)


class _Frontend(nn.Module):
    """(B, T, MELS) -> (B, T, C)."""

    def __init__(self, stem_dim: int, dim: int, rotary: Rotary, is_partial: bool):
        super().__init__()
        convolution = nn.Conv2d(1, stem_dim, (4, 3), stride=(FREQUENCY_STRIDE, 1), padding=(0, 1), bias=False)
        self.stem = nn.ModuleDict(
            {"bn1d": nn.BatchNorm1d(MELS), "conv2d": convolution, "bn2d": nn.BatchNorm2d(stem_dim)}
        )
        blocks = []
        for index in range(NUM_BLOCKS):
            in_dim, out_dim = stem_dim << index, stem_dim << (index + 1)
            layers: dict[str, nn.Module] = {
                "partial": _PartialTransformer(in_dim, rotary) if is_partial else nn.Identity(),
                "conv2d": nn.Conv2d(in_dim, out_dim, (2, 3), stride=(2, 1), padding=(0, 1), bias=False),
                "norm": nn.BatchNorm2d(out_dim),
                "activation": nn.GELU(),
            }
            blocks.append(nn.Sequential(OrderedDict(layers)))
        self.blocks = nn.Sequential(*blocks)
        num_frequencies = MELS // FREQUENCY_STRIDE >> NUM_BLOCKS
        self.linear = nn.Linear((stem_dim << NUM_BLOCKS) * num_frequencies, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem["bn1d"](x.transpose(1, 2))[:, None]  # (B, 1, F, T)
        x = self.blocks(F.gelu(self.stem["bn2d"](self.stem["conv2d"](x))))
        return self.linear(x.flatten(1, 2).transpose(1, 2))


class _Transformer(nn.Module):
    def __init__(self, dim: int, feed_forward_dim: int, depth: int, rotary: Rotary):
        super().__init__()
        layers = ([_Attention(dim, rotary), _FeedForward(dim, feed_forward_dim)] for _ in range(depth))
        self.layers = nn.ModuleList(nn.ModuleList(layer) for layer in layers)
        self.norm = _RMSNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            for sublayer in layer:
                x = x + sublayer(x)
        return self.norm(x)
