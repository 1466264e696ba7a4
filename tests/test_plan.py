"""The plan of a training: a step on fake tensors needs the memory and the arithmetic of the step on real ones."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.run.train.plan import print_plan
from zoo.run.train.simulated_step import MemoryTracker, SharedFakeTensorMode, _fake_processes

ROOT = Path(__file__).parents[1]
# tokens and channels of the spatial transformers at 512x512: down, middle, up
MOORE_DOWN = [(4096, 320)] * 2 + [(1024, 640)] * 2 + [(256, 1280)] * 2
MOORE_TRANSFORMERS = [*MOORE_DOWN, (64, 1280), *[(256, 1280)] * 3, *[(1024, 640)] * 3, *[(4096, 320)] * 3]
# in a process of its own: constants that modules compute once would stay fake
CODE = """
import json, sys, torch
from hydra import compose, initialize_config_dir
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from zoo.data.base import WindowSpec
from zoo.nn.video_unet.unet import VideoUNet
from zoo.run.build import build_encoder, build_family, build_stage, required_keys
from zoo.run.train.simulated_step import MemoryTracker, example_batch, simulate_step
from zoo.run.train.stage_training import stage_training
with initialize_config_dir(sys.argv[1], version_base="1.3"):
    config = compose("train", ["model=magicdance", "size=debug", "model.family.dance_decoder.dropout=0.0"])
settings = stage_training(config, "motion")
def build():
    family = build_family(config)
    keys = required_keys(config, "motion", family)
    batch = example_batch(keys, WindowSpec(**settings.clip), build_encoder(config), 8)
    return build_stage(config, "motion", family), batch
def build_checkpointed():
    stage, batch = build()
    stage.checkpoint_activations()
    return stage, batch
# torch's counter knows the attention of GPUs only
attention = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
        lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward:
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v),
}
counted = []
for make in (build, build_checkpointed):
    stage, batch = make()
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        torch.stack(list(stage.loss(batch).values())).sum().backward()
    counted.append(counter.get_total_flops())
steps = {
    "real": simulate_step(build, "32-true", fake=False),
    "simulated": simulate_step(build, "32-true"),
    "sharded": simulate_step(build, "32-true", num_shards=4),
    "checkpointed": simulate_step(build_checkpointed, "32-true"),
    "on a CPU": simulate_step(build, "32-true", on_gpu=False),
}
batch_size = sum(value.nbytes for value in build()[1].values() if isinstance(value, torch.Tensor))
largest = max(4 * value.numel() for value in build()[0].family.parameters() if value.requires_grad)
with torch.device("meta"), torch.no_grad():  # one text token, one reference, 24 frames of 512x512, guidance
    unet = VideoUNet(use_motion_modules=True, motion_in_middle=True)
    features = [torch.empty(1, number, dim) for number, dim in json.loads(sys.argv[2])]
    conditioning = unet.precompute_conditioning(torch.empty(2, 1, 768), features)
    with MemoryTracker() as tracker:
        unet(torch.empty(2, 4, 24, 64, 64), torch.zeros(2), conditioning, torch.empty(2, 320, 24, 64, 64))
print(json.dumps([{name: vars(step) for name, step in steps.items()}, counted, tracker.flops, batch_size, largest]))
"""


@pytest.fixture(scope="module")
def measured() -> tuple[dict[str, dict[str, int]], list[int], int, int, int]:
    """Steps by name; operations torch counts, without and with activation checkpointing; those of a guided step.

    Then bytes of the batch and of the largest trained weight.
    """
    command = [sys.executable, "-c", CODE, str(ROOT / "conf"), json.dumps(MOORE_TRANSFORMERS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_simulated_step_needs_the_memory_and_the_arithmetic_of_a_real_one(measured):
    """Weights, gradients and optimiser exactly, the peak within 2 %, and it is not that of nothing."""
    real, simulated, sharded = (measured[0][name] for name in ("real", "simulated", "sharded"))
    assert simulated["flops"] == real["flops"] > 0
    for name in ("weights", "gradients", "optimizer"):
        assert simulated[name] == real[name] > 0
    for name in ("peak", "optimizer_peak"):
        assert simulated[name] == pytest.approx(real[name], rel=0.02)
    assert real["peak"] > 1.2 * (real["weights"] + real["gradients"] + real["optimizer"])
    for name in ("gradients", "optimizer"):  # FSDP2 divides what trains; shares of a parameter are unequal
        assert real[name] / 4 <= sharded[name] < real[name] / 3
    assert sharded["flops"] == real["flops"] and sharded["peak"] < real["peak"]


def test_arithmetic_is_that_of_torchs_counter_with_activations_computed_again(measured):
    steps, (plain, checkpointed), *_ = measured
    assert steps["simulated"]["flops"] == plain
    assert steps["checkpointed"]["flops"] == checkpointed > 1.2 * plain


def test_adam_copies_all_weights_of_a_process_on_gpus(measured):
    """Also with shards: torch.distributed.tensor adds DTensor to the types that are updated together.

    On CPUs Adam goes from weight to weight, and holds two copies of one: sqrt(v), and that by its bias correction.
    """
    steps, *_, batch_size, largest = measured
    for name in ("real", "simulated", "sharded", "on a CPU"):
        step = steps[name]
        copy = step["optimizer_peak"] - step["weights"] - step["gradients"] - step["optimizer"] - batch_size
        expected = 2 * largest if name == "on a CPU" else step["gradients"]
        assert copy == pytest.approx(expected, rel=0.001), name
    assert 3 * largest < steps["real"]["gradients"]


def test_a_guided_step_of_animate_anyone_is_64_tflop(measured):
    """Of Moore-AnimateAnyone's code at 512x512 and 24 frames.

    It also computes what `VideoUNet` need not: keys and values of the reference for each frame, reference attention of
    the half without conditions, which is thrown away, and queries and outputs of text attention with one key.
    """
    operations = measured[2]
    for tokens, dim in MOORE_TRANSFORMERS:
        keys_values, queries_outputs = 48 * 4 * tokens * dim**2, 48 * 4 * tokens * dim**2
        operations += keys_values + 24 * (8 * tokens**2 * dim + 8 * tokens * dim**2) + queries_outputs
    assert operations == pytest.approx(64.2e12, rel=0.02)


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


class TensorCounter(TorchDispatchMode):
    """Counts what operators return."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(cls, DTensor) for cls in types):
            return NotImplemented  # it comes again with the tensors of this process
        result = func(*args, **(kwargs or {}))
        self.count += len(tree_leaves(result))
        return result


def test_a_process_makes_its_own_shards_alone():
    """As many tensors for 32 processes as for 2: fake ones cost time."""
    counts = []
    for size in (2, 32):
        with _fake_processes(size) as mesh, SharedFakeTensorMode(), TensorCounter() as counter:
            layer = fully_shard(torch.nn.Linear(7, 65), mesh=mesh)
        assert layer.weight.to_local().shape == (-(-65 // size), 7)
        counts.append(counter.count)
    assert counts[0] == counts[1]


def test_networks_that_start_from_least_squares_can_be_planned():
    """Those of tiny MuseDance."""
    with SharedFakeTensorMode():
        result = torch.linalg.lstsq(torch.rand(7, 5, 3), torch.rand(7, 5, 2), driver="gelsd")
    assert result.solution.shape == (7, 3, 2)


@pytest.mark.parametrize("cause", [RuntimeError, TypeError])
def test_a_family_that_cannot_be_simulated_still_has_a_plan(monkeypatch, capsys, cause):
    """Hydra wraps what an operator raises while the family is built; other errors are not hidden."""

    def plan_step(*_: object) -> None:
        raise InstantiationException("Error in call to target") from cause("lstsq")

    monkeypatch.setattr("zoo.run.train.plan.plan_step", plan_step)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", ["model=magicdance", "size=debug", "stage=motion"])
    with nullcontext() if cause is RuntimeError else pytest.raises(InstantiationException):
        print_plan(config, simulate=True)
    assert ("memory is unknown" in capsys.readouterr().out) == (cause is RuntimeError)
