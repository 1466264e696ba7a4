"""Public weights for MuseDance (sec. 4.2): Stable Diffusion 1.5, AnimateDiff, and the networks of Moore and Champ."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from zoo.nn.pretrained import plain
from zoo.nn.video_public import reference_net, video_unet

Translation = tuple[Callable[[Any], Mapping[str, Tensor]], tuple[str, ...]]
VAE_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of the attentions in SD's files


def translation(found: Any, own: Mapping[str, Tensor]) -> Translation:
    """By what a file holds: how to read it, and beginnings of the names of `own` that it may lack.

    A U-Net without motion modules starts both the ReferenceNet and the denoising U-Net (sec. 4.2), one without its last
    convolution the ReferenceNet alone; with motion modules the denoising one. A file that is none of these is read as
    one of this family, whole.
    """
    state = plain(found)
    moves = any(".motion_modules." in name for name in state)
    layered = any(name.startswith("down_blocks.") for name in state)
    if any(name.startswith("encoder.") for name in state):
        return _vae, _all_but(own, "vae.")
    if moves and "conv_in.weight" not in state:
        middle = any(name.startswith("mid_block.") for name in state)  # which AnimateDiff's v1 and v3 do not have
        lacks = [name for name in own if not _new(name, "motion_modules") or (".mid_block." in name and not middle)]
        return _video, tuple(lacks)
    if moves:
        return _video, tuple(name for name in own if not name.startswith("unet.") or _new(name, "songs"))
    if layered and "conv_out.weight" in state:
        new = (name for name in own if _new(name, "songs") or _new(name, "motion_modules"))
        return _both, (*_all_but(own, "unet.", "reference_net."), *new)
    if layered:
        return lambda held: _under("reference_net.", reference_net(plain(held))), _all_but(own, "reference_net.")
    return plain, ()


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def _new(name: str, kind: str) -> bool:
    """Whether it belongs to one of the modules along time."""
    return name.startswith("unet.") and f".{kind}." in name


def _video(found: Any) -> dict[str, Tensor]:
    return _under("unet.", video_unet(plain(found)))


def _both(found: Any) -> dict[str, Tensor]:
    state = plain(found)
    return _under("unet.", state) | _under("reference_net.", reference_net(state))


def _vae(found: Any) -> dict[str, Tensor]:
    state = {}
    for name, value in plain(found).items():
        for old, new in VAE_OLD.items():
            name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
        state[f"vae.{name}"] = value.flatten(1) if ".attentions.0.to_" in name and value.ndim == 4 else value
    return state


def _all_but(own: Mapping[str, Tensor], *prefixes: str) -> tuple[str, ...]:
    return tuple(name for name in own if not name.startswith(prefixes))
