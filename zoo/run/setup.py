"""`dancezoo setup`: check this installation and download what photographs need."""

import hashlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from zoo.files import cache_root
from zoo.run.sample.request import cached_detector

DETECTOR_PACKAGE = "mediapipe==0.10.21"  # the last with its models inside the wheel
DETECTOR_HASH = "5adc273f8516bae3bada463fd39e3a707718542f2be990dea5b1e52a504a864b"  # SHA-256 of its three networks
PARTS = ("pose_detector",)


def setup(parts: Sequence[str]) -> None:
    """Print versions, devices and folders; download what is missing of `parts` (all of PARTS if none is named).

    Raises ValueError for an unknown part, and for a download that fails or is not the expected file.
    """
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"{part}: setup can download {', '.join(PARTS)}")
    import torch

    devices = [torch.cuda.get_device_name(gpu_index) for gpu_index in range(torch.cuda.device_count())]
    print(f"python   {platform.python_version()}")
    for package in ("torch", "lightning", "diffusers"):
        print(f"{package:8} {version(package)}")
    print(f"devices  {', '.join(devices) or 'CPU'}, {torch.get_num_threads()} threads")
    print(f"cache    {cache_root()}")
    print(f"pose detector {cached_detector() or _download_detector()}")


def _download_detector() -> Path:
    """Download the detector of people by pip into the cache; a file with other networks is deleted."""
    from zoo.body.detection.blazepose import read_networks

    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    target_options = ["--platform=manylinux_2_28_x86_64", "--python-version=3.11", f"--dest={cache_root() / 'people'}"]
    result = subprocess.run([*command, *target_options, DETECTOR_PACKAGE], stdout=subprocess.DEVNULL)
    file = cached_detector()
    if result.returncode or file is None:
        raise ValueError(
            f"{DETECTOR_PACKAGE} could not be downloaded; "
            "without it a plain body dances in place of a photographed person, "
            "drawn figures dance as they are"
        )
    if hashlib.sha256(b"".join(network for network in read_networks(file) if network)).hexdigest() != DETECTOR_HASH:
        file.unlink()
        raise ValueError(f"{DETECTOR_PACKAGE}: the downloaded file holds other networks than expected; deleted")
    return file
