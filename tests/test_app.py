"""The web app: its jobs and files without Gradio, its page with it. tools/check_app.py uses it in a browser."""

import importlib.util
import sys

import cv2
import numpy as np
import pytest

from zoo import cli
from zoo.app.jobs import BUG, NO_MOTION, STOPPED, Form, Jobs, Sessions, describe_song, thumbnail, to_sentence
from zoo.body.motion_io.formats import read_motion
from zoo.files import resource_root
from zoo.media import read_video


def test_without_gradio_one_line_names_the_extra(monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else find_spec(name))
    monkeypatch.setattr(sys, "argv", ["dancezoo", "app"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "app: the page needs Gradio: pip install 'dancezoo[app]' installs it\n"


def test_a_job_makes_video_and_motion_and_ends_when_it_is_stopped(tmp_path):
    """Each refusal is one sentence without a folder of this machine."""
    session = Sessions(tmp_path).get("page")
    jobs = Jobs({}, max_seconds=30, max_job_seconds=60)
    form = Form(renderer="mesh", seconds=0.5, style="house", seed=3)
    progress = []
    result = jobs.video(form, session, lambda *numbers: progress.append(numbers))
    assert [file.suffix for file in result.files] == [".mp4", ".glb", ".bvh"] and progress == [(15, 15)]
    assert len(read_video(result.files[0])[0]) == 15
    assert len(read_motion(result.files[1])) == len(read_motion(result.files[2])) == 15
    (sheet,) = jobs.takes(form, session, lambda *numbers: None).files
    assert cv2.imread(str(sheet)).shape[0] == 4 * (150 + 22)

    notes = session.folder / "music" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("la la la")
    refusals = {
        "Song notes.txt cannot be read as sound": (Form(song=notes, renderer="mesh"), jobs),
        "Length 31 s: this page makes videos of up to 30 s.": (Form(seconds=31), jobs),
        "The job took longer than": (form, Jobs({}, 30, -1)),
        "Person=x is not a number.": (Form(person="x"), jobs),
        "Person=[2,2]: give 1 to 8 different numbers, for example 1,2.": (Form(person="2,2"), jobs),
    }
    for sentence, (wrong, runner) in refusals.items():
        with pytest.raises(ValueError) as refusal:
            runner.video(wrong, session, lambda *numbers: None)
        shown = to_sentence(refusal.value, session)
        assert shown.startswith(sentence) and shown.endswith(".") and str(tmp_path) not in shown
    assert jobs._request(Form(person=" 1, 2"), session, "video").person == (1, 2)
    session.stop.set()
    session.is_ended = True
    with pytest.raises(ValueError, match=STOPPED):
        jobs.preview(form, session, lambda *numbers: None)
    assert not result.files[0].exists()  # a job replaces the files of the one before
    assert to_sentence(KeyError("x"), session) == BUG
    assert NO_MOTION in (resource_root() / "zoo/run/sample/generate.py").read_text()


def test_the_files_of_a_page_go_with_it(tmp_path, monkeypatch):
    """Gradio stores equal uploads of two pages once: they stay until the second page is closed."""
    stored = tmp_path / "hash" / "me.png"
    stored.parent.mkdir()
    cv2.imwrite(str(stored), np.full((1000, 500, 3), 90, np.uint8))
    sessions = Sessions(tmp_path)
    copies = [sessions.take_upload(key, "image", stored) for key in ("one", "two")]
    assert cv2.imread(thumbnail(copies[0])).shape == (640, 320, 3)
    with pytest.raises(ValueError, match="cannot be read as sound"):
        describe_song(copies[0])
    sessions.end("one")
    assert stored.exists() and copies[1].exists() and not copies[0].exists()
    with pytest.raises(ValueError, match="load it again"):
        sessions.get("one")
    monkeypatch.setattr("zoo.app.jobs.MAX_ENDED", 2)
    for key in "abc":
        sessions.get(key)
        sessions.end(key)
    assert list(sessions._ended) == ["b", "c"]  # the memory of closed pages has an end
    sessions.take_upload("two", "image", None)
    assert not stored.exists() and not copies[1].exists()
    sessions.end_all()
    assert not list(tmp_path.iterdir())


def test_the_page_runs_one_job_at_a_time_and_names_no_other_machine(tmp_path):
    pytest.importorskip("gradio")
    from zoo.app.page import THEME, build_page

    page = build_page(Jobs({}, 30, 60), Sessions(tmp_path), ["house"], ["auto", "mesh"], 5)
    functions = list(page.fns.values())
    jobs = [function for function in functions if function.concurrency_id == "job"]
    assert len(jobs) == 3 and all(function.concurrency_limit == 1 for function in jobs)
    assert all(function.api_visibility == "private" for function in functions if function.targets[0][1] != "unload")
    assert page._queue.max_size == 5 and not THEME._stylesheets and not page.analytics_enabled
