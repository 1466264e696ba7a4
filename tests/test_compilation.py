"""Compiled units train as plain ones: the same loss, gradients and keys, beside activation checkpointing and EMA."""

import copy

import pytest
import torch
from hydra import compose, initialize_config_dir
from test_activation_checkpointing import CONF, random_batch, step
from torch import nn
from torch._dynamo.utils import counters

from zoo.data.base import WindowSpec
from zoo.run.build import build_encoder, build_family, build_stage
from zoo.run.train.stage_training import stage_training


@pytest.mark.parametrize("backend, checkpoints", [("aot_eager", False), ("eager", True)])
def test_a_compiled_step_is_the_step_that_is_not(backend, checkpoints):
    """Keys are equal, with the average's; and units are compiled."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["size=debug", "model.stages.motion.module.ema_decay=0.9", "model.family.dance_decoder.dropout=0.1"]
        config = compose("train", ["model=magicdance", *overrides])
    torch.manual_seed(0)
    family, encoder = build_family(config), build_encoder(config)
    for parameter in family.parameters():  # output layers begin at 0, which would hide the layers before them
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    batch = random_batch(WindowSpec(**stage_training(config, "motion").clip), encoder)
    plain, compiled = (build_stage(config, "motion", network) for network in (family, copy.deepcopy(family)))
    counters.clear()
    compiled.compile_units(backend)
    if checkpoints:
        compiled.checkpoint_activations()
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for expected, actual in zip(step(plain, batch, "32-true"), step(compiled, batch, "32-true"), strict=True):
        assert expected.keys() == actual.keys()
        for key in expected:
            torch.testing.assert_close(actual[key], expected[key], atol=1e-6, rtol=1e-5)
    assert counters["stats"]["unique_graphs"] > 0
    for stage in (plain, compiled):
        optimizer = torch.optim.SGD([value for value in stage.family.parameters() if value.requires_grad], 0.01)
        optimizer.step()
        stage.ema.update_parameters(stage._module_dict())
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[key], value, atol=1e-6, rtol=1e-5)
