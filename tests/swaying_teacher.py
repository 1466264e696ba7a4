"""A teacher whose motion is a function of the music, in a module that worker processes import quickly."""

import os
import signal

import numpy as np
import torch

from zoo.body.skeleton import STANDING, pack
from zoo.data.sdgpip.slices import MotionTeacher, SliceSpec

SPEC = SliceSpec(seconds=1.0, fps=4, height=32, width=32)
KILL = "SDGPIP_TEST_KILL"  # environment: the song at which the process is killed


class SwayingTeacher(MotionTeacher):
    """Stands, and sways by the loudness of the slice: a motion that depends on the music alone."""

    cache_key = "sway"

    def motions(self, waveform, sample_rate, starts, seconds, song):
        if os.environ.get(KILL) == song:
            os.kill(os.getpid(), signal.SIGKILL)
        for start in starts:
            part = waveform[int(start * sample_rate) : int((start + seconds) * sample_rate)]
            rotations = torch.eye(3).repeat(30, 24, 1, 1)
            rotations[:, 0] = STANDING
            root = torch.tensor([1.0, 2.0, 0.95]).repeat(30, 1)
            root[:, 0] += float(np.abs(part).mean()) * torch.sin(torch.arange(30) / 4)
            yield pack(rotations, root)
