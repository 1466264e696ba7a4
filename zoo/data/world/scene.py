"""Scenes: the dancer, the place and the camera of a clip. Each is a function of the world's seed and of names."""

from dataclasses import asdict, dataclass

import numpy as np

from zoo.body.camera import Camera, camera
from zoo.body.render.appearance import Appearance, random_appearance
from zoo.body.render.mesh import human_names
from zoo.body.render.rasterizer import clothed_body
from zoo.data.world.place import random_backdrop
from zoo.data.world.recipe import seed_of

CAMERAS = ("C01", "C02", "C03", "C09")  # AIST's; their images show a whole body
NON_HUMAN_PROB = 0.25  # share of dancers that are not human


@dataclass(frozen=True)
class Scene:
    """Everything in an image but the pose.

    camera: one of `CAMERAS`, moved to the place of the dance and as close as the dance allows; backdrop: its kind, see
    `zoo.data.world.backdrop`; backdrop_image (H, W, 3) uint8.
    """

    appearance: Appearance
    camera_name: str
    camera: Camera
    backdrop: str
    backdrop_image: np.ndarray

    def info(self) -> dict:
        """The scene's entries of a sample's .json."""
        view = {"position": self.camera.position, "target": self.camera.target, "fov": self.camera.fov}
        return {
            "camera": self.camera_name,
            "camera_parameters": {name: np.round(np.asarray(value), 6).tolist() for name, value in view.items()},
            "backdrop": self.backdrop,
            "look": asdict(self.appearance),
        }


def dancer_appearance(seed: int, dancer: str) -> Appearance:
    """The appearance of a dancer of this name in every clip of the world."""
    rng = np.random.default_rng(seed_of(seed, "look", dancer))
    return random_appearance(rng, human=bool(rng.random() >= NON_HUMAN_PROB))


def figure_label(info: dict) -> str:
    """The kind of figure in a rendered clip with this .json: 'human', or the name of another body."""
    body = info["look"]["body"]
    return "human" if body in human_names() else body


def make_scene(seed: int, key: str, dancer: str, root: np.ndarray, height: int, width: int) -> Scene:
    """The scene of the clip `key`, with the camera as close as the dance allows. root (F, 3): of the pelvis, metres."""
    rng = np.random.default_rng(seed_of(seed, "scene", key))
    camera_name = str(rng.choice(CAMERAS))
    appearance = dancer_appearance(seed, dancer)
    pelvis_path = clothed_body(appearance).scale_root(root)[:, :2]
    x, y = (float(value) for value in (pelvis_path.min(0) + pelvis_path.max(0)) / 2)
    origin_camera = camera(camera_name, max_offset=float(np.linalg.norm(pelvis_path - [x, y], axis=1).max()))
    backdrop_kind, backdrop_image = random_backdrop(rng, origin_camera, height, width)
    return Scene(appearance, camera_name, origin_camera.translated(x, y), backdrop_kind, backdrop_image)
