"""DabFusion at tiny widths: what is diffused, heard, decoded, chained and learned."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dabfusion_families import dabfusion
from torch.nn.functional import interpolate
from weights import fill_by_name, numbers

from zoo.body.labels import JOINT_LIMB, PARTS
from zoo.body.skeleton import JOINTS
from zoo.families.base import GenerationRequest, SamplingParams
from zoo.families.dabfusion.blocks import coordinate_grid, identity_flow, warp
from zoo.families.dabfusion.equivariance import RandomTPS, equivariance_losses
from zoo.families.dabfusion.family import DabFusion
from zoo.families.dabfusion.limbs import (
    LIMB_PARENT,
    LIMBS,
    PART_LIMB,
    flip_horizontal,
    heatmap_kl_loss,
    limb_assignment_loss,
    occlusion_loss,
    orient_axes,
)
from zoo.families.dabfusion.stages import DiffusionStage, FlowStage
from zoo.music.beats import Beats
from zoo.music.encoder import MusicFeatures
from zoo.nn.perceptual_loss import PerceptualLoss
from zoo.nn.square_image import pad_to_square

AUTOENCODER = {
    "num_regions": 4, "base_channels": 8, "max_channels": 16, "num_bottleneck_blocks": 1, "region_base_channels": 8,
    "flow_base_channels": 8, "hourglass_max_channels": 16, "num_hourglass_blocks": 2, "background_base_channels": 8,
}  # fmt: skip
UNET = {
    "music_dim": 16, "base_channels": 16, "channel_multipliers": [1, 1, 1, 1], "num_attention_heads": 1, "patch_size": 2
}  # fmt: skip
SMALL = {"autoencoder": AUTOENCODER, "unet": UNET, "sampler": {"name": "ddim"}}
FLOW_STAGE = {
    "vgg_weights": None, "equivariance_weight": 10.0, "limb_supervision_weight": 0.0, "num_reconstructed_clips": None,
    "supervision_warmup_steps": 0, "color_augment_steps": 0, "warp_loss_weight": 0.0,
}  # fmt: skip
DIFFUSION_STAGE = {"latent_cache_size": 0, "velocity_weight": 0.0}
SUPERVISED = {"limb_supervision_weight": 1.0, "num_reconstructed_clips": 1, "warp_loss_weight": 1.0}
LIMB_REGIONS = {"autoencoder": {"num_regions": 10, "limb_regions": True}, "condition_on_heatmaps": True}
IMAGE = (255 * interpolate(numbers("picture", 1, 3, 8, 8).sigmoid(), 64, mode="bicubic")[0]).clamp(0, 255).byte()
WINDOW = {"resolution": 64, "num_frames": 10}
TWO_STEPS = SamplingParams(num_inference_steps=2, eta=0.0)


def song(seconds: float, rate: float = 30.0) -> MusicFeatures:
    beats = Beats(np.arange(0.25, seconds, 0.5), 120.0, 0)
    return MusicFeatures(numbers("song", int(seconds * rate), 5), rate, beats)


def small_family(num_frames: int = 10, upsample: int = 1, autoencoder: dict | None = None, **changes) -> DabFusion:
    """A small family that predicts x0 of scaled displacements, with weights by name."""
    autoencoder = AUTOENCODER | {"flow_upsample": upsample} | (autoencoder or {})
    options = {"noise_schedule": {"prediction_type": "sample"}, "resolution": 64, "num_frames": num_frames}
    options |= {"flow_residual_scale": 20.0, "autoencoder": autoencoder}
    return fill_by_name(dabfusion(**SMALL | options | changes))


def dance(family: DabFusion, num_frames: int, fps: Fraction, seed: int = 0, image: torch.Tensor | None = IMAGE) -> list:
    request = GenerationRequest(image, song(20), num_frames, fps, seed=seed, sampling=TWO_STEPS)
    with torch.no_grad():
        return list(family.generate(request))


@pytest.mark.parametrize("frames", [1, 2, 11, 12, 25, 31])
@pytest.mark.parametrize("fps", [Fraction(12), Fraction(30000, 1001), Fraction(5)])
def test_every_length_comes_in_small_blocks_and_begins_with_the_picture(frames, fps):
    blocks = dance(small_family(), frames, fps)
    assert sum(map(len, blocks)) == frames and max(map(len, blocks)) <= 8
    assert all(block.dtype == torch.uint8 and block.shape[1:] == (3, 64, 64) for block in blocks)
    assert torch.equal(blocks[0][0], IMAGE)


def test_a_dance_is_its_seeds_and_no_longer_dance_changes_its_beginning():
    family = small_family()
    short, long, other = (torch.cat(dance(family, n, Fraction(12), seed)) for n, seed in ((14, 3), (29, 3), (14, 4)))
    assert torch.equal(short, long[:14])
    assert not torch.equal(short, other)


@pytest.mark.parametrize(("changes", "shown"), [({}, 16), (LIMB_REGIONS, 26)])
def test_a_window_sets_out_from_the_last_frame_of_the_one_before(changes, shown):
    """Frame 10 is the first window's last: given as the picture, it is danced on as the second window does."""
    family = small_family(**changes)
    heard = []
    family._sample_window, window = lambda z0, *rest: (heard.append(z0), window(z0, *rest))[1], family._sample_window
    frames = torch.cat(dance(family, 20, Fraction(12)))
    with torch.no_grad():
        last = frames[10:11].float() / 255
        again = family.reference_condition(last, family.autoencoder.encode(last)[-1])
    assert len(heard) == 2 and again.shape[1] == shown
    assert (heard[1] - again).abs().mean() < 0.03 < 0.1 < (heard[0] - again).abs().mean()  # rounded to whole colours


def test_overlapping_windows_move_the_picture_itself_and_go_on_from_each_other():
    """Every window is shown the picture; what it is held to is not drawn anew, whatever its frames are heard to be."""
    family = small_family(num_context_frames=7)
    made_of, heard = [], []
    family._sample_window, window = (
        lambda z0, *rest: (made_of.append((z0, rest[2])), heard.append(window(z0, *rest)))[1] or heard[-1],
        family._sample_window,
    )
    frames = torch.cat(dance(family, 17, Fraction(12)))
    assert len(heard) == 3  # 10 flows, and twice 3 more
    for (z0, known), before, after in zip(made_of[1:], heard[:-1], heard[1:], strict=True):
        assert torch.equal(z0, made_of[0][0])
        assert torch.equal(known, before[-7:]) and torch.equal(after[:7], before[-7:])
        assert not torch.equal(after[7:], before[7:])
    flows = torch.cat([heard[0], heard[1][7:], heard[2][7:]])
    with torch.no_grad():
        levels = family.autoencoder.encode(IMAGE[None].float() / 255)
        pictures = family.autoencoder.decode(levels, *family.codec.unpack_flow(flows))
    torch.testing.assert_close(frames[1:].float(), (pictures * 255).round().clamp(0, 255), atol=1, rtol=0)
    with pytest.raises(ValueError, match="num_context_frames=10 for windows of 10"):
        small_family(num_context_frames=10)


def test_a_held_beginning_steers_what_follows():
    torch.manual_seed(0)
    family = dabfusion(
        **SMALL | {"sampler": {"name": "ddim", "dynamic_threshold": None}}, **WINDOW, num_context_frames=7
    )
    family.eval()
    for head in (family.unet.final_conv, family.unet.occlusion_map):
        torch.nn.init.normal_(head[1].weight, std=0.1)
    z0 = family.reference_condition(IMAGE[None] / 255, family.autoencoder.encode(IMAGE[None] / 255)[-1])
    request = GenerationRequest(IMAGE, song(20), 30, Fraction(12), sampling=TWO_STEPS)
    with torch.no_grad():
        ends = [
            family._sample_window(z0, request, 10, context, torch.Generator().manual_seed(1))[7:]
            for context in (torch.zeros(7, 3, 16, 16), torch.ones(7, 3, 16, 16))
        ]
    assert (ends[0] - ends[1]).abs().mean() > 1e-2


def test_between_its_frames_the_flow_goes_on_evenly():
    """At twice the rate every other frame is the same, and the ones between come from the mean of two flows."""
    family = small_family(upsample=2)
    slow, fast = (torch.cat(dance(family, n, fps)) for n, fps in ((11, Fraction(12)), (21, Fraction(24))))
    assert torch.equal(slow, fast[::2])
    motion = numbers("motion", 4, 3, 16, 16)
    flow, occlusion = family._interpolate_flow(motion, [Fraction(3, 2)])
    expected = family.codec.unpack_flow((motion[1:2] + motion[2:3]) / 2)
    torch.testing.assert_close((flow, occlusion), expected)


@pytest.mark.parametrize("residual", [None, 4.0])
def test_what_is_diffused_says_all_of_the_motion(residual):
    family = dabfusion(**SMALL, flow_residual_scale=residual)
    flow, occlusion = (
        coordinate_grid(16, 16, torch.zeros(1)) + 0.1 * numbers("flow", 2, 16, 16, 2),
        numbers("o", 2, 1, 16, 16).sigmoid(),
    )
    volume = family.codec.pack_flow(flow, occlusion)
    assert volume.shape == (2, 3, 16, 16)
    torch.testing.assert_close(family.codec.unpack_flow(volume), (flow, occlusion))
    if residual is None:  # as published: [x, y, 2 occlusion - 1]
        torch.testing.assert_close(volume, torch.cat([flow.movedim(-1, 1), 2 * occlusion - 1], 1))


def test_a_pooled_flow_moves_the_picture_as_the_fine_one_does():
    """Where nothing moves nothing is diffused, at either size; a shift of everything is the same shift."""
    fine, pooled = small_family(upsample=2), small_family(upsample=2, flow_pool_factor=2)
    flow = identity_flow(32, 32, torch.zeros(1))[None] + torch.tensor([8 / 64, 0.0])
    occlusion, picture = torch.ones(1, 1, 32, 32), IMAGE[None].float() / 255
    volumes = [family.codec.pack_flow(flow, occlusion) for family in (fine, pooled)]
    assert [volume.shape[-1] for volume in volumes] == [32, 16]
    for family, volume in zip((fine, pooled), volumes, strict=True):
        torch.testing.assert_close(volume[:, :2], torch.tensor([2.5, 0.0])[:, None, None].expand_as(volume[:, :2]))
        moved = warp(picture, family.codec.unpack_flow(volume)[0])
        torch.testing.assert_close(moved[..., 4:-4, 8:-8], picture[..., 4:-4, 12:-4], atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="flow_pool_factor=4 does not divide flow_upsample=2"):
        small_family(upsample=2, flow_pool_factor=4)


def test_the_velocity_loss_sees_what_flickers_and_nothing_else():
    """An answer that is off by a constant has none; one that is off by +-1 from frame to frame has all."""
    family = small_family()
    own, losses = stage(DiffusionStage, family, velocity_weight=3.0), []
    x0 = torch.stack([own._encode_clip((clip + 1) / 2)[0] for clip in batch(11)["frames"]])
    for off in (torch.full((10,), 0.5), torch.arange(10) % 2 * 2.0 - 1):
        family.unet = torch.nn.Module()
        family.unet.forward = lambda x, t, condition, off=off: x0.half().float() + off[:, None, None]
        losses.append({name: float(value) for name, value in own.loss(batch(11)).items()})
    assert losses[0] == pytest.approx({"noise": 0.25, "velocity": 0.0}, abs=1e-4)
    assert losses[1] == pytest.approx({"noise": 1.0, "velocity": 3 * 4.0}, rel=1e-3)


def test_what_is_heard_is_of_the_frames_own_time():
    """A song whose only feature is the time; beats at every half second from 0.25 s on."""
    family = dabfusion(1, **SMALL)
    time = torch.arange(300)[None, :, None] / 30
    heard = family.align_music(time, 30.0, family.beats_at(np.arange(0.25, 10, 0.5), 40, start=5), 40, start=5)[0]
    at = (5 + np.arange(40)) / 12
    np.testing.assert_allclose(heard[:, 0], at, atol=1e-6)
    np.testing.assert_array_equal(heard[:, 1], np.isin(5 + np.arange(40), np.arange(3, 120, 6)))
    np.testing.assert_allclose(heard[:, 2], np.cos(4 * np.pi * (at - 0.25)), atol=1e-5)
    family = dabfusion(1, **SMALL, condition_on_beats=False)
    assert family.align_music(time, 30.0, None, 40).shape == (1, 40, 1)


def test_the_flow_says_where_a_pixel_comes_from():
    """Backward warp: a flow two of the picture's pixels to the right takes what was there."""
    x = numbers("x", 1, 2, 32, 32)
    flow = coordinate_grid(32, 32, x)[None] * 31 / 32 + torch.tensor(
        [4 / 32, 0.0]
    )  # grid_sample counts from the borders
    torch.testing.assert_close(warp(x, flow)[..., :-2], x[..., 2:], atol=1e-4, rtol=0)


def test_the_unseen_is_painted_and_the_seen_is_kept():
    """Occlusion 1 and no motion give the source's own pixels; 0 gives nothing of them."""
    autoencoder = small_family().autoencoder
    pictures = torch.stack([IMAGE, IMAGE.flip(-1)]).float() / 255
    # an identity in the warp's own counting
    flow = (coordinate_grid(64, 64, pictures) * 63 / 64).expand(2, -1, -1, -1)
    with torch.no_grad():
        levels = autoencoder.encode(pictures)
        kept = autoencoder.generator.decode(levels, flow, torch.ones(2, 1, 16, 16))
        torch.testing.assert_close(kept, pictures, atol=1e-3, rtol=0)
        unseen = autoencoder.generator.decode(levels, flow, torch.zeros(2, 1, 16, 16))
        torch.testing.assert_close(unseen[0], unseen[1])


def test_the_bends_slope_is_its_derivative():
    torch.manual_seed(0)
    bend, places = RandomTPS(2, torch.device("cpu"), spline_std=0.05), numbers("places", 2, 7, 2).tanh()
    slope = torch.autograd.functional.jacobian(lambda x: bend(x).sum((0, 1)), places)  # (2, B, N, 2)
    torch.testing.assert_close(bend.jacobian(places), slope.permute(1, 2, 0, 3), atol=1e-4, rtol=1e-4)


def test_equivariance_is_kept_by_what_follows_the_bend():
    """Regions moved by the very bend lose nothing; regions that stay lose the way they should have gone."""
    torch.manual_seed(0)
    bend = RandomTPS(2, torch.device("cpu"))
    bent = SimpleNamespace(shift=numbers("s", 2, 4, 2).tanh(), affine=torch.eye(2).expand(2, 4, 2, 2))
    true = SimpleNamespace(shift=bend(bent.shift), affine=bend.jacobian(bent.shift) @ bent.affine)
    assert max(float(loss) for loss in equivariance_losses(true, bent, bend)) < 1e-5
    assert min(float(loss) for loss in equivariance_losses(bent, bent, bend)) > 1e-3


def test_likeness_is_zero_for_the_same_and_grows_with_blur():
    likeness, x = PerceptualLoss(), IMAGE[None].float() / 255
    blurred = [interpolate(interpolate(x, n, mode="area"), 64, mode="bilinear") for n in (32, 16, 8)]
    losses = [float(likeness(y, x)) for y in (x, *blurred)]
    assert losses[0] == 0 and losses == sorted(losses)


def stage(kind, family: DabFusion, **options):
    defaults = FLOW_STAGE if kind is FlowStage else DIFFUSION_STAGE
    return kind(family, torch.optim.Adam, ema_decay=None, seed=0, **defaults | options)


def batch(frames: int) -> dict:
    clips = interpolate(numbers("clips", 2 * frames, 3, 8, 8), 64, mode="bilinear").tanh().unflatten(0, (2, frames))
    beats = (torch.arange(frames) % 6 == 3).long().expand(2, -1)
    return {
        "key": ["a", "b"],
        "frames": clips,
        "music": numbers("music", 2, 40, 5),
        "music_rate": 30.0,
        "beats": beats,
        "beat_phase": numbers("pulse", 2, frames, 2),
        "joints2d": 32 + 20 * numbers("joints", 2, frames, 24, 2).tanh(),
        "parts": (torch.arange(2 * frames * 64 * 64) // 170 % 25).view(2, frames, 64, 64).byte(),
    }


@pytest.mark.parametrize(
    ("kind", "options", "changes"),
    [
        (FlowStage, {}, {}),
        (FlowStage, SUPERVISED, LIMB_REGIONS | {"upsample": 2}),
        (DiffusionStage, {}, {}),
        (DiffusionStage, {"velocity_weight": 1.0}, LIMB_REGIONS | {"upsample": 2, "flow_pool_factor": 2}),
    ],
)
def test_everything_that_learns_gets_a_gradient_and_nothing_else_moves(kind, options, changes):
    family = small_family(**changes)
    own = stage(kind, family, **options).train()
    before = {name: value.clone() for name, value in family.state_dict().items()}
    torch.manual_seed(0)
    torch.stack(list(own.loss(batch(11)).values())).sum().backward()
    learning = {name for name, p in family.named_parameters() if p.requires_grad}
    dead = {name for name in learning if family.get_parameter(name).grad is None}
    assert learning and not dead
    roots = tuple(own.trainable_modules())
    changed = {name for name, value in family.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith(roots) for name in changed)  # batch norms of what is frozen keep their counts


def test_limbs_and_what_moves_with_them_are_learned_first():
    """Alone, regions learn from joints only, the flow from parts; nothing else is even shown a gradient of zero."""
    family = small_family(upsample=2, **LIMB_REGIONS)
    own = stage(FlowStage, family, supervision_warmup_steps=1, **SUPERVISED).train()
    losses = own.loss(batch(2))
    assert set(losses) == {"heatmap", "limb_assignment", "occlusion"}
    regions = list(family.autoencoder.region_predictor.parameters())
    for name in ("limb_assignment", "occlusion"):
        slopes = torch.autograd.grad(losses[name], regions, allow_unused=True, retain_graph=True)
        assert all(slope is None for slope in slopes)
    torch.stack(list(losses.values())).sum().backward()
    own.on_before_optimizer_step(None)
    found = {name for name, each in family.autoencoder.named_parameters() if each.grad is not None}
    parts = ("region_predictor.", "generator.pixelwise_flow_predictor.")
    assert found == {name for name, _ in family.autoencoder.named_parameters() if name.startswith(parts)}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="limb_supervision_weight must be 0"):
        stage(FlowStage, small_family(), limb_supervision_weight=1.0)
    with pytest.raises(ValueError, match="num_regions=4: limb_regions=true needs 10"):
        small_family(autoencoder={"limb_regions": True})
    with pytest.raises(ValueError, match="clips of 9 frames for windows of 10 flows: clip.num_frames must be 11"):
        stage(DiffusionStage, small_family()).loss(batch(9))


def test_a_picture_of_any_shape_is_wholly_in_the_square():
    tall = torch.zeros(3, 40, 10, dtype=torch.uint8)
    tall[:, :, 4:6] = 255
    square = pad_to_square(tall, 40)
    assert square.shape == (3, 40, 40) and torch.equal(square[:, :, 15:25], tall)
    assert pad_to_square(numbers("p", 3, 300, 200).byte(), 64).shape == (3, 64, 64)
    with pytest.raises(ValueError, match="image="):
        dance(small_family(), 5, Fraction(12), image=None)


def test_limbs_in_their_places_are_not_astray():
    """Heat maps that are the limbs' own lose nothing, and the farther off they lie the more."""
    joints = torch.rand(2, 24, 2, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    flat = torch.full((2, 10, 32, 32), 1 / 32**2, requires_grad=True)
    # at the optimum the gradient of -sum(p log q) is -p / q
    (slope,) = torch.autograd.grad(heatmap_kl_loss(flat, joints) * 20, flat)
    own = -slope / 32**2
    torch.testing.assert_close(own.sum((-1, -2)), torch.ones(2, 10))
    off = [float(heatmap_kl_loss(own.roll(n, -1), joints)) for n in (0, 1, 2, 4)]
    assert abs(off[0]) < 1e-4 and off == sorted(off)
    places = (torch.arange(32) + 0.5) / 32
    middle = torch.einsum("bkyx,x->bk", own, places), torch.einsum("bkyx,y->bk", own, places)
    expected = joints[:, torch.tensor(LIMBS)].mean(2)
    torch.testing.assert_close(torch.stack(middle, -1), expected, atol=2e-3, rtol=0)


def test_flows_that_are_kept_are_those_worked_out_anew():
    family = small_family()
    losses = []
    for size in (0, 1, 9):
        own = stage(DiffusionStage, family, latent_cache_size=size)
        for _ in range(2):
            torch.manual_seed(0)
            with torch.autocast("cpu", dtype=torch.bfloat16):  # as it is trained
                losses.append(own.loss(batch(11))["noise"].item())
        assert len(own.latent_cache) == min(size, 2)
    assert len(set(losses)) == 1


def test_parts_belong_to_the_limbs_that_move_them():
    """Every DensePose part goes to the limb at whose far end is the joint that moves it, on its own side."""
    for limb in range(2, 8):
        for left, side in enumerate(("right", "left")):
            (index,) = {PART_LIMB[part] for part in PARTS[limb][left]}
            ends = LIMBS[index - 1]
            assert limb in {JOINT_LIMB[joint] for joint in ends} and JOINTS[ends[1]].startswith(side)
    assert {PART_LIMB[part] for part in PARTS[:2].flat} == {1, 2} and PART_LIMB[23] == 1 and PART_LIMB[0] == 0
    parts = torch.zeros(1, 8, 8, dtype=torch.uint8)
    parts[:, :4] = 23
    shares = torch.full((1, 11, 4, 4), 1e-6)
    shares[:, 1, :2], shares[:, 0, 2:] = 1, 1
    assert limb_assignment_loss(shares, parts) < 1e-4 < 1 < limb_assignment_loss(shares.flip(2), parts)


def test_the_ends_of_a_limb_are_told_apart():
    """However the dancer is turned about, and whatever signs PCA gave, axes turn with the dancer and do not mirror."""
    torch.manual_seed(0)
    joints = torch.randn(24, 2)
    turns = torch.linspace(0, 2 * torch.pi, 9)
    turns = torch.stack([turns.cos(), -turns.sin(), turns.sin(), turns.cos()], -1).view(-1, 2, 2)
    ends = (turns[:, None, None] @ joints[torch.tensor(LIMBS)][..., None])[..., 0]  # (turns, limbs, ends, 2)
    shift, long = ends.mean(2), ends[:, :, 1] - ends[:, :, 0]
    away = ((shift - shift[:, torch.tensor(LIMB_PARENT)]) * long).sum(-1).sign()
    axes = torch.stack([long, 0.3 * torch.stack([-long[..., 1], long[..., 0]], -1)], -1)
    signs = torch.randint(2, (*long.shape[:2], 1, 2)) * 2.0 - 1
    assert (axes * signs - axes).abs().max() > 1
    torch.testing.assert_close(orient_axes(shift, axes * signs), axes * away[..., None, None])


def test_in_a_mirror_left_is_right():
    """Twice is the same again; every left joint and part gets its right one's place, and none its own."""
    pictures, joints = numbers("pictures", 2, 3, 8, 8), numbers("joints", 2, 24, 2).sigmoid()
    parts = torch.arange(128).view(2, 8, 8).remainder(25).byte()
    torch.testing.assert_close(flip_horizontal(*flip_horizontal(pictures, joints, parts)), (pictures, joints, parts))
    seen, turned, other = flip_horizontal(pictures, joints, parts)
    assert torch.equal(seen[..., 0], pictures[..., 7])
    for index, name in enumerate(JOINTS):
        twin = name.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")
        torch.testing.assert_close(turned[:, JOINTS.index(twin), 0], 1 - joints[:, index, 0])
        torch.testing.assert_close(turned[:, JOINTS.index(twin), 1], joints[:, index, 1])
    swapped = {int(a): int(b) for a, b in zip(parts.flip(-1).flatten(), other.flatten(), strict=True)}
    assert [swapped[part] for part in (0, 1, 2)] == [0, 1, 2]
    assert all(swapped[int(left)] == right for left, right in zip(PARTS[1:, 1].flat, PARTS[1:, 0].flat, strict=True))


def test_what_a_body_uncovers_is_hidden():
    """Free cells: hidden where somebody stood, else visible, and half and half by halves; a body's own: anything."""
    before, after = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    before[:, :, 1:4], after[:, 6:] = 2, 3
    told = torch.tensor([0.5, 0, 1, 1]).expand(1, 1, 4, 4).clone()
    told[..., 3, :] = torch.tensor([0.1, 0.7, 0.9, 0.5])
    told.requires_grad_()
    loss = occlusion_loss(told, before, after)
    (slope,) = torch.autograd.grad(loss, told)
    assert slope[..., 3, :].abs().max() == 0 and slope[..., 0].abs().max() < 1e-6
    wrong = told.detach().clone()
    for column, value in ((0, 0.6), (1, 0.2), (2, 0.8)):
        wrong.copy_(told.detach())[..., 0, column] = value
        assert occlusion_loss(wrong, before, after) > loss + 1e-3


@pytest.mark.parametrize("overlap", [0, 4])
def test_every_window_hears_its_own_frames(overlap):
    """Flows lead to the frames after the picture: to a song whose features are the time, 1/12 s on, in every window."""
    family, heard = small_family(num_context_frames=overlap), []
    family.align_music, hear = lambda *where: (heard.append(hear(*where)), heard[-1])[1], family.align_music
    music = MusicFeatures((torch.arange(600)[:, None] / 30).expand(-1, 5), 30.0, song(20).beats)
    with torch.no_grad():
        list(family.generate(GenerationRequest(IMAGE, music, 21, Fraction(12), sampling=TWO_STEPS)))
    starts = [1, 11] if not overlap else [1, 7, 13]
    for window, start in zip(heard, starts, strict=True):
        np.testing.assert_allclose(window[0, :, 0], (start + np.arange(10)) / 12, atol=1e-5)
