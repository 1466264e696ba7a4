"""LFDM's public checkpoints as weights of DabFusion.

Its training writes two files: the autoencoder's ('generator', 'region_predictor', 'bg_predictor' and an optimiser) and
the diffusion's ('diffusion': buffers of the noise schedule, and the U-Net under 'denoise_fn.'; 'optimizer_diff').
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from zoo.diffusion.schedules import cosine_schedule
from zoo.families.dabfusion.flow_unet import from_lfdm
from zoo.nn.weights.loading import unwrap_state_dict

AUTOENCODER_MODULES = ("generator", "region_predictor", "bg_predictor")  # keys of LFDM's file, and our modules
NOT_IN_LFDM = ("music_scale.", "music_embedding.")  # prefixes of our names: LFDM is conditioned on text
SCHEDULE_BUFFERS = (
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
)  # all follow from betas

# a function from a file's contents to a state dict, and prefixes of the names that the file may lack
Converter = tuple[Callable[[Any], Mapping[str, Tensor]], tuple[str, ...]]


def find_converter(contents: Any, prediction_type: str) -> Converter:
    """Return the function that reads a file's contents, and prefixes of the names that it may lack (see `load_strict`).

    prediction_type: of this model's U-Net; LFDM's predicts noise. A file of neither kind is read as one of this family.
    """
    if isinstance(contents, Mapping) and "diffusion" in contents:
        return lambda file: _convert_unet(file, prediction_type), ("autoencoder.", *NOT_IN_LFDM)
    if isinstance(contents, Mapping) and any(name in contents for name in AUTOENCODER_MODULES):
        return _convert_autoencoder, ("unet.", *NOT_IN_LFDM)
    return unwrap_state_dict, ()


def _convert_autoencoder(contents: Mapping[str, Any]) -> dict[str, Tensor]:
    state_dicts = {module: _state_dict_of(contents, module) for module in AUTOENCODER_MODULES}
    return {
        f"autoencoder.{module}.{name}": value
        for module, state_dict in state_dicts.items()
        for name, value in state_dict.items()
    }


def _convert_unet(contents: Mapping[str, Any], prediction_type: str) -> dict[str, Tensor]:
    if prediction_type != "epsilon":
        raise ValueError(
            f"checkpoint predicts epsilon, this model predicts {prediction_type}: "
            "set noise_schedule.prediction_type=epsilon"
        )
    state_dict = _state_dict_of(contents, "diffusion")
    _check_schedule(state_dict)
    unknown = [name for name in state_dict if not name.startswith("denoise_fn.") and name not in SCHEDULE_BUFFERS]
    network = {f"unet.{name}": value for name, value in from_lfdm(state_dict).items()}
    return network | {name: state_dict[name] for name in unknown}  # `load_strict` refuses these by name


def _state_dict_of(contents: Mapping[str, Any], module: str) -> Mapping[str, Tensor]:
    if module not in contents:
        raise ValueError(f"it holds no '{module}', which an LFDM checkpoint has beside {', '.join(contents)}")
    try:
        return unwrap_state_dict(contents[module])
    except ValueError:
        raise ValueError(f"its '{module}' is no state dict") from None


def _check_schedule(state_dict: Mapping[str, Tensor]) -> None:
    """Raise ValueError for another noise schedule than the cosine schedule.

    LFDM clips beta at 0.9999, diffusers at 0.999. Only the last step, t = 999, differs: there x keeps
    1.6e-5 of x0 in LFDM and 4.9e-5 here. That is noise to any network, and LFDM's own sampler never uses that step.
    """
    if "betas" not in state_dict:
        raise ValueError("its 'diffusion' holds no betas: its noise schedule is not known")
    expected, betas = cosine_schedule().betas, state_dict["betas"].float()
    if betas.shape != expected.shape:
        raise ValueError(f"its noise schedule has {len(betas)} steps, not {len(expected)}")
    differing_steps = (betas - expected).abs() > 1e-5
    differing_steps[-1] = betas[-1] < expected[-1]
    if differing_steps.any():
        raise ValueError(f"its noise schedule is another one: its beta differs at {int(differing_steps.sum())} steps")
