"""What others need to make videos for a row of their own: `evaluate.py inputs=DIR`."""

from pathlib import Path

from PIL import Image
from tqdm import tqdm

from zoo.data.base import EvalClips
from zoo.files import write_atomic
from zoo.media import write_sound
from zoo.run.evaluate.protocol import Protocol
from zoo.run.evaluate.records import file_name, write_json

README = """# Clips of the protocol {id}

{description}

For each of the {count} clips listed in clips.json there is

- NAME.png, the reference picture of the figure that is to dance, {width}x{height};
- NAME.wav, the song, of exactly the clip's time;
- NAME.txt, a line that says the motion, for systems that read text; it is empty where the data has none.

Make one video of each and put them all into one folder, then

    python evaluate.py protocol={id} videos=FOLDER

What is scored, and what is excluded, named in the report and counted:

- The video of NAME is called NAME.mp4 (or {suffixes}).
- It has {frames} frames, neither more nor fewer, at {fps} frames a second ({seconds:g} s).
- It has the proportions of {width}x{height} (to less than a pixel). Another size is resized, which the report says:
  a larger one by averaging areas, a smaller one by bicubic interpolation.
- Sound in the video is not listened to.
"""


def write_inputs(protocol: Protocol, takes: EvalClips, folder: Path, suffixes: tuple[str, ...]) -> Path:
    """Reference picture, song and line of text of every clip, with the rules; returns `folder`."""
    cut, names = protocol.cut, []
    for index in tqdm(range(len(takes)), desc="inputs", unit="clip", disable=None, dynamic_ncols=True):
        take = takes[index]
        names.append(file_name(take.key))
        stem = folder / names[-1]
        picture = stem.with_name(f".{stem.name}.part.png")
        Image.fromarray(take.reference).save(picture)
        picture.replace(stem.with_name(f"{stem.name}.png"))
        write_sound(stem.with_name(f"{stem.name}.wav"), take.waveform, take.sample_rate)
        write_atomic(stem.with_name(f"{stem.name}.txt"), f"{take.caption}\n".encode())
    listed = [{"name": name, **labels} for name, labels in zip(names, takes.labels, strict=True)]
    write_json(folder / "clips.json", listed)
    text = README.format(
        id=protocol.id,
        description=protocol.description,
        count=len(names),
        height=cut.height,
        width=cut.width,
        frames=cut.frames,
        fps=cut.rate,
        seconds=float(cut.seconds),
        suffixes=", ".join(suffixes[1:]),
    )
    write_atomic(folder / "README.md", text.encode())
    print(f"{folder}: {len(names)} clips; README.md there says what to do with them")
    return folder
