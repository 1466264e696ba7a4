"""Cost of generation: wall-clock seconds and peak memory."""

import time
from pathlib import Path

import torch

STATUS_FILE, CLEAR_REFS_FILE = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class CostMeter:
    """`with CostMeter(device) as meter: ...`, then `seconds` (wall clock) and `peak_mb`.

    peak_mb: on a GPU, the peak of torch's allocations; on the CPU, the peak resident memory of this process, the
    program itself included. None where the system does not report it (Linux does).
    """

    seconds: float
    peak_mb: float | None

    def __init__(self, device: torch.device):
        self.device = device

    def __enter__(self) -> "CostMeter":
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._has_reset = _reset_peak()
        self._start_time = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.peak_mb = torch.cuda.max_memory_allocated(self.device) / 1e6
        else:
            self.peak_mb = _read_peak_mb() if self._has_reset else None
        self.seconds = time.perf_counter() - self._start_time


def _reset_peak() -> bool:
    try:
        CLEAR_REFS_FILE.write_text("5")  # proc(5): sets the high-water mark to the current resident set
    except OSError:
        return False
    return True


def _read_peak_mb() -> float | None:
    """The high-water mark of the resident set, in MB."""
    try:
        lines = STATUS_FILE.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), None)
