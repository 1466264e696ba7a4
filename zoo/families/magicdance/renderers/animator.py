"""MagicDance's renderer (sec. 3.3): MagicAnimate's networks, and a face encoder beside them.

An appearance encoder sees the picture, a ControlNet the DensePose parts of every frame, and a video U-Net, which also
attends to the face, denoises the frames' latents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import grid_sample, max_pool2d

from zoo.body.render.densepose import HEAD_PARTS, PART_COLORS, head_square
from zoo.diffusion.constraints import ReplaceKnownFrames
from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.guidance import ClassifierFreeGuidance
from zoo.diffusion.samplers import make_sampler, sample
from zoo.families.latent.stages import LatentPictures, Pictured
from zoo.families.latent.upgrade import upgrade_text_encoder, upgrade_unet
from zoo.nn.figure_segmentation import HEAD as HEAD_REGION
from zoo.nn.figure_segmentation import regions_of, without
from zoo.nn.temporal import positions
from zoo.nn.text import TokenTextEncoder
from zoo.nn.vae import picture_autoencoder
from zoo.nn.video_unet.unet import ControlNet, ReferenceNet, VideoUNet


@dataclass(frozen=True)
class Faces:
    """What is known of faces."""

    tokens: Tensor  # (B, L, dim)
    look: Tensor  # (B, C): the latents of each face's middle, on average
    squares: Tensor  # (B, 3, S, S): the pictures of them, in [-1, 1]
    there: Tensor  # (B,) bool: whether there is a face


class FaceEncoder(nn.Module):
    """The facial attention encoder: a face's latents become tokens to attend to.

    The paper says "a VAE-head based on the face proposal" and no more. Here the autoencoder of the frames codes the
    face's square, every patch of its latents is a token with the sines of its place, and two layers make it ready.
    """

    def __init__(self, latent_channels: int, dim: int, side: int, patch: int = 2):
        """dim: width of the tokens; side: pixels the face's square is brought to; patch: latents a token's side."""
        super().__init__()
        self.side, self.dim = side, dim
        self.patches = nn.Conv2d(latent_channels, dim, patch, patch)
        self.ready = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents of faces (B, C, h, w) -> tokens (B, L, dim)"""
        tokens = rearrange(self.patches(latents), "b d h w -> b (h w) d")
        tokens = tokens + positions(torch.arange(tokens.shape[1], device=tokens.device), self.dim).to(tokens.dtype)
        return self.norm(tokens + self.ready(tokens))


class Animator(LatentPictures, nn.Module):
    """All networks of the renderer."""

    def __init__(
        self,
        *,
        text_encoder: TokenTextEncoder,  # of the empty prompt, which MagicAnimate's networks expect
        vae: Mapping[str, Any],  # arguments of the autoencoder
        unet: Mapping[str, Any],  # arguments of `VideoUNet`
        pose_encoder_channels: Sequence[int],  # of the ControlNet's pose encoder
        face: Mapping[str, Any] | None,  # arguments of `FaceEncoder`; None: no face encoder
        head_drop_prob: float,  # in training: probability that a reference's head is masked
        background_residual: bool,  # diffuse the difference to the reference's background (not in the papers)
        resolution: int,  # pixels per side of the square frames
        num_frames: int,  # of one window
        num_context_frames: int,  # of them, the last of the previous window
        noise_schedule: Mapping[str, Any],  # name (animatediff, stable_diffusion, cosine), shift, prediction_type
        sampler: Mapping[str, Any],  # num_inference_steps, guidance_scale
    ):
        """Masked heads make the network take the head's appearance from the face encoder; the paper leaves open how
        its encoder matters beside the image. Raises ValueError for another schedule, and for context frames that do not
        fit in a window.
        """
        super().__init__()
        if not 0 <= num_context_frames < num_frames:
            raise ValueError(
                f"num_context_frames={num_context_frames} for windows of {num_frames} frames; use 0 to {num_frames - 1}"
            )
        self.words = text_encoder
        self.vae = picture_autoencoder(**vae)
        latent_channels = self.vae.config.latent_channels
        shared = dict(unet) | {"latent_channels": latent_channels, "text_dim": text_encoder.dim}
        self.face = None if face is None else FaceEncoder(latent_channels, **face)
        self.appearance = ReferenceNet(**shared | {"dropout": 0.0})
        self.controlnet = ControlNet(pose_encoder_channels, **shared | {"dropout": 0.0})
        face_dim = None if self.face is None else self.face.dim
        self.unet = VideoUNet(**shared, motion=True, jointly=True, face_dim=face_dim)
        # the down blocks do not attend to the reference
        self.blind = sum(len(level.attentions or ()) for level in self.unet.down_blocks)
        schedule, shift = noise_schedule["name"], noise_schedule["shift"]
        self.begin_latents(
            self.unet, background_residual, schedule, shift, noise_schedule["prediction_type"], driven=True
        )
        self.size, self.frames, self.overlap = resolution, num_frames, num_context_frames
        self.steps, self.guidance = sampler["num_inference_steps"], sampler["guidance_scale"]
        self.headless = head_drop_prob if self.face is not None else 0.0

    def faces(self, pictures: Tensor, boxes: Tensor) -> Faces | None:
        """The faces in pictures (B, 3, H, W) in [-1, 1], in boxes (B, 4) of `head_box`; None without encoder.

        A box that is not finite holds no face: its tokens are 0.
        """
        if self.face is None:
            return None
        there = boxes.isfinite().all(1)
        squares = cut_squares(pictures, boxes.nan_to_num(0.5), self.face.side)
        latents = self.encode(squares)
        tokens = self.face(latents)
        rows, columns = (slice(side // 4, side - side // 4) for side in latents.shape[2:])
        look = latents[:, :, rows, columns].mean((2, 3))
        return Faces(tokens * there[:, None, None].to(tokens.dtype), look, squares, there)

    @torch.no_grad()
    def faced(self, reference: Pictured, faces: Faces | None, parts: Tensor) -> Pictured:
        """References that are `driven` by parts (R, F, H, W), with their faces where the frames' heads are, as large.

        The face as the picture shows it takes the place of what the head's region looks like on average, and what is
        left to diffuse is how it is turned. Not in the paper, whose tokens have long to learn what faces look like.
        """
        if faces is None or reference.looks is None:
            return reference
        flat, frames = parts.flatten(0, 1), parts.shape[1]
        squares, there = (one.repeat_interleave(frames, 0) for one in (faces.squares, faces.there))
        boxes, sides = head_box(flat), reference.latents.shape[2:]
        # what lies around the head is enough to code: a third of the frame, on the latents' grid
        side = min(sides) // 3
        patches, corners = patches_of(squares, boxes.nan_to_num(0.5), side, sides, flat.shape[1] // sides[0])
        share = regions_of(flat, sides)[:, HEAD_REGION] * (there & boxes.isfinite().all(1))[:, None, None]
        base, latents = reference.base.clone(), self.encode(patches).to(reference.base)
        for index, (left, top) in enumerate(corners.tolist()):
            row, frame = divmod(index, frames)
            place = slice(top, top + side), slice(left, left + side)
            look = reference.looks[row, HEAD_REGION, :, None, None]
            base[row, :, frame][:, *place] += share[index][place] * (latents[index] - look)
        return replace(reference, base=base)

    def without_head(self, reference: Pictured, boxes: Tensor, faces: Faces, hidden: Tensor) -> Pictured:
        """The same references, the heads of those that are `hidden` (R,) taken out of them.

        boxes (R, 4) of `head_box`; of one that is not finite nothing is hidden. What a hidden head looks like on
        average is taken from its face.
        """
        there = within(boxes, reference.latents.shape[2:]).to(reference.latents)
        if reference.figure is not None:
            head = self.finder(reference.latents)[1][:, HEAD_REGION, None]  # and what stands up from it
            there = torch.maximum(there * reference.figure, max_pool2d((head > 0.2).to(there), 3, 1, 1))
            there = there * boxes.isfinite().all(1)[:, None, None, None]
        there = there * hidden[:, None, None, None].to(there)
        latents, looks = without(reference.latents, there), reference.looks
        if looks is not None:
            hidden = hidden & boxes.isfinite().all(1)
            head = torch.where(hidden[:, None], faces.look.to(looks), looks[:, HEAD_REGION])
            looks = torch.cat([looks[:, :HEAD_REGION], head[:, None], looks[:, HEAD_REGION + 1 :]], 1)
        return replace(reference, latents=latents, looks=looks)

    def predict(
        self,
        x: Tensor,
        t: Tensor,
        reference: Pictured,
        seen: Tensor,
        face: Tensor | None,
        text: Tensor,
        still: bool = False,
    ) -> Tensor:
        """The U-Net's answer to noisy latents x (B, C, F, h, w) at steps t (B,).

        reference: the pictures of the first R <= B samples, `driven`, the others see none; seen: guidance as
        `ControlNet.embed` has it, (B, ...), or that of the first half of guided pairs, who are else alike to the
        ControlNet; face: tokens (B, L, D); text (B, L, D); still: see `VideoUNet.prepare`.
        """
        pictured = len(reference.latents)
        features = self.appearance(reference.latents, t[:pictured], text[:pictured])
        features = [None] * self.blind + features[self.blind :]
        posed = len(seen)
        residuals = self.controlnet(x[:posed], t[:posed], self.controlnet.prepare(text[:posed]), seen)
        shown = self.shown(reference, x)
        # guided pairs differ by face and reference only, of which the way down sees the face
        pairs = 2 * posed == len(x) and face is None and shown is None
        if posed < len(x) and not pairs:  # as MagicAnimate's pipeline does, where it is asked once a frame
            residuals = [one.repeat(len(x) // posed, 1, 1, 1, 1) for one in residuals]
        request = self.unet.prepare(text, features, face=face, still=still)
        return self.unet(x, t, request, shown, residuals, pairs)

    @torch.no_grad()
    def window(
        self,
        reference: Pictured,
        faces: Faces | None,
        parts: Tensor,
        known: Tensor | None,
        draw: torch.Generator,
    ) -> Tensor:
        """Latents (F, C, h, w) of one window. reference: one; faces: its one; parts (F, H, W) 0..24; known
        (K, C, h, w): the first frames' latents, which are kept as they are.
        """
        weight, rule = self.guidance, make_sampler(self.schedule, self.steps)
        reference = self.faced(self.driven(reference, parts[None]), faces, parts[None])
        face = None if faces is None else faces.tokens
        text, seen = self.words([""]).to(self.device), self.controlnet.embed(coloured(parts)[None])
        if weight != 1:
            text = text.expand(2, -1, -1)
            face = None if face is None else torch.cat([face, torch.zeros_like(face)])
        denoiser = Denoiser(lambda x, t: self.predict(x, t, reference, seen, face, text).float(), self.schedule)
        guided = denoiser if weight == 1 else ClassifierFreeGuidance(denoiser, weight)
        channels, *size = reference.latents.shape[1:]
        shape = 1, channels, len(parts), *size
        fresh = torch.randn(shape, generator=draw).to(self.device)
        constraint = None
        if known is not None:
            kept = self.changed(known.movedim(0, 1)[None], reference)
            constraint = ReplaceKnownFrames.first_frames(kept, fresh, denoiser)
        made = self.whole(sample(guided, fresh, rule, None, 0.0, constraint, clamp=None), reference)
        made = rearrange(made[0], "c f h w -> f c h w")
        return made if known is None else torch.cat([known, made[len(known) :]])


def upgrade_animator(config: Mapping[str, Any]) -> dict[str, Any]:
    """The node of an `Animator` of config_version 1, with today's names."""
    defaults = {"guidance_channels": [16, 32, 96, 256], "face": None, "changes": False, "size": 512, "frames": 16}
    defaults |= {"overlap": 4, "schedule": "animatediff", "noisier": 1.0, "prediction": "epsilon", "steps": 25}
    old = defaults | {"guidance": 7.5, "headless": 0.0} | dict(config)
    return {
        "_target_": "zoo.families.magicdance.renderers.animator.Animator",
        "text_encoder": upgrade_text_encoder(old["words"]),
        "vae": old["vae"],
        "unet": upgrade_unet(old["unet"]),
        "pose_encoder_channels": old["guidance_channels"],
        "face": old["face"],
        "head_drop_prob": old["headless"],
        "background_residual": old["changes"],
        "resolution": old["size"],
        "num_frames": old["frames"],
        "num_context_frames": old["overlap"],
        "noise_schedule": {
            "name": old["schedule"],
            "shift": old["noisier"],
            "prediction_type": old["prediction"],
        },
        "sampler": {"num_inference_steps": old["steps"], "guidance_scale": old["guidance"]},
    }


def coloured(parts: Tensor) -> Tensor:
    """DensePose's parts (..., H, W) 0..24 as its videos colour them -> (..., 3, H, W) in [0, 1]"""
    colours = torch.from_numpy(PART_COLORS.copy()).to(parts.device).float() / 255
    return colours[parts.long()].movedim(-1, -3)


def head_box(parts: Tensor) -> Tensor:
    """Squares about the heads in parts (B, H, W), see `head_square`: (B, 4), on their device; or NaN."""
    squares = [head_square(np.isin(one, HEAD_PARTS)) for one in parts.cpu().numpy()]
    return torch.from_numpy(np.stack(squares)).to(parts.device)


def patches_of(squares: Tensor, boxes: Tensor, side: int, sides: tuple[int, int], scale: int) -> tuple[Tensor, Tensor]:
    """What frames show around boxes (B, 4) of shares in which squares (B, 3, S, S) are drawn; they go on outside.

    Cut on a grid of `sides` cells of `scale` pixels, `side` cells wide: (B, 3, side scale, side scale), and the cells
    at their left and top corners (B, 2).
    """
    cells = torch.tensor(sides[::-1], device=boxes.device)
    corners = ((boxes[:, :2] + boxes[:, 2:]) / 2 * cells - side / 2).round()
    corners = torch.minimum(corners.clamp(min=0), (cells - side).to(corners))
    pixels = (torch.arange(side * scale, device=boxes.device) + 0.5) / scale
    at = (corners[:, None] + pixels[:, None]) / cells  # (B, pixels, 2) in shares
    inside = (at - boxes[:, None, :2]) / (boxes[:, None, 2:] - boxes[:, None, :2]).clamp(min=1e-6) * 2 - 1
    x, y = (inside[..., axis] for axis in (0, 1))
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
    drawn = grid_sample(squares, grid.to(squares), mode="bilinear", padding_mode="border", align_corners=False)
    return drawn, corners.long()


def within(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """1 within boxes (B, 4), else 0: (B, 1, h, w); all 0 of one not finite."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    rows, columns = ((torch.arange(side, device=boxes.device) + 0.5) / side for side in size)
    x = (columns - middle[:, None, 0]).abs() <= half[:, None, 0]
    y = (rows - middle[:, None, 1]).abs() <= half[:, None, 1]
    return (y[:, None, :, None] & x[:, None, None]).float()


def cut_squares(pictures: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Squares of pictures (B, 3, H, W), at boxes (B, 4) of shares -> (B, 3, side, side); borders go on outside."""
    at = (torch.arange(side, device=boxes.device) + 0.5) / side
    x = boxes[:, None, 0] + (boxes[:, None, 2] - boxes[:, None, 0]) * at
    y = boxes[:, None, 1] + (boxes[:, None, 3] - boxes[:, None, 1]) * at
    grid = torch.stack([x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], -1) * 2 - 1
    return grid_sample(pictures, grid.to(pictures.dtype), mode="bilinear", padding_mode="border", align_corners=False)
