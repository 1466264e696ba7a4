"""How fast a guided step of the video U-Net is at the paper's size, beside Moore-AnimateAnyone's, in one process.

python tools/bench_video_unet.py MOORE_DIR [frames] [side] [rounds], MOORE_DIR a checkout of
github.com/MooreThreads/Moore-AnimateAnyone, side that of the latents. The same random weights, reference features,
text, guidance and latents; the public network is given what its own pipeline gives it: both branches at once, the
reference's features in every transformer, attention along time. Both take turns.
"""

import gc
import sys
import time
from pathlib import Path
from statistics import median_low

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path[:0] = [str(Path(__file__).parents[1]), sys.argv[1]]

from src.models.attention import TemporalBasicTransformerBlock  # noqa: E402
from src.models.mutual_self_attention import ReferenceAttentionControl  # noqa: E402
from src.models.unet_3d import UNet3DConditionModel  # noqa: E402

from zoo.nn.video_public import video_unet  # noqa: E402
from zoo.nn.video_unet import Request, VideoUNet  # noqa: E402

FRAMES, SIDE, ROUNDS = (int(sys.argv[n]) if len(sys.argv) > n else default for n, default in ((2, 4), (3, 32), (4, 3)))
MOTION = {
    "num_attention_heads": 8,
    "num_transformer_block": 1,
    "attention_block_types": ("Temporal_Self", "Temporal_Self"),
    "temporal_position_encoding": True,
    "temporal_position_encoding_max_len": 32,
}


def public() -> tuple[UNet3DConditionModel, ReferenceAttentionControl]:
    """The denoising network and what reads the reference's features, as the public pipeline makes them."""
    network = UNet3DConditionModel(
        cross_attention_dim=768, attention_head_dim=8, use_inflated_groupnorm=True, use_motion_module=True,
        motion_module_mid_block=True, motion_module_type="Vanilla", motion_module_kwargs=MOTION,
        unet_use_cross_frame_attention=False, unet_use_temporal_attention=False,
    ).eval()  # fmt: skip
    with torch.no_grad():  # a new motion module's last layer is 0, and would hide what is before it
        for name, one in network.named_parameters():
            if "motion_modules" in name and "proj_out" in name:
                one.normal_(std=0.02)
    return network, ReferenceAttentionControl(
        network, mode="read", do_classifier_free_guidance=True, batch_size=1, fusion_blocks="full"
    )


def blocks(module: torch.nn.Module) -> list[TemporalBasicTransformerBlock]:
    """Its transformer blocks in the order of the forward pass."""
    parts = [*module.down_blocks, module.mid_block, *module.up_blocks]
    return [one for part in parts for one in part.modules() if isinstance(one, TemporalBasicTransformerBlock)]


@torch.inference_mode()
def theirs() -> Tensor:
    """One guided step's answers, without the condition first."""
    for block, feature in zip(blocks(network), features, strict=True):
        block.bank = [feature.expand(2, -1, -1)]
    both = latents.expand(2, -1, -1, -1, -1)
    words = torch.cat([torch.zeros_like(text), text])
    return network(both, time_step[0], encoder_hidden_states=words, pose_cond_fea=guidance, return_dict=False)[0]


@torch.inference_mode()
def ours(request: Request, half: bool = False) -> Tensor:
    """The same, of ours."""
    both = latents.expand(2, -1, -1, -1, -1)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        return unet(both, time_step, request, guidance.expand(2, -1, -1, -1, -1)).float().flip(0)


def rate(half: bool) -> float:
    """This machine's FLOP/s in the convolution that the network mostly is, at its best."""
    kind = torch.bfloat16 if half else torch.float32
    x = torch.randn(8, 640, 32, 32, dtype=kind).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(640, 640, 3, 3, dtype=kind).contiguous(memory_format=torch.channels_last)
    took = []
    with torch.inference_mode():
        for _ in range(4):
            start = time.perf_counter()
            torch.nn.functional.conv2d(x, weight, padding=1)
            took.append(time.perf_counter() - start)
    return 2 * 8 * 32 * 32 * 640 * 640 * 9 / min(took)


torch.manual_seed(0)
network, reader = public()
with torch.device("meta"):
    unet = VideoUNet(motion=True, motion_middle=True)
unet.load_state_dict(video_unet(network.state_dict()), assign=True)  # one copy of 5 GB serves both
unet.eval()
unet.time_proj = network.time_proj
latents, text = torch.randn(1, 4, FRAMES, SIDE, SIDE), torch.randn(1, 1, 768)
guidance, time_step = torch.randn(1, 320, FRAMES, SIDE, SIDE), torch.tensor([500, 500])
sides = [SIDE] * 2 + [SIDE // 2] * 2 + [SIDE // 4] * 2 + [SIDE // 8] + [SIDE // 4] * 3 + [SIDE // 2] * 3 + [SIDE] * 3
features = [
    torch.randn(1, side**2, block.norm1.normalized_shape[0]) for side, block in zip(sides, blocks(network), strict=True)
]
with torch.inference_mode():
    plain = unet.prepare(torch.cat([text, torch.zeros_like(text)]), features)
    with FlopCounterMode(display=False) as counted:
        ours(plain)
    work = counted.get_total_flops()
    # the best setting of this machine; convolutions' weights lie as their inputs do, others are not touched
    with torch.autocast("cpu", torch.bfloat16):
        brief = unet.prepare(torch.cat([text, torch.zeros_like(text)]), features)
ways = {"public, fp32": (theirs, ()), "ours, fp32": (ours, (plain,)), "ours, bf16": (ours, (brief, True))}
seconds, answers = {way: [] for way in ways}, {}
for turn in range(ROUNDS + 1):
    for way, (what, options) in ways.items():
        start = time.perf_counter()
        answers[way] = what(*options)
        if turn:  # the first warms up
            seconds[way].append(time.perf_counter() - start)
        gc.collect()
print(f"{FRAMES} frames of {SIDE}x{SIDE}, {torch.get_num_threads()} threads, {ROUNDS} rounds, their middle one:")
first = next(iter(ways))
for way, values in seconds.items():
    took = median_low(values)
    apart = (answers[way] - answers[first]).abs().max() / answers[first].abs().max()
    share = "" if way == first else f", {work / took / rate('bf16' in way):.0%} of the machine's convolution rate"
    print(
        f"{way}: {took:.2f} s a guided step, {median_low(seconds[first]) / took:.2f} times as fast{share}; "
        f"answers apart by {apart:.1e} of their largest"
    )
