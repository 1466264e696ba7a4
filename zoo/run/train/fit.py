"""Train a family's stages in order, each from the one before, in a run directory that can always be resumed."""

import copy
import gc
import logging
import os
import shutil
import sys
import time
import warnings
from contextlib import ExitStack, redirect_stdout
from functools import partial
from pathlib import Path

import torch
from lightning import Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from zoo.data.base import WindowSpec, check_stage_data
from zoo.data.global_batch import GlobalBatch
from zoo.data.module import DanceData
from zoo.music.encoder import MusicEncoder
from zoo.nn.cpu_inference import has_bf16
from zoo.processes import is_first_process, process_count
from zoo.run.build import (
    build_encoder,
    build_family,
    build_source,
    build_stage,
    build_strategy,
    has_unused_parameters,
    load_beat_tracker,
    regresses_motion,
    required_keys,
    trainable_paths,
)
from zoo.run.checkpoint import (
    AtomicCheckpoint,
    export,
    random_parameters,
    read_checkpoint,
)
from zoo.run.config import resolve_config
from zoo.run.signals import STATE, Stopped
from zoo.run.train.batching import loader_workers, step_batches, store_global_batch, world_size
from zoo.run.train.callbacks import CheckpointSaver, FiniteCheck, ProgressBar, SignalStop, WallClockLimit
from zoo.run.train.claim import claimed_run
from zoo.run.train.initial_weights import (
    check_lazy_weights,
    check_random_parameters,
    load_initial_weights,
    outside_of,
)
from zoo.run.train.plan import print_plan
from zoo.run.train.runs import (
    RUN_ENV,
    check_launcher,
    latest_checkpoint,
    stage_names,
)
from zoo.run.train.stage_training import StageTraining, stage_training
from zoo.run.validate import int_at_least, training_seed

# of the environment, set by the launchers of jobs on several machines
LAUNCHER_VARIABLES = ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda")


def check_machine(trainer: DictConfig) -> None:
    """Raises ValueError when this machine lacks the trainer's GPUs, or no launcher of several machines is found."""
    if trainer.accelerator not in ACCELERATORS:
        raise ValueError(f"trainer.accelerator={trainer.accelerator}: use one of {', '.join(ACCELERATORS)}")
    machines = int_at_least(trainer.num_nodes, "trainer.num_nodes", 1)
    check_launcher(world_size(trainer))
    if (
        machines > 1
        and not any(variable in os.environ for variable in LAUNCHER_VARIABLES)
        and trainer.accelerator != "gpu"
    ):
        raise ValueError(f"this trainer needs {machines} machines: start it on each of them with srun or torchrun")
    devices = world_size(trainer) // machines
    if trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.cuda.is_available()):
        process_count(devices, "trainer.devices")
    if trainer.accelerator != "gpu":
        return
    available = torch.cuda.device_count()
    if available < devices or not available:
        requirement = f"{machines} machine{'s' * (machines > 1)} with {devices} GPU{'s' * (devices > 1)} each"
        raise ValueError(
            f"this trainer needs {requirement}, this machine has {available}; trainer=auto trains with what is here"
        )
    if machines > 1 and not any(variable in os.environ for variable in LAUNCHER_VARIABLES):
        raise ValueError(f"this trainer needs {machines} machines: start it on each of them with srun or torchrun")


def check_compiler(settings: StageTraining) -> None:
    """Raises ValueError where `fit.compile` needs a compiler that this machine lacks."""
    compiler = os.environ.get("CXX", "g++")
    if settings.compile and settings.compile_backend == "inductor" and shutil.which(compiler) is None:
        raise ValueError(
            f"fit.compile=true needs a C++ compiler, and {compiler} is not installed; install it, name another one in "
            "the environment variable CXX, or leave fit.compile out"
        )


def with_supported_precision(config: DictConfig) -> DictConfig:
    """A copy of a new run's configuration without bf16 where it would be emulated.

    A CPU without bf16 operators takes about seven times as long in bf16-mixed as in 32-true (AMD EPYC with AVX2,
    the autoencoder of a tiny model). `fit.precision=bf16-mixed` on the command line still sets it. A resumed run
    keeps its precision.
    """
    uses_gpu = config.trainer.accelerator in ("gpu", "cuda") or (
        config.trainer.accelerator == "auto" and torch.cuda.is_available()
    )
    if uses_gpu or config.fit.precision is not None or has_bf16():
        return config
    config = copy.deepcopy(config)
    emulated_stages = [
        name for name in stage_names(config) if config.model.stages[name].fit.get("precision") == "bf16-mixed"
    ]
    for name in emulated_stages:
        config.model.stages[name].fit.precision = "32-true"
    if emulated_stages and is_first_process():
        print("this CPU has no bf16: training in 32-true; fit.precision=bf16-mixed sets it all the same", flush=True)
    return config


def fit(config: DictConfig, run: Path, is_resumed: bool = False) -> Path:
    """Train what is left to train of a run; returns the last checkpoint, which `sample.py ckpt=` takes.

    A fresh run is written to `run`; an existing one continues from its latest checkpoint. Raises ValueError before
    anything is made when config, machine and data do not fit together.
    """
    check_machine(config.trainer)
    if not is_resumed:
        config = with_supported_precision(config)
    _silence_warnings()
    config.seed = training_seed(config.seed)
    names = stage_names(config)
    trainings = {name: stage_training(config, name) for name in names}
    for training in trainings.values():
        check_compiler(training)
        process_count(loader_workers(training, config.trainer), "fit.num_workers")
    num_processes = world_size(config.trainer)
    batches = {name: step_batches(trainings[name], num_processes, name) for name in names}
    seed_everything(config.seed, verbose=False)
    config = resolve_config(config)
    for name in names:
        store_global_batch(config, name, batches[name])
    family = build_family(config)  # refuses wrong values before the run directory is made
    check_lazy_weights(family)
    assert _build_encoder(config).cache_key  # refuses missing weights before an earlier stage trains for hours
    check_stage_data(
        build_source(config),
        {name: (required_keys(config, name, family), WindowSpec(**trainings[name].clip)) for name in names},
        regresses_motion=[name for name in names if regresses_motion(config, name)],
    )
    del family  # each stage builds its own
    is_first = is_first_process()
    with ExitStack() as stack:
        if is_first:
            print_plan(config)
            is_named = config.name is not None or run.name.startswith("job_")
            run = stack.enter_context(claimed_run(run, OmegaConf.to_yaml(config), not is_resumed, is_named))
            os.environ[RUN_ENV] = str(run)
            print(f"run: {run}", flush=True)
        last = _fit_stages(config, names, trainings, batches, run)
        if is_first:
            print(f"trained: {last}", flush=True)
            if config.export is not None:
                export(last, config.export, config.export_dtype)
    return last


def _fit_stages(
    config: DictConfig,
    names: list[str],
    trainings: dict[str, StageTraining],
    batches: dict[str, GlobalBatch],
    run: Path,
) -> Path:
    """Train the stages that are left. Returns the last checkpoint."""
    last = Path(config.ckpt) if config.ckpt is not None else None
    checkpoints = {name: path for name in names if (path := latest_checkpoint(run / name)) is not None}
    for name in names:
        checkpoint = checkpoints.get(name)
        if name in list(checkpoints)[:-1]:  # a later stage has started from it: it is done
            last = checkpoint
            continue
        _fit_stage(config, name, trainings[name], batches[name], run, start=last, resume_from=checkpoint)
        gc.collect()  # Lightning's objects refer to each other; with them the stage's caches would stay
        last = latest_checkpoint(run / name)
    assert last is not None, "every stage ends with a checkpoint"
    return last


def _fit_stage(
    config: DictConfig,
    name: str,
    settings: StageTraining,
    batch: GlobalBatch,
    run: Path,
    start: Path | None,
    resume_from: Path | None,
) -> None:
    deadline = None if settings.max_minutes is None else time.monotonic() + 60 * settings.max_minutes
    seed_everything(config.seed, verbose=False)
    encoder = _build_encoder(config)
    family = build_family(config)
    if resume_from is not None:  # reading it refuses a damaged or foreign file, before anything is started
        random_names = random_parameters(read_checkpoint(resume_from))
    else:
        with redirect_stdout(sys.stdout if is_first_process() else None):  # each process loads, only the first prints
            random_names = load_initial_weights(config, name, family, start)
        check_random_parameters(config, name, family, random_names)
        random_names = outside_of(random_names, trainable_paths(config, name, family))
    stage = build_stage(config, name, family)
    if settings.compile:
        stage.compile_units(settings.compile_backend)
    if settings.activation_checkpointing:
        stage.checkpoint_activations()
    if settings.fused_optimizer:
        stage.make_optimizer = partial(stage.make_optimizer, fused=True)
    torch.backends.cuda.matmul.allow_tf32 = settings.tf32
    data = DanceData(
        source=build_source(config),
        encoder=encoder,
        stage_keys={name: required_keys(config, name, family)},
        batch_size=batch.batch_size,
        global_batch=batch,
        seed=config.seed,
        window=WindowSpec(**settings.clip),
        num_workers=loader_workers(settings, config.trainer),
        val_items=max(1, settings.limit_val_batches) * batch.batch_size,
    )
    try:
        saver = CheckpointSaver(
            run / name, settings.save_every_n_steps, settings.keep_last, OmegaConf.to_yaml(config), name, random_names
        )
        trainer = _trainer(config, name, settings, batch, run, saver, deadline)
    except (MisconfigurationException, TypeError, RuntimeError) as error:  # trainer.devices=0 and the like
        raise ValueError(f"this trainer cannot be made: {error}") from None
    if trainer.world_size != batch.world_size:
        raise ValueError(
            f"this trainer has {trainer.world_size} processes, its configuration names {batch.world_size}: "
            "set trainer.devices and trainer.num_nodes"
        )
    trainer.fit(stage, datamodule=data, ckpt_path=resume_from, weights_only=True)
    trainer.strategy.barrier()
    if STATE.signum:
        if not trainer.is_global_zero:  # the first process says it; Lightning kills all when another code is not 0
            raise SystemExit(0)
        raise Stopped(STATE.signum, f"step {trainer.global_step} is saved; train.py resume={run} goes on from there")


def _build_encoder(config: DictConfig) -> MusicEncoder:
    """The music encoder with the beat tracker of weights.beats, which older runs have no place for."""
    with redirect_stdout(sys.stdout if is_first_process() else None):
        return build_encoder(config, load_beat_tracker(OmegaConf.select(config, "weights.beats")))


def _trainer(
    config: DictConfig,
    name: str,
    settings: StageTraining,
    batch: GlobalBatch,
    run: Path,
    saver: CheckpointSaver,
    deadline: float | None,
) -> Trainer:
    trainer_config = config.trainer
    strategy = trainer_config.strategy
    if strategy == "auto" and batch.world_size > 1:
        strategy = "ddp"  # what Lightning would choose
    strategy = build_strategy(strategy, settings.gradient_compression, has_unused_parameters(config, name))
    trainer = Trainer(
        accelerator=trainer_config.accelerator,
        devices=trainer_config.devices,
        num_nodes=trainer_config.num_nodes,
        strategy=strategy,
        precision=settings.precision,
        max_steps=settings.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=batch.num_batches,
        gradient_clip_val=settings.gradient_clip_val,
        val_check_interval=settings.val_check_interval * batch.num_batches,
        check_val_every_n_epoch=None,  # the data is endless: count batches only
        limit_val_batches=settings.limit_val_batches,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every_n_steps,
        logger=TensorBoardLogger(run, name="logs", version=name),
        plugins=[AtomicCheckpoint()],
        use_distributed_sampler=False,  # the data's own sampler gives every process its share
        enable_checkpointing=False,  # CheckpointSaver does
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run,
    )
    trainer._signal_connector.register_signal_handlers = lambda: None  # SignalStop's job
    trainer.callbacks += [
        *([WallClockLimit(deadline)] if deadline is not None else []),
        SignalStop(STATE),
        FiniteCheck(name),
        saver,
        ProgressBar(name, settings.log_every_n_steps, batch.num_clips, deadline),
    ]
    return trainer


def _silence_warnings() -> None:
    """Hide messages of Lightning and torch that do not concern the user."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*`train_dataloader`.*",
        ".*litlogger.*",
        ".*sync_dist.*",
        ".*LeafSpec.*",
        ".*returned a view tensor.*",
        ".*in eval mode at the start.*",
        ".*Grad strides do not match.*",
    ):
        warnings.filterwarnings("ignore", message=message)
