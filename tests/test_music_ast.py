"""AST's tokens: transformers' own states, at their times, deterministic, and of nothing but the right folder."""

import numpy as np
import pytest
import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from weights import fill_by_name, scale_of_tones

from zoo.music.ast import Ast

RATE = 16000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An AST of two narrow layers, as the published one is stored: with a classifier on top."""
    made = fill_by_name(ASTForAudioClassification(ASTConfig(num_hidden_layers=1, intermediate_size=64)))
    where = tmp_path_factory.mktemp("ast")
    made.save_pretrained(where)
    return where, made


def test_tokens_are_the_networks_states_at_their_times(folder):
    """A short sound is one window: token i is the mean over frequencies of the column nearest to i / 10 s."""
    where, made = folder
    sound = scale_of_tones(4, RATE)
    tokens = Ast(str(where)).encode(sound[None], RATE)[0]
    values = ASTFeatureExtractor()(sound.numpy(), sampling_rate=RATE, return_tensors="pt")["input_values"]
    with torch.no_grad():
        states = made.audio_spectrogram_transformer(values).last_hidden_state[0, 2:].view(12, 101, 768).mean(0)
    assert tokens.shape == (40, 768)
    nearest = [int(np.argmin(np.abs(0.08 + 0.1 * np.arange(101) - i / 10))) for i in range(40)]
    torch.testing.assert_close(tokens, states[nearest], atol=1e-5, rtol=0)


def test_a_sound_is_heard_alike_wherever_it_is_cut(folder):
    """At whole seconds, five on either side away from the cut; twice the same; at another rate nearly so."""
    encoder, sound = Ast(str(folder[0])), scale_of_tones(16, RATE)
    whole, cut = encoder.encode(sound[None], RATE)[0], encoder.encode(sound[None, 2 * RATE :], RATE)[0]
    torch.testing.assert_close(whole[80:100], cut[60:80], atol=1e-5, rtol=0)
    assert torch.equal(encoder.encode(sound[None], RATE)[0], whole) and whole.shape == (160, 768)
    assert (whole[80:100] - whole[90:110]).abs().mean() > 1e-3


def test_other_folders_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"music=ast needs music\.weights=DIR"):
        Ast().encode(torch.zeros(1, RATE), RATE)
    ASTForAudioClassification(
        ASTConfig(num_hidden_layers=1, hidden_size=96, num_attention_heads=2, intermediate_size=8)
    ).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ValueError, match="holds another AST"):
        Ast(str(tmp_path / "narrow")).encode(torch.zeros(1, RATE), RATE)
