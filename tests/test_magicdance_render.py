"""MagicDance's renderer: MagicAnimate's networks and a face encoder, by known answers, and by the commands."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import save_file
from weights import fill_by_name, filled, numbers

from zoo.body.camera import camera
from zoo.body.detection.synthetic_detector import SyntheticPoseDetector
from zoo.body.image.alignment import AlignedMotion, align, head_mask, with_bone_lengths
from zoo.body.image.segmentation import extract_figure
from zoo.body.render.densepose import head_square
from zoo.body.render.mesh import load_body
from zoo.body.render.rasterizer import render_parts
from zoo.body.skeleton import STANDING, forward_kinematics, pack, unpack
from zoo.families.magicdance.family import MagicDance
from zoo.families.magicdance.renderers.animator import (
    Animator,
    FaceFeatures,
    crop_boxes,
    crop_patches,
    densepose_to_rgb,
    head_boxes,
)
from zoo.families.magicdance.renderers.diffusion import DiffusionRenderer
from zoo.families.magicdance.renderers.mesh import MeshRenderer
from zoo.families.magicdance.stages import ImageStage, VideoStage, jitter_boxes
from zoo.media import read_video, write_sound
from zoo.nn.square_image import pad_to_square
from zoo.nn.text import HashedTokenEncoder
from zoo.nn.video_unet.controlnet import ControlNet

SIZES = {
    "channels": [16, 32],
    "attention_levels": [True, True],
    "layers_per_block": 1,
    "num_attention_heads": 2,
    "norm_num_groups": 8,
}
VAE = {"block_out_channels": [8, 8, 8], "latent_channels": 4, "norm_num_groups": 4, "layers_per_block": 1}
FACE = {"dim": 16, "crop_size": 16, "patch_size": 2}


def build_animator(**overrides) -> Animator:
    options = {
        "text_encoder": HashedTokenEncoder(12),
        "vae": VAE,
        "unet": SIZES,
        "pose_encoder_channels": [4, 8, 8],
        "face": FACE,
        "head_drop_prob": 0.0,
        "background_residual": False,
        "resolution": 64,
        "num_frames": 6,
        "num_context_frames": 2,
        "noise_schedule": {"name": "cosine", "shift": 1.0, "prediction_type": "v_prediction"},
        "sampler": {"num_inference_steps": 2, "guidance_scale": 1.0},
    }
    return Animator(**options | overrides)


def random_animator(**overrides) -> Animator:
    return fill_by_name(build_animator(**overrides)).eval()


def face_features(count: int) -> FaceFeatures:
    crops, is_valid = numbers("squares", count, 3, 16, 16), torch.ones(count, dtype=torch.bool)
    return FaceFeatures(numbers("tokens", count, 4, 16), numbers("looks", count, 4), crops, is_valid)


def family(**changes) -> MagicDance:
    return MagicDance(
        music_dim=5,
        dance_decoder={"dim": 16, "ff_dim": 16, "layers": 1, "heads": 2},
        beat_phase=False,
        mesh_resolution=128,
        sampler={"num_inference_steps": 50, "guidance_scale": 2.0, "eta": 1.0},
        animator=random_animator(**changes),
    )


@torch.no_grad()
def test_controlnet_equals_diffusers():
    """The same weights and inputs, the same residuals, for every frame by itself."""
    sizes = {"block_out_channels": (16, 32, 32), "layers_per_block": 2, "norm_num_groups": 8}
    down = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    theirs = ControlNetModel(
        **sizes, down_block_types=down, cross_attention_dim=12, attention_head_dim=4,
        conditioning_embedding_out_channels=(8, 8, 16),
    )  # fmt: skip
    theirs = filled(theirs, "controlnet")
    ours = ControlNet(
        (8, 8, 16),
        channels=(16, 32, 32),
        attention_levels=(True, True, False),
        num_attention_heads=4,
        text_dim=12,
        norm_num_groups=8,
    )
    ours.eval().load_state_dict(theirs.state_dict())
    x, time, text = numbers("latents", 2, 4, 3, 8, 8), torch.tensor([3, 700]), numbers("text", 2, 5, 12)
    parts = densepose_to_rgb((numbers("parts", 2, 3, 32, 32).abs() * 9).long() % 25)
    said = ours(x, time, ours.precompute_conditioning(text), ours.encode_condition(parts))
    frames = x.movedim(2, 1).flatten(0, 1)
    known = theirs(
        frames, time.repeat_interleave(3), text.repeat_interleave(3, 0), parts.flatten(0, 1), return_dict=False
    )
    for made_, wanted in zip(said, (*known[0], known[1]), strict=True):
        torch.testing.assert_close(made_.movedim(2, 1).flatten(0, 1), wanted, atol=1e-4, rtol=1e-4)
        assert wanted.std() > 0.01


def test_the_paper_size_has_the_published_parameter_counts():
    """Parameters of MagicAnimate's files, part by part; the face's attention comes on top."""
    with torch.device("meta"):
        paper = {"text_encoder": HashedTokenEncoder(768), "unet": {}, "pose_encoder_channels": [16, 32, 96, 256]}
        paper["vae"] = {**VAE, "block_out_channels": [128, 256, 512, 512]}
        animator = build_animator(**paper, face=None)
    counted = {name: sum(one.numel() for one in part.parameters()) for name, part in animator.named_children()}
    assert counted["appearance_encoder"] == 857_066_560
    assert counted["controlnet"] == 361_279_120
    assert counted["unet"] == 1_276_658_564


def test_face_boxes_surround_the_head_parts():
    parts = torch.zeros(2, 20, 40, dtype=torch.uint8)
    parts[0, 4:9, 10:14], parts[0, 9:15, 8:20] = 23, 2
    boxes = head_boxes(parts)
    half = 2.2 * 4 / 2
    wanted = [(12 - half) / 40, (6 - half) / 20, (12 + half) / 40, (6 + half) / 20]
    torch.testing.assert_close(boxes[0], torch.tensor(wanted))
    assert boxes[1].isnan().all()
    parts[0, :4, 12] = 24  # what stands up from it
    torch.testing.assert_close(head_boxes(parts)[0], boxes[0])
    ramp = torch.arange(40.0).expand(1, 3, 20, 40) + 0.5
    cut = crop_boxes(ramp, torch.tensor([[0.25, 0.0, 0.75, 1.0]]), 10)
    torch.testing.assert_close(cut[0, 0, 0], 10 + 2 * torch.arange(10.0) + 1)
    animator = random_animator()
    faces = animator.encode_faces(torch.rand(2, 3, 20, 40), boxes)
    tokens = faces.tokens
    assert tokens.shape == (2, 4, 16) and tokens[0].abs().min() > 0 and (tokens[1] == 0).all()
    assert faces.is_valid.tolist() == [True, False] and faces.crops.shape == (2, 3, 16, 16)


@pytest.mark.parametrize("name", ["woman", "man", "robot", "doll"])
def test_face_box_of_an_image_agrees_with_its_parts(name):
    """Joints and outline say what the parts say in training, up to where a figure's neck counts as head."""
    motion, shape, view = standing(1), load_body(name), camera("C01")
    _, root, rotations = unpack(motion)
    parts = render_parts(shape, rotations.numpy(), root.numpy(), view, 256, 256)
    joints = forward_kinematics(rotations, root, torch.from_numpy(shape.offsets))[0].numpy()
    places, _ = view.project(joints, 256, 256)
    found, wanted = (
        head_square(head_mask((parts[0] > 0).astype(float), places)),
        head_boxes(torch.from_numpy(parts))[0].numpy(),
    )
    side = wanted[2] - wanted[0]
    assert np.abs(found - wanted).max() < 0.3 * side and 10 / 256 < side < 60 / 256


def test_stages_jitter_face_boxes_as_a_detector_does():
    """About the exact squares, off by as much as measured; where there is none, there is none. In both stages."""
    parts = torch.zeros(2, 9, 64, 64, dtype=torch.uint8)
    parts[:, :, 16:24, 28:36] = 23
    for kind in (ImageStage, VideoStage):
        stage, shown = kind(family=family(), optimizer=None, seed=0), []

        def seen(pictures, boxes, encode_faces=stage.animator.encode_faces, shown=shown):
            shown.append(boxes)
            return encode_faces(pictures, boxes)

        stage.animator.encode_faces = seen
        frames, indices = numbers("frames", 2, 9, 3, 64, 64).clamp(-1, 1), torch.arange(9).expand(2, -1)
        stage.loss({"key": ["a", "b"], "frames": frames, "frame_indices": indices, "parts": parts})
        off = (shown[0] - head_boxes(parts[:, 0])).abs()
        assert 0 < off.min() and off.max() < 0.2
    torch.manual_seed(0)
    found = jitter_boxes(torch.tensor([[0.4, 0.1, 0.6, 0.3]]).repeat(20000, 1))
    middle, side = (found[:, :2] + found[:, 2:]) / 2, found[:, 2:] - found[:, :2]
    torch.testing.assert_close(side[:, 0], side[:, 1], atol=1e-6, rtol=0)
    torch.testing.assert_close(middle.mean(0), torch.tensor([0.5, 0.2]), atol=1e-3, rtol=0)
    torch.testing.assert_close(middle.std(0), torch.full((2,), 0.2 * 0.06), atol=3e-4, rtol=0)
    assert abs(float((side / 0.2).log().mean())) < 3e-3 and abs(float((side / 0.2).log().std()) - 0.1) < 3e-3
    assert jitter_boxes(torch.full((1, 4), torch.nan)).isnan().all()


@torch.no_grad()
def test_faces_are_pasted_over_the_heads_of_frames():
    """As large as the heads, in place of what the head's region looks like on average; everything else stays."""
    ramp = torch.linspace(-1, 1, 17)[:-1] + 1 / 16  # of a square's pixels, from its left to its right
    boxes = torch.tensor([[0.25, 0.3, 0.75, 0.8], [0.9, 0.0, 1.1, 0.2]])
    drawn, corners = crop_patches(ramp.expand(2, 3, 16, 16), boxes, 5, (16, 16), 4)
    assert corners.tolist() == [[6, 6], [11, 0]] and drawn.shape == (2, 3, 20, 20)
    pixels = (24 + torch.arange(20) + 0.5) / 64
    torch.testing.assert_close(drawn[0, 0, 3], ((pixels - 0.25) / 0.5 * 2 - 1))

    animator = random_animator(background_residual=True)
    parts = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    for frame in range(3):
        parts[:, frame, 16:24, 8 * frame + 8 : 8 * frame + 16] = 23
    reference = animator.background.with_pose(
        animator.background.encode_reference(numbers("reference", 2, 4, 16, 16), parts[:, 0]), parts
    )
    pictures, nobody = numbers("pictures", 2, 3, 64, 64), torch.full((4,), torch.nan)
    own = head_boxes(parts[:, 0])
    faces = animator.encode_faces(pictures, torch.stack([own[0], nobody]))
    found = animator.paste_faces(reference, faces, parts)
    assert torch.equal(found.residual_base[1], reference.residual_base[1])
    for frame in range(3):
        patch, ((left, top),) = crop_patches(faces.crops[:1], head_boxes(parts[:1, frame]), 5, (16, 16), 4)
        head = slice(4, 6), slice(2 * frame + 2, 2 * frame + 4)
        inside = slice(4 - int(top), 6 - int(top)), slice(2 * frame + 2 - int(left), 2 * frame + 4 - int(left))
        torch.testing.assert_close(
            found.residual_base[0, :, frame][:, *head], animator.codec.encode(patch)[0][:, *inside]
        )
        changed = (found.residual_base[0, :, frame] != reference.residual_base[0, :, frame]).any(0)
        changed[head] = False
        assert not changed.any()


@torch.no_grad()
def test_masked_heads_take_their_mean_from_the_face():
    """What is hidden lies on the figure, within the head's box; the head's look is the face's, all else stays."""
    animator, nowhere = random_animator(background_residual=True, head_drop_prob=0.5), [torch.nan] * 4
    torch.nn.init.zeros_(animator.background.figure_segmenter.net.conv_out.weight)
    animator.background.figure_segmenter.net.conv_out.bias.data = torch.tensor(
        [9.0, 9.0, *[0.0] * 8]
    )  # somebody, no head
    parts = torch.zeros(3, 64, 64, dtype=torch.uint8)
    parts[:, 16:24, 28:36], parts[:, 24:60, 20:44] = 23, 2
    reference = animator.background.encode_reference(numbers("reference", 3, 4, 16, 16), parts)
    boxes = torch.cat([head_boxes(parts[:2]), torch.tensor([nowhere])])
    faces = face_features(3)
    found = animator.mask_heads(reference, boxes, faces, torch.tensor([True, False, True]))
    for row in (1, 2):  # not asked for, and without a head
        assert torch.equal(found.latents[row], reference.latents[row])
        assert torch.equal(found.region_means[row], reference.region_means[row])
    other = (found.latents[0] != reference.latents[0]).any(0)
    assert other[4:6, 7:9].all() and not other[:3].any() and not other[8:].any() and not other[:, 12:].any()
    assert torch.equal(found.region_means[0, 7], faces.mean_latent[0]) and torch.equal(
        found.region_means[0, :7], reference.region_means[0, :7]
    )
    for name in ("foreground_mask", "background", "residual_base"):
        assert torch.equal(getattr(found, name), getattr(reference, name))


def test_parts_have_the_colours_of_densepose_videos():
    """Viridis from 0, the background, to 24."""
    colours = (densepose_to_rgb(torch.tensor([[0, 24, 12]])) * 255).round().byte()[:, 0]
    assert colours[:, 0].tolist() == [68, 1, 84] and colours[:, 1].tolist() == [253, 231, 37]
    assert colours.shape == (3, 3)


def standing(frames: int) -> torch.Tensor:
    """Somebody who stands in T-pose and sinks a little."""
    rotations = torch.eye(3).expand(frames, 24, 3, 3).clone()
    rotations[:, 0] = STANDING
    root = torch.tensor([[0.0, 0.0, 0.95]]).repeat(frames, 1)
    return pack(rotations, root)


@pytest.fixture(scope="module")
def picture():
    return MeshRenderer(128, 128).begin(None, Fraction(12), 1).draw(standing(1))[0]


def test_bone_lengths_move_the_body_below_them():
    """Shins half as long again: what is below the knees is lower by that, and what is above stays."""
    shape = load_body("woman")
    longer = torch.from_numpy(shape.offsets).clone()
    longer[[7, 8]] *= 1.5
    grown = with_bone_lengths(shape, longer.numpy())
    more = 0.5 * abs(float(shape.offsets[7, 1]))
    sole = shape.vertices[:, 1].min()
    assert abs(grown.vertices[:, 1].min() - (sole - more)) < 0.02
    above = shape.vertices[:, 1] > 0
    assert np.abs(grown.vertices - shape.vertices)[above].max() < 1e-3
    same = with_bone_lengths(shape, shape.offsets)
    assert np.abs(same.vertices - shape.vertices).max() < 1e-4


def test_aligned_motion_covers_the_figure_of_the_image(picture):
    """The parts of the pictured pose lie on the picture's figure: on its feet, as tall, around its face."""
    found = align(picture.permute(1, 2, 0).numpy(), SyntheticPoseDetector(), 128)
    parts = AlignedMotion(found).parts(standing(1))[0].numpy() > 0
    mask = SyntheticPoseDetector().detect(picture.permute(1, 2, 0).numpy()[None]).mask[0] > 0.5
    rows, true = np.flatnonzero(parts.any(1)), np.flatnonzero(mask.any(1))
    assert abs(rows[-1] - true[-1]) <= 4 and abs(rows[0] - true[0]) <= 7
    both = (parts & mask).sum() / (parts | mask).sum()
    assert both > 0.55
    figure = extract_figure(picture.permute(1, 2, 0).numpy(), SyntheticPoseDetector())
    np.testing.assert_array_equal(found.face, head_square(head_mask(figure.alpha, figure.joints)))
    wanted = head_boxes(AlignedMotion(found).parts(standing(1)))[0].numpy()  # what training would have cut out
    side = wanted[2] - wanted[0]
    assert 0.8 < (found.face[2] - found.face[0]) / side < 1.25
    assert np.abs(found.face.reshape(2, 2).mean(0) - wanted.reshape(2, 2).mean(0)).max() < 0.4 * side
    left, top, right, bottom = found.face * 128
    assert left < np.flatnonzero(mask[true[0]]).mean() < right and top - 4 < true[0] < bottom
    assert found.quality > 0.7


def test_motion_without_alignment_ignores_the_figure(picture):
    """The baseline of `ablations`: a standard body in the middle, the same for an image with the figure elsewhere."""
    moved = picture.roll(12, 2)
    parts = {}
    for align_motion in (True, False):
        renderer = DiffusionRenderer(random_animator(), SyntheticPoseDetector(), use_alignment=align_motion)
        sessions = [renderer.begin(image, Fraction(12), 0) for image in (picture, moved)]
        parts[align_motion] = [session.aligned_motion.parts(standing(1))[0].numpy() > 0 for session in sessions]
    assert not np.array_equal(*parts[True])
    np.testing.assert_array_equal(*parts[False])
    rows, columns = (np.flatnonzero(parts[False][0].any(axis)) / 64 for axis in (1, 0))
    assert abs(rows[-1] - 0.85) < 0.04 and 0.6 < rows[-1] - rows[0] < 0.8 and abs(columns.mean() - 0.5) < 0.05


@pytest.mark.parametrize("splits", [(13,), (5, 8)])
def test_frames_do_not_depend_on_the_blocks_of_motion(picture, splits):
    renderer = DiffusionRenderer(random_animator(), SyntheticPoseDetector())
    session = renderer.begin(picture, Fraction(12), 0)
    blocks = [session.draw(block) for block in standing(13).split(splits)]
    assert [len(block) for block in blocks] == list(splits)
    whole = torch.cat(blocks)
    assert whole.shape == (13, 3, 64, 64) and whole.dtype == torch.uint8 and session.quality > 0.5
    again, other = (renderer.begin(picture, Fraction(12), seed) for seed in (0, 1))
    assert torch.equal(torch.cat([again.draw(block) for block in standing(13).split(splits)]), whole)
    assert not torch.equal(other.draw(standing(splits[0])), blocks[0])


@torch.no_grad()
def test_a_zero_residual_renders_the_composited_reference(picture):
    """Every window's parts, in the looks of the picture's, before the picture's own background."""
    animator = random_animator(background_residual=True)
    animator.background.residual_scale.fill_(1e9)
    parts = torch.zeros(9, 64, 64, dtype=torch.uint8)  # two windows
    for index, one in enumerate(parts):
        one[16:48, 4 * index : 4 * index + 16] = 1 + 2 * (index % 3)
    session = DiffusionRenderer(animator, SyntheticPoseDetector()).begin(picture, Fraction(12), 0)
    own = pad_to_square(picture, 64)[None].float() / 127.5 - 1
    reference = animator.background.encode_reference(animator.codec.encode(own))
    reference = animator.background.with_pixel_residual(reference, own, animator.codec)
    wanted = animator.background.with_pose(reference, parts[None]).residual_base[0].movedim(1, 0)
    assert (wanted - reference.background).abs().max() > 0.1 and reference.pixel_residual.abs().max() > 0.1
    pixel_residual = animator.background.frame_pixel_residual(wanted, reference)
    found, true = session.render_parts(parts), animator.codec.decode(wanted, pixel_residual)
    assert (found.int() - true.int()).abs().max() <= 1


@pytest.mark.parametrize("headless", [0.0, 1.0])
def test_no_gradient_reaches_masked_heads(headless):
    """No gradient reaches a hidden head's latents."""
    whole = family(background_residual=True, head_drop_prob=headless)
    torch.nn.init.constant_(
        whole.animator.background.figure_segmenter.net.conv_out.bias, 99.0
    )  # all of the picture is a figure
    own = ImageStage(whole, torch.optim.Adam, ema_decay=None, seed=0, train_spatial_layers=True)
    source = numbers("source", 2, 4, 16, 16).requires_grad_()
    faces = face_features(2)
    boxes, parts = torch.tensor([[0.25, 0.25, 0.75, 0.75]] * 2), torch.full((2, 1, 64, 64), 5, dtype=torch.uint8)
    losses = own.renderer_loss(numbers("frames", 2, 4, 1, 16, 16), source, faces, boxes, parts, independent_frames=True)
    sum(losses.values()).backward()
    assert (source.grad[:, :, 5:11, 5:11].abs().max() > 0) == (headless == 0) and source.grad[:, :, 0].abs().max() > 0


@pytest.mark.parametrize("headless", [0.0, 0.5])
def test_another_face_changes_the_frames(picture, headless):
    """The face of a second picture changes the frames; the picture's own face changes nothing, if its head is shown."""
    other = MeshRenderer(128, 128).begin(None, Fraction(12), 12).draw(standing(1))[0]
    animator = random_animator(head_drop_prob=headless, background_residual=True)
    drawn = {
        name: DiffusionRenderer(animator, SyntheticPoseDetector(), face=face)
        .begin(picture, Fraction(12), 0)
        .draw(standing(2))
        for name, face in (("own", None), ("same", picture), ("other", other))
    }
    assert torch.equal(drawn["own"], drawn["same"]) == (headless == 0) and not torch.equal(drawn["own"], drawn["other"])
    with pytest.raises(ValueError, match="no face encoder"):
        DiffusionRenderer(random_animator(face=None), SyntheticPoseDetector(), face=other)


@pytest.mark.parametrize("changes", [False, True])
def test_a_window_preserves_its_context_latents(changes):
    animator, draw = random_animator(background_residual=changes), torch.Generator().manual_seed(0)
    reference = animator.background.encode_reference(numbers("reference", 1, 4, 16, 16))
    parts = torch.zeros(5, 64, 64, dtype=torch.uint8)
    known = numbers("known", 2, 4, 16, 16)
    latents = animator.sample_window(reference, None, parts, known, draw)
    assert latents.shape == (5, 4, 16, 16) and torch.equal(latents[:2], known)
    free = animator.sample_window(reference, None, parts, None, torch.Generator().manual_seed(0))
    assert not torch.allclose(free[2:], latents[2:], atol=1e-3)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@torch.no_grad()
def test_guidance_scales_the_effect_of_reference_and_face(guidance):
    """One step: what two answers, with and without picture and face, say together (Ho and Salimans 2022)."""
    animator = random_animator(sampler={"num_inference_steps": 1, "guidance_scale": guidance})
    reference = animator.background.encode_reference(numbers("reference", 1, 4, 16, 16))
    parts = torch.full((3, 64, 64), 5, dtype=torch.uint8)
    faces = face_features(1)
    face = faces.tokens
    found = animator.sample_window(reference, faces, parts, None, torch.Generator().manual_seed(4))
    x = torch.randn(1, 4, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    t, seen, text = (
        torch.tensor([999]),
        animator.controlnet.encode_condition(densepose_to_rgb(parts)[None]),
        animator.text_encoder([""]),
    )
    with_, without = (
        animator.predict(x, t, one, seen, tokens, text)
        for one, tokens in ((reference, face), (reference.map(lambda each: each[:0]), torch.zeros_like(face)))
    )
    signal = animator.noise_schedule.alphas_cumprod[999]
    answers = [signal.sqrt() * x - (1 - signal).sqrt() * v for v in (with_, without)]
    wanted = answers[1] + guidance * (answers[0] - answers[1])
    torch.testing.assert_close(found.movedim(0, 1)[None], wanted, atol=1e-4, rtol=1e-4)
    assert (answers[0] - answers[1]).abs().max() > 1e-3
    blind = animator.predict(x, t, reference, seen, torch.zeros_like(face), text)
    assert (blind - with_).abs().max() > 1e-4


@torch.no_grad()
def test_middle_and_up_blocks_attend_to_the_reference():
    """The middle and the way up attend to it (MagicAnimate's default); a sample without one does not see it at all."""
    animator, t = random_animator(background_residual=True), torch.tensor([400, 400])
    x, reference = (
        numbers("x", 2, 4, 3, 16, 16),
        animator.background.encode_reference(numbers("reference", 1, 4, 16, 16)),
    )
    parts = torch.full((2, 3, 64, 64), 5, dtype=torch.uint8)
    reference, seen = (
        animator.background.with_pose(reference, parts[:1]),
        animator.controlnet.encode_condition(densepose_to_rgb(parts)),
    )
    face, text = numbers("face", 2, 4, 16), animator.text_encoder(["", ""])
    found = animator.predict(x, t, reference, seen, face, text)
    features = animator.appearance_encoder(reference.latents, t[:1], text[:1])
    asked = animator.unet.precompute_conditioning(
        text, [None, None, *features[2:]], face=face
    )  # two places on the way down
    aside = animator.controlnet(x, t, animator.controlnet.precompute_conditioning(text), seen)
    torch.testing.assert_close(
        found, animator.unet(x, t, asked, animator.background.reference_condition(reference, x), aside)
    )
    alone = animator.predict(x[1:], t[1:], reference.map(lambda one: one[:0]), seen[1:], face[1:], text[1:])
    torch.testing.assert_close(found[1:], alone, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("drop", [0.0, 1.0])
@torch.no_grad()
def test_a_dropped_reference_does_not_change_the_loss(drop):
    losses = []
    for source in (0.2, -0.6):
        stage = ImageStage(family=family(), optimizer=None, seed=0, cond_drop_prob=drop)
        frames = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
        frames[:, 0] = source
        torch.manual_seed(0)
        parts, indices = torch.full((2, 2, 64, 64), 23, dtype=torch.uint8), torch.arange(2).expand(2, -1)
        batch = {"key": ["a", "b"], "frames": frames, "frame_indices": indices, "parts": parts}
        losses.append(float(sum(stage.loss(batch).values())))
    assert (losses[0] == pytest.approx(losses[1], rel=1e-5)) == bool(drop)


def test_exactly_the_trainable_modules_get_a_gradient():
    for kind, frames, options in (
        (ImageStage, 2, {}),
        (VideoStage, 9, {}),
        (ImageStage, 3, {"train_spatial_layers": True}),
    ):
        torch.manual_seed(0)
        whole = family(background_residual=frames == 3)
        stage = kind(family=whole, optimizer=None, seed=0, cond_drop_prob=0.5, **options)
        batch = {"key": ["a", "b"], "frames": torch.rand(2, frames, 3, 64, 64) * 2 - 1}
        batch["frame_indices"] = torch.arange(frames).expand(2, -1)
        batch["parts"] = torch.zeros(2, frames, 64, 64, dtype=torch.uint8)
        batch["parts"][:, :, 10:30, 20:40] = 23
        with torch.autocast("cpu", torch.bfloat16):
            sum(stage.loss(batch).values()).backward()
        moved = {name for name, one in whole.named_parameters() if one.grad is not None and one.grad.abs().max() > 0}
        learning = tuple(f"{path}." for path in stage.trainable_modules())
        assert moved and all(name.startswith(learning) for name in moved)
        silent = {path for path in stage.trainable_modules() if not any(name.startswith(f"{path}.") for name in moved)}
        assert not silent, silent


def test_magic_animates_files_initialise_their_modules(tmp_path):
    """In the layouts of its release: two folders of diffusers', a temporal attention saved by a wrapped trainer."""
    source = family()
    state = fill_by_name(source).state_dict()
    parts = {name: {} for name in ("appearance_encoder", "controlnet", "unet")}
    for name, value in state.items():
        for part, held in parts.items():
            if name.startswith(f"animator.{part}."):
                held[name.removeprefix(f"animator.{part}.")] = value.clone()
    moving = {f"module.unet.{name}": value for name, value in parts["unet"].items() if ".motion_modules." in name}
    files = {"appearance": parts["appearance_encoder"], "controlnet": parts["controlnet"]}
    for name, held in files.items():
        save_file(held, tmp_path / f"{name}.safetensors")
    torch.save({"state_dict": moving}, tmp_path / "temporal.ckpt")
    fresh = family()
    with torch.no_grad():
        for one in fresh.parameters():
            one.zero_()
    for name in ("appearance.safetensors", "controlnet.safetensors", "temporal.ckpt"):
        report = fresh.load_pretrained(str(tmp_path / name))
        assert not report.unexpected
    for name, value in fresh.state_dict().items():
        if name.startswith(("animator.appearance_encoder.", "animator.controlnet.")) or ".motion_modules." in name:
            assert torch.equal(value, state[name]), name
    assert not fresh.animator.unet.conv_in.weight.any()
    broken = dict(parts["controlnet"])
    broken.popitem()
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match="1 missing"):
        fresh.load_pretrained(str(tmp_path / "broken.safetensors"))


SMALL = (
    "model=magicdance size=debug renderer=diffusion data.songs={train:2,val:1,test:1} data.seconds=6 "
    "data.dances_per_song=1 data.workers=1 data.rendering.songs={train:2,val:1,test:1} data.rendering.height=64 "
    "data.rendering.width=64 data.rendering.seconds=4 "
    "model.family.dance_decoder={dim:16,ff_dim:16,layers:1,heads:2,dropout:0.0} fit.batch_size=2 "
    "fit.log_every_n_steps=1 fit.val_check_interval=4 fit.limit_val_batches=1 fit.save_every_n_steps=2 "
    "fit.max_steps=2 runs=magic"
).split()


def test_one_checkpoint_generates_video_from_song_and_image(scripts, picture):
    done = scripts.inside("train", *SMALL, "name=whole")
    assert done.returncode == 0, done.stderr
    ckpt = scripts.folder / "magic" / "magicdance" / "whole" / "video" / "last.ckpt"
    cv2.imwrite(str(scripts.folder / "figure.png"), picture.permute(1, 2, 0).numpy()[..., ::-1])
    write_sound(scripts.folder / "song.wav", np.sin(np.arange(3 * 16000) / 9).astype(np.float32), 16000)
    asked = [
        f"ckpt={ckpt}",
        "image=figure.png",
        "music=song.wav",
        "seconds=2",
        "fps=12",
        "sampler.num_inference_steps=2",
    ]
    done = scripts.inside("sample", *asked, "out=danced.mp4")
    assert done.returncode == 0, done.stderr
    assert "figure detection quality" in done.stdout
    frames, fps, _ = read_video(scripts.folder / "danced.mp4")
    assert frames.shape == (24, 64, 64, 3) and fps == 12
    cv2.imwrite(str(scripts.folder / "empty.png"), np.tile(np.arange(128, dtype=np.uint8)[:, None], (128, 1, 3)))
    done = scripts.inside("sample", *asked, "out=nobody.mp4", "image=empty.png")
    assert (
        done.returncode == 2
        and "no figure was detected" in done.stderr
        and not (scripts.folder / "nobody.mp4").exists()
    )
    done = scripts.inside("sample", *asked, "out=mesh.mp4", "renderer=mesh", "renderer.face=figure.png")
    assert done.returncode == 2 and "renderer=mesh has no option face" in done.stderr
    done = scripts.inside("sample", *asked, "out=faced.mp4", "renderer=diffusion", "renderer.face=empty.png")
    assert done.returncode == 2 and "renderer.face=empty.png: no figure was detected" in done.stderr
