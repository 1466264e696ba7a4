"""Make a figure dance to a song: see conf/sample.yaml for every option.

python sample.py                                      # the shipped checkpoint, picture and song
python sample.py music=song.mp3 seconds=20 seed=1 out=dance.mp4
python sample.py music=song.mp3 out=dance.glb         # the motion itself, for Blender
"""

from omegaconf import DictConfig

from zoo.run.errors import script


@script("sample", groups=False)
def main(config: DictConfig) -> None:
    """Check the request while nothing heavy is loaded, then do it."""
    from zoo.run.sample.request import read_request

    request = read_request(config)
    from zoo.run.sample.generate import generate

    generate(request)


if __name__ == "__main__":
    main()
