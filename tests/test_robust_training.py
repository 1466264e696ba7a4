"""Options of a training that crash or hang are refused before anything is made."""

from functools import partial

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from zoo.data.sources.shards import Shards
from zoo.data.world.source import World
from zoo.files import conf_folder
from zoo.run.build import build_strategy
from zoo.run.train.batching import loader_workers
from zoo.run.train.fit import LAUNCHER_VARIABLES, check_compiler, check_machine
from zoo.run.train.stage_training import PRECISIONS, StageTraining, stage_training


@pytest.mark.parametrize(
    "options",
    [
        *({"precision": value} for value in (64, "64-true", "16-true", "bf16-true", "transformer-engine", None, "x")),
        *({"batch_size": value} for value in (10**9, 0, -1, 1.5, "x", None)),
        *({"accumulate_grad_batches": value} for value in (10**9, 0, None)),
        *({"num_workers": value} for value in (10**9, -1)),
        {"gradient_compression": "fp8"},
        {"tf32": "x"},
        {"compile": "x"},
        {"compile_backend": "x"},
        {"fused_optimizer": 1},
        *({"max_steps": value} for value in (0, "x", None)),
    ],
    ids=str,
)
def test_a_setting_that_cannot_train_is_refused(options):
    """In one line that names it."""
    with pytest.raises(ValueError, match=f"fit.{next(iter(options))}="):
        StageTraining(**{"max_steps": 1, "batch_size": 1, **options})


@pytest.mark.parametrize(
    "accelerator, cores, given, workers",
    [("gpu", 96, None, 8), ("gpu", 32, None, 3), ("gpu", 8, None, 0), ("cpu", 96, None, 0), ("cpu", 2, 5, 5)],
)
def test_loader_workers_follow_from_the_cores_of_each_gpu(monkeypatch, accelerator, cores, given, workers):
    """Eight processes share the machine; a number that is given wins."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    trainer = OmegaConf.create({"accelerator": accelerator, "devices": 8, "num_nodes": 4})
    assert loader_workers(StageTraining(max_steps=1, batch_size=1, num_workers=given), trainer) == workers


def test_switches_that_an_optimiser_or_trainer_lacks_are_refused():
    """And those that fit reach it."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("train", ["model=magicdance", "size=debug", "fit.fused_optimizer=true", "trainer=ddp_cpu"])
    with pytest.raises(ValueError, match="fit.fused_optimizer is for"):
        stage_training(config, "motion")
    config.model.stages.motion.optimizer = {"_target_": "torch.optim.Adam", "_partial_": True}
    assert stage_training(config, "motion").fused_optimizer
    assert build_strategy(config.trainer.strategy, "bf16")._ddp_comm_hook is bf16_compress_hook
    with pytest.raises(ValueError, match="is for trainers with DDP"):
        build_strategy("auto", "bf16")
    assert not build_strategy(config.trainer.strategy)._ddp_kwargs.get("find_unused_parameters")
    assert build_strategy(config.trainer.strategy, has_unused_parameters=True)._ddp_kwargs["find_unused_parameters"]
    assert build_strategy("ddp", has_unused_parameters=True) == "ddp_find_unused_parameters_true"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_supported_precisions(precision):
    """The list that the refusal prints."""
    assert StageTraining(max_steps=1, batch_size=1, precision=precision).precision == precision


@pytest.mark.parametrize(
    "options",
    [
        {"accelerator": "tpu"},
        {"accelerator": None},
        {"num_nodes": 2},
        {"num_nodes": 0},
        {"num_nodes": "x"},
        {"devices": 99_999},
        {"accelerator": "auto", "devices": 99_999},
        {"accelerator": "gpu", "devices": "auto"},
    ],
    ids=str,
)
def test_a_machine_that_is_not_there_is_refused(options, monkeypatch):
    """Lightning would wait for it for ever, or end in a traceback."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    trainer = OmegaConf.create({"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", **options})
    with pytest.raises(ValueError, match="trainer"):
        check_machine(trainer)


@pytest.mark.parametrize("workers", [100_000, -1, "x", 1.5, None, True])
def test_more_processes_than_a_machine_bears_are_refused(workers):
    """100,000 processes would end the machine, not the training."""
    for source in (World, partial(Shards, "x.tar")):
        with pytest.raises(ValueError, match="data.workers"):
            source(workers=workers)


def test_a_compiler_that_is_not_there_is_refused(monkeypatch, tmp_path):
    """In one line; backends that need none train."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match="fit.compile=true needs a C.. compiler, and g.. is not installed"):
        check_compiler(StageTraining(max_steps=1, batch_size=1, compile=True))
    check_compiler(StageTraining(max_steps=1, batch_size=1, compile=True, compile_backend="eager"))
    check_compiler(StageTraining(max_steps=1, batch_size=1))
