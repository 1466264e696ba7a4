"""`-m`: all jobs run, one after another, each in a process and with an output of its own."""

import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from worker_jobs import is_running, wait_for_file

from zoo.cli import quote_override
from zoo.run import multirun
from zoo.run.multirun import is_multirun, run_jobs, split_jobs
from zoo.run.signals import Stopped, handled_signals


@pytest.mark.parametrize(
    "arguments, defaults, jobs",
    [
        (["seed=0,1"], {}, ["seed=0", "seed=1"]),
        (["train", "seed=range(2)", "size=a,b"], {}, [f"train seed={s} size={z}" for s in (0, 1) for z in "ab"]),
        (["seed=0,1", "name=x"], {"name": None}, ["seed=0 name=x-0", "seed=1 name=x-1"]),
        (["seed=0,1"], {"out": "outputs/d.mp4"}, [f"seed={n} out=outputs/d-{n}.mp4" for n in (0, 1)]),
        (["out=a.b/c.gif", "seed=0,1"], {"out": "d.mp4"}, [f"out=a.b/c-{n}.gif seed={n}" for n in (0, 1)]),
        (["out=a.mp4,b.mp4"], {"out": "d.mp4"}, ["out=a.mp4", "out=b.mp4"]),
        (["seed=0,1", "export=e", "plan=true"], {}, [f"seed={n} export=e-{n} plan=true" for n in (0, 1)]),
        (["seed=3", "out=x.mp4"], {}, ["seed=3 out=x.mp4"]),
        (["prompt=it's", "seed=1,2"], {}, ["prompt=it's seed=1", "prompt=it's seed=2"]),
    ],
    ids=str,
)
def test_each_job_has_its_values_and_an_output_of_its_own(arguments, defaults, jobs):
    assert [" ".join(job) for job, _ in split_jobs(arguments, defaults)] == jobs


@pytest.mark.parametrize("argument", ["seed=range(0,1000000000)", "seed=interval(0,1)", "model=glob(*)"])
def test_endless_choices_are_refused(argument):
    if argument.startswith("model"):
        assert len(split_jobs([argument], {})) == 1  # the job itself refuses it
        return
    with pytest.raises(ValueError):
        split_jobs([argument], {})


@pytest.mark.parametrize(
    "flag, is_flag", [("-m", 1), ("--multirun", 1), ("--mul", 1), ("hydra.mode=MULTIRUN", 1), ("m=1", 0)]
)
def test_the_flag_and_its_abbreviations(flag, is_flag):
    assert is_multirun(["seed=0", flag]) == bool(is_flag)


def program(monkeypatch, code: str) -> None:
    """Let every job run this code, with its arguments."""
    monkeypatch.setattr(multirun, "_program", lambda: [sys.executable, "-c", f"import sys; a = sys.argv[1:]; {code}"])


def test_a_job_that_fails_does_not_end_the_others(tmp_path, monkeypatch, capfd):
    """The exit code is that of the first one that failed."""
    program(monkeypatch, f"open('{tmp_path}/' + a[0], 'w'); sys.exit(2 * (a[0] == 'seed=1'))")
    assert run_jobs(["-m", "seed=0,1,2"], {}) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed=0", "seed=1", "seed=2"]
    output = capfd.readouterr()
    assert "job 2 of 3: seed=1" in output.out and "1 of 3 jobs failed" in output.err
    assert run_jobs(["--multirun", "seed=0,2"], {}) == 0


def test_a_signal_ends_the_job_and_starts_no_other(tmp_path, monkeypatch):
    """It is passed on once, and the job may save its work."""
    file = tmp_path / "pid"
    program(
        monkeypatch,
        f"import os, signal, time; signal.signal(15, lambda *_: (open('{tmp_path}/saved', 'w'), sys.exit(143)));"
        f"open('{file}', 'w').write(str(os.getpid())); time.sleep(60)",
    )

    def stop() -> None:
        wait_for_file(file)
        time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(Stopped) as end, handled_signals():
        run_jobs(["-m", "seed=0,1"], {})
    assert end.value.code == 143 and (tmp_path / "saved").exists()
    assert not is_running(int(Path(file).read_text()))


def hydra_value(argument: str) -> object:
    """What a command gets for this argument."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    override = OverridesParser.create().parse_override(quote_override(argument))
    value = override.value()
    return OmegaConf.create({"x": getattr(value, "text", value)}).x


@pytest.mark.parametrize(
    "argument, value",
    [
        ("prompt=waves ${oc.env:HOME} \\${x}", "waves ${oc.env:HOME} \\${x}"),
        ("prompt=${", "${"),
        ("prompt= both arms ", " both arms "),
        ("prompt=1.50", "1.50"),
        ("prompt=true", "true"),
        ("prompt=[a, b]", "[a, b]"),
        ("prompt={a: b}", "{a: b}"),
        ("prompt='it is quoted'", "it is quoted"),
        ("prompt=null", None),
        ("name=007", "007"),
        ("music=1e3", "1e3"),
        ("out=a,b.mp4", "a,b.mp4"),
        ("data.urls= a [1] .tar ", " a [1] .tar "),
        ("data.urls=a-{0..9}.tar", "a-{0..9}.tar"),
        ("seed=3", 3),
        ("ckpt=[a,b]", ["a", "b"]),
        ("fit.max_steps=10", 10),
    ],
)
def test_a_text_is_no_syntax(argument, value):
    """Names and prompts are what was typed; numbers and lists elsewhere stay numbers and lists."""
    assert hydra_value(argument) == value
