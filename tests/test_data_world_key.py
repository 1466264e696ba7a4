"""The world's cache keys cover every file of the package that takes part in making its shards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.data.code_hash import ROOT, code_hash, matching_files
from zoo.data.sources.mocap import MOCAP_CODE
from zoo.data.world.source import CLIPS_CODE, CLIPS_CODE_EXCLUDED, DANCES_CODE, DANCES_CODE_EXCLUDED

# modules that take part and do not decide the content
NOT_IN_KEY = {
    "__init__.py": "it re-exports the public interface",
    "api.py": "as above",
    "batch.py": "its two numbers are in the key's settings; the rest is documentation",
    "files.py": "it moves finished files to their place",
    "processes.py": "it counts and starts processes",
    "data/code_hash.py": "it computes keys",
}
NOT_IN_MOCAP_KEY = {
    "body/camera.py": "imported for glTF files, which are only written",
    "body/labels.py": "as above",
    "body/render/*.py": "as above",
}

# Each part is made in a process of its own, which then prints the files of all imported modules.
MAKE = {
    "dances": """
from zoo.data.world.dances import make_dances
from zoo.data.world.recipe import DanceSpec
make_dances(DanceSpec(0, 5.0, 1, {"train": 1}), "train", range(1), folder / "dances.tar")
""",
    "clips": """
from zoo.data.world.recipe import RenderSpec
from zoo.data.world.render_clips import render_shard
render_shard(RenderSpec(12, 32, 32, 1.0, 1, {"train": 1}), 0, folder / "dances.tar", folder / "clips.tar")
""",
    "mocap": """
import numpy as np, torch
from zoo.body.motion_io.formats import write_bvh
from zoo.body.skeleton import STANDING, pack
from zoo.data.sources.mocap import MocapFolder
from zoo.media import write_sound
turns = torch.eye(3).repeat(30, 24, 1, 1)
turns[:, 0] = STANDING
write_bvh(folder / "salsa.bvh", pack(turns, torch.tensor([0.0, 0.0, 0.95]).repeat(30, 1)))
write_sound(folder / "salsa.wav", np.zeros(16000, np.float32), 16000)
MocapFolder(folder).build()
""",
}
REPORT = """
import json, sys
print(json.dumps([module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "zoo"]))
"""
KEYS = {
    "dances": (DANCES_CODE, DANCES_CODE_EXCLUDED),
    "clips": (CLIPS_CODE, CLIPS_CODE_EXCLUDED),
    "mocap": (MOCAP_CODE, ()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("key")


@pytest.mark.parametrize("part", list(MAKE))
def test_every_module_that_makes_data_is_in_the_key(part, folder, monkeypatch):
    monkeypatch.setenv("DANCEZOO_CACHE", str(folder / "cache"))
    script = f"from pathlib import Path\nfolder = Path({str(folder)!r})\n{MAKE[part]}{REPORT}"
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT.parent, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    paths = [Path(path) for path in json.loads(process.stdout.splitlines()[-1]) if path]
    imported = {path for path in paths if path.stat().st_size}  # without empty __init__.py files
    exempt = NOT_IN_KEY | (NOT_IN_MOCAP_KEY if part == "mocap" else {})
    covered = {*matching_files(*KEYS[part]), *matching_files(tuple(exempt))}
    missing = sorted(str(path.relative_to(ROOT)) for path in imported - covered)
    assert not missing, f"they take part in making {part}: add them to the key, or to NOT_IN_KEY with a reason"


@pytest.mark.parametrize("part", list(KEYS))
def test_every_pattern_of_a_key_matches_files(part):
    patterns, excluded = KEYS[part]
    assert all(matching_files((pattern,)) for pattern in (*patterns, *(name for name in excluded if "*" not in name)))
    names = {path.relative_to(ROOT).as_posix() for path in matching_files(patterns, excluded)}
    assert not any("__pycache__" in name or name in excluded for name in names)


def test_clips_depend_on_the_shipped_bodies_and_dances_do_not_depend_on_renderers():
    clips = {path.relative_to(ROOT).as_posix() for path in matching_files(CLIPS_CODE, CLIPS_CODE_EXCLUDED)}
    dances = {path.relative_to(ROOT).as_posix() for path in matching_files(DANCES_CODE, DANCES_CODE_EXCLUDED)}
    assert "body/render/assets/humans.npz" in clips and "data/world/scene.py" in clips
    assert not any(name.startswith("body/render") for name in dances) and dances < clips
    assert code_hash(CLIPS_CODE, CLIPS_CODE_EXCLUDED) != code_hash(DANCES_CODE, DANCES_CODE_EXCLUDED)
