"""Public weights of video U-Nets under this zoo's names. Each function takes a file's state dict, for `load_foreign`.

Stable Diffusion 1.x in diffusers' layout, Moore-AnimateAnyone's, Champ's and MagicAnimate's UNet3D and ReferenceNets
(appearance encoder), AnimateDiff's motion modules v1, v2 and v3, its own files and diffusers' `MotionAdapter` folders.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from zoo.nn.temporal import without_positions

TRANSFORMER = re.compile(r"up_blocks\.(\d+)\.attentions\.(\d+)\.(.*)")
# of a ReferenceNet's last transformer: what stands behind the last feature and is never used
UNUSED = ("proj_out.", *(f"transformer_blocks.0.{part}" for part in ("attn", "ff.", "norm2", "norm3")))
# diffusers' names of the parts of a motion module's block -> AnimateDiff's
PARTS = {"attn1": "attention_blocks.0", "attn2": "attention_blocks.1", "norm1": "norms.0", "norm2": "norms.1"}
PARTS |= {"norm3": "ff_norm"}
DIFFUSERS = re.compile(r"(.*motion_modules\.\d+)\.(?!temporal_transformer)(.*)")


def reference_net(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ReferenceNet's or Stable Diffusion's weights for `zoo.nn.video_unet.unet.ReferenceNet`: not what is never used."""
    found = {name: TRANSFORMER.fullmatch(name) for name in state}
    last = max(
        (match.groups()[:2] for match in found.values() if match), key=lambda at: tuple(map(int, at)), default=()
    )

    def unused(name: str) -> bool:
        match = found[name]
        behind = match is not None and match.groups()[:2] == last and match[3].startswith(UNUSED)
        return behind or name.startswith(("conv_norm_out.", "conv_out."))

    return {name: value for name, value in state.items() if not unused(name)}


def video_unet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A UNet3D's weights, or a motion module's file: without tables of positions, names as AnimateDiff has them.

    Raises ValueError for other positions than sines.
    """
    state = {name.replace("pos_embed.pe", "attn1.pos_encoder.pe"): value for name, value in state.items()}
    return {_renamed(name): value for name, value in without_positions(state).items()}


def _renamed(name: str) -> str:
    found = DIFFUSERS.fullmatch(name)
    if not found:
        return name
    module, rest = found.groups()
    block, part = "transformer_blocks.0.", ""
    if rest.startswith(block):
        part, _, rest = rest.removeprefix(block).partition(".")
        rest = f"{block}{PARTS.get(part, part)}.{rest}"
    return f"{module}.temporal_transformer.{rest}"
