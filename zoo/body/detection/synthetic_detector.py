"""The world judge: one small network that looks at a video of the world's kind and says three things of it.

Where the 24 joints are and which pixels are the figure's, which makes it a `PoseDetector`; and what each stretch of
16 frames is like in 64 values, between which `fvd_world` measures a Frechet distance. `tools/train_judge.py` trains it,
and the card beside its weights says how well it sees. It works in bfloat16 on the CPU, wherever the models run.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from zoo.body.detection.blazepose_detector import PoseDetector, Poses
from zoo.nn.weights.loading import read_weights

SIDE = 128  # pixels: what it looks at; other sizes are brought to it
CELLS = 32  # heat maps are CELLS x CELLS
SPREAD = 0.75  # cells: standard deviation of the Gaussians that the heat maps were taught
JOINTS = 24
WIDTHS = (16, 32, 48, 64)  # channels at 64 x 64, 32 x 32, 16 x 16 and 8 x 8
WINDOW = 16  # frames of one stretch
FEATURES = 64  # values of one stretch
FOUND = 0.004  # the smallest share of the picture that is a figure
WEIGHTS = Path(__file__).parent / "assets" / "synthetic_detector.safetensors"


class Conv(nn.Module):
    """3x3 convolution, batch normalisation, ReLU; added to its input where `residual`."""

    def __init__(self, inside: int, outside: int, stride: int = 1, residual: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outside)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x)), inplace=True)
        return x + y if self.residual else y

    def fuse(self) -> None:
        """Puts the normalisation into the convolution: the same answer for less work."""
        self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()


class Eyes(nn.Module):
    """A U-shaped network on single frames, with a look at the neighbouring ones at its bottom."""

    def __init__(self):
        super().__init__()
        first, fine, middle, coarse = WIDTHS
        self.stem = nn.Sequential(Conv(3, first, 2), Conv(first, fine, 2))  # 32 x 32
        self.middle = nn.Sequential(Conv(fine, middle, 2), Conv(middle, middle, residual=True))  # 16 x 16
        self.coarse = nn.Sequential(Conv(middle, coarse, 2), Conv(coarse, coarse, residual=True))  # 8 x 8
        self.around = nn.ModuleList(Conv(coarse, coarse) for _ in range(3))
        self.to_middle, self.up_middle = nn.Conv2d(coarse, middle, 1), Conv(middle, middle)
        self.to_fine, self.up_fine = nn.Conv2d(middle, fine, 1), Conv(fine, fine)
        self.heat, self.mask = nn.Conv2d(fine, JOINTS, 1), nn.Conv2d(fine, (SIDE // CELLS) ** 2, 1)

    def depths(self, frames: Tensor) -> list[Tensor]:
        """frames (B, T, 3, 128, 128) in [-1, 1] -> what is made of each by itself, at three depths (B T, C, S, S)."""
        fine = self.stem(frames.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        middle = self.middle(fine)
        return [fine, middle, self.coarse(middle)]

    def forward(self, depths: list[Tensor], batch: int) -> tuple[Tensor, Tensor]:
        """`depths` of B T frames -> logits of heat maps (B, T, 24, 32, 32) and of the mask (B, T, 128, 128)."""
        fine, middle, deep = depths
        for conv in self.around:
            deep = deep + conv(_neighbours(deep, batch))
        deep = self.up_middle(F.interpolate(self.to_middle(deep), scale_factor=2).add_(middle))
        deep = self.up_fine(F.interpolate(self.to_fine(deep), scale_factor=2).add_(fine))
        mask = F.pixel_shuffle(self.mask(deep), SIDE // CELLS)[:, 0]
        return self.heat(deep).unflatten(0, (batch, -1)), mask.unflatten(0, (batch, -1))

    def ready(self) -> "Eyes":
        """For looking, not for learning: fused, in bfloat16."""
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Conv):
                module.fuse()
        return self.to(torch.bfloat16, memory_format=torch.channels_last)


class Sense(nn.Module):
    """What a stretch of frames is like. It sees its own frames alone, at all depths: texture as well as pose."""

    def __init__(self):
        super().__init__()
        self.place = nn.Conv2d(WIDTHS[-1], 16, 1)  # keeps where things are, which a mean over the picture forgets
        seen = 16 * 64 + sum(WIDTHS[1:])
        self.frame = nn.Sequential(nn.BatchNorm1d(seen, affine=False), nn.Linear(seen, 128), nn.GELU())
        self.time = nn.Sequential(nn.Conv1d(128, 128, 3), nn.GELU(), nn.Conv1d(128, 128, 3), nn.GELU())
        self.feature = nn.Linear(256, FEATURES)
        self.scale = nn.BatchNorm1d(FEATURES, affine=False)  # every feature counts alike in a distance

    def forward(self, depths: list[Tensor], batch: int) -> Tensor:
        """The eyes' `depths` of B T frames -> (B, T // 16, 64)."""
        placed = self.place(depths[-1].float()).flatten(1)
        means = [depth.mean((2, 3), dtype=torch.float32) for depth in depths]
        frame = self.frame(torch.cat([placed, *means], 1)).unflatten(0, (batch, -1))
        length = frame.shape[1]
        count = length // WINDOW
        if count == 0:
            return frame.new_zeros(batch, 0, FEATURES)
        starts = np.linspace(0, length - WINDOW, count).round().astype(int)  # evenly, where T is not a multiple of 16
        stretches = torch.stack([frame[:, start : start + WINDOW] for start in starts], 1).flatten(0, 1)  # (B n, 16, D)
        moving = self.time(stretches.mT)
        deviation = (moving.var(-1) + 1e-4).sqrt()
        return self.scale(self.feature(torch.cat([moving.mean(-1), deviation], 1))).unflatten(0, (batch, count))


class JudgeNet(nn.Module):
    """Both parts, as they are stored."""

    def __init__(self):
        super().__init__()
        self.eyes, self.sense = Eyes(), Sense()


def _neighbours(x: Tensor, batch: int) -> Tensor:
    """A quarter of the channels from the frame before and a quarter from the one behind; ends are repeated.

    The shift of Lin et al. 2019 (TSM, sec. 3.2). x (B T, C, H, W).
    """
    x = x.unflatten(0, (batch, -1))
    quarter = x.shape[2] // 4
    before, behind, same = x.split([quarter, quarter, x.shape[2] - 2 * quarter], 2)
    before = torch.cat([before[:, :1], before[:, :-1]], 1)
    behind = torch.cat([behind[:, 1:], behind[:, -1:]], 1)
    return torch.cat([before, behind, same], 2).flatten(0, 1)


def place_of(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of heat maps (..., 24, 32, 32) -> joints (..., 24, 2) in pixels of 128, and how sure they are, in [0, 1].

    The mean of each map's softmax; sure is 1 where the map is no wider than it was taught.
    """
    share = heat.flatten(-2).float().softmax(-1)
    at = torch.arange(CELLS, device=heat.device) + 0.5
    x, y = at.repeat(CELLS), at.repeat_interleave(CELLS)
    found = share @ torch.stack([x, y, x**2 + y**2], 1)  # (..., 24, 3)
    spread = found[..., 2] - found[..., :2].square().sum(-1)
    return found[..., :2] * (SIDE / CELLS), (2 * SPREAD**2 / spread.clamp(min=1e-6)).clamp(max=1)


@dataclass(frozen=True)
class Judgement(Poses):
    """Poses, and `features` (n, 64) float32 of the clip's n = F // 16 stretches of 16 frames."""

    features: np.ndarray


class WorldJudge(PoseDetector):
    """The judge as a detector of the world's figures."""

    name = "world judge v1"

    @torch.inference_mode()
    def detect(self, frames: np.ndarray) -> Judgement:
        """frames (F, H, W, 3) uint8 of any size; a picture that is not square is padded, not stretched."""
        pictures, (top, left, height, width) = _square(torch.from_numpy(frames).permute(0, 3, 1, 2))
        judge = _network()
        depths = judge.eyes.depths(pictures.to(torch.bfloat16).div_(127.5).sub_(1)[None])
        (heat, mask), features = judge.eyes(depths, 1), judge.sense(depths, 1)
        joints, sure = place_of(heat[0])
        mask = mask[0, :, top : top + height, left : left + width].float().sigmoid()
        joints = (joints - joints.new_tensor([left, top])) * joints.new_tensor(
            [frames.shape[2] / width, frames.shape[1] / height]
        )
        nobody = mask.mean((1, 2)) < FOUND
        joints[nobody], sure[nobody] = torch.nan, 0
        if mask.shape[1:] != frames.shape[1:3]:
            mask = F.interpolate(mask[:, None], frames.shape[1:3], mode="bilinear", antialias=True)[:, 0]
        return Judgement(joints.numpy(), sure.numpy(), mask.numpy(), features[0].numpy())


def _square(pictures: Tensor) -> tuple[Tensor, tuple[int, int, int, int]]:
    """(F, 3, H, W) uint8 -> the same in 128 x 128, and where in it (top, left, height, width) the picture is."""
    high, wide = pictures.shape[2:]
    scale = SIDE / max(high, wide)
    height, width = max(1, round(high * scale)), max(1, round(wide * scale))
    if (height, width) != (high, wide):
        pictures = F.interpolate(pictures, (height, width), mode="bilinear", antialias=True)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    if height != width:
        border = (left, SIDE - width - left, top, SIDE - height - top)
        pictures = F.pad(pictures.float(), border, mode="replicate")
    return pictures, (top, left, height, width)


@cache
def _network() -> JudgeNet:
    network = JudgeNet()
    network.load_state_dict(read_weights(WEIGHTS))
    network.eyes.ready()
    return network.eval().requires_grad_(False)
