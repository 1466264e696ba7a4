"""Denoisers and the sampling loop: closed forms, an ideal denoiser, and EDGE's trajectory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from weights import fill_by_name, numbers

from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.guidance import ClassifierFreeGuidance, guidance_ramp
from zoo.diffusion.samplers import make_sampler, sample
from zoo.diffusion.schedules import cosine_schedule
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


def test_a_noisier_schedule_has_that_much_more_noise_at_every_step():
    """Also for the rules that sample, which read the schedule's configuration."""
    plain, noisier = cosine_schedule("epsilon"), cosine_schedule("epsilon", shift=3.0)
    for kept in (noisier.alphas_cumprod, make_sampler(noisier, 50).alphas_cumprod.float()):
        noise, before = ((1 / one[:990] - 1).sqrt() for one in (kept, plain.alphas_cumprod))
        torch.testing.assert_close(noise, 3 * before, rtol=2e-3, atol=1e-4)
    assert noisier.config.prediction_type == "epsilon" and noisier.alphas_cumprod[-1] < 1e-4


@torch.no_grad()
def test_ddim_trajectory_is_edges():
    network = fill_by_name(DanceDecoder(35, dim=64, ff_dim=96, layers=2, heads=2))
    condition = network.guided_condition(numbers("songs", 2, 150, 35))
    guided = ClassifierFreeGuidance(Denoiser(lambda x, t: network(x, condition, t), cosine_schedule()), 2.0)
    draw = WindowNoise(7, range(2), torch.device("cpu"))
    made = sample(guided, draw(), make_sampler(guided.schedule, 50), draw, eta=1.0)
    assert float((made[:, ::10] - torch.from_numpy(REFERENCE["ddim_sample"])).abs().max()) < 1e-5


def ideal(mean: torch.Tensor, covariance: torch.Tensor) -> Denoiser:
    """The exact posterior mean for Gaussian data: the best any network could do."""
    kept = cosine_schedule().alphas_cumprod

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = kept[t[0]]
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
    made = sample(
        denoiser, x, make_sampler(denoiser.schedule, steps, name), lambda: torch.randn_like(x), eta, clamp=None
    )
    assert (made.mean(0) - mean).abs().max() < tolerance
    assert (made.T.cov() - covariance).abs().max() < tolerance


def test_no_number_of_steps_breaks_the_first():
    """1 - abar - sigma^2 is nearly nothing there, and must not come out negative."""
    denoiser = Denoiser(lambda x, t: 0 * x, cosine_schedule())
    for steps in (n for n in range(1, 101) if 1000 % n == 0):
        x = numbers("x", 2, 3)
        assert torch.isfinite(sample(denoiser, x, make_sampler(denoiser.schedule, steps), lambda x=x: x, eta=1.0)).all()
        for t in make_sampler(denoiser.schedule, steps).timesteps[:-1]:
            after = make_sampler(denoiser.schedule, steps).step(0 * x, int(t), x, eta=1.0, variance_noise=x).prev_sample
            assert torch.isfinite(after).all() and after.dtype == torch.float32


def test_constrain_sees_every_step_but_the_last_and_decides():
    seen = []

    def constrain(x, t, i):
        seen.append((t, i))
        return torch.zeros_like(x)

    denoiser = Denoiser(lambda x, t: x + 0.25, cosine_schedule())
    made = sample(denoiser, torch.randn(1, 3), make_sampler(denoiser.schedule, 4), constraint=constrain)
    assert seen == [(749, 0), (499, 1), (249, 2)] and (made == 0.25).all()


def test_refusals():
    with pytest.raises(ValueError, match="in 30 steps: it must divide 1000; the nearest is 25"):
        make_sampler(cosine_schedule(), 30)
    with pytest.raises(ValueError, match="unknown sampler 'euler'; available: ddim, lfdm, dpm, unipc"):
        make_sampler(cosine_schedule(), 50, "euler")
