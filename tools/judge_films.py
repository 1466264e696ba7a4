"""What the world judge learns from: windows of filmed dances, changed a little, and what they are like."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from zoo.body.detection.synthetic_detector import SIDE, WINDOW
from zoo.body.skeleton import JOINTS
from zoo.data.base import WindowSpec
from zoo.data.world.song import STYLES
from zoo.data.world.source import World
from zoo.music.spectral import Spectral

FPS, SECONDS = 12, 4.0
NEEDS = ("frames", "parts", "joints2d", "style")
SIDES = {"left": "right", "right": "left"}
MIRROR = [JOINTS.index("_".join(SIDES.get(word, word) for word in name.split("_"))) for name in JOINTS]


class Films:
    """Filmed dances in memory, and windows drawn from them, changed a little, as a batch to learn from."""

    def __init__(self, world: World, split: str, seed: int):
        encoder = Spectral()
        world.prepare_data(NEEDS, encoder, [split])
        clips = world.dataset(split, NEEDS, WindowSpec(SECONDS, FPS, SIDE, SIDE), encoder)
        self.rng = np.random.default_rng(seed)
        self.frames, self.figure, self.joints, self.style, self.empty = [], [], [], [], []
        for clip in track((clips[index] for index in range(len(clips))), f"reading {split}", total=len(clips)):
            self.frames.append(clip["frames"].add(1).mul(127.5).round().byte())
            self.figure.append(clip["parts"] > 0)
            self.joints.append(clip["joints2d"])
            self.style.append(list(STYLES).index(clip["style"]))
            self.empty.append(_without(self.frames[-1], self.figure[-1]))

    def batch(self, size: int, plain: bool = False) -> dict[str, Tensor]:
        """`size` windows: frames (B, 16, 3, 128, 128) in about [-1, 1], figure 0/1, joints in pixels, style index.

        `somebody` (B,): whether a figure is there, as it always is in `plain` ones, which are never spoilt either.
        """
        windows = [self._window(plain) for _ in range(size)]
        return {name: torch.stack([window[name] for window in windows]) for name in windows[0]}

    def _window(self, plain: bool) -> dict[str, Tensor]:
        rng = self.rng
        clip = rng.integers(len(self.frames))
        cut = slice(start := rng.integers(len(self.frames[clip]) - WINDOW + 1), start + WINDOW)
        figure, joints = self.figure[clip][cut].float(), self.joints[clip][cut]
        somebody, clean = plain or rng.random() >= 0.04, plain or rng.random() >= 0.25
        if somebody:
            frames = self.frames[clip][cut].float() / 127.5 - 1
        else:
            frames, figure = self.empty[clip].expand(WINDOW, -1, -1, -1) / 127.5 - 1, torch.zeros_like(figure)
        if rng.random() < 0.5:
            frames, figure, joints = frames.flip(-1), figure.flip(-1), joints[:, MIRROR] * torch.tensor([-1, 1])
            joints = joints + torch.tensor([SIDE, 0])
        if rng.random() < 0.5:
            frames, figure, joints = self._moved(frames, figure, joints)
        light = torch.from_numpy(rng.uniform(0.85, 1.15, (3, 1, 1))).float()
        frames = frames * light + float(rng.uniform(-0.1, 0.1))
        if not clean:
            frames = self._spoilt(frames)
        told = {"style": self.style[clip], "somebody": somebody}
        told = {name: torch.tensor(value) for name, value in told.items()}
        return {"frames": frames, "figure": figure, "joints": joints, **told}

    def _moved(self, frames: Tensor, figure: Tensor, joints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nearer or farther, turned a little, aside: the same for all frames of a window."""
        zoom, turn = self.rng.uniform(0.8, 1.2), self.rng.uniform(-0.1, 0.1)
        linear = torch.tensor([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]).float() * zoom
        shift = torch.from_numpy(self.rng.uniform(-0.15, 0.15, 2)).float()
        grid = F.affine_grid(torch.cat([linear, shift[:, None]], 1)[None], (1, 1, SIDE, SIDE), align_corners=False)
        both = torch.cat([frames, figure[:, None]], 1).flatten(0, 1)[None]
        both = F.grid_sample(both, grid, padding_mode="border", align_corners=False)[0].unflatten(0, (WINDOW, 4))
        joints = joints / (SIDE / 2) - 1 - shift  # the grid says where a pixel was: joints go the other way
        return both[:, :3], both[:, 3], (torch.linalg.solve(linear, joints.mT).mT + 1) * (SIDE / 2)

    def _spoilt(self, frames: Tensor) -> Tensor:
        """Coarsened or noisy, as generated pictures are."""
        if self.rng.random() < 0.6:
            small = F.interpolate(frames, int(self.rng.integers(40, 100)), mode="bilinear", antialias=True)
            return F.interpolate(small, SIDE, mode="bicubic")
        noise = self.rng.standard_normal(frames.shape, np.float32) * self.rng.uniform(0.01, 0.12)
        return frames + torch.from_numpy(noise.astype(np.float32))


def _without(frames: Tensor, figure: Tensor) -> Tensor:
    """The room with nobody in it (3, H, W), of 0..255: what is seen of it in other frames, else painted in."""
    seen = (~figure).float()[:, None]
    room = ((frames * seen).sum(0) / seen.sum(0).clamp(min=1)).permute(1, 2, 0).byte().numpy()
    hidden = cv2.dilate((seen.sum(0)[0] < 2).byte().numpy(), np.ones((5, 5), np.uint8))
    return torch.from_numpy(cv2.inpaint(room, hidden, 3, cv2.INPAINT_TELEA)).permute(2, 0, 1)


def described(batch: dict[str, Tensor]) -> Tensor:
    """What the features are asked for beside the style: (B, 156) of pose, movement and colour.

    Mean pose about the pelvis, its deviation over time, log of speed and of acceleration, and the mean and deviation of
    the colours of the figure and of the room.
    """
    joints, frames, figure = batch["joints"], batch["frames"][:, ::4], batch["figure"][:, ::4, None]  # colours stay
    pose = joints - joints[:, :, :1].mean(1, keepdim=True)
    velocity = joints.diff(dim=1)
    rates = [(x.norm(dim=-1).mean(1) + 0.1).log() for x in (velocity, velocity.diff(dim=1))]
    values = [pose.mean(1).flatten(1), pose.std(1).flatten(1), *rates]
    for where in (figure, 1 - figure):
        share = where / where.sum((1, 3, 4), keepdim=True).clamp(min=1)
        mean = (frames * share).sum((1, 3, 4), keepdim=True)
        values += [mean.flatten(1), ((frames - mean).square() * share).sum((1, 3, 4)).sqrt()]
    return torch.cat(values, 1)
