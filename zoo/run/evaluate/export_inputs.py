"""Inputs of a protocol's clips, for systems outside the zoo: `evaluate.py export_inputs=DIR`."""

from pathlib import Path

from PIL import Image
from tqdm import tqdm

from zoo.data.base import EvalClips
from zoo.files import write_atomic
from zoo.media import write_sound
from zoo.run.evaluate.protocol import Protocol
from zoo.run.evaluate.records import clip_stem, write_json

README_TEMPLATE = """# Clips of the protocol {id}

{description}

For each of the {count} clips listed in clips.json there is

- NAME.png, the reference image of the figure that is to dance, {width}x{height};
- NAME.wav, the song, of exactly the clip's time;
- NAME.txt, one line that describes the motion, for systems that read text; empty where the data has no captions.

Generate one video for each clip, put them all into one folder, and run

    python evaluate.py protocol={id} videos=FOLDER

Rules. A clip that breaks one is excluded; the report names it and counts it.

- The video of NAME is called NAME.mp4 (or {suffixes}).
- It has exactly {frames} frames, at {fps} frames per second ({seconds:g} s).
- It has the aspect ratio of {width}x{height} (to less than a pixel). Another size is resized, and the report says so:
  a larger one by area averaging, a smaller one by bicubic interpolation.
- The sound of the video is ignored.
"""


def write_inputs(protocol: Protocol, clips: EvalClips, folder: Path, suffixes: tuple[str, ...]) -> Path:
    """Write reference image, song and caption of every clip, with the rules. Returns `folder`."""
    spec, clip_stems = protocol.clip_spec, []
    for clip_index in tqdm(range(len(clips)), desc="inputs", unit="clip", disable=None, dynamic_ncols=True):
        clip = clips[clip_index]
        clip_stems.append(clip_stem(clip.key))
        stem = folder / clip_stems[-1]
        temporary_png = stem.with_name(f".{stem.name}.part.png")
        Image.fromarray(clip.reference).save(temporary_png)
        temporary_png.replace(stem.with_name(f"{stem.name}.png"))
        write_sound(stem.with_name(f"{stem.name}.wav"), clip.waveform, clip.sample_rate)
        write_atomic(stem.with_name(f"{stem.name}.txt"), f"{clip.caption}\n".encode())
    entries = [{"name": name, **labels} for name, labels in zip(clip_stems, clips.labels, strict=True)]
    write_json(folder / "clips.json", entries)
    readme = README_TEMPLATE.format(
        id=protocol.id,
        description=protocol.description,
        count=len(clip_stems),
        height=spec.height,
        width=spec.width,
        frames=spec.frames,
        fps=spec.rate,
        seconds=float(spec.seconds),
        suffixes=", ".join(suffixes[1:]),
    )
    write_atomic(folder / "README.md", readme.encode())
    print(f"{folder}: {len(clip_stems)} clips; its README.md explains how to use them")
    return folder
