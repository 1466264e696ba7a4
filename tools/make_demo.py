"""Makes assets/demo: a song and a picture of a dancer, both from the world, so that nobody's rights are in them."""

from pathlib import Path

import numpy as np
from PIL import Image

from zoo.body.camera import camera
from zoo.body.render.appearance import random_appearance
from zoo.body.render.rasterizer import render
from zoo.body.skeleton import unpack
from zoo.data.world.choreography import choreograph
from zoo.data.world.song import make_song
from zoo.media import write_sound

DEMO = Path(__file__).parents[1] / "assets" / "demo"

if __name__ == "__main__":
    song = make_song(20261121, 14, style="house")
    write_sound(DEMO / "song.ogg", song.waveform, song.sample_rate)
    _, root, rotations = unpack(choreograph(song, 3).motion[0].float())
    look = random_appearance(np.random.default_rng(17), human=True)
    view = camera("C09", max_offset=0.3).translated(*root[:2].tolist())
    picture = render(look, rotations.numpy(), root.numpy(), view, 512, 512, maps=("rgb",))["rgb"]
    Image.fromarray(picture).save(DEMO / "picture.png")
