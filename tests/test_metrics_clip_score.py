"""CLIPScore with random weights: against the networks written out once more, from the names in the public files."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.signal import resample_poly
from transformers import CLIPConfig, CLIPModel
from weights import fill_by_name, numbers

from zoo.metrics.base import MetricInput
from zoo.metrics.clip_score import ClipScore
from zoo.metrics.wav2clip import SAMPLE_RATE, Wav2Clip
from zoo.music.compiled_librosa import librosa

SIDE = 64  # pixels: 4 patches


def norm_shapes(name: str, width: int) -> dict[str, tuple]:
    """A batch norm's tensors."""
    return {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()
    }


def public_shapes() -> dict[str, tuple]:
    """Every tensor of the public Wav2CLIP.pt, as its code builds and reads them."""
    shapes = {"spectrogram.window": (512,), "conv1.weight": (64, 1, 7, 7)} | norm_shapes("bn1", 64)
    before = 64
    for layer, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, before, 3, 3)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes |= norm_shapes(f"{name}.bn1", width) | norm_shapes(f"{name}.bn2", width)
            if before != width:
                shapes[f"{name}.downsample.0.weight"] = (width, before, 1, 1)
                shapes |= norm_shapes(f"{name}.downsample.1", width)
            before = width
    shapes = {f"audio_encoder.{name}": shape for name, shape in shapes.items()}
    for tower in ("audio_transform", "image_transform"):
        for layer in (0, 3):
            shapes |= {f"{tower}.sequential.{layer}.weight": (512, 512), f"{tower}.sequential.{layer}.bias": (512,)}
    return shapes


def random_tensor(name: str, shape: tuple) -> torch.Tensor:
    """Of a size that keeps numbers in range through the layers."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if name.endswith("window"):
        return torch.hann_window(512)
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return 1 + 0.1 * numbers(name, *shape).abs()
    return numbers(name, *shape) / max(1.0, float(np.prod(shape[1:]))) ** 0.5


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict:
    """CLIP's folder (narrow, two layers) and Wav2CLIP's file (whole), and what is in them."""
    folder = tmp_path_factory.mktemp("clip")
    heads = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = heads | {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
    vision = heads | {"image_size": SIDE, "patch_size": 32}
    clip = fill_by_name(CLIPModel(CLIPConfig(projection_dim=512, text_config=text, vision_config=vision)))
    clip.save_pretrained(folder)
    sound = {name: random_tensor(name, shape) for name, shape in public_shapes().items()}
    torch.save(sound, folder / "Wav2CLIP.pt")
    return {"folder": folder, "file": folder / "Wav2CLIP.pt", "clip": clip.state_dict(), "sound": sound}


@pytest.fixture(scope="module")
def metric(files) -> ClipScore:
    """With random weights."""
    return ClipScore(clip=str(files["folder"]), wav2clip=str(files["file"]))


def evidence(seconds: float = 1.3, rate: int = SAMPLE_RATE) -> MetricInput:
    """17 frames (a batch and one more) beside a chord."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:100, :80]
    shades = [[127 + 100 * np.sin(x / (9 + f) + c) * np.cos(y / 13) for c in range(3)] for f in range(17)]
    frames = np.stack(shades).transpose(0, 2, 3, 1).round().astype(np.uint8)
    time = np.arange(int(seconds * rate)) / rate
    sound = sum(np.sin(2 * np.pi * f * time) for f in (220, 330, 440)) / 4 + 0.01 * rng.normal(size=len(time))
    return MetricInput("clip", {}, Fraction(12), frames, frames, frames[0], sound.astype(np.float32), rate, np.zeros(0))


def written_out_wav2clip(state: dict, waveform: np.ndarray) -> torch.Tensor:
    """The public encoder in plain functions."""
    power = np.abs(librosa.stft(waveform, n_fft=512, hop_length=353, window="hann", pad_mode="reflect")) ** 2
    x = np.log(power + 1e-7)
    x = torch.from_numpy((x - x.mean()) / (x.std(ddof=1) + 1e-9)).float()[None, None]
    at = {name.removeprefix("audio_encoder."): value for name, value in state.items()}

    def norm(x, name):
        parts = (at[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts)

    x = F.relu(norm(F.conv2d(x, at["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    for name in (f"layer{layer}.{block}" for layer in range(1, 5) for block in range(2)):
        short, stride = x, 1
        if f"{name}.downsample.0.weight" in at:
            stride = 2
            short = norm(F.conv2d(x, at[f"{name}.downsample.0.weight"], stride=2), f"{name}.downsample.1")
        x = F.relu(norm(F.conv2d(x, at[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
        x = F.relu(norm(F.conv2d(x, at[f"{name}.conv2.weight"], padding=1), f"{name}.bn2") + short)
    layers = [[state[f"audio_transform.sequential.{i}.{part}"] for part in ("weight", "bias")] for i in (0, 3)]
    return F.linear(F.relu(F.linear(x.mean((2, 3)), *layers[0])), *layers[1])[0]


def written_out_clip(state: dict, pictures: torch.Tensor) -> torch.Tensor:
    """CLIP's picture tower in plain functions: (F, 3, 64, 64) -> (F, 512)."""
    at = {name.removeprefix("vision_model."): value for name, value in state.items()}

    def norm(x, name):
        return F.layer_norm(x, (64,), at[f"{name}.weight"], at[f"{name}.bias"])

    def linear(x, name):
        return F.linear(x, at[f"{name}.weight"], at[f"{name}.bias"])

    x = F.conv2d(pictures, at["embeddings.patch_embedding.weight"], stride=32).flatten(2).transpose(1, 2)
    x = torch.cat([at["embeddings.class_embedding"].expand(len(x), 1, -1), x], 1)
    x = norm(x + at["embeddings.position_embedding.weight"], "pre_layrnorm")
    for layer in ("encoder.layers.0", "encoder.layers.1"):
        y = norm(x, f"{layer}.layer_norm1")
        parts = [linear(y, f"{layer}.self_attn.{part}_proj") for part in "qkv"]
        q, k, v = (part.unflatten(2, (2, 32)).transpose(1, 2) for part in parts)
        y = torch.softmax(q @ k.mT / 32**0.5, -1) @ v
        x = x + linear(y.transpose(1, 2).flatten(2), f"{layer}.self_attn.out_proj")
        y = linear(norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
        x = x + linear(y * torch.sigmoid(1.702 * y), f"{layer}.mlp.fc2")
    return F.linear(norm(x[:, 0], "post_layernorm"), state["visual_projection.weight"])


def as_clip_takes_it(frame: np.ndarray) -> torch.Tensor:
    """(H, W, 3) bytes -> (3, 64, 64), by PIL: shorter side to 64, bicubic, middle square, CLIP's mean and spread."""
    height, width = frame.shape[:2]
    height, width = (int(side * SIDE / min(height, width)) for side in (height, width))
    resized = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
    top, left = (height - SIDE) // 2, (width - SIDE) // 2
    square = np.asarray(resized.crop((left, top, left + SIDE, top + SIDE))) / 255
    mean, spread = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return torch.from_numpy((square - mean) / spread).float().permute(2, 0, 1)


def test_the_score_is_the_cosine_of_both_networks_written_out(files, metric):
    clip = evidence()
    found = metric.measure(clip)
    pictures = torch.stack([as_clip_takes_it(frame) for frame in clip.frames])
    seen = written_out_clip(files["clip"], pictures)
    heard = written_out_wav2clip(files["sound"], clip.waveform)
    cosines = (seen @ heard / (seen.norm(dim=1) * heard.norm())).numpy()
    assert found["clip_score@time"].shape == (17,) and np.ptp(cosines) > 0.01
    # the rounding of resized bytes is what remains between PIL and torchvision
    np.testing.assert_allclose(found["clip_score@time"], cosines, atol=2e-3)
    assert found["clip_score"] == pytest.approx(found["clip_score@time"].mean())


def test_wav2clip_is_the_public_network(files):
    encoder = Wav2Clip().eval()
    assert {name: tuple(value.shape) for name, value in encoder.state_dict().items()} == {
        name: shape for name, shape in public_shapes().items() if not name.startswith("image_transform.")
    }
    encoder.load_state_dict({name: files["sound"][name] for name in encoder.state_dict()})
    waveform = evidence().waveform
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(torch.from_numpy(waveform)), written_out_wav2clip(files["sound"], waveform), rtol=1e-3, atol=1e-4
        )


def test_the_sound_is_heard_at_16_khz(metric):
    clip = evidence(rate=48_000)
    other = replace(clip, waveform=resample_poly(clip.waveform, 1, 3).astype(np.float32), sample_rate=16_000)
    slowed = replace(clip, sample_rate=16_000)
    found, same, wrong = (metric.measure(sound)["clip_score@time"] for sound in (clip, other, slowed))
    np.testing.assert_allclose(found, same, atol=3e-3)  # two resamplers differ so much near 8 kHz
    assert np.abs(found - wrong).max() > 8e-3
    assert np.array_equal(found, metric.measure(evidence(rate=48_000))["clip_score@time"])


def test_files_that_do_not_fit_are_refused(files, tmp_path):
    folder, file = files["folder"], files["file"]
    short = {name: value for name, value in files["sound"].items() if "layer3.1" not in name}
    torch.save(short, tmp_path / "short.pt")
    with pytest.raises(ValueError, match="12 missing"):
        ClipScore(folder, tmp_path / "short.pt")
    with pytest.raises(ValueError, match="config.json"):
        ClipScore(tmp_path, file)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    vision = {name: value for name, value in files["clip"].items() if name != "visual_projection.weight"}
    torch.save(vision, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="1 missing .visual_projection.weight"):
        ClipScore(tmp_path, file)
    (tmp_path / "config.json").write_text(
        (folder / "config.json").read_text().replace('patch_size": 32', 'patch_size": 16')
    )
    with pytest.raises(ValueError, match="ViT-B/32"):
        ClipScore(tmp_path, file)


def test_an_old_clip_folder_is_the_same(files, tmp_path, metric):
    # pytorch_model.bin of the first releases also holds the numbers of the patches
    (tmp_path / "config.json").write_text((files["folder"] / "config.json").read_text())
    old = files["clip"] | {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    torch.save(old, tmp_path / "pytorch_model.bin")
    again = ClipScore(tmp_path, files["file"])
    assert np.array_equal(again.measure(evidence())["clip_score"], metric.measure(evidence())["clip_score"])
    assert (
        again.weights_hash != metric.weights_hash and len(again.weights_hash) == 12
    )  # another file, though the same numbers


def test_without_its_files_it_says_what_it_needs(files):
    both, one = ClipScore().unavailable_reason, ClipScore(clip=files["folder"]).unavailable_reason
    assert "weights.clip=FOLDER" in both and "weights.wav2clip=FILE" in both
    assert "weights.clip" not in one and "weights.wav2clip=FILE" in one
