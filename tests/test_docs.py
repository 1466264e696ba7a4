"""The documentation names classes that exist."""

import builtins
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
CAMEL_CASE = re.compile(r"\b[A-Z][a-z0-9]+[A-Z][A-Za-z0-9]*\b")  # two words or more
FOREIGN = {"RegionMM", "ModelParallelStrategy"}  # LFDM's, Lightning's


def names_in_code_spans(text: str) -> set[str]:
    """Return CamelCase names between backticks, outside fenced blocks, which hold examples."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    return {name for span in re.findall(r"`([^`\n]+)`", text) for name in CAMEL_CASE.findall(span)}


def test_classes_in_the_documentation_exist():
    source = "\n".join(path.read_text() for path in (ROOT / "zoo").rglob("*.py"))
    defined = set(re.findall(r"^\s*class (\w+)", source, re.M)) | set(re.findall(r"^(\w+)(?:: \w+)? = ", source, re.M))
    imported = set(re.findall(r"\b\w+\b", "\n".join(re.findall(r"^\s*(?:from|import) .*", source, re.M))))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages
        for name in sorted(names_in_code_spans(page.read_text()) - defined - imported - FOREIGN - set(dir(builtins)))
    ]
    assert not missing, "\n".join(missing)
