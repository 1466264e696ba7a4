"""Options of a training that crash or hang are refused before anything is made."""

from functools import partial

import pytest
from omegaconf import OmegaConf

from zoo.data.sources.shards import Shards
from zoo.data.world.source import World
from zoo.run.train.fit import LAUNCHER_VARIABLES, check_machine
from zoo.run.train.stage_training import PRECISIONS, StageTraining


@pytest.mark.parametrize(
    "options",
    [
        *({"precision": value} for value in (64, "64-true", "16-true", "bf16-true", "transformer-engine", None, "x")),
        *({"batch_size": value} for value in (10**9, 0, -1, 1.5, "x", None)),
        *({"accumulate_grad_batches": value} for value in (10**9, 0, None)),
        *({"num_workers": value} for value in (10**9, -1)),
        *({"max_steps": value} for value in (0, "x", None)),
    ],
    ids=str,
)
def test_a_setting_that_cannot_train_is_refused(options):
    """In one line that names it."""
    with pytest.raises(ValueError, match=f"fit.{next(iter(options))}="):
        StageTraining(**{"max_steps": 1, "batch_size": 1, **options})


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
