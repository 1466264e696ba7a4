"""Frame metrics against closed forms, scikit-image and torchmetrics."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchmetrics
import torchvision
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

from zoo.metrics.base import ClipMetric, MetricInput
from zoo.metrics.frames import Lpips, Psnr, PsnrDisco, Ssim

AS_WANG = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}


def evidence(frames: np.ndarray, true: np.ndarray) -> MetricInput:
    """A clip whose frames alone matter."""
    silence = np.zeros(8, np.float32)
    return MetricInput("clip", {}, Fraction(12), frames, true, true[0], silence, 16000, np.zeros(0))


def scenes(frames: int = 4, height: int = 48, width: int = 60) -> np.ndarray:
    """(F, H, W, 3) uint8: smooth shades, a flat black half, a flat white corner and some grain, as in filmed bodies."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width]
    shades = [120 + 90 * np.sin(x / (5 + f) + c) * np.cos(y / 7) for f in range(frames) for c in range(3)]
    video = np.stack(shades).reshape(frames, 3, height, width).transpose(0, 2, 3, 1)
    video = video + rng.normal(0, 3, video.shape)
    video[:, :, : width // 3] = 0
    video[:, : height // 3, -height // 3 :] = 255
    return np.clip(video, 0, 255).round().astype(np.uint8)


def spoilt(true: np.ndarray, size: float) -> np.ndarray:
    """With normal noise of this size, clipped and rounded."""
    noise = np.random.default_rng(4).normal(0, size, true.shape)
    return np.clip(true + noise, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("step", [1, 5, 40])
def test_psnr_of_known_noise_is_the_closed_form(step):
    # +-step at every pixel: the error is step^2 everywhere; frame i only in i + 1 of its 4 quarters
    true = np.full((4, 16, 16, 3), 128, np.uint8)
    frames = true.copy()
    signs = np.where(np.random.default_rng(0).random(true.shape) < 0.5, -step, step)
    for index in range(4):
        rows = slice(0, 4 * (index + 1))
        frames[index, rows] = 128 + signs[index, rows]
    expected = 20 * np.log10(255 / step) + 10 * np.log10(4 / np.arange(1, 5))
    found = Psnr().measure(evidence(frames, true))
    np.testing.assert_allclose(found["psnr@time"], expected, rtol=1e-12)
    assert found["psnr"] == pytest.approx(expected.mean(), rel=1e-12)  # the mean of decibels, not of errors


@pytest.mark.parametrize("size", [0.5, 6, 60])
def test_psnr_and_ssim_are_scikit_images(size):
    true = scenes()
    frames = spoilt(true, size)
    found = Psnr().measure(evidence(frames, true)) | Ssim().measure(evidence(frames, true))
    decibels = [peak_signal_noise_ratio(t, f, data_range=255) for t, f in zip(true, frames, strict=True)]
    alike = [structural_similarity(t, f, channel_axis=-1, **AS_WANG) for t, f in zip(true, frames, strict=True)]
    np.testing.assert_allclose(found["psnr@time"], decibels, atol=1e-9)
    np.testing.assert_allclose(found["ssim@time"], alike, atol=1e-5)
    assert found["ssim"] == pytest.approx(np.mean(alike), abs=1e-5)


def test_ssim_inside_the_border_is_torchmetrics():
    true = scenes()
    frames = spoilt(true, 10)
    pair = [torch.from_numpy(video).permute(0, 3, 1, 2).double() for video in (frames, true)]
    _, places = structural_similarity_index_measure(*pair, data_range=255.0, return_full_image=True)
    inside = places[..., 5:-5, 5:-5].mean((1, 2, 3)).numpy()
    np.testing.assert_allclose(Ssim().measure(evidence(frames, true))["ssim@time"], inside, atol=1e-5)
    assert abs(places.mean().item() - inside.mean()) > 1e-4  # so the border does count in torchmetrics


def test_ssim_holds_where_rounding_bites():
    # nearly flat pictures at both ends of the range: variances are tiny differences of large numbers
    rng = np.random.default_rng(5)
    for level in (0, 1, 128, 254, 255):
        pair = [np.clip(level + rng.integers(-1, 2, (1, 30, 30, 3)), 0, 255).astype(np.uint8) for _ in range(2)]
        expected = structural_similarity(pair[0][0], pair[1][0], channel_axis=-1, **AS_WANG)
        assert Ssim().measure(evidence(*pair))["ssim"] == pytest.approx(expected, abs=1e-5)


def test_the_ground_truth_is_perfect():
    true = scenes()
    for metric, perfect in ((Psnr(), np.inf), (PsnrDisco(), 100.0), (Ssim(), 1.0)):
        found = metric.measure(evidence(true, true))
        (name,) = metric.columns
        assert found[name] == perfect and (found[name + "@time"] == perfect).all()


def test_a_frame_without_error_does_not_make_the_clip_infinite():
    true = scenes()
    frames = spoilt(true, 8)
    frames[0] = true[0]
    found = Psnr().measure(evidence(frames, true))
    assert np.isinf(found["psnr@time"][0])
    assert found["psnr"] == pytest.approx(found["psnr@time"][1:].mean(), rel=1e-12)


def overflowing(frame: np.ndarray, true: np.ndarray) -> float:
    """DisCo's error in whole numbers: byte arithmetic wraps around at 256."""
    wrapped = ((frame.astype(int) - true.astype(int)) % 256) ** 2 % 256
    return 100.0 if not wrapped.any() else 20 * np.log10(255 / np.sqrt(wrapped.mean()))


def test_discos_psnr_is_the_published_bug():
    true = scenes()
    for size in (2, 12, 80):
        frames = spoilt(true, size)
        found = PsnrDisco().measure(evidence(frames, true))
        expected = [overflowing(f, t) for f, t in zip(frames, true, strict=True)]
        np.testing.assert_allclose(found["psnr_disco@time"], expected, rtol=1e-12)
        assert found["psnr_disco"] == pytest.approx(np.mean(expected), rel=1e-12)
    # below 16 nothing wraps: it is the PSNR; an error of 16 is seen as none at all
    near = np.full((2, 12, 12, 3), 100, np.uint8)
    small, wrapping = (evidence(near + np.uint8(step), near) for step in (15, 16))
    assert PsnrDisco().measure(small)["psnr_disco"] == pytest.approx(Psnr().measure(small)["psnr"])
    assert PsnrDisco().measure(wrapping)["psnr_disco"] == 100 and Psnr().measure(wrapping)["psnr"] < 25


def test_discos_psnr_flatters_a_wrong_video():
    # unrelated noise, whose differences are uniform bytes: 7.8 dB in truth, 27.9 in the bug, both in closed form
    rng = np.random.default_rng(6)
    noise = evidence(*(rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8) for _ in range(2)))
    assert Psnr().measure(noise)["psnr"] == pytest.approx(10 * np.log10(255**2 * 6 / (256**2 - 1)), abs=0.05)
    squares = np.arange(256) ** 2 % 256
    assert PsnrDisco().measure(noise)["psnr_disco"] == pytest.approx(10 * np.log10(255**2 / squares.mean()), abs=0.05)
    # a picture 4 pixels off beside the right one: the papers' pair of 29 dB and SSIM .7, where 15 dB is the truth
    true = scenes(4, 128, 128)
    frames = np.stack([cv2.GaussianBlur(frame, (0, 0), 1) for frame in np.roll(true, 4, axis=2)])
    moved = evidence(frames, true)
    assert 14 < Psnr().measure(moved)["psnr"] < 17
    assert 28 < PsnrDisco().measure(moved)["psnr_disco"] < 31
    assert 0.65 < Ssim().measure(moved)["ssim"] < 0.75


@pytest.fixture
def backbone(tmp_path, monkeypatch):
    """torchvision's AlexNet with random weights, as a file where torchmetrics looks for the downloaded one."""
    torch.manual_seed(0)
    file = tmp_path / "hub/checkpoints/alexnet-owt-7be5be79.pth"
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return file


def test_lpips_is_torchmetrics_with_the_files_backbone(backbone):
    true = scenes(20, 64, 72)
    frames = spoilt(true, 20)
    metric = Lpips(weights=str(backbone))
    found = metric.measure(evidence(frames, true))
    theirs = LearnedPerceptualImagePatchSimilarity("alex", normalize=True)
    for index in (0, 17):
        theirs.reset()
        pair = (torch.from_numpy(video[index : index + 1]).permute(0, 3, 1, 2) / 255 for video in (frames, true))
        assert found["lpips@time"][index] == pytest.approx(theirs(*pair).item(), rel=1e-4)
    assert found["lpips@time"].shape == (20,) and found["lpips"] == pytest.approx(found["lpips@time"].mean())
    assert found["lpips"] > 1e-4 and metric.measure(evidence(true, true))["lpips"] == 0
    heads = Path(torchmetrics.__file__).parent / "functional/image/lpips_models/alex.pth"
    for name, trained in torch.load(heads, map_location="cpu", weights_only=True).items():
        assert torch.equal(metric.net.state_dict()[name], trained)
    assert metric.columns["lpips"].heading == "LPIPS (AlexNet)" and len(metric.weights_hash) == 12


def test_lpips_tells_the_backbone_by_its_tensors(tmp_path, backbone):
    # VGG16's names and shapes as torchvision publishes them; VGG19 and foreign files are refused in one line
    torch.manual_seed(1)
    for net, name in (("vgg16", "VGG16"), ("vgg19", None), ("resnet18", None)):
        with torch.device("meta"):
            state = getattr(torchvision.models, net)(weights=None).state_dict()
        file = tmp_path / f"{net}.pth"
        kept = {key: value for key, value in state.items() if not key.startswith("classifier.")}
        torch.save({key: 0.02 * torch.randn(value.shape) for key, value in kept.items()}, file)
        if name:
            assert Lpips(file).columns["lpips"].heading == f"LPIPS ({name})"
        else:
            with pytest.raises(ValueError, match=f"{net}.pth"):
                Lpips(file)
    state = torch.load(backbone, weights_only=True)
    del state["features.6.bias"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(ValueError, match="1 missing"):
        Lpips(tmp_path / "short.pth")


def test_lpips_without_its_file_says_what_it_needs():
    assert "weights.lpips=FILE" in Lpips().unavailable_reason and Lpips().weights_hash is None


@pytest.mark.parametrize("metric", [Psnr(), PsnrDisco(), Ssim()], ids=lambda metric: type(metric).__name__)
def test_the_same_clip_gives_the_same_bits(metric: ClipMetric):
    true = scenes(9)
    clip = evidence(spoilt(true, 9), true)
    first, again = metric.measure(clip), metric.measure(clip)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert all(value.dtype == np.float64 for value in map(np.asarray, first.values()))
