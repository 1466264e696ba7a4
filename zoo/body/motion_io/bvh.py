"""BVH files: ours out, anybody's in.

Written as is the custom: Y up, centimetres, 30 frames a second, SMPL's joint names, identity is the T-pose. Blender's
importer with its own defaults (Y up, -Z forward) then shows the dancer upright; give it scale 0.01 for metres.
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
from zoo.body.motion_io.retarget import NEEDED, at_motion_rate, retarget
from zoo.body.skeleton import JOINTS, OFFSETS, PARENTS, STANDING, unpack

_CENTIMETRES = 100.0
_TIPS = {10: (0, 0, 5), 11: (0, 0, 5), 15: (0, 18, 0), 22: (9, 0, 0), 23: (-9, 0, 0)}  # end sites, centimetres

# what other skeletons call a joint, side and punctuation taken off; earlier names are tried first, and a name is used
# once, so that "LeftShoulder" is the shoulder where there is no "LeftArm" and the collar where there is one
_SIDED = {
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
_CENTRAL = {"pelvis": "hips pelvis hip root", "head": "head"}
_RIGS = re.compile(r"mixamorig\d*|bip\d*|m|f|avg|jnt|joint|bone|def")  # words that say whose skeleton it is


# reading -------------------------------------------------------------------------------------------------------------


@dataclass
class _Node:
    """One joint of a file: where it rests from its parent, and which columns of the frames move it."""

    name: str
    parent: int
    offset: np.ndarray
    place: dict[int, int] = field(default_factory=dict)  # axis -> column
    turn: list[tuple[str, int]] = field(default_factory=list)  # (axis letter, column), in the order they are applied


def _parse(text: str) -> tuple[list[_Node], np.ndarray, float]:
    """Joints, frames (T, channels) and seconds a frame. Raises ValueError for text that is not BVH."""
    head, found, tail = text.partition("MOTION")
    header = re.match(r"\s*Frames:\s*(\d+)\s*Frame Time:\s*([\d.eE+-]+)", tail)
    if not (found and header and head.split()[:1] == ["HIERARCHY"]):
        raise ValueError("it is not a BVH file")
    nodes, stack, columns, tokens = [], [], 0, iter(head.split()[1:])
    for token in tokens:
        if token in ("ROOT", "JOINT"):
            nodes.append(_Node(next(tokens), stack[-1] if stack else -1, np.zeros(3)))
            opened = len(nodes) - 1
        elif token == "End":
            next(tokens)
            opened = -1
        elif token == "{":
            stack.append(opened)
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
                    node.place["XYZ".index(axis)] = columns
                else:
                    node.turn.append((axis, columns))
                columns += 1
        else:
            raise ValueError(f"it is not a BVH file: '{token}' is not known")
    frames, seconds = int(header[1]), float(header[2])
    values = np.array(tail[header.end() :].split(), float)
    if not frames or seconds <= 0 or values.size < frames * columns:
        raise ValueError(f"it is broken: {frames} frames of {columns} values are announced, {values.size} values found")
    return (
        nodes,
        values[: frames * columns].reshape(frames, columns),
        seconds,
    )  # some exporters write one frame too many


def _kinematics(nodes: list[_Node], frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World rotations (J, T, 3, 3) and positions (J, T, 3) of a file's joints, in its own axes and unit."""
    turns, places = [], []
    for node in nodes:
        own = np.eye(3)[None]
        if node.turn:
            axes = "".join(axis for axis, _ in node.turn)
            own = Rotation.from_euler(axes, frames[:, [c for _, c in node.turn]], degrees=True).as_matrix()
        own = np.broadcast_to(own, (len(frames), 3, 3))
        offset = np.tile(node.offset, (len(frames), 1))
        if node.parent < 0:  # elsewhere a position channel repeats the offset, or stretches a bone, which ours cannot
            for axis, column in node.place.items():
                offset[:, axis] = frames[:, column]
            turns.append(own)
            places.append(offset)
        else:
            turn = turns[node.parent]
            turns.append(turn @ own)
            places.append(places[node.parent] + (turn @ offset[..., None])[..., 0])
    return np.stack(turns), np.stack(places)


def _plain(name: str) -> tuple[str, str]:
    """A joint's side ('left', 'right' or '') and its name without side, prefix, case and punctuation."""
    spaced = re.sub(r"([a-z])([A-Z])|([A-Z])(?=[A-Z][a-z])", r"\1\3 \2", name.split(":")[-1])
    words = [word for word in re.sub(r"[^A-Za-z0-9]+", " ", spaced).lower().split() if not _RIGS.fullmatch(word)]
    for side in ("left", "right"):
        for mark in (side, side[0]):
            if mark in words:
                words.remove(mark)
                return side, "".join(words)
    joined = "".join(words)
    parts = {part for names in _SIDED.values() for part in names.split()}
    for side in ("left", "right"):
        for mark in (side, side[0]):
            if joined.startswith(mark) and joined[len(mark) :] in parts:
                return side, joined[len(mark) :]
    return "", joined


def _match(nodes: list[_Node]) -> dict[int, int]:
    """Our joint -> the file's. Limbs, pelvis and head by name, the trunk by its place between them.

    Raises ValueError naming what is missing.
    """
    named = {}
    for index, node in enumerate(nodes):
        named.setdefault(_plain(node.name), index)
    found, used = {}, set()
    wanted = [(name, "", names) for name, names in _CENTRAL.items()]
    wanted += [(f"{side}_{part}", side, names) for part, names in _SIDED.items() for side in ("left", "right")]
    for joint, side, names in wanted:
        index = next((i for n in names.split() if (i := named.get((side, n))) is not None and i not in used), None)
        if index is not None:
            found[JOINTS.index(joint)] = index
            used.add(index)
    missing = [JOINTS[j] for j in sorted(NEEDED - set(found))]
    if missing:
        raise ValueError(f"no joint of it could be taken for {', '.join(missing)}")

    def ancestry(index: int) -> list[int]:
        return ([*ancestry(nodes[index].parent)] if nodes[index].parent >= 0 else []) + [index]

    left, right = ancestry(found[16]), ancestry(found[17])
    shared = [index for index in left if index in right]
    spine = [index for index in shared if index not in ancestry(found[0])]
    if spine:
        found[9] = spine[-1]
    if len(spine) > 1:
        found[3] = spine[0]
    if len(spine) > 2:
        found[6] = spine[(len(spine) - 1) // 2]
    if 15 in found:
        neck = [index for index in ancestry(found[15])[:-1] if index not in shared]
        if neck:
            found[12] = neck[-1]
    return found


def _opens_with_a_setup_pose(local: Tensor) -> bool:
    """Whether the first of (T, 24, 3, 3) is a T-pose that exporters put before the motion: a jump leads away."""
    step = (local[1:] - local[:-1]).square().sum((-2, -1)).sqrt().mean(-1)
    return len(step) > 2 and bool(step[0] > 0.2 and step[0] > 10 * step[1:].median())


def read_bvh(path: Path | str) -> Tensor:
    """Any humanoid BVH (CMU, Mixamo, SMPL and like names) as motion (T, 151) at 30 Hz, standing on the floor.

    Any unit, channel order, up axis and frame rate. A T-pose put before the motion is left out. Raises
    ValueError for a file that is not BVH, or whose skeleton cannot be matched.
    """
    try:
        nodes, frames, seconds = _parse(Path(path).read_text(errors="replace"))
        joints = _match(nodes)
        turns, places = (torch.from_numpy(x) for x in _kinematics(nodes, frames))
        still = np.zeros((1, frames.shape[1]))
        rest = torch.from_numpy(_kinematics(nodes, still)[1])[:, 0]
        local, root = retarget(
            {ours: turns[theirs] for ours, theirs in joints.items()},
            {ours: rest[theirs] for ours, theirs in joints.items()},
            (places[joints[1]] + places[joints[2]]) / 2,
        )
    except (ValueError, IndexError, StopIteration, RuntimeError) as error:
        raise ValueError(f"cannot read {path}: {error or 'it is not a BVH file'}") from None
    first = int(_opens_with_a_setup_pose(local))
    return at_motion_rate(local[first:], root[first:], 1 / seconds)


# writing -------------------------------------------------------------------------------------------------------------


def write_bvh(path: Path | str, motion: Tensor, offsets: Tensor = OFFSETS) -> None:
    """Motion (T, 151) as a BVH file: see the top of this module. offsets (24, 3): the skeleton's bones, metres."""
    _, root, local = unpack(motion.detach().double().cpu())
    upright = STANDING.T.double()
    local = torch.cat([(upright @ local[:, 0])[:, None], local[:, 1:]], 1)  # Z up to Y up
    place = (root @ upright.T * _CENTIMETRES).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at gimbal lock two angles share one turn; any split of it is right
        angles = Rotation.from_matrix(local.flatten(0, 1).numpy()).as_euler("ZXY")
    angles = np.degrees(np.unwrap(angles.reshape(len(root), len(JOINTS), 3), axis=0))

    lines = ["HIERARCHY"]
    order = []

    def describe(joint: int, indent: str) -> None:
        order.append(joint)
        x, y, z = (offsets[joint] * _CENTIMETRES).tolist()
        channels = "CHANNELS 3 " if joint else "CHANNELS 6 Xposition Yposition Zposition "
        lines.append(f"{indent}{'JOINT' if joint else 'ROOT'} {JOINTS[joint]}")
        lines.append(f"{indent}{{")
        lines.append(f"{indent}\tOFFSET {x:.6f} {y:.6f} {z:.6f}")
        lines.append(f"{indent}\t{channels}Zrotation Xrotation Yrotation")
        for child, parent in enumerate(PARENTS):
            if parent == joint:
                describe(child, indent + "\t")
        if joint in _TIPS:
            x, y, z = _TIPS[joint]
            lines.extend([f"{indent}\tEnd Site", f"{indent}\t{{", f"{indent}\t\tOFFSET {x} {y} {z}", f"{indent}\t}}"])
        lines.append(f"{indent}}}")

    describe(0, "")
    lines += ["MOTION", f"Frames: {len(root)}", f"Frame Time: {1 / MOTION_FPS:.8f}"]
    values = np.concatenate([place, angles[:, order].reshape(len(root), -1)], 1)
    lines += [" ".join(f"{value:.6f}" for value in frame) for frame in values]
    Path(path).write_text("\n".join(lines) + "\n")
