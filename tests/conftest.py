"""What the tests of the commands share: the scripts in a process of their own, and one small trained run."""

import io
import os
import runpy
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from zoo.files import cache_root

# before torch is imported: parallel workers share the cores, and sums are as in the scripts' own processes
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
# a world of eight short songs and a network of a few thousand values: a step takes a hundredth of a second
SMALL = (
    "size=debug data.songs={train:4,val:2,test:2} data.seconds=6 data.dances_per_song=1 data.workers=1 "
    "fit.batch_size=2 fit.log_every_n_steps=1 fit.val_check_interval=7 fit.limit_val_batches=1"
).split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that runs a command as slow."""
    for item in items:
        if "scripts" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


class Scripts:
    """Runs train.py, sample.py and evaluate.py in a folder, with a cache of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {
            "DANCEZOO_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip

    def start(self, script: str, *arguments: str) -> subprocess.Popen:
        """A running script."""
        command = [sys.executable, str(ROOT / f"{script}.py"), *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __call__(self, script: str, *arguments: str) -> subprocess.CompletedProcess:
        """A script that has ended."""
        process = self.start(script, *arguments)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def inside(self, script: str, *arguments: str) -> subprocess.CompletedProcess:
        """A script run in this process, as `python script.py` would be: quick, since torch is imported already."""
        environment, argv, folder = dict(os.environ), sys.argv, os.getcwd()
        out, err, code = io.StringIO(), io.StringIO(), 0
        os.environ.update(self.environment)
        sys.argv = [str(ROOT / f"{script}.py"), *map(str, arguments)]
        os.chdir(self.folder)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
        finally:
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = argv
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def scripts(tmp_path_factory) -> Scripts:
    """The scripts, with one cache for the whole session."""
    return Scripts(tmp_path_factory.mktemp("scripts"))


@pytest.fixture(scope="session")
def small_run(scripts) -> Path:
    """A run of 30 steps from nothing, never interrupted: runs/magicdance/whole with its checkpoints."""
    done = scripts("train", *SMALL, "name=whole", "fit.max_steps=30", "fit.save_every_n_steps=5")
    assert done.returncode == 0, done.stderr
    return scripts.folder / "runs" / "magicdance" / "whole"


@pytest.fixture(scope="session")
def small_arguments() -> list[str]:
    """The overrides of `small_run`, for runs that are to be compared with it."""
    return list(SMALL)


@pytest.fixture(scope="session")
def wheel() -> Path:
    """mediapipe's wheel: where DANCEZOO_PEOPLE says, in the cache, or fetched into it."""
    if "DANCEZOO_PEOPLE" in os.environ:
        return Path(os.environ["DANCEZOO_PEOPLE"])
    folder = cache_root() / "people"
    if not list(folder.glob("mediapipe-0.10.21-*.whl")):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=0", "--timeout=5"]
        kind = ["--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.11"]
        with tempfile.TemporaryDirectory(dir=folder) as own:  # two workers may fetch it at the same time
            try:
                command += [*kind, f"--dest={own}", "mediapipe==0.10.21"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            except subprocess.TimeoutExpired:
                pytest.skip("mediapipe's wheel could not be fetched within two minutes")
            if done.returncode:
                pytest.skip(f"mediapipe's wheel could not be fetched: {done.stderr.strip().splitlines()[-1:]}")
            for file in Path(own).iterdir():
                file.replace(folder / file.name)
    return next(folder.glob("mediapipe-0.10.21-*.whl"))
