"""Score checkpoints side by side: one table, with intervals. See conf/evaluate.yaml for every option.

python evaluate.py                                    # the shipped checkpoint on the world's test songs
python evaluate.py ckpt=[A,B,C] data=world
"""

from omegaconf import DictConfig

from zoo.run.errors import script


@script("evaluate")
def main(config: DictConfig) -> None:
    """Hand the composed config on."""
    from zoo.run.benchmark import evaluate

    evaluate(config)


if __name__ == "__main__":
    main()
