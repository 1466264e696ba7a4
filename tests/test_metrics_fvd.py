"""FVD and FID-VID: which frames are looked at, by which network, and what is made of the features."""

import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm
from torch import Tensor, nn
from weights import numbers, state_by_name

from zoo.metrics.base import MetricInput
from zoo.metrics.fid_vid import FIDVID, build_resnet3d_50, convert_public_weights
from zoo.metrics.fvd import FVD

STORED = np.load(Path(__file__).parent / "data" / "resnet3d_reference.npz")


class Colours(nn.Module):
    """Called as StyleGAN-V's I3D; its features are the mean colours of a part of a video's first and last frame."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        """(B, 3, F, H, W) -> (B, 6)"""
        if rescale:
            x = x / 127.5 - 1
        if resize:
            x = F.interpolate(x, size=[x.shape[2], 224, 224], mode="trilinear", align_corners=False)
        assert return_features and x.shape[3] == 224 and x.shape[4] == 224
        return torch.cat([x[:, :, 0, 112:, 56:168].mean([2, 3]), x[:, :, -1, 112:, 56:168].mean([2, 3])], dim=1)


class Other(nn.Module):
    """A network that is called otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        """Itself."""
        return x


@pytest.fixture(scope="module")
def i3d(tmp_path_factory) -> Path:
    """`Colours` as a TorchScript file."""
    path = tmp_path_factory.mktemp("i3d") / "i3d_torchscript.pt"
    torch.jit.script(Colours()).save(str(path))
    return path


def clip(frames: np.ndarray) -> MetricInput:
    """All that is known of a clip when only its frames count."""
    silence = np.zeros(16, np.float32)
    return MetricInput("key", {}, Fraction(12), frames, frames, frames[0], silence, 16, np.zeros(0))


def colours(seed: int, clips: int, length: int, low: int = 0, high: int = 256) -> np.ndarray:
    """(clips, length, 12, 16, 3) uint8: every frame of one colour."""
    drawn = np.random.default_rng(seed).integers(low, high, (clips, length, 1, 1, 3), np.uint8)
    return drawn.repeat(12, 2).repeat(16, 3)


def test_fvd_is_the_frechet_distance_of_the_networks_features(i3d):
    metric = FVD(i3d, frames=10, stride=None)
    row, truth = colours(1, 9, 12, 100), colours(2, 7, 12)
    value = metric.combine(*[[metric.measure(clip(frames)) for frames in clips] for clips in (row, truth)])["fvd"]
    known = [clips[:, [0, 9], 0, 0].reshape(len(clips), 6) / 127.5 - 1 for clips in (row, truth)]
    means, spreads = [each.mean(0) for each in known], [np.cov(each, rowvar=False) for each in known]
    shared = np.trace(sqrtm(spreads[0] @ spreads[1])).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(spreads[0] + spreads[1]) - 2 * shared
    assert value == pytest.approx(expected, rel=1e-4)
    same = [metric.measure(clip(frames)) for frames in truth]
    assert metric.combine(same, same)["fvd"] == pytest.approx(0, abs=1e-6)
    assert np.isnan(metric.combine(same[:1], same)["fvd"])


@pytest.mark.parametrize(
    ("settings", "firsts", "lasts"),
    [
        ({}, [0, 16, 32], [15, 31, 47]),
        ({"stride": None}, [0], [15]),
        ({"frames": None}, [0], [47]),
        ({"frames": 20, "stride": 7}, [0, 7, 14, 21, 28], [19, 26, 33, 40, 47]),
        ({"frames": 12, "stride": 12, "step": 2}, [0, 24], [22, 46]),
    ],
)
def test_windows_cover_the_frames_that_the_protocol_names(i3d, settings, firsts, lasts):
    frames = colours(3, 1, 48)[0]
    features = FVD(i3d, **settings).measure(clip(frames))["features"]
    seen = np.hstack([frames[firsts, 0, 0], frames[lasts, 0, 0]]) / 127.5 - 1
    np.testing.assert_allclose(features, seen, atol=1e-5)


def test_what_is_not_square_is_stretched_or_cropped(i3d):
    frames = np.zeros((10, 20, 60, 3), np.uint8)
    frames[:, :, 20:40] = 255  # the middle square is white
    values = {square: FVD(i3d, frames=10, square=square).measure(clip(frames)) for square in ("stretch", "crop")}
    assert values["crop"]["features"] == pytest.approx(1)
    # of the stretched picture's middle half, two thirds are white
    np.testing.assert_allclose(values["stretch"]["features"], 2 * 2 / 3 - 1, atol=0.02)


def test_fvd_says_whose_features_they_are(i3d, tmp_path):
    assert "weights.i3d=FILE" in FVD().unavailable_reason
    metric = FVD(i3d)
    assert metric.unavailable_reason is None and len(metric.weights_hash) == 12
    assert metric.weights_hash in metric.columns["fvd"].title, "not the public file, and the heading says so"
    assert FVD.columns["fvd"].title == FVD().columns["fvd"].title == "FVD ↓"
    again = pickle.loads(pickle.dumps(metric))
    frames = colours(4, 1, 16)[0]
    assert again.measure(clip(frames))["features"].tobytes() == metric.measure(clip(frames))["features"].tobytes()


def test_mistakes_in_one_line(i3d, tmp_path):
    for settings, message in (
        ({"frames": 9}, "fvd.frames=9: at least 10"),
        ({"stride": 0}, "fvd.stride=0: at least 1"),
        ({"square": "round"}, "use stretch or crop"),
    ):
        with pytest.raises(ValueError, match=message):
            FVD(**settings)
    with pytest.raises(ValueError, match="clips of 16 frames, every 1; here are 12"):
        FVD(i3d).measure(clip(colours(1, 1, 12)[0]))
    text, other = tmp_path / "text.pt", tmp_path / "other.pt"
    text.write_text("not a network")
    torch.jit.script(Other()).save(str(other))
    for path, message in ((text, "no TorchScript"), (other, "is not StyleGAN-V"), (tmp_path / "none.pt", "not there")):
        with pytest.raises(ValueError, match=message) as caught:
            FVD(path)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def public_state() -> dict[str, Tensor]:
    """What resnet-50-kinetics.pth holds, by name and shape."""
    pairs = [str(key).split(" ", 1) for key in STORED["keys"]]
    return state_by_name({name: tuple(int(n) for n in shape.strip("(),").split(",")) for name, shape in pairs})


def write(state: dict[str, Tensor], path: Path) -> Path:
    """As 3D-ResNets-PyTorch writes checkpoints: from a DataParallel, with more beside, in torch's old format."""
    parallel = {f"module.{name}": value for name, value in state.items()}
    found = {"epoch": 200, "arch": "resnet-50", "state_dict": parallel, "optimizer": {"param_groups": []}}
    torch.save(found, path, _use_new_zipfile_serialization=False)
    return path


def test_fid_vid_answers_as_the_public_scorer(public_state, tmp_path):
    metric = FIDVID(write(public_state, tmp_path / "resnet-50-kinetics.pth"))
    frames = (numbers("frames", 32, 96, 120, 3) * 60 + 128).clamp(0, 255).byte().numpy()
    features = metric.measure(clip(frames))["features"]
    assert features.shape == (2, 2048)
    np.testing.assert_allclose(features[:, ::8], STORED["features"], rtol=1e-4, atol=1e-4 * STORED["features"].std())
    measured = [metric.measure(clip(frames)), metric.measure(clip(frames[::-1].copy()))]
    assert measured[0]["features"].tobytes() == features.tobytes()
    assert metric.combine(measured, measured)["fid_vid"] == pytest.approx(0, abs=1)


def test_fid_vid_takes_the_whole_file_or_nothing(public_state, tmp_path):
    assert "weights.resnet3d=FILE" in FIDVID().unavailable_reason
    own = build_resnet3d_50().state_dict()
    state = convert_public_weights({"state_dict": public_state})
    assert {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in state.items()}
    short = {name: value for name, value in public_state.items() if name != "layer3.5.bn2.running_mean"}
    for state, message in (
        (short, "1 missing"),
        (public_state | {"layer5.0.conv1.weight": torch.zeros(1)}, "unexpected"),
    ):
        with pytest.raises(ValueError, match=message):
            FIDVID(write(state, tmp_path / "wrong.pth"))
