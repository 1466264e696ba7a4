"""Provenance of a result: command, commit, seed, machine and date."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch


def provenance(seed: int) -> dict[str, str | int]:
    """Return command, commit ("+changes": the work tree differs; "unknown": no git), seed, machine, torch and date."""
    return {
        "command": shlex.join([Path(sys.executable).name.rstrip("0123456789."), *sys.argv]),
        "commit": _commit(),
        "seed": seed,
        "machine": f"{_processor_name()}, {len(os.sched_getaffinity(0))} cores{_gpu_names()}",
        "torch": torch.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _commit() -> str:
    def git(*words: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _gpu_names() -> str:
    count = torch.cuda.device_count()
    return f", {count} x {torch.cuda.get_device_name(0)}" if count else ""
