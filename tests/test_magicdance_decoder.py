"""Our DanceDecoder against numbers of the public EDGE code (tests/data/make_edge_reference.py)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from weights import fill_by_name, numbers

from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.guidance import ClassifierFreeGuidance
from zoo.diffusion.schedules import cosine_schedule
from zoo.families.magicdance.dance_decoder import DanceDecoder

REFERENCE = np.load(Path(__file__).parent / "data" / "edge_reference.npz")
SIZES = {
    "small": {"music_dim": 35, "dim": 64, "ff_dim": 96, "layers": 2, "heads": 2},
    "paper35": {"music_dim": 35},
    "paper4800": {"music_dim": 4800},
}
STEPS = torch.tensor([3, 700])


def inputs(size: str) -> tuple[DanceDecoder, torch.Tensor, torch.Tensor]:
    network = fill_by_name(DanceDecoder(**SIZES[size]))
    return network, numbers("x", 2, 150, 151), numbers("music", 2, 150, SIZES[size]["music_dim"])


def error(answer: torch.Tensor, name: str) -> float:
    return float((answer[:, ::10] - torch.from_numpy(REFERENCE[name])).abs().max())


@pytest.mark.parametrize("size", SIZES)
def test_state_dict_is_the_public_one(size):
    with torch.device("meta"):
        ours = DanceDecoder(**SIZES[size]).state_dict()
    assert sorted(f"{key} {tuple(value.shape)}" for key, value in ours.items()) == sorted(REFERENCE[f"keys_{size}"])


@pytest.mark.parametrize("size", ["small", "paper35"])
@torch.no_grad()
def test_forward_equals_public_code(size):
    network, x, music = inputs(size)
    for name, keep in (("heard", None), ("null", [False, False]), ("mixed", [True, False])):
        keep = None if keep is None else torch.tensor(keep)
        assert error(network(x, music, STEPS, keep), f"{name}_{size}") < 1e-5
        # the same in two halves, keys and values remembered
        heard = network.condition(music, keep, precompute_kv=True)
        assert error(network(x, heard, STEPS), f"{name}_{size}") < 1e-5


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_guided_equals_public_code(size):
    network, x, music = inputs(size)
    condition = network.guided_condition(music)
    guided = ClassifierFreeGuidance(Denoiser(lambda x, t: network(x, condition, t), cosine_schedule()), 2.0)
    assert error(guided(x, STEPS), f"guided_{size}") < 1e-5


@torch.no_grad()
def test_other_lengths():
    network, x, music = inputs("small")
    short = network(x[:, :40], network.guided_condition(music[:1, :40]), STEPS)
    assert torch.isfinite(short).all() and short.shape == (2, 40, 151)
    with pytest.raises(ValueError, match="151 music tokens.*at most 150"):
        network(x, numbers("long", 2, 151, 35), STEPS)


def test_learns_through_both_branches():
    network, x, music = inputs("small")
    network.train()
    network(x, music, STEPS, torch.tensor([True, False])).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_pulse_reaches_its_own_frame_only_where_it_is_heard():
    """Turning the pulse by half a turn changes the answer of rows that hear music, and nothing of the others."""
    network = DanceDecoder(37, dim=64, ff_dim=64, layers=1, heads=2, dropout=0.0, beat_phase_dim=2).eval()
    x, music, t = torch.randn(2, 20, 151), torch.randn(2, 20, 37), torch.tensor([500, 500])
    other = torch.cat([music[..., :35], -music[..., 35:]], -1)
    keep = torch.tensor([True, False])
    difference = (network(x, music, t, keep) - network(x, other, t, keep)).abs().amax((1, 2))
    assert difference[0] > 1e-2 and difference[1] == 0
    assert torch.equal(network(x, network.condition(music, keep), t), network(x, music, t, keep))
    # and by its own way to the motion's tokens, not only among the music's
    before = network(x, music, t, keep)
    torch.nn.init.zeros_(network.pulse_projection.weight)
    moved = (network(x, music, t, keep) - before).abs().amax((1, 2))
    assert moved[0] > 1e-2 and moved[1] == 0
