"""The two contracts of a model: a Family generates, a Stage trains.

A family is a plain `nn.Module` that holds all its networks and turns an image and a song into frames. A stage is a
`LightningModule` around a family: it names the modules that are trained, and computes their loss. Neither knows about
devices, processes, files or command-line keys.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.batch import Batch
from zoo.diffusion.batch_random import BatchRandom
from zoo.music.encoder import MusicFeatures
from zoo.nn.activation_checkpointing import checkpoint_activations, outermost_modules
from zoo.nn.compilation import compile_units
from zoo.nn.weights.loading import LoadReport, load_strict

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class SamplingParams:
    """Settings of the denoising loop. `None` means the family's default, which is its paper's."""

    num_inference_steps: int | None = None  # network evaluations per sample
    guidance_scale: float | None = None  # of classifier-free guidance; 1 switches it off
    eta: float | None = None  # DDIM stochasticity, 0..1

    def with_defaults(self, defaults: "SamplingParams") -> "SamplingParams":
        """The same settings, with each `None` replaced by the value of `defaults`."""
        return SamplingParams(
            **{name: getattr(defaults, name) if value is None else value for name, value in vars(self).items()}
        )


@dataclass(frozen=True)
class GenerationRequest:
    """Inputs of one generated video."""

    image: Tensor | None  # (3, H, W) uint8; None: the family chooses a figure, or refuses
    music: MusicFeatures  # at least num_frames / fps seconds
    num_frames: int  # of the video
    fps: Fraction  # frame i shows time i / fps exactly
    prompt: str = ""
    seed: int = 0
    sampling: SamplingParams = SamplingParams()


@dataclass
class FrameStream(Iterator[Tensor]):
    """Blocks of frames, with what is known before the first of them."""

    blocks: Iterator[Tensor]  # (F, 3, H, W) uint8
    quality: float | None = None  # of the figure's detection in the image, in [0, 1]; None without detection
    note: str | None = None  # one line for the user on how the image is used

    def __next__(self) -> Tensor:
        return next(self.blocks)


class Family(nn.Module, ABC):
    """One system of the zoo: all its networks, and how to generate with them."""

    resolution: int = 512  # pixels per side of a square image that suits `generate`
    # types of the modules whose activations a training may compute again: residual blocks, transformers ...
    activation_units: tuple[type[nn.Module], ...] = ()
    optional_parts: Mapping[str, str] = {}  # module that a configuration may leave out -> the option that adds it
    can_reconstruct: bool = False  # whether the family has an autoencoder of frames, see `reconstruct`
    can_render_motion: bool = False  # whether the family draws a given motion, see `render_motion`

    @abstractmethod
    def generate(self, request: GenerationRequest) -> Iterator[Tensor]:
        """Yield blocks (F, 3, H, W) uint8 of consecutive video frames, `request.num_frames` in all.

        Blocks are yielded as soon as they are computed: memory must not grow with the number of frames. The same
        request gives the same frames. Raises ValueError for an image or a prompt that the family cannot use.
        """

    def reconstruct(self, image: Tensor, frames: Tensor) -> Iterator[Tensor]:
        """Yield blocks (F, 3, resolution, resolution) uint8 of given frames (F, 3, H, W) uint8 as the autoencoder draws
        them: about as well as the family's videos can be.

        image (3, H, W) uint8: the reference image. Raises NotImplementedError unless `can_reconstruct`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no autoencoder of frames")

    def render_motion(self, request: GenerationRequest, motion: Tensor) -> Iterator[Tensor]:
        """Yield frames as `generate` does, but of a given motion (T, 151) at `zoo.batch.MOTION_FPS`, for a camera in
        front, instead of one to the music. T covers the time of the last frame. Raises NotImplementedError unless
        `can_render_motion`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not draw a given motion")

    def part(self, path: str) -> nn.Module:
        """The module at `path`, which a stage trains. Raises ValueError where the configuration leaves it out."""
        name = path.partition(".")[0]
        if name in self.optional_parts and getattr(self, name) is None:
            raise ValueError(f"this model has no {name} to train: add {self.optional_parts[name]}")
        return self.get_submodule(path)

    @property
    def unused_parts(self) -> tuple[str, ...]:
        """The optional parts that this checkpoint holds and that the options of `configure` do not use."""
        return ()

    def configure(self, options: Mapping[str, Any]) -> None:
        """Set options of the family's own, such as `renderer`, before `generate`. The default refuses any option.

        Raises ValueError for an unknown option, or for a value that this family or checkpoint cannot use.
        """
        for name in options:
            raise ValueError(f"{name}= is not an option of {type(self).__name__}, which has no options of its own")

    def ablations(self) -> dict[str, dict[str, Any]]:
        """Baselines made of this family's own parts: name -> the options of `configure` that leave a part out.

        The names follow a checkpoint's name in a table: 'without music'. The default has none.
        """
        return {}

    @property
    def default_renderer(self) -> str | None:
        """Name in conf/renderer of the renderer that draws if none is chosen; None: the family needs no renderer."""
        return None

    @property
    def trained_renderers(self) -> tuple[str, ...]:
        """Names in conf/renderer of the renderers whose networks this checkpoint holds."""
        return ()

    @property
    def default_motion(self) -> str | None:
        """Name in conf/motion of the generator that dances if none is chosen; None: the family chooses no motion."""
        return None

    def denoisers(self) -> list[nn.Module]:
        """Networks that take most of a sampling step's time, and that `zoo.nn.cpu_inference` can speed up.

        To be asked after `configure`.
        """
        return []

    def truncated_prompt_end(self, prompt: str) -> str:
        """The end of a prompt that exceeds the text encoder's length. The default is empty: no prompt is read."""
        return ""

    def load_pretrained(self, path: str) -> LoadReport:
        """Load published weights strictly. A family whose paper's files have other parameter names overrides it.

        Raises ValueError, with nothing loaded, when the file does not fit or holds more than weights.
        """
        return load_strict(self, path)

    @classmethod
    def upgrade(
        cls, config: dict[str, Any], state_dict: dict[str, Tensor], version: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Convert a family node and a state dict of an older `config_version` to today's. The default changes nothing.

        config: the plain, resolved `model.family` node of the checkpoint.
        """
        return config, state_dict


class MotionGenerator(ABC):
    """Generates body motion to music: a family that generates motion before frames, or one of conf/motion.

    A generator of conf/motion is one class and one file there with `name`, `_target_` and its own options.
    """

    @classmethod
    def build(cls, family: nn.Module, options: Mapping[str, Any]) -> "MotionGenerator":
        """The generator for a family. options: its own, of conf/motion/NAME.yaml. Raises ValueError for wrong ones."""
        raise ValueError(f"{cls.__name__} is not chosen by motion=")

    @abstractmethod
    def generate_motion(
        self, music: MusicFeatures, num_frames: int, seed: int, sampling: SamplingParams, prompt: str = ""
    ) -> Iterator[Tensor]:
        """Yield blocks (T, 151) of un-normalised motion at `zoo.batch.MOTION_FPS`, `num_frames` in all."""

    @property
    def available_frames(self) -> int | None:
        """Length of the motion where it is limited: then its last pose is held. None: any length."""
        return None

    def notes(self, music: MusicFeatures, prompt: str) -> list[str]:
        """Lines to print before the dance: choices made for the user, and inputs that are ignored."""
        return []


class Stage(LightningModule, ABC):
    """One step of a family's training recipe. Subclasses define `required_keys`, `trainable_paths` and `loss`.

    `loss` draws from `random`: in training a generator for each sample, seeded by (seed, step, position of the sample
    among the step's clips) alone. So a run that was killed and resumed draws exactly the numbers of the uninterrupted
    run, and any number of processes draws the same. Dropout draws from torch's global generator, seeded by (seed,
    batch, rank): its masks differ between numbers of processes.

    `required_keys` and `trainable_paths` are functions of the class, the family, and the stage's own options, so that
    they can be asked before any stage is built. They ignore options that do not concern them.

    regresses_motion: the stage learns one motion for each song, so its data must have no second one.
    has_unused_parameters: a step may leave trained parameters without a gradient, the same ones on all processes.
    """

    regresses_motion: bool = False
    has_unused_parameters: bool = False

    def __init__(
        self,
        family: Family,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr_schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ):
        """optimizer, lr_schedule: factories (Hydra `_partial_`) that take parameters and an optimiser.

        ema_decay: of the trained modules' exponential moving average, 0..1; None keeps no average. options: the
        subclass's arguments that `trainable_paths` and `required_keys` depend on.
        """
        super().__init__()
        self.family = family
        self.options = dict(options or {})
        self.make_optimizer, self.make_lr_schedule = optimizer, lr_schedule
        self.ema_decay, self.seed = ema_decay, seed
        self._paths = self.trainable_paths(family, **self.options)
        family.requires_grad_(False)
        for module in self.trainable_modules().values():
            module.requires_grad_(True)
        # the average is a state like any other: it is saved, sharded and moved with the module
        self.ema = None
        if ema_decay:
            self.ema = AveragedModel(self._module_dict(), multi_avg_fn=ema_with_warmup(ema_decay))
            self.ema.requires_grad_(False)  # DDP would wait for its gradients
        self._is_sharded = False
        self.random = BatchRandom()
        self.train()  # Lightning keeps the modes it finds

    @classmethod
    @abstractmethod
    def required_keys(cls, family: Family, **options: Any) -> tuple[str, ...]:
        """Keys of `zoo.batch.Batch` that `loss` reads."""

    @classmethod
    @abstractmethod
    def trainable_paths(cls, family: Family, **options: Any) -> list[str]:
        """Paths of the modules in the family that this stage trains. Everything else is frozen."""

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Name -> weighted scalar. Their sum is minimised. Runs in training and validation alike."""

    def fit_normalizers(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Fit normalisers on passes over the training data. Called once before a new training, not on resume."""

    def zero_loss(self) -> Tensor:
        """0, with a zero gradient for every trained parameter: DDP waits for one of each. Sharded ones need none."""
        if self._is_sharded:
            return torch.zeros((), device=self.device)
        return 0 * torch.stack([value.sum() for value in self.family.parameters() if value.requires_grad]).sum()

    def trainable_modules(self) -> dict[str, nn.Module]:
        """Path in `self.family` -> trained module."""
        return {path: self.family.get_submodule(path) for path in self._paths}

    def checkpoint_activations(self) -> None:
        """Keep only the inputs of the family's `activation_units`. Raises ValueError for a family without such."""
        if not checkpoint_activations(self.family, self.family.activation_units):
            raise ValueError(f"fit.activation_checkpointing: {type(self.family).__name__} has no modules for it")

    def compile_units(self, backend: str) -> None:
        """Compile the family's `activation_units`, before `checkpoint_activations`. Raises ValueError without such."""
        if not compile_units(self.family, self.family.activation_units, backend):
            raise ValueError(f"fit.compile: {type(self.family).__name__} has no modules for it")

    def _module_dict(self) -> nn.ModuleDict:
        # a ModuleDict's keys hold no dots: 'decoder.blocks' is averaged as 'decoder/blocks'
        return nn.ModuleDict({path.replace(".", "/"): module for path, module in self.trainable_modules().items()})

    def train(self, mode: bool = True) -> "Stage":
        """Set the mode of the trained modules. Frozen ones stay in evaluation mode, for batch norm and dropout."""
        super().train(mode)
        self.family.eval()
        for module in self.trainable_modules().values():
            module.train(mode)
        return self

    # Lightning hooks --------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Fit normalisers, unless a checkpoint is about to bring them."""
        if stage == "fit" and self.trainer.ckpt_path is None:
            self.fit_normalizers(self.trainer.datamodule.batches)

    def configure_model(self) -> None:
        """Shard under `ModelParallelStrategy` (FSDP2), see `shard`."""
        mesh = getattr(self, "_device_mesh", None)
        if mesh is not None and not self._is_sharded:
            self.shard(mesh["data_parallel"])

    def shard(self, mesh: "DeviceMesh") -> None:
        """Shard trained weights, their gradients and their average over a mesh of processes (FSDP2).

        Each of the family's outermost `activation_units` gathers its weights when it runs: by `forward`, or by a method
        of its `fsdp_forward_methods`. All other trained weights are gathered while `loss` runs, and again for the
        backward pass. Frozen modules stay whole on every process.
        """
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # takes a second

        frozen = {value for value in self.parameters() if not value.requires_grad}
        for unit in dict.fromkeys(outermost_modules(self.family, self.family.activation_units)):
            if any(value.requires_grad for value in unit.parameters()):
                fully_shard(unit, mesh=mesh, ignored_params=frozen)
                for method_name in getattr(unit, "fsdp_forward_methods", ()):
                    register_fsdp_forward_method(unit, method_name)
        averaged_modules = self.ema.module.values() if self.ema is not None else []
        for module in averaged_modules:  # they never run, so they are never gathered
            fully_shard(module, mesh=mesh)
        fully_shard(self, mesh=mesh, reshard_after_forward=True, ignored_params=frozen)
        register_fsdp_forward_method(self, "loss")
        self._is_sharded = True

    def configure_optimizers(self):
        """The configured optimiser of the trained parameters, with its schedule stepped once a step."""
        optimizer = self.make_optimizer([weight for weight in self.family.parameters() if weight.requires_grad])
        if self.make_lr_schedule is None:
            return optimizer
        schedule_config = {"scheduler": self.make_lr_schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule_config}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make this batch's randomness a function of seed and step only: resuming needs no saved generator."""
        batches_per_step = self.trainer.accumulate_grad_batches
        batch_number = self.global_step * batches_per_step + batch_idx % batches_per_step
        torch.manual_seed((self.seed * 1_000_003 + batch_number) * 4_099 + self.global_rank)
        positions = self.trainer.datamodule.sample_positions(batch_idx % batches_per_step)
        self.random = BatchRandom.of_step(self.seed, self.global_step, positions)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the named losses, each logged as train/NAME, times the batch's weight among the step's batches."""
        losses = self.loss(batch)
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, batch_size=1)
        total = torch.stack(list(losses.values())).sum()
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=1)
        weight = self.trainer.datamodule.loss_weight(batch_idx % self.trainer.accumulate_grad_batches)
        return total if weight == 1 else weight * total

    def optimizer_step(self, *args, **kwargs) -> None:
        """Step, then move the average: at once, so that no checkpoint can fall between the two."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update_parameters(self._module_dict())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same losses on held-out clips with fixed noise, logged as val/NAME."""
        self.random = BatchRandom()
        with torch.random.fork_rng():
            torch.manual_seed(batch_idx)
            losses = self.loss(batch)
        losses["loss"] = torch.stack(list(losses.values())).sum()
        self.log_dict({f"val/{name}": value for name, value in losses.items()}, batch_size=1, sync_dist=True)


def ema_with_warmup(decay: float) -> Callable[..., None]:
    """Exponential moving average whose decay after n steps is at most (1 + n) / (10 + n): the start is forgotten."""

    def update(ema_values: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        get_ema_multi_avg_fn(min(decay, (1 + float(count)) / (10 + float(count))))(ema_values, current, count)

    return update
