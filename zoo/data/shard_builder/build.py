"""Anybody's dance videos as training shards (MuseDance sec. 4.1): scenes, single dancers, clips, masks, captions.

One shard a video, written whole or not at all: what is there already is not made again, and a bad video stops nothing.
What was left out is said with its reason.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from zoo.body.detection.base import PersonDetector
from zoo.body.render.densepose import BODY
from zoo.data.base import Cut
from zoo.data.clip_folder import Found
from zoo.data.eval_clips import crop_box, cut_labels, cut_pictures
from zoo.data.shard_builder.captioner import Captioner
from zoo.data.sources.shards import write_shard
from zoo.media import Sound

CHANGE = 0.35  # of 1: so far the colours of two frames lie apart where a scene is cut
BINS = (8, 4, 4)  # of hue, saturation, value
LOOKS = 8  # frames of a clip in which people are counted
OTHER = 0.5  # of the dancer's height: a person below it is not counted as a second dancer
AROUND = Fraction(6)  # s of sound kept on either side of a clip, by which its beats are found


@dataclass(frozen=True)
class Making:
    """What clips are made: `seconds` of `height` x `width` at `fps`, cropped to where a detector finds the figure.

    silence: clips without sound are made too, without it; otherwise they are left out.
    """

    seconds: Fraction = Fraction(25, 6)  # 48 frames, and the two before them
    fps: Fraction = Fraction(12)
    height: int = 640
    width: int = 640
    silence: bool = False

    @property
    def cut(self) -> Cut:
        """The same, as evaluation has it."""
        return Cut(self.frames, self.fps, self.height, self.width, crop="dancer")

    @property
    def frames(self) -> int:
        """F, of one clip."""
        return round(self.seconds * self.fps)


@dataclass
class Report:
    """What became of one video."""

    key: str
    clips: int = 0
    dropped: list[tuple[float, str]] = field(default_factory=list)  # from which second, why
    reason: str | None = None  # why nothing of it could be used

    def as_json(self) -> dict:
        """Plain values."""
        return {"key": self.key, "clips": self.clips, "dropped": self.dropped, "reason": self.reason}


def make_shard(
    video: Found, out: Path, making: Making, people: PersonDetector | None, captioner: Captioner | None
) -> Report:
    """Write `out`/KEY.tar with the clips of one video, and KEY.json that says what was dropped; tells it.

    A video whose .json is there is done. Without `people` clips are cropped to the middle. Their parts are those that
    lie beside the video, else the found figure's mask, else none are stored. The caption is the line beside the video
    (KEY.txt), else the captioner's, else none is stored.
    """
    key = video.key.replace(".", "_")
    told = out / f"{key}.json"
    if told.is_file():
        kept = json.loads(told.read_text())
        return Report(kept["key"], kept["clips"], [tuple(one) for one in kept["dropped"]], kept["reason"])
    report = Report(video.key)
    try:
        samples = list(_clips(video, key, making, people, captioner, report))
    except ValueError as error:
        samples, report.reason = [], str(error)
    if samples:
        write_shard(out / f"{key}.tar", samples)
    elif report.reason is None:
        report.reason = "no clip of it can be used" if report.dropped else "it has no scene that is long enough"
    report.clips = len(samples)
    temporary = told.with_name(f".{told.name}")
    temporary.write_text(json.dumps(report.as_json(), indent=1))
    temporary.replace(told)
    return report


def _clips(
    video: Found,
    key: str,
    making: Making,
    people: PersonDetector | None,
    captioner: Captioner | None,
    report: Report,
) -> Iterator[tuple[str, dict]]:
    sound = Sound(video.sound) if video.sound else None
    if sound is None and video.footage.has_sound():
        sound = Sound(video.footage.files[0])
    if sound is None and not making.silence:
        raise ValueError(f"it has no sound; put {video.key}.wav beside it, or set silence=true")
    line = " ".join(video.caption.read_text("utf-8", errors="replace").split()) if video.caption else ""
    for first, last in scenes(video, making.fps):
        for number in range((last - first) // making.frames):
            start = Fraction(first + number * making.frames) / making.fps
            try:
                if sound and sound.duration < start + making.seconds:
                    raise ValueError(f"its sound ends after {float(sound.duration):.2f} s")
                fields = _shot(video, start, making, people)
                words = line or (captioner.caption(fields["frames"]) if captioner else "")
            except ValueError as error:
                report.dropped.append((round(float(start), 2), str(error)))
                continue
            before, heard = start, {}
            if sound:
                before = max(Fraction(0), start - AROUND)
                wave = sound.mono(sound.sample_rate, before, min(sound.duration, start + making.seconds + AROUND))
                heard = {"sound": (wave, sound.sample_rate)}
            info = {
                "fps": str(making.fps),
                "frames": making.frames,
                "height": making.height,
                "width": making.width,
                "start": float(start - before),
                "seconds": float(making.seconds),
                "song": video.labels.get("song", video.key),
                **{name: value for name, value in video.labels.items() if name != "song"},
                **({"caption": words} if words else {}),
            }
            yield f"{key}-{first + number * making.frames:06d}", {"info": info, **heard, **fields}


def scenes(video: Found, fps: Fraction) -> list[tuple[int, int]]:
    """First and last + 1 frame, at `fps`, of the parts of a video between two cuts.

    A cut is where the histogram of colours changes by more than CHANGE (the distance of Bhattacharyya) from one frame
    to the next, and by four times as much as it did in the mean of the five frames before.
    """
    count = int(video.footage.seconds() * fps)
    edges, before, recent = [0], None, [0.0] * 5
    for index, picture in enumerate(video.footage.at([Fraction(each) / fps for each in range(count)])):
        small = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA)
        now = cv2.calcHist([cv2.cvtColor(small, cv2.COLOR_RGB2HSV)], [0, 1, 2], None, BINS, [0, 180, 0, 256, 0, 256])
        now = now / now.sum()
        if before is not None:
            apart = cv2.compareHist(before, now, cv2.HISTCMP_BHATTACHARYYA)
            if apart > max(CHANGE, 4 * sum(recent) / len(recent)):
                edges.append(index)
            recent = [*recent[1:], apart]
        before = now
    edges.append(count)
    return [(a, b) for a, b in zip(edges, edges[1:], strict=False) if b > a]


def _shot(video: Found, start: Fraction, making: Making, people: PersonDetector | None) -> dict:
    """Frames, reference and parts of a clip. Raises ValueError where there is not one dancer."""
    times = [start + index / making.fps for index in range(making.frames)]
    pictures = np.stack(list(video.footage.at(times)))
    height, width = pictures.shape[1:3]
    cut, found = making.cut, None
    if people is None:
        box = crop_box(replace(cut, crop="centre"), height, width)
    else:
        check_alone(pictures, people)
        found = people.detect(pictures)
        seen = np.isfinite(found.joints).all((1, 2))
        if seen.mean() < 0.9:
            raise ValueError(f"the dancer is lost in {round(100 * (1 - seen.mean()))}% of it")
        box = crop_box(cut, height, width, found.joints)
    frames = cut_pictures(pictures, box, cut)
    fields = {"frames": frames, "reference": frames[0]}
    if video.parts is not None:
        fields["parts"] = cut_labels(np.stack(list(video.parts.at(times, height, width))), box, cut)
    elif found is not None:
        masks = cut_pictures(np.repeat((found.mask * 255).astype(np.uint8)[..., None], 3, -1), box, cut)[..., 0]
        fields["parts"] = np.where(masks > 127, BODY, 0).astype(np.uint8)
    return fields


def check_alone(pictures: np.ndarray, people: PersonDetector) -> None:
    """Raises ValueError where most of the looks show nobody, or more than one dancer."""
    counts = []
    for index in np.linspace(0, len(pictures) - 1, LOOKS).round().astype(int):
        sizes = sorted((float(np.ptp(one.box[1::2])) for one in people.find_people(pictures[index])), reverse=True)
        counts.append(sum(size > OTHER * sizes[0] for size in sizes) if sizes else 0)
    typical = int(np.median(counts))
    if typical != 1:
        raise ValueError("nobody is found in it" if typical == 0 else f"{typical} people are in it")
