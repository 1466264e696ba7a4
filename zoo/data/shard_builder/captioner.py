"""Captions of a clip's dance by a vision-language model, instructed to ignore appearance (MuseDance fig. 3)."""

import base64
import json
import os
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

FRAME_STEP = 10  # frames; MuseDance sec. 4.1
MAX_IMAGE_SIDE = 384  # pixels of the longer side of the model's images
MAX_NEW_TOKENS = 80
INSTRUCTION = (
    "These frames are in order, from one short video of a dancer. Say in one sentence, in plain words, how the body "
    "moves: arms, legs, turns, jumps, steps, their order and their energy. Do not mention who dances, looks, clothes, "
    "hair, the background, the camera or the music. Begin with 'the dancer'."
)
TIMEOUT_SECONDS = 120


class CaptionError(ValueError):
    """The model gave no caption; another run may have more success."""


class Captioner(ABC):
    """Writes one line of text for a clip."""

    name: str  # of the model, with its address

    @abstractmethod
    def caption(self, frames: np.ndarray) -> str:
        """(F, H, W, 3) uint8 -> one line. Raises CaptionError, one line, when the model gives no answer."""


def subsample_frames(frames: np.ndarray) -> list[np.ndarray]:
    """Every tenth frame, shrunk to at most MAX_IMAGE_SIDE pixels a side."""
    scale = min(1.0, MAX_IMAGE_SIDE / max(frames.shape[1:3]))
    size = round(frames.shape[2] * scale), round(frames.shape[1] * scale)
    return [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames[::FRAME_STEP]]


class ApiCaptioner(Captioner):
    """A model behind an OpenAI-compatible address (its /chat/completions), local or remote."""

    def __init__(self, url: str, model: str, key: str = "OPENAI_API_KEY"):
        """url: for example http://localhost:8000/v1; key: the environment variable that holds the key."""
        self.url, self.model, self.key = url.rstrip("/"), model, key
        self.name = f"{model} at {self.url}"

    def caption(self, frames: np.ndarray) -> str:
        """See Captioner."""
        content: list[dict] = [{"type": "text", "text": INSTRUCTION}]
        for frame in subsample_frames(frames):
            jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes()
            data_url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
            content.append({"type": "image_url", "image_url": {"url": data_url}})
        payload = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": content}]}
        headers = {"Content-Type": "application/json"}
        if os.environ.get(self.key):
            headers["Authorization"] = f"Bearer {os.environ[self.key]}"
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(payload).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                text = json.load(response)["choices"][0]["message"]["content"]
        except (urllib.error.URLError, TimeoutError, KeyError, IndexError, TypeError, ValueError) as error:
            raise CaptionError(f"no caption from {self.url}: {str(error) or type(error).__name__}") from None
        return _one_line(text, self.url)


class LocalCaptioner(Captioner):
    """A transformers model of the kind image-text-to-text, in a folder on this machine."""

    def __init__(self, folder: str):
        """Raises ValueError when there is no such folder."""
        if not (Path(folder) / "config.json").is_file():
            raise ValueError(f"caption.folder={folder} holds no config.json of a vision-language model")
        self.folder = self.name = folder

    @cached_property
    def pipeline(self) -> Callable[..., Any]:
        """The transformers pipeline, loaded with the first caption."""
        from transformers import pipeline

        return pipeline("image-text-to-text", model=self.folder)

    def caption(self, frames: np.ndarray) -> str:
        """See Captioner."""
        from PIL import Image

        content = [{"type": "image", "image": Image.fromarray(frame)} for frame in subsample_frames(frames)]
        content.append({"type": "text", "text": INSTRUCTION})
        messages = [{"role": "user", "content": content}]
        outputs = self.pipeline(text=messages, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, return_full_text=False)
        return _one_line(outputs[0]["generated_text"], self.folder)


def _one_line(text: str, source: str) -> str:
    line = " ".join(str(text).split())
    if not line:
        raise CaptionError(f"no caption from {source}: its answer is empty")
    return line
