"""A folder of dance videos becomes shards: scenes, one dancer, masks, captions; what is left out is said."""

import json
import threading
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from zoo.body.labels import PARTS
from zoo.body.people import PeopleDetector
from zoo.body.render import render_motion
from zoo.body.skeleton import unpack
from zoo.data.captioner import Endpoint
from zoo.data.folder import Folder
from zoo.data.own import Making, check_alone, make_shard, scenes
from zoo.data.shards import ShardReader, Shards
from zoo.data.world.scene import make_scene
from zoo.media import Sound, VideoWriter, write_sound
from zoo.nn.text import HashedWords

SIDE, LENGTH = 160, 30  # pixels, frames of a scene at 12 fps
MAKING = Making(Fraction(2), Fraction(12), 64, 64)


def dancer(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Somebody who stands and sways: pictures and masks of a scene."""
    motion = torch.zeros(LENGTH, 151)
    motion[:, 6] = 0.95
    motion[:, 7:] = torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(24)
    motion[:, 7:13] = torch.tensor([1.0, 0, 0, 0, 0, -1])  # upright
    motion[:, 4] = 0.1 * torch.sin(torch.arange(LENGTH) / 4)
    _, root, rotations = unpack(motion)
    scene = make_scene(seed, f"clip {seed}", f"human {seed}", root.numpy(), SIDE, SIDE)
    drawn = render_motion(scene.look, rotations, root, scene.camera, SIDE, SIDE, scene.behind)
    return drawn["rgb"], drawn["parts"] > 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two dancers one after the other, then nobody; a broken file; a video without a sound."""
    where = tmp_path_factory.mktemp("videos")
    (first, _), (second, _) = dancer(1), dancer(4)
    film = np.concatenate([first, second, np.full_like(first, 128) * np.uint8([0, 1, 1])])
    wave = 0.3 * np.sin(np.arange(8 * 22050) / 20).astype(np.float32)
    write_sound(where / "song.wav", wave, 22050)
    for name, sound in (("a.dance", Sound(where / "song.wav")), ("silent", None)):
        with VideoWriter(where / f"{name}.mp4", Fraction(12), sound) as video:
            video.write(film)
    (where / "song.wav").unlink()
    (where / "broken.mp4").write_bytes(b"no video")
    (where / "a.dance.txt").write_text("the dancer sways\nfrom side to side\n")
    return where


def found(folder: Path) -> dict:
    return {clip.key: clip for clip in Folder(folder, None, "aist", None, {}, Fraction(30)).clips}


def test_scenes_end_where_the_picture_changes(folder):
    assert scenes(found(folder)["a.dance"], Fraction(12)) == [(i * LENGTH, (i + 1) * LENGTH) for i in range(3)]


def test_clips_of_one_dancer_are_kept_with_their_masks(folder, wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))
    videos, people = found(folder), PeopleDetector(wheel)
    reports = {key: make_shard(video, tmp_path, MAKING, people, None) for key, video in videos.items()}
    assert reports["a.dance"].clips == 2
    assert reports["a.dance"].dropped == [(5.0, "nobody is found in it")]
    assert "no sound" in reports["silent"].reason and "cannot be read" in reports["broken"].reason
    assert sorted(file.name for file in tmp_path.glob("*.tar")) == ["a_dance.tar"]
    reader = ShardReader([tmp_path / "a_dance.tar"])
    for sample, seed in zip(reader.samples, (1, 4), strict=True):
        frames, parts = reader.read(sample, "frames"), reader.read(sample, "parts")
        assert frames.shape == (24, 64, 64, 3) and parts.shape == (24, 64, 64)
        assert set(np.unique(parts)) <= {0, 2} and 2 in PARTS[0]  # the trunk's
        assert sample.info["caption"] == "the dancer sways from side to side"
        # of the crop about as much is body as there is body in the picture, which the crop is no larger than
        assert dancer(seed)[1].mean() < (parts > 0).mean() < 0.5
    # what was made is not made again, whoever asks
    before = (tmp_path / "a_dance.tar").stat().st_mtime_ns
    assert make_shard(videos["a.dance"], tmp_path, MAKING, None, None) == reports["a.dance"]
    assert (tmp_path / "a_dance.tar").stat().st_mtime_ns == before


def test_a_clip_of_two_dancers_is_none(wheel):
    halves = []
    for seed in (1, 4):
        film, mask = dancer(seed)
        left = min(max(round(np.nonzero(mask.any((0, 1)))[0].mean()) - 50, 0), SIDE - 100)
        halves.append(np.stack([cv2.resize(one, (200, 2 * SIDE)) for one in film[:, :, left : left + 100]]))
    with pytest.raises(ValueError, match="2 people are in it"):
        check_alone(np.concatenate(halves, 2), PeopleDetector(wheel))


def test_the_shards_can_be_trained_on(folder, tmp_path, monkeypatch):
    """Without a detector too, in the middle of the picture: frames, words and the sound around each clip."""
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))
    report = make_shard(found(folder)["a.dance"], tmp_path, MAKING, None, None)
    assert report.clips == 3 and not report.dropped
    source = Shards(str(tmp_path / "a_dance.tar"))
    assert {"frames", "reference", "caption", "music", "beats", "pulse"} <= source.provides
    starts = [sample.info["start"] for sample in source._reader("train").samples]
    assert starts == [0.0, 2.5, 5.0]  # at most six seconds of the sound before, where there are any
    assert HashedWords(8)([source._samples("val")[0].info["caption"]]).shape == (1, 24, 8)


class Answering(BaseHTTPRequestHandler):
    asked: list = []

    def do_POST(self):
        self.asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        body = (
            {"choices": [{"message": {"content": "the dancer\n turns"}}]} if len(self.asked) == 1 else {"error": "busy"}
        )
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        pass


def test_a_caption_is_asked_for_in_pictures():
    """Every tenth frame, and the rule to say nothing of looks; what answers badly is told in one line."""
    server = HTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asks = Endpoint(f"http://127.0.0.1:{server.server_port}/v1/", "some-model")
    try:
        assert asks.caption(np.zeros((24, 800, 400, 3), np.uint8)) == "the dancer turns"
        with pytest.raises(ValueError, match="no caption from http"):
            asks.caption(np.zeros((4, 8, 8, 3), np.uint8))
    finally:
        server.shutdown()
        server.server_close()
    path, body = Answering.asked[0]
    content = body["messages"][0]["content"]
    assert path == "/v1/chat/completions" and body["model"] == "some-model"
    assert [part["type"] for part in content] == ["text", "image_url", "image_url", "image_url"]
    assert "Do not mention" in content[0]["text"]
    with pytest.raises(ValueError, match="no caption from http"):
        asks.caption(np.zeros((4, 8, 8, 3), np.uint8))  # nobody is there any more
