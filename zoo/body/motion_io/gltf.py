"""Write an animated body as one glTF 2.0 binary file: mesh, skeleton, skin weights and animation; read its motion.

glTF has Y up, metres, and faces +Z, which is the rest frame of all bodies here; importers turn it upright.
"""

import json
import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.batch import MOTION_FPS
from zoo.body.motion_io.retarget import to_motion_rate
from zoo.body.render.mesh import Body
from zoo.body.skeleton import JOINTS, PARENTS, STANDING, matrix_from_quaternion, quaternion_from_matrix, unpack

# component types and buffer targets of the specification, sec. 3.6.2 and 5.11
_COMPONENT_TYPES = {np.dtype("u1"): 5121, np.dtype("<u2"): 5123, np.dtype("<u4"): 5125, np.dtype("<f4"): 5126}
_ACCESSOR_TYPES = {(): "SCALAR", (2,): "VEC2", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_NUM_INFLUENCES = 4  # joints a vertex; more are allowed, but few programs read them
MAX_JSON_BYTES = 4 * 2**20  # of a file that is read; ours has some thousand
_GAMMA = 2.2  # of sRGB vertex colors
_BODY_COLOR = [0.62, 0.52, 0.46, 1.0]  # linear RGBA of bodies without vertex colors


class _Buffer:
    """Concatenated arrays, each with the view and the accessor that describe it."""

    def __init__(self) -> None:
        self.data, self.views, self.accessors = bytearray(), [], []

    def add(self, array: np.ndarray, target: int | None = None, bounds: bool = False, normalized: bool = False) -> int:
        """Append (N, ...) and return the number of its accessor. bounds: write min and max."""
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": array.nbytes}
        accessor = {
            "bufferView": len(self.views),
            "componentType": _COMPONENT_TYPES[array.dtype],
            "count": len(array),
            "type": _ACCESSOR_TYPES[array.shape[1:]],
        }
        if bounds:
            flat = array.reshape(len(array), -1)
            accessor |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        self.views.append(view | ({"target": target} if target else {}))
        self.accessors.append(accessor | ({"normalized": True} if normalized else {}))
        self.data += array.tobytes()
        self.data += b"\0" * (-len(self.data) % 4)
        return len(self.accessors) - 1


def _largest_weights(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(V, 24) -> the four joints of the largest weights (V, 4) uint8, and these (V, 4) float32, which sum to 1."""
    joints = np.argsort(-weights, axis=1, kind="stable")[:, :_NUM_INFLUENCES]
    largest_weights = np.take_along_axis(weights, joints, 1).astype("<f4")
    largest_weights /= largest_weights.sum(1, keepdims=True)
    return np.where(largest_weights > 0, joints, 0).astype("u1"), largest_weights


def _animation(motion: Tensor, body: Body) -> tuple[np.ndarray, np.ndarray]:
    """Local rotations (24, T, 4) as xyzw quaternions without sign jumps, and the pelvis (T, 3), Y up."""
    _, root, local = unpack(motion.detach().double().cpu())
    to_y_up = STANDING.T.double()
    local = local.clone()
    local[:, 0] = to_y_up @ local[:, 0]
    quaternions = quaternion_from_matrix(local).transpose(0, 1).numpy()[..., [1, 2, 3, 0]]
    signs = np.sign((quaternions[:, 1:] * quaternions[:, :-1]).sum(-1))
    quaternions[:, 1:] *= np.cumprod(np.where(signs == 0, 1, signs), axis=1)[..., None]
    pelvis = body.scale_root(root.numpy()) @ to_y_up.numpy().T
    return quaternions.astype("<f4"), pelvis.astype("<f4")


def write_glb(path: Path | str, motion: Tensor, body: Body, colors: np.ndarray | None = None) -> None:
    """Write motion (T, 151) of `body`: 30 keyframes a second, linear between them.

    colors (V, 3) uint8 sRGB, or None for a single color.
    """
    quaternions, pelvis = _animation(motion, body)
    joints, weights = _largest_weights(body.weights)
    times = (np.arange(len(pelvis)) / MOTION_FPS).astype("<f4")
    inverse_bind_matrices = np.tile(np.eye(4, dtype="<f4"), (len(JOINTS), 1, 1))
    inverse_bind_matrices[:, 3, :3] = -body.joints  # glTF stores matrices by columns: the translation comes last

    buffer = _Buffer()
    attributes = {
        "POSITION": buffer.add(body.vertices.astype("<f4"), _ARRAY_BUFFER, bounds=True),
        "NORMAL": buffer.add(body.normals.astype("<f4"), _ARRAY_BUFFER),
        "JOINTS_0": buffer.add(joints, _ARRAY_BUFFER),
        "WEIGHTS_0": buffer.add(weights, _ARRAY_BUFFER),
    }
    if colors is not None:
        linear_colors = (colors.astype(np.float64) / 255) ** _GAMMA
        rgba = np.concatenate([linear_colors, np.ones((len(linear_colors), 1))], 1)
        attributes["COLOR_0"] = buffer.add((rgba * 65535).round().astype("<u2"), _ARRAY_BUFFER, normalized=True)
    index_accessor = buffer.add(body.faces.astype("<u4").reshape(-1), _ELEMENT_ARRAY_BUFFER)
    inverse_bind_accessor = buffer.add(inverse_bind_matrices)
    keyframe_accessor = buffer.add(times, bounds=True)
    samplers = [{"input": keyframe_accessor, "output": buffer.add(pelvis)}]
    channels = [{"sampler": 0, "target": {"node": 0, "path": "translation"}}]
    for joint, quaternion in enumerate(quaternions):
        channels.append({"sampler": len(samplers), "target": {"node": joint, "path": "rotation"}})
        samplers.append({"input": keyframe_accessor, "output": buffer.add(quaternion)})

    nodes = []
    for joint, name in enumerate(JOINTS):
        children = [child for child, parent in enumerate(PARENTS) if parent == joint]
        nodes.append(
            {"name": name, "translation": body.offsets[joint].tolist()} | ({"children": children} if children else {})
        )
    nodes[0]["translation"], nodes[0]["rotation"] = pelvis[0].tolist(), quaternions[0, 0].tolist()
    nodes.append({"name": body.name, "mesh": 0, "skin": 0})
    base_color = [1.0, 1.0, 1.0, 1.0] if colors is not None else _BODY_COLOR
    document = {
        "asset": {
            "version": "2.0",
            "generator": "DanceZoo",
            "extras": {"leg_scale": float(body.leg_scale), "sole_offset": float(body.sole_offset)},  # `Body.scale_root`
        },
        "scene": 0,
        "scenes": [{"nodes": [0, len(JOINTS)]}],
        "nodes": nodes,
        "meshes": [
            {"name": body.name, "primitives": [{"attributes": attributes, "indices": index_accessor, "material": 0}]}
        ],
        "materials": [
            {"pbrMetallicRoughness": {"baseColorFactor": base_color, "metallicFactor": 0.0, "roughnessFactor": 0.8}}
        ],
        "skins": [{"joints": list(range(len(JOINTS))), "skeleton": 0, "inverseBindMatrices": inverse_bind_accessor}],
        "animations": [{"name": "dance", "samplers": samplers, "channels": channels}],
        "buffers": [{"byteLength": len(buffer.data)}],
        "bufferViews": buffer.views,
        "accessors": buffer.accessors,
    }
    json_chunk = json.dumps(document, separators=(",", ":")).encode()
    json_chunk += b" " * (-len(json_chunk) % 4)
    chunks = struct.pack("<I4s", len(json_chunk), b"JSON") + json_chunk
    chunks += struct.pack("<I4s", len(buffer.data), b"BIN\0") + bytes(buffer.data)
    Path(path).write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)


def read_glb(path: Path | str) -> Tensor:
    """Read the motion (T, 151) at 30 Hz of a file of `write_glb`, at its height.

    Raises ValueError for any other content: also for a .glb of another program, whose rest pose may be any.
    """
    try:
        document, binary = _parse(Path(path).read_bytes())
        extras = document["asset"].get("extras", {})
        leg_scale, sole_offset = extras.get("leg_scale"), extras.get("sole_offset")
        names = [node.get("name") for node in document["nodes"][: len(JOINTS)]]
        if names != JOINTS or not isinstance(leg_scale, float) or not isinstance(sole_offset, float) or leg_scale <= 0:
            raise ValueError("of .glb files, only those that DanceZoo writes can be read")
        animation = document["animations"][0]
        values = {}
        for channel in animation["channels"]:
            sampler, target = animation["samplers"][channel["sampler"]], channel["target"]
            key = (target["node"], target["path"])
            values[key] = _accessor(document, binary, sampler["output"], 3 if key == (0, "translation") else 4)
        pelvis = torch.from_numpy(values[0, "translation"])
        quaternions = torch.stack([torch.from_numpy(values[joint, "rotation"]) for joint in range(len(JOINTS))], 1)
        local = matrix_from_quaternion(quaternions[..., [3, 0, 1, 2]])
        standing = STANDING.double()
        local = torch.cat([(standing @ local[:, 0])[:, None], local[:, 1:]], 1)
        root = (pelvis @ standing.T - torch.tensor([0, 0, sole_offset])) / leg_scale
        if len(root) != len(local):
            raise ValueError("it is broken: its keyframes differ in number")
        return to_motion_rate(local, root, MOTION_FPS, on_floor=False)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, struct.error) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is no .glb file that DanceZoo wrote"
        raise ValueError(f"cannot read {path}: {reason}") from None


def _parse(data: bytes) -> tuple[dict, bytes]:
    """The JSON and the binary chunk of a file. Raises ValueError."""
    magic, version, _, json_bytes, json_kind = struct.unpack_from("<4sII I4s", data)
    if (magic, version, json_kind) != (b"glTF", 2, b"JSON") or json_bytes > MAX_JSON_BYTES:
        raise ValueError("it is not a binary glTF 2.0 file")
    try:
        document = json.loads(data[20 : 20 + json_bytes])
    except ValueError:
        raise ValueError("it is broken: it has no JSON") from None
    return document, data[28 + json_bytes :]


def _accessor(document: dict, binary: bytes, index: int, width: int) -> np.ndarray:
    """The array (T, width) float64 of an accessor of float32. Raises ValueError outside of the file."""
    accessor = document["accessors"][index]
    view, count = document["bufferViews"][accessor["bufferView"]], accessor["count"]
    values = np.frombuffer(binary, "<f4", count * width, view["byteOffset"]).reshape(count, width).astype(np.float64)
    if not math.isfinite(values.sum()):
        raise ValueError("it has values that are not finite")
    return values
