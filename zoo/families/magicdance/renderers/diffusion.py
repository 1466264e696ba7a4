"""Draw motion by denoising frames of the figure: MagicAnimate's networks and a face encoder (MagicDance sec. 3.3)."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.body.detection.base import PoseDetector
from zoo.body.image.alignment import AlignedMotion, Alignment, align, standard_placement
from zoo.families.magicdance.renderers.animator import Animator, FaceFeatures
from zoo.families.renderer import Renderer, RenderSession, check_options, check_quality
from zoo.media import read_image
from zoo.nn.square_image import pad_to_square

MAX_DETECTION_SIDE = 512  # pixels: larger images are shrunk to it before the figure is detected


class DiffusionRenderer(Renderer):
    """Denoises frames of the figure, driven by the motion that was aligned with the image."""

    family_part = "animator"

    def __init__(
        self,
        animator: Animator,
        detector: PoseDetector,
        fallback: Renderer | None = None,
        face: Tensor | None = None,
        use_alignment: bool = True,
    ):
        """fallback: draws where no figure is found or no image is given; None: `begin` raises a ValueError instead.
        face: (3, H, W) uint8, an image of one whole figure whose face the dancer gets (sec. 4). use_alignment: fit the
        motion to the figure (sec. 3.2), else see `standard_placement`. Raises ValueError where a face is given and no
        face encoder was trained.
        """
        self.animator, self.detector, self.fallback = animator, detector, fallback
        self.use_alignment = use_alignment
        self.face: FaceFeatures | None = None  # of another figure
        if face is not None:
            if animator.face is None:
                raise ValueError("this checkpoint has no face encoder")
            self.face = self._encode_face(*self._align(face))

    @classmethod
    def build(
        cls, family: nn.Module, detector: PoseDetector | None, fallback: Renderer | None, options: Mapping[str, Any]
    ) -> "DiffusionRenderer":
        """See `Renderer`. Options `face`: path of an image whose face the dancer gets, or None for its own; `align`."""
        check_options("diffusion", options, ("face", "align"))
        if family.animator is None:
            raise ValueError(
                "renderer=diffusion: this checkpoint was trained without it; train with renderer=diffusion"
            )
        assert detector is not None, "its configuration says needs_detector"
        face_path, use_alignment = options.get("face"), options.get("align", True)
        if not isinstance(use_alignment, bool):
            raise ValueError(f"renderer.align={use_alignment}: use true or false")
        if face_path is None:
            return cls(family.animator, detector, fallback, use_alignment=use_alignment)
        if not Path(face_path).is_file():
            raise ValueError(f"renderer.face={face_path}: there is no such file")
        try:
            face_image = torch.from_numpy(read_image(Path(face_path))).permute(2, 0, 1)
            return cls(family.animator, detector, fallback, face_image, use_alignment)
        except ValueError as error:
            raise ValueError(f"renderer.face={face_path}: {error}") from None

    def begin(self, image: Tensor | None, fps: Fraction, seed: int) -> RenderSession:
        """See `Renderer`. Without a fallback, raises ValueError unless the image shows one whole figure."""
        try:
            if image is None:
                raise ValueError("renderer=diffusion moves the figure of an image: give image=FILE")
            square_image, alignment = self._align(image)
        except ValueError:
            if self.fallback is None:
                raise
            return self.fallback.begin(image, fps, seed)
        face = self._encode_face(square_image, alignment) if self.face is None else self.face
        return DiffusionSession(self.animator, square_image, alignment, face, seed, face_swapped=self.face is not None)

    def _align(self, image: Tensor) -> tuple[Tensor, Alignment]:
        """An image (3, H, W) uint8 as (1, 3, S, S) in [-1, 1], and where its figure is."""
        resolution = self.animator.resolution
        detection_image = pad_to_square(image.cpu(), max(resolution, min(MAX_DETECTION_SIDE, max(image.shape[1:]))))
        alignment = align(detection_image.permute(1, 2, 0).numpy(), self.detector, resolution)
        check_quality(alignment.quality, alignment.note)
        if not self.use_alignment:
            alignment = standard_placement(alignment)
        return pad_to_square(detection_image, resolution)[None].to(self.animator.device).float() / 127.5 - 1, alignment

    @torch.no_grad()
    def _encode_face(self, image: Tensor, alignment: Alignment) -> FaceFeatures | None:
        return self.animator.encode_faces(image, torch.from_numpy(alignment.face)[None].to(image.device))


class DiffusionSession(RenderSession):
    """One video, window after window: each is conditioned on the last frames of the previous one."""

    @torch.no_grad()
    def __init__(
        self,
        animator: Animator,
        image: Tensor,
        alignment: Alignment,
        face: FaceFeatures | None,
        seed: int,
        face_swapped: bool = False,
    ):
        """image (1, 3, S, S) in [-1, 1]; face: of `Animator.encode_faces`; face_swapped: `face` is another figure's;
        the image's own head is masked for a network that was trained with masked heads."""
        self.animator, self.aligned_motion, self.face = animator, AlignedMotion(alignment), face
        self.quality, self.note = alignment.quality, alignment.note
        self.generator = torch.Generator("cpu").manual_seed(seed)
        reference = animator.background.encode_reference(animator.codec.encode(image))
        reference = animator.background.with_pixel_residual(reference, image, animator.codec)
        if face_swapped and animator.head_drop_prob:
            head_box = torch.from_numpy(alignment.face)[None].to(image.device)
            is_masked = torch.ones(1, dtype=torch.bool, device=head_box.device)
            reference = animator.mask_heads(reference, head_box, face, is_masked)
        self.reference = reference
        self.context_parts: Tensor | None = None  # (K, S, S): DensePose parts of the last frames
        self.context_latents: Tensor | None = None  # (K, C, h, w): their latents

    def draw(self, motion: Tensor) -> Tensor:
        """See `RenderSession`."""
        return self.render_parts(self.aligned_motion.parts(motion))

    def render_parts(self, parts: Tensor) -> Tensor:
        """The next frames (F, 3, S, S) uint8, with the body where the DensePose parts (F, S, S) 0..24 are."""
        frames, animator = [], self.animator
        pending_parts = parts.to(animator.device)
        while len(pending_parts):
            num_context = 0 if self.context_parts is None else len(self.context_parts)
            num_new = min(animator.num_frames - num_context, len(pending_parts))
            window_parts, pending_parts = pending_parts[:num_new], pending_parts[num_new:]
            if self.context_parts is not None:
                window_parts = torch.cat([self.context_parts, window_parts])
            latents = animator.sample_window(
                self.reference, self.face, window_parts, self.context_latents, self.generator
            )
            pixel_residual = animator.background.frame_pixel_residual(latents[-num_new:], self.reference)
            frames.append(animator.codec.decode(latents[-num_new:], pixel_residual).cpu())
            if animator.num_context_frames:
                self.context_parts = window_parts[-animator.num_context_frames :]
                self.context_latents = latents[-animator.num_context_frames :]
        return torch.cat(frames)
