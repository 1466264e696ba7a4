"""LFDM's public checkpoints as DabFusion's weights.

Its training writes two files: of the autoencoder ('generator', 'region_predictor', 'bg_predictor', beside an optimiser)
and of the diffusion ('diffusion': buffers of the noise schedule and the U-Net under 'denoise_fn.'; 'optimizer_diff').
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from zoo.diffusion.schedules import cosine_schedule
from zoo.families.dabfusion.flow_unet import from_lfdm
from zoo.nn.weights.loading import unwrap_state_dict

AUTOENCODER = ("generator", "region_predictor", "bg_predictor")
OURS = ("music_scale.", "music_embedding.")  # LFDM heard a text

Translation = tuple[Callable[[Any], Mapping[str, Tensor]], tuple[str, ...]]


def translation(found: Any, prediction: str) -> Translation:
    """By what a file holds: how to read it, and beginnings of the names that it may lack (see `load_strict`).

    prediction: what this model's U-Net is taught; LFDM's predicts noise. A file that is neither of the two is read as
    one of this family, whole.
    """
    if isinstance(found, Mapping) and "diffusion" in found:
        return lambda held: _unet(held, prediction), ("autoencoder.", *OURS)
    if isinstance(found, Mapping) and any(name in found for name in AUTOENCODER):
        return _autoencoder, ("unet.", *OURS)
    return unwrap_state_dict, ()


def _autoencoder(found: Mapping[str, Any]) -> dict[str, Tensor]:
    parts = {part: _table(found, part) for part in AUTOENCODER}
    return {f"autoencoder.{part}.{name}": value for part, table in parts.items() for name, value in table.items()}


def _unet(found: Mapping[str, Any], prediction: str) -> dict[str, Tensor]:
    if prediction != "epsilon":
        raise ValueError(f"it predicts noise, this model {prediction}: give model.<size>.prediction=epsilon")
    state = _table(found, "diffusion")
    _check_schedule(state)
    foreign = [name for name in state if not name.startswith("denoise_fn.") and name not in SCHEDULE]
    network = {f"unet.{name}": value for name, value in from_lfdm(state).items()}
    return network | {name: state[name] for name in foreign}  # which are then refused by name


def _table(found: Mapping[str, Any], part: str) -> Mapping[str, Tensor]:
    if part not in found:
        raise ValueError(f"it holds no '{part}', which an LFDM checkpoint has beside {', '.join(found)}")
    try:
        return unwrap_state_dict(found[part])
    except ValueError:
        raise ValueError(f"its '{part}' is no state dict") from None


SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)  # all of them follow from betas


def _check_schedule(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the file's noise schedule is ours.

    LFDM holds beta to 0.9999, diffusers to 0.999. That makes a difference at the last step, t = 999, alone: there x
    keeps 1.6e-5 of x0 in LFDM and 4.9e-5 here, noise to any network, and LFDM's own sampler never goes there.
    """
    if "betas" not in state:
        raise ValueError("its 'diffusion' holds no betas: its noise schedule is not known")
    ours, theirs = cosine_schedule().betas, state["betas"].float()
    if theirs.shape != ours.shape:
        raise ValueError(f"its noise schedule has {len(theirs)} steps, not {len(ours)}")
    apart = (theirs - ours).abs() > 1e-5
    apart[-1] = theirs[-1] < ours[-1]
    if apart.any():
        raise ValueError(f"its noise schedule is another one: its beta differs at {int(apart.sum())} steps")
