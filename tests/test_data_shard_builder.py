"""Shards from a folder of dance videos: scenes, single dancers, masks, captions; dropped clips have reasons."""

import json
import threading
from dataclasses import replace
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from shutil import copyfile, copytree

import cv2
import numpy as np
import pytest
import torch

from zoo.body.detection.blazepose_detector import BlazePoseDetector
from zoo.body.labels import PARTS
from zoo.body.render.densepose import PART_COLORS, read_parts
from zoo.body.render.rasterizer import render_motion
from zoo.body.skeleton import unpack
from zoo.data.base import WindowSpec
from zoo.data.clip_folder import ClipFolder
from zoo.data.module import DanceData
from zoo.data.shard_builder.build import ShardSpec, build_shard, check_single_dancer, detect_scenes, shard_key
from zoo.data.shard_builder.captioner import ApiCaptioner
from zoo.data.shard_file import ShardReader
from zoo.data.sources.shards import Shards
from zoo.data.world.scene import make_scene
from zoo.media import Sound, VideoWriter, write_sound
from zoo.music.spectral import Spectral
from zoo.nn.text import HashedTokenEncoder

SIDE, LENGTH = 160, 30  # pixels, frames of a scene at 12 fps
SPEC = ShardSpec(24, Fraction(12), 64, 64)


def dancer(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A dancer who stands and sways: frames and masks of a scene."""
    motion = torch.zeros(LENGTH, 151)
    motion[:, 6] = 0.95
    motion[:, 7:] = torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(24)
    motion[:, 7:13] = torch.tensor([1.0, 0, 0, 0, 0, -1])  # upright
    motion[:, 4] = 0.1 * torch.sin(torch.arange(LENGTH) / 4)
    _, root, rotations = unpack(motion)
    scene = make_scene(seed, f"clip {seed}", f"human {seed}", root.numpy(), SIDE, SIDE)
    images = render_motion(scene.appearance, rotations, root, scene.camera, SIDE, SIDE, scene.backdrop_image)
    return images["rgb"], images["parts"] > 0


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


def clips_in(folder: Path) -> dict:
    return {clip.key: clip for clip in ClipFolder(folder, None, "aist", None, {}, Fraction(30)).clips}


def test_scenes_end_where_the_picture_changes(folder):
    assert detect_scenes(clips_in(folder)["a.dance"], Fraction(12)) == [
        (i * LENGTH, (i + 1) * LENGTH) for i in range(3)
    ]


def test_clips_of_one_dancer_are_kept_with_their_masks(folder, wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))
    videos, people = clips_in(folder), BlazePoseDetector(wheel)
    reports = {key: build_shard(video, tmp_path, SPEC, people, None) for key, video in videos.items()}
    assert reports["a.dance"].num_clips == 2
    assert reports["a.dance"].dropped == [(5.0, "nobody is found in it")]
    assert "no sound" in reports["silent"].reason and "cannot be read" in reports["broken"].reason
    (shard,) = tmp_path.glob("*.tar")
    assert shard.stem == shard_key("a.dance")
    reader = ShardReader([shard])
    for sample, seed in zip(reader.samples, (1, 4), strict=True):
        frames, parts = reader.read(sample, "frames"), reader.read(sample, "parts")
        assert frames.shape == (24, 64, 64, 3) and parts.shape == (24, 64, 64)
        assert set(np.unique(parts)) <= {0, 2} and 2 in PARTS[0]  # the trunk's
        assert sample.info["caption"] == "the dancer sways from side to side"
        # of the crop about as much is body as there is body in the picture, which the crop is no larger than
        assert dancer(seed)[1].mean() < (parts > 0).mean() < 0.5


def test_shards_are_made_again_for_other_options_other_files_and_failures(folder, tmp_path, monkeypatch):
    """And for nothing else: the report of an earlier run holds a hash of both."""
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))
    copytree(folder, tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()

    def build(spec=SPEC, captioner=None):
        """(report, whether the shard was written)"""
        previous = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
        report = build_shard(clips_in(tmp_path / "in")["a.dance"], out, spec, None, captioner)
        return report, {path: path.stat().st_mtime_ns for path in out.glob("*.tar")} != previous

    report, is_written = build()
    assert is_written and report.num_clips == 3
    assert build() == (report, False)
    smaller = replace(SPEC, height=32, width=32)
    assert build(smaller)[1] and not build(smaller)[1]
    (sample, *_) = ShardReader(out.glob("*.tar")).samples
    assert sample.info["height"] == 32
    (tmp_path / "in" / "a.dance.txt").unlink()
    assert build(smaller)[1] and not build(smaller)[1]
    failing = ApiCaptioner("http://127.0.0.1:9/v1", "some-model")
    report, _ = build(smaller, failing)
    assert report.captioner_failed and report.num_clips == 0 and not list(out.glob("*.tar"))
    monkeypatch.setattr(ApiCaptioner, "caption", lambda *_: "the dancer turns")
    report, is_written = build(smaller, failing)
    assert is_written and report.num_clips == 3 and not build(smaller, failing)[1]


def test_names_that_differ_in_a_dot_have_different_shards(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "in").mkdir()
    for name in ("a.dance", "a_dance"):
        copyfile(folder / "a.dance.mp4", tmp_path / "in" / f"{name}.mp4")
    reports = [build_shard(clip, tmp_path, SPEC, None, None) for clip in clips_in(tmp_path / "in").values()]
    reader = ShardReader(sorted(tmp_path.glob("*.tar")))
    keys = {sample.key for sample in reader.samples}
    assert len(reader.samples) == len(keys) == sum(report.num_clips for report in reports) == 6


def test_a_clip_of_two_dancers_is_dropped(wheel):
    halves = []
    for seed in (1, 4):
        film, mask = dancer(seed)
        left = min(max(round(np.nonzero(mask.any((0, 1)))[0].mean()) - 50, 0), SIDE - 100)
        halves.append(np.stack([cv2.resize(frame, (200, 2 * SIDE)) for frame in film[:, :, left : left + 100]]))
    with pytest.raises(ValueError, match="2 people are in it"):
        check_single_dancer(np.concatenate(halves, 2), BlazePoseDetector(wheel))


def test_the_shards_can_be_trained_on(folder, tmp_path, monkeypatch):
    """Without a detector too, in the middle of the picture: frames, words and the sound around each clip."""
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))
    report = build_shard(clips_in(folder)["a.dance"], tmp_path, SPEC, None, None)
    assert report.num_clips == 3 and not report.dropped
    source = Shards(str(tmp_path / "*.tar"))
    assert {"frames", "reference", "caption", "music", "beats", "beat_phase"} <= source.available_keys
    starts = [sample.info["start"] for sample in source._reader("train").samples]
    assert starts == [0.0, 2.5, 5.0]  # at most six seconds of the sound before, where there are any
    assert HashedTokenEncoder(8)([source._samples("val")[0].info["caption"]]).shape == (1, 24, 8)


COUNT, TALL, WIDE = 45, 96, 48  # pictures of 30 a second, and their sides


def falling(kind: str) -> np.ndarray:
    """A square falls, a pixel a picture: white in 'images' and 'masks', in 'densepose' as part 1, 2, ... 24, 1."""
    pictures = np.zeros((COUNT, TALL, WIDE, 3), np.uint8)
    pictures[:] = {"images": 90, "masks": 0, "densepose": 0}[kind]
    for index, picture in enumerate(pictures):
        square = picture[32 + index : 44 + index, 11:23]
        square[:] = 255 if kind != "densepose" else np.random.default_rng(index).integers(0, 256, square.shape)  # u, v
        if kind == "densepose":
            square[..., 2] = index % 24 + 1
    return pictures


def as_tiktok(place: Path, *kinds: str) -> None:
    for kind in kinds:
        (place / kind).mkdir(parents=True)
        digits = 1 if kind == "images" else 4  # 2.png before 10.png, and 0002.png beside 2.png
        for index, picture in enumerate(falling(kind)):
            cv2.imwrite(str(place / kind / f"{index + 1:0{digits}}.png"), picture[..., ::-1])


def test_parts_are_cropped_and_timed_like_the_frames(tmp_path, monkeypatch):
    """As in the TikTok data set; in clips of 10 a second, of the middle 48x48 at 32x32."""
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))
    as_tiktok(tmp_path / "in" / "00001", "images", "masks", "densepose")
    as_tiktok(tmp_path / "in" / "00002", "images", "masks")
    as_tiktok(tmp_path / "in" / "00003", "images", "densepose")
    (tmp_path / "in" / "00003" / "densepose" / "0019.png").unlink()
    spec = ShardSpec(5, Fraction(10), 32, 32, allow_silent=True)
    videos = clips_in(tmp_path / "in")
    assert list(videos) == ["00001", "00002", "00003"]
    reports = [build_shard(video, tmp_path / "out", spec, None, None) for video in videos.values()]
    assert [report.num_clips for report in reports] == [3, 3, 2]
    ((second, reason),) = reports[2].dropped
    assert second == 0.5 and "00003/densepose" in reason and "densepose/19.png does not exist" in reason
    from_row = 24 + np.floor((np.arange(32) + 0.5) * 1.5).astype(int)
    from_column = np.floor((np.arange(32) + 0.5) * 1.5).astype(int)
    for key, truth in (("00001", read_parts(falling("densepose"))), ("00002", falling("masks")[..., 0] // 255 * 2)):
        reader = ShardReader([tmp_path / "out" / f"{key}.tar"])
        for clip, sample in enumerate(reader.samples):
            parts, frames = reader.read(sample, "parts"), reader.read(sample, "frames")
            rows = np.arange(15 * clip, 15 * clip + 15, 3)
            np.testing.assert_array_equal(parts, truth[rows][:, from_row][:, :, from_column])
            assert ((parts > 0) == (frames.mean(-1) > 172)).mean() > 0.96  # but for edges within a pixel
    # in training: the same labels at half the resolution
    source = Shards([str(tmp_path / "out" / f"{key}.tar") for key in ("00001", "00002")])
    data = DanceData(source, Spectral(), {"image": ("frames", "parts")}, 1, window=WindowSpec(0.5, 10, 16, 16))
    item = data.dataset("train")[0]
    assert item["parts"].dtype == torch.uint8 and item["parts"].shape == (5, 16, 16)
    assert ((item["parts"] > 0) == (item["frames"].mean(1) > 0.35)).float().mean() > 0.9


def test_parts_may_be_a_video_beside_the_video(tmp_path, monkeypatch):
    """In viridis, as MagicAnimate's are; compression blurs their edges only. The folder of them holds no clips."""
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))
    truth = np.repeat(np.repeat(read_parts(falling("densepose")), 4, 1), 4, 2)
    (tmp_path / "in" / "densepose").mkdir(parents=True)
    for name, film in (("a", falling("images").repeat(4, 1).repeat(4, 2)), ("densepose/a", PART_COLORS[truth])):
        with VideoWriter(tmp_path / "in" / f"{name}.mp4", Fraction(30)) as video:
            video.write(film)
    videos = clips_in(tmp_path / "in")
    assert list(videos) == ["a"]
    times = [Fraction(index, 10) for index in range(15)]
    parts = np.stack(list(videos["a"].parts.parts_at(times, 4 * TALL, 4 * WIDE)))
    is_inside = np.stack([cv2.erode(np.uint8(part > 0), np.ones((9, 9))) for part in truth[::3]]) > 0
    assert is_inside.mean() > 0.2 * (truth[::3] > 0).mean() and (parts == truth[::3])[is_inside].mean() > 0.99
    assert (parts == truth[::3]).mean() > 0.99
    with pytest.raises(ValueError, match=r"in/densepose cannot be used: the one at 0\.00 s is 384x192, its"):
        list(videos["a"].parts.parts_at(times, TALL, WIDE))


def test_images_without_part_codes_are_refused():
    numbers = np.random.default_rng(0).integers(0, 25, (8, 8)).astype(np.uint8)
    assert (read_parts(np.dstack([numbers] * 3)) == numbers).all()
    assert (read_parts(PART_COLORS[numbers]) == numbers).all()
    with pytest.raises(ValueError, match="no DensePose"):
        read_parts(np.full((8, 8, 3), 255, np.uint8))


def test_a_stage_that_needs_parts_says_which_folder_has_none(scripts, tmp_path):
    as_tiktok(tmp_path / "in" / "00001", "images", "densepose")
    as_tiktok(tmp_path / "in" / "00002", "images")
    folders, sizes = (
        (f"folder={tmp_path}/in", f"out={tmp_path}/out"),
        ("fps=10", "num_frames=10", "height=64", "width=64"),
    )
    result = scripts.inside("zoo/cli", "shards", *folders, "allow_silent=true", *sizes)
    assert result.returncode == 0, result.stderr
    assert "no folder densepose or masks lies beside 00002:" in result.stdout and "2 clips of 2 videos" in result.stdout
    overrides = "model=magicdance", "renderer=diffusion", "model.recipe=[image]", "data=shards"
    result = scripts.inside("train", *overrides, f"data.urls={tmp_path}/out/*.tar")
    line = result.stderr.splitlines()[-1]  # before it there may be Hydra's warnings of two scripts in one process
    assert result.returncode == 2 and "needs parts" in line and "00002-000000 in " in line and "00002.tar" in line


class CaptionServer(BaseHTTPRequestHandler):
    requests: list = []

    def do_POST(self):
        self.requests.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        body = (
            {"choices": [{"message": {"content": "the dancer\n turns"}}]}
            if len(self.requests) == 1
            else {"error": "busy"}
        )
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        pass


def test_the_api_captioner_sends_every_tenth_frame():
    """With the instruction to ignore appearance; bad answers are refused in one line."""
    server = HTTPServer(("127.0.0.1", 0), CaptionServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    captioner = ApiCaptioner(f"http://127.0.0.1:{server.server_port}/v1/", "some-model")
    try:
        assert captioner.caption(np.zeros((24, 800, 400, 3), np.uint8)) == "the dancer turns"
        with pytest.raises(ValueError, match="no caption from http"):
            captioner.caption(np.zeros((4, 8, 8, 3), np.uint8))
    finally:
        server.shutdown()
        server.server_close()
    path, body = CaptionServer.requests[0]
    content = body["messages"][0]["content"]
    assert path == "/v1/chat/completions" and body["model"] == "some-model"
    assert [part["type"] for part in content] == ["text", "image_url", "image_url", "image_url"]
    assert "Do not mention" in content[0]["text"]
    with pytest.raises(ValueError, match="no caption from http"):
        captioner.caption(np.zeros((4, 8, 8, 3), np.uint8))  # the server is gone
