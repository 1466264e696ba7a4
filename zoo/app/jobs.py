"""The jobs of the web app, by the code of `sample.py`: preview, four takes, video, motion. No Gradio here.

A session is one open page. Its files lie in one folder, which is removed when the page is closed.
"""

import logging
import math
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from zoo.media import Sound, read_image
from zoo.run.errors import error_message
from zoo.run.sample.request import SamplingRequest, compose_request
from zoo.run.validate import int_at_least

PREVIEW_SECONDS, PREVIEW_FPS = Fraction(3), 15
NUM_TAKES, TAKE_FRAMES, TAKE_FPS = 4, 8, 2
TILE_HEIGHT, LABEL_HEIGHT = 150, 22  # pixels of the contact sheet
THUMBNAIL_SIDE = 640  # pixels
BUG = "Something went wrong in DanceZoo itself; the terminal shows the details."
STOPPED = "The job was stopped."
MAX_ENDED = 1000  # keys of closed pages that are remembered
NO_MOTION = "generates no body motion"  # words of the refusal by `zoo.run.sample.generate`
INPUTS = {"image": "picture", "music": "song"}  # option of sample.py -> its label on the page
PAGE_WORDS = {  # words of sample.py that name an option -> words of the page
    " (motion.style=NAME chooses another)": "",
    "person=N": "the field Person",
    ", for example person=[1,2]": ", for example 1,2",
    "seconds=": "the length of ",
}

OnProgress = Callable[[int, int], object]  # takes the number of frames that are done, and of all


@dataclass(frozen=True)
class Form:
    """The values of the page. None: the default of sample.py, which is the demo's for picture and song."""

    picture: Path | None = None
    song: Path | None = None
    style: str | None = None
    seed: int = 0
    renderer: str | None = None
    seconds: float = 20.0
    person: str = ""  # number from the left, or several with commas; empty: the largest


@dataclass
class Session:
    """One open page: the folder of its files, and the switch that ends its job."""

    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    is_ended: bool = False
    uploads: dict[str, Path] = field(default_factory=dict)  # option of sample.py -> the file as Gradio stored it


@dataclass(frozen=True)
class Result:
    """Files of a job, and the lines that sample.py prints."""

    files: list[Path]
    notes: list[str]


class Sessions:
    """All open pages. Gradio stores equal uploads of two pages once, so a stored file goes with its last page."""

    def __init__(self, root: Path):
        """root: an existing folder, which the caller removes."""
        self._root = root
        self._sessions: dict[str, Session] = {}
        self._ended: dict[str, None] = {}  # keys of the last pages that were closed, in this order
        self._lock = threading.Lock()

    def get(self, key: str) -> Session:
        """The session of a page, by Gradio's key for it. Raises ValueError for one that has ended."""
        with self._lock:
            if key in self._ended:
                raise ValueError("the connection to this page was lost; load it again")
            if key not in self._sessions:
                folder = self._root / f"session-{secrets.token_hex(16)}"  # another page cannot guess it
                folder.mkdir()
                self._sessions[key] = Session(folder)
            return self._sessions[key]

    def take_upload(self, key: str, option: str, stored: Path | None) -> Path | None:
        """Copy an upload into the session's folder, in place of its earlier one, and return the copy."""
        session = self.get(key)
        self._release(session, option)
        if stored is None:
            return None
        with self._lock:
            session.uploads[option] = stored
        name = re.sub(r"[^\w. -]", "_", stored.name)[-100:]
        folder = session.folder / option
        folder.mkdir()
        return Path(shutil.copyfile(stored, folder / name))

    def end(self, key: str) -> None:
        """Stop the page's job and remove its files."""
        session = self._sessions.get(key)
        if session is None:
            return
        session.stop.set()
        session.is_ended = True
        for option in list(session.uploads):
            self._release(session, option)
        with self._lock:
            del self._sessions[key]
            self._ended[key] = None
            while len(self._ended) > MAX_ENDED:
                del self._ended[next(iter(self._ended))]
        shutil.rmtree(session.folder, ignore_errors=True)
        for file in self._root.glob("tmp*"):  # empty files that Gradio makes for each read of an upload
            with suppress(OSError):
                if file.is_file() and not file.stat().st_size:
                    file.unlink()

    def end_all(self) -> None:
        """End every session."""
        for key in list(self._sessions):
            self.end(key)

    def _release(self, session: Session, option: str) -> None:
        """Remove the copy of an upload, and the stored file when no other page uses it."""
        with self._lock:
            stored = session.uploads.pop(option, None)
            used = {path for other in self._sessions.values() for path in other.uploads.values()}
            if stored is not None and stored not in used:
                stored.unlink(missing_ok=True)
                with suppress(OSError):
                    stored.parent.rmdir()
        shutil.rmtree(session.folder / option, ignore_errors=True)


class Jobs:
    """Runs the jobs of the page. One at a time: the queue before it sees to that."""

    def __init__(self, defaults: Mapping[str, Any], max_seconds: float, max_job_seconds: float):
        """defaults: options of conf/sample.yaml that hold for all jobs. max_seconds: of one video."""
        self.defaults, self.max_seconds, self.max_job_seconds = dict(defaults), max_seconds, max_job_seconds

    def preview(self, form: Form, session: Session, on_progress: OnProgress) -> Result:
        """The first three seconds of the video, with fewer frames."""
        request = self._request(form, session, "preview", PREVIEW_FPS)
        return self._run([request], session, on_progress, PREVIEW_SECONDS)

    def video(self, form: Form, session: Session, on_progress: OnProgress) -> Result:
        """The whole video, and the motion as .glb and .bvh where the family generates one."""
        request = self._request(form, session, "video")
        motions = [replace(request, out=request.out.with_suffix(suffix)) for suffix in (".glb", ".bvh")]
        return self._run([request, *motions], session, on_progress)

    def takes(self, form: Form, session: Session, on_progress: OnProgress) -> Result:
        """A contact sheet of how four videos begin, with the seed of the form and the next three: a row each."""
        from zoo.run.sample.generate import generate_frames

        deadline = self._begin(session)
        notes: list[str] = []
        rows = []
        for take in range(NUM_TAKES):
            take_form = replace(form, seed=form.seed + take)
            request = self._request(take_form, session, "takes", TAKE_FPS)
            blocks = generate_frames(request, notes.append)
            frames = list(islice((frame for block in blocks for frame in block), TAKE_FRAMES))
            rows.append(_row(frames, f"take {take + 1}: seed {take_form.seed}"))
            self._check(session, deadline)
            on_progress(take + 1, NUM_TAKES)
        width = max(row.shape[1] for row in rows)  # rows may differ: a song may end
        sheet = np.vstack([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])
        file = request.out.with_suffix(".png")
        cv2.imwrite(str(file), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
        return Result([file], list(dict.fromkeys(notes)))

    def _request(self, form: Form, session: Session, job: str, fps: int = 30) -> SamplingRequest:
        """The checked request of a job, whose output has a new folder; that of an earlier job of its kind goes."""
        if not 0 < form.seconds <= self.max_seconds:
            raise ValueError(f"length {form.seconds:g} s: this page makes videos of up to {self.max_seconds:g} s")
        seed = int_at_least(form.seed, "seed", 0)
        options = {**self.defaults, "seconds": form.seconds, "fps": fps, "seed": seed, "renderer": form.renderer}
        if form.picture is not None:
            options["image"] = form.picture
        if form.song is not None:
            options["music"] = form.song
        if form.style is not None:
            options["motion"] = {"name": "choreographer", "style": form.style}
        if form.person.strip():
            numbers = [int_at_least(number.strip(), "person", 1) for number in form.person.split(",")]
            options["person"] = numbers if len(numbers) > 1 else numbers[0]
        for folder in session.folder.glob(f"{job}-*"):
            shutil.rmtree(folder, ignore_errors=True)
        folder = session.folder / f"{job}-{secrets.token_hex(4)}"  # a browser does not show an earlier file again
        folder.mkdir()
        return compose_request({**options, "out": folder / "dance.mp4"})

    def _run(
        self,
        requests: list[SamplingRequest],
        session: Session,
        on_progress: OnProgress,
        max_seconds: Fraction | None = None,
    ) -> Result:
        from zoo.run.sample.generate import generate

        deadline = self._begin(session)
        notes: list[str] = []

        def check(num_done: int, total: int) -> None:
            self._check(session, deadline)
            on_progress(num_done, total)

        files = []
        for request in requests:
            try:
                is_video = request is requests[0]
                files.append(generate(request, notes.append, check if is_video else None, max_seconds))
            except ValueError as error:
                if is_video or NO_MOTION not in str(error):
                    raise
        return Result(files, list(dict.fromkeys(line for line in notes if "x real time" not in line)))

    def _begin(self, session: Session) -> float:
        """The time at which a job that begins now has to end. Raises ValueError where the page is closed."""
        if not session.is_ended:
            session.stop.clear()
        self._check(session, math.inf)
        return time.monotonic() + self.max_job_seconds

    def _check(self, session: Session, deadline: float) -> None:
        """Raises ValueError in a job that was stopped or takes too long."""
        if session.stop.is_set():
            raise ValueError(STOPPED)
        if time.monotonic() > deadline:
            raise ValueError(f"the job took longer than {self.max_job_seconds / 60:g} minutes; ask for a shorter video")


def thumbnail(picture: Path) -> str:
    """Write an uploaded picture upright and small beside it. Returns the file. Raises ValueError for no picture."""
    image = read_image(picture)
    scale = min(1.0, THUMBNAIL_SIDE / max(image.shape[:2]))
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    file = picture.parent / f"thumbnail-{secrets.token_hex(4)}.jpg"
    cv2.imwrite(str(file), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return str(file)


def describe_song(song: Path) -> str:
    """The name and the length of an uploaded song. Raises ValueError unless it is sound."""
    seconds = round(float(Sound(song).duration))
    return f"{song.name}: {seconds // 60}:{seconds % 60:02}"


def to_sentence(error: Exception, session: Session) -> str:
    """One sentence for the page: no folder of this machine, no traceback. A bug goes to the log."""
    line = error_message(error)
    if line is None:
        logging.getLogger(__name__).error("a job of the app failed", exc_info=error)
        return BUG
    return as_sentence(line, session)


def as_sentence(line: str, session: Session) -> str:
    """A line of sample.py in the words of the page."""
    folder, options = re.escape(str(session.folder)), "|".join(INPUTS)
    line = re.sub(rf"^(?:(?:{options})=)?{folder}/({options})/", lambda match: f"{INPUTS[match[1]]} ", line)
    line = re.sub(rf"{folder}/(?:[\w-]+/)?", "", line)
    line = re.sub(rf"^({options})=(?=\S)", lambda match: f"{INPUTS[match[1]]} ", line)
    for words, page_words in PAGE_WORDS.items():
        line = line.replace(words, page_words)
    line = line.rstrip(".")
    return f"{line[:1].upper()}{line[1:]}."


def _row(frames: list[np.ndarray], label: str) -> np.ndarray:
    """Frames (H, W, 3) of one take side by side, under a label: (H', W', 3)."""
    height, width = frames[0].shape[:2]
    size = max(1, round(width * TILE_HEIGHT / height)), TILE_HEIGHT
    row = np.hstack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
    title = np.full((LABEL_HEIGHT, row.shape[1], 3), 255, np.uint8)
    cv2.putText(title, label, (6, LABEL_HEIGHT - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([title, row])
