"""Write clap_reference.npz: what laion-clap answers to weights and sounds that follow from their names.

python tests/data/make_clap_reference.py
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}  # laion_clap asks for tokenizers when imported

import laion_clap  # noqa: E402, F401
from clap_module.htsat import create_htsat_model  # noqa: E402
from clap_module.model import CLAP  # noqa: E402
from laion_clap.hook import float32_to_int16, get_audio_features, int16_to_float32  # noqa: E402
from weights import clap_audio, scale_of_tones  # noqa: E402

RATE = 48000
PARTS = ((0, 10), (3, 13), (7, 17), (0, 4))  # seconds of the sound; the last one is shorter than CLAP listens

audio = clap_audio(create_htsat_model, "tiny")
audio.encode_audio = lambda sound, device: audio.audio_branch(sound, mixup_lambda=None, device=device)
sound, answers = scale_of_tones(17, RATE).numpy(), []
for first, last in PARTS:
    part = int16_to_float32(float32_to_int16(sound[first * RATE : last * RATE]))
    features = get_audio_features({}, torch.from_numpy(part).float(), 10 * RATE, "rand_trunc", "repeatpad", {})
    with torch.inference_mode():
        answers.append(CLAP.get_audio_embedding(audio, [features])[0].numpy())
np.savez_compressed(HERE / "clap_reference.npz", parts=np.array(PARTS), embeddings=np.stack(answers))
