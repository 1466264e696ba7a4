"""Supervision of the regions by body limbs, for a tiny autoencoder that trains for minutes instead of days.

None of this is in the paper, and none of it is used at the paper's size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# pairs of SMPL joints of the ten limb regions: head, trunk, arms to the hands, legs to the toes
LIMBS = ((12, 15), (0, 12), (16, 18), (18, 22), (17, 19), (19, 23), (1, 4), (4, 10), (2, 5), (5, 11))
# index in `LIMBS` of the neighbour from which each limb points away, from its first joint to its second
LIMB_PARENT = (1, 6, 1, 2, 1, 4, 1, 6, 1, 8)
# background 0 and DensePose's 24 parts -> 0 for background, or 1 + the index in `LIMBS`
PART_LIMB = (0, 2, 2, 6, 4, 8, 10, 9, 7, 9, 7, 10, 8, 10, 8, 3, 5, 3, 5, 4, 6, 4, 6, 1, 1)
# joints and parts after a horizontal flip
MIRROR_JOINT = (0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22)
MIRROR_PART = (0, 1, 2, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15, 18, 17, 20, 19, 22, 21, 24, 23)
LIMB_STD = 0.8  # cells of a heat map: half the width of a limb in it


def flip_horizontal(images: Tensor, joints: Tensor, parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror images with their labels: left limbs become right ones.

    images (..., H, W); joints (..., 24, 2) in [0, 1] of the width and height; parts (..., H, W).
    """
    joints = joints[..., torch.tensor(MIRROR_JOINT, device=joints.device), :]
    parts = torch.tensor(MIRROR_PART, dtype=parts.dtype, device=parts.device)[parts.long()]
    return images.flip(-1), torch.stack([1 - joints[..., 0], joints[..., 1]], -1), parts.flip(-1)


def orient_axes(shift: Tensor, affine: Tensor) -> Tensor:
    """Give the axes of limb regions their signs: the long axis points away from the body, the short one to its left.

    PCA gives axes without signs. The public code chooses the sign by one entry of the rotation between two images,
    which does not tell the two ends of an upright limb apart. shift (B, K, 2) and affine (B, K, 2, 2), long axis first,
    of regions that are `LIMBS` -> affine.
    """
    long, short = affine.unbind(-1)
    outward = shift - shift[:, torch.tensor(LIMB_PARENT)]
    long = torch.where((long * outward).sum(-1, keepdim=True) < 0, -long, long)
    determinant = long[..., 0] * short[..., 1] - long[..., 1] * short[..., 0]
    return torch.stack([long, torch.where(determinant[..., None] < 0, -short, short)], -1)


def heatmap_kl_loss(heatmap: Tensor, joints: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of region heat maps from limbs, mean over all.

    heatmap (B, 10, h, w) of `LIMBS`; joints (B, 24, 2) in [0, 1] of the image's width and height. The target of a limb
    is a row of five Gaussians from joint to joint, whose PCA has the limb's position, direction and length.
    """
    height, width = heatmap.shape[-2:]
    ends = joints[:, torch.tensor(LIMBS)] * joints.new_tensor([width, height]) - 0.5  # (B, K, 2, 2), cells
    fraction = torch.linspace(0, 1, 5, device=joints.device)[:, None]
    points = ends[:, :, None, 0] * (1 - fraction) + ends[:, :, None, 1] * fraction  # (B, K, 5, 2)
    x, y = (
        torch.exp(-((torch.arange(size, device=joints.device) - points[..., axis, None]) ** 2) / (2 * LIMB_STD**2))
        for axis, size in ((0, width), (1, height))
    )
    target = torch.einsum("bkpy,bkpx->bkyx", y, x)
    target = target / target.sum((-1, -2), keepdim=True).clamp(min=1e-6)
    return (torch.xlogy(target, target) - target * heatmap.clamp(min=1e-8).log()).sum((-1, -2)).mean()


def limb_assignment_loss(weights: Tensor, parts: Tensor) -> Tensor:
    """Return the cross entropy of the flow's region weights with the visible limbs, mean over pixels.

    weights (B, 11, h, w) of background and `LIMBS`; parts (B, H, W): DensePose parts of the driving image.
    """
    limb_map = torch.tensor(PART_LIMB, device=parts.device)[parts.long()]
    target = F.one_hot(limb_map, len(LIMBS) + 1).movedim(-1, 1).to(weights.dtype)
    target = F.adaptive_avg_pool2d(target, weights.shape[-2:])
    return -(target * weights.clamp(min=1e-6).log()).sum(1).mean()


def occlusion_loss(occlusion: Tensor, source_parts: Tensor, driving_parts: Tensor) -> Tensor:
    """Return the cross entropy of the occlusion map with the background that the body uncovers, mean over pixels.

    occlusion (B, 1, h, w), 1 visible; source_parts, driving_parts (B, H, W). Background of the driving image is
    occluded where the body covers it in the source, else visible. Pixels on the body have no target.
    """
    source_body, background = source_parts > 0, driving_parts == 0
    occluded, background = (
        F.adaptive_avg_pool2d(mask[:, None].to(occlusion.dtype), occlusion.shape[-2:])
        for mask in (source_body & background, background)
    )
    visible = occlusion.clamp(1e-4, 1 - 1e-4)
    return -(occluded * (1 - visible).log() + (background - occluded) * visible.log()).mean()
