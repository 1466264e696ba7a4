"""Packages outside the zoo that the user trusts: `trusted_modules=[PACKAGE]`.

A configuration inside a checkpoint names classes, and checkpoints come from anywhere. Only classes of the zoo and of
these packages are built. The list comes from the command line, never from a file's configuration.
"""

from collections.abc import Sequence

_packages: set[str] = set()


def trust_modules(names: Sequence[str] | str | None) -> None:
    """Trust packages, by their import names, in this process. Raises ValueError for anything but module names."""
    packages = [names] if isinstance(names, str) else [] if names is None else names
    if not isinstance(packages, Sequence) or not all(
        isinstance(name, str) and all(part.isidentifier() for part in name.split(".")) for name in packages
    ):
        raise ValueError(f"trusted_modules={names}: give names of Python packages, such as [mypackage]")
    _packages.update(packages)


def is_trusted(target: str) -> bool:
    """Whether the class path `target` lies in a trusted package."""
    return any(target.startswith(f"{name}.") for name in _packages)
