"""Real motion that joins the world's train split: motion files in a folder, with their music beside them.

Motion: BVH, AIST++ pickles, DeepMimic text, AMASS npz. Music: a sound file of the same name, or, for AIST++ names such
as gBR_sBM_cAll_d04_mBR0_ch01.pkl, one named after the music in it (mBR0.mp3), anywhere in the folder. A motion without
music has nothing to teach a music-driven model and is left out, by name.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from rich.progress import track

from zoo.batch import MOTION_FPS
from zoo.body.motion_io.formats import READERS, read_motion
from zoo.data.sources.shards import write_shard
from zoo.files import cache_root
from zoo.media import SOUND_CODECS, Sound

AIST_NAME = re.compile(r"g(?P<style>[A-Z]{2})_s\w\w_c\w+_(?P<dancer>d\d+)_(?P<song>m[A-Z]{2}\d+)_ch\d+")
AIST_STYLES = {
    "BR": "break",
    "PO": "pop",
    "LO": "lock",
    "MH": "middle hip-hop",
    "LH": "LA hip-hop",
    "HO": "house",
    "WA": "waack",
    "KR": "krump",
    "JS": "street jazz",
    "JB": "ballet jazz",
}


class RealDances:
    """The dances of a folder as one shard, made once for each state of the folder."""

    def __init__(self, folder: str | Path):
        """Raises ValueError when the folder is missing, holds no motion, or none of its motions has music."""
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise ValueError(f"data.real: {self.folder} is not a folder")
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        sounds = {path.stem: path for path in reversed(files) if path.suffix.lower() in SOUND_CODECS}
        motions = [path for path in files if path.suffix.lower() in READERS]
        if not motions:
            raise ValueError(f"data.real: no motion in {self.folder}; put {', '.join(READERS)} files into it")
        self.pairs, self.without_music = [], []
        for path in motions:
            named = AIST_NAME.fullmatch(path.stem)
            sound = sounds.get(path.stem) or (sounds.get(named["song"]) if named else None)
            if sound:
                self.pairs.append((path, sound))
            else:
                self.without_music.append(path.name)
        if not self.pairs:
            raise ValueError(
                f"data.real: none of the {len(motions)} motions in {self.folder} has music: put a sound file "
                f"of the same name beside each, such as {motions[0].stem}.mp3"
            )
        states = [(path, path.stat()) for pair in self.pairs for path in pair]
        mark = "\n".join(f"{path}:{state.st_size}:{state.st_mtime_ns}" for path, state in states)
        self.path = cache_root() / "real" / f"real-{hashlib.sha256(mark.encode()).hexdigest()[:16]}.tar"

    def make(self) -> None:
        """Write the shard if it is not there. Prints what is left out; raises ValueError when nothing can be read."""
        if self.path.is_file():
            return
        if self.without_music:
            print(f"data.real: left out, no music beside them: {', '.join(self.without_music)}", flush=True)
        write_shard(self.path, self._samples())

    def _samples(self) -> Iterator[tuple[str, dict]]:
        readable = 0
        for path, music in track(self.pairs, description="reading real dances"):
            try:
                motion = read_motion(path)
                sound = Sound(music)
                waveform = sound.mono(sound.sample_rate)
            except ValueError as error:
                print(f"data.real: left out: {error}", flush=True)
                continue
            named = AIST_NAME.fullmatch(path.stem)
            seconds = len(motion) / MOTION_FPS
            readable += 1
            info = {
                "split": "train",
                "song": f"real-{music.stem}",
                "dancer": f"real-{named['dancer'] if named else path.stem}",
                "style": AIST_STYLES.get(named["style"], named["style"]) if named else "real",
                "fps": MOTION_FPS,
                "start": 0.0,
                "seconds": seconds,
                "moves": [[0.0, seconds, "dance", "", 0.5, "dances"]],
            }
            key = "real-" + str(path.relative_to(self.folder).with_suffix("")).replace(".", "_").replace("/", "-")
            yield key, {"info": info, "sound": (waveform, sound.sample_rate), "motion": motion.numpy()}
        if not readable:
            raise ValueError(f"data.real: none of the motions with music in {self.folder} can be read")
