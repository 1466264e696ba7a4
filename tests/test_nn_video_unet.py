"""The video U-Net beside diffusers' and the public ones: the same weights and inputs, the same answers."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from weights import filled, numbers

from zoo.nn.temporal import MotionModule, sinusoidal_positions
from zoo.nn.video_unet.reference_net import ReferenceNet
from zoo.nn.video_unet.unet import VideoUNet
from zoo.nn.weights.layouts import convert_reference_net, convert_video_unet

REFERENCE = np.load(Path(__file__).parent / "data" / "video_unet_reference.npz")
SIZE = {"channels": (32, 64, 64, 64), "text_dim": 24}
FRAMES, HEIGHT, WIDTH = 3, 12, 8
LATENTS = numbers("latents", 2, 4, FRAMES, HEIGHT, WIDTH).flip(0)  # ours come with the conditions first
PICTURE = numbers("picture", 1, 4, HEIGHT, WIDTH)


def close(made: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.1


@torch.no_grad()
def test_moores_networks_are_answered_alike():
    """ReferenceNet, reference attention in the conditional half, one text token, motion modules, a pose's guidance."""
    text, time = numbers("text", 2, 1, 24).flip(0), torch.tensor([321, 321])
    reference_net = filled(ReferenceNet(**SIZE), "reference_net")
    unet = filled(VideoUNet(**SIZE, use_motion_modules=True, motion_in_middle=True), "denoising_unet")
    features = reference_net(PICTURE, text=text[:1])
    guidance = numbers("guidance", 1, 32, FRAMES, HEIGHT, WIDTH).expand(2, -1, -1, -1, -1)
    made = unet(LATENTS, time, unet.precompute_conditioning(text, features), guidance)
    close(made.flip(0), torch.from_numpy(REFERENCE["moore"]))


@torch.no_grad()
def test_magic_animates_networks_are_answered_alike():
    """Appearance encoder at the video's own step, norms over all frames, no motion in the middle, a ControlNet."""
    text, time = numbers("text", 2, 5, 24).flip(0), torch.tensor([321, 321])
    encoder = filled(ReferenceNet(**SIZE), "appearance_encoder")
    unet = filled(VideoUNet(**SIZE, use_motion_modules=True, norm_across_frames=True), "unet")
    features = encoder(PICTURE, time[:1], text[:1])
    skips = [(32, 12, 8)] * 3 + [(32, 6, 4)] + [(64, 6, 4)] * 2 + [(64, 3, 2)] * 3 + [(64, 2, 1)] * 4
    aside = [numbers(f"aside {i}", 2, c, FRAMES, h, w).flip(0) for i, (c, h, w) in enumerate(skips)]
    made = unet(LATENTS, time, unet.precompute_conditioning(text, features), block_residuals=aside)
    close(made.flip(0), torch.from_numpy(REFERENCE["magic"]))


@torch.no_grad()
def test_stable_diffusions_network_is_answered_alike():
    """Frame by frame, with the weights of diffusers' network under their own names."""
    theirs = filled(
        UNet2DConditionModel(block_out_channels=(32, 64, 64, 64), cross_attention_dim=24, attention_head_dim=8), "sd"
    )
    ours = VideoUNet(**SIZE).eval()
    ours.load_state_dict(theirs.state_dict())
    text, time = numbers("text", 2, 7, 24), torch.tensor([5, 800])
    made = ours(LATENTS, time, ours.precompute_conditioning(text))
    for frame in range(FRAMES):
        close(made[:, :, frame], theirs(LATENTS[:, :, frame], time, text).sample)


@torch.no_grad()
def test_diffusers_motion_modules_mean_the_same():
    """Of one frame: there diffusers' networks norm all frames at once, unlike AnimateDiff, whose code Moore's is."""
    adapter = MotionAdapter(block_out_channels=(32, 64, 64, 64), motion_num_attention_heads=8)
    plain = UNet2DConditionModel(block_out_channels=(32, 64, 64, 64), cross_attention_dim=24, attention_head_dim=8)
    theirs = filled(UNetMotionModel.from_unet2d(plain, adapter), "animate")
    ours = VideoUNet(**SIZE, use_motion_modules=True, motion_in_middle=True).eval()
    ours.load_state_dict(convert_video_unet(theirs.state_dict()))
    x, text, time = numbers("one", 1, 4, 1, 16, 16), numbers("text", 1, 7, 24), torch.tensor([321])
    close(ours(x, time, ours.precompute_conditioning(text)), theirs(x, time, text).sample)


@pytest.mark.parametrize(
    ("options", "parameters", "digest"),
    [
        ({}, 859_520_964, "5159ace1d6e6"),  # Stable Diffusion 1.5
        (
            None,
            857_066_560,
            "e3bafa98e520",
        ),  # MagicAnimate's encoder; what is used of Moore's
        (
            {"use_motion_modules": True, "motion_in_middle": True},
            1_312_730_244,
            "f330dd0a5193",
        ),  # Moore's and Champ's UNet3D
        ({"use_motion_modules": True}, 1_276_658_564, "7646ff9ce64e"),  # MagicAnimate's
    ],
)
def test_the_paper_size_has_the_published_names_and_shapes(options, parameters, digest):
    """The digests are of the sorted names and shapes of the public files, without their tables of positions."""
    with torch.device("meta"):
        unet = ReferenceNet() if options is None else VideoUNet(**options)
    assert sum(one.numel() for one in unet.parameters()) == parameters
    rows = sorted(f"{name} {tuple(value.shape)}" for name, value in unet.state_dict().items())
    assert hashlib.sha256("\n".join(rows).encode()).hexdigest()[:12] == digest


def test_what_public_files_hold_besides_is_known():
    """Tables of positions are checked and left out, of a ReferenceNet what nobody uses; other positions are refused."""
    with torch.device("meta"):
        net, whole = ReferenceNet(), VideoUNet()
    assert set(convert_reference_net(whole.state_dict())) == set(net.state_dict())
    name = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
    right = sinusoidal_positions(torch.arange(24), 320)[None]
    assert convert_video_unet({name: right, "conv_in.bias": right}) == {"conv_in.bias": right}
    with pytest.raises(ValueError, match="not a table of sinusoidal positions"):
        convert_video_unet({name: right.flip(1)})


@torch.no_grad()
def test_what_is_prepared_or_left_out_changes_nothing():
    """A reference of the first sample alone, a song that new modules do not yet hear, a past, one frame or many."""
    token_dims = {"music": 12, "beats": 8}
    unet = filled(
        VideoUNet(**SIZE, use_motion_modules=True, motion_in_middle=True, music_token_dims=token_dims), "danced"
    )
    net = filled(ReferenceNet(**SIZE), "reference_net")
    text, time, seen = numbers("text", 2, 7, 24), torch.tensor([321, 321]), net(PICTURE)
    tokens = {name: numbers(name, 2, 9, size) for name, size in token_dims.items()}
    past = [one.unflatten(0, (2, 2)) for one in net(numbers("before", 4, 4, HEIGHT, WIDTH))]
    whole = unet(LATENTS, time, unet.precompute_conditioning(text, seen, past, tokens))
    for row, mine in ((slice(0, 1), seen), (slice(1, 2), ())):
        heard = {name: value[row] for name, value in tokens.items()}
        alone = unet.precompute_conditioning(text[row], mine, [one[row] for one in past], heard)
        torch.testing.assert_close(unet(LATENTS[row], time[row], alone), whole[row], atol=1e-4, rtol=0)
    for without in ({"context": ()}, {"music": {"music": tokens["music"]}}, {"reference": ()}, {"text": None}):
        given = {"text": text, "reference": seen, "context": past, "music": tokens} | without
        assert (unet(LATENTS, time, unet.precompute_conditioning(**given)) - whole).abs().max() > 1e-2


def test_new_modules_begin_by_changing_nothing():
    """A video U-Net that starts from Stable Diffusion's weights answers as it does, until it has learned."""
    torch.manual_seed(0)
    plain = VideoUNet(**SIZE).eval()
    danced = VideoUNet(**SIZE, use_motion_modules=True, motion_in_middle=True, music_token_dims={"music": 12}).eval()
    danced.load_state_dict(plain.state_dict(), strict=False)
    time, text, music = torch.tensor([321, 321]), numbers("text", 2, 7, 24), numbers("music", 2, 9, 12)
    with torch.no_grad():
        answers = (
            plain(LATENTS, time, plain.precompute_conditioning(text)),
            danced(LATENTS, time, danced.precompute_conditioning(text, music={"music": music})),
        )
    torch.testing.assert_close(*answers)


@torch.no_grad()
def test_of_the_frames_joined_in_time_the_last_are_kept():
    """MuseDance sec. 3.3: where no frame looks at another, those before change nothing; else they change every one."""
    module = filled(MotionModule(32, num_heads=2), "motion")
    x, past = numbers("x", 6, 32, 4, 2), numbers("past", 2, 2, 8, 32)  # 2 samples of 3 frames, 2 before each
    assert ((module(x, 3, past) - module(x, 3)).abs().amax((1, 2, 3)) > 1e-3).all()
    for attention in module.temporal_transformer.transformer_blocks[0].attention_blocks:
        attention.to_out[0].weight.zero_()
    torch.testing.assert_close(module(x, 3, past), module(x, 3))


@torch.no_grad()
def test_still_frames_are_pictures_of_their_own():
    """Without motion modules every frame is answered as if it were alone; with them it is not."""
    unet = filled(VideoUNet(**SIZE, use_motion_modules=True, motion_in_middle=True), "still")
    time, text = torch.tensor([321, 321]), numbers("text", 2, 7, 24)
    still, moved = (
        unet(LATENTS, time, unet.precompute_conditioning(text, use_motion_modules=moves)) for moves in (False, True)
    )
    alone = unet(LATENTS[:, :, 1:2], time, unet.precompute_conditioning(text, use_motion_modules=False))
    torch.testing.assert_close(still[:, :, 1:2], alone, atol=1e-4, rtol=0)
    assert (moved - still).abs().max() > 1e-2


@torch.no_grad()
def test_pixels_may_know_where_they_are():
    """Flat latents are answered alike away from the borders, but where sines tell the pixels their places."""
    flat, time = torch.full((1, 4, 1, 48, 48), 0.3), torch.tensor([500])
    sizes = {"channels": (32,), "attention_levels": (False,), "layers_per_block": 1, "text_dim": 24}
    for places in (False, True):
        unet = filled(VideoUNet(**sizes, position_encoding=places), "places")
        unet.mid_block.attentions = None
        middle = unet(flat, time)[0, :, 0, 20:28, 20:28]
        assert (middle.flatten(1).std(1).max() > 1e-2) == places
        turned = middle.transpose(1, 2)
        assert not places or (middle - turned).abs().max() > 1e-2  # rows are not columns


@pytest.mark.parametrize("dim", [64, 128])
@torch.no_grad()
def test_fresh_modules_listen_to_their_own_moment(dim):
    """Of a song's tokens, frames hear the ones of their time, whatever they show."""
    torch.manual_seed(0)
    sizes = {
        "attention_levels": [True],
        "layers_per_block": 1,
        "num_attention_heads": 2,
        "norm_num_groups": 8,
        "text_dim": 8,
        "init": "orthogonal",
    }
    module = VideoUNet([dim], music_token_dims={"beats": 64}, **sizes).up_blocks[0].music_modules["beats"][0]
    at = torch.arange(24)
    tokens = sinusoidal_positions(at, 64) + 0.05 * torch.randn(24, 64)
    shown = torch.nn.functional.layer_norm(torch.randn(50, 24, dim), (dim,)) + sinusoidal_positions(at, dim)
    asked, known = (
        module.cross_attention._split_heads(module.cross_attention.to_q(shown)),
        module.precompute_kv(tokens[None])[0],
    )
    heard = (asked @ known.mT / (dim / 2) ** 0.5).softmax(-1).mean((0, 1))
    near = (at[:, None] - at).abs() <= 1
    assert (heard * near).sum(1).mean() > 0.75  # of even ones it would be an eighth
    assert (heard.argmax(1) - at).abs().max() <= 1
