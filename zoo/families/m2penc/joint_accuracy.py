"""How well predicted joints meet the true ones: PCK beside the two baselines that a music-to-pose network must beat."""

from collections.abc import Sequence

import torch
from torch import Tensor

PCK_THRESHOLDS = (0.1, 0.05)  # of the longer side of the true joints' bounding box
Z_95 = 1.96  # standard errors on either side of a mean: its 95 % interval


def correct_joints(predicted: Tensor, true: Tensor, threshold: float) -> Tensor:
    """Share (B,) of joints (B, N, J, 2) that lie within `threshold` of the frame's stature from the true ones (PCK).

    The stature is the longer side of the bounding box of a frame's true joints.
    """
    stature = (true.amax(2) - true.amin(2)).amax(-1, keepdim=True)
    distance = (predicted - true).norm(dim=-1)
    return (distance <= threshold * stature).float().mean((1, 2))


class JointAccuracy:
    """Collects the predictions of held-out clips, and compares them with two baselines.

    'mean pose' is the mean of the clips' own true joints, a little better than the training data's would be. 'other
    song' is the same network's prediction for the next clip of another song: a network that ignores music equals it.
    """

    def __init__(self) -> None:
        self.predicted: list[Tensor] = []
        self.true: list[Tensor] = []
        self.songs: list[str] = []

    def add(self, predicted: Tensor, true: Tensor, songs: Sequence[str]) -> None:
        """Add predicted and true joints (B, N, J, 2) of clips of some songs."""
        self.predicted.append(predicted.detach().float().cpu())
        self.true.append(true.float().cpu())
        self.songs += songs

    def values(self) -> dict[str, float]:
        """Name -> value over all clips; NaN for another song if there is one song, and for errors of one clip.

        Names are always the same, so that processes with different clips can average their values.

        `pck_0.1`: of the network; `pck_0.1_mean_pose`, `pck_0.1_other_song`: of the baselines; `..._gain` and
        `..._gain_error`: the network's mean gain over the baseline, paired by clips, and half of its 95 % interval.
        `r2`: 1 - the share of the joints' variance about the mean pose that the network leaves. `velocity_r2`: the same
        of their frame-to-frame changes about none. It shows whether the beat's small, fast moves are met; PCK does not.
        """
        predicted, true = torch.cat(self.predicted), torch.cat(self.true)
        mean_pose = true.mean((0, 1)).expand_as(true)
        baselines = {"mean_pose": mean_pose}
        other_songs = self._clips_of_other_songs()
        baselines["other_song"] = predicted if other_songs is None else predicted[other_songs]
        squared_error, variance = (predicted - true).square().sum(), (mean_pose - true).square().sum()
        changes, true_changes = predicted.diff(dim=1), true.diff(dim=1)
        change_error, change_energy = (changes - true_changes).square().sum(), true_changes.square().sum()
        results = {
            "r2": float(1 - squared_error / variance.clamp(min=1e-12)),
            "velocity_r2": float(1 - change_error / change_energy.clamp(min=1e-12)),
        }
        for threshold in PCK_THRESHOLDS:
            name, network_pck = f"pck_{threshold:g}", correct_joints(predicted, true, threshold)
            results[name] = float(network_pck.mean())
            for baseline, joints in baselines.items():
                baseline_pck = correct_joints(joints, true, threshold)
                if baseline == "other_song" and other_songs is None:
                    baseline_pck = baseline_pck * torch.nan
                gain = network_pck - baseline_pck
                results[f"{name}_{baseline}"] = float(baseline_pck.mean())
                results[f"{name}_{baseline}_gain"] = float(gain.mean())
                standard_error = gain.std() / len(gain) ** 0.5 if len(gain) > 1 else torch.nan
                results[f"{name}_{baseline}_gain_error"] = float(Z_95 * standard_error)
        return results

    def _clips_of_other_songs(self) -> list[int] | None:
        """For each clip the index of the next one of another song; None if there is one song."""
        count = len(self.songs)
        indices = []
        for index, song in enumerate(self.songs):
            following = ((index + shift) % count for shift in range(1, count))
            other = next((clip for clip in following if self.songs[clip] != song), None)
            if other is None:
                return None
            indices.append(other)
        return indices

    def summary(self) -> str:
        """One line for the log."""
        results = self.values()
        texts = []
        for threshold in PCK_THRESHOLDS:
            name = f"pck_{threshold:g}"
            baseline_keys = {"mean pose": f"{name}_mean_pose", "other song": f"{name}_other_song"}
            baseline_texts = [f"{label} {results[key]:.3f}" for label, key in baseline_keys.items()]
            texts.append(f"PCK@{threshold:g} {results[name]:.3f} ({', '.join(baseline_texts)})")
        texts += [f"R2 {results['r2']:.2f}, of velocities {results['velocity_r2']:.2f}"]
        return f"joints of {len(self.songs)} held-out clips: {', '.join(texts)}"
