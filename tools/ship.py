"""Make a shipped model of a finished run: assets/FAMILY-SIZE with weights, config, model card and contact sheet.

python tools/ship.py RUN FAMILY-SIZE --command TEXT --commit HASH --minutes N --machine TEXT [--dtype int8]
                     [--part animator] [--summary TEXT] [--limits TEXT ...]
python tools/ship.py --scores METRICS.json

The first command exports the averaged weights of the run's last stage; with --part it adds that part of them to a
shipped model that lacks it, whose other weights and default renderer stay. The second command, after `python
evaluate.py`, writes the scores of every shipped model with their intervals on its card. The contact sheet has a row
for each of six figures: the image, then frames of a dance to the demo's song.
"""

import argparse
import json
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from zoo.body.detection.synthetic_detector import SyntheticPoseDetector
from zoo.body.render.rasterizer import render_motion
from zoo.body.skeleton import STANDING
from zoo.data.world.scene import make_scene
from zoo.families.base import GenerationRequest
from zoo.media import Sound
from zoo.music.encoder import encode_song
from zoo.run.build import build_encoder
from zoo.run.checkpoint import CARD_FILE, export, load_family
from zoo.run.config import CONFIG_FILE, load_renderer, read_config
from zoo.run.models import shipped_models
from zoo.run.report.table import format_score

ROOT = Path(__file__).parents[1]
SHEET = "contact_sheet.png"
FIGURES = {"woman": 9, "man": 6, "robot": 4, "doll": 5, "cat": 3, "bear": 25}  # body -> number of a test dancer
WORLD_SEED, SECONDS, FPS, NUM_FRAMES, SIDE = 1, 4, 12, 7, 128
PROMPT = "a dancer waves both arms"
BEGIN, END = "<!-- scores: tools/ship.py -->", "<!-- end of the scores -->"
COLUMNS = ("psnr", "ssim", "identity_distance", "background_distance", "fvd_world", "beat_align_2d", "prompt_following")


def last_checkpoint(run: Path, config: DictConfig) -> Path:
    """The last.ckpt of the last stage that a run trained. Raises ValueError without one."""
    stages = [name for name in config.model.stages if (run / name / "last.ckpt").is_file()]
    if not stages:
        raise ValueError(f"{run} holds no STAGE/last.ckpt of {', '.join(config.model.stages)}")
    return run / stages[-1] / "last.ckpt"


def figure_image(body: str) -> np.ndarray:
    """A standing figure of the world's test dancers, (SIDE, SIDE, 3) uint8."""
    rotations = torch.eye(3).repeat(1, 24, 1, 1)
    rotations[:, 0] = STANDING
    root = np.array([[0.0, 0.0, 0.95]], np.float32)
    scene = make_scene(WORLD_SEED, f"contact-sheet-{body}", f"test-dancer-{FIGURES[body]:03d}", root, SIDE, SIDE)
    view = (scene.camera, SIDE, SIDE, scene.backdrop_image)
    return render_motion(scene.appearance, rotations.numpy(), root, *view, maps=("rgb",))["rgb"][0]


def contact_sheet(folder: Path, renderer: str | None = None) -> np.ndarray:
    """(6 SIDE, (1 + NUM_FRAMES) SIDE, 3) uint8: images of figures, and frames of their dances by the model.

    renderer: its name, or None for the family's default.
    """
    family, config = load_family(folder)
    renderer = renderer or family.default_renderer
    node = load_renderer({"name": renderer}) if renderer else None
    if node is not None:
        family.configure({"renderer": node, "pose_detector": SyntheticPoseDetector(), "use_fallback": True})
    music = encode_song(Sound(ROOT / "assets" / "demo" / "song.ogg"), build_encoder(config), Fraction(SECONDS))
    rows = []
    for seed, body in enumerate(FIGURES):
        image = figure_image(body)
        inputs = torch.from_numpy(image).permute(2, 0, 1)
        request = GenerationRequest(inputs, music, SECONDS * FPS, Fraction(FPS), PROMPT, seed)
        with torch.inference_mode():
            frames = torch.cat([block.cpu() for block in family.generate(request)]).permute(0, 2, 3, 1).numpy()
        picked = frames[np.linspace(0, len(frames) - 1, NUM_FRAMES).round().astype(int)]
        tiles = [image, *(cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in picked)]
        rows.append(np.hstack(tiles))
    return np.vstack(rows)


def model_card(name: str, config: DictConfig, training: dict[str, Any], dtype: str, summary: str, limits: list[str]):
    """The text of README.md: a header for programs, then what a reader needs."""
    family = str(config.model.name)
    header = {
        "library_name": "dancezoo",
        "license": "apache-2.0",
        "tags": ["dance", "video-generation", family],
        "training": training,
    }
    facts = [f"- {key}: {value}" for key, value in training.items()]
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(header, sort_keys=False, width=1000)}---\n",
            f"# {name}\n",
            f"{summary}\n",
            *facts,
            f"- weights: averaged (EMA), {dtype}, safetensors\n",
            f"```\npython sample.py ckpt={name} image=me.jpg music=song.mp3\n```\n",
            f"![Six figures of the synthetic world: image, then frames of a dance]({SHEET})\n",
            "## Scores\n",
            f"{BEGIN}\nnot measured yet\n{END}\n",
            "## Limits\n",
            *(f"- {limit}" for limit in limits),
            "- Trained on the synthetic world only.\n",
        ]
    )


def scores_table(results: dict[str, Any], name: str) -> str:
    """Scores of a model's rows of metrics.json beside the ground truth's, with intervals, and the command."""
    rows = {row["name"]: row for row in results["rows"]}
    names = [name, *(row for row in rows if row.startswith(f"{name} "))]  # NAME renderer=..., NAME without ...
    lines = [f"| | ground truth | {' | '.join(names)} |", "|---|---:|" + "---:|" * len(names)]
    for key in COLUMNS:
        if key in results["columns"]:
            column = results["columns"][key]
            cells = [format_score(rows[row]["scores"][key], column["digits"]) for row in ("ground truth", *names)]
            lines.append(f"| {column['title']} | {' | '.join(cells)} |")
    seconds = " | ".join(f"{rows[row]['cost']['seconds_per_second']:.2f}" for row in names)
    lines.append(f"| generation, seconds a video second | | {seconds} |")
    protocol, provenance = results["protocol"], results["provenance"]
    return "\n".join(
        [
            *lines,
            "",
            f"`{provenance['command']}`, protocol `{protocol['id']}` ({protocol['hash']}), commit "
            f"`{provenance['commit']}`, seed {provenance['seed']}, {provenance['machine']}, {provenance['date']}.",
        ]
    )


def with_scores(card: str, table: str) -> str:
    """The card with the table between its two marks, or in a section of its own at the end."""
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        return f"{card.rstrip()}\n\n## Scores\n\n{BEGIN}\n{table}\n{END}\n"
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def write_scores(file: Path) -> None:
    """Write the scores of an evaluation on the cards of the shipped models that it measured."""
    results = json.loads(file.read_text())
    names = {row["name"] for row in results["rows"]}
    for model in shipped_models():
        if model.name in names:
            (model.folder / CARD_FILE).write_text(with_scores(model.card, scores_table(results, model.name)))


def ship(options: argparse.Namespace, assets: Path = ROOT / "assets") -> Path:
    """Make the folder of a shipped model, or add a part to one. Returns it.

    Raises ValueError where the folder, or the part in it, exists.
    """
    config = read_config((options.run / CONFIG_FILE).read_text(), options.run / CONFIG_FILE)
    checkpoint = last_checkpoint(options.run, config)
    training = {
        "data": f"data={OmegaConf.select(config, 'data._target_', default='unknown').rpartition('.')[2].lower()}",
        "command": options.command,
        "commit": options.commit,
        "seed": int(config.seed),
        "minutes": options.minutes,
        "machine": options.machine,
    }
    if options.part:
        return add_part(checkpoint, assets / options.name, options, training)
    folder = export(checkpoint, assets / options.name, options.dtype)
    card = model_card(options.name, config, training, options.dtype, options.summary, options.limits)
    (folder / CARD_FILE).write_text(card)
    Image.fromarray(contact_sheet(folder)).save(folder / SHEET)
    return folder


def add_part(checkpoint: Path, folder: Path, options: argparse.Namespace, training: dict[str, Any]) -> Path:
    """Add a part of a checkpoint to a shipped model: PART.safetensors, its configuration, a section on the card."""
    part_file, config_file = folder / f"{options.part}.safetensors", folder / CONFIG_FILE
    if part_file.exists():
        raise ValueError(f"{part_file} exists")
    family, config = load_family(folder)
    with tempfile.TemporaryDirectory() as temporary:
        exported = export(checkpoint, Path(temporary) / "model", options.dtype)
        exported_config = read_config((exported / CONFIG_FILE).read_text(), exported / CONFIG_FILE)
        config.model.family[options.part] = exported_config.model.family[options.part]
        config.model.family.default_renderer = family.default_renderer
        shutil.copy(exported / part_file.name, part_file)
    config_file.write_text(OmegaConf.to_yaml(config))
    renderers = [name for name in load_family(folder)[0].trained_renderers if name not in family.trained_renderers]
    for renderer in renderers:
        sheet = f"{Path(SHEET).stem}_{renderer}.png"
        Image.fromarray(contact_sheet(folder, renderer)).save(folder / sheet)
        facts = [f"- {key}: {value}" for key, value in training.items()]
        section = [
            f"\n## `renderer={renderer}`\n",
            f"{options.summary}\n",
            *facts,
            f"- weights: averaged (EMA), {options.dtype}, `{part_file.name}`",
            *(f"- {limit}" for limit in options.limits),
            f"\n![Six figures of the synthetic world: image, then frames of a dance]({sheet})",
        ]
        card = folder / CARD_FILE
        card.write_text(card.read_text().rstrip() + "\n" + "\n".join(section) + "\n")
    return folder


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("name", nargs="?")
    parser.add_argument("--command")
    parser.add_argument("--commit")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--machine")
    parser.add_argument("--dtype", default="int8", choices=("fp32", "fp16", "int8"))
    parser.add_argument("--summary", default="A checkpoint of the zoo.")
    parser.add_argument("--limits", nargs="*", default=[])
    parser.add_argument("--part", help="an optional part of the family, such as MagicDance's animator")
    parser.add_argument("--scores", type=Path)
    options = parser.parse_args()
    if options.scores:
        write_scores(options.scores)
        return
    missing = [key for key in ("run", "name", "command", "commit", "minutes", "machine") if not getattr(options, key)]
    if missing:
        parser.error(f"missing: {', '.join(missing)}")
    print(ship(options))


if __name__ == "__main__":
    main()
