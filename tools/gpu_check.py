"""What tools/gpu_check.sh runs: python tools/gpu_check.py OUT [--cpu] [--no-compile] [MODEL ...]. Not yet run on a GPU.

Parts, each in a process of its own, with results in OUT/gpu_check.json:

- a guided step of 24 frames at 512x512 in bf16, beside diffusers' network of the same size;
- 4 steps of MagicDance's motion stage, and 2 and 2 more from a checkpoint: the weights are the same;
- MagicDance's image stage as it is, compiled, and sharded by FSDP2 on one GPU;
- 3 steps of each paper stage with the batch of one of 32 processes: peak memory beside the plan's.

MODEL: the models whose stages are trained, all of them otherwise. --cpu runs the same lines at size=debug, with a
compiler backend that needs no compiler; --no-compile leaves that part out. A part that fails is printed and stored as
null; the others go on. Exit code 1 where a part fails, a resumed run differs, or (on a GPU) a peak is not within 15 %
of the plan.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from diffusers import UNetMotionModel

# packages that no training step on a ready batch calls, and that a GPU machine may lack
UNUSED = (
    "ai_edge_litert", "av", "braceexpand", "cv2", "embreex", "laion_clap", "librosa", "scipy", "skimage", "sklearn",
    "soundfile", "tensorboard", "torchvision", "trimesh", "webdataset",
)  # fmt: skip
MAX_SECONDS = 440  # on a GPU, after which no part is begun


class StandInValue:
    """What functions of `UNUSED` packages return while modules are imported."""

    def __getattr__(self, name: str) -> "StandInValue":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> "StandInValue":
        return self

    def __getitem__(self, key: Any) -> "StandInValue":
        return self


class StandIn(type):
    """A function, or a class to derive from. Any attribute of it is another one."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return StandInValue() if "is_stand_in" in vars(cls) else super().__call__(*args, **kwargs)


def stand_in(name: str) -> StandIn:
    """One of that name."""
    return StandIn(name, (), {"is_stand_in": True})


class StandInModule(ModuleType):
    """Has every attribute."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)


class StandInFinder(MetaPathFinder, Loader):
    """Finds `UNUSED` packages."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """A package, whatever it is called."""
        if fullname.partition(".")[0] in UNUSED:
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Without content."""
        return StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is in it."""


# also where they are installed, so that a run here shows that they are not needed; transformers and diffusers look for
# what is installed, so they are imported before
sys.meta_path.insert(0, StandInFinder())

from lightning.pytorch.strategies import ModelParallelStrategy  # noqa: E402
from measure_plan import (  # noqa: E402
    ERROR,
    MODELS,
    RENDERER,
    composed,
    in_a_process,
    planned_peak,
    start_process,
    train_steps,
)

from zoo.families.magicdance.renderers import animator  # noqa: E402
from zoo.nn.video_unet.unet import VideoUNet  # noqa: E402
from zoo.run.train.batching import step_batches  # noqa: E402
from zoo.run.train.runs import stage_names  # noqa: E402
from zoo.run.train.stage_training import StageTraining, stage_training  # noqa: E402

animator.PART_COLORS = np.zeros((25, 3), np.uint8)  # made by OpenCV; no check depends on them
TRANSFORMERS_AT_512 = [  # tokens and channels of the spatial transformers
    *[(4096, 320)] * 2, *[(1024, 640)] * 2, *[(256, 1280)] * 2, (64, 1280), *[(256, 1280)] * 3, *[(1024, 640)] * 3,
    *[(4096, 320)] * 3,
]  # fmt: skip


def batch_of_32(settings: StageTraining, name: str) -> int:
    """Clips of one of 32 processes, or of as many as there are clips."""
    num_processes = min(32, settings.global_batch_size or 32)
    return step_batches(settings, num_processes, name).batch_size


def sampling(is_cpu: bool) -> dict[str, float]:
    """Seconds of a guided step: with a reference; without one, and diffusers' network, which has none."""
    device, scale, dim = ("cpu", 8, 32) if is_cpu else ("cuda", 1, 320)
    channels = (dim,) * 4 if is_cpu else (dim, 2 * dim, 4 * dim, 4 * dim)
    frames, side = 24 // scale, 64 // scale

    def fastest(step: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(2 if is_cpu else 4):
            start = time.perf_counter()
            step()
            if not is_cpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    with torch.device(device), torch.inference_mode(), torch.autocast(device, torch.bfloat16):
        latents, steps = torch.randn(2, 4, frames, side, side), torch.tensor([500, 500])
        ours = VideoUNet(channels, use_motion_modules=True, motion_in_middle=True).eval()
        features = [torch.randn(1, n // scale**2, dim if is_cpu else width) for n, width in TRANSFORMERS_AT_512]
        reference = ours.precompute_conditioning(torch.randn(2, 1, 768), features)
        text = torch.randn(2, 77, 768)
        conditioning = ours.precompute_conditioning(text)
        results = {
            "with a reference": fastest(lambda: ours(latents, steps, reference)),
            "without": fastest(lambda: ours(latents, steps, conditioning)),
        }
        theirs = UNetMotionModel(block_out_channels=channels, cross_attention_dim=768).eval()
        results["diffusers"] = fastest(lambda: theirs(latents, 500, text.repeat_interleave(frames, 0)))
    return results


def main(out: Path, is_cpu: bool, use_compile: bool, models: list[str]) -> int:
    """Run all parts. Returns 1 where something is wrong."""
    start = time.monotonic()
    results: dict[str, Any] = {"torch": torch.__version__}
    trainer = {} if is_cpu else {"accelerator": "gpu"}
    base = ["size=debug", "trainer=cpu"] if is_cpu else ["size=paper", "trainer=gpu"]
    backend = "aot_eager" if is_cpu else "inductor"

    def run(part: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        is_late = not is_cpu and time.monotonic() - start > MAX_SECONDS
        results[part] = "skipped" if is_late else in_a_process(function, *args, **options)
        print(f"{time.monotonic() - start:5.0f} s  {part}: {results[part]}", flush=True)
        (out / "gpu_check.json").write_text(json.dumps(results, indent=1))
        return results[part]

    def stage_of(model: str, name: str, *overrides: str) -> tuple[Any, str, StageTraining, int]:
        config = composed([f"model={model}", *base, *RENDERER.get(model, []), *overrides])
        settings = stage_training(config, name)
        return config, name, settings, batch_of_32(settings, name)

    stages = [
        (model, stage_of(model, name))
        for model in models
        for name in stage_names(composed([f"model={model}", *base, *RENDERER.get(model, [])]))
    ]
    # all at once where there are cores for it
    begin = partial if (os.cpu_count() or 1) < len(stages) else start_process
    plans = [begin(planned_peak, *stage, on_gpu=not is_cpu) for _, stage in stages]
    run("guided step", sampling, is_cpu)
    motion = stage_of("magicdance", "motion", "model.family.dance_decoder.dropout=0")
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/half.ckpt"
        whole = run("4 steps", train_steps, *motion, 4, **trainer)
        run("2 steps", train_steps, *motion, 2, **trainer, save=file)
        resumed = run("2 more, resumed", train_steps, *motion, 4, **trainer, resume=file)
    results["resumed is the same"] = bool(whole and resumed) and whole["weights"] == resumed["weights"]
    strategy = ModelParallelStrategy(
        data_parallel_size=1, tensor_parallel_size=1, save_distributed_checkpoint=False,
        process_group_backend="gloo" if is_cpu else "nccl",
    )  # fmt: skip
    compiled = ["fit.compile=true", f"fit.compile_backend={backend}"]
    run("magicdance image", train_steps, *stage_of("magicdance", "image"), 4, **trainer)
    if use_compile:
        run("magicdance image, compiled", train_steps, *stage_of("magicdance", "image", *compiled), 4, **trainer)
    run("magicdance image, FSDP2", train_steps, *stage_of("magicdance", "image"), 4, **trainer, strategy=strategy)
    for (model, stage), plan_result in zip(stages, plans, strict=True):
        steps = run(f"{model} {stage[1]}", train_steps, *stage, 3, **trainer)
        planned = in_a_process(plan_result) if isinstance(plan_result, partial) else plan_result()
        if isinstance(steps, dict) and planned is not None:
            steps["planned"], steps["is right"] = planned, is_cpu or abs(planned / steps["peak"] - 1) <= ERROR
            print(f"         peak {steps['peak'] / 1e9:.2f} GB, planned {planned / 1e9:.2f} GB", flush=True)
    (out / "gpu_check.json").write_text(json.dumps(results, indent=1))
    wrong_peaks = [value for value in results.values() if isinstance(value, dict) and not value.get("is right", True)]
    return int(bool(wrong_peaks) or not all(results.values()))


if __name__ == "__main__":
    flags = {"--cpu", "--no-compile"} & {*sys.argv[2:]}
    names = [name for name in sys.argv[2:] if name not in flags]
    sys.exit(main(Path(sys.argv[1]), "--cpu" in flags, "--no-compile" not in flags, names or list(MODELS)))
