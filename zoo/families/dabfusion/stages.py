"""Training of DabFusion: the latent-flow autoencoder (sec. 3.1), then the diffusion of its flows (sec. 3.2)."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.batch import Batch
from zoo.diffusion.losses import add_training_noise, denoising_loss
from zoo.families.base import Stage
from zoo.families.dabfusion.blocks import warp
from zoo.families.dabfusion.equivariance import RandomTPS, equivariance_losses
from zoo.families.dabfusion.family import DabFusion
from zoo.families.dabfusion.limbs import flip_horizontal, heatmap_kl_loss, limb_assignment_loss, occlusion_loss
from zoo.families.latent.cache import LatentCache
from zoo.nn.perceptual_loss import PerceptualLoss

COND_DROP_PROB = 0.1  # of training without music or text, for classifier-free guidance (LFDM's public code)
# weight of the limb assignment and occlusion losses, which are means over mostly background, beside the heat-map loss
DENSE_LOSS_WEIGHT = 7.5
# prefixes of the autoencoder's parameters that limb supervision trains: all others get no gradient in the warm-up
SUPERVISED_MODULES = ("region_predictor.", "generator.pixelwise_flow_predictor.")


class FlowStage(Stage):
    """Train the autoencoder to reconstruct one frame of a clip from another.

    The losses are the perceptual loss at four scales (eq. 2) and the equivariance of the regions. The frames of a clip
    come in random order (`clip.num_sampled_frames`): the second is reconstructed from the first.

    Two additions that are not in the paper help a tiny autoencoder:

    Limb supervision (`limb_supervision_weight`): region heat maps learn the limbs, the flow's weights the DensePose
    parts, and the occlusion map the background that the body uncovers. Without it the decoder's output is useless at
    first, so everything becomes visible, and the decoder does not learn. The supervised regions get no gradient from
    the reconstruction, which led them astray within a hundred steps.

    Warp loss (`warp_loss_weight`): the perceptual loss of the source that is only warped. In the reconstruction, pixels
    with a wrong flow soon become occluded and inpainted, and their flow stops learning.
    """

    family: DabFusion

    def __init__(
        self,
        *args: Any,
        vgg_weights: str | None,  # file of torchvision's VGG-19, see `PerceptualLoss`
        equivariance_weight: float,  # of both equivariance losses; 10 in MRAA's and LFDM's public code
        limb_supervision_weight: float,  # 0: regions without supervision, as in the paper
        num_reconstructed_clips: int | None,  # first clips of a batch that are reconstructed; regions need more images
        supervision_warmup_steps: int,  # first steps, with limb supervision only: regions must settle before flows
        color_augment_steps: int,  # first steps, with random colours; batch norms settle on true colours after them
        warp_loss_weight: float,
        **kwargs: Any,
    ):
        """Raises ValueError for limb supervision of an autoencoder without `limb_regions`."""
        super().__init__(*args, options={"limb_supervision_weight": limb_supervision_weight}, **kwargs)
        self.equivariance_weight, self.warp_loss_weight = equivariance_weight, warp_loss_weight
        self.limb_supervision_weight = limb_supervision_weight
        self.num_reconstructed_clips = num_reconstructed_clips
        self.supervision_warmup_steps, self.color_augment_steps = supervision_warmup_steps, color_augment_steps
        self.perceptual_loss = PerceptualLoss(vgg_weights)
        if limb_supervision_weight and not self.family.autoencoder.region_predictor.limb_regions:
            raise ValueError(
                "limb_supervision_weight must be 0 for an autoencoder with limb_regions=false: its regions are no limbs"
            )

    @classmethod
    def required_keys(cls, family: DabFusion, limb_supervision_weight: float = 0.0, **options: Any) -> tuple[str, ...]:
        """Images, and with limb supervision also joints and DensePose parts."""
        return ("frames", "joints2d", "parts") if limb_supervision_weight else ("frames",)

    @classmethod
    def trainable_paths(cls, family: DabFusion, **options: Any) -> list[str]:
        """Encoder, decoder, region and flow predictors."""
        return ["autoencoder"]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Perceptual loss of the reconstruction, equivariance of the regions, and the additions of the class."""
        autoencoder = self.family.autoencoder
        clips, joints, parts = self._augmented_clips(batch)
        if self._is_warming_up():
            return self._supervision_losses(clips, joints, parts)
        is_supervised, supervision_weight = bool(self.limb_supervision_weight), self.limb_supervision_weight
        source, driving = clips[: self.num_reconstructed_clips, :2].unbind(1)
        num_reconstructed = len(source)
        region_only_images = clips[num_reconstructed:].flatten(0, 1) if is_supervised else clips[:0, 0]
        transform = RandomTPS(num_reconstructed, driving.device, random=self.random.select(range(num_reconstructed)))
        images = torch.cat([source, driving, region_only_images, transform.transform_images(driving)])
        regions = autoencoder.region_predictor(images)
        output = autoencoder(source, driving, regions.detach() if is_supervised else regions)
        with torch.autocast(source.device.type, enabled=False):
            driving_regions = regions.select(slice(num_reconstructed, 2 * num_reconstructed))
            transformed_regions = regions.select(slice(-num_reconstructed, None))
            shift, affine = equivariance_losses(driving_regions, transformed_regions, transform)
            losses = {
                "perceptual": self.perceptual_loss(output.image.float(), driving),
                "equivariance_shift": self.equivariance_weight * shift,
                "equivariance_affine": self.equivariance_weight * affine,
            }
            if self.warp_loss_weight:
                losses["warp"] = self.warp_loss_weight * self.perceptual_loss(warp(source, output.flow), driving)
            if is_supervised:
                reconstructed_joints, other_joints = joints[:num_reconstructed], joints[num_reconstructed:]
                target_joints = torch.cat(
                    [reconstructed_joints[:, 0], reconstructed_joints[:, 1], other_joints.flatten(0, 1)]
                )
                source_parts, driving_parts = parts[:num_reconstructed, :2].unbind(1)
                dense_weight = DENSE_LOSS_WEIGHT * supervision_weight
                heatmap = regions.heatmap[: len(target_joints)]
                losses["heatmap"] = supervision_weight * heatmap_kl_loss(heatmap, target_joints)
                losses["limb_assignment"] = dense_weight * limb_assignment_loss(output.weights, driving_parts)
                losses["occlusion"] = dense_weight * occlusion_loss(output.occlusion, source_parts, driving_parts)
            return losses

    def _supervision_losses(self, clips: Tensor, joints: Tensor, parts: Tensor) -> dict[str, Tensor]:
        """Return the three losses of limb supervision, for all clips."""
        autoencoder, (source, driving) = self.family.autoencoder, clips[:, :2].unbind(1)
        num_clips, target_joints = len(clips), joints[:, :2].transpose(0, 1).flatten(0, 1)
        regions = autoencoder.region_predictor(torch.cat([source, driving]))
        source_regions = regions.detach().select(slice(0, num_clips))
        driving_regions = regions.detach().select(slice(num_clips, None))
        _, occlusion, region_weights = autoencoder.predict_motion(source, driving, source_regions, driving_regions)
        zero = self.zero_loss()
        supervision_weight = self.limb_supervision_weight
        dense_weight = DENSE_LOSS_WEIGHT * supervision_weight
        with torch.autocast(source.device.type, enabled=False):
            return {
                "heatmap": supervision_weight * heatmap_kl_loss(regions.heatmap, target_joints) + zero,
                "limb_assignment": dense_weight * limb_assignment_loss(region_weights, parts[:, 1]),
                "occlusion": dense_weight * occlusion_loss(occlusion, *parts[:, :2].unbind(1)),
            }

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Drop zero gradients: they would lower Adam's second moments, so that the first true one moves weights far."""
        if self._is_warming_up():
            for name, parameter in self.family.autoencoder.named_parameters():
                if not name.startswith(SUPERVISED_MODULES):
                    parameter.grad = None

    def _is_warming_up(self) -> bool:
        return bool(self.limb_supervision_weight) and self.global_step < self.supervision_warmup_steps

    def _augmented_clips(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return images in [0, 1]; with limb supervision also joints in [0, 1] and parts.

        In training, supervised clips get random colours (`color_augment_steps`) and are flipped with probability 1/2.
        """
        clips = (batch["frames"] + 1) / 2
        if not self.limb_supervision_weight:
            return clips, None, None
        joints, parts = batch["joints2d"] / clips.new_tensor(clips.shape[:-3:-1]), batch["parts"]
        if not self.training:
            return clips, joints, parts
        uniform = self.random.rand(len(clips), 10, device=clips.device)
        if self.global_step < self.color_augment_steps:
            channel_order = uniform[:, :3].argsort(1)[:, None, :, None, None]
            gain, offset = (uniform[:, None, first_column : first_column + 3, None, None] for first_column in (3, 6))
            gain, offset = 0.7 + 0.6 * gain, 0.2 * offset - 0.1
            clips = (clips.gather(2, channel_order.expand_as(clips)) * gain + offset).clamp(0, 1)
        unflipped = clips, joints, parts
        is_flipped = uniform[:, 9] < 0.5
        return tuple(
            torch.where(is_flipped.view(-1, *[1] * (value.ndim - 1)), flipped, value)
            for value, flipped in zip(unflipped, flip_horizontal(*unflipped), strict=True)
        )


class DiffusionStage(Stage):
    """Denoise the flows and occlusions from a clip's first frame to its others, conditioned on music (eq. 6).

    The frozen autoencoder computes the targets; no frame is decoded. A model on text is conditioned on the clip's style
    instead (Table 6).
    """

    family: DabFusion

    def __init__(
        self,
        *args: Any,
        latent_cache_size: int,  # clips whose flows stay in memory (0.4 MB each at size=tiny)
        velocity_weight: float,  # of the error of frame differences (EDGE eq. 4); 0 in the paper
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.velocity_weight = velocity_weight
        self.latent_cache = LatentCache(latent_cache_size)

    @classmethod
    def required_keys(cls, family: DabFusion, **options: Any) -> tuple[str, ...]:
        """Clips with their music, or with their style, and perhaps with beats."""
        condition_keys = ("music", "music_rate") if family.text_encoder is None else ("style",)
        return ("key", "frames", *condition_keys, *(("beats", "beat_phase") if family.beat_dim else ()))

    @classmethod
    def trainable_paths(cls, family: DabFusion, **options: Any) -> list[str]:
        """The U-Net and the music embedding."""
        return ["unet", "music_embedding"]

    def fit_normalizers(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Fit the normaliser of the condition in one pass."""
        family = self.family
        moments = family.music_scale.running_moments()
        for batch in batches():
            moments.add(batch["music"] if family.text_encoder is None else family.encode_texts(batch["style"]))
        moments.finish()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Denoising loss of the U-Net at a random step of the schedule."""
        family, schedule = self.family, self.family.noise_schedule
        x0, z0 = self._flow_volumes(batch)
        num_frames = x0.shape[2]
        beats = None
        if family.beat_dim:
            beats = torch.cat([batch["beats"][:, 1:, None], batch["beat_phase"][:, 1:]], -1)
        if family.text_encoder is None:
            features = family.align_music(batch["music"], batch["music_rate"], beats, num_frames, start=1)
        else:
            features = family.encode_style(batch["style"], beats, num_frames)
        t = self.random.randint(schedule.config.num_train_timesteps, len(x0), device=x0.device)
        is_conditional = self.random.rand(len(x0), 1, 1, device=x0.device) >= COND_DROP_PROB
        condition = family.music_embedding(features) * is_conditional
        noisy_sample = add_training_noise(x0, t, schedule, random=self.random)
        model_output = family.unet(noisy_sample.x, t, (z0, condition))
        return denoising_loss(model_output, noisy_sample, self.velocity_weight)

    def _flow_volumes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the packed flows (B, 3, F, h, w) of a batch's clips, and z0 of their first frames (B, C, h, w)."""
        clips = (batch["frames"] + 1) / 2
        volumes, z0 = self.latent_cache.get_or_compute(batch["key"], lambda index: self._encode_clip(clips[index]))
        return volumes.to(batch["frames"]), z0.to(batch["frames"])

    def _encode_clip(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """One clip (1 + F, 3, H, W) in [0, 1] -> packed flows (3, F, h, w) and z0 (C, h, w)."""
        family, autoencoder = self.family, self.family.autoencoder
        num_flows = len(clip) - 1
        if num_flows != family.num_frames:
            raise ValueError(
                f"clips of {num_flows + 1} frames for windows of {family.num_frames} flows: "
                f"clip.num_frames must be {family.num_frames + 1}"
            )
        regions = autoencoder.region_predictor(clip)
        source_regions, driving_regions = regions.select(slice(0, 1)), regions.select(slice(1, None))
        source = clip[:1].expand(num_flows, -1, -1, -1)
        flow, occlusion, _ = autoencoder.predict_motion(
            source, clip[1:], source_regions.expand(num_flows), driving_regions
        )
        z0 = family.reference_condition(clip[:1], autoencoder.encode(clip[:1])[-1], source_regions)
        return family.codec.pack_flow(flow, occlusion).movedim(1, 0), z0[0]
