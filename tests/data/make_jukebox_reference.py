"""Write jukebox_reference.npz: what jukemirlib answers to weights and sounds that follow from their names.

python tests/data/make_jukebox_reference.py DIR, DIR with checkouts of jukemirlib and jukebox of
github.com/rodrigo-castellon. The VQ-VAE is the published one's size, the prior 64 wide and four layers deep.
"""

import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [f"{sys.argv[1]}/jukebox", f"{sys.argv[1]}/jukemirlib", str(HERE.parent)]
for name in (
    "wget",
    "fire",
    "mpi4py",
    "apex",
    "apex.optimizers",
    "unidecode",
    "tensorboardX",
    "accelerate",
    "soundfile",
):
    sys.modules.setdefault(name, MagicMock())  # downloads, training and texts
sys.modules["unidecode"].unidecode = str
sys.modules["apex.normalization"] = None

from jukebox.hparams import setup_hparams  # noqa: E402
from jukebox.make_models import make_prior, make_vqvae  # noqa: E402
from weights import jukebox_state, scale_of_tones  # noqa: E402

WIDTH, DEPTH, RATE = 64, 4, 44100
PARTS = ((0, 5), (3, 6))  # seconds of the sound


@torch.no_grad()
def fill(module: torch.nn.Module) -> list[str]:
    """Give a public network its weights; their names and shapes."""
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    module.load_state_dict(jukebox_state(shapes))
    return [f"{name} {shape}" for name, shape in shapes.items()]


vqvae = make_vqvae(setup_hparams("vqvae", {"sample_length": 1048576}), "cpu")
tiny = {"prior_width": WIDTH, "prior_depth": DEPTH}
prior = make_prior(setup_hparams("prior_5b", tiny), vqvae, "cpu")
prior.prior.only_encode = True
found = {"keys_vqvae": np.array(fill(vqvae)), "keys_prior": np.array(fill(prior)), "parts": np.array(PARTS)}

import jukemirlib  # noqa: E402
from jukemirlib import lib  # noqa: E402

jukemirlib.DEVICE, lib.VQVAE, lib.TOP_PRIOR = "cpu", vqvae, prior
sound = scale_of_tones(8, RATE).numpy()
for index, (first, last) in enumerate(PARTS):
    part = sound[first * RATE : last * RATE]
    part = part / np.abs(part).max()  # as jukemirlib reads a file
    found[f"tokens_{index}"] = lib.get_z(vqvae, part)[0].numpy().astype(np.int16)
    heard = lib.extract(audio=part, layers=[DEPTH], downsample_target_rate=30)
    found[f"heard_{index}"] = heard[DEPTH]
    print(heard[DEPTH].shape, np.abs(heard[DEPTH]).mean(), len(np.unique(found[f"tokens_{index}"])))
np.savez_compressed(HERE / "jukebox_reference.npz", **found)
