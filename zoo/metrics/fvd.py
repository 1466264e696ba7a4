"""Frechet distances between sets of videos, by features of windows of frames; FVD uses I3D's features."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zoo.files import file_hash
from zoo.metrics.base import STILL_IMAGE, Column, Measurement, MetricInput, SetMetric
from zoo.metrics.frechet import frechet_distance

PUBLIC_I3D = "bec6519f66ea"  # first digits of the sha256 of the public i3d_torchscript.pt
MIN_FRAMES = 10  # of I3D, for one step after its pooling


class VideoFrechet(SetMetric):
    """The Frechet distance between windows of a system's clips and of the ground truth.

    frames: in a window, None for the whole clip; stride: frames between the starts of windows, None for one window at
    the clip's start; step: only every step-th frame is used. A subclass defines one column and the features.
    """

    def __init__(self, frames: int | None, stride: int | None, step: int, min_frames: int):
        """min_frames: of the features. Raises ValueError for smaller windows, and for values below 1."""
        (self._column,) = self.columns
        for name, value, min_value in (("frames", frames, min_frames), ("stride", stride, 1), ("step", step, 1)):
            if value is not None and value < min_value:
                raise ValueError(f"{self._column}.{name}={value}: at least {min_value}")
        self.frames, self.stride, self.step, self.min_frames = frames, stride, step, min_frames

    def windows(self, frames: np.ndarray) -> list[np.ndarray]:
        """Cut a clip into windows (`frames`, H, W, 3). Raises ValueError for a clip that is too short."""
        sampled = frames[:: self.step]
        length = self.frames or len(sampled)
        if len(sampled) < max(length, self.min_frames):
            num_required = max(length, self.min_frames)
            raise ValueError(
                f"{self._column} needs clips of {num_required} frames, every {self.step}; here are {len(frames)}"
            )
        last_start = len(sampled) - length if self.stride else 0
        return [sampled[start : start + length] for start in range(0, last_start + 1, self.stride or 1)]

    @abstractmethod
    def features(self, window: np.ndarray) -> Tensor:
        """Features (D,) of a window (`frames`, H, W, 3) uint8."""

    @torch.inference_mode()
    def measure(self, clip: MetricInput) -> Measurement:
        """Return features, (windows, D) float32. One window at a time: in a batch the last bits depend on the
        others.
        """
        return {"features": np.stack([self.features(window).numpy() for window in self.windows(clip.frames)])}

    def combine(self, measured: Sequence[Measurement], true: Sequence[Measurement]) -> dict[str, float]:
        """Squared distance; NaN for fewer than two windows on either side."""
        features, true_features = (np.concatenate([clip["features"] for clip in clips]) for clips in (measured, true))
        return {self._column: frechet_distance(features, true_features)}


class FVD(VideoFrechet):
    """Frechet video distance (Unterthiner et al. 2019): I3D's 400 logits on Kinetics-400, by StyleGAN-V's port.

    weights: the TorchScript file i3d_torchscript.pt, which scales to [-1, 1] and to 224x224 pixels itself. It is the
    only file whose code is run. Papers differ in its inputs: frames and stride choose windows of a clip, step chooses
    frames, square whether other shapes are stretched (StyleGAN-V) or cropped (VideoGPT).
    """

    columns = {"fvd": Column("FVD", "lower", digits=1, must_beat=frozenset({STILL_IMAGE}))}

    def __init__(
        self,
        weights: str | Path | None = None,
        frames: int | None = 16,
        stride: int | None = 16,
        step: int = 1,
        square: Literal["stretch", "crop"] = "stretch",
    ):
        """Raises ValueError for fewer than 10 frames and for another file."""
        super().__init__(frames, stride, step, MIN_FRAMES)
        if square not in ("stretch", "crop"):
            raise ValueError(f"fvd.square={square}: use stretch or crop")
        self.file, self.square = weights, square
        if weights is not None:
            _load_i3d(weights)
            if self.weights_hash != PUBLIC_I3D:
                self.columns = {"fvd": Column(f"FVD (by another I3D, {self.weights_hash})", "lower", digits=1)}

    @property
    def unavailable_reason(self) -> str | None:
        """The missing file."""
        return "needs weights.i3d=FILE, StyleGAN-V's i3d_torchscript.pt" if self.file is None else None

    @property
    def weights_hash(self) -> str | None:
        """Hash of the TorchScript file."""
        return None if self.file is None else file_hash(self.file)

    def features(self, window: np.ndarray) -> Tensor:
        """Logits (400,)."""
        if self.square == "crop":
            height, width = window.shape[1:3]
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            window = window[:, top : top + side, left : left + side]
        video = torch.tensor(window).permute(3, 0, 1, 2)[None].float()  # (1, 3, F, H, W) in [0, 255]
        # not optimised: rewriting the network after its first calls would change the last bits
        with torch.jit.optimized_execution(False):
            return _load_i3d(self.file)(video, rescale=True, resize=True, return_features=True)[0]


@lru_cache(maxsize=1)
def _load_i3d(path: str | Path) -> torch.jit.ScriptModule:
    """Load a TorchScript file. Raises ValueError for another file. Cached here, because it cannot be pickled."""
    if not Path(path).is_file():
        raise ValueError(f"weights.i3d={path} is not there")
    try:
        network = torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError:
        raise ValueError(
            f"weights.i3d={path} is no TorchScript file; StyleGAN-V's i3d_torchscript.pt is needed"
        ) from None
    argument_names = {argument.name for argument in network.forward.schema.arguments}
    if not {"rescale", "resize", "return_features"} <= argument_names:
        raise ValueError(f"weights.i3d={path} is not StyleGAN-V's i3d_torchscript.pt")
    return network
