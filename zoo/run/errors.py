"""A user's mistake is answered by one clear line on stderr and exit code 2, without a traceback.

Light on purpose: the scripts import this and Hydra only, so that a typo is answered in a second.
"""

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CONF = Path(__file__).resolve().parents[2] / "conf"
WANTS_TRACE = "DANCEZOO_TRACE"  # set in the environment: show the traceback of a refused request too


def script(name: str, groups: bool = True) -> Callable[[Callable], Callable[[], None]]:
    """Decorate `main(config)` of a script: composed by Hydra from conf/<name>.yaml, with its errors told in one line.

    groups: whether conf's folders are options to it. sample.py has none: its music= and model= are values, which Hydra
    would look for in conf/music and conf/model.
    Exit code 2 for what the user can mend (see `explain`), 130 for Ctrl-C; anything else is a bug: traceback.
    """

    def decorate(main: Callable) -> Callable[[], None]:
        @functools.wraps(main)
        def job(config) -> None:
            sys.argv[1:] = typed
            with _told(name):  # here too: Hydra adds a line of its own to what leaves its job
                _check_sections(config, name)
                main(config)

        typed = []

        @functools.wraps(main)
        def run() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints and exits by itself
            with _told(name):
                import hydra

                folder, composed = (str(CONF), name) if groups else (None, _store(name))
                typed[:] = sys.argv[1:]
                sys.argv[1:] = map(_quoted, typed)
                hydra.main(config_path=folder, config_name=composed, version_base="1.3")(job)()

        return run

    return decorate


def _store(name: str) -> str:
    """Give Hydra a script's config by itself, without the folder it lies in; answers the name it has there."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    store.store("hydra_defaults", OmegaConf.load(CONF / "hydra_defaults.yaml"), package="_global_")
    alone = f"{name}_alone"  # a stored config and a file of one name would be taken for schema and config
    store.store(alone, OmegaConf.load(CONF / f"{name}.yaml"))
    return alone


def _quoted(argument: str) -> str:
    """key=value as Hydra's grammar wants it: ~/x.mp3, it's (live).ogg and a-{0..9}.tar are plain text to a user."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, equals, value = argument.partition("=")
    if not equals or argument.startswith("-"):
        return argument
    try:
        if not OverridesParser.create().parse_override(argument).is_sweep_override():
            return argument
    except HydraException:
        pass
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"{key}='{escaped}'"


def _check_sections(config, name: str) -> None:
    """Raises ValueError where a value stands in place of a section: sampler=3."""
    from omegaconf import DictConfig, OmegaConf

    for key, section in OmegaConf.load(CONF / f"{name}.yaml").items():
        if isinstance(section, DictConfig) and not isinstance(config[key], DictConfig):
            raise ValueError(f"{key}={config[key]}: give one of {', '.join(f'{key}.{option}=' for option in section)}")


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr, flush=True)
        sys.exit(130)
    except Exception as error:
        line = explain(error)
        if line is None or WANTS_TRACE in os.environ:
            raise
        print(f"{name}: {line}", file=sys.stderr, flush=True)
        sys.exit(2)


def explain(error: BaseException) -> str | None:
    """One line for a mistake of the user's, None for a bug: ValueError, files that cannot be used, Hydra's refusals."""
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, InstantiationException):
        # a constructor refused its arguments: what it said is what the user needs
        cause = error.__cause__
        if isinstance(cause, TypeError | ArithmeticError | RuntimeError):  # no such option, dim=abc, heads=0
            return _one_line(f"{str(error).splitlines()[0]} {cause}")
        return explain(cause) if cause is not None else _one_line(str(error))
    if isinstance(error, HydraException | OmegaConfBaseException):
        text = str(error).split("Config search path")[0].split("full_key:")[0].split("See https:")[0]
        unknown = re.match(r"Could not override '([^']+)'", text)
        return f"there is no option {unknown[1]} (conf/ lists them all)" if unknown else _one_line(text)
    if isinstance(error, ValueError):
        return _one_line(str(error))
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {(error.strerror or 'cannot be used').lower()}"
    return None


def _one_line(text: str, longest: int = 400) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 3] + "..."
