"""What it costs to make something: seconds, and the most memory held meanwhile."""

import time
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Meter:
    """`with Meter(device) as meter: ...`, then `seconds` (wall clock) and `peak_mb`.

    peak_mb: on a GPU what torch held there at most; on the CPU the most that this process held in memory, the program
    itself included; None where the system does not tell (Linux does).
    """

    seconds: float
    peak_mb: float | None

    def __init__(self, device: torch.device):
        self.device = device

    def __enter__(self) -> "Meter":
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._resettable = _reset_peak()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.peak_mb = torch.cuda.max_memory_allocated(self.device) / 1e6
        else:
            self.peak_mb = _peak() if self._resettable else None
        self.seconds = time.perf_counter() - self._began


def _reset_peak() -> bool:
    try:
        CLEAR.write_text("5")  # proc(5): the resident set's high-water mark becomes what is held now
    except OSError:
        return False
    return True


def _peak() -> float | None:
    """The resident set's high-water mark, in MB."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), None)
