"""FID-VID: the Frechet distance of a 3D ResNet's features, as DisCo and its successors report it."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.video.resnet import Bottleneck, Conv3DSimple, VideoResNet

from zoo.files import file_hash
from zoo.metrics.base import STILL_IMAGE, Column
from zoo.metrics.fvd import VideoFrechet
from zoo.nn.weights.loading import load_strict, unwrap_state_dict

INPUT_SIZE = 112  # pixels
KINETICS_MEAN = (114.7748, 107.7354, 99.4750)  # red, green, blue, subtracted in training
MIN_FRAMES = 2  # of a window


class FIDVID(VideoFrechet):
    """FID-VID (DisCo's public scorer, tool/metrics/metric_center.py): 2048 features of a 3D ResNet-50.

    weights: resnet-50-kinetics.pth of 3D-ResNets-PyTorch (Hara et al. 2018). Windows of 16 frames, stretched to 112x112
    pixels (bicubic), minus the mean colour of Kinetics. DisCo uses a window at every frame: stride=1.
    """

    columns = {"fid_vid": Column("FID-VID", "lower", digits=2, must_beat=frozenset({STILL_IMAGE}))}

    def __init__(
        self, weights: str | Path | None = None, frames: int | None = 16, stride: int | None = 16, step: int = 1
    ):
        """Raises ValueError for a file that does not fit the network exactly."""
        super().__init__(frames, stride, step, MIN_FRAMES)
        self.weights = weights
        if weights is not None:
            _load_network(weights)

    @property
    def unavailable_reason(self) -> str | None:
        """The missing file."""
        return (
            "needs weights.resnet3d=FILE, resnet-50-kinetics.pth of 3D-ResNets-PyTorch"
            if self.weights is None
            else None
        )

    @property
    def weights_hash(self) -> str | None:
        """Hash of the network's file."""
        return None if self.weights is None else file_hash(self.weights)

    def features(self, window: np.ndarray) -> Tensor:
        """Features (2048,), all at least 0."""
        images = torch.tensor(window).permute(0, 3, 1, 2).float()
        images = F.interpolate(
            images, size=(INPUT_SIZE, INPUT_SIZE), mode="bicubic", antialias=True
        )  # not clipped, as in DisCo
        video = images - torch.tensor(KINETICS_MEAN)[:, None, None]
        return _load_network(self.weights)(video.transpose(0, 1)[None])[0]


class Stem(nn.Sequential):
    """The first layers of 3D-ResNets-PyTorch: 7x7x7, and a pooling that torchvision's networks lack."""

    def __init__(self):
        super().__init__(
            nn.Conv3d(3, 64, kernel_size=7, stride=(1, 2, 2), padding=3, bias=False),
            nn.BatchNorm3d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(kernel_size=3, stride=2, padding=1),
        )


def build_resnet3d_50() -> VideoResNet:
    """3D-ResNets-PyTorch's ResNet-50 with shortcut type B: (B, 3, F, H, W) -> (B, 400)."""
    return VideoResNet(Bottleneck, [Conv3DSimple] * 4, [3, 4, 6, 3], Stem)


def convert_public_weights(content: Any) -> Mapping[str, Tensor]:
    """3D-ResNets-PyTorch's names to torchvision's: layer1.0.bn2.bias -> layer1.0.conv2.1.bias, conv1 -> stem.0."""
    state_dict = {}
    for name, value in unwrap_state_dict(content).items():
        *prefix, module_name, parameter = name.split(".")
        if module_name.startswith(("conv", "bn")):
            number, index = module_name[-1], "0" if module_name.startswith("conv") else "1"
            prefix += [f"conv{number}" if prefix else "stem", index]
        else:
            prefix.append(module_name)
        state_dict[".".join([*prefix, parameter])] = value
        if parameter == "running_var":  # the file lacks this counter, which evaluation does not use
            state_dict.setdefault(".".join([*prefix, "num_batches_tracked"]), torch.tensor(0))
    return state_dict


@lru_cache(maxsize=1)
def _load_network(path: str | Path) -> nn.Module:
    network = build_resnet3d_50()
    load_strict(network, path, convert_public_weights)
    network.fc = nn.Identity()
    return network.eval()
