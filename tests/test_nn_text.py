"""Encoders of text: hashed words, the same everywhere, and CLAP's text tower, equal to RoBERTa and its projection."""

import json

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, RobertaConfig, RobertaModel
from weights import fill_by_name

from zoo.nn.text import ClapTextEncoder, ClipTokenEncoder, HashedTextEncoder, HashedTokenEncoder

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "ho", "us", "hous", "house"]


def test_hashed_text_is_the_same_everywhere():
    """Known places and values of a word, and what is alike is near."""
    encoder = HashedTextEncoder()
    word = encoder.encode(["House"])[0]
    places = word.nonzero()[:, 0].tolist()
    assert word.shape == (512,) and word.dtype == torch.float32
    assert places == [32, 57, 198, 315, 316, 323, 334, 355, 370, 422]
    signs = torch.tensor([1, -1, 1, 1, 1, 1, 3, -1, -1, -1])  # the word itself weighs as much as its nine parts
    torch.testing.assert_close(word[places], signs / 18**0.5)
    texts = ["house dance music", "deep house dance music", "break dance music", ""]
    likeness = encoder.encode(texts) @ encoder.encode(texts).T
    assert likeness[0, 1] > likeness[0, 2] + 0.1 and likeness[3].abs().max() == 0
    torch.testing.assert_close(likeness.diagonal(), torch.tensor([1.0, 1, 1, 0]))
    assert HashedTextEncoder(16).encode(["a bit", "of text"]).shape == (2, HashedTextEncoder(16).dim)


@pytest.fixture
def tokenizer(tmp_path):
    """RoBERTa's files, with few words."""
    (tmp_path / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(WORDS)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh o\nu s\nho us\nhous e\n")
    return str(tmp_path)


@pytest.fixture
def roberta():
    """A small one, and the projection behind it."""
    config = RobertaConfig(
        vocab_size=len(WORDS), hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96,
        max_position_embeddings=82, type_vocab_size=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    projection = torch.nn.Sequential(torch.nn.Linear(128, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512))
    return fill_by_name(torch.nn.ModuleDict({"text_branch": RobertaModel(config), "text_projection": projection}))


def test_clap_text_is_roberta_and_its_projection(roberta, tokenizer, tmp_path):
    """Read from LAION's file; texts are padded to 77 tokens there, to the longest here, and a long one is cut alike."""
    state = {f"module.{name}": value for name, value in roberta.state_dict().items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(82)[None]
    state |= {"module.audio_branch.bn0.weight": torch.ones(2), "module.logit_scale_a": torch.ones(())}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "clap.pt")
    encoder = ClapTextEncoder(str(tmp_path / "clap.pt"), tokenizer)
    texts = ["house dance", "a", "b " * 60]
    vectors = encoder.encode(texts)
    rows = [[0, 35, 31, 8, 5, 18, 7, 9, 2], [0, 5, 2], [0, *[6, 31] * 60][:76] + [2]]
    tokens = torch.tensor([row + [1] * (77 - len(row)) for row in rows])
    with torch.inference_mode():
        pooled = roberta.text_branch(input_ids=tokens, attention_mask=(tokens != 1).long()).pooler_output
        expected = torch.nn.functional.normalize(roberta.text_projection(pooled), dim=-1)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3
    assert torch.equal(encoder.encode([texts[1], texts[1]]), vectors[[1, 1]])
    assert not encoder.state_dict()


def test_clap_text_names_missing_files(tokenizer, tmp_path):
    torch.save({"text_projection.0.weight": torch.ones(2)}, tmp_path / "x.pt")
    for weights, folder, message in (
        (None, tokenizer, "weights=FILE, LAION's music_audioset"),
        (str(tmp_path / "x.pt"), None, "tokenizer=DIR with roberta-base's vocab.json and merges.txt, not None"),
        (str(tmp_path / "x.pt"), str(tmp_path / "none"), "merges.txt, not .*none"),
        (str(tmp_path / "x.pt"), tokenizer, "x.pt: it is no CLAP checkpoint"),
    ):
        with pytest.raises(ValueError, match=message):
            ClapTextEncoder(weights, folder).encode(["house"])


def test_hashed_tokens_have_positions_and_long_texts_are_truncated():
    encoder = HashedTokenEncoder(8, max_tokens=4)
    two_words, six_words, in_capitals, empty = encoder(
        ["a dancer", "a dancer turns to the left", "A DANCER, turns to!", ""]
    )
    assert (
        two_words.shape == (4, 8) and torch.equal(six_words, in_capitals) and torch.equal(two_words[:2], six_words[:2])
    )
    torch.testing.assert_close(empty, encoder.table(torch.zeros(4, dtype=int)) + encoder.place)
    assert (
        encoder.truncated_end("a dancer turns to the left") == "the left"
        and encoder.truncated_end("a dancer turns to") == ""
    )


def test_clip_tokens_are_the_last_hidden_states(tmp_path):
    """A folder of Stable Diffusion's layout, with few words; beyond 77 tokens, two of them its own, nothing is read."""
    letters = [f"{letter}{end}" for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    vocabulary = [*letters, "da", "n" + "ce</w>", "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (tmp_path / "tokenizer" / "merges.txt").write_text("#version: 0.2\nd a\n")
    CLIPTokenizer.from_pretrained(tmp_path / "tokenizer").save_pretrained(tmp_path / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=768, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=len(vocabulary) - 2, eos_token_id=len(vocabulary) - 1, pad_token_id=len(vocabulary) - 1,
    )  # fmt: skip
    network = fill_by_name(CLIPTextModel(config))
    network.save_pretrained(tmp_path / "text_encoder")
    clip = ClipTokenEncoder(str(tmp_path))
    states = clip(["da b", "", "b " * 100])
    start, end = len(vocabulary) - 2, len(vocabulary) - 1
    b, da_open = vocabulary.index("b</w>"), [vocabulary.index("d"), vocabulary.index("a</w>")]
    tokens = [[start, *da_open, b], [start], [start, *[b] * 75]]
    rows = torch.tensor([row + [end] * (77 - len(row)) for row in tokens])
    with torch.no_grad():
        torch.testing.assert_close(states, network(rows).last_hidden_state)
    assert states.shape == (3, 77, 768) and not clip.state_dict()
    assert clip.truncated_end("b " * 75) == "" and clip.truncated_end("b " * 75 + "a b") == "a b"
    assert clip.to("meta")(["da b"]).is_meta  # the network follows the family to its device
    with pytest.raises(ValueError, match="a folder with its tokenizer/ and text_encoder/, not None"):
        ClipTokenEncoder()(["b"])
