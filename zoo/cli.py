"""The command line: `dancezoo COMMAND KEY=VALUE ...`, and the scripts train.py, sample.py and evaluate.py.

Each command composes its configuration by Hydra, checks it before anything heavy is imported, and calls one function of
`zoo.run`. Only this module and Hydra are imported before that, so that a typo is answered in a second.
"""

import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.files import cache_root, conf_folder, is_writable
from zoo.run.errors import report_errors
from zoo.run.leftovers import removed_if_refused
from zoo.run.multirun import is_multirun, run_jobs
from zoo.run.signals import handled_signals
from zoo.run.trust import trust_modules

FOLDER_WITHOUT_GROUPS = str(Path(__file__).parent / "run")  # a folder whose subfolders have no name of an option
TEXT_OPTIONS = ("prompt", "name", "music", "image", "out", "ckpt", "resume", "init", "export")
USAGE = """usage: dancezoo COMMAND [KEY=VALUE ...]

  sample     make a video: image=me.jpg music=song.mp3 seconds=20 out=dance.mp4
  train      train a model, continue a run, or export one: model=musedance
  evaluate   compare checkpoints and folders of videos in one table: ckpt=[A,B]
  shards     make training shards of a folder of dance videos: folder=DIR out=DIR
  sdgpip     make training shards of generated motion with guidance maps: out=DIR
  app        open a web page on this machine: photo, song, preview, video, 3D motion
  models     list the shipped models
  setup      check this installation and download the pose detector that photographs need

COMMAND --help lists the options of a command."""


def hydra_script(name: str, groups: bool = True) -> Callable[[Callable], Callable[[], None]]:
    """Decorate `main(config)` of a command: Hydra composes conf/NAME.yaml, errors become one line.

    groups: whether the folders of conf/ are options of the command. `sample` has none: its music= and model= are
    values, which Hydra would look for in conf/music and conf/model. Exit code 2 for a user's mistake
    (`zoo.run.errors.error_message`), 130 for Ctrl-C, 143 for SIGTERM; anything else is a bug and shows its traceback.
    """

    def decorate(main: Callable) -> Callable[[], None]:
        arguments: list[str] = []

        @functools.wraps(main)
        def job(config: Any) -> None:
            sys.argv[1:] = arguments  # as typed: Lightning starts further processes by them
            with report_errors(name):  # here too: Hydra adds a line of its own to exceptions that leave its job
                _check_sections(config, name)
                trust_modules(config.get("trusted_modules"))
                main(config)

        @functools.wraps(main)
        def run() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints and exits by itself
            _choose_compiler_cache()
            with handled_signals(), report_errors(name):
                import hydra

                folder, config_name = (str(conf_folder()), name) if groups else (FOLDER_WITHOUT_GROUPS, _store(name))
                arguments[:] = sys.argv[1:]
                overrides = arguments[1:] if arguments[:1] == [name] else arguments
                if any(argument.startswith("--e") for argument in overrides):  # argparse takes abbreviations
                    raise ValueError("--experimental-rerun would run code of a pickle; it is switched off")
                if is_multirun(overrides):
                    from omegaconf import OmegaConf

                    sys.exit(run_jobs(arguments, OmegaConf.load(conf_folder() / f"{name}.yaml")))
                if not groups:
                    overrides = _choice_overrides(overrides)
                sys.argv[1:] = map(quote_override, overrides)
                hydra.main(config_path=folder, config_name=config_name, version_base="1.3")(job)()

        return run

    return decorate


def _store(name: str) -> str:
    """Register a command's config with Hydra without the folder it lies in. Returns its registered name."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    store.store("hydra_defaults", OmegaConf.load(conf_folder() / "hydra_defaults.yaml"), package="_global_")
    registered_name = f"{name}_alone"  # Hydra would take a stored config of the file's name for its schema
    store.store(registered_name, OmegaConf.load(conf_folder() / f"{name}.yaml"))
    return registered_name


def quote_override(argument: str) -> str:
    """KEY=VALUE in Hydra's grammar: ~/x.mp3, it's (live).ogg and a-{0..9}.tar are plain text to a user.

    Spaces around a value and ${ in it are part of it. The options in TEXT_OPTIONS are text, whatever it looks like.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString
    from hydra.errors import HydraException

    key, equals, value = argument.partition("=")
    if not equals or argument.startswith("-"):
        return argument
    try:
        override = OverridesParser.create().parse_override(argument)
        parsed = override.value()
        is_text = isinstance(parsed, str | QuotedString)
        is_meant = key not in TEXT_OPTIONS or is_text or parsed is None or (key != "prompt" and value.startswith("["))
        if not override.is_sweep_override() and is_meant and value == value.strip() and "${" not in value:
            return argument
        if isinstance(parsed, QuotedString):
            value = parsed.text
    except HydraException:
        pass
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), value)
    if not key.startswith("hydra."):
        escaped = re.sub(r"(\\*)\$\{", lambda match: f"{2 * match[1]}\\${{", escaped)  # an interpolation to OmegaConf
    return f"{key}='{escaped}'"


def _choice_overrides(arguments: list[str]) -> list[str]:
    """`renderer=NAME`, `renderer.KEY=VALUE` and those of `motion`, of a command without groups, as overrides."""
    overrides = []
    for argument in arguments:
        for section in ("renderer", "motion"):
            if argument.startswith(f"{section}="):
                argument = f"{section}.name={argument.removeprefix(f'{section}=')}"
            elif argument.startswith(f"{section}.") and not argument.startswith(f"{section}.name="):
                argument = f"+{argument}"
        overrides.append(argument)
    return overrides


def _choose_compiler_cache() -> None:
    """Set $TORCHINDUCTOR_CACHE_DIR: PyTorch makes this folder at import, in the temporary folder by default."""
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ and is_writable(cache_root()):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_root() / "torchinductor")


def _check_sections(config: Any, name: str) -> None:
    """Raises ValueError where a value stands in place of a section: sampler=3."""
    from omegaconf import DictConfig, OmegaConf

    file = OmegaConf.load(conf_folder() / f"{name}.yaml")
    for entry in file.get("defaults", []):
        group, choice = next(iter(entry.items())) if isinstance(entry, DictConfig) else ("", None)
        if choice is not None and group in config and not isinstance(config[group], DictConfig):
            raise ValueError(f"{group}={config[group]}: choose one of conf/{group}")
    for key, section in file.items():
        if isinstance(section, DictConfig) and not isinstance(config[key], DictConfig):
            raise ValueError(f"{key}={config[key]}: give one of {', '.join(f'{key}.{option}=' for option in section)}")


@hydra_script("train")
def train(config: Any) -> None:
    """Train a family's stages, continue a run, or export one: conf/train.yaml."""
    from zoo.run.train.runs import open_run

    run, config, is_resumed = open_run(config)
    if run is None and config.ckpt is None:
        from zoo.run.train.initial_weights import export_foreign_weights

        export_foreign_weights(config)
    elif run is None:
        from zoo.run.checkpoint import export

        export(config.ckpt, config.export, config.export_dtype)
    elif config.plan:
        from zoo.run.train.plan import print_plan

        print_plan(config, simulate=True)
    else:
        from zoo.run.train.fit import fit

        fit(config, run, is_resumed)


@hydra_script("sample", groups=False)
def sample(config: Any) -> None:
    """Make a video of a figure that dances to a song: conf/sample.yaml."""
    from zoo.run.sample.request import read_request

    request = read_request(config)
    from zoo.run.sample.generate import generate

    generate(request)


@hydra_script("evaluate")
def evaluate(config: Any) -> None:
    """Compare dances in one table, with intervals and paired tests: conf/evaluate.yaml."""
    with (
        removed_if_refused(config.out, _has_dances),
        removed_if_refused(config.export_inputs, lambda folder: False),
    ):
        from zoo.run.evaluate.benchmark import evaluate

        evaluate(config)


def _has_dances(folder: Path) -> bool:
    """Whether an evaluation's folder holds generated dances, which take long; the protocol's clips do not count."""
    return any(not file.parent.name.startswith("clips-") for file in folder.glob("*/*.json"))


@hydra_script("shards", groups=False)
def shards(config: Any) -> None:
    """Make training shards of a folder of dance videos: conf/shards.yaml."""
    from zoo.run.build_shards import build_shards

    with removed_if_refused(config.out, lambda folder: any(folder.glob("*.tar"))):
        build_shards(config)


@hydra_script("sdgpip")
def sdgpip(config: Any) -> None:
    """Make training shards of generated motion with guidance maps: conf/sdgpip.yaml."""
    from zoo.run.build_sdgpip import build_sdgpip

    build_sdgpip(config)


@hydra_script("app", groups=False)
def app(config: Any) -> None:
    """Serve the web page: conf/app.yaml. Raises ValueError without Gradio, which the extra `app` installs."""
    from zoo.app.server import serve

    serve(config)


def models() -> None:
    """List the shipped models, a line each."""
    from zoo.run.models import shipped_models

    with report_errors("models"):
        for model in shipped_models():
            print(model)


def setup() -> None:
    """Check this installation, or download a named part of it."""
    from zoo.run.setup import setup

    with report_errors("setup"):
        setup(sys.argv[2:])


COMMANDS = {
    "sample": sample,
    "train": train,
    "evaluate": evaluate,
    "shards": shards,
    "sdgpip": sdgpip,
    "app": app,
    "models": models,
    "setup": setup,
}


def main() -> None:
    """Entry point of the console script `dancezoo`."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "--help", "help"):
        print(USAGE)
    elif command in COMMANDS:
        COMMANDS[command]()
    else:
        print(f"dancezoo: there is no command {command}; use one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
