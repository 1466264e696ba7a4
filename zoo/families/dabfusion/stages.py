"""How DabFusion is trained: the latent-flow autoencoder (sec. 3.1), then the diffuser of its flows (sec. 3.2)."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.batch import Batch
from zoo.diffusion.denoiser import Denoiser
from zoo.families.base import Stage
from zoo.families.dabfusion.blocks import warp
from zoo.families.dabfusion.equivariance import Bend, equivariance
from zoo.families.dabfusion.family import DabFusion
from zoo.families.dabfusion.limbs import astray, mirrored, misplaced, uncovered
from zoo.nn.perceptual_loss import PerceptualLoss

DROP_MUSIC = 0.1  # share of clips that hear nothing, for classifier-free guidance (LFDM's public code)
SEEN = 7.5  # weight of `misplaced` and `uncovered` beside `astray`: means over pictures that are mostly background


class FlowStage(Stage):
    """Rebuild one frame of a clip from another: perceptual loss at four scales (eq. 2), equivariance of the regions.

    A batch's clips are frames in no order (`num_sampled_frames`): the second is rebuilt from the first. vgg: file of
    torchvision's VGG-19 weights, see `PerceptualLoss`. equivariance: weight of both its losses (10 in MRAA's and LFDM's
    public code).

    Two helps that the paper does without, for a tiny autoencoder. guide: weight of `astray`, which shows the regions
    where limbs are, of `misplaced`, which shows the flow what moves with which of them, and of `uncovered`, which shows
    the occlusion map where the body has left; the data must say so. Without it what is painted is worth nothing in the
    beginning, so that everything is held to be visible, and nothing learns to paint. Guided regions learn nothing from
    what is rebuilt: it led them astray in a hundred steps. They need many pictures and little time: only the first
    `rebuilt` clips of a batch are rebuilt (None: all), and in the first `alone` steps none is, since a flow has nothing
    to learn from regions that lie anywhere. In the first `coloured` steps clips are seen in other colours, for dancers
    that nobody has met; the rest is for the batch norms, which count in evaluation what they saw last. warped: weight
    of the likeness of the source that is merely warped. In the rebuilt picture whatever is moved wrongly is soon held
    to be occluded and painted over, and its flow learns no more.
    """

    def __init__(
        self,
        *args,
        vgg_weights: str | None = None,
        equivariance_weight: float = 10.0,
        limb_supervision_weight: float = 0.0,
        num_reconstructed_clips: int | None = None,
        supervision_warmup_steps: int = 0,
        color_augment_steps: int = 0,
        warp_loss_weight: float = 0.0,
        **kwargs,
    ):
        """Raises ValueError when regions are to be guided to limbs and are not `limbs`."""
        super().__init__(*args, options={"limb_supervision_weight": limb_supervision_weight}, **kwargs)
        self.equivariance_weight, self.warp_loss_weight = equivariance_weight, warp_loss_weight
        self.limb_supervision_weight = limb_supervision_weight
        self.num_reconstructed_clips, self.color_augment_steps = num_reconstructed_clips, color_augment_steps
        self.supervision_warmup_steps = supervision_warmup_steps
        self.likeness = PerceptualLoss(vgg_weights)
        if limb_supervision_weight and not self.family.autoencoder.region_predictor.limbs:
            raise ValueError("limb_supervision_weight needs limb_regions=true; set it to 0")

    @classmethod
    def required_keys(cls, family: DabFusion, limb_supervision_weight: float = 0.0, **_: Any) -> tuple[str, ...]:
        """Images; with limb supervision also joints and DensePose parts."""
        return ("frames", "joints2d", "parts") if limb_supervision_weight else ("frames",)

    @classmethod
    def trainable_paths(cls, family: DabFusion, **_: Any) -> list[str]:
        """Encoder, decoder, region and flow predictors."""
        return ["autoencoder"]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Likeness of the rebuilt frames, and how far the regions are from following a bend of the picture."""
        autoencoder = self.family.autoencoder
        clips, joints, parts = self._shown(batch)
        if self._alone():
            return self._guided(clips, joints, parts)
        source, driving = clips[: self.num_reconstructed_clips, :2].unbind(1)
        count = len(source)
        others = clips[count:].flatten(0, 1) if self.limb_supervision_weight else clips[:0, 0]
        bend = Bend(count, driving.device)
        regions = autoencoder.region_predictor(torch.cat([source, driving, others, bend.picture(driving)]))
        made = autoencoder(source, driving, regions.detach() if self.limb_supervision_weight else regions)
        with torch.autocast(source.device.type, enabled=False):
            there, bent = regions.select(slice(count, 2 * count)), regions.select(slice(-count, None))
            shift, axes = equivariance(there, bent, bend)
            losses = {
                "likeness": self.likeness(made.picture.float(), driving),
                "shift": self.equivariance_weight * shift,
                "axes": self.equivariance_weight * axes,
            }
            if self.warp_loss_weight:
                losses["warped"] = self.warp_loss_weight * self.likeness(warp(source, made.flow), driving)
            if self.limb_supervision_weight:
                true = torch.cat([joints[:count, 0], joints[:count, 1], joints[count:].flatten(0, 1)])
                before, after = parts[:count, :2].unbind(1)
                losses["astray"] = self.limb_supervision_weight * astray(regions.heatmap[: len(true)], true)
                losses["misplaced"] = SEEN * self.limb_supervision_weight * misplaced(made.shares, after)
                losses["uncovered"] = SEEN * self.limb_supervision_weight * uncovered(made.occlusion, before, after)
            return losses

    def _guided(self, clips: Tensor, joints: Tensor, parts: Tensor) -> dict[str, Tensor]:
        """Of all clips: where limbs are, what moves with them, what they uncover."""
        autoencoder, (source, driving), where = self.family.autoencoder, clips[:, :2].unbind(1), joints[:, :2]
        regions = autoencoder.region_predictor(torch.cat([source, driving]))
        here, there = regions.detach().select(slice(0, len(clips))), regions.detach().select(slice(len(clips), None))
        _, occlusion, shares = autoencoder.motion(source, driving, here, there)
        idle = sum(each.sum() for each in autoencoder.parameters())  # DDP waits for everybody's gradient ...
        with torch.autocast(source.device.type, enabled=False):
            return {
                "astray": self.limb_supervision_weight * astray(regions.heatmap, where.transpose(0, 1).flatten(0, 1))
                + 0 * idle,
                "misplaced": SEEN * self.limb_supervision_weight * misplaced(shares, parts[:, 1]),
                "uncovered": SEEN * self.limb_supervision_weight * uncovered(occlusion, *parts[:, :2].unbind(1)),
            }

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """... but Adam would take so many zeros for small gradients, and the first true one would move it far."""
        if self._alone():
            guided = ("region_predictor.", "generator.pixelwise_flow_predictor.")
            for name, each in self.family.autoencoder.named_parameters():
                if not name.startswith(guided):
                    each.grad = None

    def _alone(self) -> bool:
        return bool(self.limb_supervision_weight) and self.global_step < self.supervision_warmup_steps

    def _shown(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Pictures in [0, 1]; with a guide joints in [0, 1] and parts too.

        In training guided clips are seen in other colours, see `coloured`, and every other one, by chance, in a mirror.
        """
        clips = (batch["frames"] + 1) / 2
        if not self.limb_supervision_weight:
            return clips, None, None
        joints, parts = batch["joints2d"] / clips.new_tensor(clips.shape[:-3:-1]), batch["parts"]
        if not self.training:
            return clips, joints, parts
        chance = torch.rand(len(clips), 10, device=clips.device)
        if self.global_step < self.color_augment_steps:
            order, gain, lift = chance[:, :3].argsort(1), 0.7 + 0.6 * chance[:, 3:6], 0.2 * chance[:, 6:9] - 0.1
            order, gain, lift = (each[:, None, :, None, None] for each in (order, gain, lift))
            clips = (clips.gather(2, order.expand_as(clips)) * gain + lift).clamp(0, 1)
        given = clips, joints, parts
        turned = chance[:, 9] < 0.5
        return tuple(
            torch.where(turned.view(-1, *[1] * (one.ndim - 1)), other, one)
            for one, other in zip(given, mirrored(*given), strict=True)
        )


class DiffusionStage(Stage):
    """Denoise the flows and occlusions between a clip's first frame and its others, while hearing the music (eq. 6).

    The frozen autoencoder gives what is diffused, without decoding a frame: no loss looks at one. A family that hears
    text is told the style instead (Table 6). velocity: weight of the same error of what changes from frame to frame, as
    EDGE has it (its eq. 4; 0 in the paper): without it a tiny U-Net is late in seeing that a dance is one in time.
    kept: clips whose flows are kept in memory (0.4 MB each at tiny size), so that they are worked out once and not
    every time they come.
    """

    def __init__(self, *args, latent_cache_size: int = 0, velocity_weight: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.latent_cache_size, self.velocity_weight, self._kept = latent_cache_size, velocity_weight, {}

    @classmethod
    def required_keys(cls, family: DabFusion, **_: Any) -> tuple[str, ...]:
        """Clips with their music, or with their style, and perhaps with beats."""
        condition = ("music", "music_rate") if family.text is None else ("style",)
        return ("key", "frames", *condition, *(("beats", "beat_phase") if family.beats else ()))

    @classmethod
    def trainable_paths(cls, family: DabFusion, **_: Any) -> list[str]:
        """The U-Net and the music embedding."""
        return ["unet", "music_embedding"]

    def fit_normalizers(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Fit the music scaling in one pass."""
        scaling = self.family.music_scale.running_moments()
        for batch in batches():
            scaling.add(batch["music"] if self.family.text is None else self.family.words(batch["style"]))
        scaling.finish()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of what the U-Net predicts, at a random step of the schedule."""
        family = self.family
        x0, z0 = self._volumes(batch)
        beats = None
        if family.beats:
            beats = torch.cat([batch["beats"][:, 1:, None], batch["beat_phase"][:, 1:]], -1)
        if family.text is None:
            heard = family.hear(batch["music"], batch["music_rate"], beats, x0.shape[2], start=1)
        else:
            heard = family.read(batch["style"], beats, x0.shape[2])
        t = torch.randint(family.schedule.config.num_train_timesteps, (len(x0),), device=x0.device)
        keep = torch.rand(len(x0), 1, 1, device=x0.device) >= DROP_MUSIC
        condition = family.music_embedding(heard) * keep
        noise = torch.randn_like(x0)
        denoiser = Denoiser(lambda x, t: answer, family.schedule)
        x = denoiser.add_noise(x0, noise, t)
        answer = family.unet(x, t, (z0, condition)).float()
        losses = {"noise": (answer - denoiser.target(x0, noise, t)).square().mean()}
        if self.velocity_weight:
            off = denoiser(x, t) - x0
            losses["velocity"] = self.velocity_weight * off.diff(dim=2).square().mean()
        return losses

    @torch.no_grad()
    def _volumes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Volumes (B, 3, F, h, w) of a batch's clips, and what is shown of their first frames (B, C, h, w)."""
        found = []
        for key, clip in zip(batch["key"], (batch["frames"] + 1) / 2, strict=True):
            if key not in self._kept:
                # rounded whether they are kept or not, so that a resumed run computes with the same ones
                made = [part.half().cpu() for part in self._volume(clip)]
                if len(self._kept) < self.latent_cache_size:
                    self._kept[key] = made
            found.append(self._kept.get(key) or made)
        return tuple(torch.stack([one.to(batch["frames"]) for one in parts]) for parts in zip(*found, strict=True))

    def _volume(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """One clip (1 + F, 3, H, W) in [0, 1] -> (3, F, h, w) and (C, h, w)"""
        family, autoencoder = self.family, self.family.autoencoder
        count = len(clip) - 1
        if count != family.frames:
            raise ValueError(
                f"clips of {count + 1} frames for a model of {family.frames}: set clip.num_frames={family.frames + 1}"
            )
        regions = autoencoder.region_predictor(clip)
        here, there = regions.select(slice(0, 1)), regions.select(slice(1, None))
        source = clip[:1].expand(count, -1, -1, -1)
        flow, occlusion, _ = autoencoder.motion(source, clip[1:], here.expand(count), there)
        shown = family.shown(clip[:1], autoencoder.encode(clip[:1])[-1], here)
        return family.to_volume(flow, occlusion).movedim(1, 0), shown[0]
