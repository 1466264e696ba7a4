"""LatentCache and the denoising loss."""

import pytest
import torch
from weights import numbers

from zoo.diffusion.losses import add_training_noise, denoising_loss, min_snr_weights, sample_timesteps
from zoo.diffusion.schedules import cosine_schedule, make_noise_schedule
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
    weights = min_snr_weights(t, sample.schedule, 5.0)
    weighted = denoising_loss(output[prediction_type] + 1, sample, max_snr=5.0)["noise"]
    assert weighted == pytest.approx(weights.mean().item(), rel=1e-4)


def test_snr_weights_and_noise_offset_are_those_of_champs_training():
    schedule, t = make_noise_schedule("zero_snr", "v_prediction"), torch.tensor([0, 300, 999])
    snr = schedule.alphas_cumprod[t] / (1 - schedule.alphas_cumprod[t]) + 1  # Champ's train_s1.py
    expected = torch.stack([snr, 5.0 * torch.ones_like(t)], dim=1).min(dim=1)[0] / snr
    weights = min_snr_weights(t, schedule, 5.0)
    torch.testing.assert_close(weights, expected)
    assert weights[0] < 0.01 and weights[2] == 1, "the step without signal counts"
    torch.manual_seed(0)
    x0 = torch.zeros(8, 8, 16, 8, 8)
    noise = add_training_noise(x0, torch.full((8,), 5), schedule, noise_offset=2.0).noise.flatten(2)
    assert noise.mean(2).std() == pytest.approx(2, abs=0.4)
    assert noise.std(2).sub(1).abs().max() < 0.1, "within a channel the offset is constant"
