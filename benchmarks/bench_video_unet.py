"""How fast a guided step of the video networks is at the paper's size, beside public code, in one process.

python benchmarks/bench_video_unet.py PUBLIC_DIR [frames] [side] [rounds], PUBLIC_DIR a checkout of
github.com/MooreThreads/Moore-AnimateAnyone (beside MuseDance's U-Net) or of github.com/magic-research/magic-animate
(beside MagicDance's renderer); side that of the latents. Both have the same random weights, reference, text, guidance
and latents, and the public networks are given what their own pipelines give them: Moore's both branches at once and the
reference's features, MagicAnimate's the appearance encoder and the ControlNet in every step. Ours is run as it is and
with `zoo.nn.cpu_inference`, each in turn with the public one.

MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 before the command keeps glibc from giving memory back after
every large answer, which costs both a tenth of their time.
"""

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path[:0] = [str(Path(__file__).parents[1]), sys.argv[1]]

from zoo.families.latent.background import ReferenceContext  # noqa: E402
from zoo.families.magicdance.renderers.animator import Animator  # noqa: E402
from zoo.nn.cpu_inference import fast_inference  # noqa: E402
from zoo.nn.text import HashedTokenEncoder  # noqa: E402
from zoo.nn.video_unet.unet import VideoUNet  # noqa: E402
from zoo.nn.weights.layouts import convert_reference_net, convert_video_unet  # noqa: E402

FRAMES, SIDE, ROUNDS = (int(sys.argv[n]) if len(sys.argv) > n else default for n, default in ((2, 4), (3, 32), (4, 3)))
SD = {"cross_attention_dim": 768, "attention_head_dim": 8}
MOVING = SD | {
    "use_motion_module": True,
    "motion_module_type": "Vanilla",
    "motion_module_kwargs": {
        "num_attention_heads": 8,
        "num_transformer_block": 1,
        "attention_block_types": ("Temporal_Self", "Temporal_Self"),
        "temporal_position_encoding": True,
        "temporal_position_encoding_max_len": 32,
    },
    "unet_use_cross_frame_attention": False,
    "unet_use_temporal_attention": False,
}


@dataclass
class Case:
    """What is compared."""

    theirs: Callable[[], Tensor]  # one guided step's answers, without the condition first
    network: nn.Module  # ours
    begin: Callable[[], Callable[[], Tensor]]  # what a request computes once -> a step of ours, the condition first


def awake(module: nn.Module, *names: str) -> nn.Module:
    """The module with what begins at 0, and would hide what is before it, begun at random."""
    for name, one in module.named_parameters():
        if any(part in name for part in names):
            nn.init.normal_(one, std=0.02)
    return module.eval()


def moore() -> Case:
    """Moore-AnimateAnyone's U-Net, and MuseDance's."""
    from src.models.attention import TemporalBasicTransformerBlock
    from src.models.mutual_self_attention import ReferenceAttentionControl
    from src.models.unet_3d import UNet3DConditionModel

    network = UNet3DConditionModel(**MOVING, use_inflated_groupnorm=True, motion_module_mid_block=True)
    awake(network, "temporal_transformer.proj_out")
    reader = ReferenceAttentionControl(
        network, mode="read", do_classifier_free_guidance=True, batch_size=1, fusion_blocks="full"
    )
    parts = [*network.down_blocks, network.mid_block, *network.up_blocks]
    blocks = [one for part in parts for one in part.modules() if isinstance(one, TemporalBasicTransformerBlock)]
    with torch.device("meta"):
        unet = VideoUNet(use_motion_modules=True, motion_in_middle=True)
    unet.load_state_dict(convert_video_unet(network.state_dict()), assign=True)  # one copy of 5 GB serves both
    latents, text = torch.randn(1, 4, FRAMES, SIDE, SIDE).expand(2, -1, -1, -1, -1), torch.randn(1, 1, 768)
    guidance, t = torch.randn(1, 320, FRAMES, SIDE, SIDE), torch.tensor([500, 500])
    sides = (
        [SIDE] * 2 + [SIDE // 2] * 2 + [SIDE // 4] * 2 + [SIDE // 8] + [SIDE // 4] * 3 + [SIDE // 2] * 3 + [SIDE] * 3
    )
    widths = [block.norm1.normalized_shape[0] for block in blocks]
    features = [torch.randn(1, side**2, width) for side, width in zip(sides, widths, strict=True)]

    def theirs() -> Tensor:
        for block, feature in zip(blocks, features, strict=True):
            block.bank = [feature.expand(2, -1, -1)]
        words = torch.cat([torch.zeros_like(text), text])
        return network(latents, t[0], encoder_hidden_states=words, pose_cond_fea=guidance, return_dict=False)[0]

    def begin() -> Callable[[], Tensor]:
        request = unet.precompute_conditioning(torch.cat([text, torch.zeros_like(text)]), features)
        shown = guidance.expand(2, -1, -1, -1, -1)
        return lambda: unet(latents, t, request, shown)

    theirs.reader = reader
    return Case(theirs, unet.eval(), begin)


def magic_animate() -> Case:
    """MagicAnimate's three networks, and MagicDance's renderer without its face encoder, which MagicAnimate lacks."""
    diffusers_as_it_was()
    from magicanimate.models.appearance_encoder import AppearanceEncoderModel
    from magicanimate.models.controlnet import ControlNetModel
    from magicanimate.models.mutual_self_attention import ReferenceAttentionControl
    from magicanimate.models.unet_controlnet import UNet3DConditionModel

    network = awake(UNet3DConditionModel(**MOVING), "temporal_transformer.proj_out")
    appearance = AppearanceEncoderModel(**SD).eval()
    control = awake(ControlNetModel(**SD), "controlnet_down_blocks", "controlnet_mid_block", "embedding.conv_out")
    options = {"do_classifier_free_guidance": True, "batch_size": 1, "fusion_blocks": "midup"}
    writer = ReferenceAttentionControl(appearance, mode="write", **options)
    reader = ReferenceAttentionControl(network, mode="read", **options)
    vae = {"block_out_channels": [8, 8, 8, 8], "latent_channels": 4, "norm_num_groups": 4}
    with torch.device("meta"):
        animator = Animator(
            text_encoder=HashedTokenEncoder(768),
            vae=vae,
            unet={},
            pose_encoder_channels=(16, 32, 96, 256),
            face=None,
            head_drop_prob=0.0,
            background_residual=False,
            resolution=512,
            num_frames=16,
            num_context_frames=4,
            noise_schedule={"name": "animatediff", "shift": 1.0, "prediction_type": "epsilon"},
            sampler={"num_inference_steps": 25, "guidance_scale": 7.5},
        )
    animator.unet.load_state_dict(convert_video_unet(network.state_dict()), assign=True)
    animator.appearance_encoder.load_state_dict(convert_reference_net(appearance.state_dict()), assign=True)
    animator.controlnet.load_state_dict(control.state_dict(), assign=True)
    picture, poses = torch.randn(1, 4, SIDE, SIDE), torch.rand(1, FRAMES, 3, 8 * SIDE, 8 * SIDE)
    latents, t = torch.randn(1, 4, FRAMES, SIDE, SIDE), torch.tensor([500, 500])
    words = torch.randn(1, 77, 768).expand(2, -1, -1)  # the empty prompt, twice

    def theirs() -> Tensor:
        appearance(picture.repeat(2, 1, 1, 1), t[0], encoder_hidden_states=words, return_dict=False)
        each = latents[0].movedim(1, 0)
        said = control(
            each,
            t[0],
            encoder_hidden_states=words[:1].expand(FRAMES, -1, -1),
            controlnet_cond=poses[0],
            conditioning_scale=1.0,
            return_dict=False,
        )
        *aside, middle = [one.movedim(0, 1)[None].repeat(2, 1, 1, 1, 1) for one in (*said[0], said[1])]
        reader.update(writer, dtype=torch.float32)
        answers = network(
            latents.repeat(2, 1, 1, 1, 1),
            t[0],
            encoder_hidden_states=words,
            down_block_additional_residuals=aside,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        reader.clear()
        writer.clear()
        return answers

    def begin() -> Callable[[], Tensor]:
        seen, both = animator.controlnet.encode_condition(poses), latents.expand(2, -1, -1, -1, -1)
        return lambda: animator.predict(both, t, ReferenceContext(picture), seen, None, words)

    return Case(theirs, animator.eval(), begin)


def diffusers_as_it_was() -> None:
    """What MagicAnimate's files of 2023 import, by the names that diffusers had then."""
    from diffusers.models import embeddings
    from diffusers.models.unets import unet_2d_blocks, unet_2d_condition

    sys.modules |= {
        f"diffusers.models.{one.__name__.rpartition('.')[2]}": one for one in (unet_2d_blocks, unet_2d_condition)
    }
    embeddings.PositionNet = embeddings.GLIGENTextBoundingboxProjection
    pipeline = ModuleType("magicanimate.models.stable_diffusion_controlnet_reference")  # of which one function is used
    pipeline.torch_dfs = lambda module: list(module.modules())
    sys.modules[pipeline.__name__] = pipeline


def rate(kind: torch.dtype) -> float:
    """This machine's FLOP/s in the convolution that the network mostly is, at its best."""
    x = torch.randn(8, 640, 32, 32, dtype=kind).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(640, 640, 3, 3, dtype=kind).contiguous(memory_format=torch.channels_last)
    took = []
    for _ in range(5):
        start = time.perf_counter()
        torch.nn.functional.conv2d(x, weight, padding=1)
        took.append(time.perf_counter() - start)
    return 2 * 8 * 32 * 32 * 640 * 640 * 9 / min(took)


@torch.inference_mode()
def main() -> None:
    """Measure, and print."""
    torch.manual_seed(0)
    case = magic_animate() if (Path(sys.argv[1]) / "magicanimate").is_dir() else moore()
    step = case.begin()
    with FlopCounterMode(display=False) as counted:
        step()
    work = counted.get_total_flops()
    wanted = case.theirs()  # and it is warm
    print(f"{FRAMES} frames of {SIDE}x{SIDE}, {torch.get_num_threads()} threads, {ROUNDS} rounds, their middle one")
    for precision in (None, "fp32", "bf16"):
        with fast_inference(case.network, precision):
            start = time.perf_counter()
            step = case.begin()
            answers = step().float().flip(0)
            first = time.perf_counter() - start
            seconds = {"public": [], "ours": []}
            for _ in range(ROUNDS):
                for way, what in (("public", case.theirs), ("ours", step)):
                    start = time.perf_counter()
                    what()
                    seconds[way].append(time.perf_counter() - start)
        step = None
        gc.collect()
        public, ours = (median_low(values) for values in seconds.values())
        apart = (answers - wanted).abs().max() / wanted.abs().max()
        best = rate(torch.bfloat16 if precision == "bf16" else torch.float32)
        print(
            f"{precision or 'as it is'}: public {public:.2f} s a guided step, ours {ours:.2f} s (first {first:.1f}), "
            f"{public / ours:.2f} times as fast; answers apart by {apart:.1e} of their largest; "
            f"{work / 1e12:.2f} TFLOP, {work / ours / best:.0%} of the convolution's {best / 1e9:.0f} GFLOP/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
