"""Optical flow: amount of motion in frames, and its alignment with onsets of the sound (AV-Align)."""

from typing import ClassVar

import cv2
import numpy as np

from zoo.metrics.base import STILL_IMAGE, ClipMetric, Column, Measurement, MetricInput
from zoo.music.compiled_librosa import librosa

FLOW_METHODS = ("dis", "farneback")
DIS_SHORT_SIDE = 64  # pixels of the shorter side on which 'dis' works
ONSET_RATE = 22050  # Hz; librosa's default, which the public code uses


def flow_magnitude(frames: np.ndarray, flow: str = "dis") -> np.ndarray:
    """Mean length of the optical flow vectors between successive frames, pixels of `frames`. -> (F - 1,) float64

    frames (F, H, W, 3) uint8. flow: 'dis' (Kroeger et al. 2016, on frames resized to `DIS_SHORT_SIDE`), which takes a
    thirtieth of the time of 'farneback' (at full size, with the public AV-Align code's settings). Raises ValueError for
    others.
    """
    if flow not in FLOW_METHODS:
        raise ValueError(f"flow={flow}: use {' or '.join(FLOW_METHODS)}")
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    scale = 1.0
    if flow == "dis":
        scale = max(1.0, min(frames.shape[1:3]) / DIS_SHORT_SIDE)
        size = (round(frames.shape[2] / scale), round(frames.shape[1] / scale))
        grey = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in grey]
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        dis.setFinestScale(1)  # the default, 2, is meant for large frames
    lengths = []
    for frame, next_frame in zip(grey, grey[1:], strict=False):
        if flow == "dis":
            vectors = dis.calc(frame, next_frame, None)
        else:
            vectors = cv2.calcOpticalFlowFarneback(frame, next_frame, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        lengths.append(cv2.mean(cv2.magnitude(vectors[..., 0], vectors[..., 1]))[0])
    return np.array(lengths) * scale


def flow_peaks(magnitude: np.ndarray, fps: float) -> np.ndarray:
    """Find times, seconds, of local maxima of the flow (F - 1,); the flow into frame i counts at i / fps, as
    published.
    """
    curve = np.concatenate([magnitude[:1], magnitude])  # the first frame has no flow
    interior = curve[1:-1]
    return (np.flatnonzero((interior > curve[:-2]) & (interior > curve[2:])) + 1) / fps


def detect_onsets(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Detect onset times, seconds, of a waveform (S,) float32 by librosa."""
    resampled = waveform
    if sample_rate != ONSET_RATE:
        resampled = librosa.resample(waveform, orig_sr=sample_rate, target_sr=ONSET_RATE)
    return librosa.onset.onset_detect(y=resampled, sr=ONSET_RATE, units="time")


def av_align(audio: np.ndarray, video: np.ndarray, fps: float) -> float:
    """Intersection over union of two sets of peaks, seconds (Yariv et al. 2024, sec. 4.2, as their code computes it).

    The intersection I is the number of audio peaks with a video peak less than a frame away (three frames in all); the
    score is I / (audio + video - I). As in their code, it exceeds 1 where several audio peaks share a video peak. `nan`
    where there are no peaks at all.
    """
    if len(audio) + len(video) == 0:
        return float("nan")
    is_near = np.abs(np.asarray(audio)[:, None] - np.asarray(video)[None]) < 1 / fps
    num_matched = int(is_near.any(1).sum())
    return num_matched / (len(audio) + len(video) - num_matched)


class AVAlign(ClipMetric):
    """AV-Align (Yariv et al. 2024): peaks of optical flow against onsets of sound, intersection over union.

    Two peaks match in a window of three frames. Flow is DIS by default, or Farneback as in the public code. A dance
    that stops on the beat moves most between beats, so the score does not suit dance. It is here because papers report
    it.
    """

    columns: ClassVar = {"av_align": Column("AV-Align", "higher", must_beat=frozenset({STILL_IMAGE}))}

    def __init__(self, flow: str = "dis"):
        """flow: 'dis' or 'farneback'. Raises ValueError for others."""
        if flow not in FLOW_METHODS:
            raise ValueError(f"metrics.av_align.flow={flow}: use {' or '.join(FLOW_METHODS)}")
        self.flow = flow

    def measure(self, clip: MetricInput) -> Measurement:
        """Measure one clip."""
        onset_times = clip.cached("onsets", lambda: detect_onsets(clip.waveform, clip.sample_rate))
        magnitude = clip.cached(("flow", self.flow), lambda: flow_magnitude(clip.frames, self.flow))
        fps = float(clip.fps)
        return {"av_align": np.float64(av_align(onset_times, flow_peaks(magnitude, fps), fps))}
