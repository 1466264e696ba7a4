"""No parameter of a recipe stays random: each is trained by a stage that will run, or comes from a file."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from zoo.nn.weights.loading import read_weights
from zoo.run.build import build_family
from zoo.run.checkpoint import RANDOM_PARAMETERS, read_checkpoint
from zoo.run.config import resolve_config
from zoo.run.train.initial_weights import check_random_parameters, load_initial_weights
from zoo.run.train.runs import stage_names

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
CODEC = "codec (83.7 M values)"


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return resolve_config(compose("train", overrides=list(overrides)))


def problem(*overrides: str, loaded: tuple[str, ...] = ()) -> str:
    """What a training says of a family whose parameters below `loaded` came from files; '' where nothing is random."""
    config = composed(*overrides)
    with torch.device("meta"):
        family = build_family(config)
    names = {name for name, _ in family.named_parameters() if not name.startswith(loaded or ("\0",))}
    try:
        check_random_parameters(config, stage_names(config)[0], family, names)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("model", ["musedance", "dabfusion", "m2penc", "magicdance", "magicdance renderer=diffusion"])
def test_recipes_of_the_small_sizes_leave_nothing_random(model):
    overrides = [f"model={model.split()[0]}", *model.split()[1:]]
    for size in ("debug", "tiny"):
        assert problem(*overrides, f"size={size}") == ""


@pytest.mark.parametrize(
    "overrides, loaded, labels",
    [
        ("model=musedance", (), [CODEC]),
        ("model=musedance", ("codec.",), []),
        ("model=dabfusion", (), []),
        ("model=m2penc", (), [CODEC, "guidance_encoders ("]),
        ("model=m2penc", ("codec.", "guidance_encoders."), []),
        ("model=magicdance renderer=diffusion", (), ["animator.unet in part (860 M values)", "animator.codec"]),
        ("model=magicdance renderer=diffusion", ("animator.codec.", "animator.unet."), []),
        ("model=musedance stage=dynamics", ("codec.", "unet."), ["reference_net (", "mask_encoder ("]),
        ("model=musedance stage=autoencoder", (), []),  # appearance and dynamics follow, by ckpt=
    ],
)
def test_the_papers_recipes_name_what_stays_random(overrides, loaded, labels):
    """Without files the papers' recipes would train on random autoencoders: MagicDance's whole renderer among them."""
    message = problem(*overrides.split(), "size=paper", loaded=loaded)
    assert bool(message) == bool(labels) and "\n" not in message
    assert all(label in message for label in labels)
    if labels:
        modules = "reference_net,mask_encoder,codec,guidance_encoders,animator"
        assert problem(*overrides.split(), "size=paper", f"model.random_modules=[{modules}]", loaded=loaded) == ""


def test_a_file_gives_what_it_holds_and_no_more(tmp_path):
    config = composed("model=magicdance", "size=debug", "renderer=diffusion")
    family = build_family(config)
    motion = {name.removeprefix("motion_denoiser."): v for name, v in family.state_dict().items() if "motion_d" in name}
    torch.save(motion, tmp_path / "edge.pt")
    config.init = str(tmp_path / "edge.pt")
    random_names = load_initial_weights(config, "motion", family, None)
    assert random_names == {name for name, _ in family.named_parameters() if name.startswith("animator.")}


def test_a_checkpoint_names_what_is_random_in_it(scripts, small_arguments):
    """A stage that skips one of the recipe would train on its random modules: refused, with exit code 2."""
    arguments = [*small_arguments, "renderer=diffusion", "fit.max_steps=1"]
    process = scripts.inside("train", *arguments, "stage=motion", "name=random")
    assert process.returncode == 0, process.stderr
    checkpoint = scripts.folder / "runs/magicdance/random/motion/last.ckpt"
    names = read_checkpoint(checkpoint)[RANDOM_PARAMETERS]
    assert names and all(name.startswith("animator.") for name in names)
    process = scripts.inside("train", *arguments, "stage=video", f"ckpt={checkpoint}", "name=skips")
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert "animator.codec" in process.stderr and "would stay random" in process.stderr
    assert not (scripts.folder / "runs/magicdance/skips").exists()


def test_networks_of_missing_folders_are_refused_before_the_first_step(scripts, small_arguments):
    node = "model.family.text_encoder"
    clip = f"{node}._target_=zoo.nn.text.ClipTokenEncoder", f"+{node}.weights=nowhere"
    process = scripts.inside("train", *small_arguments, "model=musedance", "name=clip", *clip)
    assert process.returncode == 2 and "a folder with its tokenizer/ and text_encoder/, not nowhere" in process.stderr
    assert not (scripts.folder / "runs/musedance/clip").exists()


def test_init_with_export_writes_a_folder_and_trains_nothing(tmp_path):
    """A shipped model's own file comes out as it went in; a file that lacks modules is refused."""
    weights_file = ROOT / "assets" / "musedance-tiny" / "model.safetensors"
    command = [sys.executable, str(ROOT / "train.py"), f"init={weights_file}", "export=exported"]
    subprocess.run([*command, "model=musedance", "music=timbre"], cwd=tmp_path, check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]
    exported, shipped = (read_weights(path) for path in (tmp_path / "exported" / "model.safetensors", weights_file))
    assert exported.keys() == shipped.keys() and all(torch.equal(exported[name], shipped[name]) for name in shipped)
    shutil.rmtree(tmp_path / "exported")
    refused = subprocess.run([*command, "model=m2penc"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and "no file of init= gives guidance_encoders (" in refused.stderr
    assert not list(tmp_path.iterdir())
