"""docs/refusals.md: its messages exist in the code, its tests check them; the messages that no other test checks."""

import ast
import re
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from zoo.app import server
from zoo.body.detection.factory import load_detector
from zoo.body.motion_io.formats import write_motion
from zoo.body.skeleton import STANDING, pack
from zoo.families.renderer import check_quality
from zoo.files import resource_root
from zoo.media import Sound, VideoWriter
from zoo.run.sample import generate
from zoo.run.sample.request import compose_request

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| .* \| `(?P<words>[^|]+)` \| `(?P<file>\w+)::(?P<test>\w+)` \|$", re.MULTILINE)
CONSTANT_NAMES = ("STOPPED", "BUG")  # messages that a test names by their constant


@cache
def texts_of(path: Path, function: str | None = None) -> tuple[str, ...]:
    """The strings of a module, or of one of its functions, and the names of the constants that it uses."""
    tree = ast.parse(path.read_text())
    if function is not None:
        tree = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return *strings, *(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in CONSTANT_NAMES)


def test_the_tables_name_messages_that_exist_and_tests_that_check_them():
    page = (ROOT / "docs/refusals.md").read_text()
    rows = list(ROW.finditer(page))
    assert len(rows) == sum(line.startswith("| ") for line in page.splitlines()) - 3  # but the heads of the tables
    code = [text for path in sorted((ROOT / "zoo").rglob("*.py")) for text in texts_of(path)]
    for row in rows:
        fragments = [fragment.strip() for fragment in row["words"].split("…") if fragment.strip(" :;,.")]
        for fragment in fragments:
            assert any(fragment in text for text in code), f"no message says: {fragment}"
        checked = [re.sub(r"\\(.)", r"\1", text) for text in texts_of(ROOT / f"tests/{row['file']}.py", row["test"])]
        says = [text for text in checked if len(text) > 3 and (text in CONSTANT_NAMES or matches(text, row["words"]))]
        assert says, f"{row['test']} does not check: {row['words']}"


def matches(text: str, words: str) -> bool:
    """Whether a string of a test is a part of a message, or holds the longest one of its parts."""
    return text in words or max(words.split("…"), key=len).strip().lower() in text.lower()


def test_the_words_of_small_checks(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^figure detection quality is 0\.74, at least 0\.75 is required"):
        check_quality(0.74)
    with pytest.raises(ValueError, match="^person=2 needs a detector of people"):
        load_detector("synthetic", person=2)
    monkeypatch.setattr(generate, "cached_detector", lambda: None)
    hint = generate._detector_hint(SimpleNamespace(detector_path=None))
    assert hint == "; photographs need a pose detector: `dancezoo setup` downloads it"
    with VideoWriter(tmp_path / "mute.mp4", Fraction(10), None) as writer:
        writer.write(np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"mute\.mp4 has no sound track"):
        Sound(tmp_path / "mute.mp4")
    config = OmegaConf.load(ROOT / "conf/app.yaml")
    config.renderers = ["cartoon"]
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match=r"^renderers=\[cartoon\]: list some of auto, "):
        server.serve(config)


def test_a_request_is_refused_or_goes_on_with_a_note(tmp_path):
    demo = {"image": resource_root() / "assets/demo/picture.png", "seconds": 2, "out": str(tmp_path / "dance.npz")}
    with pytest.raises(ValueError, match="no person of the image is detected with this family and renderer"):
        generate._read_inputs(compose_request({**demo, "person": 1, "renderer": "mesh"}), print)
    notes = []
    generate._read_inputs(compose_request({**demo, "prompt": "xyzzy"}), notes.append)
    assert any("chosen from the song (motion.style=NAME chooses another)" in note for note in notes)
    assert any("prompt names no move and is ignored" in note for note in notes)
    write_motion(tmp_path / "short.npz", pack(STANDING.repeat(30, 24, 1, 1), torch.zeros(30, 3)))
    notes.clear()
    generate._read_inputs(compose_request({**demo, "motion": tmp_path / "short.npz"}), notes.append)
    assert "the motion lasts 1.00 s; then its last pose is held" in notes
