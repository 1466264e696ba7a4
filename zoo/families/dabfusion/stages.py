"""How DabFusion is trained: the latent-flow autoencoder (sec. 3.1), then the diffuser of its flows (sec. 3.2)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from zoo.batch import Batch
from zoo.diffusion.denoiser import Denoiser
from zoo.families.base import Stage
from zoo.families.dabfusion.blocks import warp
from zoo.families.dabfusion.losses import LIMBS, Bend, Likeness, astray, equivariance, misplaced

DROP_MUSIC = 0.1  # share of clips that hear nothing, for classifier-free guidance (LFDM's public code)
MISPLACED = 5.0  # beside `astray`: of a picture mostly background, whose mean is small
SURE = 3.0  # a logit: 95% visible
EQUIVARIANCE = 10.0  # weight of both equivariance losses (MRAA's and LFDM's public code)


class FlowStage(Stage):
    """Rebuild one frame of a clip from another: perceptual loss at four scales (eq. 2), equivariance of the regions.

    pairs: frame pairs drawn from each clip. vgg: file of torchvision's VGG-19 weights, see `Likeness`.

    Three helps that the paper does without, for a tiny autoencoder, which has minutes where the paper has days. guide:
    weight of `astray`, which shows the regions where limbs are, on `shown` frames more for every pair, and of
    `misplaced`, which shows the flow what moves with which of them; the data must say so. warped: weight of the
    likeness of the source that is merely warped. In the rebuilt picture whatever is moved wrongly is soon held to be
    occluded and painted over, and its flow learns no more. doubt: weight of how far the occlusion map's logits lie
    above `SURE`. What is painted is worth nothing in the beginning, so that everything is held to be visible, at last
    so surely that nobody learns to paint.
    """

    needs = ("frames",)

    def __init__(
        self,
        *args,
        pairs: int = 1,
        vgg: str | None = None,
        guide: float = 0.0,
        shown: int = 0,
        warped: float = 0.0,
        doubt: float = 0.0,
        **kwargs,
    ):
        """Raises ValueError when regions are to be guided to limbs of which there are more or fewer."""
        super().__init__(*args, **kwargs)
        self.pairs, self.guide, self.shown, self.warped, self.doubt = pairs, guide, shown, warped, doubt
        self.likeness = Likeness(vgg)
        if guide:
            self.needs = ("frames", "joints2d", "parts")
            count = self.family.autoencoder.region_predictor.regions.out_channels
            if count != len(LIMBS):
                raise ValueError(f"model.stages.flow.guide shows {len(LIMBS)} limbs to {count} regions; set it to 0")

    def trainable(self) -> dict[str, nn.Module]:
        """Encoder, decoder, region and flow predictors."""
        return {"autoencoder": self.family.autoencoder}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Likeness of the rebuilt frame, and how far the regions are from following a bend of the picture."""
        clips = (batch["frames"] + 1) / 2
        rows = torch.arange(len(clips), device=clips.device).repeat(self.pairs)
        picks = torch.randint(clips.shape[1], (2 + self.shown, len(rows)), device=clips.device)
        source, driving, *others = (clips[rows, pick] for pick in picks)
        bend = Bend(len(driving), driving.device)
        made = self.family.autoencoder(source, driving, *others, bend.picture(driving))
        with torch.autocast(source.device.type, enabled=False):
            shift, axes = equivariance(made.regions[1], made.regions[-1], bend)
            losses = {
                "likeness": self.likeness(made.picture.float(), driving),
                "shift": EQUIVARIANCE * shift,
                "axes": EQUIVARIANCE * axes,
            }
            if self.warped:
                losses["warped"] = self.warped * self.likeness(warp(source, made.flow), driving)
            if self.doubt:
                losses["doubt"] = self.doubt * (made.occlusion.logit(1e-6) - SURE).relu().mean()
            if self.guide:
                joints = batch["joints2d"][rows, picks] / clips.new_tensor(clips.shape[:-3:-1])  # (.., pairs, 24, 2)
                found = [astray(regions, its) for regions, its in zip(made.regions, joints, strict=False)]
                losses["astray"] = self.guide * torch.stack(found).mean()
                losses["misplaced"] = MISPLACED * self.guide * misplaced(made.shares, batch["parts"][rows, picks[1]])
            return losses


class DiffusionStage(Stage):
    """Denoise the flows and occlusions between a clip's first frame and its others, while hearing the music (eq. 6).

    The frozen autoencoder gives what is diffused, without decoding a frame: no loss looks at one. A family that hears
    text is told the style instead (Table 6). kept: clips whose flows are kept in memory (0.4 MB each at 128x128), so
    that they are worked out once and not every time they come.
    """

    needs = ("key", "frames", "music", "music_rate", "beats", "fps")

    def __init__(self, *args, kept: int = 0, **kwargs):
        super().__init__(*args, **kwargs)
        self.kept, self._kept = kept, {}
        if self.family.text is not None:
            self.needs = ("key", "frames", "style", "fps", *(["beats"] if self.family.beats else []))

    def trainable(self) -> dict[str, nn.Module]:
        """The U-Net and its view of the music."""
        return {"unet": self.family.unet, "music_embedding": self.family.music_embedding}

    def prepare(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Fit the music scaling in one pass."""
        scaling = self.family.music_scale.fitting()
        for batch in batches():
            scaling.add(batch["music"] if self.family.text is None else self.family.words(batch["style"]))
        scaling.finish()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of what the U-Net predicts, at a random step of the schedule."""
        family = self.family
        x0, z0 = self._volumes(batch)
        marks = batch["beats"].cpu() if "beats" in self.needs else []
        beats = [row.nonzero()[:, 0].numpy() / float(batch["fps"]) for row in marks]
        if family.text is None:
            heard = family.hear(batch["music"], batch["music_rate"], beats, x0.shape[2], start=1)
        else:
            heard = family.read(batch["style"], beats, x0.shape[2], start=1)
        t = torch.randint(family.schedule.config.num_train_timesteps, (len(x0),), device=x0.device)
        keep = torch.rand(len(x0), 1, 1, device=x0.device) >= DROP_MUSIC
        condition = family.music_embedding(heard) * keep
        noise = torch.randn_like(x0)
        denoiser = Denoiser(lambda x, t: x, family.schedule)
        answer = family.unet(denoiser.noised(x0, noise, t), t, (z0, condition))
        return {"noise": (answer.float() - denoiser.target(x0, noise, t)).square().mean()}

    @torch.no_grad()
    def _volumes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Volumes (B, 3, F, h, w) of a batch's clips, and the latents (B, C, h, w) of their first frames."""
        found = []
        for key, clip in zip(batch["key"], (batch["frames"] + 1) / 2, strict=True):
            if key not in self._kept:
                # rounded whether they are kept or not, so that a resumed run computes with the same ones
                made = [part.half().cpu() for part in self._volume(clip)]
                if len(self._kept) < self.kept:
                    self._kept[key] = made
            found.append(self._kept.get(key) or made)
        return tuple(torch.stack([one.to(batch["frames"]) for one in parts]) for parts in zip(*found, strict=True))

    def _volume(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """One clip (1 + F, 3, H, W) in [0, 1] -> (3, F, h, w) and (C, h, w)"""
        family, autoencoder = self.family, self.family.autoencoder
        count = len(clip) - 1
        if count != family.frames:
            raise ValueError(
                f"clips of {count + 1} frames for a model of {family.frames}: fit.diffusion.clip.seconds is to be "
                f"{(family.frames + 1) / float(family.fps):.4f}"
            )
        regions = autoencoder.region_predictor(clip)
        here, there = regions.select(slice(0, 1)).expand(count), regions.select(slice(1, None))
        flow, occlusion, _ = autoencoder.motion(clip[:1].expand(count, -1, -1, -1), clip[1:], here, there)
        return family.to_volume(flow, occlusion).movedim(1, 0), autoencoder.encode(clip[:1])[-1][0]
