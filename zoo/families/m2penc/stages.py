"""Training of M2PEnc (sec. 3.4, 4.1): true guidance first, then music to pose, then images and video to music.

At size=paper, stage pose_image is replaced by Champ's public weights.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.batch import Batch
from zoo.families.base import Stage
from zoo.families.latent.background import ReferenceContext, estimate_scales
from zoo.families.latent.cache import LatentCache
from zoo.families.latent.stages import DenoisingStage, spatial_paths, take_batches
from zoo.families.m2penc.family import M2PEnc
from zoo.families.m2penc.guidance import guidance_images, guidance_keys
from zoo.families.m2penc.joint_accuracy import JointAccuracy
from zoo.families.m2penc.music_to_pose import (
    HEATMAP_SIGMA,
    expected_joints,
    guidance_loss,
    heatmap_loss,
    joint_density,
)
from zoo.nn.figure_segmentation import region_loss
from zoo.nn.video_unet.conditioning import Conditioning

MIN_DENSITY = 1e-5  # of a cell that no joint of the first batches comes near
MUSIC_KEYS = ("key", "music", "music_rate", "beat_phase", "fps")


def encode_batch_music(family: M2PEnc, batch: Batch) -> tuple[Tensor, Tensor]:
    """Guidance (B, C, N, G, G) and heat-map logits (B, 24, N, G, G) of a batch's whole clips."""
    times = torch.arange(batch["beat_phase"].shape[1], device=batch["music"].device) / batch["fps"]
    return family.encode_music(batch["music"], batch["music_rate"], times, batch["beat_phase"])


class _TrueGuidance:
    """The guidance of the true maps at the music-to-pose network's grid, cached clip by clip."""

    def __init__(self, family: M2PEnc, max_clips: int):
        self.family, self.cache = family, LatentCache(max_clips)

    def __call__(self, batch: Batch) -> Tensor:
        """(B, C, N, G, G)"""
        encoders = self.family.guidance_encoders
        images = guidance_images(batch, encoders.kinds)
        grid_size = (self.family.music_to_pose.grid_size,) * 2

        def encode_clip(index: int) -> tuple[Tensor]:
            features = encoders({kind: image[index, None] for kind, image in images.items()})
            return (self.family.resize_guidance(features, grid_size)[0],)

        (guidance,) = self.cache.get_or_compute(batch["key"], encode_clip)
        return guidance.to(batch["music"].device)


class EncoderStage(Stage):
    """Train the music-to-pose network alone, by both losses of sec. 3.4.

    Its targets are the features of the frozen guidance encoders, and joints. It needs data in which the motion is a
    function of the music, such as data=sdgpip: a regression learns nothing from motion that the music does not decide.
    """

    regresses_motion = True
    family: M2PEnc

    def __init__(
        self,
        *args,
        estimate_guidance_std: bool = False,  # so that the guidance loss does not depend on the encoders' scale
        estimate_means: bool = False,  # the network learns deviations from the mean guidance and the mean heat maps
        heatmap_sigma: float = HEATMAP_SIGMA,  # of a joint's density, in cells of the grid
        use_divergence: bool = False,  # in the loss of heat maps, see `heatmap_loss`
        latent_cache_size: int = 0,  # clips whose true guidance stays in memory
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.estimate_guidance_std, self.estimate_means = estimate_guidance_std, estimate_means
        self.heatmap_sigma, self.use_divergence = heatmap_sigma, use_divergence
        self.joint_accuracy = JointAccuracy()
        self.true_guidance = _TrueGuidance(self.family, latent_cache_size)

    @classmethod
    def required_keys(cls, family: M2PEnc, **_: Any) -> tuple[str, ...]:
        """Music, joints, the maps of the setup, and songs for the baseline of another song."""
        return (*MUSIC_KEYS, "song", "joints2d", *guidance_keys(family.guidance_encoders.kinds))

    @classmethod
    def trainable_paths(cls, family: M2PEnc, **_: Any) -> list[str]:
        """The music-to-pose network."""
        return ["music_to_pose"]

    def fit_normalizers(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Fit the music normaliser in one pass, and means and scale of the targets on the first batches."""
        moments = self.family.music_scale.running_moments()
        for batch in batches():
            moments.add(batch["music"])
        moments.finish()
        if not (self.estimate_guidance_std or self.estimate_means):
            return
        family = self.family
        guidance_values, densities = [], []
        for batch in take_batches(batches):
            guidance_values.append(self.true_guidance(batch).movedim(1, 2).flatten(0, 1))  # (B N, C, G, G)
            joints = self._joints_in_cells(batch)
            densities.append(joint_density(joints, family.music_to_pose.grid_size, self.heatmap_sigma)[0].flatten(0, 1))
        guidance = torch.cat(guidance_values)
        if self.estimate_means:
            family.guidance_mean.copy_(guidance.mean(0)[:, None])
            mean_density = torch.cat(densities).mean(0)  # (24, G, G)
            family.heatmap_mean.copy_((mean_density + MIN_DENSITY).log()[:, None])
        if self.estimate_guidance_std:
            # untrained encoders give zeros
            family.guidance_std.fill_((guidance - family.guidance_mean[:, 0]).std().item() or 1.0)

    def _joints_in_cells(self, batch: Batch) -> Tensor:
        """True joints (B, N, 24, 2) in cells of the grid."""
        image_side = batch[guidance_keys(self.family.guidance_encoders.kinds)[0]].shape[-1]
        return batch["joints2d"] * (self.family.music_to_pose.grid_size / image_side)

    def on_validation_epoch_start(self) -> None:
        """Forget the joints of the last validation."""
        self.joint_accuracy = JointAccuracy()

    def on_validation_epoch_end(self) -> None:
        """Log and print how well the joints of the held-out clips are met; each process has some of the clips."""
        accuracies = self.joint_accuracy.values()
        self.log_dict({f"val/{name}": value for name, value in accuracies.items()}, sync_dist=True)
        self.print(self.joint_accuracy.summary(), flush=True)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Errors of guidance and heat maps. Validation collects the joints too."""
        guidance, logits = encode_batch_music(self.family, batch)
        joints = self._joints_in_cells(batch)
        if not self.training:
            self.joint_accuracy.add(expected_joints(logits).movedim(1, 2), joints, batch["song"])
        return {
            "guidance": guidance_loss(guidance, self.true_guidance(batch), self.family.guidance_std),
            "heatmaps": heatmap_loss(logits, joints, self.heatmap_sigma, self.use_divergence),
        }


class _FrameStage(DenoisingStage):
    """Base of the stages that train the U-Net.

    The paper's pixel loss between a predicted frame and a random frame of the video is read as Champ's: the error of
    what the U-Net predicts, in latents, with another frame of the video as the reference. cond_drop_prob: of batches
    without reference and image token, for classifier-free guidance (Champ: 0.1).
    """

    # text attention with one key needs no queries; steps without condition need no ReferenceNet
    has_unused_parameters = True
    family: M2PEnc

    def __init__(self, *args, cond_drop_prob: float = 0.0, latent_cache_size: int = 0, **kwargs):
        super().__init__(*args, **kwargs)
        self.cond_drop_prob, self.latent_cache = cond_drop_prob, LatentCache(latent_cache_size)

    def encode_image(
        self, images: Tensor, latents: Tensor, copies: int, use_motion_modules: bool
    ) -> tuple[Conditioning, ReferenceContext]:
        """Conditions of reference images (B, 3, H, W) with their latents, each for `copies` samples."""
        family = self.family
        token = family.image_encoder(images, latents)
        features = family.reference_net(latents, text=token)
        if self.random.step_rand() < self.cond_drop_prob:
            token, features = torch.zeros_like(token), []
        token, *features = (tensor.repeat_interleave(copies, 0) for tensor in (token, *features))
        conditioning = family.unet.precompute_conditioning(token, features, use_motion_modules=use_motion_modules)
        reference = family.background.encode_reference(latents)
        return conditioning, reference.map(lambda tensor: tensor.repeat_interleave(copies, 0))

    def frames_loss(
        self,
        latents: Tensor,
        reference: ReferenceContext,
        conditioning: Conditioning,
        guidance: Tensor,
        parts: Tensor | None,
    ) -> dict[str, Tensor]:
        """The U-Net's losses for latents (B, C, F, h, w) of frames, given B references."""
        family = self.family
        noisy_sample = self.add_noise(family.background.to_residual(latents, reference), family.noise_schedule)
        model_output, region_logits = family.predict(noisy_sample.x, noisy_sample.t, conditioning, reference, guidance)
        losses = self.denoising_loss(model_output, noisy_sample)
        if region_logits is not None and parts is not None:
            losses["regions"] = region_loss(region_logits.movedim(2, 1).flatten(0, 1), parts.flatten(0, 1))
        return losses


class PoseImageStage(_FrameStage):
    """Denoise frames of a clip, given another one and their true maps: `clip.num_sampled_frames` frames, in no order.

    The first frame is the reference of the others.
    """

    def __init__(self, *args, estimate_latent_scale: bool = False, **kwargs):
        """estimate_latent_scale: first, for an autoencoder that was just trained."""
        super().__init__(*args, **kwargs)
        self.estimate_latent_scale = estimate_latent_scale

    @classmethod
    def required_keys(cls, family: M2PEnc, **_: Any) -> tuple[str, ...]:
        """Frames with the maps of the setup."""
        keys = ("key", "frames", "frame_indices", "parts", *guidance_keys(family.guidance_encoders.kinds))
        return tuple(dict.fromkeys(keys))

    @classmethod
    def trainable_paths(cls, family: M2PEnc, **_: Any) -> list[str]:
        """All that draws: guidance encoders, ReferenceNet, a trainable image encoder, the U-Net's spatial layers."""
        return ["guidance_encoders", "reference_net", *spatial_paths(family, "image_encoder")]

    def fit_normalizers(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Estimate the scale of the latents on the first batches."""
        if self.estimate_latent_scale:
            estimate_scales(self.family.codec, self.family.background, take_batches(batches))

    def guidance(self, batch: Batch) -> Tensor:
        """Guidance (B, C, F, h, w) of the batch's frames."""
        encoders = self.family.guidance_encoders
        return encoders(guidance_images(batch, encoders.kinds))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Denoising loss of the other frames, given the first one; perhaps the figure segmenter's loss."""
        family, frames = self.family, batch["frames"]
        latents = self.latent_cache.encode_frames(family.codec.encode, frames, batch["key"], batch["frame_indices"])
        reference_latents, num_targets = latents[:, 0], latents.shape[1] - 1
        conditioning, reference = self.encode_image(
            frames[:, 0], reference_latents, num_targets, use_motion_modules=False
        )
        targets = latents[:, 1:].flatten(0, 1)[:, :, None]  # videos of one frame, each at a step of its own
        guidance = self.guidance(batch)[:, :, 1:].movedim(2, 1).flatten(0, 1)[:, :, None]
        parts = batch["parts"][:, 1:].flatten(0, 1)[:, None] if "parts" in batch else None
        losses = self.frames_loss(targets, reference, conditioning, guidance, parts)
        segmenter = family.background.figure_segmenter
        if segmenter is not None and any(parameter.requires_grad for parameter in segmenter.parameters()):
            losses["figure"] = segmenter.loss(reference_latents, batch["parts"][:, 0])
        return losses


class ImageStage(PoseImageStage):
    """The same with the guidance that the frozen music-to-pose network predicts.

    The paper gives the encoder the features of single frames. Here it takes the whole clip, and the sampled frames'
    guidance is taken out of it, because at sampling no frame is without its neighbours.
    """

    regresses_motion = True  # the predicted guidance has to fit the frames

    @classmethod
    def required_keys(cls, family: M2PEnc, **_: Any) -> tuple[str, ...]:
        """Frames with music."""
        keys = (*MUSIC_KEYS, "frames", "frame_indices")
        return (*keys, "parts") if family.background.predict_regions else keys

    @classmethod
    def trainable_paths(cls, family: M2PEnc, **_: Any) -> list[str]:
        """ReferenceNet and the U-Net's spatial layers."""
        return ["reference_net", *(f"unet.{path}" for path in family.unet.spatial_modules())]

    @torch.no_grad()
    def guidance(self, batch: Batch) -> Tensor:
        """See PoseImageStage."""
        guidance, _ = encode_batch_music(self.family, batch)
        indices = batch["frame_indices"]  # of a stored clip: the window has to be the clip
        if indices.max() >= guidance.shape[2]:
            raise ValueError(
                "stage image needs windows of whole clips: set clip.num_frames and fps to the stored clips'"
            )
        return torch.stack([clip[:, index] for clip, index in zip(guidance, indices, strict=True)])


class VideoStage(_FrameStage):
    """Denoise windows of a clip: 0.5 pixel loss + 0.5 guidance loss (sec. 3.4).

    The music-to-pose network takes the whole clip, the U-Net a window of it at a random place. Gradients of both losses
    reach the music-to-pose network. Without `train_music_to_pose` it stays as stage encoder left it, and there is no
    guidance loss.
    """

    regresses_motion = True

    def __init__(
        self,
        *args,
        train_spatial_layers: bool = False,  # of the U-Net; the paper freezes them
        train_music_to_pose: bool = True,
        guidance_cache_size: int = 0,  # clips whose true guidance stays in memory
        **kwargs,
    ):
        options = {"train_spatial_layers": train_spatial_layers, "train_music_to_pose": train_music_to_pose}
        super().__init__(*args, options=options, **kwargs)
        self.train_music_to_pose = train_music_to_pose
        self.true_guidance = _TrueGuidance(self.family, guidance_cache_size)

    @classmethod
    def required_keys(cls, family: M2PEnc, train_music_to_pose: bool = True, **_: Any) -> tuple[str, ...]:
        """Video with music, and with the maps of the setup for the guidance loss."""
        keys = (*MUSIC_KEYS, "frames", "reference")
        if train_music_to_pose:
            keys += guidance_keys(family.guidance_encoders.kinds)
        return tuple(dict.fromkeys((*keys, "parts") if family.background.predict_regions else keys))

    @classmethod
    def trainable_paths(
        cls, family: M2PEnc, train_spatial_layers: bool = False, train_music_to_pose: bool = True, **_: Any
    ) -> list[str]:
        """The U-Net's temporal layers, perhaps the music-to-pose network and the rest of the U-Net."""
        modules = family.unet.temporal_modules() | (family.unet.spatial_modules() if train_spatial_layers else {})
        return ["music_to_pose"] * train_music_to_pose + [f"unet.{path}" for path in modules]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses of one window and of the whole clip's guidance."""
        family, frames, references = self.family, batch["frames"], batch["reference"]

        def encode_clip(index: int) -> tuple[Tensor]:
            return (family.codec.encode(torch.cat([frames[index], references[index, None]])),)

        (latents,) = self.latent_cache.get_or_compute(batch["key"], encode_clip)
        latents = latents.to(frames.device)
        clip_latents, reference_latents = latents[:, :-1].movedim(1, 2), latents[:, -1]
        num_frames = clip_latents.shape[2]
        if num_frames < family.num_frames:
            raise ValueError(f"clips of {num_frames} frames are shorter than a window of {family.num_frames}")
        with torch.set_grad_enabled(self.train_music_to_pose):
            guidance, _ = encode_batch_music(family, batch)
        start = self.random.step_randint(num_frames - family.num_frames + 1)
        window = slice(start, start + family.num_frames)
        with torch.no_grad():
            conditioning, reference = self.encode_image(references, reference_latents, 1, use_motion_modules=True)
        parts = batch["parts"][:, window] if family.background.predict_regions else None
        losses = self.frames_loss(clip_latents[:, :, window], reference, conditioning, guidance[:, :, window], parts)
        if not self.train_music_to_pose:
            return losses
        losses["guidance"] = guidance_loss(guidance, self.true_guidance(batch), family.guidance_std)
        return {name: 0.5 * value for name, value in losses.items()}
