"""Imports go down the floors only, wherever in a file they stand (docs/concepts.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# the longest prefix counts; a family's folder is a floor of its own, so that no family imports another
FLOORS = {
    "zoo.batch": 0, "zoo.files": 0, "zoo.media": 0, "zoo.processes": 0,
    "zoo.nn": 1, "zoo.diffusion": 1, "zoo.music": 1, "zoo.body": 1,
    "zoo.choreography": 1,
    "zoo.data": 2, "zoo.metrics": 2,
    "zoo.families": 3, "zoo.run": 4,
    "zoo.api": 5, "zoo.app": 5, "zoo.cli": 5, "train": 5, "sample": 5, "evaluate": 5,
}  # fmt: skip
MAY = {0: {0}, 1: {0, 1}, 2: {0, 1, 2}, 3: {0, 1}, 4: {0, 1, 2, 3, 4}, 5: {0, 4, 5}}
FILES = sorted((ROOT / "zoo").rglob("*.py")) + [ROOT / f"{name}.py" for name in ("train", "sample", "evaluate")]


def module_of(file: Path) -> str:
    """Dotted name of a file."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int:
    """The floor of a module of the zoo."""
    rooms = [room for room in FLOORS if module == room or module.startswith(room + ".")]
    assert rooms, f"{module} stands on no floor"
    return FLOORS[max(rooms, key=len)]


def imports(source: str, module: str) -> list[str]:
    """Every module of ours that a source text imports, also inside functions and relatively."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(module.split(".")[: -node.level] + ([base] if base else []))
            found += [f"{base}.{name.name}" for name in node.names]
    return [name for name in found if name.split(".")[0] in ("zoo", "train", "sample", "evaluate")]


def climbs(module: str, imported: str) -> bool:
    """Whether an import goes up, or from one family to another."""
    if imported == "zoo":
        return False
    if floor(imported) not in MAY[floor(module)]:
        own_base = floor(module) == 3 and imported.startswith("zoo.families.")
        if not own_base:
            return True
    if floor(module) == 3:
        room = ".".join(module.split(".")[:3])
        return imported.startswith("zoo.families.") and not imported.startswith(
            (room, "zoo.families.base", "zoo.families.renderer", "zoo.families.latent")
        )
    return False


def test_imports_go_down_the_floors():
    """No file of the house imports from above, and no family from another."""
    wrong = [
        f"{module_of(file)} imports {name}"
        for file in FILES
        if module_of(file) != "zoo"
        for name in imports(file.read_text(), module_of(file))
        if climbs(module_of(file), name)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "module, line, wrong",
    [
        ("zoo.media", "from zoo.body import mesh", True),
        ("zoo.data.sources.shards", "def f():\n    import zoo.families.base", True),
        ("zoo.families.magicdance.stages", "from zoo.data.base import WindowSpec", True),
        ("zoo.families.magicdance.stages", "from zoo.families.musedance import family", True),
        ("zoo.families.magicdance.stages", "from . import family", False),
        ("zoo.families.magicdance.stages", "from ..dabfusion import family", True),
        ("zoo.families.magicdance.stages", "from zoo.families.base import Stage", False),
        ("zoo.families.magicdance.stages", "from zoo.families.latent.cache import LatentCache", False),
        ("train", "from zoo.families.base import Stage", True),
        ("zoo.run.train.fit", "from zoo.data.base import WindowSpec", False),
    ],
)
def test_a_climbing_import_is_caught(module, line, wrong):
    """The walk above sees what it has to see."""
    assert any(climbs(module, name) for name in imports(line, module)) == wrong


def test_init_files_hold_no_code():
    """`__init__.py` is empty or hands on names."""
    for file in (ROOT / "zoo").rglob("__init__.py"):
        body = ast.parse(file.read_text()).body
        reexports = ast.Import | ast.ImportFrom | ast.Expr
        names = [node for node in body if not isinstance(node, reexports)]
        assert all(ast.unparse(node).startswith("__all__ = ") for node in names), file
