"""Write beat_this_reference.npz: what beat-this answers to weights and sounds that follow from their names.

python tests/data/make_beat_this_reference.py, with PyPI's beat-this, rotary-embedding-torch and torchaudio. The network
is of the size of the published small0.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from beat_this.inference import Audio2Frames, split_predict_aggregate  # noqa: E402
from beat_this.model.beat_tracker import BeatThis  # noqa: E402
from beat_this.model.postprocessor import Postprocessor  # noqa: E402
from weights import beat_this_state, scale_of_tones  # noqa: E402

SECONDS, OTHER_RATE, OTHER_SECONDS = 11, 44100, 4
CHUNK, MEL_FRAMES = 200, (0, 1, 2, 301, 549, 550)


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


network = BeatThis(transformer_dim=128)
state = beat_this_state(shapes_of(network))
with TemporaryDirectory() as folder:
    torch.save(
        {
            "state_dict": {f"model.{name}": value for name, value in state.items()},
            "hyper_parameters": {"transformer_dim": 128},
        },
        path := f"{folder}/small.ckpt",
    )
    public = Audio2Frames(path)
sound = scale_of_tones(SECONDS, 22050).numpy()
mel = public.signal2spect(sound, 22050)
with torch.inference_mode():
    chunked = split_predict_aggregate(mel, CHUNK, 6, "keep_first", public.model)
    whole = public(sound, 22050)
    resampled = public(scale_of_tones(OTHER_SECONDS, OTHER_RATE).numpy().astype(np.float64), OTHER_RATE)
beats, downbeats = Postprocessor()(*whole)
for name, (beat, downbeat) in {"whole": whole, "other rate": resampled}.items():
    print(name, len(beat), *(f"{x.mean():.2f}+-{x.std():.2f} {(x > 0).float().mean():.2f}" for x in (beat, downbeat)))
print(len(beats), "beats", len(downbeats), "downbeats")
np.savez_compressed(
    HERE / "beat_this_reference.npz",
    small0=np.array([f"{name} {shape}" for name, shape in shapes_of(network).items()]),
    final0=np.array([f"{name} {shape}" for name, shape in shapes_of(BeatThis()).items()]),
    mel_frames=np.array(MEL_FRAMES),
    mel=mel[list(MEL_FRAMES)].numpy(),
    whole=torch.stack(whole).numpy(),
    chunked=torch.stack([chunked["beat"], chunked["downbeat"]]).numpy(),
    resampled=torch.stack(resampled).numpy(),
    beats=beats,
    downbeats=downbeats,
)
