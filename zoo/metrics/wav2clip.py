"""Wav2CLIP's audio encoder (Wu et al. 2022): waveform -> embedding in CLIP's space."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from zoo.nn.weights.loading import unwrap_state_dict

SAMPLE_RATE = 16_000  # Hz
WINDOW, HOP = 512, 353  # samples
DIM = 512


class Wav2Clip(nn.Module):
    """The public encoder: ResNet-18 over a log spectrogram, then two linear layers. 11.7 M parameters.

    Parameter names are those of the public file (Wav2CLIP.pt, release v0.1.0-alpha of descriptinc/lyrebird-wav2clip).
    """

    def __init__(self):
        super().__init__()
        self.audio_encoder = _AudioEncoder()
        layers = nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU(), nn.Dropout(0.1), nn.Linear(DIM, DIM))
        self.audio_transform = nn.ModuleDict({"sequential": layers})

    def forward(self, waveform: Tensor) -> Tensor:
        """Encode one waveform (S,) at 16 kHz, S > 256, in [-1, 1] to (512,), not normalised."""
        return self.audio_transform["sequential"](self.audio_encoder(waveform[None]))[0]


class _AudioEncoder(ResNet):
    """torchvision's ResNet-18 with one input channel and no classifier."""

    def __init__(self):
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.fc = nn.Identity()
        self.spectrogram = _Spectrogram()

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, S) -> (B, 512)."""
        x = torch.log(self.spectrogram(waveform) + 1e-7)
        x = (x - x.mean()) / (x.std() + 1e-9)
        return super().forward(x[:, None])


class _Spectrogram(nn.Module):
    """Power spectrogram with a Hann window and reflected ends; the public file contains the window."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW))

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, S) -> (B, 257, 1 + S // HOP)."""
        return torch.stft(waveform, WINDOW, HOP, window=self.window, return_complex=True).abs().square()


def convert_wav2clip(content: Any) -> Mapping[str, Tensor]:
    """Select the audio encoder's weights of the public file; image layers served training only."""
    return {
        name: value for name, value in unwrap_state_dict(content).items() if not name.startswith("image_transform.")
    }
