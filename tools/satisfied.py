"""Exit 0 when this environment has every pinned requirement of a file, 1 when one is missing or another version.

python tools/satisfied.py requirements.txt
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def unsatisfied(text: str) -> list[str]:
    """The `name==version` lines that this environment does not meet; a local part (+cpu) counts as the same version."""
    missing = []
    for line in text.splitlines():
        pin = re.match(r"([\w.-]+)==([\w.]+)", line)
        if pin is None:
            continue
        try:
            found = version(pin[1]).split("+")[0]
        except PackageNotFoundError:
            found = None
        if found != pin[2]:
            missing.append(line)
    return missing


if __name__ == "__main__":
    sys.exit(bool(unsatisfied(Path(sys.argv[1]).read_text())))
