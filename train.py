"""Train a family's stages, go on with a run, or export one: see conf/train.yaml for every option.

python train.py model=magicdance                      # size=tiny, world data, this machine
python train.py model=magicdance trainer=ddp_32gpu    # size=paper, 4 machines of 8 GPUs
python train.py resume=runs/magicdance/NAME           # goes on exactly where it stopped
python train.py export=DIR ckpt=FILE                  # safetensors + config, nothing trained
"""

from omegaconf import DictConfig

from zoo.run.errors import script


@script("train")
def main(config: DictConfig) -> None:
    """Check the request while nothing heavy is loaded, then do it."""
    from zoo.run.train.runs import open_run

    run, config = open_run(config)
    if run is None:
        from zoo.run.checkpoint import export

        export(config.ckpt, config.export, config.export_dtype)
    elif config.plan:
        from zoo.run.train.plan import print_plan

        print_plan(config)
    else:
        from zoo.run.train.fit import fit

        fit(config, run)


if __name__ == "__main__":
    main()
