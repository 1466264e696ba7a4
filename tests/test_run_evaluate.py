"""evaluate.py for real: the shipped checkpoint, videos made elsewhere, ground truth and baselines in one table."""

import json
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from zoo.body.detection.factory import SYNTHETIC, load_detector
from zoo.body.skeleton import resample
from zoo.families.magicdance.family import MagicDance
from zoo.files import conf_folder, file_hash
from zoo.media import decode_frames, encode_frames, read_frames, read_image
from zoo.metrics.frames import Psnr
from zoo.music.spectral import Spectral
from zoo.run.checkpoint import load_family
from zoo.run.config import config_files, load_renderer
from zoo.run.evaluate import systems
from zoo.run.evaluate.benchmark import _named_paths
from zoo.run.evaluate.protocol import fingerprint, protocol_hash, read_metrics, read_protocol
from zoo.run.evaluate.records import FOLDER_MARKER
from zoo.run.evaluate.systems import EvaluatedCheckpoint, pair_clips
from zoo.run.models import shipped_models

SHIPPED = "magicdance-tiny"
# eight clips of two seconds: four songs, two dancers to each
TINY = (
    f"ckpt={SHIPPED} renderer=auto "
    "data.songs={train:1,val:1,test:4} data.seconds=6 data.dances_per_song=2 data.workers=1 data.rendering.seconds=2 "
    "data.rendering.height=64 data.rendering.width=64 protocol.frames=24 protocol.height=64 protocol.width=64 "
    "protocol=world-v1 protocol.num_clips=8 protocol.repeats=2 sampler.num_inference_steps=2 workers=0"
).split()
HOSTILE = {  # what is wrong with the clip at this place -> what the report says of it
    0: "cannot be read", 1: "6 frames a second, not 12", 2: "23 frames", 3: "more than 24 frames",
    4: "another aspect ratio", 5: "no video of it", 6: "two videos",
}  # fmt: skip


def run(scripts, *arguments):
    """An evaluation that has to succeed, and what it wrote."""
    done = scripts.inside("evaluate", *TINY, *arguments)
    assert done.returncode == 0, done.stderr
    out = Path(next(a for a in arguments if a.startswith("out=")).removeprefix("out="))
    return json.loads((out / "metrics.json").read_text())


def steady(results: dict) -> str:
    """What has to be the same in every run: all but when, by what command, and how fast."""
    rows = [{key: value for key, value in row.items() if key != "cost"} for row in results["rows"]]
    return json.dumps({**results, "provenance": None, "rows": rows}, sort_keys=True)


def kept(out: Path) -> dict[str, int]:
    """When each video, motion and measurement in a folder was written."""
    return {str(f): f.stat().st_mtime_ns for f in out.rglob("*") if f.parent != out and f.is_file()}


@pytest.fixture(scope="module")
def table(scripts, tmp_path_factory):
    """The folder of one evaluation of the shipped checkpoint."""
    out = tmp_path_factory.mktemp("evaluation") / "out"
    return out, run(scripts, f"out={out}")


@pytest.fixture(scope="module")
def truths(table):
    """Clip -> the file of its ground truth."""
    out, results = table
    return {clip: out / path for clip, path in results["rows"][0]["videos"].items()}


def test_the_table_says_what_was_compared(table):
    """Rows, columns with values or reasons, intervals around means, every pair compared, nothing that is not JSON."""
    out, results = table
    assert [row["name"] for row in results["rows"]] == ["ground truth", "frozen reference", "other song", SHIPPED]
    assert results["protocol"]["id"] == "world-v1+changes" and len(results["protocol"]["hash"]) == 12
    for row in results["rows"]:
        assert len(row["clips"]) == 8 and not row["excluded"] and row["scores"].keys() == results["columns"].keys()
        for column, score in row["scores"].items():
            assert score.get("reason") or float(score["low"]) <= float(score["mean"]) <= float(score["high"]), column
        assert set(row["by"]["camera"]) == {clip["labels"]["camera"] for clip in results["clips"].values()}
    truth, frozen, _, dance = results["rows"]
    assert "lpips" in truth["scores"]["lpips"]["reason"] and "exact motion" in frozen["scores"]["pfc"]["reason"]
    assert truth["scores"]["psnr"]["mean"] == "inf" and truth["scores"]["ssim"]["mean"] == 1
    assert dance["scores"]["multimodality"]["n"] == 2 and dance["scores"]["pfc"]["n"] == 8
    assert dance["cost"]["parameters"] == 3605399 and dance["cost"]["seconds_per_second"] > 0
    assert dance["cost"]["peak_memory_mb"] > 100 and not dance.get("notes")
    pairs = {(line["a"], line["b"]) for line in results["comparisons"]}
    assert len(pairs) == 6 and (SHIPPED, "ground truth") in pairs
    line = next(c for c in results["comparisons"] if c["a"] == SHIPPED and c["column"] == "ssim")
    assert line["difference"] < 0 and line["p"] <= line["p_holm"] <= 1 and line["n"] == 8
    assert {file.name for file in out.iterdir()} >= {"metrics.json", "table.md", "table.tex", "report.html"}
    assert all((out / clip["sound"]).is_file() for clip in results["clips"].values())


def test_the_clips_are_the_datas_own(table, truths):
    """The ground truth's file decodes to the very frames of the data."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("evaluate", overrides=TINY)
    takes = instantiate(config.data).eval_clips("test", read_protocol(config).clip_spec, Spectral())
    assert takes.keys == list(truths)
    for index in (0, 7):
        assert np.array_equal(decode_frames(truths[takes.keys[index]].read_bytes()), takes[index].frames)


def test_the_motion_is_the_one_that_is_seen(table):
    """Rendering the kept motion gives the frames that were kept; the second dance is another."""
    out, results = table
    row = results["rows"][3]
    key = row["clips"][0]
    video = out / row["videos"][key]
    motion = np.load(video.with_suffix(".npz"))
    clips = next(out.glob("clips-*"))
    family, _ = load_family(Path(__file__).parents[1] / "assets" / SHIPPED)
    assert isinstance(family, MagicDance)
    family.configure(
        {"renderer": load_renderer({"name": family.default_renderer}), "pose_detector": load_detector(SYNTHETIC)}
    )
    picture = torch.from_numpy(np.load(clips / f"{key}.npz")["reference"]).permute(2, 0, 1)
    times = torch.arange(24, dtype=torch.float64) / 12
    drawn = family.renderer.begin(picture, 12, 0).draw(resample(torch.from_numpy(motion["motion"]), times))
    assert np.abs(drawn.permute(0, 2, 3, 1).numpy().astype(int) - read_frames(video)[0]).mean() < 0.05
    assert len(motion["motion"]) == len(motion["second_motion"]) == 60
    assert np.abs(motion["motion"] - motion["second_motion"]).max() > 0.1
    assert "second_motion" not in np.load((out / row["videos"][row["clips"][2]]).with_suffix(".npz"))


def test_nothing_is_done_twice(scripts, table):
    """The same command again measures nothing and says the same."""
    out, results = table
    before = kept(out)
    assert steady(run(scripts, f"out={out}")) == steady(results)
    assert kept(out) == before


def test_a_killed_evaluation_goes_on_where_it_was(scripts, table, tmp_path):
    """SIGKILL while it dances: what was made stays untouched, and the end is the same to the last digit."""
    out = tmp_path / "out"
    process = scripts.start("evaluate", *TINY, f"out={out}")
    deadline = time.monotonic() + 120
    while len(list(out.glob(f"{SHIPPED}-*/*.json"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {name: when for name, when in kept(out).items() if not Path(name).name.startswith(".")}
    danced = [name for name in before if f"/{SHIPPED}-" in name and name.endswith(".json")]
    assert 2 <= len(danced) < 8
    assert steady(run(scripts, f"out={out}")) == steady(table[1])
    after = kept(out)
    unfinished = {f"{Path(name).with_suffix('')}." for name in before} - {f"{Path(n).with_suffix('')}." for n in danced}
    for name, when in before.items():
        if not any(name.startswith(stem) for stem in unfinished if f"/{SHIPPED}-" in stem):
            assert after[name] == when, name


def test_videos_made_elsewhere(scripts, table, truths, tmp_path):
    """The truth under another name scores as the truth; what cannot be scored is named with its reason, and counted."""
    out, results = table
    perfect, hostile = tmp_path / "perfect", tmp_path / "hostile"
    perfect.mkdir(), hostile.mkdir()
    for index, (key, path) in enumerate(truths.items()):
        shutil.copy(path, perfect / f"{key}.mp4")
        frames = decode_frames(path.read_bytes())
        fps, made = 12, frames
        if index == 0:
            (hostile / f"{key}.mp4").write_bytes(path.read_bytes()[:300])
            continue
        fps = 6 if index == 1 else 12
        made = frames[:23] if index == 2 else np.concatenate([frames, frames]) if index == 3 else made
        made = made[:, :48] if index == 4 else made
        made = made.repeat(2, 1).repeat(2, 2) if index == 7 else made  # twice the size: brought back by averaging
        if index != 5:
            (hostile / f"{key}.mp4").write_bytes(encode_frames(made, fps, crf=0))
        if index == 6:
            shutil.copy(path, hostile / f"{key}.mov")
    (hostile / "notes.txt").write_text("of somebody")
    untouched = {file: file.read_bytes() for file in hostile.iterdir()}
    found = run(scripts, f"videos=[{perfect},{hostile}]", "metrics=[psnr,ssim,av_align,fvd_world]", f"out={out}")
    truth, same, other = found["rows"][0], *found["rows"][4:]
    assert same["scores"] == truth["scores"] and len(same["clips"]) == 8
    said = {line["clip"]: line["reason"] for line in other["excluded"]}
    keys = list(truths)
    assert set(said) == {keys[index] for index in HOSTILE}
    assert all(words in said[keys[index]] for index, words in HOSTILE.items()), said
    assert other["clips"] == [keys[7]] and other["scores"]["ssim"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 1}
    assert "1 other files" in other["notes"][0] and "128x128 were resized to 64x64" in other["notes"][1]
    assert {file: file.read_bytes() for file in hostile.iterdir()} == untouched
    assert {line["n"] for line in found["comparisons"] if str(hostile) in (line["a"], line["b"])} == {1}


def test_inputs_for_others(scripts, tmp_path, truths):
    """A picture, a song and a line of text of every clip, and the rules; nothing is scored."""
    done = scripts.inside("evaluate", *TINY, f"export_inputs={tmp_path / 'inputs'}", f"out={tmp_path / 'out'}")
    assert done.returncode == 0 and not (tmp_path / "out").exists(), done.stderr
    listed = json.loads((tmp_path / "inputs" / "clips.json").read_text())
    assert [clip["name"] for clip in listed] == list(truths)
    for clip in listed:
        files = {suffix: tmp_path / "inputs" / f"{clip['name']}.{suffix}" for suffix in ("png", "wav", "txt")}
        assert read_image(files["png"]).shape == (64, 64, 3) and files["txt"].read_text().strip()
        assert files["wav"].stat().st_size == pytest.approx(2 * 2 * 22050, rel=1.2)
    assert "24 frames" in (tmp_path / "inputs" / "README.md").read_text()


@pytest.mark.parametrize(
    "wrong, words",
    [
        ("ckpt=nowhere.ckpt", "no such file"),
        ("ckpt=[assets/magicdance-tiny,assets/magicdance-tiny]", "twice"),
        ("ckpt=evaluate.py", "is no checkpoint"),
        ("use_ema=false", "averaged weights only"),
        ("use_ema=best", "true or false"),
        ("videos=assets", "no video named after a clip"),
        ("videos=evaluate.py", "is no folder"),
        ("metrics=[psnr,beauty]", "no metric beauty"),
        ("metrics=[]", "leaves nothing"),
        ("protocol.split=best", "train val test"),
        ("protocol.num_clips=1", "protocol.num_clips"),
        ("protocol.pose_detector=jury", "synthetic real"),
        ("+protocol.metrics.beauty.a=1", "no metric beauty"),
        ("ckpt=[all,magicdance-tiny]", "twice"),
        ("protocol.frames=0", "protocol.frames"),
        ("protocol=aist-dabfusion", "defined on data=videos"),
        ("sampler.eta=2", "sampler.eta"),
        ("device=best", "auto, cpu or cuda"),
        ("workers=-1", "workers"),
        ("precision=half", "fp32 or bf16"),
        ("precision=bf16", "no ckpt= has a denoiser that it applies to"),
        ("renderer=cartoon", "renderer/cartoon"),
        ("weights=raw", "weights.lpips="),
        ("weights.pose_detector=nowhere", "no such file"),
    ],
)
def test_mistakes_are_one_line(scripts, tmp_path, wrong, words):
    done = scripts.inside("evaluate", *TINY, f"out={tmp_path / 'out'}", wrong)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists() or wrong == "videos=assets"


def test_a_pictured_figure_dances_the_same_dance(scripts, table, tmp_path):
    """renderer=mesh: other pictures of the same motion, and less like the figure than the default's."""
    out = shutil.copytree(table[0], tmp_path / "out")
    warped = table[1]["rows"][-1]
    meshed = run(scripts, f"out={out}", "renderer=mesh", "metrics=[psnr]")["rows"][-1]
    assert "256x256" in meshed["notes"][0]
    one, other = (next(out.glob(f"*-{row['id']}")) for row in (warped, meshed))
    assert one != other and len(list(one.glob("*.npz"))) == 8
    for file in one.glob("*.npz"):
        np.testing.assert_array_equal(np.load(file)["motion"], np.load(other / file.name)["motion"])
    assert float(warped["scores"]["psnr"]["mean"]) > float(meshed["scores"]["psnr"]["mean"]) + 3


def test_nobody_elses_files_are_touched(scripts, tmp_path):
    """A folder with other things in it is refused before any work, and so is a file."""
    (tmp_path / "thesis.md").write_text("precious")
    for out in (tmp_path, tmp_path / "thesis.md", tmp_path / "thesis.md" / "deeper"):
        done = scripts.inside("evaluate", *TINY, f"out={out}")
        assert done.returncode == 2 and f"out={out}" in done.stderr, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.md"] and FOLDER_MARKER not in list(tmp_path.iterdir())
    assert (tmp_path / "thesis.md").read_text() == "precious"


def test_other_songs_are_other_songs():
    """Another song, another dancer, each clip once; a clip for which none is left has none; the same twice."""
    rng = np.random.default_rng(0)
    labels = [{"song": f"s{i // 2}", "dancer": f"d{rng.integers(6)}"} for i in range(24)]
    pairs = pair_clips(labels)
    assert sorted(pairs) == list(range(24)) and pairs == pair_clips(labels)
    for i, j in enumerate(pairs):
        assert labels[i]["song"] != labels[j]["song"] and labels[i]["dancer"] != labels[j]["dancer"]
    assert pair_clips([{"song": "a"}, {"song": "a"}, {"song": "b"}]).count(None) == 1
    assert pair_clips([{}, {}]) == [1, 0]


def composed(*overrides: str):
    """An evaluation's config."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("evaluate", overrides=list(overrides))


FROZEN_HASH = "f79253bcaff3"  # of world-v1 on other data; tests/test_data_world_freeze.py freezes the data


def hash_of(config) -> str:
    """Of the config's protocol, on data with a content of its own."""
    protocol = read_protocol(config)
    return protocol_hash(protocol, "content", read_metrics(config, protocol, None, "none here"))


def test_dances_of_a_gpu_have_another_id(tmp_path):
    """Their default precision is another one. The id of a CPU's dances names no device, as before there were others."""
    file = tmp_path / "last.ckpt"
    file.write_bytes(b"weights")
    checkpoint = EvaluatedCheckpoint("x", file, object.__new__(MagicDance), SimpleNamespace(cache_key="e"), None)
    protocol = SimpleNamespace(seed=1, repeats=2, exact_motion=False)
    arguments = "content", protocol, SimpleNamespace(steps=3), True, "turn"
    cpu, gpu = (checkpoint.system_id(*arguments, torch.device(name)) for name in ("cpu", "cuda:0"))
    settings = 1, 2, True, "turn", {"steps": 3}
    assert cpu == fingerprint("content", [file_hash(file)], settings, "e", systems._code_hash(), "")
    assert gpu != cpu == checkpoint.system_id(*arguments, torch.device("cpu"))


def test_the_hash_names_what_is_compared():
    """It changes with a clip's cut, a metric's arguments and the seed, and with nothing that does not matter."""
    plain = hash_of(composed())
    assert plain == hash_of(composed("out=elsewhere", "workers=5", "ckpt=null", "protocol.description=other words"))
    changes = (
        "metrics=[psnr,ssim]",
        "protocol.seed=1",
        "protocol.fps=11",
        "protocol.repeats=4",
        "+protocol.metrics.av_align.flow=farneback",
    )
    assert len({plain, *(hash_of(composed(change)) for change in changes)}) == 6
    assert read_protocol(composed()).id == "world-quick-v1"


def test_a_metric_of_later_keeps_the_hash(monkeypatch):
    """World-v1's hash is frozen on given content; a metric out of the hash neither adds to it nor is missed in it."""
    config = composed("protocol=world-v1")
    assert hash_of(config) == FROZEN_HASH
    monkeypatch.setattr(Psnr, "in_protocol_hash", False)
    without_psnr = hash_of(config)
    config.metrics = [name for name in config_files("metric") if name != "psnr"]
    assert without_psnr == hash_of(config) != FROZEN_HASH


def test_the_default_command_compares_all_shipped_models_on_the_first_clips_of_world_v1():
    """world-quick-v1 differs from world-v1 in its number of clips and songs alone; ckpt=all is every shipped model."""
    quick, full = composed(), composed("protocol=world-v1")
    assert _named_paths(quick.ckpt, "ckpt") == {model.name: model.folder for model in shipped_models()}
    assert _named_paths(composed("ckpt=[all,evaluate.py]").ckpt, "ckpt").keys() == {
        *(model.name for model in shipped_models()),
        "evaluate.py",
    }
    values = read_protocol(quick).values(), read_protocol(full).values()
    differing = {key for key in values[0] if values[0][key] != values[1][key]}
    assert differing == {"id", "description", "clips", "repeats"} and values[0]["clips"] == 16
    worlds = [instantiate(config.data) for config in (quick, full)]
    assert worlds[0].dance_spec == worlds[1].dance_spec
    assert worlds[0].rendering.content_settings() == worlds[1].rendering.content_settings()
    assert worlds[0].songs["test"] * worlds[0].dance_spec.dances_per_song == 16


@pytest.mark.parametrize("name", sorted(path.stem for path in (conf_folder() / "protocol").glob("*.yaml")))
def test_every_protocol_can_be_read(name):
    """With the data it names, and with every metric there is."""
    source = composed(f"protocol={name}").protocol.data
    config = composed(f"data={source}", f"protocol={name}")
    protocol = read_protocol(config)
    assert protocol.id == name and protocol.data == source
    metrics = read_metrics(config, protocol, None, "no detector here")
    assert len({column for metric in metrics for column in metric.metric.columns}) == sum(
        len(metric.metric.columns) for metric in metrics
    ), "two metrics name one column"
    assert all(metric.unavailable_reason for metric in metrics if "detector" in metric.metric.required_inputs)
