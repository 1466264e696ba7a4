"""edit.*: keeps seconds and joints of a motion; the motion diffuser generates the rest (EDGE sec. 3, "editing")."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.batch import MOTION_FPS
from zoo.body.skeleton import FEET, JOINTS
from zoo.families.base import MotionGenerator, SamplingParams
from zoo.families.magicdance.long_form import frame_mask, joint_mask
from zoo.music.encoder import MusicFeatures

BLOCK_FRAMES = 150  # yielded together
LOWER_BODY = tuple(
    name for name in JOINTS if name == "pelvis" or name.split("_")[-1] in ("hip", "knee", "ankle", "foot")
)
JOINT_GROUPS = {"lower": LOWER_BODY, "upper": tuple(name for name in JOINTS if name not in LOWER_BODY)}


@dataclass(frozen=True)
class KeptPart:
    """The part of a motion that an edit keeps: these joints in these seconds; all of them where one is None."""

    seconds: tuple[tuple[float, float], ...] | None = None
    joints: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> "KeptPart | None":
        """From `keep_seconds` ([start, stop] or a list of these) and `joints` (a group or names); None without both.

        Raises ValueError for anything else.
        """
        seconds, joints = options.get("keep_seconds"), options.get("joints")
        if seconds is None and joints is None:
            return None
        return cls(None if seconds is None else _intervals(seconds), None if joints is None else _joint_names(joints))

    def mask(self, num_frames: int, available_frames: int | None) -> Tensor:
        """(num_frames, 151), 1 where the motion is kept. Frames from `available_frames` on have nothing to keep.

        Raises ValueError where nothing is left to keep.
        """
        row_slices = [slice(0, num_frames)]
        if self.seconds is not None:
            row_slices = [
                slice(-int(-start * MOTION_FPS // 1), int(stop * MOTION_FPS) + 1) for start, stop in self.seconds
            ]
        mask = frame_mask(num_frames, *row_slices)
        if self.joints is not None:
            value_mask = joint_mask(1, self.joints)
            if all(JOINTS[foot] in self.joints for foot in FEET):
                value_mask[:, :4] = 1  # contacts
            mask = mask * value_mask
        if available_frames is not None:
            mask[available_frames:] = 0
        if not mask.any():
            available_seconds = min(num_frames, available_frames or num_frames) / MOTION_FPS
            raise ValueError(
                f"edit.keep_seconds: the motion has {available_seconds:g} s, none of these seconds is in it"
            )
        return mask


def _intervals(seconds: Any) -> tuple[tuple[float, float], ...]:
    try:
        items = list(seconds)
        pairs = [tuple(map(float, pair)) for pair in (items if isinstance(items[0], Sequence) else [items])]
        if all(len(pair) == 2 and 0 <= pair[0] < pair[1] < float("inf") for pair in pairs):
            return tuple((pair[0], pair[1]) for pair in pairs)
    except (TypeError, ValueError, IndexError):
        pass
    raise ValueError(f"edit.keep_seconds={seconds}: write [START,STOP] in seconds, or [[0,2],[8,10]]")


def _joint_names(joints: Any) -> tuple[str, ...]:
    if isinstance(joints, str) and joints in JOINT_GROUPS:
        return JOINT_GROUPS[joints]
    names = [joints] if isinstance(joints, str) else joints
    if not isinstance(names, Sequence) or not names or any(name not in JOINTS for name in names):
        raise ValueError(f"edit.joints={joints}: use {', '.join(JOINT_GROUPS)} or a list of {', '.join(JOINTS)}")
    return tuple(names)


class EditedMotion(MotionGenerator):
    """Keeps part of the motion of another generator exactly; the family's diffuser generates the rest."""

    def __init__(self, family: Any, source: MotionGenerator, part: KeptPart):
        self.edit, self.source, self.part = family.edit, source, part

    def generate_motion(
        self, music: MusicFeatures, num_frames: int, seed: int, sampling: SamplingParams, prompt: str = ""
    ) -> Iterator[Tensor]:
        """See MotionGenerator. Raises ValueError where nothing is left to keep."""
        mask = self.part.mask(num_frames, self.source.available_frames)
        source = torch.cat(list(self.source.generate_motion(music, num_frames, seed, sampling, prompt)))
        # the diffuser knows dances around the origin; its normaliser would clip any other place
        origin = torch.zeros(source.shape[1])
        origin[4:6] = source[int(mask.any(1).int().argmax()), 4:6]
        motion = self.edit(music, source - origin, mask, seed, sampling)
        yield from torch.where(mask > 0, source, motion + origin).split(BLOCK_FRAMES)

    def notes(self, music: MusicFeatures, prompt: str) -> list[str]:
        """See MotionGenerator: those of the source."""
        return self.source.notes(music, prompt)
