"""Run a benchmark: python -m benchmarks NAME [ARGUMENTS]; without a name, list them with what they need."""

import runpy
import sys
from ast import get_docstring, parse
from pathlib import Path

FOLDER = Path(__file__).parent
FILES = {file.stem.removeprefix("bench_"): file for file in sorted(FOLDER.glob("bench_*.py"))}

if len(sys.argv) > 1 and sys.argv[1] in FILES:
    file = FILES[sys.argv[1]]
    sys.argv[:2] = [str(file)]
    sys.path.insert(0, str(FOLDER))
    runpy.run_path(str(file), run_name="__main__")
else:
    for name, file in FILES.items():
        print(f"{name}: {get_docstring(parse(file.read_text()))}\n")
