"""The Python interface: `zoo.load(...)`, `model.dance(...)`, `zoo.models()`. torch is imported when it is needed.

import zoo
model = zoo.load("magicdance")  # a shipped name, an exported folder or a .ckpt; FAMILY means FAMILY-tiny
video = model.dance(image="me.jpg", music="song.mp3", seconds=20, renderer="warp")
video.save("dance.mp4")
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig

    from zoo.run.models import ShippedModel

__all__ = ["Model", "Motion", "Video", "load", "models"]
HUB_PREFIX = "hf://"


def models() -> list[ShippedModel]:
    """The shipped models, each with `name`, `family`, `folder`, `megabytes` and its model card (`card`)."""
    from zoo.run.models import shipped_models

    return shipped_models()


def load(name: str | Path, use_ema: bool = True, trusted_modules: Sequence[str] = ()) -> Model:
    """Find a model and check that it loads.

    name: a shipped model ('magicdance-tiny'; 'magicdance' means its tiny one), an exported folder, a .ckpt file, or
    'hf://OWNER/NAME', which is the only one that uses the network. use_ema: a .ckpt's averaged weights, not its raw
    ones. trusted_modules: packages outside the zoo whose classes the model's configuration may name. Raises ValueError
    for anything else; nothing in a file is ever run.
    """
    from zoo.run.checkpoint import load_family
    from zoo.run.trust import trust_modules

    trust_modules(list(trusted_modules))
    path = _download(str(name)) if str(name).startswith(HUB_PREFIX) else _checkpoint_path(name)
    _, config = load_family(path, use_ema)
    return Model(path, config, use_ema)


class Model:
    """A trained model: makes videos, and body motion if its family does so."""

    def __init__(self, path: Path, config: DictConfig, use_ema: bool):
        self.path, self.config, self.use_ema = path, config, use_ema

    @property
    def family(self) -> str:
        """Name of the family: musedance, dabfusion, magicdance ..."""
        return str(self.config.model.name)

    def __repr__(self) -> str:
        return f"<zoo.Model {self.family} {self.path}>"

    def dance(self, image: str | Path | None = None, music: str | Path | None = None, **options: Any) -> Video:
        """A video of the figure in `image` that dances to `music`; without one, the shipped demo's is used.

        options: those of conf/sample.yaml: seconds, fps, seed, prompt, renderer, scene, device, precision ..., and
        nested ones as dictionaries (`sampler={"num_inference_steps": 10}`). The options are checked here; frames are
        made when the video is saved or iterated. Raises ValueError for an option that is unknown or out of range.
        """
        return Video(self._compose_request(image, music, options))

    def generate_motion(self, music: str | Path | None = None, **options: Any) -> Motion:
        """Body motion to `music`, without frames. Raises ValueError for a family that makes no motion."""
        return Motion(self._compose_request(None, music, options))

    def _compose_request(self, image: str | Path | None, music: str | Path | None, options: dict[str, Any]) -> Any:
        from zoo.run.sample.request import compose_request

        files = {name: str(path) for name, path in (("image", image), ("music", music)) if path is not None}
        return compose_request({"ckpt": str(self.path), "use_ema": self.use_ema, **files, **options})


class _Generated:
    """A checked sampling request, computed when it is saved or iterated."""

    def __init__(self, request: Any):
        self._request = request

    def save(self, path: str | Path) -> Path:
        """Write it to a file, which appears whole or not at all. The suffix chooses the format. Returns the path.

        Raises ValueError for an unknown suffix, and for a folder that cannot be written.
        """
        from dataclasses import replace

        from zoo.run.sample.generate import generate
        from zoo.run.sample.request import check_output
        from zoo.run.validate import writable

        return generate(check_output(replace(self._request, out=writable(str(path)))))


class Video(_Generated):
    """Frames and sound of a dance. `.save("dance.mp4")` writes both, iterating gives the frames alone."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8, made while they are asked for: memory does not grow with the song."""
        from zoo.run.sample.generate import generate_frames

        for block in generate_frames(self._request):
            yield from block


class Motion(_Generated):
    """The motion of one body. `.save("dance.bvh")`, `.glb` for Blender, or `.npz` (SMPL poses)."""


def _checkpoint_path(name: str | Path) -> Path:
    from zoo.run.models import checkpoint_path

    return checkpoint_path(name)


def _download(name: str) -> Path:
    """The folder of a model on the Hugging Face hub. Raises ValueError for a name that is not OWNER/NAME."""
    from huggingface_hub import snapshot_download

    repository = name.removeprefix(HUB_PREFIX)
    if repository.count("/") != 1:
        raise ValueError(f"{name}: write hf://OWNER/NAME")
    return Path(snapshot_download(repository, allow_patterns=["*.safetensors", "config.yaml", "README.md"]))
