"""Compare the plan's peak memory with that of real steps on the CPU: python tools/measure_plan.py [KEY=VALUE ...]

KEY=VALUE: options of train.py; model=A,B and stage=A,B choose what is measured, all families and stages of the size
otherwise; steps=N trains N steps, 4 by default. Each stage is trained by Lightning's Trainer on one ready batch, in a
process of its own, in float32, without loader processes and caches. Set OMP_NUM_THREADS=1 where other programs run.

The real peak is the resident anonymous memory from step 2 on, minus that before the family is built and after a small
module was trained. That step imports and allocates what any first step does: 107 to 112 MB that are not a model's. The
peak is the kernel's high water mark of resident memory, reset after step 1, minus file pages at the
end. Every block of more than 64 KiB is a mapping of its own there, so that freed blocks do not count. The scratch
memory of operators counts; the plan does not know it. The plan follows the rules of CPUs (`on_gpu=False`).
"""

import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from zoo.batch import Batch
from zoo.data.base import WindowSpec
from zoo.run.build import build_encoder, build_family, build_stage, required_keys
from zoo.run.train.batching import step_batches
from zoo.run.train.plan import plan, plan_step
from zoo.run.train.runs import stage_names
from zoo.run.train.simulated_step import example_batch, fill_lazy_weights
from zoo.run.train.stage_training import StageTraining, stage_training

CONF = Path(__file__).resolve().parents[1] / "conf"
MODELS = ("musedance", "dabfusion", "magicdance", "m2penc")
RENDERER = {"magicdance": ["renderer=diffusion"]}  # whose networks are trained
SMALL_PEAK, SMALL_ERROR, ERROR = 300e6, 60e6, 0.15  # bytes: below, the difference counts, above, the share of the peak
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
MB = 1e6


class ReadyBatch(LightningDataModule):
    """One batch, in every step."""

    def __init__(self, batch: Batch, batch_size: int, num_steps: int):
        super().__init__()
        self.batch, self.batch_size, self.num_steps = batch, batch_size, num_steps

    def train_dataloader(self) -> DataLoader:
        """As many as there are steps."""
        return DataLoader([self.batch] * self.num_steps, batch_size=None)

    def batches(self) -> Iterator[Batch]:
        """For normalisers."""
        return iter([self.batch])

    def sample_positions(self, index: int) -> range:
        """Of the clips, for their noise."""
        return range(self.batch_size)

    def loss_weight(self, index: int) -> float:
        """Of the only batch of a step."""
        return 1.0


class StepMeter(Callback):
    """Seconds of a step after the first, and the peak memory of those: forgets that of the first step."""

    def __init__(self) -> None:
        self.num_steps, self.start, self.seconds = 0, 0.0, 0.0

    def on_train_batch_end(self, *_: Any) -> None:
        """5: see proc(5)."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.num_steps += 1
        if self.num_steps > 1:
            self.seconds = (time.perf_counter() - self.start) / (self.num_steps - 1)
            return
        self.start = time.perf_counter()
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")


def memory(name: str) -> int:
    """Bytes that /proc/self/status gives."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


class SmallModule(LightningModule):
    """A convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(8, 8, 3)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """The loss has no meaning."""
        return self.convolution(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One that imports torch's compiler, as all do."""
        return torch.optim.Adam(self.parameters())


def load_libraries() -> None:
    """Train a small module: what Lightning and torch import in their first step is no memory of a model."""
    trainer = Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(SmallModule(), DataLoader([torch.zeros(1, 8, 64, 64)] * 2, batch_size=None))


def train_steps(
    config: DictConfig,
    name: str,
    settings: StageTraining,
    batch_size: int,
    num_steps: int,
    resume: str | None = None,
    save: str | None = None,
    **trainer_options: Any,
) -> dict[str, Any]:
    """Train a stage: `peak` in bytes, `seconds` of a step, `weights`, a hash. resume, save: checkpoint files."""
    plan(config, name)  # imports the family's modules
    build_encoder(config)
    load_libraries()
    before = memory("RssAnon")
    torch.manual_seed(0)
    family = build_family(config)
    stage = build_stage(config, name, family)
    fill_lazy_weights(family)
    if settings.compile:
        stage.compile_units(settings.compile_backend)
    if settings.activation_checkpointing:
        stage.checkpoint_activations()
    keys = required_keys(config, name, family)
    batch = example_batch(keys, WindowSpec(**settings.clip), build_encoder(config), batch_size)
    meter = StepMeter()
    trainer = Trainer(
        **{"accelerator": "cpu", "devices": 1} | trainer_options, precision=settings.precision, max_steps=num_steps,
        gradient_clip_val=settings.gradient_clip_val, callbacks=[meter], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(stage, datamodule=ReadyBatch(batch, batch_size, num_steps), ckpt_path=resume, weights_only=True)
    assert trainer.global_step == num_steps
    if torch.cuda.is_initialized():
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = memory("VmHWM") - memory("RssFile") - memory("RssShmem") - before
    if save is not None:
        trainer.save_checkpoint(save)
    digest = sha256()
    for value in trainer.strategy.lightning_module_state_dict().values():
        digest.update(value.cpu().float().numpy().tobytes())
    return {"peak": peak, "seconds": meter.seconds, "weights": digest.hexdigest()}


def planned_peak(config: DictConfig, name: str, settings: StageTraining, batch_size: int, on_gpu: bool = False) -> int:
    """Bytes."""
    plan(config, name)  # imports its modules
    step = plan_step(config, name, settings, batch_size, 1, on_gpu=on_gpu)
    return max(step.peak, step.optimizer_peak)


def in_a_process(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What a function returns in a copy of this process, see `start_process`."""
    return start_process(function, *args, **options)()


def start_process(function: Callable[..., Any], *args: Any, **options: Any) -> Callable[[], Any]:
    """Start a function in a copy of this process, which has imported everything and computed nothing.

    Returns a function that waits for its result, of JSON's types: None where it fails, and its error is printed.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(function(*args, **options)).encode())
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    os.close(writer)

    def result() -> Any:
        with os.fdopen(reader) as stream:
            text = stream.read()
        os.waitpid(child, 0)
        return json.loads(text) if text else None

    return result


def composed(overrides: list[str]) -> DictConfig:
    """The training's configuration, without what keeps more than a step needs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides)
    OmegaConf.set_struct(config, False)
    for stage in config.model.stages.values():
        stage.module.update({key: 0 for key in stage.module if str(key).endswith("_cache_size")})
    return config


def main(overrides: list[str]) -> int:
    """Print a table. Returns 1 where a plan is wrong."""
    own_options = ("model=", "stage=", "steps=")
    choices = dict(item.split("=", 1) for item in overrides if item.startswith(own_options))
    options = [item for item in overrides if not item.startswith(own_options)]
    if not any(item.startswith("fit.precision=") for item in options):
        options.append("fit.precision=32-true")
    print("| stage | plan, MB | real, MB | difference | within |\n|---|---:|---:|---:|---|", flush=True)
    num_wrong = 0
    for model in choices.get("model", ",".join(MODELS)).split(","):
        config = composed([f"model={model}", "trainer=cpu", *RENDERER.get(model, []), *options])
        for name in choices["stage"].split(",") if "stage" in choices else stage_names(config):
            settings = stage_training(config, name)
            batch_size = step_batches(settings, 1, name).batch_size
            planned = in_a_process(planned_peak, config, name, settings, batch_size)
            steps = in_a_process(train_steps, config, name, settings, batch_size, int(choices.get("steps", 4)))
            if planned is None or steps is None:  # the error is printed
                return 1
            real = steps["peak"]
            is_right = abs(planned - real) <= (SMALL_ERROR if real < SMALL_PEAK else ERROR * real)
            num_wrong += not is_right
            difference = f"{(planned - real) / MB:+.0f} MB, {planned / real - 1:+.0%}"
            row = f"| {model} {name} | {planned / MB:.0f} | {real / MB:.0f} | {difference} |"
            print(f"{row} {'yes' if is_right else 'no'} |", flush=True)
    return int(num_wrong > 0)


if __name__ == "__main__":
    if MALLOC.items() <= os.environ.items():
        sys.exit(main(sys.argv[1:]))
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)  # malloc reads them at its start
