"""Make training data of a teacher's motion: see conf/sdgpip.yaml and conf/data/sdgpip.yaml for every option.

dancezoo sdgpip out=slices songs_folder=songs
"""

from omegaconf import DictConfig, OmegaConf

COMMAND_KEYS = ("out", "shard", "trusted_modules")  # the other keys are the data source's


def build_sdgpip(config: DictConfig) -> None:
    """Check the options, then make the missing shards."""
    from hydra.utils import instantiate

    from zoo.data.base import SPLITS
    from zoo.files import user_path

    if config.out is None:
        raise ValueError("give out=DIR")
    shard = read_shard(config.shard)
    folder = user_path(config.out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out={config.out} is a file, not a folder")
    values = OmegaConf.to_container(config, resolve=True)
    node = {name: value for name, value in values.items() if name not in COMMAND_KEYS}
    source = instantiate(OmegaConf.create(node), folder=folder)
    source.make(SPLITS, shard)
    counts = {split: len(list(folder.glob(f"{split}-*.tar"))) for split in SPLITS}
    files = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"{folder}: shards: {files}", flush=True)


def read_shard(value: str) -> tuple[int, int]:
    """'3/64' as (2, 64): every 64th shard from the third one on. Raises ValueError for another text."""
    number, slash, count = str(value).partition("/")
    if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ValueError(f"shard={value}: write I/N with 1 <= I <= N, such as shard=3/64")
    return int(number) - 1, int(count)
