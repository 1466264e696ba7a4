"""Every option of training and sampling with values of every type: used, or refused in one line."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from zoo.cli import _check_sections
from zoo.files import conf_folder
from zoo.run.build import build_family, build_stage
from zoo.run.errors import error_message
from zoo.run.sample.request import read_request
from zoo.run.train.batching import step_batches, world_size
from zoo.run.train.fit import check_machine
from zoo.run.train.runs import open_run, stage_names
from zoo.run.train.stage_training import stage_training
from zoo.run.trust import trust_modules

VALUES = (None, -1, 10**30, "x\0\n", ["x", 2], {"_target_": "os.system"})


def leaves(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """The options of a configuration, sections included."""
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, DictConfig) and key not in ("model", "music", "data"):
            yield from leaves(value, f"{prefix}{key}.")


def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose(name, list(overrides))


def check_training(config: DictConfig) -> None:
    """What a training does before it builds anything."""
    run, config, _ = open_run(config)
    check_machine(config.trainer)
    for stage in stage_names(config):
        step_batches(stage_training(config, stage), world_size(config.trainer), stage)


COMMANDS: dict[str, tuple[tuple[str, ...], Callable[[DictConfig], object]]] = {
    "train": (("size=debug", "trainer=cpu"), check_training),
    "sample": ((), read_request),
}
OPTIONS = [(name, option) for name, (overrides, _) in COMMANDS.items() for option in leaves(composed(name, *overrides))]


@pytest.mark.parametrize("name, option", OPTIONS, ids=lambda part: part)
def test_any_value_of_an_option_is_used_or_refused_in_one_line(name, option, tmp_path, monkeypatch):
    """None raises what would be shown as a traceback."""
    monkeypatch.chdir(tmp_path)
    overrides, check = COMMANDS[name]
    good = composed(name, *overrides)
    for value in VALUES:
        config = good.copy()
        OmegaConf.set_struct(config, False)
        try:
            OmegaConf.update(config, option, value, merge=False)
            OmegaConf.set_struct(config, True)
            _check_sections(config, name)
            trust_modules(config.get("trusted_modules"))
            check(config)
        except Exception as error:
            message = error_message(error)
            assert message and "\n" not in message, f"{option}={value!r}: {type(error).__name__}: {error}"
    assert not list(tmp_path.iterdir()), option


@pytest.mark.parametrize("stage", ["autoencoder", "image", "video"])
def test_a_stage_of_networks_that_the_model_lacks_is_refused(stage):
    """Without renderer=diffusion there is nothing to train."""
    config = composed("train", "model=magicdance", "size=debug", f"stage={stage}")
    with torch.device("meta"), pytest.raises(ValueError, match="renderer=diffusion"):
        build_stage(config, stage, build_family(config))


def test_an_export_cannot_hold_its_run(tmp_path, monkeypatch):
    """It would be refused when the training has ended, because its folder is no longer empty."""
    monkeypatch.chdir(tmp_path)
    for folder in (".", str(tmp_path), "runs"):
        with pytest.raises(ValueError, match="export="):
            open_run(composed("train", "size=debug", f"export={folder}"))
