"""LatentCache and the denoising loss."""

import pytest
import torch
from weights import numbers

from zoo.diffusion.losses import add_training_noise, denoising_loss, sample_timesteps
from zoo.diffusion.schedules import cosine_schedule
from zoo.families.latent.cache import LatentCache


def test_cache_holds_max_items_and_returns_the_same_numbers_cached_or_not():
    items, calls = numbers("items", 4, 2, 3), []

    def compute(index):
        calls.append(index)
        return items[index], items[index, 0]

    for max_items in (0, 2, 9):
        calls.clear()
        cache = LatentCache(max_items)
        for _ in range(2):
            first, second = cache.get_or_compute("abcd", compute)
            assert torch.equal(first, items.half().float()) and torch.equal(second, items[:, 0].half().float())
        assert len(cache) == min(max_items, 4) and len(calls) == 8 - len(cache)


def test_frames_are_cached_by_clip_and_position():
    frames, encoded = numbers("frames", 2, 3, 3, 8, 8), []

    def encode(images):
        encoded.append(len(images))
        return images[:, :1] * 2

    cache = LatentCache(9)
    for rows in ([0, 1, 2], [2, 0, 1]):
        indices = torch.tensor([rows] * 2)
        latents = cache.encode_frames(encode, frames[:, rows], ["a", "b"], indices)
        assert torch.equal(latents, (2 * frames[:, rows, :1]).half().float())
    assert encoded == [1] * 6


@pytest.mark.parametrize(("bias", "mean"), [(0.0, 0.5), (1.0, 2 / 3)])
def test_timestep_bias_prefers_noisy_steps(bias, mean):
    t = sample_timesteps(4000, cosine_schedule(), torch.device("cpu"), bias)
    assert t.min() >= 0 and t.max() < 1000 and t.float().mean() == pytest.approx(1000 * mean, rel=0.03)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])
def test_loss_of_the_right_output_is_zero(prediction_type):
    x0, t = numbers("x0", 2, 3, 4, 2, 2), torch.tensor([10, 500])
    sample = add_training_noise(x0, t, cosine_schedule(prediction_type))
    alpha = sample.schedule.alphas_cumprod[t].sqrt().view(2, 1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    output = {"v_prediction": alpha * sample.noise - sigma * x0, "epsilon": sample.noise, "sample": x0}
    losses = denoising_loss(output[prediction_type], sample, velocity_weight=2.0)
    assert set(losses) == {"noise", "velocity"} and all(value < 1e-9 for value in losses.values())
    assert denoising_loss(output[prediction_type] + 1, sample)["noise"] == pytest.approx(1, abs=1e-4)
