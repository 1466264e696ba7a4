"""How MagicDance is trained: EDGE's diffuser of body motion from music alone, then the renderer of such motion.

The renderer learns single frames first (`image`), then what looks along time (`video`), as MagicAnimate does (its
sec. 3.3); before both, at tiny size, the autoencoder in whose latents it works.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.batch import Batch
from zoo.body.skeleton import FEET, forward_kinematics, unpack
from zoo.diffusion.denoiser import Denoiser
from zoo.families.base import Stage
from zoo.families.latent.stages import DenoisingStage, Kept, few
from zoo.families.magicdance.family import MagicDance
from zoo.families.magicdance.renderers.animator import Animator, Faces, coloured, head_box

DROP_CONDITION = 0.25  # share of clips that hear nothing, for classifier-free guidance (EDGE's public code)
MISPLACED, MISSIZED = 0.06, 0.1  # deviations of a detector's squares about faces: in sides, and of sides' logarithms
STILL = 0.95  # a foot whose predicted contact is above this should not move
# EDGE eq. 6 and appendix C, as in its public code
WEIGHTS = {"reconstruction": 0.636, "velocity": 2.964, "joints": 0.646, "feet": 10.942}


class MotionStage(Stage):
    """Denoise 5 s of motion while hearing its music: x0-prediction with EDGE's four losses (sec. 3, eq. 3-6).

    The public code computes joints and feet from *normalised* values (its two lines that undo the scaling are commented
    out), where neither is a length. Here both are in metres, of the un-normalised motion, as the paper means them.
    """

    @classmethod
    def required_keys(cls, family: MagicDance, **_: Any) -> tuple[str, ...]:
        """Motion and its music."""
        return ("motion", "music", "music_rate", "beats", "fps")

    @classmethod
    def trainable_paths(cls, family: MagicDance, **_: Any) -> list[str]:
        """The denoising network. Normaliser and music scaling are fitted, not trained."""
        return ["decoder"]

    def fit_normalizers(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Fit the motion normaliser and the music scaling in one pass.

        A family that came with its scaling (`init=` of a checkpoint that has one) keeps it, as its weights do.
        """
        normalizer = self.family.normalizer
        if not (torch.equal(normalizer.low, -torch.ones(151)) and torch.equal(normalizer.high, torch.ones(151))):
            return
        scaling = self.family.music_scale.running_moments()

        def motions() -> Iterator[Tensor]:
            for batch in batches():
                scaling.add(batch["music"])
                yield batch["motion"]

        normalizer.fit(motions())
        scaling.finish()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """EDGE's four losses of a random step of the schedule, weighted."""
        family = self.family
        x0 = family.normalizer(batch["motion"])
        beats = [row.nonzero()[:, 0].numpy() / float(batch["fps"]) for row in batch["beats"].cpu()]
        music = family.music_condition(batch["music"], batch["music_rate"], beats, x0.shape[1])
        t = torch.randint(family.schedule.config.num_train_timesteps, (len(x0),), device=x0.device)
        keep = torch.rand(len(x0), device=x0.device) >= DROP_CONDITION
        denoiser = Denoiser(lambda x, t: family.decoder(x, music, t, keep).float(), family.schedule)
        answer = denoiser(denoiser.add_noise(x0, torch.randn_like(x0), t), t)
        with torch.autocast(x0.device.type, enabled=False):
            losses = motion_losses(answer, x0, family.normalizer.inverse)
        return {name: WEIGHTS[name] * value for name, value in losses.items()}


def motion_losses(answer: Tensor, x0: Tensor, metres: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """EDGE's losses, not weighted, of normalised motions (B, T, 151); `metres` undoes the scaling.

    reconstruction: all values. velocity: differences between frames, contacts left out. joints: positions by forward
    kinematics, m^2. feet: steps of the foot joints that the answer itself says are in contact, m^2 a frame.
    """
    reconstruction = (answer - x0).square().mean()
    velocity = (answer[..., 4:].diff(dim=1) - x0[..., 4:].diff(dim=1)).square().mean()
    contacts, root, rotations = unpack(metres(answer))
    joints = forward_kinematics(rotations, root)
    with torch.no_grad():
        _, true_root, true_rotations = unpack(metres(x0))
        true_joints = forward_kinematics(true_rotations, true_root)
    steps = joints[:, :, FEET].diff(dim=1).square()
    slips = torch.where(contacts[:, :-1, :, None] > STILL, steps, 0)
    # EDGE averages over all T frames, the last of which has no step
    feet = slips.sum(dim=1).mean() / joints.shape[1]
    joint_error = (joints - true_joints).square().mean()
    return {"reconstruction": reconstruction, "velocity": velocity, "joints": joint_error, "feet": feet}


class _Rendering(DenoisingStage):
    """What both stages of the renderer share. cond_drop_prob: of samples without reference and face, for guidance."""

    def __init__(self, *args, cond_drop_prob: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.cond_drop_prob = cond_drop_prob

    @property
    def animator(self) -> Animator:
        """The renderer."""
        return self.family.animator

    def of_noise(
        self, latents: Tensor, source: Tensor, faces: Faces | None, boxes: Tensor, parts: Tensor, still: bool = False
    ) -> dict[str, Tensor]:
        """The error for latents (B, C, F, h, w) of frames with `parts` (B, F, H, W), by the latents of pictures.

        faces are in `boxes` (B, 4) of the pictures.
        """
        animator, pictured = self.animator, self.animator.pictured(source)
        if animator.headless and faces is not None:
            hidden = torch.rand(len(source), device=source.device) < animator.headless
            pictured = animator.without_head(pictured, boxes, faces, hidden)
        pictured = animator.faced(animator.driven(pictured, parts), faces, parts)
        x0 = animator.changed(latents, pictured)
        text = animator.words([""]).to(x0.device).expand(len(x0), -1, -1)
        seen = animator.controlnet.embed(coloured(parts))
        shown = len(x0) - int(
            (torch.rand(len(x0)) < self.cond_drop_prob).sum()
        )  # the last ones of a batch, which is in no order
        tokens = None
        if faces is not None:
            tokens = faces.tokens * (torch.arange(len(x0), device=x0.device) < shown)[:, None, None]

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return animator.predict(x, t, pictured.each(lambda one: one[:shown]), seen, tokens, text, still)

        return self.denoised(x0, animator.schedule, predict)


def as_found(boxes: Tensor) -> Tensor:
    """Exact squares (B, 4), as a picture's detector might have found them: what is drawn of a face lies as it falls.

    As far off as most of 55 pictures' of the world were.
    """
    middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    middle = middle + MISPLACED * side * torch.randn_like(middle)
    half = side / 2 * (MISSIZED * torch.randn_like(side[:, :1])).exp()
    return torch.cat([middle - half, middle + half], 1)


class ImageStage(_Rendering):
    """Frames of a clip from another one and their DensePose parts: a batch's clips are some frames in no order.

    estimate_latent_scale: estimate the latents' scale first, for an autoencoder that was just trained.
    train_spatial_layers: of the U-Net (MagicAnimate's is Stable Diffusion's, and stays). latent_cache_size: frames
    whose latents stay in memory.
    """

    def __init__(
        self,
        *args,
        estimate_latent_scale: bool = False,
        train_spatial_layers: bool = False,
        latent_cache_size: int = 0,
        **kwargs,
    ):
        super().__init__(*args, options={"train_spatial_layers": train_spatial_layers}, **kwargs)
        self.estimate_latent_scale, self.kept = estimate_latent_scale, Kept(latent_cache_size)

    @classmethod
    def required_keys(cls, family: MagicDance, **_: Any) -> tuple[str, ...]:
        """Frames and their DensePose parts."""
        return ("key", "frames", "frame_indices", "parts")

    @classmethod
    def trainable_paths(cls, family: MagicDance, train_spatial_layers: bool = False, **_: Any) -> list[str]:
        """Appearance encoder, ControlNet, face encoder with the attention to it, and perhaps the U-Net's layers."""
        animator = family.animator
        names = ["appearance", "controlnet", "face", "seen", "finder"]
        paths = [name for name in names if getattr(animator, name) is not None]
        if train_spatial_layers:
            paths += [f"unet.{path}" for path in animator.unet.spatial()]
        else:
            paths += [f"unet.{path}" for path, _ in animator.unet.named_modules() if path.endswith(".attn_face")]
        return [f"animator.{path}" for path in paths]

    def fit_normalizers(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Make the latents about as large as the noise, by the first batches."""
        if self.estimate_latent_scale:
            self.animator.measure_scales(few(batches))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The error of the other frames' noise, given the first."""
        frames, parts = batch["frames"], batch["parts"]
        latents = self.kept.frames(self.animator, batch)
        boxes = as_found(head_box(parts[:, 0]))
        faces = self.animator.faces(frames[:, 0], boxes)
        losses = self.of_noise(latents[:, 1:].movedim(1, 2), latents[:, 0], faces, boxes, parts[:, 1:], still=True)
        if self.animator.finder is not None:
            losses["figure"] = self.animator.finder.error(latents[:, 0], parts[:, 0])
        return losses


class VideoStage(_Rendering):
    """A window of a clip from one of the clip's frames, wherever it is, and the window's DensePose parts.

    latent_cache_size: clips whose latents stay in memory.
    """

    def __init__(self, *args, latent_cache_size: int = 0, train_spatial_layers: bool = False, **kwargs):
        """train_spatial_layers: train the layers of single frames too (MagicAnimate freezes them)."""
        super().__init__(*args, options={"train_spatial_layers": train_spatial_layers}, **kwargs)
        self.kept = Kept(latent_cache_size)

    @classmethod
    def required_keys(cls, family: MagicDance, **_: Any) -> tuple[str, ...]:
        """Windows of video and their DensePose parts."""
        return ("key", "frames", "parts")

    @classmethod
    def trainable_paths(cls, family: MagicDance, train_spatial_layers: bool = False, **_: Any) -> list[str]:
        """The motion modules, and perhaps the rest of the U-Net."""
        unet = family.animator.unet
        modules = unet.temporal() | (unet.spatial() if train_spatial_layers else {})
        return [f"animator.unet.{path}" for path in modules]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The error of the window's noise."""
        frames, parts, count = batch["frames"], batch["parts"], self.animator.frames
        if frames.shape[1] < count:
            raise ValueError(
                f"clips of {frames.shape[1]} frames are shorter than windows of {count}: set clip.num_frames"
            )
        latents = self.kept.of(batch["key"], lambda i: self.animator.encode(frames[i])).to(frames.device)
        clip = torch.arange(len(frames), device=frames.device)
        chosen = torch.randint(frames.shape[1], (len(frames),), device=frames.device)
        start = torch.randint(frames.shape[1] - count + 1, (len(frames), 1), device=frames.device)
        window = start + torch.arange(count, device=frames.device)
        boxes = as_found(head_box(parts[clip, chosen]))
        with torch.no_grad():
            faces = self.animator.faces(frames[clip, chosen], boxes)
        x0 = latents[clip[:, None], window].movedim(1, 2)
        return self.of_noise(x0, latents[clip, chosen], faces, boxes, parts[clip[:, None], window])
