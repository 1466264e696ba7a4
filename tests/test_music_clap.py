"""CLAP's audio tower: laion-clap's own answers, deterministic windows, and nothing but the right file."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from weights import clap_audio, scale_of_tones

from zoo.music.clap import Clap
from zoo.music.encoder import encode_song
from zoo.nn.laion_clap import import_clap_module

RATE = 48000
REFERENCE = np.load(Path(__file__).parent / "data" / "clap_reference.npz")  # made by make_clap_reference.py


def laion_file(path: Path, audio: dict[str, torch.Tensor], **others: torch.Tensor) -> str:
    """A checkpoint as LAION's training writes it: both towers, the loss's layers, an optimiser with numpy's numbers."""
    state = {
        "logit_scale_a": torch.ones(()),
        "logit_scale_t": torch.ones(()),
        "text_branch.embeddings.position_ids": torch.arange(9)[None],
        "text_projection.0.weight": torch.ones(2, 2),
        "text_transform.sequential.0.weight": torch.ones(2, 2),
        "audio_transform.sequential.0.weight": torch.ones(2, 2),
        **audio,
        **others,
    }
    optimizer = {"state": {}, "param_groups": [{"lr": np.float64(0.1) * np.cos(1), "params": [0]}]}
    state = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 15, "name": "x", "state_dict": state, "optimizer": optimizer}, path)
    return str(path)


@pytest.fixture(scope="module")
def audio():
    return clap_audio(import_clap_module("htsat").create_htsat_model, "tiny").state_dict()


@pytest.fixture(scope="module")
def encoder(audio, tmp_path_factory):
    return Clap(laion_file(tmp_path_factory.mktemp("clap") / "clap.pt", audio))


@pytest.fixture(scope="module")
def sound():
    return scale_of_tones(17, RATE)


@pytest.fixture(scope="module")
def whole(encoder, sound):
    return encoder.encode(sound[None], RATE)[0]


def test_equal_to_laion_clap(encoder, sound, whole):
    """Windows at the start, in the middle, at the end, and of a sound that is too short for one."""
    short = encoder.encode(sound[None, : 4 * RATE], RATE)[0]
    wanted = torch.from_numpy(REFERENCE["embeddings"])
    assert whole.shape == (17, 512) and short.shape == (4, 512)
    for tokens, (first, last), answer in zip((whole, whole, whole, short), REFERENCE["parts"], wanted, strict=True):
        token = tokens[(first + last) // 2]  # whose window this is
        torch.testing.assert_close(token, answer, atol=1e-5, rtol=0)
        assert (token - whole[4]).abs().max() > 1e-3 or first == 0
    assert torch.equal(whole[0], whole[5]) and torch.equal(whole[12], whole[16]) and torch.equal(short[0], short[3])
    assert not {"laion_clap", "clap_module"} & set(sys.modules)  # they go to the network when imported


def test_the_same_wherever_it_is_cut(encoder, sound, whole, monkeypatch, tmp_path):
    """A cut gives the tokens of the whole where it leaves their windows whole; twice is the same."""
    cut = sound[3 * RATE :]
    assert torch.equal(encoder.encode(cut[None], RATE)[0, 5:9], whole[8:12])
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path))
    heard = [encode_song(sound.numpy(), encoder, seconds=2, start=7, sample_rate=RATE) for _ in "ab"]
    assert heard[0].rate == 1 and torch.equal(heard[0].features, whole[7:9])
    assert torch.equal(heard[1].features, heard[0].features)
    assert len(list(tmp_path.rglob("*.npz"))) == 1


def test_other_rates_are_resampled(encoder, sound, whole):
    half = encoder.encode(sound[None, ::2], RATE // 2)[0]
    assert half.shape == whole.shape and torch.nn.functional.cosine_similarity(half[8], whole[8], 0) > 0.9


def test_other_files_are_refused(audio, encoder, tmp_path):
    """In one line, and without weights with the way to get them; the identity names the file's content."""
    other = torch.zeros(1)
    missing = {name: value for name, value in audio.items() if name != "audio_projection.2.bias"}
    for path, message in (
        (None, "music=clap needs music.weights=FILE, LAION's music_audioset.*; music=spectral needs no file"),
        (str(tmp_path / "none.pt"), "none.pt is no file; music=clap needs LAION's"),
        (laion_file(tmp_path / "a.pt", {}), "a.pt: it is no CLAP checkpoint"),
        (
            laion_file(tmp_path / "b.pt", missing, other=other),
            r"1 missing \(audio.*2.bias\), 1 unexpected \(other\)",
        ),
        (laion_file(tmp_path / "c.pt", {"audio_branch.patch_embed.mel_conv2d.weight": other}), "a fusion model"),
        (laion_file(tmp_path / "d.pt", {"audio_branch.patch_embed.proj.weight": torch.ones(7, 1, 4, 4)}), "7 wide"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            Clap(path).encode(torch.zeros(1, RATE), RATE)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="music.weights=FILE"):
        Clap().cache_key  # noqa: B018
    names = {Clap(path).cache_key for path in (encoder.weights, encoder.weights, str(tmp_path / "a.pt"))}
    assert len(names) == 2
