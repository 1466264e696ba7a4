"""Train a family's stages, continue a run, or export one: conf/train.yaml lists every option.

python train.py model=magicdance                      # size=tiny, world data, this machine
python train.py model=magicdance trainer=ddp_32gpu    # size=paper, 4 machines of 8 GPUs
python train.py resume=runs/magicdance/NAME           # continues exactly where it stopped
python train.py export=DIR ckpt=FILE                  # safetensors + config, nothing trained
"""

from zoo.cli import train

if __name__ == "__main__":
    train()
