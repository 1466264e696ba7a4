"""A step with sharded weights (FSDP2) is the step with whole ones, for both kinds of U-Net."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-5  # of weights after a step of 1e-2
EMA_TOLERANCE = 1e-6
STAGES = {
    "musedance": ["appearance"],
    "dabfusion": ["diffusion"],
}
CODE = """
import sys
sys.path.insert(0, "tests")
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from test_activation_checkpointing import CONF, random_batch
from test_sharding import EMA_TOLERANCE, STAGES, TOLERANCE
from zoo.data.base import WindowSpec
from zoo.run.build import build_encoder, build_family, build_stage
from zoo.run.train.stage_training import stage_training

rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", rank=rank, world_size=2, store=distributed.FileStore(store, 2))
mesh = init_device_mesh("cpu", (2,))

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

def step(stage, batch, seeds):
    optimizer = stage.make_optimizer([value for value in stage.family.parameters() if value.requires_grad])
    for _ in range(2):
        optimizer.zero_grad()
        for seed in seeds:
            torch.manual_seed(seed)
            (torch.stack(list(stage.loss(batch).values())).sum() / len(seeds)).backward()
        optimizer.step()
        stage.ema.update_parameters(stage._module_dict())
    whole = lambda value: value.full_tensor() if isinstance(value, DTensor) else value
    return {name: whole(value.detach()) for name, value in stage.named_parameters() if "perceptual" not in name}

for model, names in STAGES.items():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"model={model}", "size=debug"])
    OmegaConf.set_struct(config, False)
    for name in names:
        torch.manual_seed(1)
        batch = random_batch(WindowSpec(**stage_training(config, name).clip), build_encoder(config))
        stage = stage_of(config, name)
        begin = {name: value.clone() for name, value in stage.named_parameters()}
        whole = step(stage, batch, (7, 8))
        stage = stage_of(config, name)
        stage.shard(mesh)
        kinds = [isinstance(value, DTensor) for value in stage.parameters()]
        assert any(kinds) and all(kind for kind, v in zip(kinds, stage.parameters()) if v.requires_grad)
        sharded = step(stage, batch, (7 + rank,))
        assert whole.keys() == sharded.keys()
        worst = {part: max((whole[key] - sharded[key]).abs().max().item() for key in whole if key.startswith(part))
                 for part in ("family.", "ema.module.")}
        moved = max((whole[key] - begin[key]).abs().max().item() for key in whole if key.startswith("family."))
        print(model, name, f"{worst} {moved:.1e}", flush=True)
        assert worst["family."] < TOLERANCE and worst["ema.module."] < EMA_TOLERANCE and moved > 1e-4, (name, worst)
distributed.destroy_process_group()
"""


def test_two_processes_with_sharded_weights_step_as_one_with_whole_ones(tmp_path):
    """Gradients are the mean over both processes; weights within 1e-5, the average within 1e-6."""
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
