"""Draw motion by Wan-Animate (Cheng et al. 2025, arXiv 2509.14055), with weights that the user names, by diffusers.

It is driven by a video of skeletons, which is the motion aligned with the figure of the image
(`zoo.body.render.openpose_video`), and by a video of an actor's face, whose expression it copies. There is no actor
here: every frame gets the image's own face, so that the dancer keeps its expression.
"""

import json
import math
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from zoo.body.detection.base import PoseDetector
from zoo.body.image.alignment import AlignedMotion, align
from zoo.body.render.openpose_video import draw_pose
from zoo.families.magicdance.renderers.diffusion import MAX_DETECTION_SIDE
from zoo.families.renderer import Renderer, RenderSession, check_options, check_quality
from zoo.files import file_in, user_path
from zoo.nn.square_image import pad_to_square
from zoo.nn.weights.loading import read_weights

FRAME_PIXELS = 1280 * 720  # as published
WEIGHTS_HINT = "a download of Wan-AI/Wan2.2-Animate-14B-Diffusers"
SIDE_MULTIPLE = 16  # a frame's height and width are multiples of it
PROMPT = "视频中的人在做动作"  # the published one, "people in the video move"; its authors advise against others
# of the head's square (zoo.body.image.alignment): a little more than Wan2.2 crops around facial landmarks
FACE_FRACTION = 0.6


class WanAnimator:
    """diffusers' WanAnimatePipeline, called once per segment of a video, so that memory does not grow with it.

    One call makes a video of any length, but holds all of it. A segment is conditioned on the previous one by its last
    frame, for which the call has no argument. Replacement mode does the same with a background video that begins with
    that frame and continues in grey, and a mask that keeps the first frame only. With the same random draws, segments
    are those of one long call (tests/test_magicdance_wan_animate.py).
    """

    def __init__(
        self, folder: Path, device: torch.device, pixels: int = FRAME_PIXELS, frames: int = 77, steps: int = 20
    ):
        """folder: in diffusers' layout, see `check_folder`; pixels: of a frame, about; frames: of a segment, 4 n + 1;
        steps: of denoising. `load` loads the weights.
        """
        self.folder, self.device = folder, device
        self.pixels, self.frames, self.steps = pixels, frames, steps

    @cached_property
    @torch.inference_mode(False)
    def _loaded(self) -> tuple:
        """The pipeline and the tokens of its prompt.

        bfloat16 on a GPU, its autoencoder float32. The text encoder (11 of 47 GB) runs on the CPU and is released. With
        accelerate installed, the other networks are moved to the GPU one at a time.
        """
        from diffusers import WanAnimatePipeline  # late: it takes seconds to import
        from diffusers.utils import is_accelerate_available, logging
        from transformers.utils import logging as transformers_logging

        logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        print(f"loading {self.folder}", flush=True)
        on_gpu = self.device.type == "cuda"
        dtype = torch.bfloat16 if on_gpu else torch.float32
        loading_options = {"local_files_only": True, "use_safetensors": True, "low_cpu_mem_usage": False}
        try:
            pipeline = WanAnimatePipeline.from_pretrained(
                self.folder,
                transformer=read_transformer(self.folder / "transformer", dtype),
                dtype={"default": dtype, "vae": torch.float32},
                **loading_options,
            )
        except Exception as error:  # whatever is wrong with a file of the user's
            raise ValueError(f"renderer.weights={self.folder} cannot be loaded: {error}") from error
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
        """Load the weights, which takes minutes. Raises ValueError for files that no pipeline can be made of."""
        assert self._loaded

    def segment(
        self,
        image: Image.Image,
        poses: list[Image.Image],
        face: Image.Image,
        last_frame: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:
        """Frames (n, 3, H, W) float32 in [0, 1] of n <= `frames` poses, of the image's size.

        face: square; last_frame: (3, H, W) in [0, 1], the frame of the first pose if it was made before.
        """
        pipeline, prompt = self._loaded
        face_side = pipeline.transformer.config.motion_encoder_size
        mode_arguments: dict[str, Any] = {"mode": "animate"}
        if last_frame is not None:
            num_other_frames, masks = self.frames - 1, [Image.new("L", image.size, value) for value in (0, 255)]
            mode_arguments = {
                "mode": "replace",
                "background_video": [last_frame] + [torch.full_like(last_frame, 0.5)] * num_other_frames,
                "mask_video": masks[:1] + masks[1:] * num_other_frames,
            }
        output = pipeline(
            image=image,
            prompt_embeds=prompt,
            pose_video=poses + poses[-1:] * (self.frames - len(poses)),
            face_video=[face.resize((face_side, face_side))] * self.frames,
            height=image.height,
            width=image.width,
            segment_frame_length=self.frames,
            num_inference_steps=self.steps,
            generator=generator,
            output_type="pt",
            **mode_arguments,
        )
        return output.frames[0, : len(poses)].float().cpu()


def read_transformer(folder: Path, dtype: torch.dtype) -> nn.Module:
    """Read the denoiser of a diffusers folder, from .safetensors only; the modules that it lists stay in float32.

    Its own `from_pretrained` needs accelerate, which nothing else here does. Weights are never initialised: memory is
    taken for those of the files alone. Raises ValueError, OSError or RuntimeError for files that cannot be used.
    """
    from diffusers import WanAnimateTransformer3DModel
    from diffusers.models.modeling_utils import no_init_weights

    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # of its constants
    try:
        with no_init_weights():
            model = WanAnimateTransformer3DModel.from_config(WanAnimateTransformer3DModel.load_config(folder))
    finally:
        torch.set_default_dtype(default_dtype)
    weights_file = "diffusion_pytorch_model.safetensors"
    index_file = folder / f"{weights_file}.index.json"
    files = set(json.loads(index_file.read_text())["weight_map"].values()) if index_file.is_file() else {weights_file}
    state_dict = {}
    for file in sorted(files):
        for key, value in read_weights(file_in(folder, str(file))).items():
            keep_float32 = not set(model._keep_in_fp32_modules).isdisjoint(key.split("."))
            state_dict[key] = value.to(torch.float32 if keep_float32 else dtype)
    model.load_state_dict(state_dict, assign=True)
    return model.eval()


class WanRenderer(Renderer):
    """Draws the figure of the image by Wan-Animate: see `WanAnimator` for its weights."""

    def __init__(self, animator: WanAnimator, detector: PoseDetector):
        self.animator, self.detector = animator, detector

    @classmethod
    def build(
        cls, family: nn.Module, detector: PoseDetector | None, fallback: Renderer | None, options: Mapping[str, Any]
    ) -> "WanRenderer":
        """See `Renderer`. Options: `weights`, a folder in diffusers' layout; `pixels` of a frame, about."""
        check_options("wan_animate", options, ("weights", "pixels"))
        if options.get("weights") is None:
            raise ValueError(f"renderer=wan_animate needs weights: give renderer.weights=FOLDER, {WEIGHTS_HINT}")
        pixels = options.get("pixels", FRAME_PIXELS)
        if not isinstance(pixels, int) or pixels < SIDE_MULTIPLE * SIDE_MULTIPLE:
            raise ValueError(
                f"renderer.pixels={pixels}: it must be a whole number of at least {SIDE_MULTIPLE * SIDE_MULTIPLE}"
            )
        assert detector is not None, "its configuration says needs_detector"
        folder = check_folder(user_path(str(options["weights"])))
        return cls(WanAnimator(folder, family.device, pixels), detector)

    def begin(self, image: Tensor | None, fps: Fraction, seed: int) -> "WanSession":
        """See `Renderer`; frames have the image's proportions. Wan-Animate was trained at 30 frames a second.

        Raises ValueError unless the image shows one whole figure. Then it loads the weights.
        """
        if image is None:
            raise ValueError("renderer=wan_animate moves the figure of an image: give image=FILE")
        height, width = frame_size(*image.shape[1:], self.animator.pixels)
        side = max(height, width)
        detection_scale = max(1, MAX_DETECTION_SIDE // side)  # small frames: detect in a larger image
        input_image = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        frame, detection_image = (
            input_image.resize((width * scale, height * scale), Image.Resampling.BICUBIC)
            for scale in (1, detection_scale)
        )
        padded_image = pad_to_square(
            torch.from_numpy(np.array(detection_image)).permute(2, 0, 1), side * detection_scale
        )
        detection_square = padded_image.permute(1, 2, 0).numpy()
        alignment = align(detection_square, self.detector, side, width)
        check_quality(alignment.quality, alignment.note)
        face = crop_face(Image.fromarray(detection_square), alignment.face)
        self.animator.load()  # before any progress bar
        session = WanSession(self.animator, frame, AlignedMotion(alignment), face, seed, alignment.quality)
        session.note = alignment.note
        return session


def check_folder(folder: Path) -> Path:
    """The folder, if it is a WanAnimatePipeline in diffusers' layout that holds no code. Raises ValueError."""
    try:
        pipeline_index = json.loads((folder / "model_index.json").read_text())
        class_name = pipeline_index["_class_name"]
        libraries = {name: value[0] for name, value in pipeline_index.items() if isinstance(value, list)}
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(
            f"renderer.weights={folder} has no model_index.json that can be read; give {WEIGHTS_HINT}"
        ) from None
    if class_name != "WanAnimatePipeline":
        raise ValueError(f"renderer.weights={folder} holds a {class_name}, no WanAnimatePipeline; give {WEIGHTS_HINT}")
    foreign_components = [name for name, library in libraries.items() if library not in ("diffusers", "transformers")]
    if foreign_components:
        raise ValueError(
            f"renderer.weights={folder}: its {foreign_components[0]} is no class of diffusers or transformers; "
            "nothing else is run"
        )
    return folder


def frame_size(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Height and width of a frame of about `pixels` in an image's proportions, multiples of `STEP`."""
    scale = math.sqrt(pixels / (height * width)) / SIDE_MULTIPLE
    return tuple(SIDE_MULTIPLE * max(1, round(side * scale)) for side in (height, width))


def crop_face(square: Image.Image, head: np.ndarray) -> Image.Image:
    """The face in a square image; head: (4,) left, top, right, bottom of the head's square, fractions of the side."""
    center, half_size = (head[:2] + head[2:]) / 2, (head[2:] - head[:2]) / 2 * FACE_FRACTION
    box = np.concatenate([center - half_size, center + half_size]) * square.width
    return square.crop(tuple(round(float(coordinate)) for coordinate in box))


class WanSession(RenderSession):
    """One video, segment after segment: each is conditioned on the last frame of the previous one."""

    def __init__(
        self,
        animator: WanAnimator,
        image: Image.Image,
        aligned_motion: AlignedMotion,
        face: Image.Image,
        seed: int,
        quality: float | None = None,
    ):
        """aligned_motion: with the square around the image."""
        self.animator, self.image, self.aligned_motion, self.face = animator, image, aligned_motion, face
        self.quality = quality
        side = max(image.size)
        self.corner = np.float32([(side - image.width) // 2, (side - image.height) // 2])
        self.generator = torch.Generator("cpu").manual_seed(seed)
        self.last_pose_and_frame: tuple[Image.Image, Tensor] | None = None

    def draw(self, motion: Tensor) -> Tensor:
        """See `RenderSession`."""
        frames = []
        while len(motion):
            last_pose, last_frame = (None, None) if self.last_pose_and_frame is None else self.last_pose_and_frame
            context_poses = [] if last_pose is None else [last_pose]
            segment_motion, motion = motion.tensor_split([self.animator.frames - len(context_poses)])
            joint_points = self.aligned_motion.points(segment_motion) - self.corner
            poses = [Image.fromarray(draw_pose(pose, self.image.height, self.image.width)) for pose in joint_points]
            output = self.animator.segment(self.image, context_poses + poses, self.face, last_frame, self.generator)
            frames.append((output[len(context_poses) :] * 255).round().byte())
            self.last_pose_and_frame = poses[-1], output[-1].clone()
        return torch.cat(frames)
