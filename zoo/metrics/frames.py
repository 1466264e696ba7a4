"""Frame metrics: similarity of a video to the ground truth, frame by frame.

Each is the mean over the frames of a clip; frames are (F, H, W, 3) uint8, of one size in both videos.
"""

import os
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from zoo.files import file_hash
from zoo.metrics.base import OTHER_SONG, STILL_IMAGE, TIME_SUFFIX, ClipMetric, Column, Measurement, MetricInput
from zoo.nn.weights.loading import load_strict, read_weights, unwrap_state_dict

PEAK = 255  # the range of pixel values
BOTH_BASELINES = frozenset({STILL_IMAGE, OTHER_SONG})
WINDOW_RADIUS, SIGMA = 5, 1.5  # SSIM's window: 11 pixels wide
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
LPIPS_BATCH = 16  # frames
# width of the first filters -> torchmetrics' name, display name, starts of the slices of torchvision's `features`
LPIPS_NETS = {11: ("alex", "AlexNet", (0, 2, 5, 8, 10)), 3: ("vgg", "VGG16", (0, 4, 9, 16, 23))}


def _mean_over_frames(name: str, values: np.ndarray) -> Measurement:
    return {name: values.mean(), name + TIME_SUFFIX: values}


class Psnr(ClipMetric):
    """Peak signal to noise ratio, 10 log10(255^2 / MSE) in dB, the mean over frames of each frame's.

    MSE is over all pixels and channels of a frame. A frame equal to the ground truth's has none (inf on the curve): it
    is left out of the mean, and a clip of such frames only is inf. OpenCV sums the squares of bytes exactly, in a
    hundredth of the time of torchmetrics in float64; both agree.
    """

    columns = {"psnr": Column("PSNR", "higher", digits=2, unit="dB", must_beat=BOTH_BASELINES)}

    def measure(self, clip: MetricInput) -> Measurement:
        """Return psnr, dB, and psnr@time, (F,) dB."""
        squared_errors = [cv2.norm(frame, true, cv2.NORM_L2SQR) for frame, true in zip(*_frame_pair(clip), strict=True)]
        with np.errstate(divide="ignore"):
            values = 10 * np.log10(PEAK**2 * clip.frames[0].size / np.array(squared_errors, dtype=np.float64))
        finite = values[np.isfinite(values)]
        return {"psnr": np.array(finite.mean() if finite.size else np.inf), "psnr" + TIME_SUFFIX: values}


class PsnrDisco(ClipMetric):
    """The PSNR of DisCo's public scorer, with its overflow: NOT a PSNR. For comparison with published tables.

    The scorer (tool/metrics/ssim_l1_lpips_psnr.py, copied by MagicAnimate and Champ: DisCo issue 86, magic-animate
    146, champ 8) subtracts and squares bytes, so both wrap around at 256: MSE = mean(d^2 mod 256); 100 dB where that
    is 0. No error exceeds 255, so that large differences of any size give 28 to 31 dB.
    """

    columns = {
        "psnr_disco": Column("PSNR as DisCo (overflows)", "higher", digits=2, unit="dB", must_beat=BOTH_BASELINES)
    }

    def measure(self, clip: MetricInput) -> Measurement:
        """Return psnr_disco and psnr_disco@time, (F,)."""
        frames, true = _frame_pair(clip)
        error = frames - true
        error *= error
        mse = error.reshape(len(error), -1).mean(1)
        with np.errstate(divide="ignore"):
            return _mean_over_frames("psnr_disco", np.where(mse == 0, 100.0, 10 * np.log10(PEAK**2 / mse)))


class Ssim(ClipMetric):
    """Structural similarity (Wang et al. 2004, eq. 13), the mean over frames, colour channels and places.

    Gaussian window of 11 pixels, sigma 1.5, K1 = .01, K2 = .03, population variances, and only positions with the
    whole window inside the image, as in scikit-image. torchmetrics also uses the border, with mirrored pixels; inside
    both agree. Both filter in two dimensions or in float64, at 6 to 15 times the cost.
    """

    columns = {"ssim": Column("SSIM", "higher", digits=4, must_beat=BOTH_BASELINES)}

    def measure(self, clip: MetricInput) -> Measurement:
        """Return ssim, in [-1, 1], and ssim@time, (F,)."""
        num_threads = min(os.cpu_count() or 1, len(clip.frames))
        chunks = [np.array_split(frames, num_threads) for frames in _frame_pair(clip)]
        # OpenCV and numpy release the GIL; a frame's value does not depend on its thread
        with ThreadPoolExecutor(num_threads) as threads:
            return _mean_over_frames("ssim", np.concatenate(list(threads.map(structural_similarity, *chunks))))


def structural_similarity(frames: np.ndarray, true: np.ndarray) -> np.ndarray:
    """SSIM (F,) float64 of images and their ground truth, both (F, H, W, 3) uint8; see `Ssim`.

    With d = x - y the two factors are A / (A + mean(d)^2) and B / (B + var(d)), where A = 2 mean(x) mean(y) + C1 and
    B = 2 cov(x, y) + C2. So float32 is enough, and equal images get exactly 1. Products are relative to the middle of
    the range, as exact 16-bit integers. Every step reuses buffers: allocating memory would take three quarters of the
    time.
    """
    mid_value = (PEAK + 1) // 2
    kernel = cv2.getGaussianKernel(2 * WINDOW_RADIUS + 1, SIGMA, cv2.CV_32F)
    x, y = np.empty((2, *frames.shape[1:]), np.int16)
    mean_x, mean_y, covariance, squares, variance = np.empty((5, *frames.shape[1:]), np.float32)

    def blur(image: np.ndarray, out: np.ndarray) -> None:
        cv2.sepFilter2D(image, cv2.CV_32F, kernel, kernel, dst=out)

    values = np.empty(len(frames))
    for index, (frame, true_frame) in enumerate(zip(frames, true, strict=True)):
        for image, centered, mean_image in ((frame, x, mean_x), (true_frame, y, mean_y)):
            np.copyto(centered, image)
            centered -= mid_value
            blur(centered, mean_image)
        np.subtract(x, y, out=squares)
        squares *= squares
        blur(squares, variance)
        x *= y
        blur(x, covariance)

        a, b, difference = squares, covariance, mean_y
        np.multiply(mean_x, mean_y, out=a)
        b -= a
        b *= 2
        b += C2
        np.subtract(mean_x, mean_y, out=difference)
        # from means about the middle to the means: 2(x + h)(y + h) = 2xy + 2h(x + y) + 2h^2, and x + y = 2x - d
        mean_x *= 2
        mean_x -= difference
        mean_x *= 2 * mid_value
        a *= 2
        a += 2 * mid_value**2 + C1
        a += mean_x
        difference *= difference
        variance -= difference

        difference += a
        a /= difference
        variance += b
        b /= variance
        a *= b
        values[index] = a[WINDOW_RADIUS:-WINDOW_RADIUS, WINDOW_RADIUS:-WINDOW_RADIUS].mean(dtype=np.float64)
    return values


class Lpips(ClipMetric):
    """Learned perceptual distance (Zhang et al. 2018, eq. 1), the mean over frames: torchmetrics' LPIPS v0.1.

    weights: a weights file of torchvision's AlexNet or VGG16, told apart by its tensors. torchmetrics contains the
    trained heads. Values of the two networks are not comparable, so the heading names the network.
    """

    columns = {"lpips": Column("LPIPS", "lower", digits=4, must_beat=BOTH_BASELINES)}

    def __init__(self, weights: str | Path | None = None):
        """Raises ValueError for another file."""
        self.file = weights
        if weights is not None:
            self.net, name = _load_lpips_net(weights)
            self.columns = {"lpips": replace(self.columns["lpips"], heading=f"LPIPS ({name})")}

    @property
    def unavailable_reason(self) -> str | None:
        """The missing file."""
        if self.file is None:
            return "needs weights.lpips=FILE, AlexNet or VGG16 as torchvision publishes them (alexnet-owt-7be5be79.pth)"
        return None

    @property
    def weights_hash(self) -> str | None:
        """Hash of the backbone's file."""
        return None if self.file is None else file_hash(self.file)

    @torch.inference_mode()
    def measure(self, clip: MetricInput) -> Measurement:
        """Return lpips, at least 0, and lpips@time, (F,)."""
        values = []
        for start in range(0, len(clip.frames), LPIPS_BATCH):
            pair = [_to_unit_range(frames[start : start + LPIPS_BATCH]) for frames in _frame_pair(clip)]
            values.append(self.net(*pair, normalize=True).flatten().double())
        return _mean_over_frames("lpips", torch.cat(values).numpy())


def _load_lpips_net(path: str | Path) -> tuple[nn.Module, str]:
    """Load torchmetrics' LPIPS with the backbone of a file. Returns it and the backbone's name."""
    from torchmetrics.functional.image.lpips import _NoTrainLpips  # its public class downloads the backbone

    filter_width = (
        read_weights(path).get("features.0.weight", torch.empty(0)).shape[-1]
    )  # the width of the first filters
    if filter_width not in LPIPS_NETS:
        raise ValueError(f"{path} holds neither torchvision's AlexNet nor its VGG16")
    name, title, slice_starts = LPIPS_NETS[filter_width]

    def convert(content: Any) -> dict[str, Tensor]:
        state_dict = {
            key: value for key, value in unwrap_state_dict(content).items() if not key.startswith("classifier.")
        }
        key_parts = [key.split(".", 2) for key in state_dict]  # features, index, weight or bias
        slices = [bisect_right(slice_starts, int(index)) for _, index, _ in key_parts]
        names = [f"slice{number}.{index}.{kind}" for number, (_, index, kind) in zip(slices, key_parts, strict=True)]
        return dict(zip(names, state_dict.values(), strict=True))

    net = _NoTrainLpips(net=name, pnet_rand=True)
    load_strict(net.net, path, convert)
    return net, title


def _to_unit_range(frames: np.ndarray) -> Tensor:
    """Convert (F, H, W, 3) uint8 to (F, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float() / PEAK


def _frame_pair(clip: MetricInput) -> tuple[np.ndarray, np.ndarray]:
    """Frames of the clip and of the ground truth."""
    assert clip.frames.shape == clip.true_frames.shape, "clips of another size are excluded earlier"
    return clip.frames, clip.true_frames
