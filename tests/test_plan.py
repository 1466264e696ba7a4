"""The plan of a training: a step on fake tensors needs the memory and the arithmetic of the step on real ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zoo.run.train.simulated_step import MemoryTracker, SharedFakeTensorMode

ROOT = Path(__file__).parents[1]
# in a process of its own: constants that modules compute once would stay fake
CODE = """
import json, sys, torch
from hydra import compose, initialize_config_dir
from zoo.data.base import WindowSpec
from zoo.run.build import build_encoder, build_family, build_stage, required_keys
from zoo.run.train.simulated_step import example_batch, simulate_step
from zoo.run.train.stage_training import stage_training
with initialize_config_dir(sys.argv[1], version_base="1.3"):
    config = compose("train", ["model=magicdance", "size=debug", "model.family.dance_decoder.dropout=0.0"])
settings = stage_training(config, "motion")
def build():
    family = build_family(config)
    keys = required_keys(config, "motion", family)
    batch = example_batch(keys, WindowSpec(**settings.clip), build_encoder(config), 8)
    return build_stage(config, "motion", family), batch
steps = [simulate_step(build, "32-true", fake=fake) for fake in (False, True)]
steps.append(simulate_step(build, "32-true", num_shards=4))
print(json.dumps([vars(step) for step in steps]))
"""


def test_a_simulated_step_needs_the_memory_and_the_arithmetic_of_a_real_one():
    """Weights, gradients and optimiser exactly, the peak within 2 %, and it is not that of nothing."""
    command = [sys.executable, "-c", CODE, str(ROOT / "conf")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    real, simulated, sharded = json.loads(done.stdout.splitlines()[-1])
    assert simulated["flops"] == real["flops"] > 0
    for name in ("weights", "gradients", "optimizer"):
        assert simulated[name] == real[name] > 0
    for name in ("peak", "optimizer_peak"):
        assert simulated[name] == pytest.approx(real[name], rel=0.02)
    assert real["peak"] > 1.2 * (real["weights"] + real["gradients"] + real["optimizer"])
    for name in ("gradients", "optimizer"):  # FSDP2 divides what trains; shares of a parameter are unequal
        assert real[name] / 4 <= sharded[name] < real[name] / 3
    assert sharded["flops"] == real["flops"] and sharded["peak"] < real["peak"]


def test_a_tensor_counts_once_and_as_long_as_it_lives():
    """Views share their storage; a linear layer's products are 2 x 3 x 4 x 5 operations."""
    with MemoryTracker() as tracker:
        values = torch.zeros(1000)
        other = values.view(10, 100) + 1
        assert tracker.current == 8000
        del other
        assert (tracker.current, tracker.peak, tracker.flops) == (4000, 8000, 0)
        torch.ones(3, 4) @ torch.ones(4, 5)
    assert tracker.flops == 120


def test_a_copied_network_belongs_to_the_mode_of_its_original():
    """A copied mode would release the storages of constants a second time."""
    with SharedFakeTensorMode() as mode:
        average = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(3, 3))
    assert average.module.weight.fake_mode is mode
