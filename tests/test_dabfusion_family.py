"""DabFusion at tiny widths: what is diffused, heard, decoded, chained and learned."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dabfusion_families import dabfusion, family_node
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
def test_generation_yields_small_blocks_of_any_total_and_begins_with_the_image(frames, fps):
    blocks = dance(small_family(), frames, fps)
    assert sum(map(len, blocks)) == frames and max(map(len, blocks)) <= 8
    assert all(block.dtype == torch.uint8 and block.shape[1:] == (3, 64, 64) for block in blocks)
    assert torch.equal(blocks[0][0], IMAGE)


def test_a_reconstruction_is_the_image_warped_to_each_frame():
    family, frames = small_family(), torch.stack([IMAGE.flip(2), IMAGE, IMAGE // 2])
    with torch.no_grad():
        blocks = torch.cat(list(family.reconstruct(IMAGE, frames)))
        for frame, block in zip(frames, blocks, strict=True):
            image = family.autoencoder(IMAGE[None] / 255, frame[None] / 255).image[0]
            assert (block / 255 - image).abs().max() < 0.01
    assert not torch.equal(blocks[0], blocks[1])


def test_frames_depend_on_the_seed_but_not_on_the_number_of_frames():
    family = small_family()
    short, long, other_seed = (
        torch.cat(dance(family, n, Fraction(12), seed)) for n, seed in ((14, 3), (29, 3), (14, 4))
    )
    assert torch.equal(short, long[:14])
    assert not torch.equal(short, other_seed)


@pytest.mark.parametrize(("changes", "num_channels"), [({}, 16), (LIMB_REGIONS, 26)])
def test_without_context_a_window_starts_from_the_last_frame_of_the_previous_window(changes, num_channels):
    """Frame 10 is the first window's last: given as the picture, it is danced on as the second window does."""
    family = small_family(**changes)
    references = []
    family._sample_window, window = (
        lambda z0, *rest: (references.append(z0), window(z0, *rest))[1],
        family._sample_window,
    )
    frames = torch.cat(dance(family, 20, Fraction(12)))
    with torch.no_grad():
        last = frames[10:11].float() / 255
        expected = family.reference_condition(last, family.autoencoder.encode(last)[-1])
    assert len(references) == 2 and expected.shape[1] == num_channels
    assert (
        (references[1] - expected).abs().mean() < 0.03 < 0.1 < (references[0] - expected).abs().mean()
    )  # rounded to whole colours


def test_windows_with_context_move_the_reference_and_continue_the_previous_flows():
    """Every window is shown the picture; what it is held to is not drawn anew, whatever its frames are heard to be."""
    family = small_family(num_context_frames=7)
    inputs, volumes = [], []
    family._sample_window, window = (
        lambda z0, *rest: (inputs.append((z0, rest[2])), volumes.append(window(z0, *rest)))[1] or volumes[-1],
        family._sample_window,
    )
    frames = torch.cat(dance(family, 17, Fraction(12)))
    assert len(volumes) == 3  # 10 flows, and twice 3 more
    for (z0, context), previous, current in zip(inputs[1:], volumes[:-1], volumes[1:], strict=True):
        assert torch.equal(z0, inputs[0][0])
        assert torch.equal(context, previous[-7:]) and torch.equal(current[:7], previous[-7:])
        assert not torch.equal(current[7:], previous[7:])
    flows = torch.cat([volumes[0], volumes[1][7:], volumes[2][7:]])
    with torch.no_grad():
        levels = family.autoencoder.encode(IMAGE[None].float() / 255)
        decoded = family.autoencoder.decode(levels, *family.codec.unpack_flow(flows))
    torch.testing.assert_close(frames[1:].float(), (decoded * 255).round().clamp(0, 255), atol=1, rtol=0)
    with pytest.raises(ValueError, match="num_context_frames=10 for windows of 10"):
        small_family(num_context_frames=10)


def test_context_frames_change_the_frames_after_them():
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


def test_flows_are_interpolated_linearly_in_time():
    """At twice the rate every other frame is the same, and the ones between come from the mean of two flows."""
    family = small_family(upsample=2)
    slow, fast = (torch.cat(dance(family, n, fps)) for n, fps in ((11, Fraction(12)), (21, Fraction(24))))
    assert torch.equal(slow, fast[::2])
    motion = numbers("motion", 4, 3, 16, 16)
    flow, occlusion = family._interpolate_flow(motion, [Fraction(3, 2)])
    expected = family.codec.unpack_flow((motion[1:2] + motion[2:3]) / 2)
    torch.testing.assert_close((flow, occlusion), expected)


@pytest.mark.parametrize("residual", [None, 4.0])
def test_unpacking_inverts_packing_of_flow_and_occlusion(residual):
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


def test_a_pooled_flow_moves_an_image_as_the_full_one_does():
    """Where nothing moves nothing is diffused, at either size; a shift of everything is the same shift."""
    fine, pooled = small_family(upsample=2), small_family(upsample=2, flow_pool_factor=2)
    flow = identity_flow(32, 32, torch.zeros(1))[None] + torch.tensor([8 / 64, 0.0])
    occlusion, image = torch.ones(1, 1, 32, 32), IMAGE[None].float() / 255
    volumes = [family.codec.pack_flow(flow, occlusion) for family in (fine, pooled)]
    assert [volume.shape[-1] for volume in volumes] == [32, 16]
    for family, volume in zip((fine, pooled), volumes, strict=True):
        torch.testing.assert_close(volume[:, :2], torch.tensor([2.5, 0.0])[:, None, None].expand_as(volume[:, :2]))
        moved = warp(image, family.codec.unpack_flow(volume)[0])
        torch.testing.assert_close(moved[..., 4:-4, 8:-8], image[..., 4:-4, 12:-4], atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="flow_pool_factor=4 does not divide flow_upsample=2"):
        small_family(upsample=2, flow_pool_factor=4)


def test_the_velocity_loss_measures_frame_differences_only():
    """An answer that is off by a constant has none; one that is off by +-1 from frame to frame has all."""
    family = small_family()
    diffusion_stage, losses = stage(DiffusionStage, family, velocity_weight=3.0), []
    x0 = torch.stack([diffusion_stage._encode_clip((clip + 1) / 2)[0] for clip in batch(11)["frames"]])
    for error in (torch.full((10,), 0.5), torch.arange(10) % 2 * 2.0 - 1):
        family.unet = torch.nn.Module()
        family.unet.forward = lambda x, t, condition, error=error: x0.half().float() + error[:, None, None]
        losses.append({name: float(value) for name, value in diffusion_stage.loss(batch(11)).items()})
    assert losses[0] == pytest.approx({"noise": 0.25, "velocity": 0.0}, abs=1e-4)
    assert losses[1] == pytest.approx({"noise": 1.0, "velocity": 3 * 4.0}, rel=1e-3)


def test_music_and_beats_are_aligned_with_frame_times():
    """A song whose only feature is the time; beats at every half second from 0.25 s on."""
    family = dabfusion(1, **SMALL)
    time = torch.arange(300)[None, :, None] / 30
    condition = family.align_music(time, 30.0, family.beats_at(np.arange(0.25, 10, 0.5), 40, start=5), 40, start=5)[0]
    seconds = (5 + np.arange(40)) / 12
    np.testing.assert_allclose(condition[:, 0], seconds, atol=1e-6)
    np.testing.assert_array_equal(condition[:, 1], np.isin(5 + np.arange(40), np.arange(3, 120, 6)))
    np.testing.assert_allclose(condition[:, 2], np.cos(4 * np.pi * (seconds - 0.25)), atol=1e-5)
    family = dabfusion(1, **SMALL, condition_on_beats=False)
    assert family.align_music(time, 30.0, None, 40).shape == (1, 40, 1)


def test_warping_is_backward():
    """Backward warp: a flow two of the picture's pixels to the right takes what was there."""
    x = numbers("x", 1, 2, 32, 32)
    flow = coordinate_grid(32, 32, x)[None] * 31 / 32 + torch.tensor(
        [4 / 32, 0.0]
    )  # grid_sample counts from the borders
    torch.testing.assert_close(warp(x, flow)[..., :-2], x[..., 2:], atol=1e-4, rtol=0)


def test_visible_pixels_come_from_the_source_and_occluded_ones_do_not():
    """Occlusion 1 and no motion give the source's own pixels; 0 gives nothing of them."""
    autoencoder = small_family().autoencoder
    images = torch.stack([IMAGE, IMAGE.flip(-1)]).float() / 255
    # an identity in the warp's own counting
    flow = (coordinate_grid(64, 64, images) * 63 / 64).expand(2, -1, -1, -1)
    with torch.no_grad():
        levels = autoencoder.encode(images)
        visible = autoencoder.generator.decode(levels, flow, torch.ones(2, 1, 16, 16))
        torch.testing.assert_close(visible, images, atol=1e-3, rtol=0)
        occluded = autoencoder.generator.decode(levels, flow, torch.zeros(2, 1, 16, 16))
        torch.testing.assert_close(occluded[0], occluded[1])


def test_the_jacobian_of_the_random_transform_is_its_derivative():
    torch.manual_seed(0)
    transform, coordinates = RandomTPS(2, torch.device("cpu"), spline_std=0.05), numbers("places", 2, 7, 2).tanh()
    expected = torch.autograd.functional.jacobian(lambda x: transform(x).sum((0, 1)), coordinates)  # (2, B, N, 2)
    torch.testing.assert_close(transform.jacobian(coordinates), expected.permute(1, 2, 0, 3), atol=1e-4, rtol=1e-4)


def test_equivariance_losses_are_zero_for_regions_that_follow_the_transform():
    """Regions moved by the very bend lose nothing; regions that stay lose the way they should have gone."""
    torch.manual_seed(0)
    transform = RandomTPS(2, torch.device("cpu"))
    transformed = SimpleNamespace(shift=numbers("s", 2, 4, 2).tanh(), affine=torch.eye(2).expand(2, 4, 2, 2))
    regions = SimpleNamespace(
        shift=transform(transformed.shift), affine=transform.jacobian(transformed.shift) @ transformed.affine
    )
    assert max(float(loss) for loss in equivariance_losses(regions, transformed, transform)) < 1e-5
    assert min(float(loss) for loss in equivariance_losses(transformed, transformed, transform)) > 1e-3


def test_the_perceptual_loss_is_zero_for_equal_images_and_grows_with_blur():
    perceptual_loss, x = PerceptualLoss(), IMAGE[None].float() / 255
    blurred = [interpolate(interpolate(x, n, mode="area"), 64, mode="bilinear") for n in (32, 16, 8)]
    losses = [float(perceptual_loss(y, x)) for y in (x, *blurred)]
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
def test_all_trained_parameters_get_a_gradient_and_no_others_change(kind, options, changes):
    family = small_family(**changes)
    trained_stage = stage(kind, family, **options).train()
    initial = {name: value.clone() for name, value in family.state_dict().items()}
    torch.manual_seed(0)
    torch.stack(list(trained_stage.loss(batch(11)).values())).sum().backward()
    trained = {name for name, p in family.named_parameters() if p.requires_grad}
    without_gradient = {name for name in trained if family.get_parameter(name).grad is None}
    assert trained and not without_gradient
    roots = tuple(trained_stage.trainable_modules())
    changed = {name for name, value in family.state_dict().items() if not torch.equal(value, initial[name])}
    assert all(name.startswith(roots) for name in changed)  # batch norms of what is frozen keep their counts


def test_supervision_warmup_trains_regions_and_flow_only():
    """Alone, regions learn from joints only, the flow from parts; nothing else is even shown a gradient of zero."""
    family = small_family(upsample=2, **LIMB_REGIONS)
    flow_stage = stage(FlowStage, family, supervision_warmup_steps=1, **SUPERVISED).train()
    losses = flow_stage.loss(batch(2))
    assert set(losses) == {"heatmap", "limb_assignment", "occlusion"}
    regions = list(family.autoencoder.region_predictor.parameters())
    for name in ("limb_assignment", "occlusion"):
        gradients = torch.autograd.grad(losses[name], regions, allow_unused=True, retain_graph=True)
        assert all(gradient is None for gradient in gradients)
    torch.stack(list(losses.values())).sum().backward()
    flow_stage.on_before_optimizer_step(None)
    with_gradient = {name for name, parameter in family.autoencoder.named_parameters() if parameter.grad is not None}
    parts = ("region_predictor.", "generator.pixelwise_flow_predictor.")
    assert with_gradient == {name for name, _ in family.autoencoder.named_parameters() if name.startswith(parts)}


def test_inconsistent_settings_are_refused():
    with pytest.raises(ValueError, match="limb_supervision_weight must be 0"):
        stage(FlowStage, small_family(), limb_supervision_weight=1.0)
    with pytest.raises(ValueError, match="num_regions=4: limb_regions=true needs 10"):
        small_family(autoencoder={"limb_regions": True})
    with pytest.raises(ValueError, match="clips of 9 frames for windows of 10 flows: clip.num_frames must be 11"):
        stage(DiffusionStage, small_family()).loss(batch(9))


def test_an_image_of_any_shape_is_padded_and_a_missing_image_is_refused():
    tall = torch.zeros(3, 40, 10, dtype=torch.uint8)
    tall[:, :, 4:6] = 255
    square = pad_to_square(tall, 40)
    assert square.shape == (3, 40, 40) and torch.equal(square[:, :, 15:25], tall)
    assert pad_to_square(numbers("p", 3, 300, 200).byte(), 64).shape == (3, 64, 64)
    with pytest.raises(ValueError, match="image="):
        dance(small_family(), 5, Fraction(12), image=None)


def test_the_heatmap_loss_is_zero_for_the_limbs_and_grows_with_distance():
    """Heat maps that are the limbs' own lose nothing, and the farther off they lie the more."""
    joints = torch.rand(2, 24, 2, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    flat = torch.full((2, 10, 32, 32), 1 / 32**2, requires_grad=True)
    # at the optimum the gradient of -sum(p log q) is -p / q
    (gradient,) = torch.autograd.grad(heatmap_kl_loss(flat, joints) * 20, flat)
    target = -gradient / 32**2
    torch.testing.assert_close(target.sum((-1, -2)), torch.ones(2, 10))
    losses = [float(heatmap_kl_loss(target.roll(n, -1), joints)) for n in (0, 1, 2, 4)]
    assert abs(losses[0]) < 1e-4 and losses == sorted(losses)
    centers = (torch.arange(32) + 0.5) / 32
    means = torch.einsum("bkyx,x->bk", target, centers), torch.einsum("bkyx,y->bk", target, centers)
    expected = joints[:, torch.tensor(LIMBS)].mean(2)
    torch.testing.assert_close(torch.stack(means, -1), expected, atol=2e-3, rtol=0)


def test_cached_flows_equal_computed_ones():
    family = small_family()
    losses = []
    for size in (0, 1, 9):
        diffusion_stage = stage(DiffusionStage, family, latent_cache_size=size)
        for _ in range(2):
            torch.manual_seed(0)
            with torch.autocast("cpu", dtype=torch.bfloat16):  # as it is trained
                losses.append(diffusion_stage.loss(batch(11))["noise"].item())
        assert len(diffusion_stage.latent_cache) == min(size, 2)
    assert len(set(losses)) == 1


def test_densepose_parts_belong_to_the_limbs_that_move_them():
    """Every DensePose part goes to the limb at whose far end is the joint that moves it, on its own side."""
    for limb in range(2, 8):
        for left, side in enumerate(("right", "left")):
            (index,) = {PART_LIMB[part] for part in PARTS[limb][left]}
            ends = LIMBS[index - 1]
            assert limb in {JOINT_LIMB[joint] for joint in ends} and JOINTS[ends[1]].startswith(side)
    assert {PART_LIMB[part] for part in PARTS[:2].flat} == {1, 2} and PART_LIMB[23] == 1 and PART_LIMB[0] == 0
    parts = torch.zeros(1, 8, 8, dtype=torch.uint8)
    parts[:, :4] = 23
    weights = torch.full((1, 11, 4, 4), 1e-6)
    weights[:, 1, :2], weights[:, 0, 2:] = 1, 1
    assert limb_assignment_loss(weights, parts) < 1e-4 < 1 < limb_assignment_loss(weights.flip(2), parts)


def test_limb_axes_rotate_with_the_body_whatever_signs_pca_gave():
    """However the dancer is turned about, and whatever signs PCA gave, axes turn with the dancer and do not mirror."""
    torch.manual_seed(0)
    joints = torch.randn(24, 2)
    rotations = torch.linspace(0, 2 * torch.pi, 9)
    rotations = torch.stack([rotations.cos(), -rotations.sin(), rotations.sin(), rotations.cos()], -1).view(-1, 2, 2)
    ends = (rotations[:, None, None] @ joints[torch.tensor(LIMBS)][..., None])[..., 0]  # (turns, limbs, ends, 2)
    shift, long = ends.mean(2), ends[:, :, 1] - ends[:, :, 0]
    outward = ((shift - shift[:, torch.tensor(LIMB_PARENT)]) * long).sum(-1).sign()
    axes = torch.stack([long, 0.3 * torch.stack([-long[..., 1], long[..., 0]], -1)], -1)
    signs = torch.randint(2, (*long.shape[:2], 1, 2)) * 2.0 - 1
    assert (axes * signs - axes).abs().max() > 1
    torch.testing.assert_close(orient_axes(shift, axes * signs), axes * outward[..., None, None])


def test_a_horizontal_flip_exchanges_left_and_right():
    """Twice is the same again; every left joint and part gets its right one's place, and none its own."""
    images, joints = numbers("pictures", 2, 3, 8, 8), numbers("joints", 2, 24, 2).sigmoid()
    parts = torch.arange(128).view(2, 8, 8).remainder(25).byte()
    torch.testing.assert_close(flip_horizontal(*flip_horizontal(images, joints, parts)), (images, joints, parts))
    flipped_images, flipped_joints, flipped_parts = flip_horizontal(images, joints, parts)
    assert torch.equal(flipped_images[..., 0], images[..., 7])
    for index, name in enumerate(JOINTS):
        twin = name.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")
        torch.testing.assert_close(flipped_joints[:, JOINTS.index(twin), 0], 1 - joints[:, index, 0])
        torch.testing.assert_close(flipped_joints[:, JOINTS.index(twin), 1], joints[:, index, 1])
    swapped = {int(a): int(b) for a, b in zip(parts.flip(-1).flatten(), flipped_parts.flatten(), strict=True)}
    assert [swapped[part] for part in (0, 1, 2)] == [0, 1, 2]
    assert all(swapped[int(left)] == right for left, right in zip(PARTS[1:, 1].flat, PARTS[1:, 0].flat, strict=True))


def test_the_occlusion_loss_is_minimal_where_uncovered_background_is_occluded():
    """Free cells: hidden where somebody stood, else visible, and half and half by halves; a body's own: anything."""
    source_parts, driving_parts = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    source_parts[:, :, 1:4], driving_parts[:, 6:] = 2, 3
    occlusion = torch.tensor([0.5, 0, 1, 1]).expand(1, 1, 4, 4).clone()
    occlusion[..., 3, :] = torch.tensor([0.1, 0.7, 0.9, 0.5])
    occlusion.requires_grad_()
    loss = occlusion_loss(occlusion, source_parts, driving_parts)
    (gradient,) = torch.autograd.grad(loss, occlusion)
    assert gradient[..., 3, :].abs().max() == 0 and gradient[..., 0].abs().max() < 1e-6
    wrong = occlusion.detach().clone()
    for column, value in ((0, 0.6), (1, 0.2), (2, 0.8)):
        wrong.copy_(occlusion.detach())[..., 0, column] = value
        assert occlusion_loss(wrong, source_parts, driving_parts) > loss + 1e-3


@pytest.mark.parametrize("overlap", [0, 4])
def test_every_window_is_conditioned_on_the_music_of_its_frames(overlap):
    """Flows lead to the frames after the picture: to a song whose features are the time, 1/12 s on, in every window."""
    family, conditions = small_family(num_context_frames=overlap), []
    family.align_music, align_music = (
        lambda *where: (conditions.append(align_music(*where)), conditions[-1])[1],
        family.align_music,
    )
    music = MusicFeatures((torch.arange(600)[:, None] / 30).expand(-1, 5), 30.0, song(20).beats)
    with torch.no_grad():
        list(family.generate(GenerationRequest(IMAGE, music, 21, Fraction(12), sampling=TWO_STEPS)))
    starts = [1, 11] if not overlap else [1, 7, 13]
    for window, start in zip(conditions, starts, strict=True):
        np.testing.assert_allclose(window[0, :, 0], (start + np.arange(10)) / 12, atol=1e-5)


def test_a_version_1_configuration_becomes_the_tiny_one():
    """The family node of size=tiny at version 1, and one of size=paper, which left out LFDM's values."""
    version_1 = {
        "_target_": "zoo.families.dabfusion.family.DabFusion", "music_dim": 35, "size": 128, "frames": 40, "fps": 12,
        "autoencoder": {
            "regions": 10, "width": 16, "most": 96, "bottleneck": 4, "region_width": 16, "fine": 2, "flow_width": 24,
            "hourglass_most": 192, "hourglass_blocks": 4, "background_width": None, "limbs": True, "folded": True,
        },
        "unet": {"music_dim": 64, "width": 32, "multiples": [1, 2, 4, 4], "heads": 2, "patch": 2}, "beats": None,
        "hears": "music", "text": {"_target_": "zoo.nn.text.HashedText"}, "prediction": "sample", "residual": 20.0,
        "shows_regions": True, "pooled": 2, "noisier": 3.0, "threshold": None, "steps": 25, "guidance": 1.0, "eta": 0.0,
        "rule": "ddim", "overlap": 8,
    }  # fmt: skip
    assert DabFusion.upgrade(version_1, {}, 1) == (family_node("tiny"), {})
    defaults = {"_target_": version_1["_target_"], "music_dim": 35, "autoencoder": {}, "unet": {}, "rule": "lfdm"}
    assert DabFusion.upgrade(defaults | {"text": version_1["text"]}, {}, 1) == (family_node("paper"), {})
    assert DabFusion.upgrade(family_node("tiny"), {}, 2) == (family_node("tiny"), {})
