"""Run directories: the one that a command uses, and its configuration. Light: no torch.

runs/<family>/<name>/config.yaml, <stage>/step_0001000.ckpt, <stage>/last.ckpt, logs/<stage>/ (TensorBoard).
"""

import os
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from zoo.files import is_writable
from zoo.processes import RANK_VARIABLES, end_with_parent, is_first_process
from zoo.run.config import CONFIG_FILE, CONFIG_VERSION, read_config
from zoo.run.models import WEIGHTS_FILE, checkpoint_path
from zoo.run.validate import check_strategy, existing_file, int_at_least

DTYPES = ("fp32", "fp16", "bf16", "int8")
RUN_ENV = "DANCEZOO_RUN"  # how the processes that Lightning starts learn the first one's run directory
LAST_COMMIT_OF = {1: "af8ef85"}  # config_version -> the last commit that resumes its runs
# what an explicit override may change in a run that is resumed: nothing that a step computes with
RESUMABLE_OVERRIDES = {
    "resume", "trainer", "export", "export_dtype", "plan", "trusted_modules",
    "fit.max_steps", "fit.max_minutes", "fit.activation_checkpointing", "fit.num_workers",
    "fit.log_every_n_steps", "fit.val_check_interval",
    "fit.limit_val_batches", "fit.save_every_n_steps", "fit.keep_last",
}  # fmt: skip


def open_run(config: DictConfig) -> tuple[Path | None, DictConfig, bool]:
    """The run directory this command trains in (not made yet), its config, and whether it is resumed.

    The directory is None when the command only exports. Raises ValueError for an unknown stage or dtype, a run that is
    not there or a name that is taken, and for an override that would make a resumed run another run.
    """
    if config.export_dtype not in DTYPES:
        raise ValueError(f"export_dtype={config.export_dtype}: use one of {' '.join(DTYPES)}")
    for name, value in (("runs", config.runs), ("export", config.export)):
        if not isinstance(value, str) and (name == "runs" or value is not None):
            raise ValueError(f"{name}={value}: name a folder")
        if value is not None and not config.plan and not is_writable(Path(value)):
            raise ValueError(f"{name}={value}: nothing can be written there")
    int_at_least(config.trainer.num_nodes, "trainer.num_nodes", 1)
    check_strategy(config.trainer.strategy)
    if config.export is not None:
        check_new_folder(Path(config.export))
        if config.ckpt is None and Path(config.runs).resolve().is_relative_to(Path(config.export).resolve()):
            raise ValueError(f"export={config.export} would hold the runs of runs={config.runs}: name another folder")
    if RUN_ENV in os.environ and not is_first_process():
        end_with_parent()  # Lightning started this process
    if config.resume is not None:
        return *_resume(config, Path(str(config.resume)), HydraConfig.get().overrides.task), True
    if config.ckpt is not None:
        config.ckpt = str(_checkpoint(config.ckpt))
    if config.ckpt is not None and config.export is not None:
        return None, config, False
    for path in init_files(config):
        existing_file(path, "init")
    if config.init is not None and config.ckpt is not None:
        raise ValueError("init= (foreign weights) and ckpt= (this program's) both name weights to start from; give one")
    if config.init is not None and config.export is not None and config.stage is None:
        return None, config, False
    names = stage_names(config)
    unknown = [name for name in names if name not in config.model.stages]
    if unknown or not names or names != sorted(set(names), key=list(config.model.stages).index):
        stage_list = ", ".join(config.model.stages)
        raise ValueError(f"stage={config.stage}: {config.model.name} has the stages {stage_list}, in this order")
    renderer, renderers = config.get("renderer"), list(config.model.get("renderers", []))
    if renderer is not None and renderer.name not in renderers:
        hint = f"it trains with {' or '.join(renderers)}" if renderers else "it has no renderers"
        raise ValueError(f"renderer={renderer.name} is not trained by model={config.model.name}: {hint}")
    previous = previous_stages(config, names[0])
    required_init = config.model.get("requires_init")
    if required_init and config.ckpt is None and config.init is None and not config.plan:
        raise ValueError(f"model={config.model.name} size={config.size.name} starts from {required_init}: give init=")
    if previous and config.ckpt is None and config.init is None and not config.plan:
        raise ValueError(f"stage={names[0]} goes on from stage {previous[-1]}: give its last.ckpt as ckpt=, or init=")
    if RUN_ENV in os.environ and not is_first_process():
        return Path(os.environ[RUN_ENV]), config, False
    run = Path(config.runs) / config.model.name / _run_name(config)
    if (run / CONFIG_FILE).is_file() and int(os.environ.get("SLURM_RESTART_COUNT") or 0):
        return *_resume(config, run, ()), True  # the same command in a job that was put into the queue again
    # the job's other processes may come when the first has made it already
    if config.name is not None and run.exists() and is_first_process() and not config.plan:
        raise ValueError(f"name={config.name}: {run} exists already; use resume={run}, or another name")
    return run, config, False


def _checkpoint(name: str) -> Path:
    """The path of ckpt=: a .ckpt, an exported folder, or a shipped model by its name. Raises ValueError for others."""
    path = checkpoint_path(name)
    if path.is_dir() and not all((path / file).is_file() for file in (CONFIG_FILE, WEIGHTS_FILE)):
        raise ValueError(f"ckpt={name}: no exported folder, which has {CONFIG_FILE} and {WEIGHTS_FILE}; name a .ckpt")
    return path if path.is_dir() else existing_file(path, "ckpt")


def init_files(config: DictConfig) -> list[str]:
    """The files of foreign weights to start from: init=A, or init=[A,B] for a model published in several."""
    if config.init is None:
        return []
    return list(config.init) if isinstance(config.init, ListConfig) else [config.init]


def check_launcher(num_processes: int) -> None:
    """Raises ValueError where the environment would make a training of other processes than the trainer asks for.

    num_processes: on all machines. Lightning takes SLURM_*, WORLD_SIZE, LOCAL_RANK and PL_TRAINER_* from there.
    """
    variables = sorted(name for name in os.environ if name.startswith("PL_TRAINER_"))
    if variables:
        raise ValueError(f"the environment variable {variables[0]} would change the training; unset it")
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        total, rank, launcher = "SLURM_NTASKS", "SLURM_PROCID", "srun"
    elif "TORCHELASTIC_RUN_ID" in os.environ or "LOCAL_RANK" in os.environ:
        total, rank, launcher = "WORLD_SIZE", "LOCAL_RANK", "torchrun"
    elif num_processes == 1 and not is_first_process():
        name = next(name for name in RANK_VARIABLES if os.environ.get(name, "0") != "0")
        raise ValueError(f"{name}={os.environ[name]}, but the trainer has one process; unset {name}")
    else:
        return
    try:
        started = int(os.environ.get(total) or 1)
        is_ranked = int(os.environ.get(rank) or 0) >= 0 and rank in os.environ
    except ValueError:
        raise ValueError(f"{total}={os.environ.get(total)} {rank}={os.environ.get(rank)}: not a number") from None
    if started != num_processes:
        raise ValueError(
            f"{total}={started}, but trainer.devices and trainer.num_nodes ask for {num_processes}: "
            f"give the number of processes that {launcher} starts, or unset {total}"
        )
    if started > 1 and not is_ranked:
        raise ValueError(
            f"{total}={started}, but {launcher} did not start this process ({rank} is not set); use {launcher}"
        )


def check_new_folder(folder: Path) -> None:
    """Raises ValueError when an export cannot go there: nothing is ever written over."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"export={folder} exists already and is not an empty directory")


def stage_names(config: DictConfig) -> list[str]:
    """The stages this run trains, in the recipe's order."""
    if config.stage is None:
        return _recipe(config)
    return list(config.stage) if isinstance(config.stage, ListConfig) else [config.stage]


def previous_stages(config: DictConfig, stage: str) -> list[str]:
    """The stages of the recipe that come before one."""
    names = _recipe(config)
    return names[: names.index(stage)] if stage in names else []


def later_stages(config: DictConfig, stage: str) -> list[str]:
    """The stages that follow one: the run's next ones, and those of the recipe after the run's last one."""
    names, order = stage_names(config), list(config.model.stages)
    next_names = names[names.index(stage) + 1 :]
    return next_names + [name for name in _recipe(config) if order.index(name) > order.index(names[-1])]


def _recipe(config: DictConfig) -> list[str]:
    return list(config.model.get("recipe", config.model.stages))  # a size may leave stages out


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that a stage's folder continues from: last.ckpt, else the newest step's file; None if new."""
    last = folder / "last.ckpt"
    return last if last.exists() else max(folder.glob("step_*.ckpt"), default=None)


def _run_name(config: DictConfig) -> str:
    """config.name, else the job's number on a cluster (the same on every machine), else the time."""
    if config.name is not None:
        name = str(config.name)
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise ValueError(f"name={name}: use letters, digits and . _ + - only, a letter or digit first")
        return name
    for variable in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        if os.environ.get(variable, "none") != "none":
            return f"job_{os.environ[variable]}"
    if "WORLD_SIZE" in os.environ or (config.trainer.num_nodes > 1 and "NODE_RANK" in os.environ):
        raise ValueError("processes started by hand need one name for their run: add name=NAME to each command")
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _resume(config: DictConfig, run: Path, overrides: Iterable[str]) -> tuple[Path, DictConfig]:
    file = run / CONFIG_FILE
    if not file.is_file():
        raise ValueError(f"resume={run}: there is no run there ({file} is missing)")
    saved = read_config(file.read_text(errors="replace"), file)
    version = saved.get("config_version", 1)
    if version != CONFIG_VERSION:
        raise ValueError(
            f"resume={run}: its configuration has version {version}, this program writes version {CONFIG_VERSION}; "
            f"resume it with commit {LAST_COMMIT_OF[1]}, or start a new run from its last.ckpt by ckpt="
            if version in LAST_COMMIT_OF
            else f"resume={run}: its configuration has version {version}, which this program does not know"
        )
    if saved.get("export") is not None and config.export is None:
        print(f"this run was to be exported to {saved.export}; add export=DIR to do so")
    saved.export = None  # a folder from anywhere does not choose where this command writes
    OmegaConf.set_struct(saved, True)
    for override in overrides:
        key, _, _ = override.lstrip("+~").partition("=")
        if key not in RESUMABLE_OVERRIDES and not key.startswith("trainer."):
            raise ValueError(
                f"{override}: resume= keeps the run's own config; only fit.max_steps and the like may change"
            )
        if key == "resume":
            continue
        if key.split(".")[0] == "trainer":
            saved.trainer = config.trainer
        else:
            OmegaConf.update(saved, key, OmegaConf.select(config, key))
    return run, saved
