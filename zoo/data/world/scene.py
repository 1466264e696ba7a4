"""Scenes: who dances, where, and which camera films it. Each is a function of the world's seed and of names."""

from dataclasses import asdict, dataclass

import numpy as np

from zoo.body.camera import CAMERAS, Camera, camera
from zoo.body.look import Look, random_look
from zoo.body.render import dressed
from zoo.data.world.backdrop import PLAIN, make_backdrop
from zoo.data.world.recipe import seed_of

CLUTTERED = 0.5  # share of clips in a room full of things
FIGURES = 0.25  # share of dancers that are not human


@dataclass(frozen=True)
class Scene:
    """Everything in a picture but the pose.

    camera: one of `CAMERAS`, carried to where the clip is danced; backdrop: its kind; behind (H, W, 3) uint8: itself.
    """

    look: Look
    camera_name: str
    camera: Camera
    backdrop: str
    behind: np.ndarray

    def info(self) -> dict:
        """What a sample's .json says of it."""
        where = {"position": list(self.camera.position), "target": list(self.camera.target), "fov": self.camera.fov}
        return {
            "camera": self.camera_name,
            "camera_parameters": {name: np.round(value, 6).tolist() for name, value in where.items()},
            "backdrop": self.backdrop,
            "look": asdict(self.look),
        }


def dancer_look(seed: int, dancer: str) -> Look:
    """How a dancer of this name looks, in every clip of the world."""
    rng = np.random.default_rng(seed_of(seed, "look", dancer))
    return random_look(rng, human=bool(rng.random() >= FIGURES))


def make_scene(seed: int, key: str, dancer: str, root: np.ndarray, height: int, width: int) -> Scene:
    """The scene of the clip `key`. root (3,): where the canonical body dances it, on average, metres."""
    rng = np.random.default_rng(seed_of(seed, "scene", key))
    name = str(rng.choice(list(CAMERAS)))
    still = camera(name)
    kind = "room" if rng.random() < CLUTTERED else str(rng.choice(PLAIN))
    behind = make_backdrop(kind, rng, np.array(still.position), still.rays(2 * height, 2 * width))
    look = dancer_look(seed, dancer)
    x, y, _ = (float(value) for value in dressed(look).place(root))
    return Scene(look, name, still.moved(x, y), kind, behind)
