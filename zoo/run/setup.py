"""`dancezoo setup`: is this installation complete? And the downloads that a user asks for by name."""

import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version

from zoo.files import cache_root

DETECTOR_PACKAGE = "mediapipe==0.10.21"  # the last with its models inside the wheel
PARTS = ("pose_detector",)


def setup(parts: Sequence[str]) -> None:
    """Print versions, devices and folders; download each of PARTS that is named. Raises ValueError for another name."""
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"{part}: setup can download {', '.join(PARTS)}")
    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    folder = cache_root() / "people"
    print(f"python   {platform.python_version()}")
    for package in ("torch", "lightning", "diffusers"):
        print(f"{package:8} {version(package)}")
    print(f"devices  {', '.join(devices) or 'CPU'}, {torch.get_num_threads()} threads")
    print(f"cache    {cache_root()}")
    if "pose_detector" in parts and not _detector_files():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        platforms = ["--platform=manylinux_2_28_x86_64", "--python-version=3.11", f"--dest={folder}"]
        if subprocess.run([*command, *platforms, DETECTOR_PACKAGE]).returncode:
            raise ValueError(f"{DETECTOR_PACKAGE} could not be downloaded")
    files = _detector_files()
    print(f"pose detector {files[0] if files else 'missing: dancezoo setup pose_detector'}")


def _detector_files() -> list:
    return sorted((cache_root() / "people").glob("mediapipe-0.10.21-*.whl"))
