"""Write resnet3d_reference.npz: what DisCo's public FID-VID answers to weights and frames that follow from names.

python tests/data/make_resnet3d_reference.py DIR, DIR a checkout of github.com/Wangt-CN/DisCo. Every eighth value is
kept.
"""

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [sys.argv[1], str(HERE.parent)]

from tool.metrics.resize import make_resizer  # noqa: E402
from tool.metrics.resnet3d import resnet50  # noqa: E402
from weights import numbers, state_by_name  # noqa: E402

MEAN = [114.7748, 107.7354, 99.4750]  # as its DatasetFVDVideoResize takes off

network = resnet50(num_classes=400, shortcut_type="B", sample_size=112, sample_duration=16, last_fc=False).eval()
# the published file is older than this counter of torch's
shapes = {name: tuple(each.shape) for name, each in network.state_dict().items() if "num_batches" not in name}
network.load_state_dict(state_by_name(shapes), strict=False)
frames = (numbers("frames", 32, 96, 120, 3) * 60 + 128).clamp(0, 255).byte().numpy()
resize = make_resizer("PIL", False, "bicubic", (112, 112))
video = torch.tensor(np.stack([resize(frame) for frame in frames])) - torch.tensor(MEAN)
with torch.no_grad():
    features = network(video.view(2, 16, 112, 112, 3).permute(0, 4, 1, 2, 3).float())
print(features.shape, features.mean(), features.std(), (features[0] - features[1]).abs().mean())
np.savez_compressed(
    HERE / "resnet3d_reference.npz",
    keys=np.array([f"{name} {shape}" for name, shape in shapes.items()]),
    features=features[:, ::8].numpy(),
)
