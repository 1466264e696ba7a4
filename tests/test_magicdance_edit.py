"""motion=FILE and edit.*: a motion that the user has is performed as it is, and edits keep their part exactly."""

import io
import zipfile

import numpy as np
import pytest
import torch
from test_magicdance_motion import build, song, walk
from weights import fill_by_name

from zoo.body.motion_io.formats import OBJECT_SUFFIXES, READERS, read_motion, write_motion
from zoo.body.skeleton import joints_of
from zoo.families.base import SamplingParams
from zoo.families.magicdance.motions.edit import LOWER_BODY, KeptPart
from zoo.run.sample.request import compose_request
from zoo.run.validate import READABLE_MOTION_SUFFIXES


@pytest.fixture(scope="module")
def family():
    made = fill_by_name(build())
    made.normalizer.fit([walk(300, seed) for seed in range(5)])
    return made


def choose(family, file, **edit):
    family.configure({"motion": {"name": "file", "_target_": "zoo.families.magicdance.motions.file.FileMotion",
                                 "file": str(file)}, "edit": edit})  # fmt: skip
    return family


@pytest.mark.parametrize("suffix", [".npz", ".bvh", ".glb"])
def test_a_motion_is_performed_as_it_was_written(family, tmp_path, suffix):
    """Where it is, at its height, and then its last pose is held."""
    motion = walk(100)
    motion[:, 4:7] += torch.tensor([5.0, -3.0, 0.4])
    write_motion(tmp_path / f"walk{suffix}", motion)
    choose(family, tmp_path / f"walk{suffix}")
    assert family.available_frames == 100
    made = torch.cat(list(family.generate_motion(song(5), 130, 0, SamplingParams())))
    torch.testing.assert_close(made[:100, 4:], motion[:, 4:], atol=1e-4, rtol=0)
    torch.testing.assert_close(made[99:], made[99:100].expand(31, 151), atol=0, rtol=0)


def test_edits_keep_seconds_and_joints_exactly(family, tmp_path):
    """Far from the origin, where the diffuser never was, and beyond the end of the motion."""
    motion = walk(150)
    motion[:, 4] += 5
    write_motion(tmp_path / "walk.npz", motion)
    motion = read_motion(tmp_path / "walk.npz")

    def edited(**edit):
        generator = choose(family, tmp_path / "walk.npz", **edit)
        assert generator.available_frames is None
        return torch.cat(list(generator.generate_motion(song(7), 200, 3, SamplingParams(num_inference_steps=2))))

    made = edited(keep_seconds=[0, 2])
    speeds = joints_of(made).diff(dim=0).norm(dim=-1).amax(-1) * 30
    assert speeds[58:64].max() < 1.5 * speeds[75:].max()  # no jump where the kept part ends
    assert torch.equal(made[:61], motion[:61]) and (made[70:150] - motion[70:150]).abs().max() > 0.05
    assert (made[150:] - made[149]).abs().max() > 0.05 and (made[61:, 4] - 5).abs().max() < 2
    legs = KeptPart(joints=LOWER_BODY).mask(1, None)[0] > 0
    assert legs.sum() == 4 + 3 + 9 * 6
    made = edited(joints="lower")
    assert torch.equal(made[:150, legs], motion[:, legs]) and (made[:150] - motion)[:, ~legs].abs().max() > 0.05
    made = edited(keep_seconds=[[0, 1], [3, 4]], joints=["head"])
    head = slice(7 + 6 * 15, 13 + 6 * 15)
    assert torch.equal(made[90:121, head], motion[90:121, head]) and not torch.equal(made[:31, 4:7], motion[:31, 4:7])
    with pytest.raises(ValueError, match="the motion has 5 s, none of these seconds is in it"):
        edited(keep_seconds=[6, 7])
    for edit in ({"keep_seconds": [2]}, {"keep_seconds": [2, 1]}, {"keep_seconds": []}, {"keep_seconds": "0,2"},
                 {"joints": "tail"}, {"joints": []}, {"joints": 3}):  # fmt: skip
        with pytest.raises(ValueError, match=f"edit.{next(iter(edit))}"):
            KeptPart.parse(edit)


def test_a_file_stands_for_its_generator(tmp_path):
    """In the request, before any model is read."""
    assert set(READABLE_MOTION_SUFFIXES) == set(READERS) > set(OBJECT_SUFFIXES)
    write_motion(tmp_path / "walk.bvh", walk(5))
    request = compose_request({"motion": tmp_path / "walk.bvh", "edit": {"keep_seconds": [0, 2]}})
    assert request.motion["name"] == "file" and request.motion["file"] == str(tmp_path / "walk.bvh")
    assert request.edit == {"keep_seconds": [0, 2]} and compose_request({}).edit is None
    for options, words in (
        ({"motion": "dance.fbx"}, "ends in one of"),
        ({"motion": "none.bvh"}, "no such file"),
        ({"motion": "file"}, "motion.file= is empty"),
        ({"motion": tmp_path / "walk.bvh", "out": str(tmp_path / "walk.bvh")}, "is an input"),
    ):
        with pytest.raises(ValueError, match=words):
            compose_request(options)


def npz(**arrays) -> bytes:
    """An npz; bytes stand for an array file as it is."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            if isinstance(array, bytes):
                content.write(array)
            else:
                np.lib.format.write_array(content, np.asarray(array))
            archive.writestr(f"{name}.npy", content.getvalue())
    return file.getvalue()


def header_only(*shape: int) -> bytes:
    """An array file that announces a shape and holds nothing."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue()


HIPS = "HIERARCHY ROOT Hips { OFFSET 0 0 0 CHANNELS 3 Xrotation Yrotation Zrotation }\nMOTION\n"
POSES, TRANS = np.zeros((9, 72)), np.zeros((9, 3))
HOSTILE = {
    "joint.bvh": (HIPS + "Frames: 2\nFrame Time: 0.03\n0 0 0\n0 0 0\n", "it has no joint for"),
    "frames.bvh": (HIPS + "Frames: 99999999999\nFrame Time: 0.03\n0 0 0\n", "more than"),
    "word.bvh": (HIPS + "Frames: 1\nFrame Time: 0.03\n0 x 0\n", "not a number"),
    "deep.bvh": ("HIERARCHY " + "ROOT Hips { " * 9000 + "MOTION\nFrames: 1\nFrame Time: 1\n0", "cannot read"),
    "huge.npz": (npz(poses=header_only(10**9, 72), trans=TRANS, fps=30.0), "no array of numbers"),
    "long.npz": (npz(poses=POSES, trans=TRANS, fps=1e-9), "lasts at most"),
    "nan.npz": (npz(poses=POSES, trans=TRANS, fps=np.nan), "lasts at most"),
    "far.npz": (npz(poses=POSES, trans=TRANS + 1e30, fps=30.0), "farther than"),
    "inf.npz": (npz(poses=POSES * np.nan, trans=TRANS, fps=30.0), "not finite"),
    "deep.json": ("[" * 10**6, "cannot read"),
    "other.glb": (b"glTF" + np.array([2, 60, 40]).astype("<u4").tobytes() + b"JSON" + b'{"asset":{},"nodes":[]}   '
                  + b" " * 40, "only those that DanceZoo writes"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_of_no_use_is_refused_in_one_line(tmp_path, name):
    """Before it takes memory."""
    content, words = HOSTILE[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=words) as error_info:
        read_motion(tmp_path / name)
    assert "\n" not in str(error_info.value) and len(str(error_info.value)) < 500
