"""How MuseDance is trained: single frames first (sec. 3.2), then videos to their music (sec. 3.3).

Before both, at tiny size, the autoencoder in whose latents they work; at the paper's it is Stable Diffusion's, and is
never trained.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.batch import Batch
from zoo.families.latent.cache import LatentCache
from zoo.families.latent.stages import DenoisingStage, Pictured, take_batches
from zoo.families.musedance.family import MuseDance
from zoo.nn.figure_segmentation import region_loss
from zoo.nn.video_unet.conditioning import Conditioning

DROP = 0.1  # share of samples that read and hear nothing, for classifier-free guidance (the paper gives none)


class _Dancing(DenoisingStage):
    """What both stages of the paper share."""

    def read(self, captions: list[str], keep: Tensor) -> Tensor:
        """Their words (B, L, D); those that are not kept are empty."""
        kept = [line if one else "" for line, one in zip(captions, keep.tolist(), strict=True)]
        return self.family.words(kept).to(self.device)

    def of_noise(
        self, latents: Tensor, reference: Pictured, request: Conditioning, parts: Tensor | None
    ) -> dict[str, Tensor]:
        """The U-Net's error. latents (B, C, F, h, w) of dances from B references, whose parts are (B, F, H, W)"""
        family = self.family
        noisy = self.add_noise(family.changed(latents, reference), family.schedule)
        model_output, region_logits = family.imagine(noisy.x, noisy.t, request, reference)
        losses = self.denoising_loss(model_output, noisy)
        if region_logits is not None:
            losses["regions"] = region_loss(region_logits.movedim(2, 1).flatten(0, 1), parts.flatten(0, 1))
        return losses


class AppearanceStage(_Dancing):
    """Frames of a clip from another one (sec. 3.2): `clip.num_sampled_frames` frames of each clip, in no order.

    The first is the reference of the others. The paper has pairs; with more, what the reference's network sees serves
    several, which is what a step spends its time on.

    The DensePose mask of the reference is shown of half the samples, so that a picture without one will do (the paper's
    always has one). measures: the latents' scale is measured before, as of an autoencoder that was just trained. kept:
    frames whose latents are kept in memory.
    """

    def __init__(self, *args, estimate_latent_scale: bool = False, latent_cache_size: int = 0, **kwargs):
        super().__init__(*args, **kwargs)
        self.estimate_latent_scale, self.latent_cache = estimate_latent_scale, LatentCache(latent_cache_size)

    @classmethod
    def required_keys(cls, family: MuseDance, **_: Any) -> tuple[str, ...]:
        """Frames with their DensePose parts, and captions."""
        return ("key", "frames", "frame_indices", "parts", "caption")

    @classmethod
    def trainable_paths(cls, family: MuseDance, **_: Any) -> list[str]:
        """ReferenceNet, mask encoder, a trainable text encoder, and the U-Net without its temporal modules."""
        paths = ["reference_net", "mask_encoder"]
        if any(True for _ in family.words.parameters()):
            paths.append("words")
        if family.seen is not None:
            paths += ["seen", "finder"]
        return paths + [f"unet.{path}" for path in family.unet.spatial_modules()]

    def fit_normalizers(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Make the latents about as large as the noise, by the first batches."""
        if self.estimate_latent_scale:
            self.family.measure_scales(take_batches(batches))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The error of the other frames' noise, given the first."""
        family, frames = self.family, batch["frames"]
        chance = torch.rand(len(frames), 2, device=frames.device)
        latents = self.latent_cache.encode_frames(family.encode, frames, batch["key"], batch["frame_indices"])
        before, others = latents[:, 0], latents.shape[1] - 1
        shown = (chance[:, 0] < 0.5).view(-1, 1, 1, 1)
        seen = torch.where(shown, family.masked(before, batch["parts"][:, 0]), before)
        text = self.read(batch["caption"], chance[:, 1] >= DROP)
        reference = family.reference_net(seen, text=text)
        text, *reference = (one.repeat_interleave(others, 0) for one in (text, *reference))
        pictured = family.pictured(before).each(lambda one: one.repeat_interleave(others, 0))
        alone = latents[:, 1:].flatten(0, 1)[:, :, None]  # each with a step of its own
        parts = batch["parts"][:, 1:].flatten(0, 1)[:, None]
        losses = self.of_noise(
            alone, pictured, family.unet.precompute_conditioning(text, reference, use_motion_modules=False), parts
        )
        if family.finder is not None:
            losses["figure"] = family.finder.loss(before, batch["parts"][:, 0])
        return losses


class DynamicsStage(_Dancing):
    """A clip of a dance from a picture of the dancer, its caption and its music (sec. 3.3); see `trainable`.

    Clips are `past` frames longer than a window: these are what the window before would have ended with. kept: clips
    whose latents are kept in memory. begins: share of windows that begin a video, and have no past.
    """

    def __init__(
        self,
        *args,
        latent_cache_size: int = 0,
        no_context_prob: float = 0.25,
        train_spatial_layers: bool = False,
        **kwargs,
    ):
        """spatial: the layers that look at single frames go on learning too (the paper freezes their attention)."""
        super().__init__(*args, options={"train_spatial_layers": train_spatial_layers}, **kwargs)
        self.latent_cache, self.no_context_prob = LatentCache(latent_cache_size), no_context_prob

    @classmethod
    def required_keys(cls, family: MuseDance, **_: Any) -> tuple[str, ...]:
        """Windows of video with music and captions; with a region head also DensePose parts."""
        keys = ("key", "frames", "reference", "music", "music_rate", "beats", "beat_phase", "fps", "caption")
        return (*keys, "parts") if family.imagines else keys

    @classmethod
    def trainable_paths(cls, family: MuseDance, train_spatial_layers: bool = False, **_: Any) -> list[str]:
        """The temporal modules and the music tokens."""
        modules = family.unet.temporal_modules() | (family.unet.spatial_modules() if train_spatial_layers else {})
        paths = [f"unet.{path}" for path in modules]
        if any(True for _ in family.song_tokens.parameters()):
            paths.append("song_tokens")
        if train_spatial_layers and family.seen is not None:
            paths.append("seen")
        if not paths:
            raise ValueError(
                "music_conditions=[] and use_motion_modules=false leave nothing to train in stage dynamics"
            )
        return paths

    def fit_normalizers(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Fit the music scaling in one pass."""
        scaling = self.family.music_scale.running_moments()
        for batch in batches():
            scaling.add(batch["music"])
        scaling.finish()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The error of the window's noise."""
        family, past = self.family, self.family.past
        latents, references = self._latents(batch)
        count = latents.shape[2] - family.frames  # before the window; a family that sees no past may be given some
        if count < past:
            raise ValueError(
                f"clips of {latents.shape[2]} frames are shorter than a window of {family.frames} and {past} context "
                f"frames: set clip.num_frames={family.frames + past}"
            )
        x0, before = latents[:, :, count:], latents[:, :, count - past : count]
        chance = torch.rand(len(x0), 2, device=x0.device)
        keep = chance[:, 0] >= DROP
        text = self.read(batch["caption"], keep)
        with torch.no_grad():
            reference = family.reference_net(references, text=text)
        rate, late = batch["music_rate"], count / float(family.fps)
        music = batch["music"][:, round(late * rate) :]
        heard = family.tokens(music, rate, batch["beats"][:, count:], batch["beat_phase"][:, count:])
        heard = {name: tokens * keep[:, None, None] for name, tokens in heard.items()}
        pictured = family.pictured(references)
        if past and torch.rand(()) >= self.no_context_prob:
            pictured = family.following(pictured, before)
            with torch.no_grad():
                flat = before.movedim(2, 1).flatten(0, 1)
                found = family.reference_net(flat, text=text.repeat_interleave(past, 0))
            seen = [one.unflatten(0, (-1, past)) for one in found]
        else:
            seen = []
        parts = batch["parts"][:, count:] if family.imagines else None
        return self.of_noise(x0, pictured, family.unet.precompute_conditioning(text, reference, seen, heard), parts)

    def _latents(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Latents of a batch's clips (B, C, F, h, w) and references (B, C, h, w)."""
        frames, references = batch["frames"], batch["reference"]

        def encode_clip(index: int) -> tuple[Tensor]:
            return (self.family.encode(torch.cat([frames[index], references[index, None]])),)

        (latents,) = self.latent_cache.get_or_compute(batch["key"], encode_clip)
        latents = latents.to(frames.device)
        return latents[:, :-1].movedim(1, 2), latents[:, -1]
