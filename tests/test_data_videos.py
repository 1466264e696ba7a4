"""Videos as evaluation clips: exact times, crops, labels and sound; an unusable video is named and stops nothing."""

from fractions import Fraction
from inspect import signature
from shutil import copytree

import av
import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from zoo.body.detection.base import PoseDetector, Poses
from zoo.data.base import EvalSpec
from zoo.data.frame_source import VideoFile
from zoo.data.sources.videos import Videos
from zoo.files import conf_folder
from zoo.media import Sound, VideoWriter, write_sound
from zoo.music.encoder import MusicEncoder, token_count
from zoo.run.evaluate.protocol import read_protocol

RATE = 24000


class Index(MusicEncoder):
    """The index of each token."""

    dim, rate, sample_rate, cache_key = 1, 30.0, 22050, "test-index"

    def encode(self, waveform, sample_rate, beats=None):
        return torch.arange(token_count(waveform.shape[1] / sample_rate, self.rate)).float()[None, :, None]


class BrightSpot(PoseDetector):
    """Every joint is where the picture is white; nobody where nothing is."""

    name = "bright"

    def detect(self, frames):
        joints = np.full((len(frames), 24, 2), np.nan, np.float32)
        for index, frame in enumerate(frames):
            y, x = np.nonzero(frame.min(-1) > 200)
            if len(x):
                joints[index] = np.linspace((x.min(), y.min()), (x.max() + 1, y.max() + 1), 24)
        return Poses(joints, np.ones((len(frames), 24), np.float32), frames.min(-1) / 255)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))


def counting(frames, height=48, width=64):
    """Pictures that tell their number: eights on the left, ones on the right."""
    pictures = np.zeros((frames, height, width, 3), np.uint8)
    for index, picture in enumerate(pictures):
        picture[:, : width // 2], picture[:, width // 2 :] = 20 + 16 * (index // 8), 20 + 28 * (index % 8)
    return pictures


def number(picture):
    half = picture.shape[1] // 2
    high, low = picture[4:-4, 4 : half - 4].mean() - 20, picture[4:-4, half + 4 : -4].mean() - 20
    return 8 * round(high / 16) + round(low / 28)


def song(folder, name="song.wav", seconds=3.0):
    """A click every half second, from 0.25 s on, each lower than the one before."""
    wave = np.random.default_rng(0).normal(0, 1e-3, round(seconds * RATE)).astype(np.float32)
    for index, click in enumerate(np.arange(0.25, seconds - 0.05, 0.5)):
        first = round(click * RATE)
        wave[first : first + 400] += 0.8 * np.sin(np.arange(400) / (3 + index)) * np.exp(-np.arange(400) / 80)
    folder.mkdir(parents=True, exist_ok=True)
    write_sound(folder / name, wave, RATE)
    return folder / name


def film(path, frames, fps=30, sound=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, Fraction(fps), Sound(sound) if sound else None) as video:
        video.write(frames)


def eval_clips_of(folder, cut, **settings):
    return Videos(str(folder), **settings).eval_clips("test", cut, Index())


@pytest.mark.parametrize("fps", ["30", "30000/1001", "25", "60"])
def test_frames_are_those_nearest_on_the_exact_clock(tmp_path, fps):
    clip = tmp_path / "clips" / "a.mp4"
    film(clip, counting(100, 48, 48), fps, song(tmp_path, seconds=4.0))
    (eval_clip,) = eval_clips_of(tmp_path / "clips", EvalSpec(16, 12, 48, 48))
    times = [index / 12 * float(Fraction(fps)) for index in range(16)]
    numbers = [number(frame) for frame in eval_clip.frames]
    assert all(abs(index - time) <= 0.5 + 1e-9 for index, time in zip(numbers, times, strict=True))
    assert eval_clip.frames.shape == (16, 48, 48, 3) and (eval_clip.reference == eval_clip.frames[0]).all()


@pytest.mark.parametrize("suffix, codec", [(".mov", "libx264"), (".mpg", "mpeg2video"), (".ts", "libx264")])
def test_late_times_are_decoded_with_any_index(tmp_path, suffix, codec):
    """Looking for a time leads past it in transport streams, which have no index; times begin at the first picture."""
    with av.open(str(tmp_path / f"a{suffix}"), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 2_000_000
        for picture in counting(100):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    video = VideoFile(tmp_path / f"a{suffix}")
    assert video.seconds() == 4 and video.rate() == 25
    for times, numbers in (((0, 1), [0, 25]), ((3, Fraction(13, 4)), [75, 81]), ((3, Fraction(99, 25)), [75, 99])):
        assert [number(picture) for picture in video.frames_at(list(map(Fraction, times)))] == numbers
    with pytest.raises(ValueError, match=r"lasts 4\.00 s"):
        list(video.frames_at([Fraction(3), Fraction(4)]))


def test_windows_follow_each_other_with_their_sound(tmp_path):
    film(tmp_path / "clips" / "long.mp4", counting(120, 48, 48), 30, song(tmp_path, seconds=4.0))
    whole = Sound(tmp_path / "song.wav").mono(RATE).reshape(4, RATE)
    clips = eval_clips_of(tmp_path / "clips", EvalSpec(12, 12, 48, 48), windows="all")
    assert clips.keys == ["long@0", "long@1", "long@2", "long@3"] and len(clips[:2]) == 2
    for second, eval_clip in enumerate(clips):
        assert (
            number(eval_clip.frames[0]) == 30 * second and abs(number(eval_clip.frames[-1]) - 30 * second - 27.5) <= 0.5
        )
        assert len(eval_clip.waveform) == eval_clip.sample_rate == RATE
        assert eval_clip.music.features[:, 0].tolist() == list(range(30 * second, 30 * second + 30))
        difference = np.abs(eval_clip.waveform - whole).mean(1)
        assert difference.argmin() == second and difference.min() < 0.3 * np.sort(difference)[1]
        assert ((eval_clip.beats >= 0) & (eval_clip.beats < 1)).all()
    assert eval_clips_of(tmp_path / "clips", EvalSpec(12, 12, 48, 48, clips=2), windows="all").keys == [
        "long@0",
        "long@1",
    ]
    assert eval_clips_of(tmp_path / "clips", EvalSpec(12, 12, 48, 48)).keys == ["long"]


def test_what_cannot_be_used_is_named_and_the_rest_is_taken(tmp_path):
    folder, sound = tmp_path / "clips", song(tmp_path)
    film(folder / "good.mp4", counting(60), 30, sound)
    film(folder / "ünïcode name.mp4", counting(60), 30, sound)
    film(folder / "silent.mp4", counting(60), 30)
    film(folder / "short.mp4", counting(10), 30, sound)
    film(folder / "slow.mp4", counting(40), 10, sound)
    film(folder / "hushed.mp4", counting(60), 30)
    song(folder, "hushed.wav", 0.6)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video")
    write_sound(folder / "sound.m4a", np.zeros(RATE, np.float32), RATE)
    (folder / "sound.m4a").rename(folder / "sound.mp4")
    whole = (folder / "good.mp4").read_bytes()
    (folder / "damaged.mp4").write_bytes(whole[: len(whole) // 2])
    clips = eval_clips_of(folder, EvalSpec(12, 12, 48, 64))
    assert clips.keys == ["good", "ünïcode name"] and clips[-1].frames.shape == (12, 48, 64, 3)
    reasons = dict(clips.skipped)
    assert set(reasons) == {"silent", "short", "slow", "hushed", "empty", "text", "sound", "damaged"}
    words = {"silent": "no sound", "short": "too short", "slow": "10 frames a second", "hushed": "sound ends"}
    words |= {"empty": "cannot be read", "text": "cannot be read", "sound": "no video track", "damaged": "too short"}
    for key, word in words.items():
        assert word in reasons[key] and "\n" not in reasons[key]
    (folder / "good.mkv").write_bytes(whole)
    clips = eval_clips_of(folder, EvalSpec(12, 12, 48, 64))
    assert clips.keys[0] == "good" and dict(clips.skipped)["good.mp4"] == "another clip, good.mkv, is called good too"
    silent = eval_clips_of(folder, EvalSpec(12, 12, 48, 64), clip_list=["silent", "gone"], allow_silent=True)
    assert silent.keys == ["silent"] and dict(silent.skipped).keys() == {"gone"}
    assert not silent[0].waveform.any() and len(silent[0].waveform) == 22050 and not len(silent[0].beats)
    with pytest.raises(ValueError, match=r"slow: it has 10 frames"):
        eval_clips_of(folder, EvalSpec(12, 12, 48, 64), clip_list=["slow"])


def test_folders_of_numbered_pictures(tmp_path):
    """As in the TikTok data set, masks beside the images; 2 comes before 10."""
    for name in ("00335", "00336"):
        for kind in ("images", "masks"):
            (tmp_path / "clips" / name / kind).mkdir(parents=True)
            for index, picture in enumerate(counting(40) if kind == "images" else np.zeros((40, 48, 64, 3))):
                cv2.imwrite(str(tmp_path / "clips" / name / kind / f"{index + 1}.png"), picture)
        song(tmp_path / "clips", f"{name}.wav")
        (tmp_path / "clips" / f"{name}.txt").write_text("steps to\nthe left\n")
    clips = eval_clips_of(tmp_path / "clips", EvalSpec(10, 10, 48, 64))
    assert clips.keys == ["00335", "00336"] and not clips.skipped
    assert [number(frame) for frame in clips[0].frames] == list(range(0, 30, 3))
    slower = eval_clips_of(tmp_path / "clips", EvalSpec(6, 10, 48, 64), image_fps=25)
    assert [number(frame) for frame in slower[0].frames] == [0, 2, 5, 7, 10, 12]  # the nearest, the earlier of two
    assert clips[0].caption == "steps to the left" and clips[1].labels == {"song": "00336"}
    (tmp_path / "clips" / "00335" / "images" / "7.png").unlink()
    clips = eval_clips_of(tmp_path / "clips", EvalSpec(10, 10, 48, 64))
    assert clips.keys == ["00336"] and clips.skipped[0] == (
        "00335",
        "the image after 6.png is missing, or there twice",
    )


def test_names_of_aist_songs_and_lists(tmp_path):
    names = [f"g{genre}_sBM_c{camera}_d04_m{genre}0_ch01" for genre in ("BR", "HO") for camera in ("01", "09")]
    for name in names:
        film(tmp_path / "clips" / f"{name}.mp4", counting(40), 30)
    song(tmp_path / "songs", "mBR0.mp3")
    song(tmp_path / "songs", "mHO0.wav")
    settings, cut = {"music": str(tmp_path / "songs")}, EvalSpec(12, 12, 48, 64)
    clips = eval_clips_of(tmp_path / "clips", cut, **settings)
    assert clips.keys == names
    assert clips.labels[1] == {"song": "mBR0", "dancer": "d04", "camera": "C09", "style": "Break"}
    (tmp_path / "list.txt").write_text("# AIST++'s\n\ngHO_sBM_cAll_d04_mHO0_ch01\ngBR_sBM_c01_d04_mBR0_ch01.mp4\n")
    listed = eval_clips_of(tmp_path / "clips", cut, clip_list=str(tmp_path / "list.txt"), **settings)
    assert listed.keys == [names[0], names[2], names[3]]
    front = eval_clips_of(
        tmp_path / "clips", cut, clip_list=str(tmp_path / "list.txt"), filter={"camera": "C09"}, **settings
    )
    assert front.keys == [names[3]]
    (tmp_path / "songs" / "mBR0.mp3").unlink()
    clips = eval_clips_of(tmp_path / "clips", cut, **settings)
    assert clips.keys == names[2:] and [key for key, _ in clips.skipped] == names[:2]
    relabelled = eval_clips_of(tmp_path / "clips", cut, pattern=r"_d(?P<dancer>\d+)_", allow_silent=True)
    assert relabelled.labels[0] == {"dancer": "04", "song": names[0]}


def test_crops(tmp_path):
    """A white figure of 8x20 at (30..38, 20..40) of 64x48 pictures, two pixels to and fro."""
    pictures = np.zeros((40, 48, 64, 3), np.uint8)
    for index, picture in enumerate(pictures):
        picture[20:40, 30 + index % 3 : 38 + index % 3] = 255
    film(tmp_path / "clips" / "a.mp4", pictures, 30, song(tmp_path))
    with pytest.raises(ValueError, match=r"48x64, which become 32x32 only with distortion"):
        eval_clips_of(tmp_path / "clips", EvalSpec(12, 12, 32, 32))
    (centre,) = eval_clips_of(tmp_path / "clips", EvalSpec(12, 12, 32, 32, crop="centre"))
    white = np.nonzero(centre.frames[0].mean(-1) > 128)
    assert np.ptp(white[0]) + 1 == pytest.approx(20 * 32 / 48, abs=1)
    (dancer,) = eval_clips_of(tmp_path / "clips", EvalSpec(12, 12, 32, 32, crop="dancer"), pose_detector=BrightSpot())
    spot = dancer.frames.mean(-1) > 128
    assert spot.any((1, 2)).all() and not spot[:, [0, -1]].any() and not spot[:, :, [0, -1]].any()
    tall = np.ptp(np.nonzero(spot[0])[0]) + 1
    assert tall == pytest.approx(32 / 1.3, abs=1.5)  # 15 % free above and below
    centre_of = np.mean(np.nonzero(spot.any(0)), 1)
    assert np.abs(centre_of - 15.5).max() < 1.5
    with pytest.raises(ValueError, match=r"weights\.pose_detector"):
        eval_clips_of(tmp_path / "clips", EvalSpec(12, 12, 32, 32, crop="dancer"))
    film(tmp_path / "nobody" / "a.mp4", np.zeros_like(pictures), 30, tmp_path / "song.wav")
    with pytest.raises(ValueError, match="no dancer was found"):
        eval_clips_of(tmp_path / "nobody", EvalSpec(12, 12, 32, 32, crop="dancer"), pose_detector=BrightSpot())


def test_the_fingerprint_does_not_depend_on_the_place(tmp_path):
    sound = song(tmp_path)
    film(tmp_path / "here" / "a.mp4", counting(20), 30, sound)
    copytree(tmp_path / "here", tmp_path / "there")
    original, copy = (Videos(str(tmp_path / place)).fingerprint("test") for place in ("here", "there"))
    assert original == copy and len(original) == 12
    assert Videos(str(tmp_path / "here"), windows="all").fingerprint("test") != original
    film(tmp_path / "here" / "a.mp4", counting(21), 30, sound)
    assert Videos(str(tmp_path / "here")).fingerprint("test") != original


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"folder": "gone"}, r"data\.folder=gone is no folder"),
        ({"pattern": "("}, "no regular expression"),
        ({"pattern": "a"}, "names no label"),
        ({"windows": "two"}, "first all"),
        ({"image_fps": 0}, "above 0"),
        ({"clip_list": "gone.txt"}, r"data\.clip_list=gone\.txt cannot be read"),
        ({"filter": {"camera": "C01"}}, "has no clip"),
    ],
)
def test_mistakes_get_one_line(tmp_path, settings, words):
    film(tmp_path / "clips" / "a.mp4", counting(20), 30, song(tmp_path))
    with pytest.raises(ValueError, match=words) as error:
        eval_clips_of(**{"folder": tmp_path / "clips", "cut": EvalSpec(6, 12, 48, 64), **settings})
    assert "\n" not in str(error.value)


def test_training_on_it_is_refused_with_the_way_to_shards(tmp_path):
    source = Videos(str(tmp_path))
    for call in (lambda: source.available_keys, lambda: source.prepare_data(["frames"], Index())):
        with pytest.raises(ValueError, match="data=shards"):
            call()


@pytest.mark.parametrize("name", ["aist-dabfusion", "aist-m2penc", "tiktok-magicdance", "musedance"])
def test_protocols_on_videos_say_what_they_need(name, tmp_path):
    """Each composes, and sets only what the data and the metrics know."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("evaluate", ["data=videos", f"data.folder={tmp_path}", f"protocol={name}"])
    protocol = read_protocol(config)
    assert protocol.id == name and protocol.data == "videos" and protocol.pose_detector == "real"
    source = instantiate(config.data)
    names = {"aist-m2penc": 20, "tiktok-magicdance": 6}.get(name)
    assert (len(source.clip_names) if source.clip_names else None) == names
    for metric, arguments in protocol.metrics.items():
        target = get_class(OmegaConf.load(conf_folder() / "metric" / f"{metric}.yaml")._target_)
        assert set(arguments) <= set(signature(target).parameters)
