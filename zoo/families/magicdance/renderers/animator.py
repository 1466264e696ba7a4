"""Networks of MagicDance's renderer (sec. 3.3): MagicAnimate's, and a face encoder.

An appearance encoder encodes the reference image, and a ControlNet the DensePose parts of every frame. A video U-Net,
which also attends to the face, denoises the latents of the frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import grid_sample, max_pool2d

from zoo.body.render.densepose import HEAD_PARTS, PART_COLORS, head_square
from zoo.diffusion.constraints import ReplaceKnownFrames
from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.guidance import ClassifierFreeGuidance
from zoo.diffusion.samplers import make_sampler, sample
from zoo.diffusion.schedules import make_noise_schedule
from zoo.families.latent.background import BackgroundResidual, DirectLatents, ReferenceContext
from zoo.families.latent.codec import LatentCodec
from zoo.families.latent.upgrade import upgrade_text_encoder, upgrade_unet
from zoo.nn.figure_segmentation import HEAD_REGION, inpaint_background, region_masks
from zoo.nn.temporal import sinusoidal_positions
from zoo.nn.text import TokenTextEncoder
from zoo.nn.vae import build_vae
from zoo.nn.video_unet.controlnet import ControlNet
from zoo.nn.video_unet.reference_net import ReferenceNet
from zoo.nn.video_unet.unet import VideoUNet


@dataclass(frozen=True)
class FaceFeatures:
    """Faces of B images."""

    tokens: Tensor  # (B, L, D) of `FaceEncoder`, 0 without a face
    mean_latent: Tensor  # (B, C): mean of the latents in the middle half of the crop
    crops: Tensor  # (B, 3, S, S) in [-1, 1]
    is_valid: Tensor  # (B,) bool: the image has a face


class FaceEncoder(nn.Module):
    """Facial attention encoder: the latents of a face become tokens for cross-attention.

    The paper says "a VAE-head based on the face proposal" and no more. Here the autoencoder of the frames encodes a
    square crop of the face. Each patch of latents is a token with a sinusoidal position, followed by an MLP.
    """

    def __init__(
        self,
        latent_channels: int,  # of the autoencoder
        *,
        dim: int,  # D, width of the tokens
        crop_size: int,  # S, pixels per side of the crop
        patch_size: int,  # latents per side of a token
    ):
        super().__init__()
        self.crop_size, self.dim = crop_size, dim
        self.patches = nn.Conv2d(latent_channels, dim, patch_size, patch_size)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents of faces (B, C, h, w) -> tokens (B, L, D)"""
        tokens = rearrange(self.patches(latents), "b d h w -> b (h w) d")
        tokens = tokens + sinusoidal_positions(torch.arange(tokens.shape[1], device=tokens.device), self.dim).to(
            tokens.dtype
        )
        return self.norm(tokens + self.mlp(tokens))


class Animator(nn.Module):
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
        make_noise_schedule(**noise_schedule)  # refuses wrong values
        self.noise_schedule_config = dict(noise_schedule)
        # the order of the networks decides their initial weights, which are drawn from one generator
        self.text_encoder = text_encoder
        self.codec = LatentCodec(build_vae(**vae))
        latent_channels = self.codec.latent_channels
        shared = dict(unet) | {"latent_channels": latent_channels, "text_dim": text_encoder.dim}
        self.face = None if face is None else FaceEncoder(latent_channels, **face)
        self.appearance_encoder = ReferenceNet(**shared | {"dropout": 0.0})
        self.controlnet = ControlNet(pose_encoder_channels, **shared | {"dropout": 0.0})
        face_dim = None if self.face is None else self.face.dim
        self.unet = VideoUNet(**shared, use_motion_modules=True, norm_across_frames=True, face_dim=face_dim)
        # the down blocks do not attend to the reference
        self.num_blocks_without_reference = sum(len(level.attentions or ()) for level in self.unet.down_blocks)
        self.background = DirectLatents()
        if background_residual:
            self.background = BackgroundResidual(latent_channels, self.unet.conv_in.out_channels, pose_driven=True)
        self.resolution, self.num_frames, self.num_context_frames = resolution, num_frames, num_context_frames
        self.num_inference_steps, self.guidance_scale = sampler["num_inference_steps"], sampler["guidance_scale"]
        self.head_drop_prob = head_drop_prob if self.face is not None else 0.0

    @property
    def noise_schedule(self) -> DDPMScheduler:
        """The noise schedule of the diffused residuals."""
        return make_noise_schedule(**self.noise_schedule_config)

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.codec.device

    def encode_faces(self, images: Tensor, boxes: Tensor) -> FaceFeatures | None:
        """Encode the faces of images (B, 3, H, W) in [-1, 1], in boxes (B, 4) of `head_boxes`; None without encoder.

        A box that is not finite holds no face: its tokens are 0.
        """
        if self.face is None:
            return None
        is_valid = boxes.isfinite().all(1)
        crops = crop_boxes(images, boxes.nan_to_num(0.5), self.face.crop_size)
        latents = self.codec.encode(crops)
        tokens = self.face(latents)
        middle_rows, middle_columns = (slice(side // 4, side - side // 4) for side in latents.shape[2:])
        mean_latent = latents[:, :, middle_rows, middle_columns].mean((2, 3))
        return FaceFeatures(tokens * is_valid[:, None, None].to(tokens.dtype), mean_latent, crops, is_valid)

    @torch.no_grad()
    def paste_faces(self, reference: ReferenceContext, faces: FaceFeatures | None, parts: Tensor) -> ReferenceContext:
        """Paste the reference's face over the head region of each frame's base, scaled to the frame's head.

        reference: of `with_pose`, with the same parts (R, F, H, W). The face replaces the mean latent of the head
        region. Only its turns are left to diffuse. Not in the paper, whose face tokens are trained much longer.
        """
        if faces is None or reference.region_means is None:
            return reference
        frame_parts, num_frames = parts.flatten(0, 1), parts.shape[1]
        crops, is_valid = (tensor.repeat_interleave(num_frames, 0) for tensor in (faces.crops, faces.is_valid))
        boxes, latent_size = head_boxes(frame_parts), reference.latents.shape[2:]
        # encoding the surroundings of the head is enough: a third of the frame, on the grid of latents
        side = min(latent_size) // 3
        pixels_per_latent = frame_parts.shape[1] // latent_size[0]
        patches, corners = crop_patches(crops, boxes.nan_to_num(0.5), side, latent_size, pixels_per_latent)
        masks = region_masks(frame_parts, latent_size)[:, HEAD_REGION]
        masks = masks * (is_valid & boxes.isfinite().all(1))[:, None, None]
        residual_base = reference.residual_base.clone()
        patch_latents = self.codec.encode(patches).to(residual_base)
        for patch_index, (left, top) in enumerate(corners.tolist()):
            reference_index, frame = divmod(patch_index, num_frames)
            patch_window = slice(top, top + side), slice(left, left + side)
            head_mean = reference.region_means[reference_index, HEAD_REGION, :, None, None]
            residual_base[reference_index, :, frame][:, *patch_window] += masks[patch_index][patch_window] * (
                patch_latents[patch_index] - head_mean
            )
        return replace(reference, residual_base=residual_base)

    def mask_heads(
        self, reference: ReferenceContext, boxes: Tensor, faces: FaceFeatures, is_masked: Tensor
    ) -> ReferenceContext:
        """Inpaint the heads of the references where is_masked (R,), and take their mean latents from `faces`.

        boxes: (R, 4) of `head_boxes`; one that is not finite masks nothing.
        """
        mask = box_mask(boxes, reference.latents.shape[2:]).to(reference.latents)
        if reference.foreground_mask is not None:
            head_prob = self.background.figure_segmenter(reference.latents)[1][:, HEAD_REGION, None]
            mask = mask * reference.foreground_mask
            # hair may stand up from the box
            mask = torch.maximum(mask, max_pool2d((head_prob > 0.2).to(mask), 3, 1, 1))
            mask = mask * boxes.isfinite().all(1)[:, None, None, None]
        mask = mask * is_masked[:, None, None, None].to(mask)
        latents, region_means = inpaint_background(reference.latents, mask), reference.region_means
        if region_means is not None:
            is_masked = is_masked & boxes.isfinite().all(1)
            head_mean = torch.where(
                is_masked[:, None], faces.mean_latent.to(region_means), region_means[:, HEAD_REGION]
            )
            region_means = torch.cat(
                [region_means[:, :HEAD_REGION], head_mean[:, None], region_means[:, HEAD_REGION + 1 :]], 1
            )
        return replace(reference, latents=latents, region_means=region_means)

    def predict(
        self,
        x: Tensor,
        t: Tensor,
        reference: ReferenceContext,
        pose_features: Tensor,
        face_tokens: Tensor | None,
        text: Tensor,
        independent_frames: bool = False,
    ) -> Tensor:
        """Output of the U-Net for noisy latents x (B, C, F, h, w) at timesteps t (B,).

        reference: of `with_pose`, of the first R <= B samples; the others have none. pose_features (B, ...): of
        `ControlNet.encode_condition`, or of the first half of a batch for classifier-free guidance, whose halves have
        the same poses. face_tokens (B, L, D); text (B, L, D). independent_frames: frames are images, not a video.
        """
        num_references = len(reference.latents)
        reference_features = self.appearance_encoder(reference.latents, t[:num_references], text[:num_references])
        num_skipped = self.num_blocks_without_reference
        reference_features = [None] * num_skipped + reference_features[num_skipped:]
        num_poses = len(pose_features)
        block_residuals = self.controlnet(
            x[:num_poses], t[:num_poses], self.controlnet.precompute_conditioning(text[:num_poses]), pose_features
        )
        cond_features = self.background.reference_condition(reference, x)
        # the halves of a guided batch differ by face and reference only; the down blocks attend to the face
        share_cfg_encoder = 2 * num_poses == len(x) and face_tokens is None and cond_features is None
        if num_poses < len(x) and not share_cfg_encoder:  # as MagicAnimate's pipeline, which asks once per frame
            block_residuals = [residual.repeat(len(x) // num_poses, 1, 1, 1, 1) for residual in block_residuals]
        conditioning = self.unet.precompute_conditioning(
            text, reference_features, face=face_tokens, use_motion_modules=not independent_frames
        )
        return self.unet(x, t, conditioning, cond_features, block_residuals, share_cfg_encoder)

    @torch.no_grad()
    def sample_window(
        self,
        reference: ReferenceContext,
        faces: FaceFeatures | None,
        parts: Tensor,
        context_latents: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:
        """Sample latents (F, C, h, w) of one window.

        reference, faces: of one image; parts (F, H, W) 0..24; context_latents (K, C, h, w): of the window's first
        frames, which stay as they are.
        """
        guidance_scale, sampler = self.guidance_scale, make_sampler(self.noise_schedule, self.num_inference_steps)
        reference = self.background.with_pose(reference, parts[None])
        reference = self.paste_faces(reference, faces, parts[None])
        face_tokens = None if faces is None else faces.tokens
        text = self.text_encoder([""]).to(self.device)
        pose_features = self.controlnet.encode_condition(densepose_to_rgb(parts)[None])
        if guidance_scale != 1:
            text = text.expand(2, -1, -1)
            face_tokens = None if face_tokens is None else torch.cat([face_tokens, torch.zeros_like(face_tokens)])

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return self.predict(x, t, reference, pose_features, face_tokens, text).float()

        denoiser = Denoiser(predict, self.noise_schedule)
        guided_denoiser = denoiser if guidance_scale == 1 else ClassifierFreeGuidance(denoiser, guidance_scale)
        channels, *latent_size = reference.latents.shape[1:]
        noise = torch.randn((1, channels, len(parts), *latent_size), generator=generator).to(self.device)
        constraint = None
        if context_latents is not None:
            context_residual = self.background.to_residual(context_latents.movedim(0, 1)[None], reference)
            constraint = ReplaceKnownFrames.first_frames(context_residual, noise, denoiser)
        residual = sample(guided_denoiser, noise, sampler, None, 0.0, constraint, clamp=None)
        latents = rearrange(self.background.from_residual(residual, reference)[0], "c f h w -> f c h w")
        return latents if context_latents is None else torch.cat([context_latents, latents[len(context_latents) :]])


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
        "face": None if old["face"] is None else _upgrade_face(old["face"]),
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


def _upgrade_face(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"dim": config["dim"], "crop_size": config["side"], "patch_size": config.get("patch", 2)}


def densepose_to_rgb(parts: Tensor) -> Tensor:
    """DensePose parts (..., H, W) 0..24 in the colours of DensePose videos: (..., 3, H, W) in [0, 1]"""
    colors = torch.from_numpy(PART_COLORS.copy()).to(parts.device).float() / 255
    return colors[parts.long()].movedim(-1, -3)


def head_boxes(parts: Tensor) -> Tensor:
    """Square boxes (B, 4) of the heads in DensePose parts (B, H, W), see `head_square`; NaN without a head."""
    boxes = [head_square(np.isin(image_parts, HEAD_PARTS)) for image_parts in parts.cpu().numpy()]
    return torch.from_numpy(np.stack(boxes)).to(parts.device)


def crop_patches(
    crops: Tensor, boxes: Tensor, side: int, grid_size: tuple[int, int], scale: int
) -> tuple[Tensor, Tensor]:
    """Patches around boxes (B, 4) of frames in which square crops (B, 3, S, S) fill the boxes; borders are repeated.

    boxes: fractions of the frame. Patches are `side` cells wide, on a grid of grid_size cells of `scale` pixels.
    Returns patches (B, 3, side scale, side scale), and their left and top cells (B, 2).
    """
    num_cells = torch.tensor(grid_size[::-1], device=boxes.device)
    corners = ((boxes[:, :2] + boxes[:, 2:]) / 2 * num_cells - side / 2).round()
    corners = torch.minimum(corners.clamp(min=0), (num_cells - side).to(corners))
    pixel_offsets = (torch.arange(side * scale, device=boxes.device) + 0.5) / scale
    position = (corners[:, None] + pixel_offsets[:, None]) / num_cells  # (B, pixels, 2), fractions of the frame
    relative = (position - boxes[:, None, :2]) / (boxes[:, None, 2:] - boxes[:, None, :2]).clamp(min=1e-6) * 2 - 1
    x, y = (relative[..., axis] for axis in (0, 1))
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
    patches = grid_sample(crops, grid.to(crops), mode="bilinear", padding_mode="border", align_corners=False)
    return patches, corners.long()


def box_mask(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """1 within boxes (B, 4), else 0: (B, 1, h, w). 0 everywhere for a box that is not finite."""
    center, half_size = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    row_centers, column_centers = ((torch.arange(length, device=boxes.device) + 0.5) / length for length in size)
    in_columns = (column_centers - center[:, None, 0]).abs() <= half_size[:, None, 0]
    in_rows = (row_centers - center[:, None, 1]).abs() <= half_size[:, None, 1]
    return (in_rows[:, None, :, None] & in_columns[:, None, None]).float()


def crop_boxes(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop images (B, 3, H, W) at boxes (B, 4), fractions of the image: (B, 3, size, size). Borders are repeated."""
    offsets = (torch.arange(size, device=boxes.device) + 0.5) / size
    x = boxes[:, None, 0] + (boxes[:, None, 2] - boxes[:, None, 0]) * offsets
    y = boxes[:, None, 1] + (boxes[:, None, 3] - boxes[:, None, 1]) * offsets
    grid = torch.stack([x[:, None].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], -1) * 2 - 1
    return grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False)
