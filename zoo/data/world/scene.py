"""Scenes: who dances, where, and which camera films it. Each is a function of the world's seed and of names."""

from dataclasses import asdict, dataclass

import numpy as np

from zoo.body.camera import Camera, camera
from zoo.body.render.appearance import Appearance, random_appearance
from zoo.body.render.rasterizer import clothed_body
from zoo.data.world.backdrop import PLAIN, make_backdrop
from zoo.data.world.recipe import seed_of

FILMED = ("C01", "C02", "C03", "C09")  # AIST's; a whole body is in their pictures
CLUTTERED = 0.5  # share of clips in a room full of things
FIGURES = 0.25  # share of dancers that are not human


@dataclass(frozen=True)
class Scene:
    """Everything in a picture but the pose.

    camera: one of `FILMED`, carried to where the clip is danced and drawn in on it; backdrop: its kind; behind
    (H, W, 3) uint8: itself.
    """

    look: Appearance
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


def dancer_look(seed: int, dancer: str) -> Appearance:
    """How a dancer of this name looks, in every clip of the world."""
    rng = np.random.default_rng(seed_of(seed, "look", dancer))
    return random_appearance(rng, human=bool(rng.random() >= FIGURES))


def make_scene(seed: int, key: str, dancer: str, root: np.ndarray, height: int, width: int) -> Scene:
    """The scene of the clip `key`, filmed as close as the dance allows. root (F, 3): the canonical body's, metres."""
    rng = np.random.default_rng(seed_of(seed, "scene", key))
    name = str(rng.choice(FILMED))
    look = dancer_look(seed, dancer)
    path = clothed_body(look).place(root)[:, :2]
    x, y = (float(value) for value in (path.min(0) + path.max(0)) / 2)
    still = camera(name, reach=float(np.linalg.norm(path - [x, y], axis=1).max()))
    kind = "room" if rng.random() < CLUTTERED else str(rng.choice(PLAIN))
    behind = make_backdrop(kind, rng, np.array(still.position), still.rays(2 * height, 2 * width))
    return Scene(look, name, still.moved(x, y), kind, behind)
