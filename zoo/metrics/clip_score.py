"""CLIPScore: does the video look as the music sounds?"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.files import file_hash
from zoo.metrics.base import OTHER_SONG, OVER_TIME, ClipMetric, Column, Evidence, Measurement
from zoo.metrics.wav2clip import DIM, SAMPLE_RATE, Wav2Clip, wav2clip_names
from zoo.nn.weights.loading import load_strict, unwrap_state_dict

PATCH = 32  # pixels: Wav2CLIP was trained to meet the pictures of CLIP ViT-B/32, and of no other
BATCH = 16  # frames
HOW_TO_GET = {
    "clip": "weights.clip=FOLDER, CLIP ViT-B/32 as transformers saves it (config.json and model.safetensors)",
    "wav2clip": "weights.wav2clip=FILE, the public Wav2CLIP.pt (descriptinc/lyrebird-wav2clip v0.1.0-alpha)",
}


class ClipScore(ClipMetric):
    """Cosine between the CLIP embeddings of frames and the Wav2CLIP embedding of the music (DabFusion sec. 4.2).

    The mean over frames of cos(CLIP(frame), Wav2CLIP(sound)), in [-1, 1]; the sound is the whole clip's, as one. The
    paper does not say how frames become one number. Frames go into CLIP as its own pictures do: the shorter side to
    224 pixels, bicubic, the middle square.
    """

    columns = {"clip_score": Column("CLIPScore", "higher", digits=4, sees=frozenset({OTHER_SONG}))}

    def __init__(self, clip: str | Path | None = None, wav2clip: str | Path | None = None):
        """clip: a folder; wav2clip: a file. Raises ValueError where they hold something else."""
        self.missing = [how for key, how in HOW_TO_GET.items() if {"clip": clip, "wav2clip": wav2clip}[key] is None]
        if not self.missing:
            self.files = [*_clip_files(Path(clip)), Path(wav2clip)]
            self.pictures, self.prepare = _clip(*self.files[:2])
            self.sound = Wav2Clip().eval()
            load_strict(self.sound, wav2clip, wav2clip_names)

    @property
    def unavailable(self) -> str | None:
        """Which files it needs."""
        return f"needs {' and '.join(self.missing)}" if self.missing else None

    @property
    def weights(self) -> str | None:
        """Of both networks' files."""
        return None if self.missing else file_hash(*self.files)

    @torch.inference_mode()
    def measure(self, clip: Evidence) -> Measurement:
        """clip_score: in [-1, 1]; clip_score@time: (F,)."""
        heard = librosa.resample(clip.waveform, orig_sr=clip.sample_rate, target_sr=SAMPLE_RATE)
        music = self.sound(torch.from_numpy(heard))
        blocks = np.split(clip.frames, range(BATCH, len(clip.frames), BATCH))
        seen = torch.cat(
            [self.pictures(**self.prepare(list(block), return_tensors="pt")).image_embeds for block in blocks]
        )
        values = F.cosine_similarity(seen.double(), music.double()[None]).numpy()
        return {"clip_score": values.mean(), "clip_score" + OVER_TIME: values}


def _clip_files(folder: Path) -> tuple[Path, Path]:
    """config.json and the weights in a folder as transformers writes it."""
    config = folder / "config.json"
    weights = [folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()]
    if not config.is_file() or not weights:
        raise ValueError(
            f"{folder} is no CLIP folder: config.json and model.safetensors (or pytorch_model.bin) belong there"
        )
    return config, weights[0]


def _clip(config: Path, weights: Path) -> tuple[nn.Module, Any]:
    """CLIP's picture tower in evaluation mode, and what makes its input of frames.

    It is filled here and not by transformers' own loader, which asks the network for a folder that is not there, and
    fills what is missing with random numbers.
    """
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection  # takes seconds

    try:
        settings = json.loads(config.read_text())
        vision = CLIPVisionConfig.from_dict(settings["vision_config"] | {"projection_dim": settings["projection_dim"]})
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{config} does not describe a CLIP model") from None
    if (vision.patch_size, vision.projection_dim) != (PATCH, DIM):
        found = f"patches of {vision.patch_size} and {vision.projection_dim} values"
        raise ValueError(f"{config}: {found}; Wav2CLIP goes with CLIP ViT-B/32, which has patches of {PATCH} and {DIM}")
    model = CLIPVisionModelWithProjection(vision).eval()
    load_strict(model, weights, _vision_names)
    side = vision.image_size
    return model, CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def _vision_names(found: Any) -> Mapping[str, Tensor]:
    """The picture's part of CLIP; older files also hold the numbers 0, 1, 2... of its patches."""
    others = ("text_model.", "text_projection.", "logit_scale")
    state = unwrap_state_dict(found).items()
    return {name: value for name, value in state if not name.startswith(others) and not name.endswith(".position_ids")}
