"""Every config in conf/ composes, every size, every trainer, into a family that can be built (meta device)."""

import subprocess
import sys
from inspect import signature
from itertools import product
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, get_object
from omegaconf import OmegaConf

from zoo.data.base import DataSource
from zoo.run.build import build_encoder, build_family, build_stage, required_keys
from zoo.run.config import resolve_config
from zoo.run.train.batching import step_batches
from zoo.run.train.plan import plan, print_plan
from zoo.run.train.runs import stage_names
from zoo.run.train.stage_training import stage_training

CONF = Path(__file__).parents[1] / "conf"
PAPER_CLIPS = {  # of an optimiser step, where the paper or its public code gives a number
    "musedance": {"appearance": 384, "dynamics": 64},
    "dabfusion": {"flow": 100, "diffusion": 20},
    "magicdance": {"motion": 64},
    "m2penc": {"encoder": 24, "image": 32, "video": 8},
}


def names(group: str) -> list[str]:
    """The members of a config group: a new file is tested by being there."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def composed(name: str, *overrides: str):
    """What a script would be given."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=list(overrides))


@pytest.mark.parametrize("model, size", product(names("model"), names("size")))
def test_every_model_builds_in_every_size(model, size):
    """Family, stages and recipes of the config, without allocating their weights."""
    config = composed("train", f"model={model}", f"size={size}")
    assert config.model.name == model

    with torch.device("meta"):
        family = build_family(config)
        for name in stage_names(config):
            build_stage(config, name, family)
            assert stage_training(config, name).max_steps > 0
            learning = [p for p in family.parameters() if p.requires_grad]
            assert learning and all(p.is_meta for p in learning)
            assert required_keys(config, name, family)


@pytest.mark.parametrize("model", PAPER_CLIPS)
def test_a_step_has_the_papers_clips_on_any_number_of_processes(model):
    """On 1, 8 and 32 of them, or more processes than clips are refused. No decoded frames stay in memory."""
    config = composed("train", f"model={model}", "size=paper")
    assert set(stage_names(config)) == set(PAPER_CLIPS[model])
    for stage, num_clips in PAPER_CLIPS[model].items():
        settings = stage_training(config, stage)
        assert settings.clip.get("decoded_cache_size", 0) == 0
        for num_processes in (1, 8, 32):
            if num_processes > num_clips:
                with pytest.raises(ValueError, match=f"stage {stage}: fit.global_batch_size={num_clips} gives some"):
                    step_batches(settings, num_processes, stage)
                continue
            batch = step_batches(settings, num_processes, stage)
            counts = [batch.count(rank, index) for rank in range(num_processes) for index in range(batch.num_batches)]
            assert sum(counts) == num_clips and max(counts) == batch.batch_size <= settings.batch_size


@pytest.mark.parametrize("trainer", names("trainer"))
def test_every_trainer_implies_its_size(trainer):
    """The multi-GPU ones mean the paper's size; an explicit size= wins; the strategy is one that exists."""
    wanted = "paper" if "gpu" in trainer and trainer != "gpu" else "tiny"
    config = composed("train", f"trainer={trainer}")
    assert config.size.name == wanted
    assert composed("train", f"trainer={trainer}", "size=tiny").size.name == "tiny"
    assert composed("train", "size=paper", f"trainer={trainer}").size.name == "paper"
    where = config.trainer
    assert set(where) == {"accelerator", "devices", "num_nodes", "strategy"}
    if not isinstance(where.strategy, str):
        get_class(where.strategy._target_)
    if trainer.endswith("32gpu"):
        assert where.num_nodes * where.devices == 32
    if trainer.startswith("fsdp"):
        assert where.strategy.data_parallel_size == where.num_nodes * where.devices


@pytest.mark.parametrize("data", names("data"))
def test_every_data_config_names_a_source(data):
    """With every key of its YAML an argument of the class."""
    config = composed("train", f"data={data}")
    source = get_object(config.data._target_)
    assert issubclass(source, DataSource)
    assert {key for key in config.data if not key.startswith("_")} <= set(signature(source).parameters)


@pytest.mark.parametrize("music, model", product(names("music"), names("model")))
def test_any_encoder_works_with_any_family(music, model):
    """The family takes the encoder's width without anybody writing it down."""
    config = composed("train", f"music={music}", f"model={model}")
    with torch.device("meta"):
        build_family(config)
        assert resolve_config(config).model.family.music_dim == build_encoder(config).dim


@pytest.mark.parametrize("script", ["train", "sample", "evaluate"])
def test_scripts_compose_and_litter_nothing(script):
    """Every script has its config, and Hydra makes no directory for it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(script, return_hydra_config=True)
    assert config.hydra.output_subdir is None and config.hydra.run.dir == "." and not config.hydra.job.chdir
    assert "file" not in (config.hydra.job_logging.get("handlers") or {})


def test_plan_counts_what_a_process_holds():
    """EDGE with the 35 baseline features: 47.0 M parameters (public code); FSDP divides what they need by 32."""
    whole = plan(composed("train", "size=paper", "trainer=cpu"), "motion")
    assert whole["parameters"] == pytest.approx(47.0e6, rel=0.01)
    sharded = plan(composed("train", "trainer=fsdp_32gpu"), "motion")
    assert sharded["gigabytes"] == pytest.approx(whole["gigabytes"] / 32, rel=1e-6)
    # float32 weights, gradients, average, and at least Adam's two moments
    assert whole["gigabytes"] >= 47.0e6 * 5 * 4 / 1e9


@pytest.mark.parametrize("seed", ["x", -1, 2**32])
def test_a_plan_refuses_the_seed_that_a_training_refuses(seed):
    with pytest.raises(ValueError, match=f"seed={seed}"):
        print_plan(composed("train", "size=debug", f"seed={seed}"))


def test_a_stage_with_fewer_clips_than_processes_is_planned_for_one_clip_each(capsys):
    """After the line that refuses its training."""
    print_plan(composed("train", "model=dabfusion", "trainer=ddp_32gpu", "stage=diffusion"))
    lines = capsys.readouterr().out.splitlines()
    assert "cannot train: stage diffusion: fit.global_batch_size=20" in lines[1] and "at most 20 processes" in lines[1]
    assert lines[2] == "  20 clips a step: 20 processes x 1"


def test_planning_leaves_no_meta_constants_behind():
    """Modules imported while a plan is made keep real tensors."""
    code = (
        "from hydra import compose, initialize_config_dir\n"
        f"with initialize_config_dir({str(CONF)!r}, version_base='1.3'): config = compose('train')\n"
        "from zoo.run.train.plan import plan; plan(config, 'motion')\n"
        "from zoo.body.skeleton import OFFSETS; assert OFFSETS.device.type == 'cpu'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CONF.parent)


def test_the_saved_config_needs_nothing_but_itself():
    """Resolved YAML text has no interpolation left, so that a checkpoint is read the same everywhere."""
    text = OmegaConf.to_yaml(resolve_config(composed("train", "name=x")))
    assert "${" not in text
