"""What a tiny autoencoder is shown, which has minutes where the paper has days: ten regions are a body's limbs.

None of this is in the paper, and none of it is used at its size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# pairs of SMPL joints that ten regions stand for: head, trunk, arms to the hands, legs to the toes
LIMBS = ((12, 15), (0, 12), (16, 18), (18, 22), (17, 19), (19, 23), (1, 4), (4, 10), (2, 5), (5, 11))
# the region of `LIMBS` that each points away from, from its first joint to its second
AWAY = (1, 6, 1, 2, 1, 4, 1, 6, 1, 8)
# the 0 of background and DensePose's 24 parts -> which of background and `LIMBS` they are
PART_LIMB = (0, 2, 2, 6, 4, 8, 10, 9, 7, 9, 7, 10, 8, 10, 8, 3, 5, 3, 5, 4, 6, 4, 6, 1, 1)
# which joint and which part takes the place of each in a mirror
MIRROR_JOINT = (0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22)
MIRROR_PART = (0, 1, 2, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15, 18, 17, 20, 19, 22, 21, 24, 23)
SPREAD = 0.8  # cells of a heat map: half the width of a limb that stands in it


def mirrored(pictures: Tensor, joints: Tensor, parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same dancers in a mirror: their left limbs are right ones.

    pictures (..., H, W); joints (..., 24, 2) in [0, 1] of the width and height; parts (..., H, W).
    """
    joints = joints[..., torch.tensor(MIRROR_JOINT, device=joints.device), :]
    parts = torch.tensor(MIRROR_PART, dtype=parts.dtype, device=parts.device)[parts.long()]
    return pictures.flip(-1), torch.stack([1 - joints[..., 0], joints[..., 1]], -1), parts.flip(-1)


def pointed(shift: Tensor, affine: Tensor) -> Tensor:
    """Regions' axes with signs: the long one points away from the body, the short one to its left.

    An axis found by PCA has no sign of its own. The public code mends that by one entry of the turn between two
    pictures, which leaves it open which end of an upright limb is which. shift (B, K, 2) and affine (B, K, 2, 2), long
    axis first, of regions that are `LIMBS` -> affine.
    """
    long, short = affine.unbind(-1)
    away = shift - shift[:, torch.tensor(AWAY)]
    long = torch.where((long * away).sum(-1, keepdim=True) < 0, -long, long)
    side = long[..., 0] * short[..., 1] - long[..., 1] * short[..., 0]
    return torch.stack([long, torch.where(side[..., None] < 0, -short, short)], -1)


def astray(heatmap: Tensor, joints: Tensor) -> Tensor:
    """How far heat maps are from showing limbs: their Kullback-Leibler divergence, mean over all.

    heatmap (B, 10, h, w) of `LIMBS`; joints (B, 24, 2) in [0, 1] of the picture's width and height. A limb is a row
    of five Gaussians from joint to joint, so that place, direction and length of a region (its PCA) are the limb's.
    """
    height, width = heatmap.shape[-2:]
    ends = joints[:, torch.tensor(LIMBS)] * joints.new_tensor([width, height]) - 0.5  # (B, K, 2, 2), cells
    along = torch.linspace(0, 1, 5, device=joints.device)[:, None]
    points = ends[:, :, None, 0] * (1 - along) + ends[:, :, None, 1] * along  # (B, K, 5, 2)
    x, y = (
        torch.exp(-((torch.arange(size, device=joints.device) - points[..., axis, None]) ** 2) / (2 * SPREAD**2))
        for axis, size in ((0, width), (1, height))
    )
    wanted = torch.einsum("bkpy,bkpx->bkyx", y, x)
    wanted = wanted / wanted.sum((-1, -2), keepdim=True).clamp(min=1e-6)
    return (torch.xlogy(wanted, wanted) - wanted * heatmap.clamp(min=1e-8).log()).sum((-1, -2)).mean()


def misplaced(shares: Tensor, parts: Tensor) -> Tensor:
    """How far the flow's shares are from the limbs that are seen: cross entropy, mean over pixels.

    shares (B, 11, h, w) of background and `LIMBS`; parts (B, H, W) DensePose's of the driving picture.
    """
    limbs = torch.tensor(PART_LIMB, device=parts.device)[parts.long()]
    wanted = F.one_hot(limbs, len(LIMBS) + 1).movedim(-1, 1).to(shares.dtype)
    wanted = F.adaptive_avg_pool2d(wanted, shares.shape[-2:])
    return -(wanted * shares.clamp(min=1e-6).log()).sum(1).mean()


def uncovered(occlusion: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """How far the occlusion map is from saying where a body has left: cross entropy, mean over pixels.

    occlusion (B, 1, h, w), 1 visible; before, after (B, H, W) parts of source and driving picture. Background is to be
    hidden where a body stood before it, else visible; what of the body itself is to be seen, nobody is told.
    """
    stood, free = before > 0, after == 0
    hidden, known = (
        F.adaptive_avg_pool2d(mask[:, None].to(occlusion.dtype), occlusion.shape[-2:]) for mask in (stood & free, free)
    )
    visible = occlusion.clamp(1e-4, 1 - 1e-4)
    return -(hidden * (1 - visible).log() + (known - hidden) * visible.log()).mean()
