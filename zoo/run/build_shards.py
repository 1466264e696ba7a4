"""Make training shards of a folder of dance videos: see conf/shards.yaml for every option.

dancezoo shards folder=videos out=shards weights.pose_detector=mediapipe.whl
python train.py model=musedance data=shards data.urls='shards/*.tar'
"""

from fractions import Fraction

from omegaconf import DictConfig

from zoo.files import user_path


def build_shards(config: DictConfig) -> None:
    """Check the options, then make one shard a video."""
    from rich.progress import track

    from zoo.body.detection.base import PersonDetector
    from zoo.body.detection.factory import load_detector
    from zoo.data.clip_folder import ClipFolder
    from zoo.data.shard_builder.build import ShardSpec, build_shard, shard_key
    from zoo.data.shard_builder.captioner import ApiCaptioner, Captioner, LocalCaptioner
    from zoo.run.validate import int_at_least, positive

    for name in ("folder", "out"):
        if config[name] is None:
            raise ValueError(f"give {name}=DIR")
    frame_size = {name: int_at_least(config[name], name, 64) for name in ("height", "width")}
    if any(side % 4 for side in frame_size.values()):
        raise ValueError(f"height and width must be multiples of 4, not {config.height}x{config.width}")
    spec = ShardSpec(
        num_frames=int_at_least(config.num_frames, "num_frames", 2),
        fps=Fraction(str(positive(config.fps, "fps"))),
        **frame_size,
        allow_silent=bool(config.allow_silent),
    )
    if config.caption.url and not config.caption.model:
        raise ValueError("caption.url=ADDRESS needs caption.model=NAME")
    captioner: Captioner | None = None
    if config.caption.folder:
        captioner = LocalCaptioner(config.caption.folder)
    elif config.caption.url:
        captioner = ApiCaptioner(config.caption.url, config.caption.model, config.caption.key)
    music_folder = user_path(str(config.music)) if config.music else None
    clip_folder = ClipFolder(user_path(str(config.folder)), music_folder, config.pattern, None, {}, Fraction(30))
    detector: PersonDetector | None = None
    if config.weights.pose_detector:
        loaded_detector = load_detector(config.weights.pose_detector)
        if not isinstance(loaded_detector, PersonDetector):
            raise ValueError(
                f"weights.pose_detector={config.weights.pose_detector} detects rendered figures only; "
                "give the file of a detector of people"
            )
        detector = loaded_detector
    out = user_path(str(config.out))
    out.mkdir(parents=True, exist_ok=True)
    reports = [build_shard(video, out, spec, detector, captioner) for video in track(clip_folder.clips, "videos")]
    keys_without_parts = [] if detector else [video.key for video in clip_folder.clips if video.parts is None]
    num_clips = sum(report.num_clips for report in reports)
    num_unused_videos = sum(not report.num_clips for report in reports)
    for key, reason in clip_folder.skipped:
        print(f"{key}: left out: {reason}")
    for report in reports:
        if report.reason:
            print(f"{report.key}: left out: {report.reason}")
        for start_second, reason in report.dropped:
            print(f"{report.key} from {start_second:g} s on: left out: {reason}")
    if keys_without_parts:
        and_more = f" and {len(keys_without_parts) - 1} more" if len(keys_without_parts) > 1 else ""
        print(
            f"no folder densepose or masks lies beside {keys_without_parts[0]}{and_more}: "
            "no stage that needs parts can train on these clips"
        )
    if not num_clips:
        for report in reports:
            (out / f"{shard_key(report.key)}.json").unlink(missing_ok=True)
        raise ValueError(f"folder={config.folder}: no clip of it can be used")
    num_used_videos = len(reports) - num_unused_videos
    print(f"{num_clips} clips of {num_used_videos} videos are in {out}; {num_unused_videos} videos gave none")
