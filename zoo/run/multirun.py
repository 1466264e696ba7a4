"""`-m`: one command of several values runs as jobs, one after another, each in a process and with an output of its own.

Hydra's own sweeper runs all jobs in one process, where the first error ends them all, and it makes folders of its own.
Light: no torch.
"""

import functools
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from zoo.processes import end_with_parent
from zoo.run.signals import Stopped

MAX_JOBS = 1000
OUTPUTS = ("name", "out", "export", "export_inputs")  # options that name what a job writes


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for several jobs; argparse takes abbreviations of --multirun."""
    return any(re.fullmatch(r"-m|--m\w*|hydra\.mode=multirun", argument, re.IGNORECASE) for argument in arguments)


def run_jobs(arguments: Sequence[str], defaults: Mapping[str, object]) -> int:
    """Run all jobs of a command line. Returns 0, or the exit code of the first job that failed; the others run too.

    defaults: the command's configuration, for outputs that the command line does not name. Raises ValueError for too
    many jobs, and Stopped after a signal, when the running job has ended.
    """
    jobs = split_jobs([argument for argument in arguments if not is_multirun([argument])], defaults)
    exit_codes = []
    for number, (job_arguments, choices) in enumerate(jobs, 1):
        print(f"job {number} of {len(jobs)}: {' '.join(choices)}", flush=True)
        exit_codes.append(_run([*_program(), *job_arguments]))
        if exit_codes[-1]:
            print(f"job {number} of {len(jobs)} failed with exit code {exit_codes[-1]}", file=sys.stderr, flush=True)
    failed = [code for code in exit_codes if code]
    if failed:
        print(f"{len(failed)} of {len(jobs)} jobs failed", file=sys.stderr, flush=True)
    return failed[0] if failed else 0


def split_jobs(arguments: Sequence[str], defaults: Mapping[str, object]) -> list[tuple[list[str], list[str]]]:
    """(arguments, the choices among them) of each job: all combinations of a=1,2 b=range(3), the last varies first.

    An output that all jobs would share gets the job's number: dance.mp4 becomes dance-0.mp4.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, alternatives = OverridesParser.create(), []
    for argument in arguments:
        values = [argument]
        try:
            override = parser.parse_override(argument)
            if override.is_sweep_override():
                if not override.is_discrete_sweep():
                    raise ValueError(f"{argument}: give a list such as a,b, or range()")
                strings = itertools.islice(override.sweep_string_iterator(), MAX_JOBS + 1)
                values = [f"{override.get_key_element()}={value}" for value in strings]
        except HydraException:
            pass  # plain text, or an option of Hydra
        alternatives.append(values)
    num_jobs = 1
    for values in alternatives:
        num_jobs *= len(values)
        if num_jobs > MAX_JOBS:
            raise ValueError(f"these are more than {MAX_JOBS} jobs; choose fewer values")
    is_choice = [len(values) > 1 for values in alternatives]
    jobs = []
    for number, job in enumerate(itertools.product(*alternatives)):
        choices = [argument for argument, chosen in zip(job, is_choice, strict=True) if chosen]
        jobs.append((_with_own_outputs(job, choices, defaults, number) if num_jobs > 1 else list(job), choices))
    return jobs


def _with_own_outputs(
    job: Sequence[str], choices: Sequence[str], defaults: Mapping[str, object], number: int
) -> list[str]:
    arguments, chosen = list(job), {choice.partition("=")[0] for choice in choices}
    for key in OUTPUTS:
        index = next((i for i, argument in enumerate(arguments) if argument.partition("=")[0] == key), None)
        value = str(defaults.get(key)) if index is None else arguments[index].partition("=")[2].strip("'\"")
        if key in chosen or value in ("None", "null", ""):
            continue
        path = Path(value)
        suffix = path.suffix if key == "out" and re.fullmatch(r"\.\w{2,4}", path.suffix) else ""
        own = f"{key}={path.with_name(f'{path.name.removesuffix(suffix)}-{number}{suffix}')}"
        if index is None:
            arguments.append(own)
        else:
            arguments[index] = own
    return arguments


def _program() -> list[str]:
    """How this program was started, without its arguments."""
    spec = sys.modules["__main__"].__spec__
    return [sys.executable, os.path.abspath(sys.argv[0])] if spec is None else [sys.executable, "-m", spec.name]


def _run(command: list[str]) -> int:
    """Run a job to its end. Signals are passed on to it; it is in a session of its own, so that it gets each once."""
    # when this process is killed, the job saves its work
    end = functools.partial(end_with_parent, signal.SIGTERM, os.getpid())
    job = subprocess.Popen(command, start_new_session=True, preexec_fn=end)
    stop = None
    while True:
        try:
            code = job.wait()
            break
        except Stopped as error:  # also a second time
            stop = stop or error
            job.send_signal(error.signum)
    if stop is not None:
        raise Stopped(stop.signum)
    return code if code >= 0 else 128 - code
