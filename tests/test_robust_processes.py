"""Signals, kills and a second process: nothing is lost, nothing is left behind, no process lives on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from worker_jobs import is_running, wait_for_file, write_slowly

from zoo.files import PARTIAL_NAME, conf_folder, remove_partial_files, replacing, temporary_folder, write_atomic
from zoo.processes import RANK_VARIABLES, WorkerPool
from zoo.run.errors import report_errors
from zoo.run.leftovers import removed_if_refused
from zoo.run.signals import STATE, Stopped, handled_signals
from zoo.run.train.callbacks import TrainingDiverged
from zoo.run.train.claim import claimed_run
from zoo.run.train.runs import check_launcher, open_run

TESTS = Path(__file__).parent


def names(folder: Path) -> list[str]:
    """Everything in a folder, at any depth."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Workers -------------------------------------------------------------------------------------------------------------


def test_an_exception_ends_the_workers_and_deletes_their_partial_files(tmp_path):
    """At once, not when the job is done."""
    with pytest.raises(ValueError, match="enough"), WorkerPool(1) as pool:
        pool.submit(write_slowly, str(tmp_path / "file"))
        worker = int(wait_for_file(tmp_path / "file.pid"))
        start = time.monotonic()
        raise ValueError("enough")
    assert time.monotonic() - start < 20 and not is_running(worker)
    assert names(tmp_path) == ["file.pid"]


def test_a_killed_worker_is_said_in_one_line(capsys):
    """As the kernel kills one when memory is short."""
    with pytest.raises(SystemExit) as end, report_errors("train"), WorkerPool(1) as pool:
        pool.submit(signal.raise_signal, signal.SIGKILL).result()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train: a worker process was killed")


def test_workers_end_with_a_killed_parent(tmp_path):
    """SIGKILL leaves the parent no time to end them."""
    code = (
        "from worker_jobs import write_slowly; from zoo.processes import WorkerPool\n"
        f"with WorkerPool(1) as pool: pool.submit(write_slowly, {str(tmp_path / 'file')!r}).result()"
    )
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    worker = int(wait_for_file(tmp_path / "file.pid"))
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(worker) and names(tmp_path) == ["file.pid"]


def test_a_command_makes_no_temporary_folder(tmp_path):
    """A killed process would leave it: timm imports wandb, which makes two, and PyTorch's compiler makes one."""
    code = (
        "import os, sys; from contextlib import suppress; import zoo.cli; sys.argv = ['train.py', 'unknown=1']\n"
        "with suppress(SystemExit): zoo.cli.train()\n"
        "import zoo.nn.optim, torch._dynamo.package; print(os.listdir(os.environ['TMPDIR']))"
    )
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent), "TMPDIR": str(tmp_path / "temporary")}
    environment |= {"DANCEZOO_CACHE": str(tmp_path / "cache")}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert output.stdout == "[]\n", output.stderr
    assert names(tmp_path / "cache") == ["torchinductor"]


# Signals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_gives_one_line_and_its_exit_code(signum, code, tmp_path, capsys):
    """And what was being written is deleted, with the folder that was made for it."""
    before = signal.getsignal(signum)
    with pytest.raises(SystemExit) as end, handled_signals(), report_errors("train"):
        with replacing(tmp_path / "new" / "file") as temporary:
            temporary.write_text("a part")
            signal.raise_signal(signum)
    assert end.value.code == code and names(tmp_path) == []
    assert capsys.readouterr().err.count("\n") == 1
    assert signal.getsignal(signum) == before


def test_the_second_signal_ends_a_step(tmp_path):
    """The first one waits for the step's end."""
    with pytest.raises(Stopped), handled_signals():
        STATE.is_deferred = True
        signal.raise_signal(signal.SIGTERM)
        assert STATE.signum == signal.SIGTERM
        signal.raise_signal(signal.SIGTERM)
    STATE.reset()


@pytest.mark.parametrize(
    "variables, job", [({}, "7"), ({"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}, "5_2")]
)
def test_sigusr1_puts_a_slurm_job_into_the_queue_again(variables, job, tmp_path, monkeypatch):
    """With exit code 0."""
    command = tmp_path / "scontrol"
    command.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/called\n")
    command.chmod(0o755)
    for name, value in {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end, handled_signals(), report_errors("train"):
        signal.raise_signal(signal.SIGUSR1)
    assert end.value.code == 0 and (tmp_path / "called").read_text() == f"requeue {job}\n"


def test_a_requeued_job_goes_on_with_its_run(tmp_path, monkeypatch):
    """The same command again: its run is there, and only then."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("train", ["size=debug", f"runs={tmp_path}", "seed=3"])
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    run, _, is_resumed = open_run(config)
    assert run == tmp_path / "magicdance" / "job_7" and not is_resumed
    run.mkdir(parents=True)
    saved = OmegaConf.to_container(config, resolve=True) | {"config_version": 2}
    (run / "config.yaml").write_text(OmegaConf.to_yaml(saved))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    resumed, config, is_resumed = open_run(config)
    assert (resumed, config.seed, is_resumed) == (run, 3, True)


# One run, one process ------------------------------------------------------------------------------------------------


def test_a_run_belongs_to_one_process(tmp_path):
    """A taken name and a run in use are refused; two runs of one second get two folders; a killed one can go on."""
    run = tmp_path / "runs" / "family" / "name"
    with claimed_run(run, "seed: 1\n", is_new=True, is_named=True):
        with pytest.raises(ValueError, match="exists already"), claimed_run(run, "", is_new=True, is_named=True):
            pass
        with pytest.raises(ValueError, match=f"in use: process {os.getpid()}"), claimed_run(run, "", False, True):
            pass
        with claimed_run(run, "", is_new=True, is_named=False) as other:
            assert other == run.with_name("name-v2")
        child = os.fork()  # as a loader process: it may outlive the run
        if not child:
            time.sleep(600)
            os._exit(0)
    (run / ".1a2b3c4d-config.yaml").write_text("part")
    (run / "motion").mkdir()
    (run / "motion" / ".1a2b3c4d-step_0000005.ckpt").write_text("part")
    try:
        with claimed_run(run, "seed: 2\n", is_new=False, is_named=True):
            assert names(run) == ["config.yaml", "lock", "motion"]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (run / "config.yaml").read_text() == "seed: 2\n"


@pytest.mark.parametrize(
    "error, is_new, file, is_left",
    [
        (ValueError("no data"), True, None, False),
        (Stopped(signal.SIGTERM), True, None, False),
        (ValueError("no data"), False, None, True),  # a resumed run
        (ValueError("no data"), True, "motion/step_0000005.ckpt", True),
        (TrainingDiverged("nan"), True, None, True),  # its log says how
        (AssertionError("a bug"), True, None, True),
    ],
)
def test_a_refused_training_leaves_nothing_behind(tmp_path, error, is_new, file, is_left):
    """Not even the folders above; work is never deleted."""
    run = tmp_path / "runs" / "family" / "name"
    if not is_new:
        run.mkdir(parents=True)
    with pytest.raises(type(error)), claimed_run(run, "", is_new, is_named=True):
        if file:
            (run / file).parent.mkdir()
            (run / file).write_text("")
        raise error
    assert run.is_dir() == is_left and (tmp_path / "runs").is_dir() == is_left


@pytest.mark.parametrize(
    "is_there, result, is_left", [(False, None, False), (True, None, True), (False, "a.tar", True)]
)
def test_a_refused_command_removes_the_folder_that_it_made(tmp_path, is_there, result, is_left):
    """Unless there are results in it, or it was there before."""
    out = tmp_path / "new" / "out"
    if is_there:
        out.mkdir(parents=True)
    with pytest.raises(ValueError), removed_if_refused(out, lambda folder: any(folder.glob("*.tar"))):
        out.mkdir(parents=True, exist_ok=True)
        (out / "marker").write_text("")
        if result:
            (out / result).write_text("")
        raise ValueError("refused")
    assert out.is_dir() == is_left and (tmp_path / "new").is_dir() == is_left


def test_partial_files_alone_are_removed(tmp_path):
    """Files and folders of `replacing`, and no others."""
    for name in (".1a2b3c4d-last.ckpt", ".hidden", "last.ckpt", ".1a2b3c4-x"):
        (tmp_path / name).write_text("")
    (tmp_path / ".1a2b3c4d-export" / "sub").mkdir(parents=True)
    remove_partial_files(tmp_path)
    assert names(tmp_path) == [".1a2b3c4-x", ".hidden", "last.ckpt"]


def test_a_killed_writer_leaves_nothing_for_long(tmp_path):
    """The next process that writes in the folder deletes its partial files, and no other's."""
    code = (
        "import os, pathlib; from zoo.files import replacing\n"
        f"with replacing(pathlib.Path({str(tmp_path)!r}) / 'a') as file: file.touch(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(TESTS.parent)})
    (part,) = names(tmp_path)
    assert PARTIAL_NAME.match(part)
    others = [".0123" + part[5:], f".{part[1:5]}{os.getpid():06x}{part[11:]}", ".1a2b3c4d-a"]
    for name in others:  # of another machine, of a living process, of an earlier version
        (tmp_path / name).write_text("")
    write_atomic(tmp_path / "b", b"")
    assert names(tmp_path) == sorted([*others, "b"])


def test_a_killed_process_leaves_no_temporary_folder_for_long(tmp_path, monkeypatch):
    """The next one that makes such a folder removes it, with what is in it. A folder of a living process stays."""
    code = (
        "import os; from zoo.files import temporary_folder\n"
        "with temporary_folder() as folder: (folder / 'a').touch(); os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment)
    assert len(names(tmp_path)) == 2
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with temporary_folder() as folder, temporary_folder() as other:
        assert names(tmp_path) == sorted([folder.name, other.name])
    assert names(tmp_path) == []


# The environment changes nothing silently ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables, num_processes, problem",
    [
        ({}, 1, None),
        ({}, 8, None),  # Lightning starts them
        ({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}, 1, "SLURM_NTASKS=4"),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}, 4, "srun"),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"}, 1, None),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "3"}, 4, None),
        ({"SLURM_NTASKS": "x", "SLURM_PROCID": "3"}, 4, "not a number"),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, 1, None),
        ({"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "RANK": "1"}, 2, None),
        ({"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "RANK": "1"}, 1, "WORLD_SIZE=2"),
        ({"LOCAL_RANK": "0"}, 2, "WORLD_SIZE=1"),
        ({"NODE_RANK": "1"}, 1, "NODE_RANK=1"),
        ({"PL_TRAINER_FAST_DEV_RUN": "1"}, 1, "PL_TRAINER_FAST_DEV_RUN"),
    ],
    ids=str,
)
def test_the_environment_does_not_change_what_was_asked(variables, num_processes, problem, monkeypatch):
    """Processes that a launcher says it started are as many as the trainer asks for, or one line says so."""
    for name in (
        *RANK_VARIABLES,
        "WORLD_SIZE",
        "SLURM_NTASKS",
        "SLURM_JOB_ID",
        "SLURM_JOB_NAME",
        "TORCHELASTIC_RUN_ID",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if problem is None:
        check_launcher(num_processes)
    else:
        with pytest.raises(ValueError, match=problem):
            check_launcher(num_processes)
