"""The dancer's skeleton: SMPL's 24-joint tree, rotations, forward kinematics, and the 151-value motion vector.

Everything is differentiable torch and takes any leading dimensions. Lengths are metres; quaternions are (w, x, y, z).

Two frames. *Rest* (SMPL's): Y up, +X the body's own left, facing +Z. *World*: Z up, floor z = 0. A root rotation maps
rest to world, and `STANDING` is the one of an upright dancer, who then looks along world -Y with its left hand at +X.

The motion vector (EDGE sec. 3, "pose representation"), at 30 Hz: [0:4] foot contacts of `FEET`, [4:7] position of the
pelvis joint in the world, [7:151] 24 local rotations of 6 values each: the first two *rows* of the matrix.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.batch import MOTION_DIM, MOTION_FPS

JOINTS = (
    "pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 left_foot right_foot "
    "neck left_collar right_collar head left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist "
    "left_hand right_hand"
).split()
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
FEET = (7, 8, 10, 11)  # left ankle, right ankle, left toes, right toes: joints of the four contact values
FOOT_HEIGHTS = (0.08, 0.08, 0.02, 0.02)  # metres above the floor of the `FEET` joints in flat shoes
CONTACT_THRESHOLD = 0.01  # metres a frame: a foot joint that moves less is in contact with the floor

# from parent to child in the rest frame, metres: SMPL's mean body, as in EDGE
OFFSETS = torch.tensor(
    [
        [0.0, 0.0, 0.0],
        [0.05858135, -0.08228004, -0.01766408],
        [-0.06030973, -0.09051332, -0.01354254],
        [0.00443945, 0.12440352, -0.03838522],
        [0.04345142, -0.38646945, 0.008037],
        [-0.04325663, -0.38368791, -0.00484304],
        [0.00448844, 0.1379564, 0.02682033],
        [-0.01479032, -0.42687458, -0.037428],
        [0.01905555, -0.4200455, -0.03456167],
        [-0.00226458, 0.05603239, 0.00285505],
        [0.04105436, -0.06028581, 0.12204243],
        [-0.03483987, -0.06210566, 0.13032329],
        [-0.0133902, 0.21163553, -0.03346758],
        [0.07170245, 0.11399969, -0.01889817],
        [-0.08295366, 0.11247234, -0.02370739],
        [0.01011321, 0.08893734, 0.05040987],
        [0.12292141, 0.04520509, -0.019046],
        [-0.11322832, 0.04685326, -0.00847207],
        [0.2553319, -0.01564902, -0.02294649],
        [-0.26012748, -0.01436928, -0.03126873],
        [0.26570925, 0.01269811, -0.00737473],
        [-0.26910836, 0.00679372, -0.00602676],
        [0.08669055, -0.01063603, -0.01559429],
        [-0.0887537, -0.00865157, -0.01010708],
    ]
)
# Rx(+90 degrees): (x, y, z) -> (x, -z, y)
STANDING = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])

# rotations -----------------------------------------------------------------------------------------------------------


def _unit(vector: Tensor, fallback: Tensor) -> Tensor:
    """Normalise (3, ...) over dim 0; where it is too short, `fallback`, without a gradient to `vector`."""
    square = vector.square().sum(0)
    is_short = square < 1e-12
    return torch.where(is_short, fallback, vector * torch.where(is_short, 1.0, square).rsqrt())


def perpendicular(unit: Tensor) -> Tensor:
    """A unit vector perpendicular to each of (3, ...) (Duff et al. 2017, "Building an orthonormal basis")."""
    x, y, z = unit
    sign = torch.where(z < 0, -1.0, 1.0)
    a = -1 / (sign + z)
    return torch.stack([1 + sign * x * x * a, sign * x * y * a, -sign * x])


def matrix_from_6d(sixd: Tensor) -> Tensor:
    """Rotation matrices from 6D values by Gram-Schmidt (Zhou et al. 2019, eq. 15, on rows). (..., 6) -> (..., 3, 3)

    Any input gives a rotation and finite gradients: zero and parallel rows are replaced by a fixed direction.
    """
    values = sixd.movedim(-1, 0).contiguous()  # long dimensions last: three times as fast on a CPU
    first = _unit(values[:3], values.new_tensor([1.0, 0.0, 0.0]).reshape(3, *[1] * (sixd.dim() - 1)))
    second = values[3:] - (first * values[3:]).sum(0) * first
    second = _unit(second, perpendicular(first.detach()))
    rows = torch.stack([first, second, torch.linalg.cross(first, second, dim=0)])
    return rows.movedim((0, 1), (-2, -1))


def sixd_from_matrix(matrix: Tensor) -> Tensor:
    """The first two rows. (..., 3, 3) -> (..., 6)"""
    return matrix[..., :2, :].flatten(-2)


def matrix_from_quaternion(quaternion: Tensor) -> Tensor:
    """(..., 4) wxyz, of any length except 0 -> (..., 3, 3)"""
    w, x, y, z = F.normalize(quaternion, dim=-1).unbind(-1)
    entries = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(entries, -1).unflatten(-1, (3, 3))


def quaternion_from_matrix(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 4) wxyz, unit, w >= 0. Exact at every angle, including half turns.

    Each row of 4 q q^T is the quaternion times one of its values; the row of the largest value is well conditioned.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in matrix.unbind(-2))
    entries = [
        *(1 + a + e + i, h - f, c - g, d - b),
        *(h - f, 1 + a - e - i, b + d, c + g),
        *(c - g, b + d, 1 - a + e - i, f + h),
        *(d - b, c + g, f + h, 1 - a - e + i),
    ]
    outer = torch.stack(entries, -1).unflatten(-1, (4, 4))
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    quaternion = outer.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quaternion = F.normalize(quaternion, dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def matrix_from_axis_angle(axis_angle: Tensor) -> Tensor:
    """Axis times angle in radians. (..., 3) -> (..., 3, 3)"""
    square = axis_angle.square().sum(-1, keepdim=True)
    is_small = square < 1e-8
    angle = torch.where(is_small, 1.0, square).sqrt()
    # sin(a/2) / a, by its series for small a
    scale = torch.where(is_small, 0.5 - square / 48, torch.sin(angle / 2) / angle)
    real = torch.where(is_small, 1 - square / 8, torch.cos(angle / 2))
    return matrix_from_quaternion(torch.cat([real, axis_angle * scale], -1))


def axis_angle_from_matrix(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 3), angle in [0, pi]"""
    quaternion = quaternion_from_matrix(matrix)
    real, vector = quaternion[..., :1], quaternion[..., 1:]
    square = vector.square().sum(-1, keepdim=True)
    is_small = square < 1e-8
    length = torch.where(is_small, 1.0, square).sqrt()
    return vector * torch.where(is_small, 2 + square / 3, 2 * torch.atan2(length, real) / length)


def slerp(start: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """Interpolate quaternions along the shorter arc. (..., 4), (..., 4), weight (...) in [0, 1] -> (..., 4) unit"""
    weight = torch.as_tensor(weight, dtype=start.dtype, device=start.device)[..., None]
    dot = (start * end).sum(-1, keepdim=True)
    end = torch.where(dot < 0, -end, end)
    # the angle from the half lengths of chords: acos(dot) loses half its digits near 0
    angle = 2 * torch.atan2((end - start).norm(dim=-1, keepdim=True), (end + start).norm(dim=-1, keepdim=True))
    is_small = angle < 1e-3
    safe_angle = torch.where(is_small, 1.0, angle)
    start_weight = torch.where(is_small, 1 - weight, torch.sin((1 - weight) * safe_angle) / torch.sin(safe_angle))
    end_weight = torch.where(is_small, weight, torch.sin(weight * safe_angle) / torch.sin(safe_angle))
    return F.normalize(start_weight * start + end_weight * end, dim=-1)


# forward kinematics --------------------------------------------------------------------------------------------------


def _traverse_tree(rotations: Tensor, root: Tensor, offsets: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Each joint's world rotation (3, 3, ...) and position (3, ...), from the root to the leaves.

    Long dimensions come last and matrix products are written out, so that every operation is one pass over contiguous
    memory: half the time of batched 3 x 3 matrix products by tree level, and exact under bf16 autocast.
    """
    leading_shape = torch.broadcast_shapes(rotations.shape[:-3], root.shape[:-1], offsets.shape[:-2])
    local_rotations = (
        rotations.expand(*leading_shape, -1, -1, -1).movedim((-3, -2, -1), (2, 0, 1)).contiguous().unbind(2)
    )
    bones = offsets.to(rotations).movedim((-2, -1), (0, 1))
    world_rotations, positions = [local_rotations[0]], [root.expand(*leading_shape, -1).movedim(-1, 0)]
    for joint, parent in enumerate(PARENTS[1:], 1):
        # a @ bone and a @ b, written out
        a, b, bone = world_rotations[parent], local_rotations[joint], bones[joint]
        positions.append(positions[parent] + a[:, 0] * bone[0] + a[:, 1] * bone[1] + a[:, 2] * bone[2])
        world_rotations.append(a[:, 0, None] * b[0] + a[:, 1, None] * b[1] + a[:, 2, None] * b[2])
    return world_rotations, positions


def world_transforms(rotations: Tensor, root: Tensor, offsets: Tensor = OFFSETS) -> tuple[Tensor, Tensor]:
    """Rotations and positions of all joints in the world.

    rotations (..., 24, 3, 3) local, joint to parent (the root's: rest to world); root (..., 3) metres; offsets
    (..., 24, 3) rest offsets in metres -> rotations (..., 24, 3, 3), positions (..., 24, 3). Leading dims broadcast.
    """
    world, positions = _traverse_tree(rotations, root, offsets)
    return torch.stack(world).movedim((0, 1, 2), (-3, -2, -1)), torch.stack(positions).movedim((0, 1), (-2, -1))


def forward_kinematics(rotations: Tensor, root: Tensor, offsets: Tensor = OFFSETS) -> Tensor:
    """Joint positions in the world, metres. (..., 24, 3, 3) local rotations, (..., 3), (..., 24, 3) -> (..., 24, 3)"""
    return torch.stack(_traverse_tree(rotations, root, offsets)[1]).movedim((0, 1), (-2, -1))


# the motion vector ---------------------------------------------------------------------------------------------------


def foot_contacts(joints: Tensor) -> Tensor:
    """1 where a foot joint moves less than CONTACT_THRESHOLD to the next frame, and in the last frame (EDGE).

    joints (..., T, 24, 3) metres at 30 Hz -> (..., T, 4) 0/1.
    """
    feet = joints[..., FEET, :]
    is_contact = feet.diff(dim=-3).norm(dim=-1) < CONTACT_THRESHOLD
    return F.pad(is_contact.to(joints), (0, 0, 0, 1), value=1.0)


def pack(rotations: Tensor, root: Tensor, offsets: Tensor = OFFSETS) -> Tensor:
    """The motion vector, with computed contacts. (..., T, 24, 3, 3), (..., T, 3) metres -> (..., T, 151)"""
    contacts = foot_contacts(forward_kinematics(rotations, root, offsets))
    return torch.cat([contacts, root, sixd_from_matrix(rotations).flatten(-2)], -1)


def unpack(motion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(..., 151) -> contacts (..., 4), root (..., 3) metres, rotations (..., 24, 3, 3); bfloat16 becomes float32"""
    motion = motion if motion.dtype.itemsize >= 4 else motion.float()  # bfloat16 has errors of centimetres
    sixd = motion[..., 7:].unflatten(-1, (len(JOINTS), 6))
    rotations = matrix_from_6d(sixd.movedim(-2, 0)).movedim(0, -3)  # memory layout of `_traverse_tree`
    return motion[..., :4], motion[..., 4:7], rotations


def joints_of(motion: Tensor, offsets: Tensor = OFFSETS) -> Tensor:
    """Joint positions in the world, metres. (..., T, 151) -> (..., T, 24, 3)"""
    _, root, rotations = unpack(motion)
    return forward_kinematics(rotations, root, offsets)


def put_on_floor(motion: Tensor, offsets: Tensor = OFFSETS) -> Tensor:
    """Raise or lower the whole motion until its lowest foot stands on z = 0. (..., T, 151) -> (..., T, 151)"""
    sole_heights = joints_of(motion, offsets)[..., FEET, 2] - torch.tensor(FOOT_HEIGHTS).to(motion)
    lift = F.pad(-sole_heights.amin((-2, -1))[..., None, None], (6, MOTION_DIM - 7))
    return motion + lift


def resample(motion: Tensor, times: Tensor, fps: float = MOTION_FPS) -> Tensor:
    """The motion at other times: rotations by slerp, root by linear interpolation, contacts of the nearest frame.

    motion (T, 151) sampled at `fps`; times (F,) float64 seconds, outside the clip its first or last frame is repeated.
    -> (F, 151)
    """
    frame_position = (torch.as_tensor(times, dtype=torch.float64, device=motion.device) * fps).clamp(0, len(motion) - 1)
    low_index = frame_position.floor().long()
    high_index = (low_index + 1).clamp(max=len(motion) - 1)
    weight = (frame_position - low_index).to(motion)
    contacts, root, rotations = unpack(motion)
    quaternions = quaternion_from_matrix(rotations)
    rotations = matrix_from_quaternion(slerp(quaternions[low_index], quaternions[high_index], weight[:, None]))
    root = torch.lerp(root[low_index], root[high_index], weight[:, None])
    return torch.cat([contacts[(frame_position + 0.5).long()], root, sixd_from_matrix(rotations).flatten(-2)], -1)


class Normalizer(nn.Module):
    """Min-max scaling of each motion value to [-1, 1], clipped both ways (EDGE's; scikit-learn's MinMaxScaler).

    Buffers low, high (151,): the smallest and the largest value of the data, EDGE's `data_min_` and `data_max_`. A
    constant value is scaled as if its range were 1. Before `fit`, scaling is the identity.
    """

    def __init__(self, dim: int = MOTION_DIM):
        super().__init__()
        self.register_buffer("low", -torch.ones(dim))
        self.register_buffer("high", torch.ones(dim))

    @property
    def _scale(self) -> Tensor:
        extent = self.high - self.low
        return 2 / torch.where(extent < 10 * torch.finfo(extent.dtype).eps, 1.0, extent)

    def fit(self, motions: Iterable[Tensor]) -> "Normalizer":
        """Set the range to that of all motions (..., 151), in one pass. Raises ValueError if there are none."""
        low, high = torch.full_like(self.low, torch.inf), torch.full_like(self.high, -torch.inf)
        for motion in motions:
            flat = motion.reshape(-1, len(low)).to(low)
            low, high = torch.minimum(low, flat.amin(0)), torch.maximum(high, flat.amax(0))
        if not torch.isfinite(high - low).all():
            raise ValueError(
                "cannot fit the motion normaliser: the training data has no motion, or values that are not finite"
            )
        self.low.copy_(low)
        self.high.copy_(high)
        return self

    def forward(self, motion: Tensor) -> Tensor:
        """(..., 151) metres and 6D -> (..., 151) in [-1, 1]"""
        return ((motion - self.low) * self._scale - 1).clamp(-1, 1)

    def inverse(self, scaled: Tensor) -> Tensor:
        """(..., 151), clipped to [-1, 1] first -> (..., 151) metres and 6D"""
        return (scaled.clamp(-1, 1) + 1) / self._scale + self.low
