"""CLIPScore: similarity of video and music in the space of CLIP."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.files import file_hash
from zoo.metrics.base import OTHER_SONG, TIME_SUFFIX, ClipMetric, Column, Measurement, MetricInput
from zoo.metrics.wav2clip import DIM, SAMPLE_RATE, Wav2Clip, convert_wav2clip
from zoo.music.compiled_librosa import librosa
from zoo.nn.weights.loading import load_strict, unwrap_state_dict

PATCH = 32  # pixels: Wav2CLIP was trained with the images of CLIP ViT-B/32
BATCH = 16  # frames
WEIGHTS_HINTS = {
    "clip": "weights.clip=FOLDER, CLIP ViT-B/32 as transformers saves it (config.json and model.safetensors)",
    "wav2clip": "weights.wav2clip=FILE, the public Wav2CLIP.pt (descriptinc/lyrebird-wav2clip v0.1.0-alpha)",
}


class ClipScore(ClipMetric):
    """Cosine between the CLIP embeddings of frames and the Wav2CLIP embedding of the music (DabFusion sec. 4.2).

    The mean over frames of cos(CLIP(frame), Wav2CLIP(sound)), in [-1, 1], with one embedding of the whole clip's sound.
    The paper does not say how frames are averaged. Frames are preprocessed as for CLIP: the shorter side to 224 pixels,
    bicubic, centre crop.
    """

    columns = {"clip_score": Column("CLIPScore", "higher", digits=4, must_beat=frozenset({OTHER_SONG}))}

    def __init__(self, clip: str | Path | None = None, wav2clip: str | Path | None = None):
        """clip: a folder; wav2clip: a file. Raises ValueError for other contents."""
        self.missing_files = [
            hint for key, hint in WEIGHTS_HINTS.items() if {"clip": clip, "wav2clip": wav2clip}[key] is None
        ]
        if not self.missing_files:
            self.files = [*_find_clip_files(Path(clip)), Path(wav2clip)]
            self.image_tower, self.preprocess = _load_clip(*self.files[:2])
            self.audio_tower = Wav2Clip().eval()
            load_strict(self.audio_tower, wav2clip, convert_wav2clip)

    @property
    def unavailable_reason(self) -> str | None:
        """The missing files."""
        return f"needs {' and '.join(self.missing_files)}" if self.missing_files else None

    @property
    def weights_hash(self) -> str | None:
        """Hash of both networks' files."""
        return None if self.missing_files else file_hash(*self.files)

    @torch.inference_mode()
    def measure(self, clip: MetricInput) -> Measurement:
        """Return clip_score, in [-1, 1], and clip_score@time, (F,)."""
        waveform = librosa.resample(clip.waveform, orig_sr=clip.sample_rate, target_sr=SAMPLE_RATE)
        music_embedding = self.audio_tower(torch.from_numpy(waveform))
        blocks = np.split(clip.frames, range(BATCH, len(clip.frames), BATCH))
        image_embeddings = torch.cat(
            [self.image_tower(**self.preprocess(list(block), return_tensors="pt")).image_embeds for block in blocks]
        )
        values = F.cosine_similarity(image_embeddings.double(), music_embedding.double()[None]).numpy()
        return {"clip_score": values.mean(), "clip_score" + TIME_SUFFIX: values}


def _find_clip_files(folder: Path) -> tuple[Path, Path]:
    """Find config.json and the weights in a folder of transformers."""
    config_file = folder / "config.json"
    weights_files = [folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()]
    if not config_file.is_file() or not weights_files:
        raise ValueError(
            f"{folder} is no CLIP folder: it lacks config.json, or model.safetensors (or pytorch_model.bin)"
        )
    return config_file, weights_files[0]


def _load_clip(config_file: Path, weights_file: Path) -> tuple[nn.Module, Any]:
    """Load CLIP's image tower, in evaluation mode, and its image processor.

    transformers' own loader is not used: it looks for missing folders on the network, and initialises missing weights
    at random.
    """
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection  # takes seconds

    try:
        clip_config = json.loads(config_file.read_text())
        vision_config = CLIPVisionConfig.from_dict(
            clip_config["vision_config"] | {"projection_dim": clip_config["projection_dim"]}
        )
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{config_file} does not describe a CLIP model") from None
    if (vision_config.patch_size, vision_config.projection_dim) != (PATCH, DIM):
        actual = f"patches of {vision_config.patch_size} and {vision_config.projection_dim} values"
        raise ValueError(
            f"{config_file}: {actual}; Wav2CLIP goes with CLIP ViT-B/32, which has patches of {PATCH} and {DIM}"
        )
    model = CLIPVisionModelWithProjection(vision_config).eval()
    load_strict(model, weights_file, _image_tower_weights)
    size = vision_config.image_size
    return model, CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def _image_tower_weights(content: Any) -> Mapping[str, Tensor]:
    """Select the image tower's weights; older files also contain the indices of the patches."""
    other_prefixes = ("text_model.", "text_projection.", "logit_scale")
    state_dict = unwrap_state_dict(content).items()
    return {
        name: value
        for name, value in state_dict
        if not name.startswith(other_prefixes) and not name.endswith(".position_ids")
    }
