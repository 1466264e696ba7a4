"""Recorded motion that joins the world's train split: motion files in a folder, with their music beside them.

Motion: BVH, AIST++ pickles, DeepMimic text, AMASS npz. Music: a sound file of the same name, or, for AIST++ names such
as gBR_sBM_cAll_d04_mBR0_ch01.pkl, one named after the music in it (mBR0.mp3), anywhere in the folder. Motion without
music cannot train a music-driven model: it is left out, and named.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.progress import track

from zoo.batch import MOTION_FPS
from zoo.body.motion_io.formats import READERS, read_motion
from zoo.data import aist
from zoo.data.code_hash import code_hash
from zoo.data.shard_file import write_shard
from zoo.files import cache_root, normalize_name, user_path
from zoo.media import SOUND_CODECS, Sound

# the code that decides the content of the shard, by folders
MOCAP_CODE = (
    "data/sources/mocap.py",
    "data/aist.py",
    "data/sample_format.py",
    "data/shard_file.py",
    "body/motion_io/*.py",
    "body/skeleton.py",
    "media.py",
)


class MocapFolder:
    """The dances of a folder as one shard, written once for each state of the folder and of the code that reads it."""

    def __init__(self, folder: str | Path):
        """Raises ValueError when the folder is missing, holds no motion, or none of its motions has music."""
        self.folder = user_path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"data.mocap_folder: {self.folder} is not a folder")
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        sounds = {normalize_name(path.stem): path for path in reversed(files) if path.suffix.lower() in SOUND_CODECS}
        motions = [path for path in files if path.suffix.lower() in READERS]
        if not motions:
            raise ValueError(f"data.mocap_folder: no motion in {self.folder}; put {', '.join(READERS)} files into it")
        self.pairs: list[tuple[Path, Path]] = []  # (motion, sound)
        self.without_music: list[str] = []
        for path in motions:
            aist_name = aist.NAME.fullmatch(path.stem)
            sound = sounds.get(normalize_name(path.stem)) or (sounds.get(aist_name["song"]) if aist_name else None)
            if sound:
                self.pairs.append((path, sound))
            else:
                self.without_music.append(path.name)
        if not self.pairs:
            raise ValueError(
                f"data.mocap_folder: none of the {len(motions)} motions in {self.folder} has music: put a sound file "
                f"of the same name beside each, such as {motions[0].stem}.mp3"
            )
        states = [(path, path.stat()) for pair in self.pairs for path in pair]
        state_text = "\n".join(f"{path}:{state.st_size}:{state.st_mtime_ns}" for path, state in states)
        key = hashlib.sha256(f"{state_text}\n{code_hash(MOCAP_CODE)}".encode()).hexdigest()[:16]
        self.path = cache_root() / "real" / f"real-{key}.tar"

    def build(self) -> None:
        """Write the shard if it does not exist. Prints the files left out; raises ValueError when none can be read."""
        if self.path.is_file():
            return
        if self.without_music:
            names = ", ".join(self.without_music)
            print(f"data.mocap_folder: left out, no music beside them: {names}", flush=True)
        write_shard(self.path, self._samples())

    def _samples(self) -> Iterator[tuple[str, dict]]:
        num_read, keys = 0, unique_keys([path for path, _ in self.pairs], self.folder)
        for path, sound_path in track(self.pairs, description="reading motion capture"):
            try:
                motion = read_motion(path)
                sound = Sound(sound_path)
                waveform = sound.mono(sound.sample_rate)
            except (ValueError, OSError) as error:
                print(f"data.mocap_folder: left out: {error}", flush=True)
                continue
            aist_name = aist.NAME.fullmatch(path.stem)
            seconds = len(motion) / MOTION_FPS
            num_read += 1
            info = {
                "split": "train",
                "song": f"real-{sound_path.stem}",
                "dancer": f"real-{aist_name['dancer'] if aist_name else path.stem}",
                "style": aist.world_style(aist_name["style"]) if aist_name else "real",
                "fps": MOTION_FPS,
                "start": 0.0,
                "seconds": seconds,
                "moves": [[0.0, seconds, "dance", "", 0.5, "dances"]],
            }
            yield keys[path], {"info": info, "sound": (waveform, sound.sample_rate), "motion": motion.numpy()}
        if not num_read:
            raise ValueError(f"data.mocap_folder: no motion with music in {self.folder} can be read")


def unique_keys(paths: Sequence[Path], folder: Path) -> dict[Path, str]:
    """Path -> the key of its sample; a hash keeps files with equal keys apart, such as a.b.bvh and a_b.bvh."""
    relative_paths = {path: path.relative_to(folder) for path in paths}
    keys = {
        path: "real-" + str(relative_path.with_suffix("")).replace(".", "_").replace("/", "-")
        for path, relative_path in relative_paths.items()
    }
    counts = Counter(keys.values())
    return {
        path: key if counts[key] == 1 else f"{key}-{hashlib.sha256(str(relative_paths[path]).encode()).hexdigest()[:6]}"
        for path, key in keys.items()
    }
