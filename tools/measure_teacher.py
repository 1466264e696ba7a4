"""How well a teacher's motion follows from the music: PCK and R2 of a small regression, by the number of songs.

PYTHONPATH=. python tools/measure_teacher.py --songs 16 32 66 --motions motions.pt

Motions of SDGPip's world songs are generated without rendering (data=sdgpip has the same ones) and stored in --motions,
which a second run extends. A 1-D convolution then learns the joints before SDGPip's camera from the music features, and
is measured on 16 test songs beside the mean pose and another song's music (M2PEnc sec. 3.1).
"""

import argparse
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zoo.body.camera import camera
from zoo.body.skeleton import forward_kinematics, resample, unpack
from zoo.data.sample_format import decode_field, encode_sample
from zoo.data.world.recipe import seed_of
from zoo.data.world.song import make_song
from zoo.families.m2penc.joint_accuracy import JointAccuracy
from zoo.families.m2penc.music_to_pose import frame_features
from zoo.music.beats import beat_phase
from zoo.music.encoder import encode_song
from zoo.music.spectral import Spectral
from zoo.run.motion_teacher import CheckpointTeacher

NUM_TEST_SONGS, SECONDS, FPS, PIXELS = 16, Fraction(4), 12, 128
ROOT_XY = slice(4, 6)


def slices_of_song(name: str, song_seconds: float, teacher: CheckpointTeacher) -> list[dict]:
    """Music features (N, D), with the beat's phase, and joints (N, 24, 2) of each slice of a song."""
    made = make_song(seed_of(1, name), song_seconds)
    flac = encode_sample({"info": {}, "sound": (made.waveform, made.sample_rate)})["flac"]
    waveform, sample_rate = decode_field("sound", flac)
    music = encode_song(waveform, Spectral(), sample_rate=sample_rate)
    starts = [index * SECONDS for index in range(int(Fraction(song_seconds) / SECONDS))]
    times = torch.arange(int(SECONDS * FPS), dtype=torch.float64) / FPS
    found = []
    for start, motion in zip(starts, teacher.motions(waveform, sample_rate, starts, SECONDS, name), strict=True):
        motion[:, ROOT_XY] -= motion[:, ROOT_XY].mean(0)
        _, root, rotations = unpack(resample(motion, times))
        joints3d = forward_kinematics(rotations, root)
        joints, _ = camera("C09", 0.6).project(np.asarray(joints3d), PIXELS, PIXELS)
        part = music.slice(start, start + SECONDS)
        features = frame_features(part.features[None], part.rate, times)[0]
        phase = torch.from_numpy(beat_phase(part.beats.times, times.numpy()))
        found.append({"song": name, "music": torch.cat([features, phase], 1), "joints": torch.from_numpy(joints)})
    return found


def train_student(music: Tensor, joints: Tensor, num_steps: int) -> nn.Module:
    """Five convolutions along time: music (B, N, D) -> joints (B, N, 24, 2), in tens of pixels about the mean pose."""
    widths = [music.shape[-1], 96, 96, 96, 96, 48]
    layers: list[nn.Module] = []
    for index, (width, next_width) in enumerate(zip(widths, widths[1:], strict=False)):
        layers.append(nn.Conv1d(width, next_width, 9, padding=4))
        layers += [nn.SiLU(), nn.Dropout(0.1)] if index < len(widths) - 2 else []
    student = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(student.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_steps)
    for _ in range(num_steps):
        chosen = torch.randint(len(music), (16,))
        loss = (predict(student, music[chosen]) - joints[chosen]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return student.eval()


def predict(student: nn.Module, music: Tensor) -> Tensor:
    """Joints (B, N, 24, 2) of music (B, N, D)."""
    return student(music.movedim(1, 2)).movedim(1, 2).unflatten(-1, (24, 2))


def main() -> None:
    """Make the motions that are missing, then print a line for each number of songs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="assets/magicdance-tiny")
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--songs", type=int, nargs="+", default=[16, 32, 66])
    parser.add_argument("--song-seconds", type=float, default=12.0)
    parser.add_argument("--slices", type=int, help="of each training song, the first ones; all by default")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--motions", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher = CheckpointTeacher(options.teacher, 10, options.guidance_scale)
    settings = f"{teacher.cache_key} {options.song_seconds}"
    stored = torch.load(options.motions, weights_only=True) if options.motions.is_file() else {"settings": settings}
    if stored["settings"] != settings:
        raise SystemExit(f"{options.motions} holds motions of other settings: name another file")
    names = [f"test-song-{index:05d}" for index in range(NUM_TEST_SONGS)]
    names += [f"train-song-{index:05d}" for index in range(max(options.songs))]
    for index, name in enumerate(names):
        if name not in stored:
            stored[name] = slices_of_song(name, options.song_seconds, teacher)
            print(f"\rmotions: {index + 1} of {len(names)} songs", end="", flush=True)
            torch.save(stored, options.motions)
    print()
    test = [part for name in names[:NUM_TEST_SONGS] for part in stored[name]]
    for count in options.songs:
        train = [part for name in names[NUM_TEST_SONGS:][:count] for part in stored[name][: options.slices]]
        music, joints = (torch.stack([part[key] for part in train]).float() for key in ("music", "joints"))
        mean, std = music.mean((0, 1)), music.std((0, 1)).clamp(min=1e-3)
        mean_pose = joints.mean((0, 1))
        torch.manual_seed(0)
        student = train_student((music - mean) / std, (joints - mean_pose) / 10, options.steps)
        accuracy = JointAccuracy()
        with torch.no_grad():
            for part in test:
                made = predict(student, (part["music"].float()[None] - mean) / std) * 10 + mean_pose
                accuracy.add(made, part["joints"][None], [part["song"]])
        print(f"{count} songs, {len(train)} slices: {accuracy.summary()}", flush=True)


if __name__ == "__main__":
    main()
