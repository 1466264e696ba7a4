"""M2PEnc's music-to-pose network: shapes at the paper's size, the joints' densities and the losses."""

from math import isnan

import pytest
import torch

from zoo.families.m2penc.joint_accuracy import JointAccuracy
from zoo.families.m2penc.music_to_pose import (
    MusicToPose,
    expected_joints,
    frame_features,
    guidance_loss,
    heatmap_loss,
    joint_density,
)

SMALL = dict(
    music_dim=6, grid_size=8, width=8, num_layers=2, num_attention_heads=2, norm_num_groups=2,
    guidance_channels=4, num_joints=3, use_spatial_attention=True,
)  # fmt: skip


def test_the_papers_size_has_the_papers_shapes():
    with torch.device("meta"):
        encoder = MusicToPose(
            music_dim=4800, grid_size=64, width=256, num_layers=4, num_attention_heads=8, norm_num_groups=32,
            guidance_channels=320, num_joints=24, use_spatial_attention=True,
        )  # fmt: skip
        guidance, logits = encoder(torch.zeros(1, 75, 4800))
    assert guidance.shape == (1, 320, 75, 64, 64) and logits.shape == (1, 24, 75, 64, 64)
    assert encoder.input_projection.weight.shape == (4096, 4800)
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(33.2e6, rel=0.005)


def test_any_number_of_frames_and_a_change_is_local():
    torch.manual_seed(0)
    encoder = MusicToPose(**SMALL)
    music = torch.randn(1, 21, 6)
    changed = music.clone()
    changed[:, 10] += 1
    with torch.no_grad():
        before, after = encoder(music), encoder(changed)
        assert encoder(music[:, :5])[0].shape == (1, 4, 5, 8, 8)
    for first, second in zip(before, after, strict=True):
        difference = (first - second).abs().mean((0, 1, 3, 4))
        assert difference.argmax() == 10 and difference[10] > 10 * difference[0]


def test_densities_sum_to_one_and_their_expectation_is_the_joint():
    joints = torch.tensor([[10.3, 12.7], [16.0, 20.5], [-0.5, 10.0], [5.0, 40.0]])
    density, counts = joint_density(joints, 32)
    torch.testing.assert_close(density.sum((-2, -1)), torch.ones(4))
    assert counts.tolist() == [True, True, False, False], "less than half lies inside"
    places = expected_joints(density[:2].clamp(min=1e-30).log())
    assert (places - joints[:2]).abs().max() < 0.02


def test_heat_map_loss():
    joints = torch.tensor([[[[12.0, 9.0], [20.0, 18.0], [90.0, 9.0]]]])  # (B, N, J, 2); the third one is outside
    density, _ = joint_density(joints.movedim(2, 1), 32)
    right = density.clamp(min=1e-30).log()
    assert heatmap_loss(right, joints) < 1e-6
    # falls as a peak moves to the joint, and the joint outside counts for nothing
    losses = [heatmap_loss(right.roll(shift, -1), joints) for shift in (6, 4, 2, 1, 0)]
    assert all(first > second for first, second in zip(losses, losses[1:], strict=False))
    other = right.clone()
    other[:, 2] = torch.randn(1, 1, 32, 32)
    assert heatmap_loss(other, joints) == heatmap_loss(right, joints)
    zeros = torch.zeros(1, 3, 1, 32, 32)
    expected = (2 * torch.pi * 1.5**2) ** 2 * (1 / 1024 - density[:, :2]).square().mean()
    assert heatmap_loss(zeros, joints).item() == pytest.approx(expected.item(), rel=1e-5)


def test_divergence_of_heat_maps_is_the_squared_distance():
    """Of two equal Gaussians: d^2 / (2 sigma^2), averaged over the joints within the image."""
    joints = torch.tensor([[[[16.0, 16.0], [14.0, 17.0], [90.0, 9.0]]]])
    logits = joint_density(joints.movedim(2, 1), 32)[0].clamp(min=1e-30).log()
    assert heatmap_loss(logits, joints, use_divergence=True) < 1e-5
    moved = joints + torch.tensor([1.0, 2.0])
    expected = (1 + 4) / (2 * 1.5**2)
    assert heatmap_loss(logits, moved, use_divergence=True).item() == pytest.approx(expected, rel=1e-3)
    narrow = joint_density(joints.movedim(2, 1), 32, sigma=0.75)[0]
    assert narrow[0, 0].max() > 2 * logits[0, 0].exp().max()


def test_guidance_loss_is_the_mean_absolute_error():
    predicted, target = torch.tensor([1.0, -1.0, 3.0]), torch.tensor([0.0, 1.0, 3.0])
    assert guidance_loss(predicted, target, 2.0).item() == pytest.approx(0.5)


def test_frame_features_interpolate_tokens():
    music = torch.arange(10.0)[None, :, None]
    times = torch.tensor([0.0, 0.05, 0.1, 5.0])
    assert frame_features(music, 30.0, times)[0, :, 0].tolist() == pytest.approx([0, 1.5, 3, 9], abs=1e-5)


def test_joint_accuracy_compares_with_the_mean_pose_and_another_songs_music():
    """Two songs move a square of four joints, 10 wide, to either side; thresholds are 1 and 0.5."""
    square = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    shifts = torch.tensor([[-3.0, 0.0], [3.0, 0.0], [-3.0, 0.0], [3.0, 0.0]])
    true = (square + shifts[:, None])[:, None].repeat(1, 2, 1, 1)  # (B, N, J, 2)
    accuracy = JointAccuracy()
    accuracy.add(true[:2] + torch.tensor([0.7, 0.0]), true[:2], ["a", "b"])
    accuracy.add(true[2:] + torch.tensor([0.7, 0.0]), true[2:], ["a", "b"])
    results = accuracy.values()
    assert results["pck_0.1"] == 1 and results["pck_0.05"] == 0, "0.7 is between the thresholds"
    assert results["pck_0.1_mean_pose"] == results["pck_0.1_other_song"] == 0
    assert results["pck_0.1_other_song_gain"] == 1 and results["pck_0.1_other_song_gain_error"] == 0
    assert results["r2"] == pytest.approx(1 - 0.7**2 / 9)
    assert "PCK@0.1 1.000 (mean pose 0.000, other song 0.000)" in accuracy.summary()
    one_song = JointAccuracy()
    one_song.add(true[:1], true[:1], ["a"])
    assert set(one_song.values()) == set(results), "processes with other clips average the same names"
    assert isnan(one_song.values()["pck_0.1_other_song"]) and isnan(one_song.values()["pck_0.1_mean_pose_gain_error"])


def test_velocities_show_a_beat_that_places_hide():
    """Joints swing by 2; the prediction swings by 1 about a place that is far off: half of each change is missed."""
    true = torch.tensor([0.0, 2.0, 0.0])[None, :, None, None].expand(1, 3, 2, 2)
    accuracy = JointAccuracy()
    accuracy.add(50 + true / 2, true, ["a"])
    results = accuracy.values()
    assert results["velocity_r2"] == pytest.approx(1 - 0.5**2)
    assert results["r2"] < -100


def test_guidance_follows_the_predicted_joints():
    """It changes where a joint moves and nowhere else; its loss does not move the joints."""
    torch.manual_seed(0)
    encoder = MusicToPose(**SMALL | {"grid_size": 16}, joint_guidance_width=4)
    logits = torch.full((1, 3, 1, 16, 16), -20.0)
    logits[..., 4, 4] = 20
    moved = logits.clone()
    moved[:, 1, :, 4, 4], moved[:, 1, :, 4, 5] = -20, 20
    assert encoder.joint_guidance is not None
    change = (encoder.joint_guidance(moved) - encoder.joint_guidance(logits)).abs().amax((0, 1, 2))
    assert change[4, 4] > 0 and change[4, 5] > 0 and change[:, 9:].max() == 0 and change[8:].max() == 0
    guidance, heatmap_logits = encoder(torch.randn(1, 4, 6), torch.zeros(3, 1, 16, 16))
    guidance.sum().backward()
    assert encoder.heatmap_head.weight.grad is None and encoder.joint_guidance.convs[0].weight.grad.abs().max() > 0
    mean = torch.randn(3, 1, 16, 16)
    assert heatmap_logits.shape == (1, 3, 4, 16, 16)
    encoder.eval()
    music = torch.randn(1, 4, 6)
    assert torch.allclose(encoder(music, mean)[1], encoder(music)[1] + mean)
