"""Guidance is placed where the pictured figure stands and scaled to its size.

The paper names it as its limit that people have to stand in the middle of the image (M2PEnc sec. 6). This is not in it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.body.skeleton import FEET, JOINTS
from zoo.nn.figure_segmentation import FEET_REGION, HEAD_REGION, TRUNK_REGION

HEAD, TRUNK = JOINTS.index("head"), (JOINTS.index("pelvis"), JOINTS.index("spine3"))
# Measured on slices of data=sdgpip, in units of the distance between the head joint and the mean of the feet's joints:
REGION_DISTANCE = 1.044  # between the mean places of the head's and the feet's regions
BOX_HEIGHT = 1.29  # of the figure's mask without its margin
FEET_BELOW = 0.018  # the mean place of the feet's region lies so far below the joints
FEET_ABOVE_EDGE = 1.4  # latent pixels from the mean place of the feet to the lower edge of the mask, margin included
MIN_PROB = 0.1  # of a latent pixel that counts as a part of a region
MIN_REGION = 0.5  # latent pixels of a region that is visible
MIN_SCALE, MAX_SCALE = 0.2, 3.0  # of a placement; beyond, the regions were not detected well


@dataclass(frozen=True)
class Placement:
    """Place p of the guidance is at origin + scale * (p - guidance_origin) of the image, in fractions of its sides."""

    scale: float
    guidance_origin: tuple[float, float]
    origin: tuple[float, float]

    def apply(self, guidance: Tensor, size: tuple[int, int]) -> Tensor:
        """Guidance (N, C, G, G) -> (N, C, *size), bilinear. Places outside the guidance take its nearest value."""
        inverse = 1 / self.scale
        # affine_grid counts from -1 to 1
        shifts = [
            2 * source - 1 - inverse * (2 * target - 1)
            for source, target in zip(self.guidance_origin, self.origin, strict=True)
        ]
        theta = guidance.new_tensor([[inverse, 0, shifts[0]], [0, inverse, shifts[1]]])
        shape = [len(guidance), guidance.shape[1], *size]
        grid = F.affine_grid(theta.expand(len(guidance), 2, 3), shape, align_corners=False)
        return F.grid_sample(guidance, grid, mode="bilinear", padding_mode="border", align_corners=False)


def find_placement(joints: Tensor, mask: Tensor, regions: Tensor) -> Placement | None:
    """The placement of a dance whose joints (F, 24, 2) are fractions of the image's sides (x right, y down).

    mask (h, w) and regions (8, h, w): of the pictured figure and its body regions, in [0, 1]. The dance's mean trunk
    goes to the figure's trunk, its mean feet to the figure's feet, and its mean distance from head to feet becomes the
    figure's. In a figure too small for its regions the box of the mask counts. None without either.
    """
    mean_joints = joints.float().mean(0)
    feet_joints, head_joint = mean_joints[list(FEET)].mean(0), mean_joints[HEAD]
    length = float(feet_joints[1] - head_joint[1])
    if length <= 0:
        return None
    head, trunk, feet = (_mean_place(regions[index]) for index in (HEAD_REGION, TRUNK_REGION, FEET_REGION))
    if head is not None and trunk is not None and feet is not None and feet[1] > head[1]:
        scale, origin = (feet[1] - head[1]) / (REGION_DISTANCE * length), (trunk[0], feet[1])
    else:
        center = _mean_place(mask)
        rows = (mask > 0.5).any(1).nonzero()
        if center is None or not len(rows):
            return None
        top, bottom = int(rows.min()) + 1, int(rows.max())  # without the margin of one latent pixel
        scale = (bottom - top) / len(mask) / (BOX_HEIGHT * length)
        origin = (center[0], (bottom + 1 - FEET_ABOVE_EDGE) / len(mask))
    if not MIN_SCALE <= scale <= MAX_SCALE:
        return None
    trunk_x = float(mean_joints[list(TRUNK), 0].mean())
    return Placement(scale, (trunk_x, float(feet_joints[1]) + FEET_BELOW * length), origin)


def _mean_place(mask: Tensor) -> tuple[float, float] | None:
    """Mean place (x, y) of a soft mask (h, w), in fractions of its sides; None if hardly anything is visible."""
    weights = mask.double().where(mask >= MIN_PROB, 0)
    total = float(weights.sum())
    if total < MIN_REGION:
        return None
    x, y = (
        float((weights.sum(axis) * (torch.arange(side, device=mask.device) + 0.5)).sum()) / total / side
        for axis, side in ((0, mask.shape[1]), (1, mask.shape[0]))
    )
    return x, y
