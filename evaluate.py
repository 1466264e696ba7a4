"""Score dances side by side: one table, with intervals and paired tests. See conf/evaluate.yaml for every option.

python evaluate.py                                         # the shipped checkpoint on the world's test songs
python evaluate.py ckpt=[A,B] videos=[DIR1,DIR2] protocol=world-v1
python evaluate.py inputs=DIR                              # what others need to make videos for such a row
"""

from omegaconf import DictConfig

from zoo.run.errors import script


@script("evaluate")
def main(config: DictConfig) -> None:
    """Hand the composed config on."""
    from zoo.run.evaluate.benchmark import evaluate

    evaluate(config)


if __name__ == "__main__":
    main()
