"""M2PEnc's guidance encoders, public files and windows."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from zoo.body.skeleton import FEET
from zoo.families.base import GenerationRequest, SamplingParams
from zoo.families.latent.figure_crop import detect_figure_boxes
from zoo.families.m2penc.guidance import GuidanceEncoder, guidance_images
from zoo.families.m2penc.placement import BOX_HEIGHT, HEAD, REGION_DISTANCE, Placement, find_placement
from zoo.media import read_image
from zoo.music.beats import Beats
from zoo.music.encoder import MusicFeatures
from zoo.nn.figure_segmentation import FEET_REGION, HEAD_REGION, TRUNK_REGION
from zoo.nn.weights.loading import check_overwrites, read_weights
from zoo.run.build import build_family
from zoo.run.checkpoint import load_family
from zoo.run.models import checkpoint_path

CONF = Path(__file__).parents[1] / "conf"


def family_of(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build_family(compose("train", overrides=["model=m2penc", *overrides]))


def test_paper_counts_and_setups():
    counts = {}
    for setup in ("pdns", "p"):
        with torch.device("meta"):
            family = family_of("size=paper", f"model.family.setup={setup}")
        modules = (family.unet, family.reference_net, family.guidance_encoders)
        counts[setup] = [sum(p.numel() for p in module.parameters()) / 1e6 for module in modules]
    assert counts["pdns"] == pytest.approx([1312.7, 857.1, 4 * 2.27], rel=2e-3)
    assert counts["p"][2] == pytest.approx(2.27, rel=2e-3)
    with pytest.raises(Exception, match="setup=x: use dns, p, pdns"):
        family_of("size=debug", "model.family.setup=x")


def test_public_guidance_encoders_load_by_their_names(tmp_path, capsys):
    """A file as Champ's holds six attention layers and `guidance_attention`; the last of the six is used."""
    torch.manual_seed(0)
    family = family_of("size=debug")
    source = GuidanceEncoder([8, 8, 8, 8], 16, 1, 4)
    torch.nn.init.normal_(source.conv_out.weight)
    state_dict = {}
    for name, value in source.state_dict().items():
        layer, _, rest = name.partition(".")
        if layer == "attention":
            state_dict |= {f"attentions.{index}.{rest}": value * (index == 5) for index in range(6)}
            state_dict[f"guidance_attention.{rest}"] = value * 0
        else:
            state_dict[name] = value
    for name in ("guidance_encoder_dwpose.pth", "other.pth"):
        torch.save(state_dict, tmp_path / name)
    family.load_pretrained(str(tmp_path / "guidance_encoder_dwpose.pth"))
    images = torch.rand(2, 3, 32, 24)
    assert torch.equal(family.guidance_encoders.encoders["skeleton"](images), source(images))
    assert not family.guidance_encoders.encoders["depth"](images).any(), "the others stay"
    with pytest.raises(ValueError, match="kind is in its name"):
        family.load_pretrained(str(tmp_path / "other.pth"))


def test_a_file_that_overwrites_an_earlier_one_is_refused(tmp_path, capsys):
    """Champ's denoising_unet.pth fills the ReferenceNet too: after reference_unet.pth it would replace it silently."""
    plain = ("model.family.background_residual=false", "model.family.predict_regions=false")
    family = family_of("size=debug", *plain)
    denoising = {name: x + 1 for name, x in family.unet.state_dict().items() if ".motion_modules." not in name}
    reference = {name: x + 1 for name, x in denoising.items() if not name.startswith("conv_out.")}
    files = [str(tmp_path / f"{name}_unet.pth") for name in ("denoising", "reference")]
    torch.save(denoising, files[0])
    torch.save(reference, files[1])
    check_overwrites([family.load_pretrained(path) for path in files])
    assert torch.equal(family.reference_net.conv_in.weight, reference["conv_in.weight"])
    assert torch.equal(family.unet.conv_in.weight, denoising["conv_in.weight"])
    with pytest.raises(ValueError, match="denoising_unet.pth overwrites all weights of .*reference_unet.pth: give it"):
        check_overwrites([family.load_pretrained(path) for path in files[::-1]])


def test_init_from_a_file_of_musedance(capsys):
    """Both families have the same autoencoder, ReferenceNet and U-Net; the rest stays as it is."""
    family = family_of()
    encoder_before = family.music_to_pose.input_projection.weight.clone()
    path = str(Path(__file__).parents[1] / "assets" / "musedance-tiny" / "model.safetensors")
    report = family.load_pretrained(path)
    weights = read_weights(path)
    for name in ("codec.latent_scale", "unet.conv_in.weight", "background.residual_scale"):
        assert torch.equal(family.state_dict()[name], weights[name]), name
    in_channels = family.background.reference_conv.in_channels
    assert torch.equal(
        family.background.reference_conv.weight, weights["background.reference_conv.weight"][:, :in_channels]
    )
    assert torch.equal(family.music_to_pose.input_projection.weight, encoder_before)
    assert {name.partition(".")[0] for name in report.loaded} == {"codec", "background", "reference_net", "unet"}
    assert not {"codec", "background", "reference_net", "unet"} & {name.partition(".")[0] for name in report.missing}
    with pytest.raises(ValueError, match=r"does not fit M2PEnc: .*nothing was loaded"):
        family_of("size=debug").load_pretrained(path)


def test_guidance_images_are_black_without_a_body():
    parts = torch.tensor([[[[0, 5]]]], dtype=torch.uint8)
    body = (parts > 0).float()
    normal = torch.stack([body * 0, body * 0, body], 2)
    skeleton = torch.stack([2 * body - 1] * 3, 2)
    batch = {"parts": parts, "depth": body * 0.7, "normal": normal, "skeleton": skeleton}
    images = guidance_images(batch, ("depth", "normal", "semantic", "skeleton"))
    for kind, image in images.items():
        assert image.shape == (1, 3, 1, 1, 2) and not image[..., 0].any() and image[..., 1].any(), kind
    assert images["normal"][0, :, 0, 0, 1].tolist() == [0.5, 0.5, 1.0]


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_windows_share_their_context_and_follow_the_music(scale):
    """The same request gives the same frames, other music gives others, and a window begins with its context."""
    torch.manual_seed(0)
    family = family_of("size=debug").eval()
    torch.nn.init.normal_(family.unet.conv_out.weight)
    family.background.figure_segmenter.net.conv_out.bias.data.fill_(1.0)  # a figure everywhere
    windows = []
    original = family._sample_window

    def record(*arguments):
        windows.append((arguments[3], original(*arguments)))
        return windows[-1][1]

    family._sample_window = record
    beats = Beats(np.arange(10) * 0.5, 120.0, 0)
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)

    def frames(features):
        request = GenerationRequest(
            image, MusicFeatures(features, 30.0, beats), 14, Fraction(12), sampling=SamplingParams(2, scale, 1.0)
        )
        return torch.cat(list(family.generate(request)))

    features = torch.randn(200, len(family.music_scale.mean))
    first = frames(features)
    assert first.shape == (14, 3, 64, 64) and len(windows) == 4
    for (context, residual), (_, previous) in zip(windows[1:], windows, strict=False):
        assert torch.equal(context, previous[:, :, -2:]) and torch.equal(residual[:, :, 0], context[:, :, 0])
        assert not torch.equal(residual[:, :, 1], context[:, :, 1])  # half of it is the new window's
    assert torch.equal(first, frames(features)) and not torch.equal(first, frames(features.flip(0)))
    with pytest.raises(ValueError, match="give image=FILE"):
        next(family.generate(GenerationRequest(None, MusicFeatures(features, 30.0, beats), 2, Fraction(12))))


def standing_joints() -> torch.Tensor:
    """Two frames of joints, in fractions of an image: head at .3, feet at .8, trunk at x = .5."""
    joints = torch.full((2, 24, 2), 0.5)
    joints[:, HEAD, 1] = 0.3
    joints[:, list(FEET), 1] = 0.8
    return joints


def test_placement_of_a_small_figure_at_the_side():
    """A figure of half the size whose trunk is at x = .25 and whose feet are at .9 of the image's height."""
    size, head_y = 64, 0.9 - 0.25 * REGION_DISTANCE
    regions = torch.zeros(8, size, size)
    rows = {HEAD_REGION: int(head_y * size), TRUNK_REGION: int(0.75 * size), FEET_REGION: int(0.9 * size)}
    for region, row in rows.items():
        regions[region, row, size // 4 - 1 : size // 4 + 1] = 1
    placement = find_placement(standing_joints(), regions.amax(0), regions)
    assert placement is not None and placement.scale == pytest.approx(0.5, abs=1.5 / size)
    assert placement.origin == pytest.approx((0.25, 0.9), abs=1 / size)

    spot = torch.zeros(1, 1, 16, 16)
    spot[..., 12:14, 7:9] = 1  # at the joints' feet: x = .5, y = .8125
    placed = placement.apply(spot, (size, size))[0, 0]
    y, x = (placed == placed.max()).nonzero().double().mean(0) / size
    assert (float(x), float(y)) == pytest.approx((0.25, 0.9), abs=1.5 / size)
    assert placed.sum() / size**2 == pytest.approx(float(spot.sum()) / 16**2 / 4, rel=0.1), "a quarter of the area"


def test_placement_without_regions_takes_the_mask_and_without_a_figure_is_none():
    regions, mask = torch.zeros(8, 64, 64), torch.zeros(64, 64)
    assert find_placement(standing_joints(), mask, regions) is None
    mask[20:54, 40:50] = 1  # 32 pixels high without its margin
    placement = find_placement(standing_joints(), mask, regions)
    assert placement is not None and placement.origin[0] == pytest.approx(45 / 64)
    assert placement.scale == pytest.approx(32 / 64 / (BOX_HEIGHT * 0.5), rel=0.05)


def test_placement_at_the_guidance_own_place_is_a_resize():
    guidance, family = torch.randn(2, 5, 3, 8, 8), family_of("size=debug")
    placement = Placement(1.0, (0.4, 0.7), (0.4, 0.7))
    placed = torch.stack([placement.apply(guidance[:, :, frame], (16, 16)) for frame in range(3)], 2)
    assert torch.allclose(placed, family.resize_guidance(guidance, (16, 16)), atol=1e-5)


def test_a_small_figure_at_the_side_keeps_its_place_and_size():
    """The shipped checkpoint animates the demo's figure where a smaller copy of it stands, and nothing else changes."""
    family, _ = load_family(checkpoint_path("m2penc-tiny"))
    whole = cv2.resize(
        read_image(str(CONF.parent / "assets/demo/picture.png")), (128, 128), interpolation=cv2.INTER_AREA
    )
    zoom, shift = 0.45, np.array([12.0, 30.0])  # pixels of the copy's left upper corner
    matrix = np.hstack([zoom * np.eye(2), shift[:, None]])
    small = cv2.warpAffine(whole, matrix, (128, 128), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
    with torch.inference_mode():
        segmenter, scale = family.background.figure_segmenter, family.figure_crop.scale
        boxes = [
            detect_figure_boxes(_images(image), family.codec, segmenter, scale)[0].numpy() for image in (whole, small)
        ]
        (whole_center, whole_side), (center, side) = ((box[:2] + box[2] / 2, box[2]) for box in boxes)
        assert whole_side >= 110 and 0.35 <= side / 128 <= 0.6
        assert np.abs(center - (zoom * whole_center + shift)).max() <= 6
        features = torch.zeros(200, len(family.music_scale.mean))
        music = MusicFeatures(features, 30.0, Beats(np.arange(10) * 0.5, 120.0, 0))
        image = torch.from_numpy(small).movedim(2, 0)
        sampling = SamplingParams(num_inference_steps=2)
        request = GenerationRequest(image, music, family.num_frames, family.fps, sampling=sampling)
        frames = torch.cat(list(family.generate(request)))
    changes = (frames.int() - image.int()).abs().amax((0, 1)).numpy()
    left, top, side = boxes[1].astype(int)
    assert changes[top : top + side, left : left + side].max() > 50
    changes[top : top + side, left : left + side] = 0
    assert changes.max() == 0


def _images(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).movedim(2, 0)[None] / 127.5 - 1
