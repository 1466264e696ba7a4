"""Layouts of published video-diffusion files: the part of a family that a file fills, and its parameter names there.

Known are Stable Diffusion 1.x in diffusers' layout, the UNet3D and ReferenceNets ("appearance encoders") of
Moore-AnimateAnyone, Champ and MagicAnimate, AnimateDiff's motion modules v1, v2 and v3, in its own files and in
diffusers' `MotionAdapter` folders, ControlNets and VAEs.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo.nn.temporal import drop_position_tables
from zoo.nn.weights.loading import unwrap_state_dict

Converter = tuple[Callable[[Any], Mapping[str, Tensor]], tuple[str, ...]]  # reader, names that the file lacks
# old names of the attention layers in Stable Diffusion's VAE -> diffusers' names
OLD_VAE_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
NOT_IN_SD = (
    "motion_modules",
    "music_modules",
    "attn_face",
)  # modules of a video U-Net that an image U-Net does not have
WRAPPER_PREFIXES = ("module.", "unet.")  # added to all names by training programs
TRANSFORMER_PATTERN = re.compile(r"up_blocks\.(\d+)\.attentions\.(\d+)\.(.*)")
# of a ReferenceNet's last transformer: layers after the last feature, which are never used
UNUSED_LAYERS = ("proj_out.", *(f"transformer_blocks.0.{layer}" for layer in ("attn", "ff.", "norm2", "norm3")))
# diffusers' names of the layers in a block of a motion module -> AnimateDiff's
MOTION_LAYERS = {
    "attn1": "attention_blocks.0",
    "attn2": "attention_blocks.1",
    "norm1": "norms.0",
    "norm2": "norms.1",
    "norm3": "ff_norm",
}
DIFFUSERS_MOTION_PATTERN = re.compile(r"(.*motion_modules\.\d+)\.(?!temporal_transformer)(.*)")


@dataclass(frozen=True)
class ModulePrefixes:
    """Prefixes of a family's networks in its state dict. No controlnet: None."""

    vae: str = "vae."
    unet: str = "unet."
    reference: str = "reference_net."
    controlnet: str | None = None


def find_converter(contents: Any, family_state: Mapping[str, Tensor], prefixes: ModulePrefixes) -> Converter | None:
    """Return the reader for a file, and the names of `family_state` that it lacks.

    None for an unknown layout, and for a file of the family itself.

    A U-Net without motion modules initialises the ReferenceNet, the denoising U-Net and a ControlNet (MuseDance sec.
    4.2, Zhang et al. 2023); one without its last convolution the ReferenceNet alone; with motion modules the denoising
    U-Net.
    """
    if _top_level(family_state) <= _top_level(unwrap_state_dict(contents)):
        return None
    state_dict = _strip_wrappers(contents)
    has_motion = any(".motion_modules." in name for name in state_dict)
    is_unet = any(name.startswith("down_blocks.") for name in state_dict)

    def all_but(*kept_prefixes: str) -> tuple[str, ...]:
        return tuple(name for name in family_state if not name.startswith(kept_prefixes))

    def of_modules(*modules: str) -> tuple[str, ...]:
        unet_names = (name for name in family_state if name.startswith(prefixes.unet))
        return tuple(name for name in unet_names if any(f".{module}." in name for module in modules))

    if any(name.startswith("encoder.") for name in state_dict):
        return lambda file: _with_prefix(prefixes.vae, _convert_vae(file)), all_but(prefixes.vae)
    if any(name.startswith("controlnet_") for name in state_dict):
        if prefixes.controlnet is None:
            return None
        return lambda file: _with_prefix(prefixes.controlnet, _strip_wrappers(file)), all_but(prefixes.controlnet)
    if has_motion and "conv_in.weight" not in state_dict:
        has_middle = any(name.startswith("mid_block.") for name in state_dict)  # not in AnimateDiff's v1 and v3
        motion_names = set(of_modules("motion_modules"))
        missing = tuple(
            name for name in family_state if name not in motion_names or (".mid_block." in name and not has_middle)
        )
        return lambda file: _with_prefix(prefixes.unet, convert_video_unet(_strip_wrappers(file))), missing
    if has_motion:
        missing = (*all_but(prefixes.unet), *of_modules("music_modules", "attn_face"))
        return lambda file: _with_prefix(prefixes.unet, convert_video_unet(_strip_wrappers(file))), missing
    if is_unet and "conv_out.weight" in state_dict:
        targets = (prefixes.unet, prefixes.reference)
        zero_convs = ()
        if prefixes.controlnet is not None:
            targets = (*targets, prefixes.controlnet)
            zero_convs = tuple(name for name in family_state if name.startswith(f"{prefixes.controlnet}controlnet_"))
        missing = (*all_but(*targets), *of_modules(*NOT_IN_SD), *zero_convs)
        return lambda file: _sd_unet_to_all(_strip_wrappers(file), prefixes), missing
    if is_unet:
        return (
            lambda file: _with_prefix(prefixes.reference, convert_reference_net(_strip_wrappers(file))),
            all_but(prefixes.reference),
        )
    return None


def _top_level(state_dict: Mapping[str, Tensor]) -> set[str]:
    return {name.partition(".")[0] for name in state_dict}


def _strip_wrappers(contents: Any) -> dict[str, Tensor]:
    """Return the state dict of a file without the prefixes of its training program."""
    state_dict = dict(unwrap_state_dict(contents))
    for prefix in WRAPPER_PREFIXES:
        if state_dict and all(name.startswith(prefix) for name in state_dict):
            state_dict = {name.removeprefix(prefix): value for name, value in state_dict.items()}
    return state_dict


def _with_prefix(prefix: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state_dict.items()}


def _sd_unet_to_all(state_dict: Mapping[str, Tensor], prefixes: ModulePrefixes) -> dict[str, Tensor]:
    """Initialise every network that has Stable Diffusion's layers with them."""
    weights = _with_prefix(prefixes.unet, state_dict)
    weights |= _with_prefix(prefixes.reference, convert_reference_net(state_dict))
    if prefixes.controlnet is not None:
        encoder_prefixes = ("conv_in.", "time_embedding.", "down_blocks.", "mid_block.")
        encoder_weights = {name: value for name, value in state_dict.items() if name.startswith(encoder_prefixes)}
        weights |= _with_prefix(prefixes.controlnet, encoder_weights)
    return weights


def _convert_vae(contents: Any) -> dict[str, Tensor]:
    state_dict = {}
    for name, value in _strip_wrappers(contents).items():
        for old, new in OLD_VAE_NAMES.items():
            name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
        state_dict[name] = value.flatten(1) if ".attentions.0.to_" in name and value.ndim == 4 else value
    return state_dict


def convert_reference_net(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a ReferenceNet or of Stable Diffusion for `ReferenceNet`, without layers it never uses."""
    matches = {name: TRANSFORMER_PATTERN.fullmatch(name) for name in state_dict}
    indices = (match.groups()[:2] for match in matches.values() if match)
    last_transformer = max(indices, key=lambda index: tuple(map(int, index)), default=())

    def is_unused(name: str) -> bool:
        match = matches[name]
        is_in_last = match is not None and match.groups()[:2] == last_transformer
        return (is_in_last and match[3].startswith(UNUSED_LAYERS)) or name.startswith(("conv_norm_out.", "conv_out."))

    return {name: value for name, value in state_dict.items() if not is_unused(name)}


def convert_video_unet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a UNet3D's or a motion module's weights under AnimateDiff's names, without tables of positions.

    Raises ValueError for other positions than sines.
    """
    state_dict = {name.replace("pos_embed.pe", "attn1.pos_encoder.pe"): value for name, value in state_dict.items()}
    return {_animatediff_name(name): value for name, value in drop_position_tables(state_dict).items()}


def _animatediff_name(name: str) -> str:
    match = DIFFUSERS_MOTION_PATTERN.fullmatch(name)
    if not match:
        return name
    module_path, layer_path = match.groups()
    block_prefix = "transformer_blocks.0."
    if layer_path.startswith(block_prefix):
        layer, _, layer_path = layer_path.removeprefix(block_prefix).partition(".")
        layer_path = f"{block_prefix}{MOTION_LAYERS.get(layer, layer)}.{layer_path}"
    return f"{module_path}.temporal_transformer.{layer_path}"
