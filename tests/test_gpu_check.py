"""tools/gpu_check.sh: its parts at size=debug on a CPU, so that it runs on the day when there is a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path):
    """Without packages that a GPU machine may lack, and with few files as results. Compiling takes too long here."""
    command = ["bash", str(ROOT / "tools" / "gpu_check.sh"), "--cpu", "--no-compile", "dabfusion"]
    environment = os.environ | {"OUT": str(tmp_path), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:]
    results = json.loads((tmp_path / "gpu_check.json").read_text())
    assert results["resumed is the same"]
    assert set(results["guided step"]) == {"with a reference", "without", "diffusers"}
    for part in ("magicdance image", "magicdance image, FSDP2", "dabfusion diffusion"):
        assert results[part]["peak"] > 0 and results[part]["seconds"] > 0, part
    assert results["dabfusion diffusion"]["planned"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu_check.json", "gpu_check.log"]
