"""Long dances, edits and training losses of MagicDance's motion diffuser."""

from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from weights import fill_by_name, numbers

from zoo.batch import MOTION_FPS
from zoo.body.skeleton import STANDING, joints_of, matrix_from_axis_angle, pack, resample, unpack
from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.guidance import ClassifierFreeGuidance, guidance_ramp
from zoo.diffusion.samplers import make_sampler
from zoo.diffusion.schedules import cosine_schedule
from zoo.families.base import GenerationRequest, SamplingParams
from zoo.families.magicdance.dance_decoder import DanceDecoder
from zoo.families.magicdance.family import MagicDance, resample_to_video
from zoo.families.magicdance.long_form import (
    HOP_FRAMES,
    MotionMask,
    crossfade,
    frame_mask,
    joint_mask,
    long_form,
    resample_music,
)
from zoo.families.magicdance.stages import MotionStage, motion_losses
from zoo.music.beats import Beats
from zoo.music.encoder import MusicFeatures

REFERENCE = np.load(Path(__file__).parent / "data" / "edge_reference.npz")
FEW = SamplingParams(num_inference_steps=5)


def walk(frames: int, seed: int = 0) -> torch.Tensor:
    """A smooth random motion (frames, 151)."""
    torch.manual_seed(seed)
    time = torch.arange(frames)[:, None, None] / MOTION_FPS
    angles = 0.4 * torch.sin(time * torch.rand(24, 3) * 4 + 6 * torch.rand(24, 3))
    root = torch.tensor([0.0, 0.0, 0.95]) + 0.2 * torch.sin(time[:, 0] * torch.rand(3) * 3)
    turns = matrix_from_axis_angle(angles)
    turns[:, 0] = turns[:, 0] @ STANDING
    return pack(turns, root)


def song(seconds: float, rate: float = 30.0) -> MusicFeatures:
    return MusicFeatures(numbers("song", int(seconds * rate), 35), rate, Beats(np.array([]), 0.0, 0))


def build(beat_phase: bool = False, **sizes) -> MagicDance:
    sampler = {"num_inference_steps": 50, "guidance_scale": 2.0, "eta": 1.0}
    decoder = {"dim": 64, "ff_dim": 96, "layers": 1, "heads": 2} | sizes
    options = {"dance_decoder": decoder, "beat_phase": beat_phase, "mesh_resolution": 128, "sampler": sampler}
    return MagicDance(music_dim=35, **options, animator=None)


@pytest.fixture(scope="module")
def family() -> MagicDance:
    made = fill_by_name(build(layers=2))
    made.normalizer.fit([walk(300, seed) for seed in range(5)])
    made.music_scale.mean.fill_(0.1)
    return made


@pytest.mark.parametrize("group", [1, 2, 5])
def test_long_form_is_edges_however_it_is_grouped(group):
    """Stored: the public long_ddim_sample of 5 windows in one batch."""
    network = fill_by_name(DanceDecoder(35, dim=64, ff_dim=96, layers=2, heads=2))
    songs = numbers("songs", 5, 150, 35)

    def denoiser_for(indices: range) -> ClassifierFreeGuidance:
        condition = network.guided_condition(songs[list(indices)])
        return ClassifierFreeGuidance(
            Denoiser(lambda x, t: network(x, condition, t), cosine_schedule()), guidance_ramp(2.0, 50)
        )

    rule = partial(make_sampler, cosine_schedule(), 50)
    with torch.no_grad():
        made = torch.stack(list(long_form(denoiser_for, 5, rule, 1.0, 7, torch.device("cpu"), group)))
    assert float((made[:, ::10] - torch.from_numpy(REFERENCE["long_ddim_sample"])).abs().max()) < 1e-5


@pytest.mark.parametrize("frames", [1, 30, 150, 151, 225, 226, 700])
def test_motion_has_the_requested_length(family, frames):
    blocks = list(family.generate_motion(song(frames / 30 + 0.1), frames, 0, SamplingParams(num_inference_steps=2)))
    assert sum(map(len, blocks)) == frames and max(map(len, blocks)) <= HOP_FRAMES
    assert torch.isfinite(torch.cat(blocks)).all()


def test_motion_depends_on_seed_and_music_only(family):
    def dance(seed, music):
        return torch.cat(list(family.generate_motion(music, 300, seed, FEW)))

    first = dance(1, song(10))
    assert torch.equal(first, dance(1, song(10)))
    assert (first - dance(2, song(10))).abs().max() > 0.01
    louder = song(10)
    louder.features[200:] *= -1
    other = dance(1, louder)
    assert (first - other).abs().max() > 0.01
    # what is still to come does not reach back beyond the windows that hear it
    assert (first - other)[:75].abs().max() < 1e-4


def test_music_of_any_rate_and_length():
    features = torch.arange(7.0)[:, None].repeat(1, 2)
    assert torch.equal(resample_music(features, 30.0, 2, 4)[:, 0], torch.tensor([2.0, 3, 4, 5]))
    torch.testing.assert_close(resample_music(features, 10.0, 0, 5)[:, 0], torch.arange(5) / 3)
    # heard to and fro past the end
    over = resample_music(features, 30.0, 5, 12)[:, 0]
    assert over.tolist() == [5, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
    assert resample_music(features[:1], 30.0, 0, 3).shape == (3, 2)


def test_crossfade_joins_without_a_seam():
    whole = walk(375)
    windows = [whole[i * 75 : i * 75 + 150].clone() for i in range(4)]
    torch.testing.assert_close(torch.cat(list(crossfade(iter(windows)))), whole, atol=1e-5, rtol=0)
    # windows that do not agree: root apart by 10 cm, an arm by half a radian
    apart = matrix_from_axis_angle(torch.tensor([0.0, 0.0, 0.5]))
    for i, window in enumerate(windows):
        window[:, 4] += 0.1 * (i % 2)
        if i % 2:
            turns = unpack(window)[2]
            turns[:, 16] = turns[:, 16] @ apart
            window[:, 7:] = pack(turns, window[:, 4:7])[:, 7:]
    assert_no_seam(torch.cat(list(crossfade(iter(windows)))))


def assert_no_seam(made: torch.Tensor) -> None:
    """Joint acceleration at joins is no higher than its 95th percentile elsewhere."""
    acceleration = joints_of(made).diff(n=2, dim=0).norm(dim=-1).amax(-1) * MOTION_FPS**2
    joins = torch.arange(HOP_FRAMES, len(made) - HOP_FRAMES + 1, HOP_FRAMES)
    near = torch.cat([joins - 2, joins - 1, joins])  # the differences that span a join
    elsewhere = acceleration[[i for i in range(len(acceleration)) if i not in set(near.tolist())]]
    for join in joins:
        assert acceleration[join - 2 : join + 1].mean() <= elsewhere.quantile(0.95)


def test_edits_preserve_masked_values_exactly(family):
    given, music = walk(260, seed=9), song(9)
    between = frame_mask(260, slice(0, 40), slice(200, 260))
    made = family.edit(music, given, between, 3, FEW)
    assert torch.equal(made[:40], given[:40]) and torch.equal(made[200:], given[200:])
    assert (made[60:180] - given[60:180]).abs().max() > 0.05
    legs = joint_mask(260, ["pelvis", "left_hip", "right_hip", "left_knee", "right_knee"])
    made = family.edit(music, given, legs, 3, FEW)
    kept = legs[0] > 0
    assert kept.sum() == 3 + 5 * 6 and torch.equal(made[:, kept], given[:, kept])
    free = family.edit(music, given, torch.zeros_like(legs), 3, FEW)
    torch.testing.assert_close(free, torch.cat(list(family.generate_motion(music, 260, 3, FEW))), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="there is no joint tail"):
        joint_mask(10, ["tail"])
    with pytest.raises(ValueError, match="motion and a mask of one shape"):
        family.edit(music, given, legs[:20], 3, FEW)


def test_preserved_frames_condition_the_others():
    """Data that is one of two constant motions: keeping the first frames picks which one."""
    kept = cosine_schedule().alphas_cumprod
    choices = torch.stack([torch.full((150, 151), c) for c in (-0.6, 0.6)])

    def posterior(x, t):
        a = kept[t[0]]
        apart = (x[:, None] - a.sqrt() * choices).square().sum((-1, -2)) / (2 * (1 - a))
        return torch.einsum("bk,ktd->btd", torch.softmax(-apart, -1), choices)

    for sign in (-1.0, 1.0):
        motion_mask = MotionMask(torch.full((150, 151), 0.6 * sign), frame_mask(150, slice(0, 75)))
        (made,) = long_form(
            lambda _: Denoiser(posterior, cosine_schedule()),
            1,
            partial(make_sampler, cosine_schedule(), 50),
            1.0,
            0,
            torch.device("cpu"),
            motion_mask=motion_mask,
        )
        torch.testing.assert_close(made, torch.full((150, 151), 0.6 * sign), atol=1e-3, rtol=0)


@pytest.mark.parametrize("fps", [Fraction(30), Fraction(30000, 1001), Fraction(12), Fraction(60), Fraction(25)])
def test_video_frames_are_at_their_exact_times(fps):
    whole, frames = walk(400), 100
    blocks = [whole[i : i + 75] for i in range(0, 400, 75)]
    times = torch.tensor([float(i / fps) for i in range(frames)], dtype=torch.float64)
    made = torch.cat(list(resample_to_video(iter(blocks), frames, fps)))
    torch.testing.assert_close(made, resample(whole, times), atol=1e-5, rtol=0)


@pytest.mark.parametrize("image", [None, torch.full((3, 40, 30), 90, dtype=torch.uint8)])
def test_generate_streams_frames(family, image):
    blocks = list(
        family.generate(
            GenerationRequest(image, song(4), 40, Fraction(12), sampling=SamplingParams(num_inference_steps=2))
        )
    )
    frames = torch.cat(blocks)
    assert frames.shape == (40, 3, 128, 128) and frames.dtype == torch.uint8
    assert (frames[0] != frames[20]).any() and len(blocks) > 1


def test_losses_in_closed_form(family):
    """Of a motion that is moved by known amounts."""
    x0 = family.normalizer(walk(60)[None])
    metres = family.normalizer.inverse
    same = motion_losses(x0, x0, metres)
    assert same["reconstruction"] == same["velocity"] == same["joints"] == 0
    # 3 cm to the side: every joint is 3 cm off, no velocity changes
    scale = 2 / (family.normalizer.high - family.normalizer.low)
    moved = x0.clone()
    moved[..., 4] = (x0[..., 4] * 0.5 + 0.03 * scale[4]).clamp(-1, 1)
    base = x0.clone()
    base[..., 4] = x0[..., 4] * 0.5
    losses = motion_losses(moved, base, metres)
    np.testing.assert_allclose(losses["joints"], 0.03**2 / 3, rtol=1e-3)
    np.testing.assert_allclose(losses["reconstruction"], (0.03 * scale[4]) ** 2 / 151, rtol=1e-3)
    assert losses["velocity"] < 1e-9
    # one foot that says it stands, and slides 2 cm a frame with the whole body
    low, high = family.normalizer.low, family.normalizer.high
    sliding = torch.zeros(1, 5, 151)
    sliding[..., 0] = (0.99 - low[0]) / (high[0] - low[0]) * 2 - 1
    sliding[..., 1:4] = (0.9 - low[1:4]) / (high[1:4] - low[1:4]) * 2 - 1
    sliding[..., 4] = torch.arange(5) * 0.02 * scale[4] - 0.5
    # 4 steps of 5 frames, 1 foot of 4, 1 axis of 3
    np.testing.assert_allclose(motion_losses(sliding, sliding, metres)["feet"], 0.02**2 * 4 / 5 / 12, rtol=1e-3)


def test_stage_learns_one_clip_and_averages():
    """Some steps on one batch: the losses fall, and by the recipe's own weights."""
    family = build(beat_phase=True, dropout=0.0)
    batch = {"motion": torch.stack([walk(60, seed) for seed in range(8)]), "music": numbers("m", 8, 60, 35) * 100}
    batch |= {"music_rate": 30.0, "fps": 30.0, "beats": (torch.arange(60) % 15 == 0).long().repeat(8, 1)}
    stage = MotionStage(family, partial(torch.optim.AdamW, lr=2e-3), ema_decay=0.9)
    stage.fit_normalizers(lambda: iter([batch]))
    heard = family.music_condition(batch["music"], 30.0, [np.arange(0, 2, 0.5)] * 8, 60)
    assert abs(heard[..., :35].mean()) < 1e-3 and abs(heard[..., :35].std() - 1) < 1e-2
    turn = 2 * np.pi * np.arange(60) / 15  # a turn a beat
    np.testing.assert_allclose(heard[3, :, 35:], np.stack([np.cos(turn), np.sin(turn)], 1), atol=1e-5)
    assert family.normalizer(batch["motion"]).abs().max() <= 1
    optimizer = stage.configure_optimizers()
    totals = []
    for step in range(60):
        torch.manual_seed(step)
        losses = stage.loss(batch)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        stage.ema.update_parameters(stage._module_dict())
        totals.append(total.item())
    assert set(losses) == {"reconstruction", "velocity", "joints", "feet"}
    assert np.mean(totals[-10:]) < 0.4 * np.mean(totals[:10])
    raw, mean = family.motion_denoiser.final_layer.weight, stage.ema.module["motion_denoiser"].final_layer.weight
    assert 0 < (raw - mean).abs().max() < 0.05


def test_music_scaling_refuses_nothing_and_nan():
    stage = MotionStage(build(), torch.optim.AdamW)
    with pytest.raises(ValueError, match="training data has no motion"):
        stage.fit_normalizers(lambda: iter([]))
