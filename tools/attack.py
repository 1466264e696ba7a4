"""Attack the program with bad inputs and kills, and count what it does wrong.

python tools/attack.py part=1/4         the first quarter of all inputs; what is done already is not done again
python tools/attack.py kills=200        kill trainings at random moments, resume them, compare the final weights
python tools/attack.py counts           the counts of everything that was done, as Markdown
python tools/attack.py only=motion      inputs whose name begins so

An input is right when it is used, or refused in one line with exit code 2, within the limits below, and when nothing
that was not named is opened or left behind. Each input runs in a process of its own, forked from one that has imported
everything. Results are appended to FOLDER/results.jsonl (folder=FOLDER, default outputs/attack).
"""

import contextlib
import ctypes
import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
SECONDS = 120  # of wall clock; the processor's seconds are limited to half of it
MEMORY = 6 << 30  # bytes that an input may make a process take
SMALL = (
    "size=debug data.songs={train:4,val:2,test:2} data.seconds=6 data.dances_per_song=1 data.workers=1 "
    "fit.batch_size=2 fit.log_every_n_steps=1 fit.limit_val_batches=1"
).split()
NUMBERS = ("0", "-1", "1e30", "nan", "inf", "1.5", "x", "null", "[]", "[1,2]", "{a:1}", "true", "''", "1000000000000")
TEXTS = ("", "null", "../x", "/dev/zero", "/dev/null", ".", "a\tb", "${oc.env:HOME}", "[1", "{a:1}", "-1", "x" * 3000)
IN_OPEN, IN_MODIFY, IN_DELETE, IN_CREATE = 0x20, 0x2, 0x200, 0x100
IN_ISDIR = 0x40000000


@dataclass(frozen=True)
class Case:
    """One input: its name, and the function that uses it in an empty folder. It may raise what a user can mend."""

    name: str
    run: Callable[[Path], None]
    is_command: bool = False


# Inputs --------------------------------------------------------------------------------------------------------------


def command(name: str, *arguments: str) -> None:
    """Run a command in this process, as a shell would."""
    from zoo.cli import COMMANDS

    sys.argv = [str(ROOT / f"{name}.py"), *arguments]
    COMMANDS[name]()


def option_cases() -> Iterator[Case]:
    """Every option of every command with values of other types and ranges; nothing is trained or sampled."""
    from omegaconf import DictConfig, OmegaConf

    def leaves(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, object]]:
        for key, value in node.items():
            if key not in ("defaults", "hydra"):
                if isinstance(value, DictConfig):
                    yield from leaves(value, f"{prefix}{key}.")
                else:
                    yield f"{prefix}{key}", value

    fixed = {
        "train": ["plan=true", "size=debug"],
        "sample": [],
        "shards": ["folder=missing"],
        "evaluate": ["ckpt=missing", "videos=missing"],
    }
    files = {name: [f"{name}.yaml"] for name in fixed}
    files["train"] += ["trainer/cpu.yaml", "data/world.yaml"]
    for name, arguments in fixed.items():
        for file in files[name]:
            prefix = "" if file == f"{name}.yaml" else f"{Path(file).parent}."
            for option, default in leaves(OmegaConf.load(ROOT / "conf" / file), prefix):
                is_number = isinstance(default, int | float) or option.startswith(("fit.", "sampler."))
                for value in NUMBERS if is_number else TEXTS:
                    run = partial(check_options, name, [*arguments, f"{option}={value}"])
                    yield Case(f"option {name} {option}={value[:40]!r}", run)


def check_options(name: str, arguments: list[str], folder: Path) -> None:
    """A command up to the point where work begins."""
    if name == "sample":
        import zoo.run.sample.generate as generate_module

        generate_module.generate = lambda request: None
    command(name, *arguments)


def media_cases() -> Iterator[Case]:
    """Sounds, images and videos: cut off, with changed bytes, of another kind, lists of other files."""
    from zoo.data.frame_source import VideoFile
    from zoo.media import Sound, read_frames, read_image

    def use_sound(path: Path) -> None:
        Sound(path).mono(16000)

    def use_video(path: Path) -> None:
        from fractions import Fraction

        video = VideoFile(path)
        list(video.frames_at([Fraction(0), video.seconds() / 2]))

    readers = {"sound": use_sound, "image": read_image, "frames": read_frames, "video": use_video}
    lists = {
        "concat": "ffconcat version 1.0\nfile CANARY\n",
        "hls": "#EXTM3U\n#EXTINF:1,\nCANARY\n#EXT-X-ENDLIST\n",
        "svg": "<svg xmlns='http://www.w3.org/2000/svg'><image href='CANARY'/></svg>",
        "sdp": "v=0\nm=audio 5004 RTP/AVP 0\n",
        "mpd": "<MPD><BaseURL>CANARY</BaseURL></MPD>",
        "imf": "<AssetMap><Path>CANARY</Path></AssetMap>",
    }
    for kind, text in lists.items():
        for suffix in (".mp3", ".mp4", ".png", ".m3u8", ".wav"):
            for reader, use in readers.items():
                yield Case(f"media list {kind} as {suffix} by {reader}", partial(use_list, text, f"x{suffix}", use))
    sounds = [(suffix, "sound") for suffix in (".wav", ".mp3", ".ogg", ".m4a", ".flac")]
    images = [(suffix, "image") for suffix in (".png", ".jpg", ".webp")]
    for suffix, reader in (*sounds, *images, (".mp4", "frames"), (".mp4", "video"), (".gif", "frames")):
        for change in range(12):
            yield Case(
                f"media {suffix} change {change} by {reader}", partial(use_changed, suffix, change, readers[reader])
            )


def use_list(text: str, name: str, use: Callable[[Path], object], folder: Path) -> None:
    """A file that names the canary."""
    (folder / name).write_text(text.replace("CANARY", str(canary_folder() / "secret.wav")))
    use(folder / name)


def use_changed(suffix: str, change: int, use: Callable[[Path], object], folder: Path) -> None:
    """A sound, image or video with a change."""
    file = folder / f"x{suffix}"
    file.write_bytes(changed(sample_file(suffix), change, suffix))
    use(file)


def changed(data: bytes, change: int, seed: str) -> bytes:
    """0 to 11: cut off, filled up, with other bytes at some places, or doubled."""
    generator = random.Random(f"{seed} {change}")
    result = bytearray(data)
    if change < 3:
        return data[: len(data) * (change + 1) // 5 + change]
    if change == 3:
        return data + data
    if change == 4:
        return data[:64] + bytes(len(data))
    for _ in range((1, 3, 10, 100, 1000, 3, 30)[change - 5]):
        end = 200 if change > 9 else len(result)
        result[generator.randrange(min(end, len(result)))] = generator.randrange(256)
    return bytes(result)


def sample_file(suffix: str) -> bytes:
    """A good file of a format."""
    import numpy as np
    from PIL import Image

    from zoo.media import VideoWriter, write_sound

    file = canary_folder().parent / f"good{suffix}"
    if not file.is_file():
        wave = (0.5 * np.sin(np.arange(32000) / 9)).astype(np.float32)
        image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
        if suffix in (".wav", ".mp3", ".ogg", ".m4a", ".flac"):
            write_sound(file, wave, 16000)
        elif suffix in (".mp4", ".gif"):
            with VideoWriter(file, 10) as video:
                video.write(np.stack([image] * 10))
        elif suffix in (".bvh", ".glb", ".npz"):
            import torch

            from zoo.body.motion_io.formats import write_motion
            from zoo.body.skeleton import STANDING, pack

            turns = torch.eye(3).repeat(30, 24, 1, 1)
            turns[:, 0] = STANDING
            write_motion(file, pack(turns, torch.tensor([0.0, 0.0, 0.95]).repeat(30, 1)))
        elif suffix == ".pkl":
            motion = {"smpl_poses": np.zeros((60, 72)), "smpl_trans": np.zeros((60, 3)), "smpl_scaling": np.ones(1)}
            file.write_bytes(pickle.dumps(motion))
        elif suffix == ".json":
            frame = [0.03, 0, 1, 0] + [1, 0, 0, 0] * 4 + [0] + [1, 0, 0, 0] * 2 + [0] + [1, 0, 0, 0] * 2 + [0]
            file.write_text(json.dumps({"Loop": "none", "Frames": [(frame + [0] * 44)[:44]] * 30}))
        else:
            Image.fromarray(image).save(file)
    return file.read_bytes()


def motion_cases() -> Iterator[Case]:
    """Motion files with changes, and what only claims to be large."""
    from zoo.body.motion_io.formats import read_motion

    for suffix in (".bvh", ".glb", ".npz", ".pkl", ".json"):
        for change in range(12):
            yield Case(f"motion {suffix} change {change}", partial(use_changed, suffix, change, read_motion))
        for other in (".bvh", ".glb", ".npz", ".pkl", ".json", ".txt"):
            yield Case(f"motion {suffix} as {other}", partial(use_as, suffix, other, read_motion))
    for name, edit in {
        "frames": lambda text: text.replace("Frames: 30", "Frames: 99999999999"),
        "no frames": lambda text: text.replace("Frames: 30", "Frames: 0"),
        "time 0": lambda text: text.replace("Frame Time: 0.03333333", "Frame Time: 0"),
        "time tiny": lambda text: text.replace("Frame Time: 0.03333333", "Frame Time: 1e-30"),
        "channels": lambda text: text.replace("CHANNELS 3", "CHANNELS 999999999", 1),
        "channels -1": lambda text: text.replace("CHANNELS 3", "CHANNELS -1", 1),
        "deep": lambda text: "HIERARCHY\nROOT a\n" + "{\nOFFSET 0 0 0\nCHANNELS 0\nJOINT a\n" * 5000 + text,
        "nan": lambda text: text[: text.rindex(" ")] + " nan",
        "huge": lambda text: text[: text.rindex(" ")] + " 1e300",
        "digits": lambda text: text[: text.rindex(" ")] + " " + "9" * 100000,
        "bom": lambda text: "\ufeff" + text,
        "brackets": lambda text: text.replace("}", "", 3),
    }.items():
        yield Case(f"motion bvh {name}", partial(use_text, edit, ".bvh", read_motion))
    for name, shape, dtype in (
        ("large", (10**9, 72), "<f8"), ("object", (2,), "|O"), ("negative", (-1, 72), "<f4"), ("flat", (72,), "<f4"),
        ("wide", (2, 10**9), "<f4"), ("text", (2, 72), "<U9"), ("complex", (2, 72), "<c8"), ("void", (2, 72), "V8"),
    ):  # fmt: skip
        yield Case(f"motion npz {name}", partial(use_npz, shape, dtype, read_motion))


def use_as(suffix: str, other: str, use: Callable[[Path], object], folder: Path) -> None:
    """A file under another format's name."""
    (folder / f"x{other}").write_bytes(sample_file(suffix))
    use(folder / f"x{other}")


def use_text(edit: Callable[[str], str], suffix: str, use: Callable[[Path], object], folder: Path) -> None:
    """A text file with an edit."""
    (folder / f"x{suffix}").write_text(edit(sample_file(suffix).decode()))
    use(folder / f"x{suffix}")


def use_npz(shape: tuple[int, ...], dtype: str, use: Callable[[Path], object], folder: Path) -> None:
    """An npz whose header claims an array."""
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    with zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("poses", "trans", "mocap_framerate"):
            archive.writestr(
                f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(4096)
            )
    use(folder / "x.npz")


def checkpoint_cases() -> Iterator[Case]:
    """Checkpoints: values of their configuration, odd contents, changed bytes."""
    from omegaconf import OmegaConf

    file = ROOT / "assets" / "magicdance-tiny" / "config.yaml"
    config = OmegaConf.to_container(OmegaConf.load(file))

    def leaves(node: object, path: tuple = ()) -> Iterator[tuple]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield from leaves(value, (*path, key))
        elif path[0] in ("model", "music"):
            yield path

    paths = list(leaves(config))
    values = (None, "x", -1, 10**12, 1e30, [1], {"a": 1}, "os.system", "${oc.env:HOME}", True)
    generator = random.Random(0)
    for number in range(100):
        path, value = generator.choice(paths), values[number % len(values)]
        yield Case(f"checkpoint {'.'.join(map(str, path))}={value!r}", partial(use_export, config, path, value))
    for change in range(12):
        yield Case(f"checkpoint weights change {change}", partial(use_changed_weights, change))
    for name, text in {
        "alias": "a: &a [x,x]\nb: &b [*a,*a]\n", "deep": "[" * 5000, "tag": "!!python/object/apply:os.system [x]\n",
        "empty": "", "binary": "\x00\x01", "long": "a: " + "x" * 10**6, "list": "- 1\n", "many": "a: 1\n" * 10**5,
    }.items():  # fmt: skip
        yield Case(f"checkpoint yaml {name}", partial(use_yaml, text))


def export_copy(folder: Path) -> Path:
    """A copy of the shipped model."""
    shutil.copytree(ROOT / "assets" / "magicdance-tiny", folder / "model")
    return folder / "model"


def load_export(folder: Path) -> None:
    """Load an exported folder."""
    from zoo.run.checkpoint import load_family

    load_family(folder, True)


def use_export(config: dict, path: tuple, value: object, folder: Path) -> None:
    """An export whose configuration has another value."""
    import copy

    import yaml

    config = copy.deepcopy(config)
    node = config
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    model = export_copy(folder)
    (model / "config.yaml").write_text(yaml.safe_dump(config))
    load_export(model)


def use_changed_weights(change: int, folder: Path) -> None:
    """An export whose weights have changed bytes."""
    model = export_copy(folder)
    (file,) = model.glob("*.safetensors")
    file.write_bytes(changed(file.read_bytes(), change, "weights"))
    load_export(model)


def use_yaml(text: str, folder: Path) -> None:
    """An export with another text in place of its configuration."""
    model = export_copy(folder)
    (model / "config.yaml").write_text(text)
    load_export(model)


def shard_cases() -> Iterator[Case]:
    """Shards: names and descriptions of samples, changed bytes, links."""
    infos = ("{}", "[]", "null", "{", '{"sound_id": "../x"}', '{"song": 3}', '{"fps": 0}', '{"fps": "1e999"}',
             '{"frames": -1}', '{"start": "nan"}', '{"seconds": 1e30}', '{"beats": {}}', '{"caption": 3}')  # fmt: skip
    for info in infos:
        yield Case(f"shard info {info}", partial(use_shard, "k.json", info.encode(), tarfile.REGTYPE))
    for name in ("../x.json", "/x.json", "a/b.json", ".json", "k.npz", "k.mp4", "k.flac", "k" * 300 + ".json"):
        yield Case(f"shard member {name[:40]}", partial(use_shard, name, b"x", tarfile.REGTYPE))
    for kind, number in (("symlink", tarfile.SYMTYPE), ("link", tarfile.LNKTYPE), ("fifo", tarfile.FIFOTYPE),
                         ("device", tarfile.CHRTYPE), ("folder", tarfile.DIRTYPE)):  # fmt: skip
        for name in ("k.json", "k.flac"):
            yield Case(f"shard {kind} {name}", partial(use_shard, name, b"", number))
    for change in range(12):
        yield Case(f"shard change {change}", partial(use_changed_shard, change))


def use_shard(name: str, content: bytes, kind: bytes, folder: Path) -> None:
    """A shard with one good sample and a member."""
    good = io.BytesIO(sample_file(".flac"))
    with tarfile.open(folder / "a.tar", "w") as tar:
        for key, data in (("good.flac", good.getvalue()), ("good.json", b"{}"), (name, content)):
            member = tarfile.TarInfo(key)
            member.size, member.type = len(data), kind if key == name else tarfile.REGTYPE
            member.linkname = str(canary_folder() / "secret.wav")
            tar.addfile(member, io.BytesIO(data))
    read_shard(folder / "a.tar")


def use_changed_shard(change: int, folder: Path) -> None:
    """A shard with changed bytes."""
    with tarfile.open(folder / "good.tar", "w") as tar:
        for key, data in (("good.flac", sample_file(".flac")), ("good.json", b"{}")):
            member = tarfile.TarInfo(key)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (folder / "a.tar").write_bytes(changed((folder / "good.tar").read_bytes(), change, "shard"))
    read_shard(folder / "a.tar")


def read_shard(path: Path) -> None:
    """Index a shard and encode its songs."""
    from zoo.data.music_cache import MusicFeatureCache
    from zoo.data.shard_file import ShardReader
    from zoo.music.spectral import Spectral

    MusicFeatureCache(Spectral()).build([ShardReader([path])], 1)


def command_cases() -> Iterator[Case]:
    """Whole commands in new processes: trainings, samplings and shard builds that are refused or work."""
    train = [
        "fit.max_steps=0", "fit.max_steps=x", "fit.batch_size=1000000000", "fit.accumulate_grad_batches=1000000000",
        "trainer.num_nodes=2", "trainer.devices=0", "trainer.devices=999", "trainer.devices=x", "trainer.strategy=null",
        "trainer.strategy=5", "trainer.strategy=x", "trainer.accelerator=tpu", "trainer.accelerator=gpu",
        "fit.precision=64", "fit.precision=16-true", "fit.precision=transformer-engine", "seed=-1", "seed=1e30",
        "stage=x", "stage=image", "stage=[motion,motion]", "data=missing", "data.songs=5", "data.songs={train:0}",
        "data.seconds=0", "data.seconds=x", "data.workers=-1", "music=clap", "music=missing", "model=missing",
        "size=missing", "init=missing", "init=/dev/zero", "ckpt=missing", "resume=missing", "resume=.", "export=.",
        "export=/proc/x", "runs=/proc/x", "runs=/dev/null", "name=../x", "name=", "fit.x=1", "x=1", "data=shards",
        "data.urls=x.tar", "model.stages.motion.x=1", "model.family._target_=os.system", "trusted_modules=x",
    ]  # fmt: skip
    sample = [
        "ckpt=missing", "ckpt=/dev/zero", "music=missing", "music=/dev/zero", "image=missing", "image=/dev/zero",
        "weights.pose_detector=/dev/zero", "weights.pose_detector=.", "out=/proc/x.mp4", "out=x.xyz",
        "out=missing/x.mp4", "seconds=0", "seconds=nan", "fps=0", "fps=1000", "device=x", "device=cuda:9", "renderer=x",
        "renderer=diffusion", "motion=x", "motion=x.bvh", "scene=missing", "precision=x", "sampler.eta=2",
        "sampler.num_inference_steps=0", "model=dabfusion",
    ]  # fmt: skip
    shards = [
        "folder=missing",
        "folder=. out=x",
        "folder=. out=/proc/x",
        "folder=/dev/null out=x",
        "folder=. out=. fps=0",
    ]
    for name, all_arguments, fixed in (
        ("train", train, [*SMALL, "fit.max_steps=1"]),
        ("sample", sample, ["seconds=0.2", "out=x.mp4"]),
        ("shards", shards, []),
    ):
        for arguments in all_arguments:
            yield Case(f"command {name} {arguments}", partial(use_command, name, [*fixed, *arguments.split()]), True)


def use_command(name: str, arguments: list[str], folder: Path) -> None:
    """A command in a new process."""
    result = subprocess.run(
        [sys.executable, "-m", "zoo.cli", name, *arguments], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=SECONDS * 4,
    )  # fmt: skip
    if "Traceback" in result.stderr or result.returncode not in (0, 2):
        raise RuntimeError(f"exit code {result.returncode}: {result.stderr[-600:]}")
    if result.returncode == 2:
        raise ValueError(result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "nothing was printed")


def all_cases() -> list[Case]:
    """All inputs, in a fixed order that mixes the kinds."""
    makers = (option_cases, media_cases, motion_cases, checkpoint_cases, shard_cases, command_cases)
    cases = [case for maker in makers for case in maker()]
    return sorted(cases, key=lambda case: hashlib.sha256(case.name.encode()).digest())


# Judgement -----------------------------------------------------------------------------------------------------------


class Canary:
    """Watches a folder whose files nothing may open, by inotify, and compares hashes of the home folder."""

    def __init__(self, folder: Path, home: Path):
        self.home, self._libc = home, ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)
        mask = IN_OPEN | IN_MODIFY | IN_DELETE | IN_CREATE
        self._libc.inotify_add_watch(self._descriptor, str(folder).encode(), mask)
        self._hashes = self._home_hashes()

    def wrong(self) -> str:
        """What was touched since the last call, or an empty text."""
        with contextlib.suppress(BlockingIOError):
            events, start = os.read(self._descriptor, 1 << 16), 0
            while start < len(events):
                _, mask, _, length = struct.unpack_from("iIII", events, start)
                start += 16 + length
                if not mask & IN_ISDIR:  # other programs list folders
                    return f"a file that nothing named was opened: {events[start - length : start].decode()}"
        hashes = self._home_hashes()
        if hashes != self._hashes:
            self._hashes = hashes
            return "the home folder was changed"
        return ""

    def _home_hashes(self) -> dict[str, str]:
        files = [path for path in self.home.rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def canary_folder() -> Path:
    """The watched folder."""
    return Path(os.environ["ATTACK_CANARY"])


def judge(case: Case, folder: Path) -> str:
    """What is wrong about a case, or an empty text. Runs it in a forked process."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    report = folder.with_name(f"{folder.name}.report")
    report.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        _run_case(case, folder, report)
    limit = time.monotonic() + (SECONDS * 5 if case.is_command else SECONDS)
    status = None
    while status is None and time.monotonic() < limit:
        pid, code = os.waitpid(child, os.WNOHANG)
        status = code if pid else time.sleep(0.005)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "hangs"
    if not report.is_file():
        return f"died: {status}"
    return report.read_text()


def _run_case(case: Case, folder: Path, report: Path) -> None:
    from zoo.run.errors import error_message

    os.chdir(folder)
    if not case.is_command:
        limit = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0]) + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS // 2, SECONDS // 2))
    output, wrong = io.StringIO(), ""
    before = set(folder.rglob("*"))
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                case.run(folder)
                is_refused = False
            except SystemExit as end:
                is_refused = end.code not in (0, None)
                if end.code not in (0, None, 2):
                    wrong = f"exit code {end.code}"
    except BaseException as error:
        is_refused, message = True, error_message(error)
        if message is None:
            wrong = "traceback: " + "".join(traceback.format_exception(error))[-1500:]
        elif not message or "\n" in message:
            wrong = f"not one line: {message[:300]!r}"
    inputs = {"x", "a", "good", "model"}
    left = [
        path
        for path in set(folder.rglob("*")) - before
        if path.relative_to(folder).parts[0].split(".")[0] not in inputs
    ]
    if is_refused and left and not wrong:
        wrong = f"left behind: {sorted(str(path.relative_to(folder)) for path in left)[:5]}"
    report.write_text(wrong)
    os._exit(0)


# Kills ---------------------------------------------------------------------------------------------------------------


def kill_trainings(num_kills: int, folder: Path, results: Path) -> None:
    """Kill trainings at random moments and resume them until they end; compare with one that was not disturbed."""
    import torch

    steps = ["fit.max_steps=16", "fit.save_every_n_steps=2"]
    whole = folder / "kills" / "runs" / "magicdance" / "whole"
    (folder / "kills").mkdir(parents=True, exist_ok=True)
    if not (whole / "motion" / "step_0000016.ckpt").is_file():
        shutil.rmtree(whole, ignore_errors=True)
        began = time.monotonic()
        assert _train(folder, [*SMALL, *steps, "name=whole"], None) == 0, "the undisturbed run failed"
        (folder / "kills" / "seconds").write_text(str(time.monotonic() - began))
    seconds = float((folder / "kills" / "seconds").read_text())
    expected = torch.load(whole / "motion" / "last.ckpt", weights_only=True)["state_dict"]
    generator, kills, number = random.Random(len(results.read_text()) if results.is_file() else 0), 0, 0
    while kills < num_kills:
        number += 1
        run = folder / "kills" / "runs" / "magicdance" / f"killed{number}"
        shutil.rmtree(run, ignore_errors=True)
        kills_of_run, wrong = 0, ""
        while True:
            is_started = (run / "config.yaml").is_file() and any(run.glob("motion/*.ckpt"))
            if run.exists() and not is_started:
                shutil.rmtree(run)  # nothing was saved yet: a user starts it again
            arguments = [f"resume={run}"] if is_started else [*SMALL, *steps, f"name={run.name}"]
            delay = generator.uniform(0.05, 1.2) * seconds if kills_of_run < 12 else None
            code = _train(folder, arguments, delay)
            if code != -signal.SIGKILL:
                wrong = "" if code == 0 else f"exit code {code}"
                break
            kills_of_run += 1
        if not wrong:
            weights = torch.load(run / "motion" / "last.ckpt", weights_only=True)["state_dict"]
            different = [name for name in expected if not torch.equal(weights[name], expected[name])]
            wrong = f"other weights: {different[:3]}" if different else ""
        partial_files = [str(path) for path in (folder / "kills").rglob(".????????*-*")]
        wrong = wrong or (f"left behind: {partial_files[:3]}" if partial_files else "")
        kills += kills_of_run
        _append(results, {"name": f"kills {run.name}", "kills": kills_of_run, "wrong": wrong})
        print(f"{kills} kills; {wrong or 'equal'}", flush=True)
        shutil.rmtree(run, ignore_errors=True)


def _train(folder: Path, arguments: list[str], delay: float | None) -> int:
    """Train in a forked process; kill it after `delay` seconds. Returns its exit code, negative for a signal."""
    child = os.fork()
    if not child:
        os.chdir(folder / "kills")
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
            code = 0
            try:
                command("train", *arguments)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
            except BaseException:
                code = 1
        os._exit(code)
    limit = None if delay is None else time.monotonic() + delay
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if limit is not None and time.monotonic() > limit:
            os.kill(child, signal.SIGKILL)
            limit = None
        time.sleep(0.005)


# Results -------------------------------------------------------------------------------------------------------------


def _append(results: Path, entry: dict) -> None:
    with results.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def print_counts(results: Path) -> None:
    """A Markdown table of all results, and the wrong ones."""
    entries = {}
    for line in results.read_text().splitlines() if results.is_file() else []:
        entry = json.loads(line)
        entries[entry["name"]] = entry
    totals, wrong = Counter(), Counter()
    for name, entry in entries.items():
        kind = name.split()[0]
        totals[kind] += entry.get("kills", 1)
        wrong[kind] += bool(entry["wrong"])
    print("| kind | number | wrong |\n|---|---:|---:|")
    for kind in sorted(totals):
        print(f"| {kind} | {totals[kind]} | {wrong[kind]} |")
    for name, entry in entries.items():
        if entry["wrong"]:
            print(f"- {name}: {entry['wrong'][-400:]}")


def main() -> None:
    """See the top of this file."""
    options = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    folder = Path(options.get("folder", "outputs/attack")).resolve()
    results = folder / "results.jsonl"
    if "counts" in options:
        print_counts(results)
        return
    canary, home = folder / "canary", folder / "home"
    for path in (canary, home):
        path.mkdir(parents=True, exist_ok=True)
    for file in (canary / "secret.wav", home / "precious.txt"):
        file.write_bytes(b"a canary\n" * 1000)
    os.environ |= {"ATTACK_CANARY": str(canary), "HOME": str(home), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {"DANCEZOO_CACHE": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    import torch

    import zoo.run.sample.generate
    import zoo.run.train.fit  # noqa: F401  # forked processes have it

    torch.set_num_threads(1)
    if "kills" in options:
        kill_trainings(int(options["kills"] or 200), folder, results)
        return
    part, num_parts = map(int, options.get("part", "1/1").split("/"))
    done = {json.loads(line)["name"] for line in results.read_text().splitlines()} if results.is_file() else set()
    cases = [case for index, case in enumerate(all_cases()) if index % num_parts == part - 1]
    cases = [case for case in cases if case.name not in done and case.name.startswith(options.get("only", ""))]
    for suffix in ".wav .mp3 .ogg .m4a .flac .mp4 .gif .png .jpg .webp .bvh .glb .npz .pkl .json".split():
        sample_file(suffix)
    watcher, num_wrong = Canary(canary, home), 0
    for number, case in enumerate(cases, 1):
        wrong = judge(case, folder / "case") or watcher.wrong()
        num_wrong += bool(wrong)
        _append(results, {"name": case.name, "wrong": wrong})
        if wrong or number % 50 == 0:
            print(f"{number} of {len(cases)}, {num_wrong} wrong; {case.name}: {wrong[-300:] or 'right'}", flush=True)
    print_counts(results)
    sys.exit(bool(num_wrong))


if __name__ == "__main__":
    main()
