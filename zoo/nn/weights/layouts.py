"""Which part of a family a published file starts: of Stable Diffusion, AnimateDiff, Moore, Champ or MagicAnimate.

What the parts' names become is the work of `zoo.nn.weights.public_unets`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo.nn.weights.loading import plain
from zoo.nn.weights.public_unets import reference_net, video_unet

Translation = tuple[Callable[[Any], Mapping[str, Tensor]], tuple[str, ...]]
VAE_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of the attentions in SD's files
OWN = ("motion_modules", "songs", "attn_face")  # what a video U-Net has and a U-Net for pictures has not
WRAPPED = ("module.", "unet.")  # what trainers leave before names


@dataclass(frozen=True)
class Places:
    """Where a family keeps its networks: the beginnings of their names. No controlnet: None."""

    vae: str = "vae."
    unet: str = "unet."
    reference: str = "reference_net."
    controlnet: str | None = None


def translation(found: Any, own: Mapping[str, Tensor], at: Places) -> Translation | None:
    """By what a file holds: how to read it, and the names of `own` that it lacks; None where it is no such file.

    A U-Net without motion modules starts the ReferenceNet, the denoising U-Net and a ControlNet (MuseDance sec. 4.2,
    Zhang et al. 2023), one without its last convolution the ReferenceNet alone; with motion modules the denoising one.
    """
    state = _bare(found)
    moves = any(".motion_modules." in name for name in state)
    layered = any(name.startswith("down_blocks.") for name in state)

    def all_but(*prefixes: str) -> tuple[str, ...]:
        return tuple(name for name in own if not name.startswith(prefixes))

    def new(*kinds: str) -> tuple[str, ...]:
        return tuple(n for n in own if n.startswith(at.unet) and any(f".{kind}." in n for kind in kinds))

    if any(name.startswith("encoder.") for name in state):
        return lambda held: _under(at.vae, _vae(held)), all_but(at.vae)
    if any(name.startswith("controlnet_") for name in state):
        return (
            None if at.controlnet is None else (lambda held: _under(at.controlnet, _bare(held)), all_but(at.controlnet))
        )
    if moves and "conv_in.weight" not in state:
        middle = any(name.startswith("mid_block.") for name in state)  # which AnimateDiff's v1 and v3 do not have
        held = set(new("motion_modules"))
        lacks = tuple(name for name in own if name not in held or (".mid_block." in name and not middle))
        return lambda held: _under(at.unet, video_unet(_bare(held))), lacks
    if moves:
        lacks = (*all_but(at.unet), *new("songs", "attn_face"))
        return lambda held: _under(at.unet, video_unet(_bare(held))), lacks
    if layered and "conv_out.weight" in state:
        starts = (at.unet, at.reference) if at.controlnet is None else (at.unet, at.reference, at.controlnet)
        guides = tuple(n for n in own if at.controlnet and n.startswith(f"{at.controlnet}controlnet_"))
        return lambda held: _three(_bare(held), at), (*all_but(*starts), *new(*OWN), *guides)
    if layered:
        return lambda held: _under(at.reference, reference_net(_bare(held))), all_but(at.reference)
    return None


def _bare(found: Any) -> dict[str, Tensor]:
    """The state dict of a file, without what its trainer put before names."""
    state = dict(plain(found))
    for prefix in WRAPPED:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _three(state: Mapping[str, Tensor], at: Places) -> dict[str, Tensor]:
    made = _under(at.unet, state) | _under(at.reference, reference_net(state))
    if at.controlnet is not None:
        half = ("conv_in.", "time_embedding.", "down_blocks.", "mid_block.")
        made |= _under(at.controlnet, {name: value for name, value in state.items() if name.startswith(half)})
    return made


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def _vae(found: Any) -> dict[str, Tensor]:
    state = {}
    for name, value in _bare(found).items():
        for old, new in VAE_OLD.items():
            name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
        state[name] = value.flatten(1) if ".attentions.0.to_" in name and value.ndim == 4 else value
    return state
