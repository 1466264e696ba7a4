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

_CENTIMETRES_PER_METRE = 100.0
MAX_VALUES = 8_000_000  # channels or joints times frames of a file that is read: 20 minutes of 100 channels at 60 Hz
_END_SITES = {
    10: (0, 0, 5),
    11: (0, 0, 5),
    15: (0, 18, 0),
    22: (9, 0, 0),
    23: (-9, 0, 0),
}  # joint -> offset of its end site, centimetres

# our joint -> its names in other skeletons, without side and punctuation. Earlier names are tried first, and a node of
# the file is used once, so that "LeftShoulder" is the collar if there is a "LeftArm", else the shoulder.
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
_MOTION_HEADER = re.compile(r"(?<![^\s}])MOTION\s+Frames\s*:\s*(\d+)\s+Frame\s*Time\s*:\s*([\d.eE+-]+)", re.IGNORECASE)
_TOKEN = re.compile(r"(?<!\S)(ROOT|JOINT)\s+([^\r\n{]*[^\s{])|[{}]|[^\s{}]+", re.IGNORECASE)
_RIG_PREFIXES = re.compile(r"mixamorig\d*|bip\d*|m|f|avg|jnt|joint|bone|def")  # words that name the skeleton


# reading -------------------------------------------------------------------------------------------------------------


@dataclass
class _Node:
    """One joint of a file: its offset from the parent, and the columns of the frames that move it."""

    name: str
    parent: int  # index of its node, -1 for the root
    offset: np.ndarray
    position_columns: dict[int, int] = field(default_factory=dict)  # axis -> column
    rotation_columns: list[tuple[str, int]] = field(default_factory=list)  # (axis letter, column), as they are applied


def _parse(text: str) -> tuple[list[_Node], np.ndarray, float]:
    """Parse joints, frames (T, channels) and seconds a frame. Raises ValueError for text that is not BVH."""
    header = _MOTION_HEADER.search(text)  # a joint may be called MOTION: only this line is followed by Frames:
    hierarchy = text[: header.start()] if header else ""
    if not header or hierarchy.split()[:1] != ["HIERARCHY"]:
        raise ValueError("it is not a BVH file")
    nodes: list[_Node] = []
    stack: list[int] = []
    num_columns = 0
    matches = _TOKEN.finditer(hierarchy, hierarchy.index("HIERARCHY") + len("HIERARCHY"))
    tokens = (match[0] for match in matches)
    for token in tokens:
        joint = _TOKEN.fullmatch(token)
        if joint and joint[1]:  # its name goes to the end of the line
            nodes.append(_Node(joint[2], stack[-1] if stack else -1, np.zeros(3)))
            current_node = len(nodes) - 1
        elif token == "End":
            next(tokens)
            current_node = -1
        elif token == "{":
            stack.append(current_node)
        elif token == "}":
            stack.pop()
        elif token == "OFFSET":
            offset = np.array([float(next(tokens)) for _ in range(3)])
            if stack[-1] >= 0:
                nodes[stack[-1]].offset = offset
        elif token == "CHANNELS":
            node = nodes[stack[-1]]
            for _ in range(int(next(tokens))):
                axis, channel_kind = (name := next(tokens))[0].upper(), name[1:].lower()
                if channel_kind == "position":
                    node.position_columns["XYZ".index(axis)] = num_columns
                elif channel_kind == "rotation":  # others, such as Xscale, move no joint
                    node.rotation_columns.append((axis, num_columns))
                num_columns += 1
        else:
            raise ValueError(f"it is not a BVH file: unknown keyword '{token}'")
    num_frames, frame_seconds = int(header[1]), float(header[2])
    if num_frames * max(num_columns, len(nodes)) > MAX_VALUES:
        raise ValueError(f"{num_frames} frames of {len(nodes)} joints are more than {MAX_VALUES} values")
    values = _read_numbers(text[header.end() :])
    if not num_frames or frame_seconds <= 0 or values.size < num_frames * num_columns:
        raise ValueError(
            f"it is broken: the header announces {num_frames} frames of {num_columns} values, "
            f"the file has {values.size}"
        )
    # some exporters write one frame too many
    values = values[: num_frames * num_columns].reshape(num_frames, num_columns)
    if not (np.isfinite(values).all() and all(np.isfinite(node.offset).all() for node in nodes)):
        raise ValueError("it holds values that are not finite")
    return nodes, values, frame_seconds


def _decode(data: bytes) -> str:
    """The text of a file in UTF-8 or UTF-16, without its byte-order mark."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return data.decode(encoding, errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def _read_numbers(text: str) -> np.ndarray:
    """Numbers between white space, without a string object for each. Raises ValueError for anything else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return np.fromstring(text, float, sep=" ")
        except DeprecationWarning:
            raise ValueError("it is broken: its frames hold something that is not a number") from None


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
            parent_rotation = rotations[node.parent]
            rotations.append(parent_rotation @ local)
            positions.append(positions[node.parent] + (parent_rotation @ offset[..., None])[..., 0])
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
    """Our joint -> index of the file's node. Limbs, pelvis and head match by name, the trunk by its place between.

    Raises ValueError that lists the missing joints.
    """
    node_of_name = {}
    for index, node in enumerate(nodes):
        node_of_name.setdefault(_split_name(node.name), index)
    matches = {}
    candidates = [(joint, "", names) for joint, names in _CENTRAL_JOINT_NAMES.items()]
    candidates += [
        (f"{side}_{limb_joint}", side, names)
        for limb_joint, names in _LIMB_JOINT_NAMES.items()
        for side in ("left", "right")
    ]
    for joint, side, names in candidates:
        indices = (node_of_name.get((side, name)) for name in names.split())
        index = next((index for index in indices if index is not None and index not in matches.values()), None)
        if index is not None:
            matches[JOINTS.index(joint)] = index
    missing = [JOINTS[joint] for joint in sorted(REQUIRED_JOINTS - set(matches))]
    if missing:
        raise ValueError(f"it has no joint for {', '.join(missing)}")

    def ancestry(index: int) -> list[int]:
        return ([*ancestry(nodes[index].parent)] if nodes[index].parent >= 0 else []) + [index]

    left_ancestry, right_ancestry = ancestry(matches[16]), ancestry(matches[17])
    shared_ancestors = [index for index in left_ancestry if index in right_ancestry]
    spine_nodes = [index for index in shared_ancestors if index not in ancestry(matches[0])]
    if spine_nodes:
        matches[9] = spine_nodes[-1]
    if len(spine_nodes) > 1:
        matches[3] = spine_nodes[0]
    if len(spine_nodes) > 2:
        matches[6] = spine_nodes[(len(spine_nodes) - 1) // 2]
    if 15 in matches:
        neck_nodes = [index for index in ancestry(matches[15])[:-1] if index not in shared_ancestors]
        if neck_nodes:
            matches[12] = neck_nodes[-1]
    return matches


def _begins_with_setup_pose(local: Tensor) -> bool:
    """Whether the first of (T, 24, 3, 3) is a T-pose that an exporter put before the motion: a jump follows it."""
    mean_change = (local[1:] - local[:-1]).square().sum((-2, -1)).sqrt().mean(-1)
    return len(mean_change) > 2 and bool(mean_change[0] > 0.2 and mean_change[0] > 10 * mean_change[1:].median())


def _is_own(nodes: list[_Node]) -> bool:
    """Whether these are the joints and bones that `write_bvh` writes."""
    bones = {node.name: node.offset / _CENTIMETRES_PER_METRE for node in nodes}
    return set(bones) == set(JOINTS) and all(
        np.allclose(bones[joint], offset, atol=1e-6) for joint, offset in zip(JOINTS, OFFSETS.tolist(), strict=True)
    )


def read_bvh(path: Path | str) -> Tensor:
    """Read a humanoid BVH (CMU, Mixamo, SMPL and similar names) as motion (T, 151) at 30 Hz, standing on the floor.

    Any unit, channel order, up axis and frame rate. A T-pose put before the motion is left out. A file of `write_bvh`
    keeps its height and all frames. Raises ValueError for a file that is not BVH, or whose skeleton cannot be matched.
    """
    try:
        nodes, frames, frame_seconds = _parse(_decode(Path(path).read_bytes()))
        matches = _match_joints(nodes)
        rotations, positions = (torch.from_numpy(array) for array in _kinematics(nodes, frames))
        rest_channels = np.zeros((1, frames.shape[1]))
        rest_positions = torch.from_numpy(_kinematics(nodes, rest_channels)[1])[:, 0]
        local, root = retarget(
            {joint: rotations[node] for joint, node in matches.items()},
            {joint: rest_positions[node] for joint, node in matches.items()},
            (positions[matches[1]] + positions[matches[2]]) / 2,
        )
        is_own = _is_own(nodes)
        first_frame = 0 if is_own else int(_begins_with_setup_pose(local))
        return to_motion_rate(local[first_frame:], root[first_frame:], 1 / frame_seconds, on_floor=not is_own)
    except (ValueError, IndexError, StopIteration, RuntimeError) as error:
        raise ValueError(f"cannot read {path}: {error or 'it is not a BVH file'}") from None


# writing -------------------------------------------------------------------------------------------------------------


def write_bvh(path: Path | str, motion: Tensor, offsets: Tensor = OFFSETS) -> None:
    """Write motion (T, 151) as a BVH file, see the top of this module. offsets (24, 3): the bones in metres."""
    _, root, local = unpack(motion.detach().double().cpu())
    to_y_up = STANDING.T.double()
    local = torch.cat([(to_y_up @ local[:, 0])[:, None], local[:, 1:]], 1)
    root_positions = (root @ to_y_up.T * _CENTIMETRES_PER_METRE).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gimbal lock: any split of a rotation between two angles is valid
        angles = Rotation.from_matrix(local.flatten(0, 1).numpy()).as_euler("ZXY")
    angles = np.degrees(np.unwrap(angles.reshape(len(root), len(JOINTS), 3), axis=0))

    lines = ["HIERARCHY"]
    joint_order = []

    def append_joint(joint: int, indent: str) -> None:
        joint_order.append(joint)
        x, y, z = (offsets[joint] * _CENTIMETRES_PER_METRE).tolist()
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
    values = np.concatenate([root_positions, angles[:, joint_order].reshape(len(root), -1)], 1)
    lines += [" ".join(f"{value:.6f}" for value in frame) for frame in values]
    Path(path).write_text("\n".join(lines) + "\n")
