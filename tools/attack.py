"""Attack the program with bad inputs and kills, and count what it does wrong.

python tools/attack.py part=1/4         the first quarter of all inputs; what is done already is not done again
python tools/attack.py kills=200        kill trainings at random moments, resume them, compare the final weights
python tools/attack.py kills=20 variants=processes    of these kinds only: plain, accumulated, workers, processes
python tools/attack.py counts           the counts of everything that was done, as Markdown
python tools/attack.py only=motion      inputs whose name begins so

An input is right when it is used, or refused in one line with exit code 2, within the limits below, and when nothing
that was not named is opened or left behind. Each input runs in a process of its own, forked from one that has imported
everything. Results are appended to FOLDER/results.jsonl (folder=FOLDER, default outputs/attack).
"""

import contextlib
import ctypes
import hashlib
import importlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
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
SECONDS = (
    120  # a fifth of what an input may take by the clock, as other load may slow it, and twice what it may compute
)
MEMORY = 6 << 30  # bytes that an input may make a process take
SMALL = (
    "size=debug data.songs={train:4,val:2,test:2} data.seconds=6 data.dances_per_song=1 data.workers=1 "
    "fit.batch_size=2 fit.log_every_n_steps=1 fit.limit_val_batches=1"
).split()
NUMBERS = ("0", "-1", "1e30", "nan", "inf", "1.5", "x", "null", "[]", "[1,2]", "{a:1}", "true", "''", "1000000000000")
TEXTS = ("", "null", "../x", "/dev/zero", "/dev/null", ".", "a\tb", "${oc.env:HOME}", "[1", "{a:1}", "-1", "x" * 3000)
IN_OPEN, IN_MODIFY, IN_DELETE, IN_CREATE = 0x20, 0x2, 0x200, 0x100
IN_ISDIR = 0x40000000
PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl
KILL_STEPS = ("fit.max_steps=8", "fit.save_every_n_steps=1")
KILL_VARIANTS = {
    "plain": (),
    "accumulated": ("fit.accumulate_grad_batches=2",),
    "workers": ("fit.num_workers=1",),
    "processes": ("trainer=ddp_cpu",),
}


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
        "train": ["plan=true", *SMALL, "fit.max_steps=1"],  # plan=0 trains
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
    """Whole commands: trainings, samplings, shard builds and evaluations that are refused or work."""
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
    evaluate = [
        "ckpt=missing", "ckpt=/dev/zero", "ckpt=null videos=missing", "protocol=x", "metrics=[x]", "metrics=x",
        "out=/proc/x", "workers=-1", "workers=1000000000", "ablations=x", "device=x",
    ]  # fmt: skip
    hostile = [
        *(f"sample music=x.{suffix}" for suffix in ("mp3", "m3u8", "mp4")),
        *(f"sample image=x.{suffix}" for suffix in ("png", "mp4", "svg")),
        *(f"sample motion=x.{suffix}" for suffix in ("glb", "npz", "bvh")),
        *(f"sample ckpt={name}" for name in ("x.ckpt", "x.dcp", "model")),
        "sample weights.pose_detector=x.mp4", "sample weights.beats=x.ckpt", "sample scene=x.png",
        *(f"train init={name}" for name in ("x.ckpt", "x.dcp", "model")),
        *(f"train resume={name}" for name in ("x.ckpt", "x.dcp", "model")),
        "train ckpt=x.ckpt export=out", "train data=shards data.urls=x.tar", "train data.real=x.videos",
        *(f"evaluate ckpt={name}" for name in ("x.ckpt", "x.dcp", "model")),
        "evaluate ckpt=null videos=x.videos", "shards folder=x.videos out=out",
    ]  # fmt: skip
    fixed = {"train": [*SMALL, "fit.max_steps=1"], "sample": ["seconds=0.2", "out=out.mp4"]}
    fixed |= {"shards": [], "evaluate": ["out=out"]}
    plain = {"train": train, "sample": sample, "shards": shards, "evaluate": evaluate}
    for name, all_arguments in plain.items():
        for arguments in all_arguments:
            yield Case(
                f"command {name} {arguments}", partial(use_command, name, [*fixed[name], *arguments.split()]), True
            )
    for arguments in hostile:
        name, *options = arguments.split()
        yield Case(f"command with files {arguments}", partial(use_files, name, [*fixed[name], *options]), True)


def use_command(name: str, arguments: list[str], folder: Path) -> None:
    """A command; exit code 2 comes with its line and no traceback."""
    output = io.StringIO()
    with contextlib.redirect_stderr(output):
        try:
            command(name, *arguments)
        except SystemExit as end:
            lines = output.getvalue().strip().splitlines()
            if "Traceback" in output.getvalue() or end.code not in (0, 2, None):
                raise RuntimeError(f"exit code {end.code}: {output.getvalue()[-600:]}") from None
            if end.code == 2 and not (lines and lines[-1].startswith(f"{name}: ")):
                raise RuntimeError(f"no line says why: {lines[-3:]}") from None
            raise


class Evil:
    """Makes the folder `evil` when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("evil",)


def use_files(name: str, arguments: list[str], folder: Path) -> None:
    """A command in a folder of files that open others, or run code, where a reader follows them."""
    import numpy as np
    import torch
    import yaml

    secret = canary_folder() / "secret.wav"
    concat = f"ffconcat version 1.0\nfile {secret}\n"
    for suffix in ("mp3", "mp4", "png"):
        (folder / f"x.{suffix}").write_text(concat)
    (folder / "x.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    (folder / "x.svg").write_text(f"<svg xmlns='http://www.w3.org/2000/svg'><image href='{secret}'/></svg>")
    (folder / "x.bvh").write_bytes(pickle.dumps(Evil()))
    np.savez(folder / "x.npz", poses=np.array([Evil()], object), trans=np.zeros((1, 3)), mocap_framerate=30)
    text = json.dumps({"asset": {"version": "2.0"}, "buffers": [{"uri": str(secret), "byteLength": 9}]}).encode()
    text += b" " * (-len(text) % 4)
    header = b"glTF" + struct.pack("<II", 2, 20 + len(text)) + struct.pack("<I", len(text)) + b"JSON"
    (folder / "x.glb").write_bytes(header + text)
    torch.save({"state_dict": {}, "config": Evil()}, folder / "x.ckpt")
    for place in ("x.dcp", "x.videos"):
        (folder / place).mkdir()
    (folder / "x.dcp" / ".metadata").write_bytes(pickle.dumps(Evil()))
    (folder / "x.dcp" / "__0_0.distcp").write_bytes(pickle.dumps(Evil()))
    (folder / "x.videos" / "clip.mp4").write_text(concat)
    (folder / "x.videos" / "dance.pkl").write_bytes(pickle.dumps(Evil()))
    (folder / "x.videos" / "dance.wav").write_text(concat)
    with tarfile.open(folder / "x.tar", "w") as tar:
        for key, data, link in (("k.json", b'{"sound_id": "../evil"}', ""), ("k.flac", b"", str(secret))):
            member = tarfile.TarInfo(key)
            member.size, member.linkname = len(data), link
            member.type = tarfile.SYMTYPE if link else tarfile.REGTYPE
            tar.addfile(member, io.BytesIO(data))
    file = export_copy(folder) / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["model"]["family"]["evil"] = {"_target_": "os.mkdir", "path": "evil"}
    file.write_text(yaml.safe_dump(config))
    use_command(name, arguments, folder)


def all_cases() -> list[Case]:
    """All inputs, in a fixed order that mixes the kinds."""
    makers = (option_cases, media_cases, motion_cases, checkpoint_cases, shard_cases, command_cases)
    cases = [case for maker in makers for case in maker()]
    return sorted(cases, key=lambda case: hashlib.sha256(case.name.encode()).digest())


# Judgement -----------------------------------------------------------------------------------------------------------


class Canary:
    """Watches folders whose files nothing may open, by inotify, and compares what lies around the inputs.

    Of the home folder and the cache, hashes: in the cache files may appear, but none may change or vanish. Of the
    folder of the attack, of the one for temporary files and of the checkout, names: nothing may appear or vanish.
    """

    def __init__(self, folder: Path):
        self.folder, self._libc = folder, ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)
        mask = IN_OPEN | IN_MODIFY | IN_DELETE | IN_CREATE
        for watched in (folder / "canary", folder / "home", folder / "home" / ".ssh"):
            if self._libc.inotify_add_watch(self._descriptor, str(watched).encode(), mask) < 0:
                raise OSError(ctypes.get_errno(), f"{watched} cannot be watched")
        self._state = self._read_state()
        self._opened()  # by this process, for the hashes

    def wrong(self) -> str:
        """What was touched since the last call, or an empty text."""
        opened = self._opened()
        before, self._state = self._state, self._read_state()
        self._opened()  # by this process, for the hashes
        if opened:
            return f"a file that nothing named was opened: {opened}"
        for place, old in before.items():
            new = self._state[place]
            changed = [name for name in old if new.get(name) != old[name]]
            changed += [name for name in new if name not in old and place != "cache"]
            if changed:
                return f"{place} was changed: {sorted(changed)[:3]}"
        return ""

    def _opened(self) -> str:
        names = []
        with contextlib.suppress(BlockingIOError):
            events, start = os.read(self._descriptor, 1 << 20), 0
            while start < len(events):
                _, mask, _, length = struct.unpack_from("iIII", events, start)
                start += 16 + length
                if not mask & IN_ISDIR:  # other programs list folders
                    names.append(events[start - length : start].rstrip(b"\0").decode())
        return " ".join(sorted(set(names)))

    def _read_state(self) -> dict[str, dict[str, str]]:
        state: dict[str, dict[str, str]] = {}
        for place in ("home", "cache"):
            files = [path for path in (self.folder / place).rglob("*") if path.is_file()]
            state[place] = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        own = {"case", "case.report", "results.jsonl", "cache"}
        for place in (self.folder, self.folder / "tmp", ROOT):
            state[str(place)] = {name: "" for name in os.listdir(place) if name not in own}
        return state


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
    limit = time.monotonic() + SECONDS * 5
    status = None
    while status is None and time.monotonic() < limit:
        pid, code = os.waitpid(child, os.WNOHANG)
        status = code if pid else time.sleep(0.005)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        _count_orphans()
        return "hangs"
    if num_orphans := _count_orphans():
        return f"{num_orphans} orphans"
    if not report.is_file():
        return f"died: {status}"
    return report.read_text()


def _run_case(case: Case, folder: Path, report: Path) -> None:
    import torch

    from zoo.run.errors import error_message

    # A forked process makes PyTorch's pool of threads anew at its first use. Two of autograd's threads that do it at
    # once end the process; no command of the program forks before it computes.
    torch.set_num_threads(1)
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


def kill_trainings(num_kills: int, folder: Path, results: Path, variants: list[str]) -> None:
    """Kill trainings at random moments and resume them until they end; compare with ones that were not disturbed.

    Kills that `results` holds already count.
    """
    import torch

    (folder / "kills").mkdir(parents=True, exist_ok=True)
    runs = folder / "kills" / "runs" / "magicdance"
    expected, seconds = {}, {}
    for variant in variants:
        options = KILL_VARIANTS[variant]
        whole = runs / f"whole-{variant}"
        shutil.rmtree(whole, ignore_errors=True)
        for _ in range(2 if variant == variants[0] else 1):  # the second one is forked with what the first one imported
            shutil.rmtree(whole, ignore_errors=True)
            code, num_orphans, seconds[variant] = _train(folder, [*SMALL, *KILL_STEPS, *options, f"name={whole.name}"])
            assert (code, num_orphans) == (0, 0), variant
            for name in (folder / "kills" / "modules").read_text().split():
                with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
                    importlib.import_module(name)
        expected[variant] = torch.load(whole / "motion" / "last.ckpt", weights_only=True)["state_dict"]
        print(f"{variant}: {seconds[variant]:.1f} s of the processor without a kill", flush=True)
    for path in (folder / "tmp").iterdir():  # of modules that make folders when they are imported
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    entries = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    entries = [entry for entry in entries if "kills" in entry]
    kills, number = sum(entry["kills"] for entry in entries), len(entries)
    generator = random.Random(number)
    while kills < num_kills:
        number += 1
        variant = variants[number % len(variants)]
        run = runs / f"killed{number}"
        shutil.rmtree(run, ignore_errors=True)
        kills_of_run, num_orphans, wrong = 0, 0, ""
        while True:
            is_started = (run / "config.yaml").is_file() and any(run.glob("motion/*.ckpt"))
            if run.exists() and not is_started:
                shutil.rmtree(run)  # nothing was saved yet: a user starts it again
            new = [*SMALL, *KILL_STEPS, *KILL_VARIANTS[variant], f"name={run.name}"]
            delay = generator.uniform(0.02, 0.9) * seconds[variant] if kills_of_run < 12 else None
            code, orphans, _ = _train(folder, [f"resume={run}"] if is_started else new, delay)
            num_orphans += orphans
            if code != -signal.SIGKILL:
                wrong = "" if code == 0 else f"exit code {code}"
                break
            kills_of_run += 1
        if not wrong:
            weights = torch.load(run / "motion" / "last.ckpt", weights_only=True)["state_dict"]
            different = [name for name in expected[variant] if not torch.equal(weights[name], expected[variant][name])]
            wrong = f"other weights: {different[:3]}" if different or len(weights) != len(expected[variant]) else ""
        left = [str(path) for place in (folder / "kills", folder / "cache") for path in place.rglob(".????????*-*")]
        left += [str(path) for path in (folder / "tmp").iterdir()]
        wrong += f" left behind: {left[:3]}" if left else ""
        wrong += f" {num_orphans} orphans" if num_orphans else ""
        kills += kills_of_run
        _append(results, {"name": f"kills {run.name} {variant}", "kills": kills_of_run, "wrong": wrong})
        print(f"{time.strftime('%X')} {kills} kills; {variant}, {kills_of_run} here; {wrong or 'equal'}", flush=True)
        shutil.rmtree(run, ignore_errors=True)


def _train(folder: Path, arguments: list[str], delay: float | None = None) -> tuple[int, int, float]:
    """Train in a forked process; kill it after `delay` seconds of the processor, which other load does not change.

    Returns its exit code, negative for a signal, the number of its processes that live on, and its own seconds.
    """
    child = os.fork()
    if not child:
        os.chdir(folder / "kills")
        with open("log", "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            code = 0
            try:
                command("train", *arguments)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
            except BaseException:
                traceback.print_exc()
                code = 1
        if delay is None:
            Path("modules").write_text("\n".join(sys.modules))
        os._exit(code)
    while True:
        times = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13]
        seconds = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if delay is not None and seconds > delay:
            os.kill(child, signal.SIGKILL)
            delay = None
        time.sleep(random.uniform(0.001, 0.02))
    return os.waitstatus_to_exitcode(status), _count_orphans(), seconds


def _count_orphans() -> int:
    """The child processes that are left after ten seconds; they are ended. Orphans become children of this process.

    PyTorch's loader processes look for their parent every five seconds.
    """
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 0
        if not pid:
            time.sleep(0.02)
    left = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
        os.waitpid(int(pid), 0)
    return len(left)


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
    canary, home, temporary = folder / "canary", folder / "home", folder / "tmp"
    for path in (canary, home / ".ssh", temporary):
        path.mkdir(parents=True, exist_ok=True)
    for file in (canary / "secret.wav", home / "precious.txt", home / ".netrc", home / ".ssh" / "id_rsa"):
        file.write_bytes(b"a canary\n" * 1000)
    os.environ |= {"ATTACK_CANARY": str(canary), "HOME": str(home), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {"DANCEZOO_CACHE": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "cache" / "torchinductor")  # as zoo.cli: imported here first
    os.environ["TMPDIR"] = str(temporary)
    import torch

    import zoo.families.magicdance.family  # noqa: F401
    import zoo.run.sample.generate
    import zoo.run.train.fit  # noqa: F401  # forked processes have it

    torch.set_num_threads(1)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)
    if "kills" in options:
        variants = options.get("variants", "plain,accumulated,workers").split(",")
        kill_trainings(int(options["kills"] or 200), folder, results, variants)
        return
    part, num_parts = map(int, options.get("part", "1/1").split("/"))
    done = {json.loads(line)["name"] for line in results.read_text().splitlines()} if results.is_file() else set()
    cases = [case for index, case in enumerate(all_cases()) if index % num_parts == part - 1]
    cases = [case for case in cases if case.name not in done and case.name.startswith(options.get("only", ""))]
    for suffix in ".wav .mp3 .ogg .m4a .flac .mp4 .gif .png .jpg .webp .bvh .glb .npz .pkl .json".split():
        sample_file(suffix)
    watcher, num_wrong = Canary(folder), 0
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
