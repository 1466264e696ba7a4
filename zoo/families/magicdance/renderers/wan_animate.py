"""Motion drawn by Wan-Animate (Cheng et al. 2025, arXiv 2509.14055), with weights of the user's, through diffusers.

It is driven by a film of skeletons, which is the dance as the pictured figure dances it (`zoo.body.render.openpose_video`), and
by a film of the actor's face, whose expression it copies. There is no actor here: it is shown the picture's own face,
the same in every frame, so that the dancer keeps the pictured expression.
"""

import json
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from zoo.body.detection.base import PoseDetector
from zoo.body.image.alignment import AlignedMotion, align
from zoo.body.render.openpose_video import draw_pose
from zoo.families.magicdance.renderers.renderers import DETECTED, check_fit
from zoo.nn.square_image import pad_to_square
from zoo.nn.weights.loading import read_weights

PIXELS = 1280 * 720  # of a frame, as published
STEP = 16  # its sides are multiples of
PROMPT = "视频中的人在做动作"  # the published one, "people in the video move"; its authors advise against others
FACE = 0.6  # of the head's square (zoo.body.image.alignment): a little more than Wan2.2 cuts about the points of a face it found


class WanAnimator:
    """diffusers' WanAnimatePipeline, called once for each segment of a film, so that memory does not grow with it.

    One call makes a film of any length, but holds all of it. A segment knows the one before by its last frame, for
    which the call has no argument. What it makes of that frame is what replacement mode makes of a background film that
    begins with the frame and goes on in grey, and of a mask that keeps the first frame alone: so later segments are
    asked for, and are, with the same draws, those of one long call (tests/test_magicdance_wan_animate.py).
    """

    def __init__(self, folder: Path, device: torch.device, pixels: int = PIXELS, frames: int = 77, steps: int = 20):
        """folder: in diffusers' layout, checked (`zoo.run.sample.request`); pixels of a frame, about; frames of a segment,
        4 n + 1; steps of its denoising. It is loaded when it is first asked for something, or told to.
        """
        self.folder, self.device = folder, device
        self.pixels, self.frames, self.steps = pixels, frames, steps

    @cached_property
    @torch.inference_mode(False)
    def _loaded(self) -> tuple:
        """The pipeline and the tokens of its prompt.

        bfloat16 on a GPU, its autoencoder float32. The text encoder (11 of 47 GB) is asked on the CPU, and let go. With
        accelerate installed the other networks are on the GPU one at a time.
        """
        from diffusers import WanAnimatePipeline  # late: it takes seconds to import
        from diffusers.utils import is_accelerate_available, logging
        from transformers.utils import logging as transformers_logging

        logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        on_gpu = self.device.type == "cuda"
        dtype = torch.bfloat16 if on_gpu else torch.float32
        only = {"local_files_only": True, "use_safetensors": True, "low_cpu_mem_usage": False}
        try:
            pipeline = WanAnimatePipeline.from_pretrained(
                self.folder,
                transformer=read_transformer(self.folder / "transformer", dtype),
                dtype={"default": dtype, "vae": torch.float32},
                **only,
            )
        except Exception as error:  # whatever is wrong with a file of the user's
            raise ValueError(f"wan={self.folder} cannot be loaded: {error}") from error
        pipeline.set_progress_bar_config(disable=True)
        with torch.no_grad():
            prompt, _ = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=False, max_sequence_length=512)
        pipeline.text_encoder = None
        if on_gpu and is_accelerate_available():
            pipeline.enable_model_cpu_offload(device=self.device)
        else:
            pipeline.to(self.device)
        return pipeline, prompt.to(self.device)

    def load(self) -> None:
        """Takes minutes. Raises ValueError for files that no pipeline can be made of."""
        assert self._loaded

    def segment(
        self,
        picture: Image.Image,
        poses: list[Image.Image],
        face: Image.Image,
        last: Tensor | None,
        draw: torch.Generator,
    ) -> Tensor:
        """Frames (n, 3, H, W) float32 in [0, 1] of n <= `frames` poses, of the picture's size.

        face: square; last: the frame (3, H, W) in [0, 1] of the first pose, where it was made before.
        """
        pipeline, prompt = self._loaded
        side = pipeline.transformer.config.motion_encoder_size
        known = {"mode": "animate"}
        if last is not None:
            later, kept = self.frames - 1, [Image.new("L", picture.size, value) for value in (0, 255)]
            known = {
                "mode": "replace",
                "background_video": [last] + [torch.full_like(last, 0.5)] * later,
                "mask_video": kept[:1] + kept[1:] * later,
            }
        made = pipeline(
            image=picture,
            prompt_embeds=prompt,
            pose_video=poses + poses[-1:] * (self.frames - len(poses)),
            face_video=[face.resize((side, side))] * self.frames,
            height=picture.height,
            width=picture.width,
            segment_frame_length=self.frames,
            num_inference_steps=self.steps,
            generator=draw,
            output_type="pt",
            **known,
        )
        return made.frames[0, : len(poses)].float().cpu()


def read_transformer(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The denoiser in a folder of diffusers', from .safetensors only; what it says it wants in float32 is.

    Its own `from_pretrained` asks for accelerate, which is needed by nothing else here. Weights are never initialised:
    memory is taken for those of the files alone. Raises ValueError, OSError or RuntimeError for files that do not do.
    """
    from diffusers import WanAnimateTransformer3DModel
    from diffusers.models.modeling_utils import no_init_weights

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # of its constants
    try:
        with no_init_weights():
            model = WanAnimateTransformer3DModel.from_config(WanAnimateTransformer3DModel.load_config(folder))
    finally:
        torch.set_default_dtype(before)
    name = "diffusion_pytorch_model.safetensors"
    index = folder / f"{name}.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {name}
    state = {}
    for file in sorted(files):
        for key, value in read_weights(folder / file).items():
            exact = not set(model._keep_in_fp32_modules).isdisjoint(key.split("."))
            state[key] = value.to(torch.float32 if exact else dtype)
    model.load_state_dict(state, assign=True)
    return model.eval()


class WanRenderer:
    """Draws the pictured figure's dance by Wan-Animate: see `WanAnimator` for what it takes."""

    def __init__(self, animator: WanAnimator, detector: PoseDetector):
        self.animator, self.detector = animator, detector
        self.fit: float | None = None  # of the last picture, in [0, 1]

    def start(self, image: Tensor | None, fps: Fraction, seed: int) -> Callable[[Tensor], Tensor]:
        """As `MeshRenderer.start`; frames have the picture's proportions. It was trained on 30 frames a second.

        Raises ValueError without a picture, and for one of not one whole figure. Nothing is loaded yet.
        """
        if image is None:
            raise ValueError("renderer=wan_animate moves the figure of a picture: give image=FILE")
        height, width = frame_size(*image.shape[1:], self.animator.pixels)
        side = max(height, width)
        finer = max(1, DETECTED // side)  # the figure is looked for in a larger picture than a small frame
        given = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        picture, large = (given.resize((width * by, height * by), Image.Resampling.BICUBIC) for by in (1, finer))
        square = (
            pad_to_square(torch.from_numpy(np.array(large)).permute(2, 0, 1), side * finer).permute(1, 2, 0).numpy()
        )
        alignment = align(square, self.detector, side, width)
        check_fit(alignment.quality)
        self.fit = alignment.quality
        face = cut_face(Image.fromarray(square), alignment.face)
        return WanShot(self.animator, picture, AlignedMotion(alignment), face, seed)


def frame_size(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Height and width of about so many pixels in the proportions of a picture, multiples of `STEP`."""
    scale = math.sqrt(pixels / (height * width)) / STEP
    return tuple(STEP * max(1, round(side * scale)) for side in (height, width))


def cut_face(square: Image.Image, head: np.ndarray) -> Image.Image:
    """The face in a square picture; head: left, top, right, bottom of the head's square, in shares of it."""
    middle, half = (head[:2] + head[2:]) / 2, (head[2:] - head[:2]) / 2 * FACE
    box = np.concatenate([middle - half, middle + half]) * square.width
    return square.crop(tuple(round(float(edge)) for edge in box))


class WanShot:
    """One take, segment after segment: each goes on from the last frame of the one before."""

    def __init__(self, animator: WanAnimator, picture: Image.Image, dance: AlignedMotion, face: Image.Image, seed: int):
        """dance: aligned with the square about the picture."""
        self.animator, self.picture, self.dance, self.face = animator, picture, dance, face
        side = max(picture.size)
        self.corner = np.float32([(side - picture.width) // 2, (side - picture.height) // 2])
        self.draw = torch.Generator("cpu").manual_seed(seed)
        self.before: tuple[Image.Image, Tensor] | None = None  # the last pose and its frame

    def __call__(self, motion: Tensor) -> Tensor:
        """(F, 151) -> (F, 3, H, W) uint8"""
        made = []
        while len(motion):
            pose, last = (None, None) if self.before is None else self.before
            known = [] if pose is None else [pose]
            fresh, motion = motion.tensor_split([self.animator.frames - len(known)])
            points = self.dance.points(fresh) - self.corner
            poses = [Image.fromarray(draw_pose(one, self.picture.height, self.picture.width)) for one in points]
            frames = self.animator.segment(self.picture, known + poses, self.face, last, self.draw)
            made.append((frames[len(known) :] * 255).round().byte())
            self.before = poses[-1], frames[-1].clone()
        return torch.cat(made)
