"""Type checks: no error in the packages that pyproject.toml names, and no more than before in the others.

python tools/check_types.py            exit 1 on an error, or on more errors than tests/data/type_errors.txt stores
python tools/check_types.py --store    store today's count, if it is smaller
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STORED = ROOT / "tests" / "data" / "type_errors.txt"
MAX_IGNORES = 20
IGNORE = re.compile(r"#\s*type:\s*ignore(\[[\w, -]+\])?")


def run_mypy(*arguments: str) -> tuple[list[str], int]:
    """mypy's error lines and its exit code."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode not in (0, 1):
        sys.exit(result.stdout + result.stderr)
    return [line for line in result.stdout.splitlines() if ": error:" in line], result.returncode


def main() -> None:
    """Print what was counted; exit 1 where it is too much."""
    strict, _ = run_mypy()
    print("\n".join(strict))
    ignores = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in sorted((ROOT / "zoo").rglob("*.py"))
        for match in IGNORE.finditer(path.read_text())
    ]
    without_code = [line for line in ignores if "[" not in line]
    whole, _ = run_mypy("--follow-imports=silent", "zoo")
    stored = int(STORED.read_text())
    print(f"checked packages: {len(strict)} errors; whole package: {len(whole)} (at most {stored})")
    print(f"type: ignore: {len(ignores)} (at most {MAX_IGNORES}), {len(without_code)} without a code")
    if "--store" in sys.argv and len(whole) < stored:
        STORED.write_text(f"{len(whole)}\n")
    if strict or len(whole) > stored or len(ignores) > MAX_IGNORES or without_code:
        sys.exit(1)


if __name__ == "__main__":
    main()
