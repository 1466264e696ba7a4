"""Training shards from dance videos (MuseDance sec. 4.1): scenes, single dancers, clips, masks, captions.

One shard a video, written whole or not at all. A shard is made again when its options or its video's files change, or
when it failed. A bad video stops nothing. Dropped clips are reported with their reason.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from zoo.body.detection.base import PersonDetector
from zoo.body.render.densepose import FOREGROUND_PART
from zoo.data.base import EvalSpec
from zoo.data.clip_folder import ClipFiles
from zoo.data.eval_clips import crop_box, crop_images, crop_labels, file_state_hash
from zoo.data.shard_builder.captioner import Captioner, CaptionError
from zoo.data.shard_file import write_shard
from zoo.files import write_atomic
from zoo.media import Sound

SCENE_CUT_DISTANCE = 0.35  # of 1: minimum distance of the colour histograms on both sides of a cut
SCENE_CUT_RATIO = 4  # minimum ratio of this distance to the mean of the frames before
HISTOGRAM_BINS = (8, 4, 4)  # of hue, saturation, value
HISTOGRAM_SIZE = 64  # pixels of a side
HISTORY_LENGTH = 5  # frames
NUM_COUNTED_FRAMES = 9  # frames of a clip in which people are counted; odd, so that the median is a count
MIN_HEIGHT_RATIO = 0.5  # of the tallest person's: a smaller one is not counted as a second dancer
MIN_DETECTED_FRACTION = 0.9  # of a clip's frames in which the dancer is detected
SOUND_CONTEXT = Fraction(6)  # s of sound stored on either side of a clip, for the detection of its beats


@dataclass(frozen=True)
class ShardSpec:
    """The clips of a shard: `num_frames` of `height` x `width` at `fps`, cropped to the detected figure.

    allow_silent: make clips without sound too, otherwise they are left out.
    """

    num_frames: int = 50  # 48 to generate, after 2 of the previous window
    fps: Fraction = Fraction(12)
    height: int = 640
    width: int = 640
    allow_silent: bool = False

    @property
    def eval_spec(self) -> EvalSpec:
        """The clips as a spec of evaluation clips, cropped to the dancer."""
        return EvalSpec(self.num_frames, self.fps, self.height, self.width, crop="dancer")

    @property
    def seconds(self) -> Fraction:
        """Length of one clip, exactly."""
        return self.num_frames / self.fps


@dataclass
class ClipReport:
    """The result of one video."""

    key: str
    num_clips: int = 0
    dropped: list[tuple[float, str]] = field(default_factory=list)  # (start in the video in seconds, reason)
    reason: str | None = None  # why no clip could be used
    fingerprint: str = ""  # of the options and the video's files
    captioner_failed: bool = False  # the captioner failed for some of the dropped clips

    @property
    def is_retried(self) -> bool:
        """Whether the video is processed again although its options and files are the same."""
        return self.reason is not None or self.captioner_failed


def build_shard(
    video: ClipFiles, out: Path, spec: ShardSpec, detector: PersonDetector | None, captioner: Captioner | None
) -> ClipReport:
    """Write `out`/KEY.tar with the clips of one video, and KEY.json with the report, which is returned.

    A video is skipped when its .json has the fingerprint of the same options and files and no failure. Without a
    detector, clips are cropped to the centre. The parts are those that lie beside the video, else the detected
    figure's mask, else none are stored. The caption is the line beside the video (KEY.txt), else the captioner's, else
    none is stored.
    """
    key = shard_key(video.key)
    report_file = out / f"{key}.json"
    report = ClipReport(video.key, fingerprint=_fingerprint(video, spec, detector, captioner))
    previous = _read_report(report_file)
    is_complete = previous is not None and (previous.num_clips == 0 or (out / f"{key}.tar").is_file())
    if previous and is_complete and previous.fingerprint == report.fingerprint and not previous.is_retried:
        return previous
    try:
        keyed_samples = list(_clips(video, key, spec, detector, captioner, report))
    except ValueError as error:
        keyed_samples, report.reason = [], str(error)
    if keyed_samples:
        write_shard(out / f"{key}.tar", keyed_samples)
    else:
        (out / f"{key}.tar").unlink(missing_ok=True)  # of other options
    if not keyed_samples and report.reason is None:
        report.reason = "no clip of it can be used" if report.dropped else "it has no scene that is long enough"
    report.num_clips = len(keyed_samples)
    write_atomic(report_file, json.dumps(asdict(report), indent=1).encode())
    return report


def shard_key(key: str) -> str:
    """A key without dots for a clip's key; a hash keeps 'my.dance' and 'my_dance' apart."""
    if "." not in key:
        return key
    return f"{key.replace('.', '_')}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"


def _read_report(path: Path) -> ClipReport | None:
    """The report of an earlier run; None where there is none, or one of another format."""
    try:
        values = json.loads(path.read_text())
        values["dropped"] = [tuple(entry) for entry in values["dropped"]]
        return ClipReport(**values)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fingerprint(
    video: ClipFiles, spec: ShardSpec, detector: PersonDetector | None, captioner: Captioner | None
) -> str:
    """Hash the options and the state of the video's files: 24 hex digits."""
    options = {name: str(value) for name, value in asdict(spec).items()}
    model_names = [detector.name if detector else None, captioner.name if captioner else None]
    files = [*video.files, *(video.parts.maps.files if video.parts else [])]
    files_hash = file_state_hash(path for path in files if path.exists())
    text = json.dumps([options, model_names, dict(video.labels), files_hash], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _clips(
    video: ClipFiles,
    key: str,
    spec: ShardSpec,
    detector: PersonDetector | None,
    captioner: Captioner | None,
    report: ClipReport,
) -> Iterator[tuple[str, dict]]:
    """Yield (key, sample) of the usable clips of a video; write the reasons of the others into `report`."""
    sound_file = Sound(video.sound) if video.sound else None
    if sound_file is None and video.frames.has_sound():
        sound_file = Sound(video.frames.files[0])
    if sound_file is None and not spec.allow_silent:
        raise ValueError(f"it has no sound; put {video.key}.wav beside it, or set allow_silent=true")
    line = " ".join(video.caption.read_text("utf-8", errors="replace").split()) if video.caption else ""
    for first, stop in detect_scenes(video, spec.fps):
        for clip_index in range((stop - first) // spec.num_frames):
            first_frame = first + clip_index * spec.num_frames
            start = Fraction(first_frame) / spec.fps
            try:
                if sound_file and sound_file.duration < start + spec.seconds:
                    raise ValueError(f"its sound ends after {float(sound_file.duration):.2f} s")
                fields = _build_clip(video, start, spec, detector)
                caption = line or (captioner.caption(fields["frames"]) if captioner else "")
            except ValueError as error:
                report.dropped.append((round(float(start), 2), str(error)))
                report.captioner_failed |= isinstance(error, CaptionError)
                continue
            sound_start, sound_entry = start, {}
            if sound_file:
                sound_start = max(Fraction(0), start - SOUND_CONTEXT)
                sound_stop = min(sound_file.duration, start + spec.seconds + SOUND_CONTEXT)
                waveform = sound_file.mono(sound_file.sample_rate, sound_start, sound_stop)
                sound_entry = {"sound": (waveform, sound_file.sample_rate)}
            info = {
                **{label: value for label, value in video.labels.items() if label != "song"},
                "fps": str(spec.fps),
                "frames": spec.num_frames,
                "height": spec.height,
                "width": spec.width,
                "start": float(start - sound_start),
                "seconds": float(spec.seconds),
                "song": video.labels.get("song", video.key),
                **({"caption": caption} if caption else {}),
            }
            yield f"{key}-{first_frame:06d}", {"info": info, **sound_entry, **fields}


def detect_scenes(video: ClipFiles, fps: Fraction) -> list[tuple[int, int]]:
    """Ranges (start, stop) of the scenes of a video, in frames at `fps`; stop is exclusive.

    At a cut, the Bhattacharyya distance of the colour histograms of two neighbouring frames exceeds both
    SCENE_CUT_DISTANCE and SCENE_CUT_RATIO times its mean over the last HISTORY_LENGTH frames.
    """
    count = int(video.frames.seconds() * fps)
    cuts, previous, history = [0], None, [0.0] * HISTORY_LENGTH
    for index, frame in enumerate(video.frames.frames_at([Fraction(number) / fps for number in range(count)])):
        histogram = _color_histogram(frame)
        if previous is not None:
            distance = cv2.compareHist(previous, histogram, cv2.HISTCMP_BHATTACHARYYA)
            if distance > max(SCENE_CUT_DISTANCE, SCENE_CUT_RATIO * sum(history) / len(history)):
                cuts.append(index)
            history = [*history[1:], distance]
        previous = histogram
    cuts.append(count)
    return [(first, stop) for first, stop in zip(cuts, cuts[1:], strict=False) if stop > first]


def _color_histogram(frame: np.ndarray) -> np.ndarray:
    small = cv2.resize(frame, (HISTOGRAM_SIZE, HISTOGRAM_SIZE), interpolation=cv2.INTER_AREA)
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    histogram = cv2.calcHist([hsv], [0, 1, 2], None, HISTOGRAM_BINS, [0, 180, 0, 256, 0, 256])
    return histogram / histogram.sum()


def _build_clip(video: ClipFiles, start: Fraction, spec: ShardSpec, detector: PersonDetector | None) -> dict:
    """Frames, reference and parts of a clip. Raises ValueError when it does not show exactly one dancer."""
    times = [start + index / spec.fps for index in range(spec.num_frames)]
    images = np.stack(list(video.frames.frames_at(times)))
    height, width = images.shape[1:3]
    eval_spec, poses = spec.eval_spec, None
    if detector is None:
        crop_window = crop_box(replace(eval_spec, crop="centre"), height, width)
    else:
        check_single_dancer(images, detector)
        poses = detector.detect(images)
        is_detected = np.isfinite(poses.joints).all((1, 2))
        if is_detected.mean() < MIN_DETECTED_FRACTION:
            raise ValueError(f"the dancer is lost in {round(100 * (1 - is_detected.mean()))}% of it")
        crop_window = crop_box(eval_spec, height, width, poses.joints)
    frames = crop_images(images, crop_window, eval_spec)
    fields = {"frames": frames, "reference": frames[0]}
    if video.parts is not None:
        fields["parts"] = crop_labels(
            np.stack(list(video.parts.parts_at(times, height, width))), crop_window, eval_spec
        )
    elif poses is not None:
        figure_masks = crop_images(
            np.repeat((poses.mask * 255).astype(np.uint8)[..., None], 3, -1), crop_window, eval_spec
        )[..., 0]
        fields["parts"] = np.where(figure_masks > 127, FOREGROUND_PART, 0).astype(np.uint8)
    return fields


def check_single_dancer(images: np.ndarray, detector: PersonDetector) -> None:
    """Raise ValueError when the median of some frames shows no dancer, or more than one."""
    counts = []
    for index in np.linspace(0, len(images) - 1, NUM_COUNTED_FRAMES).round().astype(int):
        people = detector.find_people(images[index])
        heights = sorted((float(np.ptp(person.box[1::2])) for person in people), reverse=True)
        counts.append(sum(height > MIN_HEIGHT_RATIO * heights[0] for height in heights) if heights else 0)
    median = int(np.median(counts))
    if median != 1:
        raise ValueError("nobody is found in it" if median == 0 else f"{median} people are in it")
