"""Make a video of a figure that dances to a song: conf/sample.yaml lists every option.

python sample.py                                      # the shipped magicdance-tiny, image and song
python sample.py music=song.mp3 seconds=20 seed=1 out=dance.mp4
python sample.py music=song.mp3 out=dance.glb         # the motion itself, for Blender
"""

from zoo.cli import sample

if __name__ == "__main__":
    sample()
