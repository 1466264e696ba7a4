"""Write BVH files of the 24-joint skeleton, and read those of any humanoid.

Files are written with Y up, centimetres, 30 frames a second, SMPL's joint names, and the T-pose as identity. Blender's
importer with its defaults (Y up, -Z forward) shows the dancer upright; scale 0.01 gives metres.
"""

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from zoo.batch import MOTION_FPS
from zoo.body.motion_io.retarget import REQUIRED_JOINTS, retarget, to_motion_rate
from zoo.body.skeleton import JOINTS, OFFSETS, PARENTS, STANDING, unpack

_CENTIMETRES = 100.0
_END_SITES = {
    10: (0, 0, 5),
    11: (0, 0, 5),
    15: (0, 18, 0),
    22: (9, 0, 0),
    23: (-9, 0, 0),
}  # joint -> offset, centimetres

# names of joints in other skeletons, without side and punctuation. Earlier names are tried first, and a name is used
# once, so that "LeftShoulder" is the collar if there is a "LeftArm", else the shoulder.
_LIMB_JOINT_NAMES = {
    "hip": "upleg thigh upperleg hip",
    "knee": "knee leg shin lowleg lowerleg calf",
    "ankle": "ankle foot",
    "foot": "toebase toe toes toe0 ball foot",
    "shoulder": "arm uparm upperarm shldr shoulder",
    "elbow": "elbow forearm lowarm lowerarm",
    "wrist": "wrist hand",
    "hand": "handmiddle1 middle1 middle01 finger2 hand fingerbase",
    "collar": "collar clavicle collarbone shoulder",
}
_CENTRAL_JOINT_NAMES = {"pelvis": "hips pelvis hip root", "head": "head"}
_RIG_PREFIXES = re.compile(r"mixamorig\d*|bip\d*|m|f|avg|jnt|joint|bone|def")  # words that name the skeleton


# reading -------------------------------------------------------------------------------------------------------------


@dataclass
class _Node:
    """One joint of a file: its offset from the parent, and the columns of the frames that move it."""

    name: str
    parent: int
    offset: np.ndarray
    position_columns: dict[int, int] = field(default_factory=dict)  # axis -> column
    rotation_columns: list[tuple[str, int]] = field(default_factory=list)  # (axis letter, column), as they are applied


def _parse(text: str) -> tuple[list[_Node], np.ndarray, float]:
    """Parse joints, frames (T, channels) and seconds a frame. Raises ValueError for text that is not BVH."""
    hierarchy, separator, motion = text.partition("MOTION")
    header = re.match(r"\s*Frames:\s*(\d+)\s*Frame Time:\s*([\d.eE+-]+)", motion)
    if not (separator and header and hierarchy.split()[:1] == ["HIERARCHY"]):
        raise ValueError("it is not a BVH file")
    nodes, stack, num_columns, tokens = [], [], 0, iter(hierarchy.split()[1:])
    for token in tokens:
        if token in ("ROOT", "JOINT"):
            nodes.append(_Node(next(tokens), stack[-1] if stack else -1, np.zeros(3)))
            current = len(nodes) - 1
        elif token == "End":
            next(tokens)
            current = -1
        elif token == "{":
            stack.append(current)
        elif token == "}":
            stack.pop()
        elif token == "OFFSET":
            offset = np.array([float(next(tokens)) for _ in range(3)])
            if stack[-1] >= 0:
                nodes[stack[-1]].offset = offset
        elif token == "CHANNELS":
            node = nodes[stack[-1]]
            for _ in range(int(next(tokens))):
                axis, kind = (name := next(tokens))[0].upper(), name[1:].lower()
                if kind == "position":
                    node.position_columns["XYZ".index(axis)] = num_columns
                else:
                    node.rotation_columns.append((axis, num_columns))
                num_columns += 1
        else:
            raise ValueError(f"it is not a BVH file: unknown keyword '{token}'")
    frames, seconds = int(header[1]), float(header[2])
    values = np.array(motion[header.end() :].split(), float)
    if not frames or seconds <= 0 or values.size < frames * num_columns:
        raise ValueError(
            f"it is broken: the header announces {frames} frames of {num_columns} values, the file has {values.size}"
        )
    values = values[: frames * num_columns].reshape(frames, num_columns)  # some exporters write one frame too many
    return nodes, values, seconds


def _kinematics(nodes: list[_Node], frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World rotations (J, T, 3, 3) and positions (J, T, 3) of a file's joints, in its own axes and unit."""
    rotations, positions = [], []
    for node in nodes:
        local = np.eye(3)[None]
        if node.rotation_columns:
            axes = "".join(axis for axis, _ in node.rotation_columns)
            angles = frames[:, [column for _, column in node.rotation_columns]]
            local = Rotation.from_euler(axes, angles, degrees=True).as_matrix()
        local = np.broadcast_to(local, (len(frames), 3, 3))
        offset = np.tile(node.offset, (len(frames), 1))
        if node.parent < 0:  # other joints' position channels repeat the offset, or stretch a bone, which is ignored
            for axis, column in node.position_columns.items():
                offset[:, axis] = frames[:, column]
            rotations.append(local)
            positions.append(offset)
        else:
            parent = rotations[node.parent]
            rotations.append(parent @ local)
            positions.append(positions[node.parent] + (parent @ offset[..., None])[..., 0])
    return np.stack(rotations), np.stack(positions)


def _split_name(name: str) -> tuple[str, str]:
    """A joint's side ('left', 'right' or '') and its name without side, prefix, case and punctuation."""
    spaced = re.sub(r"([a-z])([A-Z])|([A-Z])(?=[A-Z][a-z])", r"\1\3 \2", name.split(":")[-1])
    words = [
        word for word in re.sub(r"[^A-Za-z0-9]+", " ", spaced).lower().split() if not _RIG_PREFIXES.fullmatch(word)
    ]
    for side in ("left", "right"):
        for prefix in (side, side[0]):
            if prefix in words:
                words.remove(prefix)
                return side, "".join(words)
    joined = "".join(words)
    joint_names = {word for names in _LIMB_JOINT_NAMES.values() for word in names.split()}
    for side in ("left", "right"):
        for prefix in (side, side[0]):
            if joined.startswith(prefix) and joined[len(prefix) :] in joint_names:
                return side, joined[len(prefix) :]
    return "", joined


def _match_joints(nodes: list[_Node]) -> dict[int, int]:
    """Our joint -> the file's. Limbs, pelvis and head by name, the trunk by its position between them.

    Raises ValueError that lists the missing joints.
    """
    by_name = {}
    for index, node in enumerate(nodes):
        by_name.setdefault(_split_name(node.name), index)
    matches = {}
    candidates = [(joint, "", names) for joint, names in _CENTRAL_JOINT_NAMES.items()]
    candidates += [
        (f"{side}_{part}", side, names) for part, names in _LIMB_JOINT_NAMES.items() for side in ("left", "right")
    ]
    for joint, side, names in candidates:
        indices = (by_name.get((side, name)) for name in names.split())
        index = next((index for index in indices if index is not None and index not in matches.values()), None)
        if index is not None:
            matches[JOINTS.index(joint)] = index
    missing = [JOINTS[joint] for joint in sorted(REQUIRED_JOINTS - set(matches))]
    if missing:
        raise ValueError(f"it has no joint for {', '.join(missing)}")

    def ancestry(index: int) -> list[int]:
        return ([*ancestry(nodes[index].parent)] if nodes[index].parent >= 0 else []) + [index]

    left, right = ancestry(matches[16]), ancestry(matches[17])
    shared = [index for index in left if index in right]
    spine = [index for index in shared if index not in ancestry(matches[0])]
    if spine:
        matches[9] = spine[-1]
    if len(spine) > 1:
        matches[3] = spine[0]
    if len(spine) > 2:
        matches[6] = spine[(len(spine) - 1) // 2]
    if 15 in matches:
        neck = [index for index in ancestry(matches[15])[:-1] if index not in shared]
        if neck:
            matches[12] = neck[-1]
    return matches


def _begins_with_setup_pose(local: Tensor) -> bool:
    """Whether the first of (T, 24, 3, 3) is a T-pose that an exporter put before the motion: a jump follows it."""
    step = (local[1:] - local[:-1]).square().sum((-2, -1)).sqrt().mean(-1)
    return len(step) > 2 and bool(step[0] > 0.2 and step[0] > 10 * step[1:].median())


def read_bvh(path: Path | str) -> Tensor:
    """Read a humanoid BVH (CMU, Mixamo, SMPL and similar names) as motion (T, 151) at 30 Hz, standing on the floor.

    Any unit, channel order, up axis and frame rate. A T-pose put before the motion is left out. Raises
    ValueError for a file that is not BVH, or whose skeleton cannot be matched.
    """
    try:
        nodes, frames, seconds = _parse(Path(path).read_text(errors="replace"))
        matches = _match_joints(nodes)
        rotations, positions = (torch.from_numpy(array) for array in _kinematics(nodes, frames))
        zeros = np.zeros((1, frames.shape[1]))
        rest = torch.from_numpy(_kinematics(nodes, zeros)[1])[:, 0]
        local, root = retarget(
            {joint: rotations[source] for joint, source in matches.items()},
            {joint: rest[source] for joint, source in matches.items()},
            (positions[matches[1]] + positions[matches[2]]) / 2,
        )
    except (ValueError, IndexError, StopIteration, RuntimeError) as error:
        raise ValueError(f"cannot read {path}: {error or 'it is not a BVH file'}") from None
    first = int(_begins_with_setup_pose(local))
    return to_motion_rate(local[first:], root[first:], 1 / seconds)


# writing -------------------------------------------------------------------------------------------------------------


def write_bvh(path: Path | str, motion: Tensor, offsets: Tensor = OFFSETS) -> None:
    """Write motion (T, 151) as a BVH file, see the top of this module. offsets (24, 3): the bones in metres."""
    _, root, local = unpack(motion.detach().double().cpu())
    to_y_up = STANDING.T.double()
    local = torch.cat([(to_y_up @ local[:, 0])[:, None], local[:, 1:]], 1)
    position = (root @ to_y_up.T * _CENTIMETRES).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gimbal lock: any split of a rotation between two angles is valid
        angles = Rotation.from_matrix(local.flatten(0, 1).numpy()).as_euler("ZXY")
    angles = np.degrees(np.unwrap(angles.reshape(len(root), len(JOINTS), 3), axis=0))

    lines = ["HIERARCHY"]
    order = []

    def append_joint(joint: int, indent: str) -> None:
        order.append(joint)
        x, y, z = (offsets[joint] * _CENTIMETRES).tolist()
        channels = "CHANNELS 3 " if joint else "CHANNELS 6 Xposition Yposition Zposition "
        lines.append(f"{indent}{'JOINT' if joint else 'ROOT'} {JOINTS[joint]}")
        lines.append(f"{indent}{{")
        lines.append(f"{indent}\tOFFSET {x:.6f} {y:.6f} {z:.6f}")
        lines.append(f"{indent}\t{channels}Zrotation Xrotation Yrotation")
        for child, parent in enumerate(PARENTS):
            if parent == joint:
                append_joint(child, indent + "\t")
        if joint in _END_SITES:
            x, y, z = _END_SITES[joint]
            lines.extend([f"{indent}\tEnd Site", f"{indent}\t{{", f"{indent}\t\tOFFSET {x} {y} {z}", f"{indent}\t}}"])
        lines.append(f"{indent}}}")

    append_joint(0, "")
    lines += ["MOTION", f"Frames: {len(root)}", f"Frame Time: {1 / MOTION_FPS:.8f}"]
    values = np.concatenate([position, angles[:, order].reshape(len(root), -1)], 1)
    lines += [" ".join(f"{value:.6f}" for value in frame) for frame in values]
    Path(path).write_text("\n".join(lines) + "\n")
