"""Noise, timesteps and augmentation belong to a sample: any division of a step's clips has the same gradient."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from test_activation_checkpointing import CONF, random_batch
from torch import nn

from zoo.data.base import WindowSpec
from zoo.data.global_batch import GlobalBatch
from zoo.diffusion.batch_random import BatchRandom
from zoo.run.build import build_encoder, build_family, build_stage
from zoo.run.train.stage_training import stage_training

NUM_CLIPS, TOLERANCE = 3, 1e-5  # tolerance: of the norm of all gradients
# dabfusion's stage flow is missing: its batch norms depend on the batch
STAGES = [
    ("magicdance", "autoencoder", "latent_noise=0"),
    ("musedance", "dynamics", "noise_offset=0.1"),
    ("dabfusion", "diffusion", "velocity_weight=0"),
    ("magicdance", "motion", "ema_decay=null"),
    ("magicdance", "video", "cond_drop_prob=0.5"),
    ("m2penc", "video", "cond_drop_prob=0.5"),
]


def cut(batch: dict, part: slice) -> dict:
    """Some clips of a batch."""
    return {key: value[part] if isinstance(value, torch.Tensor | list) else value for key, value in batch.items()}


@pytest.mark.parametrize("model, name, option", STAGES)
def test_any_number_of_processes_has_the_gradient_of_one(model, name, option):
    """Three clips in one batch, and on two processes as 2 and 1, for two steps."""
    overrides = [f"model={model}", "size=debug", f"+model.stages.{name}.module.{option}".replace("+", "++")]
    if model == "magicdance":
        overrides += [
            "renderer=diffusion",
            "model.family.dance_decoder.dropout=0",
            "model.animators.diffusion.head_drop_prob=0.5",
        ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides)
    torch.manual_seed(0)
    family, encoder = build_family(config), build_encoder(config)
    for parameter in family.parameters():  # output layers begin at 0, which would hide the layers before them
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    batch = random_batch(WindowSpec(**stage_training(config, name).clip), encoder, NUM_CLIPS)
    batch |= {key: [f"{key} {index}" for index in range(NUM_CLIPS)] for key in ("key", "caption", "style")}
    stage = build_stage(config, name, family)

    def gradients(division: GlobalBatch, step: int) -> list[torch.Tensor]:
        stage.zero_grad()
        for rank in range(division.world_size):
            for index in range(division.num_batches):
                first, count = division.offset(rank, index), division.count(rank, index)
                stage.random = BatchRandom.of_step(0, step, range(first, first + count))
                loss = torch.stack(list(stage.loss(cut(batch, slice(first, first + count))).values())).sum()
                (division.loss_weight(rank, index) * loss / division.world_size / division.num_batches).backward()
        return [value.grad for value in family.parameters() if value.grad is not None]

    steps = [gradients(GlobalBatch(NUM_CLIPS, 1, 1), step) for step in range(2)]
    assert any(value.any() for value in steps[0])
    assert any(not torch.equal(a, b) for a, b in zip(steps[0], steps[1], strict=True))  # each step has its own noise
    for step, whole in enumerate(steps):
        divided = gradients(GlobalBatch(NUM_CLIPS, 2, 1), step)
        difference = [a - b for a, b in zip(whole, divided, strict=True)]
        assert torch.nn.utils.get_total_norm(difference) < TOLERANCE * torch.nn.utils.get_total_norm(whole)


def test_a_sample_draws_the_same_in_any_batch():
    """Of all functions; selected samples go on with their own numbers, and those of a step are shared."""
    whole, part = BatchRandom.of_step(7, 3, range(4)), BatchRandom.of_step(7, 3, (2, 3))
    chosen = whole.select((3, 2))
    assert torch.equal(whole.randn(8, 5)[4:], part.randn(4, 5))  # two values for each sample
    assert torch.equal(whole.rand(4, 2)[2:], part.rand(2, 2))
    assert torch.equal(whole.randint(1000, 4)[2:], part.randint(1000, 2))
    assert torch.equal(chosen.randn(2, 3), part.randn(2, 3).flip(0))
    assert whole.step_rand() == part.step_rand() and whole.step_randint(10**6) == part.step_randint(10**6)
    seeds = {
        torch.randint(
            2**31, (), generator=BatchRandom.of_step(seed, step, [0])._samples[0].on(torch.device("cpu"))
        ).item()
        for seed in range(3)
        for step in range(50)
    }
    assert len(seeds) == 150


def test_without_seeds_the_global_generator_draws():
    torch.manual_seed(0)
    wanted = torch.rand(3, 2), torch.randn(4, 5), torch.randint(7, (3,))
    torch.manual_seed(0)
    drawn = BatchRandom()
    for ours, theirs in zip((drawn.rand(3, 2), drawn.randn(4, 5), drawn.randint(7, 3)), wanted, strict=True):
        assert torch.equal(ours, theirs)
