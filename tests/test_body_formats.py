"""Motion files: written files follow the specifications, and files of other programs are read correctly."""

import json
import math
import pickle
import re
import struct
import subprocess

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from zoo.body.motion_io.formats import READERS, WRITABLE_SUFFIXES, read_motion, write_motion
from zoo.body.motion_io.mocap import SMPL_PELVIS
from zoo.body.motion_io.retarget import retarget
from zoo.body.render.appearance import Appearance, vertex_colors
from zoo.body.render.rasterizer import clothed_body
from zoo.body.skeleton import (
    FEET,
    FOOT_HEIGHTS,
    JOINTS,
    OFFSETS,
    PARENTS,
    STANDING,
    joints_of,
    matrix_from_axis_angle,
    pack,
    put_on_floor,
    unpack,
)


def close(actual, expected, atol=2e-5):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), atol=atol, rtol=0)


def lowest_foot(motion) -> float:
    return float((joints_of(motion)[:, FEET, 2] - torch.tensor(FOOT_HEIGHTS)).min())


def joint(motion, name: str) -> torch.Tensor:
    return joints_of(motion)[:, JOINTS.index(name)]


@pytest.fixture(scope="module")
def dance() -> torch.Tensor:
    """Forty smooth frames in which every joint moves and the body turns around, standing on the floor."""
    phase = torch.linspace(0, 6, 40)[:, None, None] + torch.arange(72).reshape(24, 3)
    local = matrix_from_axis_angle(0.4 * torch.sin(phase))
    rotation = matrix_from_axis_angle(torch.linspace(0, 7, 40)[:, None] * torch.tensor([0.0, 0.0, 1.0]))
    local[:, 0] = rotation @ STANDING @ local[:, 0]
    root = torch.stack([torch.linspace(-1, 1, 40), torch.linspace(0, 0.5, 40), torch.full((40,), 0.9)], -1)
    return put_on_floor(pack(local, root))


@pytest.mark.parametrize("suffix", [".bvh", ".npz"])
def test_written_motion_reads_back(dance, suffix, tmp_path):
    write_motion(tmp_path / f"dance{suffix}", dance)
    close(read_motion(tmp_path / f"dance{suffix}"), dance)
    assert [file.name for file in tmp_path.iterdir()] == [f"dance{suffix}"]


# BVH -----------------------------------------------------------------------------------------------------------------


def test_bvh_is_y_up_in_centimetres_with_the_t_pose_at_zero(tmp_path):
    local = torch.eye(3).repeat(3, 24, 1, 1)
    local[:, 0] = STANDING
    local[1, 16] = matrix_from_axis_angle(torch.tensor([0, 0, math.pi / 2]))  # the left arm straight up
    local[2, 0] = matrix_from_axis_angle(torch.tensor([0, 0, math.pi / 2])) @ STANDING  # turned to its left
    write_motion(tmp_path / "pose.bvh", pack(local, torch.tensor([[1.0, -2.0, 0.98]]).expand(3, 3)))
    lines = (tmp_path / "pose.bvh").read_text().splitlines()
    start = lines.index("MOTION")
    assert lines[start + 1] == "Frames: 3" and float(lines[start + 2].split()[-1]) == pytest.approx(1 / 30)
    order = [line.split()[1] for line in lines[:start] if line.split()[0] in ("ROOT", "JOINT")]
    assert sorted(order) == sorted(JOINTS) and lines[:start].count("HIERARCHY") == 1
    assert "Zrotation Xrotation Yrotation" in lines[4] and "Xposition Yposition Zposition" in lines[4]
    frames = np.array([line.split() for line in lines[start + 3 :]], float)
    close(frames[:, :3], [[100, 98, 200]] * 3, atol=1e-3)
    turns = frames[:, 3:].reshape(3, 24, 3)
    close(turns[0], 0, atol=1e-3)
    close(turns[1, order.index("left_shoulder")], [90, 0, 0], atol=1e-3)
    close(turns[2, 0], [0, 0, 90], atol=1e-3)  # about Y, counted last


# Mixamo's names, A-pose, units of 2 cm, Z up and looking along +X, 60 Hz, XYZ channels; a helper joint above the hips
FOREIGN = {
    "Reference": (None, (0, 0, 0)),
    "mixamorig:Hips": ("Reference", (0, 0, 50)),
    "mixamorig:Spine": ("mixamorig:Hips", (0, 0, 6)),
    "mixamorig:Spine1": ("mixamorig:Spine", (0, 0, 6)),
    "mixamorig:Neck": ("mixamorig:Spine1", (0, 0, 10)),
    "mixamorig:Head": ("mixamorig:Neck", (0, 0, 4)),
}
for _side, _y in (("Left", 1), ("Right", -1)):
    FOREIGN |= {
        f"mixamorig:{_side}Shoulder": ("mixamorig:Spine1", (0, 3 * _y, 8)),
        f"mixamorig:{_side}Arm": (f"mixamorig:{_side}Shoulder", (0, 6 * _y, 0)),
        f"mixamorig:{_side}ForeArm": (f"mixamorig:{_side}Arm", (0, 10 * _y, -10)),
        f"mixamorig:{_side}Hand": (f"mixamorig:{_side}ForeArm", (0, 9 * _y, -9)),
        f"mixamorig:{_side}UpLeg": ("mixamorig:Hips", (0, 5 * _y, -2)),
        f"mixamorig:{_side}Leg": (f"mixamorig:{_side}UpLeg", (0, 1 * _y, -22)),
        f"mixamorig:{_side}Foot": (f"mixamorig:{_side}Leg", (0, 0, -22)),
        f"mixamorig:{_side}ToeBase": (f"mixamorig:{_side}Foot", (8, 0, -3)),
    }


def foreign_bvh(turns: dict[str, tuple[float, float, float]], frames: int, roots: np.ndarray) -> str:
    """A file with the rotations `turns` (degrees about x, y, z) in every frame, and the root at `roots`."""
    lines, order = ["HIERARCHY"], []

    def append_joint(name: str) -> None:
        parent, offset = FOREIGN[name]
        order.append(name)
        channels = "6 Xposition Yposition Zposition" if parent is None else "3"
        lines.extend([f"{'JOINT' if parent else 'ROOT'} {name}", "{", "OFFSET " + " ".join(map(str, offset))])
        lines.append(f"CHANNELS {channels} Xrotation Yrotation Zrotation")
        children = [child for child, (parent, _) in FOREIGN.items() if parent == name]
        for child in children:
            append_joint(child)
        lines.extend([*([] if children else ["End Site", "{", "OFFSET 0 0 1", "}"]), "}"])

    append_joint("Reference")
    lines += ["MOTION", f"Frames: {frames}", "Frame Time: 0.0166667"]
    for root in roots:
        lines.append(" ".join(map(str, [*root, *(value for name in order for value in turns.get(name, (0, 0, 0)))])))
    return "\n".join(lines)


def test_another_skeletons_limbs_keep_their_directions_and_its_feet_the_floor(tmp_path):
    turns = {
        "mixamorig:LeftArm": (45, 0, 0),  # from the A-pose up to level
        "mixamorig:RightLeg": (0, 90, 0),  # the right knee bent: the shin points back (-x)
        "mixamorig:Hips": (0, 0, 90),  # and all of it turned to its left: it now looks along its +y
    }
    roots = np.stack([np.linspace(0, 10, 61), np.zeros(61), np.full(61, 30.0)], 1)
    (tmp_path / "foreign.bvh").write_text(foreign_bvh(turns, 61, roots))
    motion = read_motion(tmp_path / "foreign.bvh")
    assert motion.shape == (31, 151) and motion.dtype == torch.float32  # 60 Hz, 1 s
    assert lowest_foot(motion) == pytest.approx(0, abs=1e-5)

    # its front +x is our -y, its left +y our +x; turned a quarter to the left it looks along our +x
    def direction(start: str, end: str) -> torch.Tensor:
        return torch.nn.functional.normalize(joint(motion, end)[0] - joint(motion, start)[0], dim=0)

    close(direction("left_shoulder", "left_elbow"), [0, 1, 0])
    close(direction("left_elbow", "left_wrist"), [0, 1, 0])
    close(direction("right_shoulder", "right_elbow"), [0, -(0.5**0.5), -(0.5**0.5)])
    close(direction("left_hip", "left_knee"), np.array([0, 1, -22]) / math.hypot(1, 22))
    close(direction("left_knee", "left_ankle"), [0, 0, -1])
    close(direction("right_knee", "right_ankle"), [-1, 0, 0])
    assert direction("left_ankle", "left_foot")[0] > 0.8 and direction("neck", "head")[2] > 0.8
    leg_ratio = sum(OFFSETS[j].norm() for j in (4, 5, 7, 8)) / (2 * math.hypot(1, 22) + 2 * 22)
    displacement = joint(motion, "left_ankle")[-1] - joint(motion, "left_ankle")[0]
    close(displacement, [0, -10 * leg_ratio, 0], atol=1e-4)  # its +x is our -y, scaled as the legs are


@pytest.mark.parametrize("degrees", [-25, 20, 90])
def test_a_rest_pose_that_is_turned_gives_the_same_motion(degrees):
    """Turned about the vertical by any angle: the body's own axes are used, not the nearest coordinate axes."""
    rest = {0: torch.zeros(3, dtype=torch.float64)}
    for number, parent in enumerate(PARENTS[1:], 1):
        rest[number] = rest[parent] + OFFSETS[number].double()
    turn = matrix_from_axis_angle(torch.tensor([0, math.radians(degrees), 0], dtype=torch.float64))
    bend = matrix_from_axis_angle(torch.tensor([[0, 0, 0], [0.3, 0.2, 0.5]], dtype=torch.float64))
    rotations, hips = dict.fromkeys(range(len(PARENTS)), bend), torch.zeros(2, 3, dtype=torch.float64)
    expected = retarget(rotations, rest, hips)[0]
    actual = retarget(
        {number: turn @ bend @ turn.T for number in rotations}, {k: turn @ v for k, v in rest.items()}, hips
    )[0]
    close(actual, expected, atol=0.05)  # hips that are not quite level count as level only near the axes


MIXAMO = "Hips Spine Spine1 Neck Head Shoulder Arm ForeArm Hand UpLeg Leg Foot ToeBase"
NAMING_CONVENTIONS = {  # spelling of a joint with a side, and the names of Mixamo's joints
    "smpl": ("{side}_{part}", "pelvis spine1 spine3 neck head collar shoulder elbow wrist hip knee ankle foot"),
    "poser": ("{s}{part}", "hip abdomen chest neck head Collar Shldr ForeArm Hand Thigh Shin Foot Toe"),
    "biped": ("Bip01_{S}_{part}", "Pelvis Spine Spine1 Neck Head Clavicle UpperArm Forearm Hand Thigh Calf Foot Toe0"),
    "unreal": (
        "{part}_{s}",
        "pelvis spine_01 spine_02 neck_01 head clavicle upperarm lowerarm hand thigh calf foot ball",
    ),
}


@pytest.mark.parametrize("convention", NAMING_CONVENTIONS)
def test_other_naming_conventions_give_the_same_motion(convention, tmp_path):
    turns = {name: (10, 20, 30) for name in FOREIGN if name != "Reference"}
    text = foreign_bvh(turns, 5, np.zeros((5, 3)))
    (tmp_path / "mixamo.bvh").write_text(text)
    spelling, parts = NAMING_CONVENTIONS[convention]
    for mixamo, part in zip(MIXAMO.split(), parts.split(), strict=True):
        text = text.replace(f" mixamorig:{mixamo}\n", f" {part}\n")
        for side in ("Left", "Right"):
            new = spelling.format(side=side.lower(), S=side[0], s=side[0].lower(), part=part)
            text = text.replace(f" mixamorig:{side}{mixamo}\n", f" {new}\n")
    assert "mixamo" not in text
    (tmp_path / "other.bvh").write_text(text)
    close(read_motion(tmp_path / "other.bvh"), read_motion(tmp_path / "mixamo.bvh"), atol=1e-6)


def test_a_t_pose_before_the_motion_is_left_out(tmp_path):
    turns = {name: (30, 20, 10) for name in FOREIGN if name != "Reference"}
    text = foreign_bvh(turns, 62, np.zeros((61, 3))).splitlines()
    first = text.index("Frame Time: 0.0166667") + 1
    text.insert(first, " ".join(["0"] * len(text[first].split())))
    (tmp_path / "setup.bvh").write_text("\n".join(text))
    motion = read_motion(tmp_path / "setup.bvh")
    assert len(motion) == 31
    close(motion[0], motion[-1])


def _spaced(text: str) -> str:
    return re.sub(r"(ROOT|JOINT) mixamorig:(Left|Right)?(\w+)", r"\1 Bip01 \2 \3", text)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        _spaced,
        lambda text: re.sub(r"(JOINT .*)\n\s*{", r"\1 {", _spaced(text)),
        lambda text: text.replace(":Spine1\n", ":SpineMOTION\n").replace(":Spine\n", ": MOTION \n"),
        lambda text: text.replace("Frames:", "FRAMES :").replace("Frame Time:", "Frame time:\t"),
    ],
    ids=["bom", "utf-16", "crlf", "cr", "spaces", "brace in the line", "MOTION in a name", "header's case"],
)
def test_a_bvh_of_another_exporter_is_read(change, tmp_path):
    """As one of this program's spelling."""
    text = foreign_bvh({name: (10, 20, 30) for name in FOREIGN if name != "Reference"}, 5, np.zeros((5, 3)))
    (tmp_path / "plain.bvh").write_text(text)
    changed = change(text)
    (tmp_path / "odd.bvh").write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    close(read_motion(tmp_path / "odd.bvh"), read_motion(tmp_path / "plain.bvh"), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "hello", "not a BVH file"),
        (lambda text: text[: text.rindex(" ")] + " nan", "not finite"),
        (lambda text: text.replace("OFFSET 0", "OFFSET inf", 1), "not finite"),
        (lambda text: text.replace("LeftLeg", "LeftThing"), "left_knee"),
        (lambda text: text[: text.rindex("\n")], "broken"),
        (lambda text: text.replace("JOINT mixamorig:Spine\n{", "{", 1), "cannot read"),
    ],
)
def test_an_unreadable_bvh_gives_a_one_line_error(change, message, tmp_path):
    (tmp_path / "x.bvh").write_text(change(foreign_bvh({}, 5, np.zeros((5, 3)))))
    with pytest.raises(ValueError, match=message) as error_info:
        read_motion(tmp_path / "x.bvh")
    assert "x.bvh" in str(error_info.value) and "\n" not in str(error_info.value)


# SMPL, AIST++, DeepMimic ---------------------------------------------------------------------------------------------


def test_npz_has_amass_keys_and_meaning(dance, tmp_path):
    write_motion(tmp_path / "dance.npz", dance)
    with np.load(tmp_path / "dance.npz") as data:
        assert data["poses"].shape == (40, 72) and data["betas"].shape == (10,) and data["mocap_framerate"] == 30
        _, root, local = unpack(dance)
        close(Rotation.from_rotvec(data["poses"].reshape(-1, 3)).as_matrix(), local.flatten(0, 1), atol=1e-5)
        close(data["trans"] + SMPL_PELVIS.numpy(), root)
        # AMASS itself: SMPL-H, 52 joints, 120 Hz
        poses = np.repeat(np.concatenate([data["poses"][:, :66], np.full((40, 90), 0.3)], 1), 4, 0)
        np.savez(tmp_path / "amass.npz", poses=poses, trans=np.repeat(data["trans"], 4, 0), mocap_framerate=120.0)
    amass = read_motion(tmp_path / "amass.npz")
    assert amass.shape == (40, 151)
    close(joints_of(amass)[:, :22], joints_of(dance)[:, :22])
    with pytest.raises(ValueError, match="trans"):
        np.savez(tmp_path / "other.npz", poses=poses)
        read_motion(tmp_path / "other.npz")


def test_aist_is_resampled_scaled_and_rotated_upright(tmp_path):
    poses = np.zeros((8, 72))
    poses[:, 1] = np.linspace(0, 0.7, 8)  # turning about its own vertical, the file's Y
    poses[:, 3 * 4] = 1.0  # left knee bent
    trans = np.stack([np.arange(8.0), np.full(8, 90.0), -2 * np.arange(8.0)], 1)
    content = {"smpl_poses": poses, "smpl_trans": trans * 1.5, "smpl_scaling": np.array([150.0]), "smpl_loss": 0.25}
    for protocol in (2, 4):
        (tmp_path / "gBR.pkl").write_bytes(pickle.dumps(content, protocol))
        motion = read_motion(tmp_path / "gBR.pkl")
        assert motion.shape == (4, 151) and lowest_foot(motion) == pytest.approx(0, abs=1e-5)
        close(motion[:, 4] - motion[0, 4], trans[::2, 0] / 100)
        close(motion[:, 5] - motion[0, 5], -(trans[::2, 2] - trans[0, 2]) / 100)  # Z towards us is -Y
        _, _, local = unpack(motion)
        rotations = matrix_from_axis_angle(torch.tensor([[0, 0, angle] for angle in poses[::2, 1].tolist()]))
        close(local[:, 0], rotations @ STANDING)
        assert (joint(motion, "left_ankle")[0] - joint(motion, "left_knee")[0])[1] > 0.2  # shin back, body looks to -Y


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return subprocess.call, (["touch", str(self.marker)],)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path):
    content = {"smpl_poses": Malicious(tmp_path / "ran"), "smpl_trans": np.zeros((2, 3)), "smpl_scaling": np.ones(1)}
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="subprocess.call.*nothing of it was run"):
        read_motion(tmp_path / "evil.pkl")
    content["smpl_poses"] = np.array([Malicious(tmp_path / "ran"), None], dtype=object)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="subprocess.call"):
        read_motion(tmp_path / "evil.pkl")
    (tmp_path / "evil.pkl").write_bytes(b"cbuiltins\neval\n(S'1'\ntR.")
    with pytest.raises(ValueError, match="builtins.eval"):
        read_motion(tmp_path / "evil.pkl")
    assert not (tmp_path / "ran").exists()


def test_deepmimic_knees_elbows_and_sides(tmp_path):
    identity = [1.0, 0, 0, 0]
    frame = [1 / 60, 0, 0.85, 0, *identity, *identity, *identity]  # duration, root, its turn, chest, neck
    frame += [*identity, -math.pi / 2, *identity, *identity, math.pi / 2]  # right hip, knee, ankle, shoulder, elbow
    frame += [
        *identity,
        0,
        *identity,
        math.cos(math.pi / 4),
        math.sin(math.pi / 4),
        0,
        0,
        0,
    ]  # left; its arm to the side
    assert len(frame) == 44
    frames = [frame[:1] + [0.01 * i] + frame[2:] for i in range(31)]  # walks along its front, +X
    (tmp_path / "humanoid3d_x.txt").write_text(json.dumps({"Loop": "wrap", "Frames": frames}))
    motion = read_motion(tmp_path / "humanoid3d_x.txt")
    assert motion.shape == (16, 151) and lowest_foot(motion) == pytest.approx(0, abs=1e-5)

    def bone(start: str, end: str) -> torch.Tensor:
        return torch.nn.functional.normalize(joint(motion, end)[0] - joint(motion, start)[0], dim=0)

    close(bone("right_knee", "right_ankle"), [0, 1, 0])  # back
    close(bone("right_shoulder", "right_elbow"), [0, 0, -1])
    close(bone("right_elbow", "right_wrist"), [0, -1, 0])  # forwards
    close(bone("left_shoulder", "left_elbow"), [1, 0, 0])
    close(bone("left_knee", "left_ankle"), [0, 0, -1])
    displacement = (motion[-1] - motion[0])[4:7]
    assert displacement[1] < -0.25 and abs(displacement[0]) < 1e-5
    (tmp_path / "humanoid3d_x.txt").write_text('{"Frames": [[1, 2]]}')
    with pytest.raises(ValueError, match="not a DeepMimic motion"):
        read_motion(tmp_path / "humanoid3d_x.txt")


# glTF ----------------------------------------------------------------------------------------------------------------


def read_glb(path) -> tuple[dict, list[np.ndarray]]:
    """The JSON and every accessor's array, by the specification."""
    data = path.read_bytes()
    magic, version, length, json_length, json_kind = struct.unpack_from("<4sII I4s", data)
    assert (magic, version, length, json_kind) == (b"glTF", 2, len(data), b"JSON") and json_length % 4 == 0
    document = json.loads(data[20 : 20 + json_length])
    binary_length, binary_kind = struct.unpack_from("<I4s", data, 20 + json_length)
    binary = data[28 + json_length :]
    assert binary_kind == b"BIN\0" and binary_length == len(binary) == document["buffers"][0]["byteLength"]
    kinds = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
    shapes = {"SCALAR": (), "VEC3": (3,), "VEC4": (4,), "MAT4": (4, 4)}
    arrays = []
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        raw = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        array = np.frombuffer(raw, kinds[accessor["componentType"]])
        arrays.append(array.reshape(accessor["count"], *shapes[accessor["type"]]))
        for limit, reduce in (("min", np.min), ("max", np.max)):
            if limit in accessor:
                close(accessor[limit], np.atleast_1d(reduce(arrays[-1], 0)), atol=0)
    return document, arrays


@pytest.mark.parametrize("name", ["man", "robot"])
def test_glb_animation_equals_the_skinned_body(name, dance, tmp_path):
    appearance = Appearance(body=name, top=(10, 200, 90))
    body = clothed_body(appearance)
    write_motion(tmp_path / "dance.glb", dance, appearance)
    document, arrays = read_glb(tmp_path / "dance.glb")
    nodes, skin, animation = document["nodes"], document["skins"][0], document["animations"][0]
    primitive = document["meshes"][0]["primitives"][0]
    attributes = {key: arrays[index] for key, index in primitive["attributes"].items()}
    assert [nodes[j]["name"] for j in skin["joints"]] == JOINTS
    close(attributes["WEIGHTS_0"].sum(1), 1, atol=1e-6)
    colors = (attributes["COLOR_0"][:, :3] / 65535) ** (1 / 2.2) * 255
    close(colors, vertex_colors(appearance, body), atol=1)
    assert arrays[primitive["indices"]].max() == len(body.vertices) - 1

    _, root, local = unpack(dance)
    for frame in (0, 17, 39):
        pose = [dict(node) for node in nodes]
        for channel in animation["channels"]:
            sampler = animation["samplers"][channel["sampler"]]
            assert arrays[sampler["input"]][frame] == pytest.approx(frame / 30, abs=1e-6)
            pose[channel["target"]["node"]][channel["target"]["path"]] = arrays[sampler["output"]][frame]
        world = {}

        def visit(index, parent, pose=pose, world=world):
            local_transform = np.eye(4)
            local_transform[:3, 3] = pose[index].get("translation", (0, 0, 0))
            local_transform[:3, :3] = Rotation.from_quat(pose[index].get("rotation", (0, 0, 0, 1))).as_matrix()
            world[index] = parent @ local_transform
            for child in pose[index].get("children", ()):
                visit(child, world[index])

        for index in document["scenes"][0]["nodes"]:
            visit(index, np.eye(4))
        binds = arrays[skin["inverseBindMatrices"]].transpose(0, 2, 1)  # stored by columns
        transforms = np.stack([world[j] @ bind for j, bind in zip(skin["joints"], binds, strict=True)])
        blended = (transforms[attributes["JOINTS_0"]] * attributes["WEIGHTS_0"][..., None, None]).sum(1)
        points = np.concatenate([attributes["POSITION"], np.ones((len(body.vertices), 1))], 1)
        animated = (blended @ points[..., None])[:, :3, 0]
        expected = body.skin(local[frame].numpy(), root[frame].numpy()) @ STANDING.numpy()  # to Y up
        error = np.abs(animated - expected).max(1)
        assert np.median(error) < 1e-5 and error.max() < 0.03  # a fifth joint a vertex is left out

    for samplers in animation["samplers"][1:]:  # interpolation must not take the long way round
        turns = arrays[samplers["output"]]
        assert ((turns[1:] * turns[:-1]).sum(1) > 0).all()
    mesh = next(iter(trimesh.load(tmp_path / "dance.glb").geometry.values()))
    assert len(mesh.faces) == len(body.faces)


# all formats ---------------------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_and_overwrites_nothing(dance, tmp_path):
    (tmp_path / "dance.glb").write_text("the old one")
    with pytest.raises(RuntimeError):
        write_motion(tmp_path / "dance.glb", dance[:, :100])
    with pytest.raises(ValueError, match="suffix"):
        write_motion(tmp_path / "dance.fbx", dance)
    with pytest.raises(ValueError, match="no frames"):
        write_motion(tmp_path / "dance.bvh", dance[:0])
    assert [file.name for file in tmp_path.iterdir()] == ["dance.glb"]
    assert (tmp_path / "dance.glb").read_text() == "the old one"


def test_wrong_files_give_a_one_line_error(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_motion(tmp_path / "none.bvh")
    with pytest.raises(ValueError, match="suffix"):
        read_motion(tmp_path / "dance.fbx")
    for suffix in READERS:
        for content in (b"", b"\x80\x04K\x01.", b"not a motion", bytes(range(256)) * 9):
            (tmp_path / f"x{suffix}").write_bytes(content)
            with pytest.raises(ValueError, match="cannot read") as error_info:
                read_motion(tmp_path / f"x{suffix}")
            assert "\n" not in str(error_info.value)
    assert set(WRITABLE_SUFFIXES) == {".bvh", ".glb", ".npz"}
