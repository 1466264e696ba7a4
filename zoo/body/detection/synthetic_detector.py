"""A small pose detector for rendered figures, trained on the built-in synthetic data and shipped with its weights.

It predicts the 24 joints, the figure's mask, and 64 features of every 16 frames. `fvd_world` is a Frechet distance of
these features. `tools/train_detector.py` trains the networks; the card beside the weights lists their accuracy. They
run in bfloat16 on the CPU.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from zoo.body.detection.base import PoseDetector, Poses
from zoo.nn.weights.loading import read_weights

INPUT_SIDE = 128  # pixels; other images are resized to it
HEATMAP_SIDE = 32
HEATMAP_SIGMA = 0.75  # cells: standard deviation of the Gaussians in the training targets
NUM_JOINTS = 24
CHANNELS = (16, 32, 48, 64)  # at 64 x 64, 32 x 32, 16 x 16 and 8 x 8
WINDOW_FRAMES = 16  # frames that one feature vector describes
FEATURE_DIM = 64
HAND_JOINTS = ((20, 21), (22, 23))  # both wrists, both hands
PEAK_MASK_THRESHOLD = 0.3  # of the mask: peaks elsewhere are not on the figure
NO_PEAK = -20.0  # log-probability where there is no peak
TIE_BREAK = 1e-5  # log-probability by which a cell is below the previous one
MIN_FIGURE_SHARE = 0.004  # smallest fraction of the image that counts as a figure
WEIGHTS = Path(__file__).parent / "assets" / "synthetic_detector.safetensors"


class ConvBlock(nn.Module):
    """3x3 convolution, batch normalisation and ReLU, with a skip connection where `residual`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, residual: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x)), inplace=True)
        return x + y if self.residual else y

    def fuse(self) -> None:
        """Fold the normalisation into the convolution: the same output for less work."""
        self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()


class PoseBackbone(nn.Module):
    """A U-Net on single frames whose lowest level also sees the neighbouring frames."""

    def __init__(self) -> None:
        super().__init__()
        first, fine, middle, coarse = CHANNELS
        self.stem = nn.Sequential(ConvBlock(3, first, 2), ConvBlock(first, fine, 2))  # 32 x 32
        self.middle = nn.Sequential(ConvBlock(fine, middle, 2), ConvBlock(middle, middle, residual=True))  # 16 x 16
        self.coarse = nn.Sequential(ConvBlock(middle, coarse, 2), ConvBlock(coarse, coarse, residual=True))  # 8 x 8
        self.temporal = nn.ModuleList(ConvBlock(coarse, coarse) for _ in range(3))
        self.to_middle, self.up_middle = nn.Conv2d(coarse, middle, 1), ConvBlock(middle, middle)
        self.to_fine, self.up_fine = nn.Conv2d(middle, fine, 1), ConvBlock(fine, fine)
        self.heatmap_head = nn.Conv2d(fine, NUM_JOINTS, 1)
        self.mask_head = nn.Conv2d(fine, (INPUT_SIDE // HEATMAP_SIDE) ** 2, 1)

    def encode(self, frames: Tensor) -> list[Tensor]:
        """Frames (B, T, 3, 128, 128) in [-1, 1] -> feature maps (B T, C, S, S) of single frames, at three scales."""
        fine = self.stem(frames.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        middle = self.middle(fine)
        return [fine, middle, self.coarse(middle)]

    def forward(self, feature_maps: list[Tensor], batch_size: int) -> tuple[Tensor, Tensor]:
        """Output of `encode` -> logits of the heat maps (B, T, 24, 32, 32) and of the mask (B, T, 128, 128)."""
        fine, middle, x = feature_maps
        for conv in self.temporal:
            x = x + conv(_shift_in_time(x, batch_size))
        x = self.up_middle(F.interpolate(self.to_middle(x), scale_factor=2).add_(middle))
        x = self.up_fine(F.interpolate(self.to_fine(x), scale_factor=2).add_(fine))
        mask = F.pixel_shuffle(self.mask_head(x), INPUT_SIDE // HEATMAP_SIDE)[:, 0]
        return self.heatmap_head(x).unflatten(0, (batch_size, -1)), mask.unflatten(0, (batch_size, -1))

    def prepare_inference(self) -> "PoseBackbone":
        """Fuse the normalisation, freeze the parameters and convert them to bfloat16. Returns self."""
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, ConvBlock):
                module.fuse()
        return self.to(torch.bfloat16, memory_format=torch.channels_last)


class FeatureHead(nn.Module):
    """Features of windows of 16 frames, from the feature maps of all scales: texture as well as pose."""

    def __init__(self) -> None:
        super().__init__()
        self.layout = nn.Conv2d(CHANNELS[-1], 16, 1)  # keeps positions, which are lost in the mean over the image
        frame_dim = 16 * 64 + sum(CHANNELS[1:])
        self.frame = nn.Sequential(nn.BatchNorm1d(frame_dim, affine=False), nn.Linear(frame_dim, 128), nn.GELU())
        self.temporal = nn.Sequential(nn.Conv1d(128, 128, 3), nn.GELU(), nn.Conv1d(128, 128, 3), nn.GELU())
        self.projection = nn.Linear(256, FEATURE_DIM)
        self.norm = nn.BatchNorm1d(FEATURE_DIM, affine=False)  # every feature gets the same weight in a distance

    def forward(self, feature_maps: list[Tensor], batch_size: int) -> Tensor:
        """Output of `PoseBackbone.encode` for B T frames -> (B, T // 16, 64)."""
        layout = self.layout(feature_maps[-1].float()).flatten(1)
        means = [feature_map.mean((2, 3), dtype=torch.float32) for feature_map in feature_maps]
        frames = self.frame(torch.cat([layout, *means], 1)).unflatten(0, (batch_size, -1))
        length = frames.shape[1]
        count = length // WINDOW_FRAMES
        if count == 0:
            return frames.new_zeros(batch_size, 0, FEATURE_DIM)
        # evenly spaced where T is not a multiple of 16
        starts = np.linspace(0, length - WINDOW_FRAMES, count).round().astype(int)
        windows = torch.stack([frames[:, start : start + WINDOW_FRAMES] for start in starts], 1)
        x = self.temporal(windows.flatten(0, 1).mT)  # (B n, D, S)
        deviation = (x.var(-1) + 1e-4).sqrt()
        return self.norm(self.projection(torch.cat([x.mean(-1), deviation], 1))).unflatten(0, (batch_size, count))


class SyntheticDetectorNetwork(nn.Module):
    """Backbone and feature head, as they are stored."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.feature_head = PoseBackbone(), FeatureHead()


def _shift_in_time(x: Tensor, batch_size: int) -> Tensor:
    """Take a quarter of the channels from the previous frame and one from the next; the ends are repeated.

    The temporal shift of Lin et al. 2019 (TSM, sec. 3.2). x (B T, C, H, W).
    """
    x = x.unflatten(0, (batch_size, -1))
    quarter = x.shape[2] // 4
    previous, following, current = x.split([quarter, quarter, x.shape[2] - 2 * quarter], 2)
    previous = torch.cat([previous[:, :1], previous[:, :-1]], 1)
    following = torch.cat([following[:, 1:], following[:, -1:]], 1)
    return torch.cat([previous, following, current], 2).flatten(0, 1)


def soft_argmax(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of heat maps (..., 24, 32, 32) -> joints (..., 24, 2) in pixels of 128, and confidence in [0, 1].

    A joint is the mean of its map's softmax; its confidence is 1 if the map is no wider than the training targets.
    """
    weights = heatmaps.flatten(-2).float().softmax(-1)
    cells = torch.arange(HEATMAP_SIDE, device=heatmaps.device) + 0.5
    x, y = cells.repeat(HEATMAP_SIDE), cells.repeat_interleave(HEATMAP_SIDE)
    first_and_second_moments = weights @ torch.stack([x, y, x**2 + y**2], 1)  # (..., 24, 3)
    variance = first_and_second_moments[..., 2] - first_and_second_moments[..., :2].square().sum(-1)
    confidence = (2 * HEATMAP_SIGMA**2 / variance.clamp(min=1e-6)).clamp(max=1)
    return first_and_second_moments[..., :2] * (INPUT_SIDE / HEATMAP_SIDE), confidence


def third_peak(heatmaps: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of the third highest peak of the hands' heat maps: a third arm has one. -> (T,)

    heatmaps (T, 24, 32, 32) logits, mask (T, 128, 128) in [0, 1]. Left and right share a map. Peaks are maxima of 5x5
    cells on the figure. Wrists and hands are looked at apart, the higher value counts; at least `NO_PEAK`.
    """
    log_probs = heatmaps.flatten(2).float().log_softmax(-1).view_as(heatmaps)
    is_figure = F.max_pool2d(mask, INPUT_SIDE // HEATMAP_SIDE) > PEAK_MASK_THRESHOLD  # (T, 32, 32)
    pairs = torch.stack([log_probs[:, list(pair)].amax(1) for pair in HAND_JOINTS], 1)  # (T, 2, 32, 32)
    pairs = torch.where(is_figure[:, None], pairs, NO_PEAK).clamp(min=NO_PEAK)
    # neighbouring cells of bfloat16 maps are often equal, and one peak is to count once
    pairs = pairs - TIE_BREAK * torch.arange(HEATMAP_SIDE**2).view(HEATMAP_SIDE, HEATMAP_SIDE)
    is_peak = pairs == F.max_pool2d(pairs, 5, 1, 2)
    return torch.where(is_peak, pairs, NO_PEAK).flatten(2).topk(3).values[..., 2].amax(1)


@dataclass(frozen=True)
class PosesWithFeatures(Poses):
    """Poses, and what only the synthetic detector has.

    features (n, 64) float32: of the clip's n = F // 16 windows of 16 frames; third_hand (F,) float32: `third_peak`.
    """

    features: np.ndarray
    third_hand: np.ndarray


class SyntheticPoseDetector(PoseDetector):
    """The pose detector of rendered figures."""

    name = "synthetic pose detector v1"

    @torch.inference_mode()
    def detect(self, frames: np.ndarray) -> PosesWithFeatures:
        """frames (F, H, W, 3) uint8 of any size; images that are not square are padded, not stretched."""
        images, (top, left, height, width) = _fit_to_input(torch.from_numpy(frames).permute(0, 3, 1, 2))
        network = _network()
        feature_maps = network.backbone.encode(images.to(torch.bfloat16).div_(127.5).sub_(1)[None])
        heatmaps, mask = network.backbone(feature_maps, 1)
        features = network.feature_head(feature_maps, 1)
        joints, confidence = soft_argmax(heatmaps[0])
        mask = mask[0].float().sigmoid()
        third_hand = third_peak(heatmaps[0], mask)
        mask = mask[:, top : top + height, left : left + width]
        scale = joints.new_tensor([frames.shape[2] / width, frames.shape[1] / height])
        joints = (joints - joints.new_tensor([left, top])) * scale
        is_empty = mask.mean((1, 2)) < MIN_FIGURE_SHARE
        joints[is_empty], confidence[is_empty] = torch.nan, 0
        if mask.shape[1:] != frames.shape[1:3]:
            mask = F.interpolate(mask[:, None], frames.shape[1:3], mode="bilinear", antialias=True)[:, 0]
        fields = (joints, confidence, mask, features[0], third_hand)
        return PosesWithFeatures(*(values.numpy() for values in fields))


def _fit_to_input(images: Tensor) -> tuple[Tensor, tuple[int, int, int, int]]:
    """(F, 3, H, W) uint8 -> (F, 3, 128, 128), and the rectangle (top, left, height, width) of the image in it."""
    image_height, image_width = images.shape[2:]
    scale = INPUT_SIDE / max(image_height, image_width)
    height, width = max(1, round(image_height * scale)), max(1, round(image_width * scale))
    if (height, width) != (image_height, image_width):
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    top, left = (INPUT_SIDE - height) // 2, (INPUT_SIDE - width) // 2
    if height != width:
        padding = (left, INPUT_SIDE - width - left, top, INPUT_SIDE - height - top)
        images = F.pad(images.float(), padding, mode="replicate")
    return images, (top, left, height, width)


@cache
def _network() -> SyntheticDetectorNetwork:
    network = SyntheticDetectorNetwork()
    network.load_state_dict(read_weights(WEIGHTS))
    network.backbone.prepare_inference()
    return network.eval().requires_grad_(False)
