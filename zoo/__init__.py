"""Music-driven dance video: four published models to train, sample and compare with the same commands."""

from zoo.api import Model, Motion, Video, load, models

__all__ = ["Model", "Motion", "Video", "load", "models"]
