"""Write world_v1.npz: samples of the world that protocol=world-v1 is defined on. It was run once, and is not run again.

A change of the world's songs, dances, bodies, cameras or places makes a world-v2. Run from the repository's root:
PYTHONPATH=. python tests/data/make_world_v1.py
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from zoo.body.render.rasterizer import render_motion
from zoo.body.skeleton import unpack
from zoo.data.world.choreography import choreograph
from zoo.data.world.recipe import seed_of
from zoo.data.world.scene import make_scene
from zoo.data.world.song import STYLES, make_song
from zoo.files import conf_folder

FILE = Path(__file__).with_name("world_v1.npz")
SECONDS = 10.0  # of the song
STYLES_USED = list(STYLES)[::3]
POSE_STEP = 60  # motion frames between two stored poses: 2 s
DANCERS = (0, 2, 3, 4, 5, 6, 8, 9, 15, 25)  # one of every body
THUMBNAIL = 16  # pixels per side


def world_values() -> dict[str, np.ndarray]:
    """Samples of the world of protocol=world-v1: one song, dances of some styles to it, an image of every body.

    settings: protocol and data, as YAML text. loudness: of each second of the song. poses (styles, _, 151); moves: text
    of each style; images (bodies, THUMBNAIL, THUMBNAIL, 3) float.
    """
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("evaluate", overrides=["protocol=world-v1"])
    world, size = instantiate(config.data), (config.protocol.height, config.protocol.width)
    spec = world.dance_spec
    song = make_song(seed_of(spec.seed, "test-song-00000"), SECONDS)
    dances = [choreograph(replace(song, style=style), index) for index, style in enumerate(STYLES_USED)]
    images = []
    for index in DANCERS:
        motion = dances[index % len(dances)].motion[60 : 60 + 120 : 40]
        _, root, rotations = unpack(motion)
        key, dancer = f"test-song-{index:05d}-0-0", f"test-dancer-{index:03d}"
        scene = make_scene(spec.seed, key, dancer, root.numpy(), *size)
        view = (scene.camera, *size, scene.backdrop_image)
        frame = render_motion(scene.appearance, rotations.numpy()[:1], root.numpy()[:1], *view, maps=("rgb",))["rgb"][0]
        images.append(cv2.resize(frame.astype(np.float32), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA))
    settings = {"protocol": config.protocol, "data": {key: config.data[key] for key in config.data if key != "workers"}}
    seconds = song.waveform.reshape(int(SECONDS), -1)
    return {
        "settings": np.array(OmegaConf.to_yaml(OmegaConf.create(settings), resolve=True, sort_keys=True)),
        "loudness": np.sqrt((seconds**2).mean(1)),
        "beats": song.beats,
        "poses": np.stack([dance.motion[::POSE_STEP].numpy() for dance in dances]).astype(np.float32),
        "moves": np.array([str([(name, side) for _, _, name, side, *_ in dance.moves]) for dance in dances]),
        "images": np.stack(images).astype(np.float32),
    }


if __name__ == "__main__":
    values = world_values()
    np.savez_compressed(FILE, **values | {"images": values["images"].astype(np.float16)})
