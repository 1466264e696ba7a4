"""DabFusion that is told the dance's style in place of the music (sec. 4.5, Table 6): train, sample, evaluate."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from weights import fill_by_name, numbers

from zoo.families.base import GenerationRequest
from zoo.files import conf_folder
from zoo.media import read_frames
from zoo.music.beats import NO_BEATS
from zoo.music.encoder import MusicFeatures
from zoo.run.build import build_family, required_keys
from zoo.run.checkpoint import load_family, read_checkpoint

WORLD = (
    "data.songs={train:4,val:1,test:2} data.seconds=6 data.dances_per_song=1 data.workers=1 data.rendering.seconds=2 "
    "data.rendering.height=64 data.rendering.width=64"
).split()
SMALL = [
    *WORLD,
    *(
        "model=dabfusion size=debug model.family.condition_on=text model.family.num_frames=4 "
        "model.family.num_context_frames=2 model.family.sampler.num_inference_steps=2 "
        "model.family.sampler.dynamic_threshold=0.9 model.family.noise_schedule.prediction_type=v_prediction "
        "model.family.flow_residual_scale=4.0 model.family.autoencoder.base_channels=4 "
        "model.family.autoencoder.region_base_channels=4 model.family.autoencoder.flow_base_channels=4 "
        "model.family.autoencoder.background_base_channels=4 model.family.unet.base_channels=8 "
        "model.family.unet.channel_multipliers=[1,2] model.stages.flow.module.supervision_warmup_steps=800 "
        "model.stages.flow.module.num_reconstructed_clips=12 "
        "model.stages.diffusion.clip.num_frames=5 fit.batch_size=2 fit.limit_val_batches=1 fit.max_steps=2"
    ).split(),
]
ASSETS = Path(__file__).parents[1] / "assets" / "demo"


def composed(*overrides: str):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("train", overrides=[*SMALL, *overrides])


@pytest.fixture(scope="module")
def checkpoint(scripts):
    """A run of both stages, a few steps each."""
    process = scripts.inside("train", *SMALL, "name=text")
    assert process.returncode == 0, process.stderr
    return scripts.folder / "runs" / "dabfusion" / "text" / "diffusion" / "last.ckpt"


def test_the_style_is_the_condition_of_all_frames(checkpoint):
    """The scaling is fitted on what the styles are called; one vector for all frames, and no beats unless asked for."""
    family, _ = load_family(checkpoint)
    assert family.music_scale.high.isfinite().all() and family.music_scale.mean.shape == (512,)
    condition = family.encode_style(["house", "break"], None, 4)
    assert condition.shape == (2, 4, 512) and torch.equal(condition[:, :1].expand_as(condition), condition)
    assert torch.equal(family.encode_texts(["house"]), family.encode_texts([" house dance music"]))
    assert torch.equal(family.encode_texts(["house"]), family.text_encoder.encode(["house dance music"]))
    for beats, needs in (("null", ()), ("true", ("beats", "beat_phase")), ("false", ())):
        config = composed(f"model.family.condition_on_beats={beats}")
        family = build_family(config)
        assert required_keys(config, "diffusion", family) == ("key", "frames", "style", *needs)
        condition = family.encode_style(["house"], family.beats_at(np.arange(3.0), 4), 4)
        assert condition.shape == (1, 4, 515 if needs else 512)


def test_frames_depend_on_the_prompt_or_on_the_music_but_not_on_both():
    """Another prompt is another dance, another song is not; a model that hears music is the other way round."""
    for condition_on, differs in (("text", "prompt"), ("music", "song")):
        family = fill_by_name(
            build_family(composed(f"model.family.condition_on={condition_on}", "model.family.condition_on_beats=false"))
        )
        dances = []
        for prompt, song in (("house", "a"), ("break", "a"), ("house", "b")):
            music = MusicFeatures(numbers(song, 60, 35), 30.0, NO_BEATS)
            picture = (numbers("picture", 3, 64, 64) * 40 + 128).clamp(0, 255).to(torch.uint8)
            with torch.inference_mode():
                dances.append(torch.cat(list(family.generate(GenerationRequest(picture, music, 5, 12, prompt)))))
        equal, different = (2, 1) if differs == "prompt" else (1, 2)
        assert torch.equal(dances[0], dances[equal]) and not torch.equal(dances[0], dances[different])


def test_commands_refuse_a_missing_prompt_and_an_unknown_condition(checkpoint, scripts):
    """sample.py takes the prompt; without one it refuses, as train.py does another sense, in one line."""
    arguments = (
        f"ckpt={checkpoint} image={ASSETS / 'picture.png'} music={ASSETS / 'song.ogg'} seconds=0.5 fps=12".split()
    )
    process = scripts.inside("sample", *arguments, "prompt=house", f"out={scripts.folder}/a.mp4")
    assert process.returncode == 0 and read_frames(scripts.folder / "a.mp4")[0].shape == (6, 64, 64, 3), process.stderr
    refused = scripts.inside("sample", *arguments, f"out={scripts.folder}/b.mp4")
    assert refused.returncode == 2 and "give prompt=STYLE" in refused.stderr and refused.stderr.count("\n") == 1
    assert not (scripts.folder / "b.mp4").exists()
    refused = scripts.inside("train", *SMALL, "model.family.condition_on=smell")
    assert refused.returncode == 2 and "condition_on=smell: use music or text" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_evaluation_uses_the_style_or_the_caption_as_the_prompt(checkpoint, scripts, tmp_path):
    """The row's frames are those of the clip's label; with the caption they are a row of their own."""
    contents = read_checkpoint(checkpoint)
    family = fill_by_name(load_family(checkpoint)[0])  # two steps of training answer to no prompt yet
    contents["state_dict"] = {f"family.{name}": value for name, value in family.state_dict().items()}
    torch.save(contents, tmp_path / "x.ckpt")
    arguments = [
        *WORLD, f"ckpt={tmp_path / 'x.ckpt'}", "protocol.frames=6", "protocol.height=64", "protocol.width=64",
        "protocol.num_clips=2", "protocol.repeats=0", "metrics=[ssim]", "workers=0", f"out={tmp_path / 'out'}",
    ]  # fmt: skip
    videos = {}
    for prompt in ("style", "caption"):
        process = scripts.inside("evaluate", *arguments, f"prompt={prompt}")
        assert process.returncode == 0, process.stderr
        results = json.loads((tmp_path / "out" / "metrics.json").read_text())
        row = results["rows"][3]
        videos[prompt] = [read_frames(tmp_path / "out" / row["videos"][key])[0] for key in row["clips"]]
    for index, key in enumerate(row["clips"]):
        clip = next((tmp_path / "out").glob(f"clips-*/{key}.npz"))
        picture = torch.from_numpy(np.load(clip)["reference"]).movedim(2, 0)
        style, rate = results["clips"][key]["labels"]["style"], Fraction(results["protocol"]["fps"])
        seed = results["protocol"]["seed"] + index
        with torch.inference_mode():
            music = MusicFeatures(torch.empty(0, 35), 30.0, NO_BEATS)
            blocks = family.generate(GenerationRequest(picture, music, 6, rate, style, seed))
            frames = torch.cat(list(blocks)).movedim(1, -1).numpy()
        assert np.array_equal(videos["style"][index], frames)
        assert not np.array_equal(videos["caption"][index], frames)
    refused = scripts.inside("evaluate", *arguments, "prompt=song")
    assert refused.returncode == 2 and "prompt=song: use caption or style" in refused.stderr
