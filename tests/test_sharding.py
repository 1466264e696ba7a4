"""Two processes step as one with the joint batch, with whole weights (DDP) and sharded ones (FSDP2)."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-5  # of weights after a step of 1e-2
EMA_TOLERANCE = 1e-6
STAGES = {
    "musedance": ["appearance"],
    "dabfusion": ["flow", "diffusion"],
    "magicdance": ["motion", "video"],
    "m2penc": ["encoder", "image"],
}
OVERRIDES = {
    "magicdance": ["renderer=diffusion", "model.family.dance_decoder.dropout=0"],
    # one of the two steps has no reference: its ReferenceNet has no gradient, and text attention with one key never has
    "m2penc": ["++model.stages.image.module.cond_drop_prob=0.5"],
}
CODE = """
import sys, time
sys.path.insert(0, "tests")
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from functools import partial
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from test_activation_checkpointing import CONF, random_batch
from test_batch_random import cut
from test_sharding import EMA_TOLERANCE, OVERRIDES, STAGES, TOLERANCE
from zoo.data.base import WindowSpec
from zoo.diffusion.batch_random import BatchRandom
from zoo.run.build import build_encoder, build_family, build_stage
from zoo.run.train.stage_training import stage_training

rank, store = int(sys.argv[1]), sys.argv[2]

def stage_of(config, name):
    torch.manual_seed(0)
    family = build_family(config)
    for parameter in family.parameters():  # output layers begin at 0, which would hide the layers before them
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    config.model.stages[name].optimizer = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.01}
    config.model.stages[name].module.ema_decay = 0.9
    stage = build_stage(config, name, family)
    stage.checkpoint_activations()
    return stage

class Loss(nn.Module):
    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    def forward(self, batch):
        return torch.stack(list(self.stage.loss(batch).values())).sum()

def step(stage, batch, clips, wrap=lambda loss: loss):
    optimizer = stage.make_optimizer([value for value in stage.family.parameters() if value.requires_grad])
    loss = wrap(Loss(stage))
    for index in range(2):
        optimizer.zero_grad()
        stage.random = BatchRandom.of_step(0, index, clips)
        loss(cut(batch, slice(clips[0], clips[-1] + 1))).backward()
        optimizer.step()
        stage.ema.update_parameters(stage._module_dict())
    return weights_of(stage) | {name: value.clone() for name, value in stage.named_buffers() if "running" in name}

def weights_of(stage):
    return {name: value.detach() for name, value in stage.named_parameters() if "perceptual" not in name}

def difference(whole, value):
    if isinstance(value, DTensor):  # the part of this process, perhaps none
        value, parts = value.to_local(), whole.chunk(2)
        whole = parts[rank] if rank < len(parts) else whole[:0]
    return (whole - value).abs().max().item() if value.numel() else 0

def compare(name, begin, one, two):
    assert begin.keys() <= one.keys() == two.keys()
    worst = {part: max(difference(one[key], two[key]) for key in one if key.startswith(part))
             for part in ("family.", "ema.module.")}
    moved = max((one[key] - begin[key]).abs().max().item() for key in begin if key.startswith("family."))
    print(f"{name} {worst} {moved:.1e} {time.process_time():.1f} s", flush=True)
    assert worst["family."] < TOLERANCE and worst["ema.module."] < EMA_TOLERANCE and moved > 1e-4, (name, worst)

cases = []
for model, names in STAGES.items():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"model={model}", "size=debug", *OVERRIDES.get(model, [])])
    OmegaConf.set_struct(config, False)
    for name in names:
        torch.manual_seed(1)
        batch = random_batch(WindowSpec(**stage_training(config, name).clip), build_encoder(config), 2)
        batch |= {key: [f"{key} {index}" for index in range(2)] for key in ("key", "caption", "style")}
        stage = stage_of(config, name)
        begin = {name: value.clone() for name, value in weights_of(stage).items()}
        cases.append((model, name, config, batch, begin, step(stage, batch, range(2))))

distributed.init_process_group("gloo", rank=rank, world_size=2, store=distributed.FileStore(store, 2))
mesh = init_device_mesh("cpu", (2,))
own = range(rank, rank + 1)
for model, name, config, batch, begin, joint in cases:
    stage = stage_of(config, name)
    data_parallel = partial(
        DistributedDataParallel, gradient_as_bucket_view=True, find_unused_parameters=stage.has_unused_parameters)
    compare(f"{model} {name} DDP", begin, joint, step(stage, batch, own, data_parallel))
    stage = stage_of(config, name)
    stage.shard(mesh)
    kinds = [isinstance(value, DTensor) for value in stage.parameters()]
    assert any(kinds) and all(kind for kind, v in zip(kinds, stage.parameters()) if v.requires_grad)
    compare(f"{model} {name} FSDP2", begin, joint, step(stage, batch, own))
distributed.destroy_process_group()
"""


def test_two_processes_step_as_one_with_the_joint_batch(tmp_path):
    """Of two clips, one for each process; after two steps weights within 1e-5, the average within 1e-6."""
    commands = [[sys.executable, "-c", CODE, str(rank), str(tmp_path / "store")] for rank in range(2)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for command in commands
    ]
    try:
        results = [process.communicate(timeout=1200) for process in processes]  # seconds, on a busy machine
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "".join(error for _, error in results)[-3000:]
