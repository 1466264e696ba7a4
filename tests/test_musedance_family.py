"""MuseDance at debug size: conditions, windows, reference, and training."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.nn.functional import interpolate
from weights import fill_by_name, numbers

from zoo.diffusion.denoiser import Denoiser
from zoo.families.base import GenerationRequest, SamplingParams
from zoo.families.latent.figure_crop import crop_images
from zoo.families.latent.stages import AutoencoderStage
from zoo.families.musedance.family import MuseDance, match_channel_statistics
from zoo.families.musedance.stages import AppearanceStage, DynamicsStage
from zoo.families.musedance.tokens import MusicTokenEmbedder
from zoo.files import conf_folder
from zoo.music.beats import Beats
from zoo.music.encoder import MusicFeatures
from zoo.nn.figure_segmentation import BODY_REGIONS, region_masks
from zoo.nn.temporal import position_directions, sinusoidal_positions
from zoo.nn.text import HashedTokenEncoder
from zoo.run.build import build_family
from zoo.run.checkpoint import load_for_stage
from zoo.run.train.runs import stage_names
from zoo.run.train.stage_training import stage_training

VAE = {"block_out_channels": [8, 8, 8, 8], "latent_channels": 4, "norm_num_groups": 4}
UNET = {
    "channels": [16, 32],
    "attention_levels": [True, True],
    "layers_per_block": 1,
    "num_attention_heads": 1,
    "norm_num_groups": 8,
}
PICTURE = (255 * interpolate(numbers("picture", 1, 3, 8, 8).sigmoid(), 64, mode="bicubic")[0]).clamp(0, 255).byte()
SCHEDULE = {"name": "cosine", "shift": 1.0, "prediction_type": "v_prediction"}
SAMPLER = {"num_inference_steps": 25, "guidance_scale": 1.0, "eta": 0.0}
NO_MODULES = {"music_conditions": [], "use_motion_modules": False}
FEW = SamplingParams(num_inference_steps=2)


def made(**overrides) -> MuseDance:
    options = {
        "music_dim": 5,
        "text_encoder": HashedTokenEncoder(16),
        "vae": VAE,
        "unet": UNET,
        "music_token_dim": 16,
        "mask_encoder_channels": [8, 8, 8, 8],
        "music_conditions": ["music", "beats"],
        "use_motion_modules": True,
        "num_context_frames": 2,
        "beat_phase": False,
        "background_residual": False,
        "predict_regions": False,
        "resolution": 64,
        "num_frames": 6,
        "fps": 12,
        "noise_schedule": SCHEDULE,
        "sampler": SAMPLER,
        "adain_strength": 0.0,
    }
    return fill_by_name(MuseDance(**options | overrides))


def song(seconds: float, rate: float = 30.0, name: str = "song") -> MusicFeatures:
    return MusicFeatures(numbers(name, int(seconds * rate), 5), rate, Beats(np.arange(0.25, seconds, 0.5), 120.0, 0))


def dance(family: MuseDance, frames: int, fps=Fraction(12), seed: int = 0, prompt: str = "", music=None, **sampling):
    with torch.no_grad():
        sampling = SamplingParams(**{"num_inference_steps": 2} | sampling)
        return list(family.generate(GenerationRequest(PICTURE, music or song(20), frames, fps, prompt, seed, sampling)))


@pytest.mark.parametrize("frames", [1, 6, 7, 13])
@pytest.mark.parametrize("fps", [Fraction(12), Fraction(30000, 1001), Fraction(5)])
def test_every_length_comes_in_small_blocks(frames, fps):
    blocks = dance(made(), frames, fps)
    assert sum(map(len, blocks)) == frames and max(map(len, blocks)) <= 4
    assert all(block.dtype == torch.uint8 and block.shape[1:] == (3, 64, 64) for block in blocks)


def test_at_another_rate_each_moment_shows_the_nearest_frame():
    slow, fast = (torch.cat(dance(made(), n, fps)).int() for n, fps in ((13, Fraction(12)), (31, Fraction(30))))
    for index in range(31):
        nearest = {int(np.floor(index * 12 / 30 + 0.5)), int(np.ceil(index * 12 / 30 - 0.5))}  # a tie may go either way
        # decoded in other company, a value may be rounded otherwise
        assert min((fast[index] - slow[each]).abs().max() for each in nearest) <= 1


def test_a_dance_is_its_inputs_and_no_longer_dance_changes_its_beginning():
    family = made()
    short, long = (torch.cat(dance(family, n, seed=3)) for n in (7, 20))
    assert torch.equal(short[:6], long[:6])
    assert (short[6].int() - long[6].int()).abs().max() <= 1  # decoded alone, a value may be rounded otherwise
    for other in ({"seed": 4}, {"prompt": "jumps"}, {"music": song(20, name="other")}, {"guidance_scale": 2.0}):
        assert not torch.equal(torch.cat(dance(family, 7, **{"seed": 3} | other)), short)


def test_each_window_is_conditioned_on_the_previous_one():
    """And its own music: tokens and beats of the second window's time."""
    family, calls, windows = made(num_frames=5), [], []
    encode_conditions, sample_window = family._encode_conditions, family._sample_window
    family._encode_conditions = lambda *arguments: (calls.append(arguments), encode_conditions(*arguments))[1]
    family._sample_window = lambda *arguments: (windows.append(sample_window(*arguments)), windows[-1])[1]
    dance(family, 11)
    assert [arguments[2] is None for arguments in calls] == [True, False, False]
    torch.testing.assert_close(calls[1][2], windows[0][-2:])
    again = family._music_tokens_at(song(20), 5)
    torch.testing.assert_close(calls[1][3]["music"], again["music"])
    assert not torch.equal(calls[0][3]["beats"], again["beats"])


def test_context_frames_are_input_channels_of_the_unet():
    """Beside the picture, as changes of its ground; the first window sees nothing there, as in stage appearance."""
    family, blind = made(background_residual=True), made(background_residual=True)
    with torch.no_grad():
        blind.background.reference_conv.weight[:, -2 * 4 :] = 0  # two frames of four latent channels
    seen, unseen = (torch.cat(dance(one, 12)) for one in (family, blind))
    assert torch.equal(seen[:6], unseen[:6]) and not torch.equal(seen[6:], unseen[6:])
    reference = family.background.encode_reference(numbers("reference", 2, 4, 8, 8))
    before = numbers("before", 2, 4, 2, 8, 8)
    past = family.background.with_context(reference, before).context_latents.unflatten(1, (4, 2))
    torch.testing.assert_close(past / family.background.residual_scale + reference.residual_base, before)
    assert (
        made().background.with_context(reference, before) is reference
    )  # latents themselves are diffused: as published


def test_what_sounds_is_no_place():
    """Tokens of a song differ along the directions in which places differ by their places alone."""
    at = torch.arange(6)
    fresh = MusicTokenEmbedder(5, 16, ["music", "beats"], True)
    heard = fresh(numbers("music", 1, 6, 5), at, torch.tensor([[0, 1, 0, 0, 1, 0]]), numbers("pulse", 1, 6, 2))
    for name, offset in (("music", fresh.music.bias), ("beats", 0)):
        said = heard[name][0] - sinusoidal_positions(at, 16) - offset
        assert said.std() > 0.1 and (said @ position_directions(16).mT).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("changes", "heard"),
    [({}, {"music", "beats"}), ({"music_conditions": ["beats"]}, {"beats"}), (NO_MODULES, set())],
)
def test_modules_that_are_switched_off_are_not_there(changes, heard):
    family = made(**changes)
    assert set(family._music_tokens_at(song(2), 0)) == heard
    names = " ".join(family.unet.temporal_modules())
    assert {name for name in ("music", "beats") if f"music_modules.{name}" in names} == heard
    assert ("motion_modules" in names) == changes.get("use_motion_modules", True)
    assert sum(map(len, dance(family, 8))) == 8


@pytest.mark.parametrize("listens", [["music"], []])
def test_a_later_stage_may_have_fewer_modules_than_the_one_before(listens, capsys):
    """Table 3's rows go on from one stage appearance, which no module of theirs has changed."""
    whole, less = made().state_dict(), made(music_conditions=listens, use_motion_modules=False)
    learned = AppearanceStage(less, optimizer=None, seed=0).trainable_modules()
    for parameter in less.parameters():
        parameter.data.zero_()
    load_for_stage(less, whole, "whole.ckpt", learned)
    anew = [name for name, value in less.state_dict().items() if not torch.equal(value, whole[name])]
    assert all(name.startswith("music_token_embedder.") for name in anew) and bool(anew) == bool(listens)
    told = capsys.readouterr().out.splitlines()
    assert ("music_token_embedder: other shapes; initialised from scratch" in told[0]) == bool(listens)
    assert told[-1] == "whole.ckpt: music_token_embedder, unet: ignored weights that this model has no module for"


def batch(frames: int, picks: bool = False) -> dict:
    clips = interpolate(numbers("clips", 2 * frames, 3, 8, 8), 64, mode="bilinear").tanh().unflatten(0, (2, frames))
    return {
        "key": ["a", "b"],
        "frames": clips,
        "frame_indices": torch.arange(frames).expand(2, -1),
        "reference": clips[:, 0].flip(-1),
        "music": numbers("music", 2, 30, 5),
        "music_rate": 30.0,
        "beats": (torch.arange(frames) % 6 == 3).long().expand(2, -1),
        "beat_phase": numbers("pulse", 2, frames, 2),
        "parts": (torch.arange(2 * frames * 64 * 64) // 170 % 25).view(2, frames, 64, 64).byte(),
        "caption": ["a dancer jumps", "a dancer turns"],
        "fps": 12.0,
    }


@pytest.mark.parametrize(
    ("kind", "frames", "options"),
    [
        (AutoencoderStage, 2, {}),
        (AutoencoderStage, 2, {"latent_noise": 0.4}),
        (AppearanceStage, 2, {}),
        (DynamicsStage, 8, {"no_context_prob": 0.0, "velocity_weight": 1.0}),
        (DynamicsStage, 8, {"train_spatial_layers": True, "no_context_prob": 1.0}),
    ],
)
def test_what_a_stage_teaches_gets_a_gradient_and_nothing_else_moves(kind, frames, options):
    family = made(beat_phase=True, background_residual=kind is not AutoencoderStage, predict_regions=True)
    own = kind(family, torch.optim.Adam, ema_decay=None, seed=0, **options).train()
    before = {name: value.clone() for name, value in family.state_dict().items()}
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):  # as tiny recipes are trained
        total = torch.stack(list(own.loss(batch(frames)).values())).sum()
    total.backward()
    learning = {name for name, p in family.named_parameters() if p.requires_grad}
    dead = {name for name in learning if family.get_parameter(name).grad is None}
    assert learning and not dead and total.isfinite()
    assert all(name.startswith(tuple(own.trainable_modules())) for name in learning)
    assert all(torch.equal(value, before[name]) for name, value in family.state_dict().items())


@pytest.mark.parametrize("begins", [0.0, 1.0])
def test_stage_dynamics_shows_the_frames_before(begins):
    """Of all windows but those that begin a video."""
    family = made(background_residual=True)
    own = DynamicsStage(
        family, torch.optim.Adam, ema_decay=None, seed=0, no_context_prob=begins, train_spatial_layers=True
    ).train()
    torch.stack(list(own.loss(batch(8)).values())).sum().backward()
    assert (family.background.reference_conv.weight.grad[:, -2 * 4 :].abs().max() > 0) == (begins == 0)


@pytest.mark.parametrize(("late", "mean"), [(0.0, 0.5), (1.0, 2 / 3)])
def test_late_stages_meet_more_noise(late, mean):
    own = DynamicsStage(made(), torch.optim.Adam, ema_decay=None, seed=0, timestep_bias=late)
    t = own.add_noise(torch.zeros(4000, 1, 1, 1, 1), own.family.noise_schedule).t
    assert t.min() >= 0 and t.max() < 1000 and t.float().mean() == pytest.approx(1000 * mean, rel=0.03)


def test_noise_on_latents_is_of_their_own_size_and_of_every_level():
    own = AutoencoderStage(made(), torch.optim.Adam, ema_decay=None, seed=0, latent_noise=0.4)
    latents = 7 * numbers("latents", 400, 4, 8, 8)
    found = (own.augment_latents(latents) - latents).flatten(1).std(1) / latents.std()
    assert 0 < found.min() < 0.05 and 0.38 < found.max() < 0.45
    assert found.square().mean() == pytest.approx(0.4**2 / 2, rel=0.1)


def test_latents_and_changes_are_made_as_large_as_the_noise():
    family = made(background_residual=True)
    own = AppearanceStage(family, torch.optim.Adam, ema_decay=None, seed=0, estimate_latent_scale=True)
    own.fit_normalizers(lambda: iter([batch(2)] * 3))
    with torch.no_grad():
        latents = family.codec.encode(batch(2)["frames"].flatten(0, 1))
        assert latents.std() == pytest.approx(1, rel=1e-2)
        before, after = latents.unflatten(0, (-1, 2)).unbind(1)
        pictured = family.background.encode_reference(before, batch(2)["parts"][:, 0])
        assert family.background.to_residual(after[:, :, None], pictured).std() == pytest.approx(1, rel=1e-2)


def test_frames_whose_latents_are_kept_teach_what_frames_worked_out_anew_do():
    family, losses = made(), []
    for kept in (1, 9):
        own = AppearanceStage(family, torch.optim.Adam, ema_decay=None, seed=0, latent_cache_size=kept)
        for rows in ([3, 0], [3, 7], [0, 3]):
            drawn = batch(8)
            for name in ("frames", "parts"):
                drawn[name] = drawn[name][:, rows]
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16):
                losses.append(own.loss(drawn | {"frame_indices": torch.tensor([rows] * 2)})["noise"].item())
        assert len(own.latent_cache) == min(kept, 6)
    assert losses[:3] == losses[3:] and len(set(losses)) == 3


def figure_batch() -> dict:
    """Clips of 8 frames in which the figure's pixels are white and all others black."""
    parts = torch.zeros(2, 8, 64, 64, dtype=torch.uint8)
    parts[0, :, 20:50, 8:20] = parts[1, :, 4:24, 40:60] = 2
    frames = (2 * (parts > 0).float() - 1)[:, :, None].expand(-1, -1, 3, -1, -1)
    return batch(8) | {"parts": parts, "frames": frames, "reference": frames[:, 0]}


def test_stages_crop_frames_and_parts_about_the_figure():
    family = made(background_residual=True, predict_regions=True, figure_crop={"resolution": 48, "scale": 1.2})
    appearance = AppearanceStage(family, torch.optim.Adam, ema_decay=None, seed=0)
    cropped = appearance._crop(figure_batch())
    assert cropped["frames"].shape[-2:] == cropped["parts"].shape[-2:] == (48, 48)
    figures = cropped["parts"] > 0
    assert ((cropped["frames"][:, :, 0] > 0) == figures).float().mean() > 0.98
    # each figure is whole, in its own shape, and no smaller than at the largest scale
    heights, widths = figures.any(3).sum(2), figures.any(2).sum(2)
    assert heights[0, 0] / widths[0, 0] == pytest.approx(30 / 12, rel=0.1) and heights.min() >= 48 / 1.75
    dynamics = DynamicsStage(family, torch.optim.Adam, ema_decay=None, seed=0)
    latents, reference_latents, parts = dynamics._encode_clips(figure_batch())
    boxes = family.find_boxes(figure_batch()["reference"])
    assert torch.equal(parts, crop_images(figure_batch()["parts"], boxes, 48, "nearest"))
    assert torch.allclose(latents[:, :, 0], reference_latents, atol=1e-2)
    assert latents.shape[2:] == (8, 6, 6)


def test_crops_of_the_autoencoder_hold_the_figure():
    own = AutoencoderStage(made(), torch.optim.Adam, ema_decay=None, seed=0, crop_size=16, crop_figures=True)
    masks = figure_batch()["parts"].flatten(0, 1) > 0
    corners = own.figure_corners(masks, 16).int()
    assert len(corners.unique(dim=0)) > 8
    for mask, (left, top) in zip(masks, corners.tolist(), strict=True):
        crop = mask[top : top + 16, left : left + 16]
        assert crop.shape == (16, 16) and crop.any()
    losses = own.loss(figure_batch())
    assert losses.keys() == {"perceptual", "kl"} and all(torch.isfinite(loss) for loss in losses.values())


def test_without_music_a_dance_does_not_depend_on_the_song():
    """The baseline of `ablations`: another song gives the same frames, with the music branch it does not."""
    family = made()
    for use_music in (True, False):
        family.configure({"use_music": use_music})
        one, other = (torch.cat(dance(family, 6, music=song(2, name=name))) for name in ("one", "other"))
        assert torch.equal(one, other) != use_music
    assert family.ablations() == {"without music": {"use_music": False}}
    with pytest.raises(ValueError, match="renderer= is not an option of musedance"):
        family.configure({"renderer": None})


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="use music, beats, both or none"):
        made(music_conditions=["words"])
    with pytest.raises(ValueError, match="musedance animates an image: give image=FILE"):
        next(made().generate(GenerationRequest(None, song(2), 5, Fraction(12), sampling=FEW)))
    with pytest.raises(ValueError, match=r"clips of 7 frames are shorter .* set clip\.num_frames=8"):
        DynamicsStage(made(), torch.optim.Adam, ema_decay=None, seed=0).loss(batch(7))


def test_the_papers_size_has_the_papers_numbers():
    """Parameters part by part, and 48 frames of 640x640 after two others through all networks; nothing is allocated."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("train", overrides=["model=musedance", "size=paper", "music=ast"])
    with torch.device("meta"):
        family = build_family(config)
        counted = {name: sum(p.numel() for p in part.parameters()) for name, part in family.named_children()}
        assert counted["codec"] == 83_653_863 and counted["reference_net"] == 857_066_560
        songs = sum(p.numel() for name, p in family.unet.named_parameters() if ".music_modules." in name)
        assert counted["unet"] - songs == 1_312_730_244  # Moore's: Stable Diffusion's and AnimateDiff's
        latents = family.codec.vae.encode(torch.empty(1, 3, 640, 640)).latent_dist.mode()
        assert (
            latents.shape == (1, 4, 80, 80)
            and family.add_pose_mask(latents, torch.empty(1, 640, 640)).shape == latents.shape
        )
        text = torch.empty(2, 77, 768)
        reference = family.reference_net(latents, text=text[:1])
        assert {one.shape for one in reference} == {
            (1, 80**2, 320),
            (1, 40**2, 640),
            (1, 20**2, 1280),
            (1, 10**2, 1280),
        }
        past = [one[:, None].expand(2, 2, -1, -1) for one in reference]
        heard = family.embed_music(torch.empty(2, 40, 768), 10.0, torch.zeros(2, 48), torch.empty(2, 48, 2))
        request = family.unet.precompute_conditioning(text, reference, past, heard)
        x = torch.empty(2, 4, 48, 80, 80)
        assert family.unet(x, torch.zeros(2), request).shape == x.shape
    recipes = {name: stage_training(config, name) for name in stage_names(config)}
    assert {name: (each.max_steps, each.batch_size, each.global_batch_size) for name, each in recipes.items()} == {
        "appearance": (30_000, 12, 384), "dynamics": (30_000, 2, 64),
    }  # fmt: skip


def test_adain_moves_channel_statistics_to_the_references():
    """All of the reference's mean and deviation a channel, half of it, or none; and `generate` uses it."""
    window, reference = 3 + 2 * numbers("window", 5, 4, 8, 8), numbers("reference", 1, 4, 8, 8)
    assert match_channel_statistics(window, reference, 0.0) is window
    whole, half = (match_channel_statistics(window, reference, strength) for strength in (1.0, 0.5))
    torch.testing.assert_close(whole.mean((0, 2, 3)), reference.mean((0, 2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(whole.std((0, 2, 3)), reference.std((0, 2, 3)), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(half, (whole + window) / 2)
    plain, drawn = (torch.cat(dance(made(adain_strength=strength), 6)) for strength in (0.0, 1.0))
    assert not torch.equal(plain, drawn)


def test_changes_are_of_the_references_ground():
    """Where a network diffuses changes and answers none, the dance is the picture without its figure."""
    family = made(background_residual=True)
    reference, latents = numbers("reference", 1, 4, 8, 8), numbers("latents", 1, 4, 3, 8, 8)
    parts = torch.zeros(1, 64, 64, dtype=torch.uint8)
    parts[:, 20:40, 28:36] = 5
    pictured = family.background.encode_reference(reference, parts)
    rows, columns = pictured.foreground_mask[0, 0].any(1).nonzero(), pictured.foreground_mask[0, 0].any(0).nonzero()
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (1, 5, 2, 5), "a latent's neighbours know of it"
    family.background.residual_scale.fill_(2.5)
    changes = family.background.to_residual(latents, pictured)
    torch.testing.assert_close(changes[:, :, 1], 2.5 * (latents[:, :, 1] - pictured.background))
    torch.testing.assert_close(family.background.from_residual(changes, pictured), latents)
    with torch.no_grad():
        time, request = torch.tensor([500]), family.unet.precompute_conditioning(family.text_encoder([""]))
        other = {
            name: replace(pictured, **{name: 0 * getattr(pictured, name)}) for name in ("latents", "foreground_mask")
        }
        seeing = family.predict(latents, time, request, pictured)
        for name, one in other.items():
            assert (family.predict(latents, time, request, one) - seeing).abs().max() > 1e-3, name
    family.background.residual_scale.fill_(1e9)
    frames = torch.cat(dance(family, 7))
    picture = PICTURE.float()[None] / 127.5 - 1
    pictured = family.background.encode_reference(family.codec.encode(picture))
    pictured = family.background.with_pixel_residual(pictured, picture, family.codec)
    pixel_residual = family.background.frame_pixel_residual(pictured.background, pictured)
    still = family.codec.decode(pictured.background, pixel_residual)
    assert (frames.int() - still.int()).abs().max() <= 1


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
def test_what_a_network_imagines_has_the_pictures_looks(prediction):
    """Through all the noise there is, the region it names is seen where it names it, and else the ground."""
    family = made(
        background_residual=True, predict_regions=True, noise_schedule=SCHEDULE | {"prediction_type": prediction}
    )
    family.background.residual_scale.fill_(2.5)
    parts = (torch.arange(2 * 64 * 64) // 130 % 25).view(2, 64, 64).byte()
    pictured = family.background.encode_reference(numbers("pictures", 2, 4, 8, 8), parts)
    answer = torch.zeros(2, 4 + 1 + len(BODY_REGIONS), 3, 8, 8)
    answer[:, 4] = 50
    answer[:, 4 + 1 + 6, 1, 2:5, 3:5] = 100
    noise, last = numbers("noise", 2, 4, 3, 8, 8), torch.tensor([999, 999])
    schedule, background = family.noise_schedule, family.background
    network_output = background.apply_region_head(answer, last, pictured, schedule)[0]
    x0 = Denoiser(lambda x, t: network_output, schedule)(noise, last)
    if prediction == "epsilon":  # what is left of the signal is divided by next to nothing
        signal = family.noise_schedule.alphas_cumprod[999].sqrt()
        x0 = x0 - noise / signal
    found, grounds = (
        family.background.from_residual(x0, pictured),
        pictured.background[:, :, None].expand(-1, -1, 3, -1, -1),
    )
    named = pictured.region_means[:, 6, :, None, None]
    torch.testing.assert_close(found[:, :, 1, 2:5, 3:5], named.expand(-1, -1, 3, 2), atol=1e-2, rtol=0)
    torch.testing.assert_close(found[:, :, 2], grounds[:, :, 2], atol=1e-2, rtol=0)
    assert (named - grounds[:, :, 1, 2:5, 3:5]).abs().mean() > 0.1


def test_guidance_applies_before_regions_are_composited():
    """However strong, it makes a region surer, and never more than there."""
    family = made(background_residual=True, predict_regions=True)
    parts = (torch.arange(64 * 64) // 130 % 25).view(1, 64, 64).byte()
    pictured = family.background.encode_reference(numbers("picture", 1, 4, 8, 8), parts)
    answers = torch.zeros(2, 4 + 1 + len(BODY_REGIONS), 6, 8, 8)
    answers[0, 4 + 1 + 6], answers[1, 4 + 1 + 2] = 4, 4  # who reads sees one region, who does not another one
    family.unet.forward = lambda x, *_: answers
    request = family.unet.precompute_conditioning(family.text_encoder(["", ""]))
    made_of = family._sample_window(request, pictured, torch.Generator().manual_seed(0), SamplingParams(1, 5.0, 0.0))
    wanted = pictured.region_means[0, 6, None, :, None, None].expand_as(made_of)
    assert (
        (made_of - wanted).abs().mean() < 0.1 < (pictured.region_means[0, 6] - pictured.region_means[0, 2]).abs().mean()
    )


@pytest.mark.parametrize("kind", [AppearanceStage, DynamicsStage])
def test_regions_are_told_of_the_frames_that_are_made(kind):
    """A network that knows the very parts of those frames is not wrong about them; one that knows others is."""
    family, given = made(background_residual=True, predict_regions=True), batch(8)
    given["parts"] = torch.randint(2, (2, 8, 2, 2), generator=torch.Generator().manual_seed(0)).byte()
    given["parts"] = (given["parts"] * 7).repeat_interleave(32, 2).repeat_interleave(32, 3)
    own, imagine = kind(family, torch.optim.Adam, ema_decay=None, seed=0), family.predict_with_regions

    def error(parts: torch.Tensor) -> float:
        shares = region_masks(parts.flatten(0, 1), (8, 8)).unflatten(0, parts.shape[:2])
        logits = torch.cat([1 - shares.sum(2, keepdim=True), shares], 2).clamp(min=1e-6).log()
        logits = logits.flatten(0, 1)[:, :, None] if kind is AppearanceStage else logits.movedim(1, 2)
        family.predict_with_regions = lambda *asked: (imagine(*asked)[0], logits)
        return own.loss(given)["regions"].item()

    made_frames = given["parts"][:, 1 if kind is AppearanceStage else 2 :]
    assert error(made_frames) < 1e-3 and error(made_frames.flip(1)) > 1


@pytest.mark.parametrize(("logit", "alike"), [(-20.0, True), (20.0, False)])
def test_where_no_figure_is_a_picture_stays_as_it_is(logit, alike):
    """Down to the pixel, whatever the autoencoder loses; a figure is what the autoencoder makes of its latents."""
    family = made(background_residual=True)
    torch.nn.init.zeros_(family.background.figure_segmenter.net.conv_out.weight)
    torch.nn.init.constant_(family.background.figure_segmenter.net.conv_out.bias, logit)
    picture = PICTURE.float()[None] / 127.5 - 1
    latents = family.codec.encode(picture)
    pictured = family.background.encode_reference(latents)
    pictured = family.background.with_pixel_residual(pictured, picture, family.codec)
    assert (family.codec.decode(latents).int() - PICTURE.int()).abs().max() > 20
    wanted = PICTURE[None] if alike else family.codec.decode(latents)
    assert (
        family.codec.decode(latents, family.background.frame_pixel_residual(latents, pictured)).int() - wanted.int()
    ).abs().max() <= 1


@pytest.mark.parametrize(("logit", "keeps_pixels"), [(-20.0, True), (20.0, False)])
def test_a_reconstruction_is_the_autoencoders_where_the_figure_is(logit, keeps_pixels):
    """And the image's own pixels elsewhere. Ten frames are more than a block."""
    family = made(background_residual=True)
    torch.nn.init.zeros_(family.background.figure_segmenter.net.conv_out.weight)
    torch.nn.init.constant_(family.background.figure_segmenter.net.conv_out.bias, logit)
    with torch.no_grad():
        frames = torch.cat(list(family.reconstruct(PICTURE, PICTURE.expand(10, -1, -1, -1))))
        decoded = family.codec.decode(family.codec.encode(PICTURE.float()[None] / 127.5 - 1))[0]
    expected = PICTURE if keeps_pixels else decoded
    assert frames.shape == (10, 3, 64, 64) and (frames.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(("logit", "refused"), [(-5.0, True), (-1.5, False)])
def test_a_picture_in_which_no_figure_is_found_is_refused(logit, refused):
    """But not by a network that is sure of nothing yet."""
    family = made(background_residual=True)
    torch.nn.init.zeros_(family.background.figure_segmenter.net.conv_out.weight)
    torch.nn.init.constant_(family.background.figure_segmenter.net.conv_out.bias, logit)
    if refused:
        with pytest.raises(ValueError, match="no figure was detected"):
            dance(family, 1)
    else:
        assert len(dance(family, 1)) == 1
