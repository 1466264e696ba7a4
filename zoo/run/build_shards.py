"""Turn a folder of one's own dance videos into training shards: see conf/shards.yaml for every option.

python -m zoo.run.build_shards folder=videos out=shards weights.people=mediapipe.whl
python train.py model=musedance data=shards data.urls='shards/*.tar'
"""

from fractions import Fraction
from pathlib import Path

from omegaconf import DictConfig

from zoo.run.errors import script


@script("shards", groups=False)
def main(config: DictConfig) -> None:
    """Check what is asked for, then make one shard a video."""
    from rich.progress import track

    from zoo.body.detection.factory import load_detector
    from zoo.data.clip_folder import Folder
    from zoo.data.shard_builder.build import Making, make_shard
    from zoo.data.shard_builder.captioner import Captioner, Endpoint, Local
    from zoo.run.sample.request import positive, whole

    for name in ("folder", "out"):
        if config[name] is None:
            raise ValueError(f"give {name}=DIR")
    fps = positive(config.fps, "fps")
    sides = {name: whole(config[name], name, 64) for name in ("height", "width")}
    seconds = Fraction(round(positive(config.seconds, "seconds") * fps)) / Fraction(str(fps))
    making = Making(seconds, Fraction(str(fps)), **sides, silence=bool(config.silence))
    if making.frames < 2 or any(side % 4 for side in sides.values()):
        raise ValueError("clips have two frames at least, and sides that are multiples of 4")
    if config.caption.url and not config.caption.model:
        raise ValueError("caption.url=ADDRESS needs caption.model=NAME")
    captioner: Captioner | None = None
    if config.caption.folder:
        captioner = Local(config.caption.folder)
    elif config.caption.url:
        captioner = Endpoint(config.caption.url, config.caption.model, config.caption.key)
    music = Path(config.music).expanduser() if config.music else None
    found = Folder(Path(config.folder).expanduser(), music, config.pattern, None, {}, Fraction(30))
    people = load_detector(config.weights.people) if config.weights.people else None
    out = Path(config.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    reports = [make_shard(video, out, making, people, captioner) for video in track(found.clips, "videos")]
    bare = [] if people else [video.key for video in found.clips if video.parts is None]
    clips, unused = sum(report.clips for report in reports), [report for report in reports if not report.clips]
    for key, reason in found.skipped:
        print(f"{key}: left out: {reason}")
    for report in reports:
        if report.reason:
            print(f"{report.key}: left out: {report.reason}")
        for second, reason in report.dropped:
            print(f"{report.key} from {second:g} s on: left out: {reason}")
    if bare:
        which = bare[0] if len(bare) == 1 else f"{bare[0]} and {len(bare) - 1} more"
        print(f"no folder densepose or masks lies beside {which}: no stage that needs parts can learn from these clips")
    print(f"{clips} clips of {len(reports) - len(unused)} videos are in {out}; {len(unused)} videos gave none")
    if not clips:
        raise ValueError(f"folder={config.folder}: no clip of it can be used")


if __name__ == "__main__":
    main()
