"""Training of MagicDance: EDGE's diffuser of body motion, then the renderer's networks.

The renderer trains on single frames first (`image`), then its temporal layers on windows of video (`video`), as
MagicAnimate does (its sec. 3.3). Before both, at size=tiny, the autoencoder is trained.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.batch import Batch
from zoo.body.skeleton import FEET, forward_kinematics, unpack
from zoo.diffusion.batch_random import BatchRandom
from zoo.diffusion.losses import GLOBAL_RANDOM, add_training_noise
from zoo.families.base import Stage
from zoo.families.latent.background import estimate_scales
from zoo.families.latent.cache import LatentCache
from zoo.families.latent.stages import DenoisingStage, take_batches
from zoo.families.magicdance.family import MagicDance
from zoo.families.magicdance.renderers.animator import Animator, FaceFeatures, densepose_to_rgb, head_boxes

COND_DROP_PROB = 0.25  # of the music, for classifier-free guidance (EDGE's public code)
# standard deviations of head boxes: of the center, in sides, and of the side's logarithm
CENTER_JITTER, SCALE_JITTER = 0.06, 0.1
CONTACT_THRESHOLD = 0.95  # a foot with a higher predicted contact should not move
# EDGE eq. 6 and appendix C, as in its public code
LOSS_WEIGHTS = {"reconstruction": 0.636, "velocity": 2.964, "joints": 0.646, "feet": 10.942}


class MotionStage(Stage):
    """Denoise 5 s of motion, conditioned on its music: x0-prediction with EDGE's four losses (sec. 3, eq. 3-6).

    The public code computes joints and feet from *normalised* values, which are no lengths: its two lines that undo the
    scaling are commented out. Here both are in metres, of the un-normalised motion, as in the paper.
    """

    family: MagicDance

    @classmethod
    def required_keys(cls, family: MagicDance, **_: Any) -> tuple[str, ...]:
        """Motion and its music."""
        return ("motion", "music", "music_rate", "beats", "fps")

    @classmethod
    def trainable_paths(cls, family: MagicDance, **_: Any) -> list[str]:
        """The denoising network. Motion and music normalisers are fitted, not trained."""
        return ["motion_denoiser"]

    def fit_normalizers(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Fit the motion and music normalisers in one pass.

        A family that was initialised with a fitted motion normaliser keeps both, as it keeps its weights.
        """
        normalizer = self.family.normalizer
        if not (torch.equal(normalizer.low, -torch.ones(151)) and torch.equal(normalizer.high, torch.ones(151))):
            return
        moments = self.family.music_scale.running_moments()

        def motions() -> Iterator[Tensor]:
            for batch in batches():
                moments.add(batch["music"])
                yield batch["motion"]

        normalizer.fit(motions())
        moments.finish()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """EDGE's four losses at a random timestep for each clip, weighted."""
        family = self.family
        x0 = family.normalizer(batch["motion"])
        beat_times = [beat_flags.nonzero()[:, 0].numpy() / float(batch["fps"]) for beat_flags in batch["beats"].cpu()]
        music = family.music_condition(batch["music"], batch["music_rate"], beat_times, x0.shape[1])
        t = self.random.randint(family.noise_schedule.config.num_train_timesteps, len(x0), device=x0.device)
        keep = self.random.rand(len(x0), device=x0.device) >= COND_DROP_PROB
        noisy_sample = add_training_noise(x0, t, family.noise_schedule, random=self.random)
        prediction = family.motion_denoiser(noisy_sample.x, music, t, keep).float()  # x0
        with torch.autocast(x0.device.type, enabled=False):
            losses = motion_losses(prediction, x0, family.normalizer.inverse)
        return {name: LOSS_WEIGHTS[name] * value for name, value in losses.items()}


def motion_losses(prediction: Tensor, x0: Tensor, denormalize: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """EDGE's losses, not weighted, of normalised motions (B, T, 151).

    reconstruction: of all values. velocity: of differences between frames, without contacts. joints: of positions by
    forward kinematics, m^2. feet: squared displacements from frame to frame, m^2, of the foot joints that the
    prediction says are in contact.
    """
    reconstruction = (prediction - x0).square().mean()
    velocity = (prediction[..., 4:].diff(dim=1) - x0[..., 4:].diff(dim=1)).square().mean()
    contacts, root, rotations = unpack(denormalize(prediction))
    joints = forward_kinematics(rotations, root)
    with torch.no_grad():
        _, target_root, target_rotations = unpack(denormalize(x0))
        target_joints = forward_kinematics(target_rotations, target_root)
    squared_steps = joints[:, :, FEET].diff(dim=1).square()
    squared_slips = torch.where(contacts[:, :-1, :, None] > CONTACT_THRESHOLD, squared_steps, 0)
    # EDGE averages over all T frames, the last of which has no step
    foot_error = squared_slips.sum(dim=1).mean() / joints.shape[1]
    joint_error = (joints - target_joints).square().mean()
    return {"reconstruction": reconstruction, "velocity": velocity, "joints": joint_error, "feet": foot_error}


class _RendererStage(DenoisingStage):
    """Base of both stages of the renderer. cond_drop_prob: of reference and face, for classifier-free guidance."""

    family: MagicDance

    def __init__(self, *args, cond_drop_prob: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.cond_drop_prob = cond_drop_prob

    @property
    def animator(self) -> Animator:
        """The renderer's networks."""
        return self.family.animator

    def renderer_loss(
        self,
        latents: Tensor,
        reference_latents: Tensor,
        faces: FaceFeatures | None,
        boxes: Tensor,
        parts: Tensor,
        independent_frames: bool = False,
    ) -> dict[str, Tensor]:
        """Denoising loss of latents (B, C, F, h, w), whose frames have DensePose parts (B, F, H, W).

        reference_latents (B, C, h, w): of the reference images, whose heads are in boxes (B, 4), of `head_boxes`.
        independent_frames: frames are images, not a video.
        """
        animator = self.animator
        # samples without reference and face are the last ones of the network's batch
        is_dropped = self.random.rand(len(latents)) < self.cond_drop_prob
        num_with_condition = len(latents) - int(is_dropped.sum())
        order = is_dropped.byte().argsort(stable=True)
        latents, reference_latents, boxes, parts = (x[order] for x in (latents, reference_latents, boxes, parts))
        faces = None if faces is None else FaceFeatures(*(x[order] for x in vars(faces).values()))
        random = self.random.select(order)
        reference = animator.background.encode_reference(reference_latents)
        if animator.head_drop_prob and faces is not None:
            num_references = len(reference_latents)
            is_masked = random.rand(num_references, device=reference_latents.device) < animator.head_drop_prob
            reference = animator.mask_heads(reference, boxes, faces, is_masked)
        reference = animator.background.with_pose(reference, parts)
        reference = animator.paste_faces(reference, faces, parts)
        x0 = animator.background.to_residual(latents, reference)
        text = animator.text_encoder([""]).to(x0.device).expand(len(x0), -1, -1)
        pose_features = animator.controlnet.encode_condition(densepose_to_rgb(parts))
        face_tokens = None
        if faces is not None:
            has_condition = torch.arange(len(x0), device=x0.device) < num_with_condition
            face_tokens = faces.tokens * has_condition[:, None, None]
        noisy_sample = self.add_noise(x0, animator.noise_schedule, random)
        reference = reference.map(lambda tensor: tensor[:num_with_condition])
        model_output = animator.predict(
            noisy_sample.x, noisy_sample.t, reference, pose_features, face_tokens, text, independent_frames
        )
        return self.denoising_loss(model_output, noisy_sample)


def jitter_boxes(boxes: Tensor, random: BatchRandom = GLOBAL_RANDOM) -> Tensor:
    """Jitter exact boxes (B, 4) as a detector does. The standard deviations match most of 55 images of the world."""
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    center = center + CENTER_JITTER * size * random.randn_like(center)
    half_size = size / 2 * (SCALE_JITTER * random.randn_like(size[:, :1])).exp()
    return torch.cat([center - half_size, center + half_size], 1)


class ImageStage(_RendererStage):
    """Denoise frames of a clip, given another frame of it and their DensePose parts. Clips are frames in no order.

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
        self.estimate_latent_scale, self.latent_cache = estimate_latent_scale, LatentCache(latent_cache_size)

    @classmethod
    def required_keys(cls, family: MagicDance, **_: Any) -> tuple[str, ...]:
        """Frames and their DensePose parts."""
        return ("key", "frames", "frame_indices", "parts")

    @classmethod
    def trainable_paths(cls, family: MagicDance, train_spatial_layers: bool = False, **_: Any) -> list[str]:
        """Appearance encoder, ControlNet, face encoder with the attention to it, and perhaps the U-Net's layers."""
        animator = family.part("animator")
        paths = ["appearance_encoder", "controlnet"]
        if animator.face is not None:
            paths.append("face")
        if animator.background.figure_segmenter is not None:
            paths += ["background.reference_conv", "background.figure_segmenter"]
        if train_spatial_layers:
            paths += [f"unet.{path}" for path in animator.unet.spatial_modules()]
        else:
            paths += [f"unet.{path}" for path, _ in animator.unet.named_modules() if path.endswith(".attn_face")]
        return [f"animator.{path}" for path in paths]

    def fit_normalizers(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Estimate the scale of the latents on the first batches."""
        if self.estimate_latent_scale:
            estimate_scales(self.animator.codec, self.animator.background, take_batches(batches))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Denoising loss of the other frames, given the first one; perhaps the figure segmenter's loss."""
        frames, parts = batch["frames"], batch["parts"]
        latents = self.latent_cache.encode_frames(
            self.animator.codec.encode, frames, batch["key"], batch["frame_indices"]
        )
        boxes = jitter_boxes(head_boxes(parts[:, 0]), self.random)
        faces = self.animator.encode_faces(frames[:, 0], boxes)
        losses = self.renderer_loss(
            latents[:, 1:].movedim(1, 2), latents[:, 0], faces, boxes, parts[:, 1:], independent_frames=True
        )
        segmenter = self.animator.background.figure_segmenter
        if segmenter is not None:
            losses["figure"] = segmenter.loss(latents[:, 0], parts[:, 0])
        return losses


class VideoStage(_RendererStage):
    """Denoise a window of a clip, given any frame of the clip and the window's DensePose parts.

    latent_cache_size: clips whose latents stay in memory.
    """

    def __init__(self, *args, latent_cache_size: int = 0, train_spatial_layers: bool = False, **kwargs):
        """train_spatial_layers: train the layers of single frames too (MagicAnimate freezes them)."""
        super().__init__(*args, options={"train_spatial_layers": train_spatial_layers}, **kwargs)
        self.latent_cache = LatentCache(latent_cache_size)

    @classmethod
    def required_keys(cls, family: MagicDance, **_: Any) -> tuple[str, ...]:
        """Windows of video and their DensePose parts."""
        return ("key", "frames", "parts")

    @classmethod
    def trainable_paths(cls, family: MagicDance, train_spatial_layers: bool = False, **_: Any) -> list[str]:
        """The motion modules, and perhaps the rest of the U-Net."""
        unet = family.part("animator").unet
        trained_modules = unet.temporal_modules() | (unet.spatial_modules() if train_spatial_layers else {})
        return [f"animator.unet.{path}" for path in trained_modules]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Denoising loss of a random window of each clip, given a random frame."""
        frames, parts, window_length = batch["frames"], batch["parts"], self.animator.num_frames
        if frames.shape[1] < window_length:
            raise ValueError(
                f"clips of {frames.shape[1]} frames are shorter than windows of {window_length}: set clip.num_frames"
            )
        (latents,) = self.latent_cache.get_or_compute(
            batch["key"], lambda index: (self.animator.codec.encode(frames[index]),)
        )
        latents = latents.to(frames.device)
        clip_index = torch.arange(len(frames), device=frames.device)
        reference_index = self.random.randint(frames.shape[1], len(frames), device=frames.device)
        start = self.random.randint(frames.shape[1] - window_length + 1, len(frames), 1, device=frames.device)
        window_indices = start + torch.arange(window_length, device=frames.device)
        boxes = jitter_boxes(head_boxes(parts[clip_index, reference_index]), self.random)
        with torch.no_grad():
            faces = self.animator.encode_faces(frames[clip_index, reference_index], boxes)
        window_latents = latents[clip_index[:, None], window_indices].movedim(1, 2)
        return self.renderer_loss(
            window_latents,
            latents[clip_index, reference_index],
            faces,
            boxes,
            parts[clip_index[:, None], window_indices],
        )
