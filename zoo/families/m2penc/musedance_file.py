"""MuseDance's weights as the start of M2PEnc's: both families have the same autoencoder, ReferenceNet and U-Net.

Not in the paper. It saves stage `autoencoder` and most of stage `pose_image`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.nn.weights.loading import unwrap_state_dict

SHARED_NETWORKS = ("codec.", "background.", "reference_net.", "unet.")
REFERENCE_CONV = "background.reference_conv.weight"


def is_musedance(contents: Any) -> bool:
    """Whether a file holds the weights of the family `musedance`."""
    return any(name.startswith("music_token_embedder.") for name in unwrap_state_dict(contents))


def from_musedance(contents: Any, family_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the networks that both families have, by M2PEnc's names.

    MuseDance's cross-attention to music is left out, and so are the last input channels of `background.reference_conv`:
    MuseDance gives it the frames of the previous window there.
    """
    weights = {
        name: value
        for name, value in unwrap_state_dict(contents).items()
        if name.startswith(SHARED_NETWORKS) and ".music_modules." not in name
    }
    if REFERENCE_CONV in weights and REFERENCE_CONV in family_state:
        weights[REFERENCE_CONV] = weights[REFERENCE_CONV][:, : family_state[REFERENCE_CONV].shape[1]]
    return weights
