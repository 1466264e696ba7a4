"""Networks that are read from a file at their first use."""

from functools import cached_property
from typing import Any


class LazyWeights:
    """Mixin for a module whose frozen networks are read from files when they are first used.

    The networks are neither submodules nor part of a pickle: building a family needs no such file, a checkpoint does
    not hold weights that never train, and each loader process reads its own copy.
    """

    def load(self) -> Any:
        """Read the files; raise ValueError where they are missing or do not fit."""
        raise NotImplementedError

    def build_untrained(self) -> Any:
        """Make the same without files, for a plan of a training on fake tensors."""
        raise NotImplementedError

    @cached_property
    def loaded(self) -> Any:
        """The networks, read at the first access."""
        return self.load()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "loaded"}
