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
        motion to the figure (sec. 3.2), else a baseline. Raises ValueError where no face encoder was trained.
        """
        self.animator, self.detector, self.fallback = animator, detector, fallback
        self.use_alignment = use_alignment
        self.face: FaceFeatures | None = None
        if face is not None:
            if animator.face is None:
                raise ValueError("this checkpoint has no face encoder")
            self.face = self._encode_face(*self._aligned(face))

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
        path, use_alignment = options.get("face"), options.get("align", True)
        if not isinstance(use_alignment, bool):
            raise ValueError(f"renderer.align={use_alignment}: use true or false")
        if path is None:
            return cls(family.animator, detector, fallback, use_alignment=use_alignment)
        if not Path(path).is_file():
            raise ValueError(f"renderer.face={path}: there is no such file")
        try:
            face = torch.from_numpy(read_image(Path(path))).permute(2, 0, 1)
            return cls(family.animator, detector, fallback, face, use_alignment)
        except ValueError as error:
            raise ValueError(f"renderer.face={path}: {error}") from None

    def begin(self, image: Tensor | None, fps: Fraction, seed: int) -> RenderSession:
        """See `Renderer`. Without a fallback, raises ValueError unless the image shows one whole figure."""
        try:
            if image is None:
                raise ValueError("renderer=diffusion moves the figure of an image: give image=FILE")
            reference, alignment = self._aligned(image)
        except ValueError:
            if self.fallback is None:
                raise
            return self.fallback.begin(image, fps, seed)
        face = self._encode_face(reference, alignment) if self.face is None else self.face
        return DiffusionSession(self.animator, reference, alignment, face, seed, face_swapped=self.face is not None)

    def _aligned(self, image: Tensor) -> tuple[Tensor, Alignment]:
        """An image (3, H, W) uint8 as (1, 3, S, S) in [-1, 1], and where its figure is."""
        resolution = self.animator.resolution
        large = pad_to_square(image.cpu(), max(resolution, min(MAX_DETECTION_SIDE, max(image.shape[1:]))))
        alignment = align(large.permute(1, 2, 0).numpy(), self.detector, resolution)
        check_quality(alignment.quality)
        if not self.use_alignment:
            alignment = standard_placement(alignment)
        return pad_to_square(large, resolution)[None].to(self.animator.device).float() / 127.5 - 1, alignment

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
        self.quality = alignment.quality
        self.generator = torch.Generator("cpu").manual_seed(seed)
        reference = animator.background.encode_reference(animator.codec.encode(image))
        reference = animator.background.with_pixel_residual(reference, image, animator.codec)
        if face_swapped and animator.head_drop_prob:
            box = torch.from_numpy(alignment.face)[None].to(image.device)
            reference = animator.mask_heads(reference, box, face, torch.ones(1, dtype=torch.bool, device=box.device))
        self.reference = reference
        self.context: tuple[Tensor, Tensor] | None = None  # parts and latents of the last frames

    def draw(self, motion: Tensor) -> Tensor:
        """See `RenderSession`."""
        return self.render_parts(self.aligned_motion.parts(motion))

    def render_parts(self, parts: Tensor) -> Tensor:
        """The next frames (F, 3, S, S) uint8, with the body where the DensePose parts (F, S, S) 0..24 are."""
        frames, animator = [], self.animator
        pending = parts.to(animator.device)
        while len(pending):
            num_context = 0 if self.context is None else len(self.context[0])
            parts, pending = pending[: animator.num_frames - num_context], pending[animator.num_frames - num_context :]
            num_new = len(parts)
            context_latents = None
            if self.context is not None:
                parts, context_latents = torch.cat([self.context[0], parts]), self.context[1]
            latents = animator.sample_window(self.reference, self.face, parts, context_latents, self.generator)
            pixel_residual = animator.background.frame_pixel_residual(latents[-num_new:], self.reference)
            frames.append(animator.codec.decode(latents[-num_new:], pixel_residual).cpu())
            if animator.num_context_frames:
                self.context = parts[-animator.num_context_frames :], latents[-animator.num_context_frames :]
        return torch.cat(frames)
