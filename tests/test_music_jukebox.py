"""Jukebox's states: jukemirlib's own answers, the same wherever a sound is cut, and of nothing but the right files."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from weights import jukebox_state, scale_of_tones

from zoo.music.jukebox import Jukebox
from zoo.nn.jukebox import PRIOR_FILE, VQVAE_FILE, TopPrior

RATE = 44100
REFERENCE = np.load(Path(__file__).parent / "data" / "jukebox_reference.npz")  # made by make_jukebox_reference.py


def state(name: str) -> dict[str, torch.Tensor]:
    keys = (key.split(" ", 1) for key in REFERENCE[f"keys_{name}"])
    return jukebox_state({key: tuple(map(int, re.findall(r"\d+", shape))) for key, shape in keys})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """OpenAI's two files: the VQ-VAE as large as it is, the prior 64 wide and four layers deep."""
    where = tmp_path_factory.mktemp("jukebox")
    for file, name in ((VQVAE_FILE, "vqvae"), (PRIOR_FILE, "prior")):
        torch.save({"model": state(name), "step": 7}, where / file, _use_new_zipfile_serialization=False)
    return where


@pytest.fixture(scope="module")
def encoder(folder):
    return Jukebox(str(folder), layer=4, dim=64)


@pytest.fixture(scope="module")
def sound():
    return scale_of_tones(10, RATE)


def test_equal_to_jukemirlib(encoder, sound):
    """Tokens and states of a window of five seconds, and of a shorter one, which ends within a block."""
    top, prior = encoder.loaded
    for index, (first, last) in enumerate(REFERENCE["parts"]):
        part = sound[first * RATE : last * RATE]
        tokens = top((part / part.abs().max())[None])[0]
        assert (tokens.numpy() == REFERENCE[f"tokens_{index}"]).mean() > 0.999 and len(tokens.unique()) > 50
        wanted = torch.from_numpy(REFERENCE[f"heard_{index}"])
        torch.testing.assert_close(encoder.encode(part[None], RATE)[0], wanted, atol=1e-4, rtol=0)
        with pytest.raises(AssertionError):  # and is not what a sound a little later is
            torch.testing.assert_close(
                encoder.encode(part[None, RATE // 3 :], RATE)[0, :60], wanted[:60], atol=0.1, rtol=0
            )
    assert all(weight.dtype == torch.float16 for name, weight in prior.named_parameters() if name.endswith(".w"))


def test_a_sound_is_heard_alike_wherever_it_is_cut(encoder, sound):
    whole, cut = encoder.encode(sound[None], RATE)[0], encoder.encode(sound[None, 5 * RATE // 2 :], RATE)[0]
    assert whole.shape == (300, 64) and cut.shape == (225, 64)
    torch.testing.assert_close(whole[150:225], cut[75:150], atol=1e-5, rtol=0)
    assert torch.equal(encoder.encode(sound[None], RATE)[0], whole)
    assert (whole[150:225] - whole[180:255]).abs().mean() > 0.1
    for seconds in (0.001, 0.5, 2.49, 7.51):  # none is too short, none ends between tokens
        count = round(seconds * RATE)
        assert len(encoder.encode(sound[None, :count], RATE)[0]) == -(-count * 30 // RATE)
    silence = encoder.encode(torch.zeros(1, RATE), RATE)
    assert silence.isfinite().all()


def test_other_files_are_refused(folder, tmp_path):
    sound = torch.zeros(1, RATE)
    with pytest.raises(ValueError, match=r"music=jukebox needs music\.weights=DIR"):
        Jukebox().encode(sound, RATE)
    with pytest.raises(ValueError, match="width 64, not 4800"):
        Jukebox(str(folder), layer=4).encode(sound, RATE)
    with pytest.raises(ValueError, match="of 66 layers or more"):
        Jukebox(str(folder), dim=64).encode(sound, RATE)
    (tmp_path / VQVAE_FILE).symlink_to(folder / PRIOR_FILE)
    (tmp_path / PRIOR_FILE).symlink_to(folder / PRIOR_FILE)
    with pytest.raises(ValueError, match=f"it is not Jukebox's {VQVAE_FILE}"):
        Jukebox(str(tmp_path), layer=4, dim=64).encode(sound, RATE)
    (tmp_path / VQVAE_FILE).unlink()
    (tmp_path / VQVAE_FILE).symlink_to(folder / VQVAE_FILE)
    (tmp_path / PRIOR_FILE).unlink()
    lyrics = state("prior") | {"prime_prior.x_emb.weight": torch.zeros(80, 64)}
    torch.save({"model": lyrics}, tmp_path / PRIOR_FILE)
    with pytest.raises(ValueError, match="unexpected"):
        Jukebox(str(tmp_path), layer=4, dim=64).encode(sound, RATE)


def test_the_published_prior_fits(tmp_path):
    """By the shapes of its 5,060,452,800 numbers: 66 of 72 layers are kept, nothing is missing or unexpected."""
    shapes = {}
    for key in REFERENCE["keys_prior"]:
        name, shape = key.split(" ", 1)
        wide = [{64: 4800, 48: 3600, 16: 1200}.get(int(one), int(one)) for one in re.findall(r"\d+", shape)]
        names = [name.replace("mods.0.", f"mods.{index}.") for index in range(72)] if "mods.0." in name else [name]
        shapes |= {one: wide for one in names if not re.search(r"mods\.[123]\.", one) or "mods.0." in name}
    shapes["prior.x_out.weight"] = [2048, 4800]
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 5_060_452_800
    views = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}  # each stores one value
    torch.save({"model": views}, tmp_path / PRIOR_FILE)
    prior = TopPrior(tmp_path / PRIOR_FILE, 66).to("meta")
    assert prior.width == 4800 and len(prior.layers) == 66
    assert prior(torch.zeros(1, 1722, dtype=torch.long, device="meta")).shape == (1, 1722, 4800)
