"""Denoisers and the sampling loop: closed forms, an ideal denoiser, and EDGE's trajectory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from weights import fill_by_name, numbers

from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.guidance import ClassifierFreeGuidance, guidance_ramp
from zoo.diffusion.samplers import make_sampler, sample
from zoo.diffusion.schedules import cosine_schedule, make_noise_schedule
from zoo.families.magicdance.dance_decoder import DanceDecoder
from zoo.families.magicdance.long_form import WindowNoise

REFERENCE = np.load(Path(__file__).parent / "data" / "edge_reference.npz")


def test_schedule_is_edges():
    schedule = cosine_schedule()
    np.testing.assert_allclose(schedule.betas, REFERENCE["betas"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(schedule.alphas_cumprod, REFERENCE["alphas_cumprod"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_a_perfect_network_gives_x0_back(prediction):
    x0, noise, t = numbers("x0", 6, 4), numbers("noise", 6, 4), torch.tensor([0, 1, 20, 300, 600, 900])
    denoiser = Denoiser(lambda x, t: denoiser.target(x0, noise, t), cosine_schedule(prediction))
    torch.testing.assert_close(denoiser(denoiser.add_noise(x0, noise, t), t), x0, atol=2e-4, rtol=0)
    # against diffusers' own mixing
    torch.testing.assert_close(denoiser.add_noise(x0, noise, t), cosine_schedule(prediction).add_noise(x0, noise, t))


def test_guidance_ramp_is_edges():
    times = make_sampler(cosine_schedule(), 50).timesteps
    np.testing.assert_array_equal(times, np.linspace(-1, 999, 51).astype(int)[::-1][:-1])
    expected = np.clip(np.linspace(0, 4, 50), None, 2)
    np.testing.assert_allclose(guidance_ramp(2.0, 50)(times), expected, atol=1e-6)
    pair = Denoiser(lambda x, t: torch.cat([torch.ones(3, 1), torch.zeros(3, 1)]), cosine_schedule())
    weights = ClassifierFreeGuidance(pair, guidance_ramp(2.0, 50))(torch.zeros(3, 1), times[[0, 10, 49]])
    np.testing.assert_allclose(weights[:, 0], expected[[0, 10, 49]], atol=1e-6)


def test_shift_multiplies_the_ratio_of_noise_to_signal_at_every_step():
    """Also for the rules that sample, which read the schedule's configuration."""
    plain, shifted = cosine_schedule("epsilon"), cosine_schedule("epsilon", shift=3.0)
    for alphas_cumprod in (shifted.alphas_cumprod, make_sampler(shifted, 50).alphas_cumprod.float()):
        ratio, plain_ratio = ((1 / alpha_bar[:990] - 1).sqrt() for alpha_bar in (alphas_cumprod, plain.alphas_cumprod))
        torch.testing.assert_close(ratio, 3 * plain_ratio, rtol=2e-3, atol=1e-4)
    assert shifted.config.prediction_type == "epsilon" and shifted.alphas_cumprod[-1] < 1e-4


@torch.no_grad()
def test_ddim_trajectory_is_edges():
    network = fill_by_name(DanceDecoder(35, dim=64, ff_dim=96, layers=2, heads=2))
    condition = network.guided_condition(numbers("songs", 2, 150, 35))
    guided = ClassifierFreeGuidance(Denoiser(lambda x, t: network(x, condition, t), cosine_schedule()), 2.0)
    noise_fn = WindowNoise(7, range(2), torch.device("cpu"))
    x0 = sample(guided, noise_fn(), make_sampler(guided.schedule, 50), noise_fn, eta=1.0)
    assert float((x0[:, ::10] - torch.from_numpy(REFERENCE["ddim_sample"])).abs().max()) < 1e-5


def ideal(mean: torch.Tensor, covariance: torch.Tensor) -> Denoiser:
    """The exact posterior mean for Gaussian data: the best any network could do."""
    alphas_cumprod = cosine_schedule().alphas_cumprod

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = alphas_cumprod[t[0]]
        gain = a.sqrt() * covariance @ torch.linalg.inv(a * covariance + (1 - a) * torch.eye(len(mean)))
        return mean + (x - a.sqrt() * mean) @ gain.T

    return Denoiser(network, cosine_schedule())


@pytest.mark.parametrize(
    ("name", "steps", "eta", "tolerance"),
    [("ddim", 200, 0.0, 0.04), ("ddim", 250, 1.0, 0.05), ("dpm", 20, 0.0, 0.04), ("unipc", 20, 0.0, 0.04)],
)
def test_ideal_denoiser_gives_the_distribution(name, steps, eta, tolerance):
    mean, covariance = torch.tensor([0.5, -1.0]), torch.tensor([[0.5, 0.3], [0.3, 0.4]])
    denoiser = ideal(mean, covariance)
    torch.manual_seed(0)
    x = torch.randn(20_000, 2)
    samples = sample(
        denoiser, x, make_sampler(denoiser.schedule, steps, name), lambda: torch.randn_like(x), eta, clamp=None
    )
    assert (samples.mean(0) - mean).abs().max() < tolerance
    assert (samples.T.cov() - covariance).abs().max() < tolerance


def test_the_first_step_is_finite_for_every_number_of_steps():
    """1 - abar - sigma^2 is nearly nothing there, and must not come out negative."""
    denoiser = Denoiser(lambda x, t: 0 * x, cosine_schedule())
    for steps in (n for n in range(1, 101) if 1000 % n == 0):
        x = numbers("x", 2, 3)
        assert torch.isfinite(sample(denoiser, x, make_sampler(denoiser.schedule, steps), lambda x=x: x, eta=1.0)).all()
        for t in make_sampler(denoiser.schedule, steps).timesteps[:-1]:
            previous_sample = (
                make_sampler(denoiser.schedule, steps).step(0 * x, int(t), x, eta=1.0, variance_noise=x).prev_sample
            )
            assert torch.isfinite(previous_sample).all() and previous_sample.dtype == torch.float32


def test_the_constraint_changes_x_after_every_step_but_the_last():
    calls = []

    def constraint(x, t, i):
        calls.append((t, i))
        return torch.zeros_like(x)

    denoiser = Denoiser(lambda x, t: x + 0.25, cosine_schedule())
    x0 = sample(denoiser, torch.randn(1, 3), make_sampler(denoiser.schedule, 4), constraint=constraint)
    assert calls == [(749, 0), (499, 1), (249, 2)] and (x0 == 0.25).all()


def test_unknown_samplers_and_step_counts_are_refused():
    with pytest.raises(ValueError, match="in 30 steps: it must divide 1000; the nearest is 25"):
        make_sampler(cosine_schedule(), 30)
    with pytest.raises(ValueError, match="unknown sampler 'euler'; available: ddim, lfdm, dpm, unipc"):
        make_sampler(cosine_schedule(), 50, "euler")


def test_zero_snr_ends_in_pure_noise_and_samples_as_diffusers():
    schedule = make_noise_schedule("zero_snr", "v_prediction")
    assert schedule.alphas_cumprod[-1] == 0
    public = DDIMScheduler(
        1000, 0.00085, 0.012, "linear", clip_sample=False, prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip
    public.set_timesteps(3 + 1)
    torch.manual_seed(0)
    noise, weight = torch.randn(1, 4, 2, 5, 5), torch.randn(4, 4) / 4

    def network(x, t):
        return torch.einsum("bcfhw,cd->bdfhw", x, weight).sin()

    x = noise
    for t in public.timesteps:
        x = public.step(network(x, t), t, x).prev_sample
    output = sample(Denoiser(network, schedule), noise, make_sampler(schedule, 4), clamp=None)
    torch.testing.assert_close(output, x, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="not epsilon"):
        make_noise_schedule("zero_snr", "epsilon")
