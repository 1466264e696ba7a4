"""Beat This!: the public code's own answers, one tracker in all commands, and nothing but the right file."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from test_run_request import Harm
from weights import beat_this_state, scale_of_tones

from zoo.data.music_cache import MusicFeatureCache
from zoo.media import Sound, write_sound
from zoo.music import beat_this
from zoo.music.beat_this import BeatThisTracker, find_peaks, log_mel, to_beats
from zoo.music.encoder import encode_song
from zoo.music.spectral import Spectral
from zoo.nn.beat_this import BeatThis
from zoo.run.build import load_beat_tracker
from zoo.run.evaluate.benchmark import _data_fingerprint
from zoo.run.motion_teacher import CheckpointTeacher
from zoo.run.sample import generate
from zoo.run.sample.request import compose_request
from zoo.run.train.fit import _build_encoder

REFERENCE = np.load(Path(__file__).parent / "data" / "beat_this_reference.npz")  # made by make_beat_this_reference.py
TEACHER = "assets/magicdance-tiny"


def state_of(size: str) -> dict[str, torch.Tensor]:
    """State dict of a published size."""
    lines = (re.fullmatch(r"(\S+) \((.*)\)", line).groups() for line in REFERENCE[size].tolist())
    return beat_this_state({name: tuple(int(x) for x in shape.split(",") if x.strip()) for name, shape in lines})


def lightning_file(path: Path, state: dict[str, torch.Tensor], **settings) -> Path:
    """A checkpoint as Lightning writes it."""
    state = {f"model.{name}": value for name, value in state.items()}
    torch.save({"state_dict": state, "hyper_parameters": settings, "pytorch-lightning_version": "2.3"}, path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return lightning_file(tmp_path_factory.mktemp("beats") / "small0.ckpt", state_of("small0"), fps=50, lr=8e-4)


@pytest.fixture(scope="module")
def tracker(file):
    return BeatThisTracker(file)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "music"


def assert_near(logits, name):
    torch.testing.assert_close(torch.stack(logits), torch.from_numpy(REFERENCE[name]), atol=1e-4, rtol=0)


def test_equal_to_the_public_code(tracker, monkeypatch):
    """Spectrogram, logits of a sound in one piece, in chunks and at another rate, and the peaks of the same logits."""
    sound = scale_of_tones(11, 22050).numpy()
    for frame, row in zip(REFERENCE["mel_frames"], REFERENCE["mel"], strict=True):
        assert np.abs(log_mel(sound, frame, frame + 1)[0].numpy() - row).max() < 1e-4
    assert_near(tracker.logits(sound, 22050), "whole")
    assert_near(tracker.logits(scale_of_tones(4, 44100).numpy(), 44100), "resampled")
    monkeypatch.setattr(beat_this, "CHUNK_FRAMES", 200)
    assert_near(tracker.logits(sound, 22050), "chunked")
    assert np.abs(REFERENCE["chunked"] - REFERENCE["whole"]).max() > 0.01  # chunks do make a difference
    beats, downbeats = find_peaks(*torch.from_numpy(REFERENCE["whole"]))
    assert np.array_equal(beats, REFERENCE["beats"]) and np.array_equal(downbeats, REFERENCE["downbeats"])


def test_peaks_are_merged_and_downbeats_are_beats():
    beat, downbeat = torch.full((60,), -1.0), torch.full((60,), -1.0)
    beat[[5, 6, 7, 20, 40]] = 1.0  # a plateau: its third frame is not next to the mean of the first two
    beat[41] = 0.5
    downbeat[[8, 22]] = 2.0
    times, downbeats = find_peaks(beat, downbeat)
    assert times.tolist() == [5.5 / 50, 7 / 50, 20 / 50, 40 / 50] and downbeats.tolist() == [7 / 50, 20 / 50]


def test_metre_and_phase_are_those_of_most_downbeats():
    times = np.arange(24) / 2
    for meter, phase in ((4, 2), (3, 1)):
        downbeats = np.delete(times[phase::meter], 1)
        beats = to_beats(times, np.sort([*downbeats, times[phase + 1]]))
        assert (beats.meter, beats.downbeat) == (meter, phase) and beats.tempo == pytest.approx(120)
    assert to_beats(times, times[1::2]).meter == 4 and to_beats(times[:2], times[:1]).tempo == 0


@pytest.mark.parametrize("size", ["final0", "small0"])
def test_both_published_sizes_load(size, tmp_path):
    state = state_of(size)
    network = BeatThis(lightning_file(tmp_path / "a.ckpt", state, sum_head=size == "small0"))
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    beat, downbeat = network(torch.zeros(1, 9, 128))
    with torch.no_grad():
        network.task_heads["beat_downbeat_lin"].weight[1] = 0
        network.task_heads["beat_downbeat_lin"].bias[1] = 100
    changed, _ = network(torch.zeros(1, 9, 128))
    assert beat.shape == downbeat.shape == (1, 9)
    assert torch.equal(changed, beat) == (size == "final0")  # beats contain downbeats only by a sum head


def test_memory_is_that_of_one_chunk(monkeypatch):
    """An hour of sound reaches the network in pieces of 30 s, whose frames are made one after the other."""
    lengths = []

    def network(frames):
        lengths.append(frames.shape[1])
        return frames[..., 0], frames[..., 1]

    tracker = BeatThisTracker("none")
    tracker.__dict__["loaded"] = network
    monkeypatch.setattr(beat_this, "log_mel", lambda wave, first, stop: torch.zeros(stop - first, 128))
    logits = tracker.logits(np.zeros(3600 * 22050, np.float32), 22050)
    assert max(lengths) == 1500 and len(lengths) == 121 and len(logits[0]) == 180_001 and (logits[0] == 0).all()


def test_one_tracker_for_samples_training_and_evaluation(file, tracker, tmp_path, cache):
    """Its beats reach the dance, its caches are its own, and without weights.beats all is as before."""
    write_sound(tmp_path / "song.wav", scale_of_tones(4, 22050).numpy(), 22050)
    sound = Sound(tmp_path / "song.wav")
    demo = {"music": tmp_path / "song.wav", "seconds": 3, "out": str(tmp_path / "dance.npz"), "image": None}
    request = compose_request({**demo, "weights": {"beats": str(file)}})
    beats = generate._read_inputs(request, print).generation_request.music.beats
    expected = tracker.track(sound.mono(22050, 0, 4), 22050)
    assert len(beats.times) > 5 and np.array_equal(beats.times, expected.times[expected.times < 3])
    assert len(list(cache.iterdir())) == 1

    config = OmegaConf.create({"music": {"_target_": "zoo.music.spectral.Spectral"}, "weights": {"beats": str(file)}})
    encoder, plain = _build_encoder(config), _build_encoder(OmegaConf.create({"music": config.music}))
    assert encoder.beat_tracker.cache_key == tracker.cache_key and plain.song_cache_key == Spectral().song_cache_key
    assert np.array_equal(encode_song(sound, encoder, 3).beats.times, beats.times) and len(list(cache.iterdir())) == 1
    assert not np.array_equal(encode_song(sound, plain, 3).beats.times, beats.times)
    assert len(list(cache.iterdir())) == 2
    features = MusicFeatureCache(encoder)
    assert features.folder != MusicFeatureCache(plain).folder and features.needs_weights_file
    assert "loaded" not in features.encoder.beat_tracker.__getstate__()  # a loader process reads its own copy

    class Source:
        def fingerprint(self, split):
            return "data"

    protocol = OmegaConf.create({"split": "test"})
    assert _data_fingerprint(Source(), protocol, None) == "data" != _data_fingerprint(Source(), protocol, tracker)
    assert CheckpointTeacher(TEACHER).cache_key != CheckpointTeacher(TEACHER, beats=str(file)).cache_key


def test_other_files_are_refused_in_one_line(file, tmp_path):
    state = state_of("small0")
    path = tmp_path / "file.ckpt"
    gates = "transformer_blocks.layers.0.0.to_gates.bias"
    view = {**state, "frontend.stem.conv2d.weight": torch.ones(1, 1, 1, 1).expand(1 << 30, 1, 4, 3)}
    files = {
        r"not there|there is no such file": lambda: None,
        "is empty": lambda: path.write_bytes(b""),
        "cannot be read as weights": lambda: path.write_bytes(b"RIFF" * 99),
        "holds more than weights .*mkdir": lambda: torch.save({"state_dict": Harm(tmp_path / "harm")}, path),
        "it is no checkpoint of Beat This!": lambda: torch.save({"state_dict": {"a": torch.ones(1)}}, path),
        r"^\S+file.ckpt: it is no checkpoint": lambda: torch.save([1], path),
        "1 missing .*to_gates.bias": lambda: lightning_file(path, {k: v for k, v in state.items() if k != gates}),
        r"1 unexpected \(other\); nothing was loaded": lambda: lightning_file(path, {**state, "other": torch.ones(1)}),
        r"to_gates.bias is \(7,\) in the file and \(4,\)": lambda: lightning_file(
            path, {**state, gates: torch.ones(7)}
        ),
        "without that many values": lambda: lightning_file(path, view),
        "its model works at fps=100; only 50": lambda: lightning_file(path, state, fps=100),
        "are no multiples of 32": lambda: lightning_file(path, {**state, "frontend.linear.weight": torch.ones(99, 9)}),
    }
    for message, write in files.items():
        write()
        with pytest.raises(ValueError, match=message) as caught:
            load_beat_tracker(path)
        assert "\n" not in str(caught.value) and "file.ckpt" in str(caught.value)
    assert not (tmp_path / "harm").exists()
    with pytest.raises(ValueError, match="weights.beats=.* is a directory, not a file"):
        compose_request({"weights": {"beats": str(tmp_path)}})
    assert load_beat_tracker(None) is None and load_beat_tracker(file).cache_key.startswith("beat-this-")
