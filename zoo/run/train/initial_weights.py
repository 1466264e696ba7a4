"""Weights that a stage starts from, and the check that no parameter of a recipe stays random."""

from collections.abc import Collection, Iterable
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from zoo.families.base import Family
from zoo.nn.weights.lazy import LazyWeights
from zoo.nn.weights.loading import check_overwrites
from zoo.run.build import build_family, trainable_paths
from zoo.run.checkpoint import load_for_stage, load_strict, read_start, write_folder
from zoo.run.config import resolve_config
from zoo.run.train.runs import init_files, later_stages, previous_stages, stage_names

MAX_NAMES = 4  # modules that a message names


def load_initial_weights(config: DictConfig, name: str, family: Family, start: Path | None) -> frozenset[str]:
    """Load the weights that a stage starts from into a family: of `init=` where there is no checkpoint to start from.

    Returns the names of the parameters that are random afterwards: neither trained by an earlier stage nor loaded.
    Raises ValueError for files that do not fit.
    """
    if start is None:
        reports = [family.load_pretrained(path) for path in init_files(config)]
        check_overwrites(reports)
        return _parameter_names(family) - {key for report in reports for key in report.loaded}
    _, weights, random_parameters = read_start(start)
    previous = previous_stages(config, name)
    if previous:
        trained = [path for stage in previous for path in trainable_paths(config, stage, family)]
        random_parameters |= load_for_stage(family, weights, start, trained)
    else:
        load_strict(family, weights, start)
    return _parameter_names(family) & random_parameters


def export_foreign_weights(config: DictConfig) -> None:
    """Write the family with the weights of init=[FILES] to the folder export=, without any training.

    Raises ValueError for files that do not fit, and for parameters that no file gives and `model.random_modules` does
    not name.
    """
    config = resolve_config(config)
    family = build_family(config)
    check_lazy_weights(family)
    left = outside_of(load_initial_weights(config, "", family, None), config.model.get("random_modules") or [])
    if left:
        raise ValueError(
            f"export={config.export}: no file of init= gives {_label_text(family, left)}; "
            "add files, or train a stage of the recipe with stage=NAME"
        )
    write_folder(family, config, config.export, config.export_dtype)


def check_random_parameters(config: DictConfig, name: str, family: Family, random_parameters: Collection[str]) -> None:
    """Raise ValueError, one line, for parameters that would stay random when the recipe has ended.

    random_parameters: before the stage `name`. Each has to be trained by this stage, by a later one of the command,
    or by a stage of the recipe after the command's last one, which another command may train. This holds at every
    size, because every recipe can fulfil it: the small sizes train all their networks, and the papers' recipes load
    what they do not train. A module that is frozen at random values on purpose stands in `model.random_modules`. The
    text encoder of MagicDance's small renderer does: it encodes the empty prompt alone, so it is a constant, and any
    value serves.
    """
    stages = [name, *later_stages(config, name)]
    paths = [path for stage in stages for path in _paths(config, stage, family, is_later=stage != name)]
    paths += config.model.get("random_modules") or []
    left = outside_of(random_parameters, paths)
    if not left:
        return
    raise ValueError(
        f"these parameters of {config.model.name} would stay random: {_label_text(family, left)}; no file gives "
        f"them, and no stage of {', '.join(stages)} trains them: add files to init=, "
        "or model.random_modules=[PATH] where it is meant"
    )


def outside_of(names: Iterable[str], paths: Iterable[str]) -> frozenset[str]:
    """The parameter names that lie in none of the modules at `paths`."""
    prefixes = tuple(f"{path}." for path in paths)
    return frozenset(name for name in names if not name.startswith(prefixes or ("\0",)))


def check_lazy_weights(family: nn.Module) -> None:
    """Read the networks that a family takes from files at their first use. Raises ValueError where one is missing."""
    for module in family.modules():
        if isinstance(module, LazyWeights):
            assert module.loaded is not None


def _paths(config: DictConfig, stage: str, family: Family, is_later: bool) -> list[str]:
    try:
        return trainable_paths(config, stage, family)
    except ValueError:  # a later stage that this model has no modules for
        if is_later and stage not in stage_names(config):
            return []
        raise


def _parameter_names(family: nn.Module) -> frozenset[str]:
    return frozenset(name for name, _ in family.named_parameters())


def _label_text(family: nn.Module, names: Collection[str]) -> str:
    groups = _module_labels(family, names)
    return ", ".join(groups[:MAX_NAMES]) + (f" and {len(groups) - MAX_NAMES} more" * (len(groups) > MAX_NAMES))


def _module_labels(family: nn.Module, names: Collection[str]) -> list[str]:
    """The modules of these parameters with their sizes, largest first: 'codec.vae (83.7 M values)'.

    A module stands for its children where all its parameters are meant; below the second level it is 'in part'.
    """
    parameters = dict(family.named_parameters())
    sizes: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for depth in (1, 2):
            label = ".".join(parts[:depth])
            if all(other in names for other in parameters if other.startswith(f"{label}.") or other == label):
                break
        else:
            label += " in part"
        sizes[label] = sizes.get(label, 0) + parameters[name].numel()
    ordered = sorted(sizes, key=lambda label: (-sizes[label], label))
    return [f"{label} ({sizes[label] / 1e6:.3g} M values)" for label in ordered]
