"""Additions from outside the package: a family with its own renderer, a metric and a music encoder, by the commands.

The addition is one folder: a Python package, found by PYTHONPATH, and YAML files, found by `hydra.searchpath`. The
repository is not edited.
"""

import json
import os
from pathlib import Path

import pytest

import zoo
from zoo.media import read_frames
from zoo.run.checkpoint import load_family
from zoo.run.trust import trust_modules

pytestmark = pytest.mark.slow
PACKAGE = "swayzoo"

FAMILY = '''
"""A family that maps loudness to body motion, and its renderer, which draws a disc at the pelvis."""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from hydra.utils import get_class
from torch import nn

from zoo.batch import MOTION_DIM, MOTION_FPS
from zoo.families.base import Family, FrameStream, MotionGenerator, Stage
from zoo.families.renderer import Renderer, RenderSession


class Sway(Family, MotionGenerator):
    resolution = 64

    def __init__(self, music_dim: int, scale: float):
        super().__init__()
        self.net = nn.Linear(music_dim, MOTION_DIM)
        self.scale, self.renderer = scale, None

    def motion(self, music, num_frames):
        tokens = F.interpolate(music.transpose(1, 2), num_frames, mode="linear", align_corners=True)
        return self.scale * self.net(tokens.transpose(1, 2))

    def generate_motion(self, music, num_frames, seed, sampling, prompt=""):
        yield self.motion(music.features[None], num_frames)[0]

    @property
    def default_renderer(self):
        return "disc"

    def configure(self, options: Mapping) -> None:
        node = dict(options["renderer"])
        self.renderer = get_class(node["_target_"]).build(self, None, None, node)

    def generate(self, request) -> FrameStream:
        session = self.renderer.begin(request.image, request.fps, request.seed)

        def blocks() -> Iterator:
            for motion in self.generate_motion(request.music, request.num_frames, request.seed, request.sampling):
                yield session.draw(motion)

        return FrameStream(blocks())


class SwayStage(Stage):
    @classmethod
    def required_keys(cls, family, **options):
        return ("music", "motion")

    @classmethod
    def trainable_paths(cls, family, **options):
        return ["net"]

    def loss(self, batch):
        return {"motion": F.mse_loss(self.family.motion(batch["music"], batch["motion"].shape[1]), batch["motion"])}


class DiscRenderer(Renderer):
    def __init__(self, radius: int):
        self.radius = radius

    @classmethod
    def build(cls, family, detector, fallback, options):
        return cls(options["radius"])

    def begin(self, image, fps, seed):
        return DiscSession(self.radius)


class DiscSession(RenderSession):
    def __init__(self, radius: int):
        self.radius = radius

    def draw(self, motion):
        y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
        height = 32 + 10 * motion[:, 6].clamp(-1, 1)
        inside = (x - 32) ** 2 + (y - height[:, None, None]) ** 2 < self.radius**2
        return (255 * inside[:, None].expand(-1, 3, -1, -1)).to(torch.uint8)
'''

MUSIC = '''
import torch

from zoo.music.encoder import MusicEncoder, token_count


class Loudness(MusicEncoder):
    """Mean absolute amplitude, 30 times a second."""

    dim, rate, sample_rate, cache_key = 1, 30.0, 22050, "sway-loudness-1"

    def encode(self, waveform, sample_rate, beats=None):
        count = token_count(waveform.shape[1] / sample_rate, self.rate)
        return torch.nn.functional.adaptive_avg_pool1d(waveform.abs()[:, None], count).transpose(1, 2)
'''

METRIC = '''
import numpy as np

from zoo.metrics.base import ClipMetric, Column


class Brightness(ClipMetric):
    """Mean pixel value of the frames, over a maximum."""

    columns = {"brightness": Column("brightness", None)}

    def __init__(self, maximum: float):
        self.maximum = maximum

    def measure(self, clip):
        return {"brightness": np.float64(clip.frames.mean() / self.maximum)}
'''

FILES = {
    f"{PACKAGE}/__init__.py": "",
    f"{PACKAGE}/family.py": FAMILY,
    f"{PACKAGE}/music.py": MUSIC,
    f"{PACKAGE}/metric.py": METRIC,
    "conf/music/loudness.yaml": f"_target_: {PACKAGE}.music.Loudness\n",
    "conf/metric/brightness.yaml": f"_target_: {PACKAGE}.metric.Brightness\nmaximum: 255.0\n",
    "conf/renderer/disc.yaml": f"name: disc\n_target_: {PACKAGE}.family.DiscRenderer\n"
    "needs_detector: false\nradius: 8\n",
    "conf/model/sway.yaml": "defaults:\n  - sway/base\n  - sway: ${size}\n",
    "conf/model/sway/base.yaml": f"""# @package model
name: sway
requires_init: null
recipe: [motion]
family:
  _target_: {PACKAGE}.family.Sway
  music_dim: ???
stages:
  motion:
    module: {{ _target_: {PACKAGE}.family.SwayStage, _partial_: true }}
    clip: {{ seconds: 2.0, fps: 12, height: 64, width: 64 }}
""",
    "conf/model/sway/debug.yaml": """# @package model
defaults:
  - /optimizer@stages.motion.optimizer: adam
  - _self_
family: { scale: 1.0 }
stages: { motion: { fit: { max_steps: 2, batch_size: 2 } } }
""",
}
WORLD = "data.songs={train:4,val:2,test:2} data.seconds=6 data.dances_per_song=2 data.workers=1".split()
SMALL_EVALUATION = (
    "data.rendering.seconds=1 data.rendering.height=64 data.rendering.width=64 protocol.frames=12 protocol.height=64 "
    "protocol.width=64 protocol.num_clips=2 protocol.repeats=0"
).split()


@pytest.fixture(scope="module")
def addition(scripts, tmp_path_factory):
    """The commands with the addition on their path, and the option that names its YAML files."""
    folder = tmp_path_factory.mktemp("addition")
    for name, text in FILES.items():
        path = folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    scripts = type(scripts)(folder)
    scripts.environment["PYTHONPATH"] = os.pathsep.join(
        [str(folder / "source"), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    return scripts, f"hydra.searchpath=[file://{folder / 'source' / 'conf'}]"


@pytest.fixture(scope="module")
def checkpoint(addition) -> Path:
    """The addition's family, trained for two steps with its music encoder."""
    scripts, search_path = addition
    arguments = ["model=sway", "music=loudness", "size=debug", "name=added", *WORLD, search_path]
    result = scripts("train", *arguments)
    assert result.returncode == 2 and f"trusted_modules=[{PACKAGE}]" in result.stderr, result.stderr
    result = scripts("train", *arguments, f"trusted_modules=[{PACKAGE}]")
    assert result.returncode == 0, result.stderr
    return scripts.folder / "runs" / "sway" / "added" / "motion" / "last.ckpt"


def test_a_family_renderer_and_encoder_from_outside_sample(addition, checkpoint):
    """sample.py draws by the addition's renderer, with its default and with another option."""
    scripts, search_path = addition
    means = []
    for index, options in enumerate(([], ["renderer=disc", "renderer.radius=20"])):
        out = scripts.folder / f"{index}.mp4"
        arguments = [f"ckpt={checkpoint}", "image=null", "seconds=1", "fps=12", f"out={out}", search_path]
        result = scripts("sample", *arguments, *options, f"trusted_modules=[{PACKAGE}]")
        assert result.returncode == 0, result.stderr
        frames = read_frames(out)[0]
        assert frames.shape == (12, 64, 64, 3)
        means.append(frames.mean())
    assert means[1] > 3 * means[0] > 0


def test_a_metric_from_outside_measures(addition, checkpoint):
    """evaluate.py lists the addition's metric among its own, and measures all systems with it, in worker processes."""
    scripts, search_path = addition
    out = scripts.folder / "evaluation"
    result = scripts(
        "evaluate", f"ckpt={checkpoint}", *WORLD, *SMALL_EVALUATION, "metrics=[psnr,brightness]", "workers=2",
        f"out={out}", search_path, f"trusted_modules=[{PACKAGE}]",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    results = json.loads((out / "metrics.json").read_text())
    assert set(results["columns"]) == {"psnr", "brightness"}
    truth, *_, sway = results["rows"]
    assert sway["name"] == str(checkpoint) and 0 < sway["scores"]["brightness"]["mean"] < 0.3
    assert truth["scores"]["brightness"]["n"] == 2


def test_a_checkpoint_cannot_name_untrusted_classes(addition, checkpoint, monkeypatch):
    """Without the user's trust nothing of the package is imported, although it could be."""
    scripts, search_path = addition
    result = scripts("sample", f"ckpt={checkpoint}", f"out={scripts.folder / 'x.mp4'}", search_path)
    assert result.returncode == 2 and f"{PACKAGE}." in result.stderr, result.stderr
    assert "nothing of it was run" in result.stderr and len(result.stderr.strip().splitlines()) == 1
    with pytest.raises(ValueError, match="nothing of it was run"):
        load_family(checkpoint)
    with pytest.raises(ValueError, match="names of Python packages"):
        trust_modules(["os; import x"])
    monkeypatch.setattr("zoo.run.trust._packages", set())
    monkeypatch.syspath_prepend(scripts.folder / "source")
    assert zoo.load(checkpoint, trusted_modules=[PACKAGE]).family == "sway"
