"""The two contracts of a model: a Family generates, a Stage trains.

A family is a plain `nn.Module` that holds all its networks and knows how to turn a picture and a song into frames. A
stage is a `LightningModule` around a family: it says which parts learn, and by which loss. Neither knows about devices,
processes or files.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.batch import Batch
from zoo.music.encoder import MusicFeatures
from zoo.nn.weights.loading import LoadReport, load_strict


@dataclass(frozen=True)
class Sampler:
    """How to sample: `None` leaves a value to the family's own default (its paper's)."""

    steps: int | None = None  # network evaluations per sample
    guidance: float | None = None  # classifier-free guidance weight, 1 is none
    eta: float | None = None  # DDIM stochasticity, 0..1


class Family(nn.Module, ABC):
    """One system of the zoo: all its networks, and how to generate with them."""

    size: int = 512  # pixels a side of a square picture that suits `generate`

    @abstractmethod
    def generate(
        self,
        image: Tensor | None,
        music: MusicFeatures,
        prompt: str,
        frames: int,
        fps: Fraction,
        seed: int,
        sampler: Sampler,
    ) -> Iterator[Tensor]:
        """Yield blocks (F, 3, H, W) uint8 of consecutive video frames, `frames` in all.

        image: (3, H, W) uint8, or None for the family's own choice of figure. music covers at least frames / fps s.
        Frame i shows time i / fps exactly. Blocks come as they are made: memory must not grow with `frames`. The same
        arguments give the same frames.
        """

    def denoisers(self) -> list[nn.Module]:
        """The networks that a step of sampling takes its time for, if `zoo.nn.cpu_inference` suits them."""
        return []

    def unread(self, prompt: str) -> str:
        """The end of a prompt that is too long for the family to read. Here nothing is: not every family reads it."""
        return ""

    def load_public(self, path: str) -> LoadReport:
        """Start from published weights (`init=`), strictly. A family whose paper's files have other names overrides it.

        Raises ValueError, with nothing loaded, when the file does not fit or holds more than weights.
        """
        return load_strict(self, path)


class DancesInMotion(ABC):
    """Mixed into a family that makes body motion on its way to frames, so that it can be written as bvh, glb or npz."""

    @abstractmethod
    def dance(self, music: MusicFeatures, motion_frames: int, seed: int, sampler: Sampler) -> Iterator[Tensor]:
        """Yield blocks (T, 151) of un-normalised motion at `zoo.batch.MOTION_FPS`, `motion_frames` in all."""


class Stage(LightningModule, ABC):
    """One step of a family's training recipe. Subclasses set `needs` and write `trainable` and `loss`.

    Randomness in a training step is drawn from a generator seeded by (seed, step, rank) alone, so that a run that was
    killed and resumed draws exactly what the uninterrupted run drew.
    """

    needs: tuple[str, ...]  # keys of `zoo.batch.Batch` that `loss` reads

    def __init__(
        self,
        family: Family,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
    ):
        """optimizer, scheduler: factories (Hydra `_partial_`) taking parameters and an optimiser.

        ema_decay: of the average of what learns, 0..1, reached over the first steps; None keeps no average.
        """
        super().__init__()
        self.family = family
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.ema_decay, self.seed = ema_decay, seed
        learning = self.trainable()
        family.requires_grad_(False)
        for path, module in learning.items():
            assert family.get_submodule(path) is module, f"trainable() calls '{path}' what is elsewhere in the family"
            module.requires_grad_(True)
        # the average is a state like any other: it is saved, sharded and moved with the module
        self.ema = None
        if ema_decay:
            self.ema = AveragedModel(self._learning(), multi_avg_fn=_warmed_average(ema_decay))
            self.ema.requires_grad_(False)  # DDP would wait for its gradients
        self.train()  # Lightning keeps the modes it finds

    @abstractmethod
    def trainable(self) -> dict[str, nn.Module]:
        """Path in `self.family` -> the module there that learns in this stage; everything else is frozen."""

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Name -> weighted scalar; their sum is minimised. Runs in training and validation alike."""

    def prepare(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Called once before a fresh training, not on resume, with passes over the training data: fit normalisers."""

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        """Name -> picture (3, H, W) uint8 of how well it does on a held-out batch, for the log; nothing by default."""
        return {}

    def _learning(self) -> nn.ModuleDict:
        # a ModuleDict's keys hold no dots: 'decoder.blocks' is averaged as 'decoder/blocks'
        return nn.ModuleDict({path.replace(".", "/"): module for path, module in self.trainable().items()})

    def train(self, mode: bool = True) -> "Stage":
        """As of any module, but what does not learn stays in evaluation: its batch norms and dropouts are settled."""
        super().train(mode)
        self.family.eval()
        for module in self.trainable().values():
            module.train(mode)
        return self

    # Lightning's side ------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Prepare from the training data, unless a checkpoint is about to bring what was prepared."""
        if stage == "fit" and self.trainer.ckpt_path is None:
            self.prepare(self.trainer.datamodule.batches)

    def configure_model(self) -> None:
        """Shard under `ModelParallelStrategy` (FSDP2): each block of a ModuleList is a unit, then each learning module.

        Frozen modules stay whole on every process. Weights gather when a unit's `forward` runs, so a stage calls the
        modules it names in `trainable()`, or the methods these list as `also_called`, never their children.
        """
        mesh = getattr(self, "_device_mesh", None)
        if mesh is None or getattr(self, "_sharded", False):
            return
        averaged = self.ema.module.values() if self.ema is not None else []
        for root in [*self.trainable().values(), *averaged]:
            for module in reversed(list(root.modules())):  # inner lists first: what is sharded already is left out
                if isinstance(module, nn.ModuleList):
                    for block in module:
                        _shard(block, mesh)
            _shard(root, mesh)
        self._sharded = True

    def configure_optimizers(self):
        """The configured optimiser over what learns, with its schedule stepped once a step."""
        optimizer = self.make_optimizer([p for p in self.family.parameters() if p.requires_grad])
        if self.make_scheduler is None:
            return optimizer
        schedule = {"scheduler": self.make_scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make this batch's randomness a function of (seed, batch, rank) only: resuming needs no saved generator."""
        each = self.trainer.accumulate_grad_batches
        draw = self.global_step * each + batch_idx % each
        torch.manual_seed((self.seed * 1_000_003 + draw) * 4_099 + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the named losses, each logged as train/NAME."""
        losses = self.loss(batch)
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, batch_size=1)
        total = torch.stack(list(losses.values())).sum()
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=1)
        return total

    def optimizer_step(self, *args, **kwargs) -> None:
        """Step, then move the average: at once, so that no checkpoint can fall between the two."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update_parameters(self._learning())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same losses on held-out clips with fixed noise, logged as val/NAME."""
        with torch.random.fork_rng():
            torch.manual_seed(batch_idx)
            losses = self.loss(batch)
        losses["loss"] = torch.stack(list(losses.values())).sum()
        self.log_dict({f"val/{name}": value for name, value in losses.items()}, batch_size=1, sync_dist=True)


def _shard(module: nn.Module, mesh) -> None:
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    fully_shard(module, mesh=mesh["data_parallel"])
    for method in getattr(module, "also_called", ()):
        register_fsdp_forward_method(module, method)


def _warmed_average(decay: float) -> Callable[..., None]:
    """Exponential moving average whose decay after n steps is at most (1 + n) / (10 + n): the start is forgotten."""

    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        get_ema_multi_avg_fn(min(decay, (1 + float(count)) / (10 + float(count))))(averaged, current, count)

    return average
