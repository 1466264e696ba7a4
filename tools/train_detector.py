"""Train the synthetic pose detector from scratch, and measure it on held-out songs and dancers.

    python tools/train_detector.py

1. Renders a corpus of its own seed (minutes; cached in $DANCEZOO_CACHE).
2. Trains the networks on it (half an hour on one core).
3. Writes zoo/body/detection/assets/synthetic_detector.safetensors.
4. Measures that file on the test clips of the protocols' corpus, and writes the card beside it.

Some training frames are blurred or noisy, as generated ones are, so that joints are detected in these, too. The
features of `fvd_world` are trained on clean frames only, and never to distinguish clean from distorted ones.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.body.detection.synthetic_detector import (
    FEATURE_DIM,
    HEATMAP_SIDE,
    HEATMAP_SIGMA,
    INPUT_SIDE,
    WEIGHTS,
    WINDOW_FRAMES,
    FeatureHead,
    PoseBackbone,
    SyntheticDetectorNetwork,
    SyntheticPoseDetector,
    soft_argmax,
)
from zoo.body.skeleton import JOINTS
from zoo.data.base import EvalSpec, WindowSpec
from zoo.data.world.recipe import RenderSpec
from zoo.data.world.song import STYLES
from zoo.data.world.source import World
from zoo.metrics.rhythm import beat_alignment, detected_beats, matchable_beats
from zoo.music.spectral import Spectral
from zoo.run.evaluate.provenance import provenance

FPS, CLIP_SECONDS = 12, 4.0
REQUIRED_KEYS = ("frames", "parts", "joints2d", "style")
OPPOSITE_SIDE = {"left": "right", "right": "left"}
MIRRORED_JOINTS = [JOINTS.index("_".join(OPPOSITE_SIDE.get(word, word) for word in name.split("_"))) for name in JOINTS]
EMPTY_PROB, DISTORTION_PROB = 0.04, 0.25  # of windows without a figure, and of blurred or noisy ones
MAX_JOINT_ERROR = 64  # pixels that an error counts at most
EMA_DECAY = 0.998
NUM_STATISTICS_BATCHES = 40  # by which the features are normalised

JOINT_GROUPS = {
    "trunk and head": (0, 3, 6, 9, 12, 13, 14, 15),
    "hips and knees": (1, 2, 4, 5),
    "feet": (7, 8, 10, 11),
    "shoulders and elbows": (16, 17, 18, 19),
    "hands": (20, 21, 22, 23),
}

CARD = """# The synthetic pose detector, v1

`synthetic_detector.safetensors` holds the networks of `zoo/body/detection/synthetic_detector.py`: matrices in half
precision, all other tensors in single precision. They were trained on the built-in synthetic data only, and are under
DanceZoo's licence. Accuracies are those of this file on the test clips of the protocols' corpus, whose songs and
dancers were not in the training data.

| | |
|---|---|
"""


class TrainingClips:
    """Rendered clips in memory, from which batches of augmented windows are drawn."""

    def __init__(self, world: World, split: str, seed: int):
        encoder = Spectral()
        world.prepare_data(REQUIRED_KEYS, encoder, [split])
        window = WindowSpec(CLIP_SECONDS, FPS, INPUT_SIDE, INPUT_SIDE)
        clips = world.dataset(split, REQUIRED_KEYS, window, encoder)
        self.rng = np.random.default_rng(seed)
        self.frames, self.masks, self.joints, self.styles, self.backgrounds = [], [], [], [], []
        for clip in track((clips[index] for index in range(len(clips))), f"reading {split}", total=len(clips)):
            self.frames.append(clip["frames"].add(1).mul(127.5).round().byte())
            self.masks.append(clip["parts"] > 0)
            self.joints.append(clip["joints2d"])
            self.styles.append(list(STYLES).index(clip["style"]))
            self.backgrounds.append(_estimate_background(self.frames[-1], self.masks[-1]))

    def batch(self, batch_size: int, clean: bool = False) -> dict[str, Tensor]:
        """Windows: frames (B, 16, 3, 128, 128) in about [-1, 1], mask 0/1, joints in pixels, style index.

        has_figure (B,): whether the window shows a figure. `clean` windows always do, and are not distorted.
        """
        windows = [self._draw_window(clean) for _ in range(batch_size)]
        return {name: torch.stack([window[name] for window in windows]) for name in windows[0]}

    def _draw_window(self, clean: bool) -> dict[str, Tensor]:
        rng = self.rng
        clip = rng.integers(len(self.frames))
        start = rng.integers(len(self.frames[clip]) - WINDOW_FRAMES + 1)
        window = slice(start, start + WINDOW_FRAMES)
        mask, joints = self.masks[clip][window].float(), self.joints[clip][window]
        has_figure, is_clean = clean or rng.random() >= EMPTY_PROB, clean or rng.random() >= DISTORTION_PROB
        if has_figure:
            frames = self.frames[clip][window].float() / 127.5 - 1
        else:
            frames = self.backgrounds[clip].expand(WINDOW_FRAMES, -1, -1, -1) / 127.5 - 1
            mask = torch.zeros_like(mask)
        if rng.random() < 0.5:
            frames, mask = frames.flip(-1), mask.flip(-1)
            joints = joints[:, MIRRORED_JOINTS] * torch.tensor([-1, 1]) + torch.tensor([INPUT_SIDE, 0])
        if rng.random() < 0.5:
            frames, mask, joints = self._transform(frames, mask, joints)
        brightness = torch.from_numpy(rng.uniform(0.85, 1.15, (3, 1, 1))).float()
        frames = frames * brightness + float(rng.uniform(-0.1, 0.1))
        if not is_clean:
            frames = self._distort(frames)
        labels = {"style": torch.tensor(self.styles[clip]), "has_figure": torch.tensor(has_figure)}
        return {"frames": frames, "mask": mask, "joints": joints, **labels}

    def _transform(self, frames: Tensor, mask: Tensor, joints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, rotate and shift all frames of a window alike."""
        zoom, turn = self.rng.uniform(0.8, 1.2), self.rng.uniform(-0.1, 0.1)
        linear = torch.tensor([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]).float() * zoom
        shift = torch.from_numpy(self.rng.uniform(-0.15, 0.15, 2)).float()
        size = (1, 1, INPUT_SIDE, INPUT_SIDE)
        grid = F.affine_grid(torch.cat([linear, shift[:, None]], 1)[None], size, align_corners=False)
        channels = torch.cat([frames, mask[:, None]], 1).flatten(0, 1)[None]
        channels = F.grid_sample(channels, grid, padding_mode="border", align_corners=False)[0]
        channels = channels.unflatten(0, (WINDOW_FRAMES, 4))
        # the grid maps to the source, so that joints get the inverse map
        joints = joints / (INPUT_SIDE / 2) - 1 - shift
        joints = (torch.linalg.solve(linear, joints.mT).mT + 1) * (INPUT_SIDE / 2)
        return channels[:, :3], channels[:, 3], joints

    def _distort(self, frames: Tensor) -> Tensor:
        """Blurred or noisy frames."""
        if self.rng.random() < 0.6:
            small = F.interpolate(frames, int(self.rng.integers(40, 100)), mode="bilinear", antialias=True)
            return F.interpolate(small, INPUT_SIDE, mode="bicubic")
        noise = self.rng.standard_normal(frames.shape, np.float32) * self.rng.uniform(0.01, 0.12)
        return frames + torch.from_numpy(noise.astype(np.float32))


def _estimate_background(frames: Tensor, masks: Tensor) -> Tensor:
    """The background without the figure (3, H, W), of 0..255: its mean over the frames that show it, else inpainted."""
    is_visible = (~masks).float()[:, None]
    mean = ((frames * is_visible).sum(0) / is_visible.sum(0).clamp(min=1)).permute(1, 2, 0).byte().numpy()
    hidden = cv2.dilate((is_visible.sum(0)[0] < 2).byte().numpy(), np.ones((5, 5), np.uint8))
    return torch.from_numpy(cv2.inpaint(mean, hidden, 3, cv2.INPAINT_TELEA)).permute(2, 0, 1)


def feature_targets(batch: dict[str, Tensor]) -> Tensor:
    """Regression targets of the features, besides the style: (B, 156) of pose, motion and color.

    Mean pose relative to the pelvis, its deviation over time, logarithms of speed and acceleration, and mean and
    deviation of the colors of the figure and of the background.
    """
    joints, frames, mask = batch["joints"], batch["frames"][:, ::4], batch["mask"][:, ::4, None]  # colors hardly vary
    pose = joints - joints[:, :, :1].mean(1, keepdim=True)
    velocity = joints.diff(dim=1)
    rates = [(rate.norm(dim=-1).mean(1) + 0.1).log() for rate in (velocity, velocity.diff(dim=1))]
    values = [pose.mean(1).flatten(1), pose.std(1).flatten(1), *rates]
    for region in (mask, 1 - mask):
        weights = region / region.sum((1, 3, 4), keepdim=True).clamp(min=1)
        mean = (frames * weights).sum((1, 3, 4), keepdim=True)
        values += [mean.flatten(1), ((frames - mean).square() * weights).sum((1, 3, 4)).sqrt()]
    return torch.cat(values, 1)


def pose_losses(heatmaps: Tensor, mask_logits: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Named losses of the backbone's logits."""
    joints, mask, has_figure = batch["joints"], batch["mask"], batch["has_figure"]
    is_inside = ((joints >= 0) & (joints < INPUT_SIDE)).all(-1) & has_figure[:, None, None]  # (B, 16, 24)
    cells = (torch.arange(HEATMAP_SIDE) + 0.5) * (INPUT_SIDE / HEATMAP_SIDE)
    width = 2 * (HEATMAP_SIGMA * INPUT_SIDE / HEATMAP_SIDE) ** 2
    x, y = (-((cells - joints[..., i, None]) ** 2) / width for i in (0, 1))
    target = torch.einsum("...y,...x->...yx", y.exp(), x.exp()).flatten(-2)
    target = target / target.sum(-1, keepdim=True).clamp(min=1e-6)
    cross_entropy = -(target * heatmaps.float().flatten(-2).log_softmax(-1)).sum(-1)
    error = (soft_argmax(heatmaps)[0] - joints).clamp(-MAX_JOINT_ERROR, MAX_JOINT_ERROR)
    velocity_error = error.diff(dim=1)
    prob = mask_logits.float().sigmoid()
    dice = 1 - 2 * (prob * mask).sum((1, 2, 3)) / (prob + mask).sum((1, 2, 3)).clamp(min=1)
    mask_loss = F.binary_cross_entropy_with_logits(mask_logits.float(), mask)
    return {
        "heatmaps": 0.3 * _masked_mean(cross_entropy, is_inside),
        "joints": 0.3 * _masked_mean(error.abs().mean(-1), is_inside),
        "velocity": 0.3 * _masked_mean(velocity_error.abs().mean(-1), is_inside[:, 1:] & is_inside[:, :-1]),
        "mask": 5.0 * mask_loss + 0.5 * _masked_mean(dice, has_figure),
    }


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def optimize(parameters: list, lr: float, max_steps: int, loss: Callable[[], dict[str, Tensor]]) -> Iterator[None]:
    """Yields after each step of AdamW; prints running means of the losses."""
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, max_steps, pct_start=0.05)
    start_time, running_means = time.time(), {}
    for step in range(1, max_steps + 1):
        losses = loss()
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        schedule.step()
        for name, value in losses.items():
            running_means[name] = 0.98 * running_means.get(name, value.item()) + 0.02 * value.item()
        if step % 100 == 0:
            remaining = (time.time() - start_time) / step * (max_steps - step)
            summary = (f"{name} {value:.3f}" for name, value in running_means.items())
            print(f"{step}/{max_steps}, {remaining:.0f} s left:", *summary, flush=True)
        yield


def train_backbone(clips: TrainingClips, max_steps: int, batch_size: int = 4) -> PoseBackbone:
    """The exponential moving average of the backbone's weights."""
    backbone = PoseBackbone().to(memory_format=torch.channels_last)
    average = AveragedModel(backbone, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY), use_buffers=True)

    def loss() -> dict[str, Tensor]:
        batch = clips.batch(batch_size)
        with torch.autocast("cpu", torch.bfloat16):
            heatmaps, mask = backbone(backbone.encode(batch["frames"]), batch_size)
        return pose_losses(heatmaps, mask, batch)

    for _ in optimize([*backbone.parameters()], 3e-3, max_steps, loss):
        average.update_parameters(backbone)
    return average.module.eval()


def train_feature_head(
    clips: TrainingClips, backbone: PoseBackbone, max_steps: int, batch_size: int = 16
) -> FeatureHead:
    """Train the features on clean windows, to predict `feature_targets` and the style. The backbone is fixed."""
    head = FeatureHead()
    targets = feature_targets(clips.batch(256, clean=True))
    mean, deviation = targets.mean(0), targets.std(0)
    num_targets = len(mean)
    hidden = nn.Linear(FEATURE_DIM, 128)
    predictor = nn.Sequential(hidden, nn.GELU(), nn.Linear(128, num_targets + len(STYLES)))

    def encode() -> tuple[dict[str, Tensor], Tensor]:
        batch = clips.batch(batch_size, clean=True)
        with torch.no_grad():
            feature_maps = backbone.encode(batch["frames"].to(torch.bfloat16))
        return batch, head(feature_maps, batch_size)[:, 0]

    def loss() -> dict[str, Tensor]:
        batch, features = encode()
        predictions = predictor(features)
        target = (feature_targets(batch) - mean) / deviation
        return {
            "targets": F.smooth_l1_loss(predictions[:, :num_targets], target),
            "style": 0.05 * F.cross_entropy(predictions[:, num_targets:], batch["style"]),
        }

    for _ in optimize([*head.parameters(), *predictor.parameters()], 2e-3, max_steps, loss):
        pass
    head.eval()
    with torch.no_grad():
        features = torch.cat([encode()[1] for _ in range(NUM_STATISTICS_BATCHES)])
        features = head.norm.running_var.sqrt() * features + head.norm.running_mean
    head.norm.running_mean, head.norm.running_var = features.mean(0), features.var(0)
    return head


def round_weights(module: nn.Module) -> nn.Module:
    """Round the matrices of a module to half precision, as the file stores them."""
    module.load_state_dict({name: v.half() if v.ndim > 1 else v for name, v in module.state_dict().items()})
    return module


def save(network: SyntheticDetectorNetwork) -> None:
    """Write the file: matrices in half precision, all other tensors as they are."""
    state_dict = {name: value.half() if value.ndim > 1 else value for name, value in network.state_dict().items()}
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in state_dict.items()}, WEIGHTS)


def measure() -> dict[str, str]:
    """Accuracy of the shipped file on the test clips of the protocols' corpus."""
    world, encoder = World(seed=1), Spectral()
    world.prepare_data(("frames", "parts"), encoder, ["test"])
    window = WindowSpec(CLIP_SECONDS, FPS, INPUT_SIDE, INPUT_SIDE)
    windows = world.dataset("test", ("frames", "parts"), window, encoder)
    windows = (windows[index] for index in range(len(windows)))  # keys are KEY@START, with START 0
    masks = {window["key"].rpartition("@")[0]: window["parts"].numpy() > 0 for window in windows}
    errors, overlaps, alignments, beat_counts = [], [], [], np.zeros(4)
    spec = EvalSpec(round(CLIP_SECONDS * FPS), FPS, INPUT_SIDE, INPUT_SIDE)
    for clip in world.eval_clips("test", spec, encoder):
        poses, mask = SyntheticPoseDetector().detect(clip.frames), masks[clip.key]
        height = np.median(np.ptp(clip.joints2d[..., 1], axis=1))
        errors.append(np.linalg.norm(poses.joints - clip.joints2d, axis=-1) / height)
        overlaps.append(((poses.mask > 0.5) & mask).sum() / ((poses.mask > 0.5) | mask).sum())
        beats, true_beats = (detected_beats(motion, FPS) for motion in (poses, replace(poses, joints=clip.joints2d)))
        alignments.append(
            [beat_alignment(matchable_beats(times, clip.beats), clip.beats) for times in (beats, true_beats)]
        )
        is_match = np.abs(beats[:, None] - true_beats) <= 1 / FPS
        beat_counts += is_match.any(1).sum(), len(beats), is_match.any(0).sum(), len(true_beats)
    errors, alignments = np.stack(errors), np.array(alignments)  # (clips, F, 24), (clips, 2)
    correct, num_beats, detected, num_true = beat_counts
    return {
        "joints, mean distance in figure heights": f"{np.nanmean(errors):.2%} (median {np.nanmedian(errors):.2%})",
        **{f"- {name}": f"{np.nanmean(errors[..., list(group)]):.2%}" for name, group in JOINT_GROUPS.items()},
        "frames without a detection": f"{np.isnan(errors[..., 0]).sum()} of {errors[..., 0].size}",
        "mask, intersection over union": f"{np.mean(overlaps):.3f} (worst clip {np.min(overlaps):.3f})",
        "detected kinematic beats within a frame of a true one": f"{correct / num_beats:.0%} of {num_beats:.0f}",
        "true kinematic beats within a frame of a detected one": f"{detected / num_true:.0%} of {num_true:.0f}",
        "2D beat alignment by detected joints, by exact joints": "{:.3f}, {:.3f}".format(*alignments.mean(0)),
        "- correlation of the two over clips": f"{np.corrcoef(alignments.T)[0, 1]:.2f}",
    }


def main() -> None:
    """Train, save and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help="of the backbone; the feature head gets a fifth")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    songs, dancers = {"train": 192, "val": 8, "test": 8}, {"train": 384, "val": 8, "test": 8}
    rendering = RenderSpec(FPS, INPUT_SIDE, INPUT_SIDE, CLIP_SECONDS, songs=songs)
    world = World(seed=2, songs=songs, dancers=dancers, rendering=rendering)
    clips, start_time = TrainingClips(world, "train", options.seed), time.time()
    network = SyntheticDetectorNetwork()
    network.backbone = round_weights(train_backbone(clips, options.steps))
    inference_backbone = deepcopy(network.backbone).prepare_inference()
    network.feature_head = train_feature_head(clips, inference_backbone, options.steps // 5)
    save(network)
    minutes = (time.time() - start_time) / 60
    rows = {
        "command": f"python tools/train_detector.py --steps {options.steps} --seed {options.seed}",
        **provenance(options.seed),
        "data": f"world of seed 2, {songs['train']} songs, {dancers['train']} dancers, {len(clips.frames)} clips",
        "training": f"{minutes:.0f} minutes on {torch.get_num_threads()} thread(s)",
        **measure(),
    }
    WEIGHTS.with_suffix(".md").write_text(CARD + "".join(f"| {name} | {value} |\n" for name, value in rows.items()))


if __name__ == "__main__":
    main()
