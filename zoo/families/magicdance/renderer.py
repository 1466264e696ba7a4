"""The plain renderer: a mesh body that dances on the ground, in the looks of the given picture."""

from collections.abc import Callable

from torch import Tensor


class MeshRenderer:
    def __init__(self, height: int, width: int):
        self.height, self.width = height, width

    def start(self, image: Tensor | None, seed: int) -> Callable[[Tensor], Tensor]:
        raise NotImplementedError
