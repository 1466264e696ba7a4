"""Places: random backdrops of the world, for its own clips and for figures from elsewhere."""

import numpy as np

from zoo.body.camera import Camera, camera
from zoo.data.world.backdrop import PLAIN_KINDS, make_backdrop
from zoo.data.world.recipe import seed_of

ROOM_PROB = 0.5  # share of clips in a cluttered room
FRONTAL_CAMERAS = ("C01", "C09")  # those at eye level in front of the dancer, as in photographs


def random_backdrop(rng: np.random.Generator, view: Camera, height: int, width: int) -> tuple[str, np.ndarray]:
    """Draw a backdrop behind the world's origin, seen by the camera `view`: its kind and its image (H, W, 3) uint8."""
    kind = "room" if rng.random() < ROOM_PROB else str(rng.choice(PLAIN_KINDS))
    return kind, make_backdrop(kind, rng, np.array(view.position), view.rays(2 * height, 2 * width))


class RandomPlace:
    """A frontal view of the world's origin and its backdrop, as in the world's clips; both depend on the seed alone."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed_of("scene", seed))
        self.camera: Camera = camera(str(self._rng.choice(FRONTAL_CAMERAS)), max_offset=0)

    def draw_backdrop(self, resolution: int) -> np.ndarray:
        """Draw the backdrop, (resolution, resolution, 3) uint8; call it once."""
        return random_backdrop(self._rng, self.camera, resolution, resolution)[1]
