"""Configurations in files from anywhere: none runs code, reads the environment, or hangs the program."""

import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from zoo.files import conf_folder
from zoo.run.build import (
    DATA,
    LR_SCHEDULE,
    OPTIMIZER,
    STAGE,
    STRATEGY,
    build_family,
    build_source,
    build_stage,
    build_strategy,
    check_targets,
)
from zoo.run.config import read_config, resolve_config

HEADER = "model: {name: x, family: {_target_: a.b}}\nmusic: {_target_: c.d}\n"
CODE = ("os.mkdir", "subprocess.run", "builtins.open", "zoo.files.write_atomic", "zoo.data.shard_file.TarWriter", "x")


@pytest.fixture(scope="module")
def config():
    """The resolved configuration of a small training."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return resolve_config(compose("train", ["size=debug"]))


@pytest.fixture(scope="module")
def family(config):
    """The family of this training."""
    return build_family(config)


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "a: &a [x, x]\nb: [*a, *a]\n",
        HEADER + "a: " + "[" * 100_000,
        HEADER + "a: " + "{a: " * 20_000,
        HEADER + "a: [" + "1, " * 60_000 + "]",
        HEADER + "a: 1" + ":1" * 50_000,
        HEADER + "a: " + "9" * 100_000,
        HEADER + "#" * 10_000_000,
        HEADER + "a: ${oc.env:HOME}\n",
        HEADER + "'${oc.env:HOME}': 1\n",
        HEADER + "a: !!python/object/apply:os.getcwd []\n",
        HEADER.replace("{_target_: a.b}", "[1]"),
        HEADER.replace("name: x", "name: [x]"),
        "",
        "\0",
        "- 1",
        None,
        7,
    ],
    ids=lambda text: str(text)[len(HEADER) :][:20],
)
def test_a_bomb_or_interpolation_in_a_config_is_refused_at_once(text):
    """The file is named, in one line."""
    began = time.process_time()
    with pytest.raises(ValueError, match="^file.ckpt") as refusal:
        read_config(text, Path("file.ckpt"))
    assert time.process_time() - began < 30 and "\n" not in str(refusal.value)


@pytest.mark.parametrize("target", CODE)
@pytest.mark.parametrize(
    "place",
    [
        "model.stages.motion.module",
        "model.stages.motion.module.nested",
        "model.stages.motion.optimizer",
        "model.stages.motion.optimizer.nested",
        "model.stages.motion.lr_schedule",
        "data",
        "data.rendering",
        "data.nested",
        "trainer.strategy",
        "model.family.nested",
        "music",
    ],
)
def test_a_run_folder_is_no_code(config, family, tmp_path, place, target):
    """Every place of a run's configuration that names a class names one of its kind, and nothing else is called."""
    evil = OmegaConf.create(OmegaConf.to_container(config))
    node = {"_target_": target, "path": str(tmp_path / "made"), "_partial_": False}
    OmegaConf.update(evil, place, node, force_add=True)
    with pytest.raises(ValueError, match="config names|this program has no"):
        if place in ("music", "model.family.nested"):
            build_family(evil)
        build_stage(evil, "motion", family)
        build_source(evil)
        build_strategy(evil.trainer.strategy)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (STAGE, "zoo.families.base.torch"),
        (STAGE, "zoo.families.magicdance.family.MagicDance"),
        (OPTIMIZER, "torch.optim.lr_scheduler.LambdaLR"),
        (LR_SCHEDULE, "torch.optim.Adam"),
        (LR_SCHEDULE, "diffusers.optimization.logger"),
        (DATA, "zoo.data.sources.shards.Path"),
        (DATA, "zoo.data.shard_builder.captioner.LocalCaptioner"),
        (STRATEGY, "lightning.pytorch.strategies.DeepSpeedStrategy"),
    ],
)
def test_a_class_of_another_kind_is_refused(kind, target):
    """An allowed package holds other things, too."""
    with pytest.raises(ValueError, match="config names|this program has no"):
        check_targets(OmegaConf.create({"_target_": target}), kind)


@pytest.mark.parametrize("file", sorted(conf_folder().rglob("*.yaml")), ids=lambda file: file.stem)
def test_every_class_of_the_shipped_configuration_is_of_a_kind(file):
    """So no shipped option is refused as code."""
    root = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    kinds = {"optimizer": OPTIMIZER, "lr_schedule": LR_SCHEDULE, "trainer": STRATEGY, "data": DATA}
    kind = kinds.get(file.parent.name)
    stages = (root.get("stages") or {}) if file.parent.parent.name == "model" else {}
    modules = [stage["module"] for stage in stages.values() if isinstance(stage, dict) and "module" in stage]
    for module in modules:
        check_targets(OmegaConf.create(module), STAGE)
    if kind is not None:
        plain = {key: value for key, value in root.items() if "_target_" in str(value) or key == "_target_"}
        check_targets(OmegaConf.create(plain.get("trainer", plain)), kind)
