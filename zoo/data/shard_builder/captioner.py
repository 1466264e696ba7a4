"""What a clip's dance is in words, asked of a vision-language model that is told to ignore looks (MuseDance fig. 3)."""

import base64
import json
import os
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

EVERY = 10  # frames; MuseDance sec. 4.1
SIDE = 384  # pixels of the longer side of what is shown
ASKED = (
    "These frames are in order, from one short video of a dancer. Say in one sentence, in plain words, how the body "
    "moves: arms, legs, turns, jumps, steps, their order and their energy. Do not mention who dances, looks, clothes, "
    "hair, the background, the camera or the music. Begin with 'the dancer'."
)
PATIENCE = 120  # s


class Captioner(ABC):
    """Clips to lines of text."""

    @abstractmethod
    def caption(self, frames: np.ndarray) -> str:
        """(F, H, W, 3) uint8 -> one line. Raises ValueError, one line, when there is no answer."""


def shown(frames: np.ndarray) -> list[np.ndarray]:
    """Every tenth frame, no larger than it needs to be."""
    scale = min(1.0, SIDE / max(frames.shape[1:3]))
    size = round(frames.shape[2] * scale), round(frames.shape[1] * scale)
    return [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames[::EVERY]]


class Endpoint(Captioner):
    """A model behind an OpenAI-compatible address (its /chat/completions), here or far away."""

    def __init__(self, url: str, model: str, key: str = "OPENAI_API_KEY"):
        """url: such as http://localhost:8000/v1; key: the name of the environment's variable that holds the key."""
        self.url, self.model, self.key = url.rstrip("/"), model, key

    def caption(self, frames: np.ndarray) -> str:
        """See Captioner."""
        content: list[dict] = [{"type": "text", "text": ASKED}]
        for frame in shown(frames):
            jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes()
            address = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
            content.append({"type": "image_url", "image_url": {"url": address}})
        asked = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": content}]}
        headers = {"Content-Type": "application/json"}
        if os.environ.get(self.key):
            headers["Authorization"] = f"Bearer {os.environ[self.key]}"
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(asked).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                words = json.load(answer)["choices"][0]["message"]["content"]
        except (urllib.error.URLError, TimeoutError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"no caption from {self.url}: {str(error) or type(error).__name__}") from None
        return _one_line(words, self.url)


class Local(Captioner):
    """A model of transformers in a folder on this machine, of the kind image-text-to-text."""

    def __init__(self, folder: str):
        """Raises ValueError when there is no such folder."""
        if not (Path(folder) / "config.json").is_file():
            raise ValueError(f"caption.folder={folder} holds no config.json of a vision-language model")
        self.folder = folder

    @cached_property
    def pipe(self):
        """Read when the first caption is asked for."""
        from transformers import pipeline

        return pipeline("image-text-to-text", model=self.folder)

    def caption(self, frames: np.ndarray) -> str:
        """See Captioner."""
        from PIL import Image

        content = [{"type": "image", "image": Image.fromarray(frame)} for frame in shown(frames)]
        content.append({"type": "text", "text": ASKED})
        asked = [{"role": "user", "content": content}]
        found = self.pipe(text=asked, max_new_tokens=80, do_sample=False, return_full_text=False)
        return _one_line(found[0]["generated_text"], self.folder)


def _one_line(words: str, where: str) -> str:
    line = " ".join(str(words).split())
    if not line:
        raise ValueError(f"no caption from {where}: it answered nothing")
    return line
