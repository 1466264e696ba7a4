"""PYTHONPATH=. python tools/check_app.py FOLDER [PHOTO [SECONDS]]: use the web app in headless Chromium, by clicks.

Needs the extra `app` and playwright. Screenshots go to FOLDER. Ends with an AssertionError where the page does not do
its work: preview in under 30 s, four takes, a video of SECONDS (20), 3D viewer, downloads; one sentence for a text
file as a song and a landscape as a picture; two pages at once queue; a file of 2 GB is refused; nothing is loaded from
outside; nothing is left behind.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Page, sync_playwright

from zoo.media import Sound, write_sound

ROOT = Path(__file__).parents[1]
PORT = 7863
URL = f"http://127.0.0.1:{PORT}"
BROWSER = "/usr/bin/chromium"
FLAGS = ["--enable-unsafe-swiftshader", "--use-angle=swiftshader", "--autoplay-policy=no-user-gesture-required"]
SLOW = 300_000  # milliseconds


class Facts(dict):
    """What was seen; printed at once, so that a failure shows how far it came."""

    def __setitem__(self, name: str, value: object) -> None:
        print(f"{name}: {json.dumps(value)}", flush=True)
        super().__setitem__(name, value)


def start_server(folder: Path) -> subprocess.Popen:
    """The app, when it answers. Its temporary files lie in `folder`."""
    command = [sys.executable, "-m", "zoo.cli", "app", f"port={PORT}", "max_upload_mb=50"]
    server = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    line = server.stdout.readline()
    assert URL in line, line
    return server


def upload(page: Page, name: str, file: Path) -> None:
    """Choose a file, as a user does in the dialog."""
    page.set_input_files(f"#{name} input[type=file]", str(file))


def toast(page: Page) -> str:
    """The message that appears, and its dismissal."""
    message = page.locator(".toast-body")
    message.first.wait_for(timeout=SLOW)
    text = " ".join(message.first.inner_text().split())
    page.locator(".toast-close").first.click()
    return text


def wait_video(page: Page, name: str) -> dict:
    """The video's length and size, when the browser can play it."""
    page.wait_for_function(f"document.querySelector('#{name} video')?.readyState >= 2", timeout=SLOW)
    return page.evaluate(
        f"(v => ({{seconds: v.duration, width: v.videoWidth, src: v.src}}))(document.querySelector('#{name} video'))"
    )


def main(out: Path, photo: Path, seconds: int = 20) -> None:
    """Everything that the docstring of this file lists."""
    out.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp())
    server = start_server(temporary)
    facts = Facts()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 1050})
            requested, console = [], []
            page.on("request", lambda request: requested.append(request.url))
            page.on("console", lambda line: console.append(line.text))
            page.goto(URL)
            page.locator("#preview-button").wait_for()
            page.screenshot(path=out / "1_start.png")

            song = temporary / "song.wav"
            waveform = Sound(ROOT / "assets" / "demo" / "song.ogg").mono(22050)
            write_sound(song, np.tile(waveform, 2)[: 21 * 22050], 22050)
            notes = temporary / "notes.txt"
            notes.write_text("la la la\n")
            upload(page, "song", notes)
            facts["a text file as a song"] = toast(page)
            landscape = temporary / "landscape.png"
            sky = np.linspace(0, 1, 300)[:, None, None] * np.array([200, 120, 40]) + np.zeros((300, 500, 1))
            sky[200:] = [40, 120, 60]
            cv2.imwrite(str(landscape), sky)
            page.reload()
            page.locator("#preview-button").wait_for()
            upload(page, "picture", landscape)
            page.locator("#view img").wait_for()
            page.get_by_label("warp").click()
            page.locator("#preview-button").click()
            facts["a landscape as a picture, renderer warp"] = toast(page)
            page.screenshot(path=out / "2_refused.png")

            page.reload()
            page.locator("#preview-button").wait_for()
            upload(page, "picture", photo)
            page.locator("#view img").wait_for()
            upload(page, "song", song)
            page.locator("#song-line", has_text="song.wav").wait_for()
            page.get_by_label("number input for Length").fill(str(seconds))
            page.keyboard.press("Tab")
            start = time.monotonic()
            page.locator("#preview-button").click()
            facts["preview"] = wait_video(page, "preview")
            facts["preview after, s"] = round(time.monotonic() - start, 1)
            page.screenshot(path=out / "3_preview.png")

            page.locator("#takes-button").click()
            page.locator("#sheet img").wait_for(timeout=SLOW)
            page.locator("#take label").nth(2).click()
            page.wait_for_function("document.querySelector('#seed input').value == '2'")
            page.screenshot(path=out / "4_takes.png")

            start = time.monotonic()
            page.locator("#video-button").click()
            second = browser.new_page(viewport={"width": 1280, "height": 900})
            second.goto(URL)
            second.locator("#preview-button").click()
            second.locator("text=/queue: \\d+\\/\\d+/").first.wait_for(timeout=SLOW)
            facts["second page"] = second.locator("text=/queue: \\d+\\/\\d+/").first.inner_text()
            second.screenshot(path=out / "5_second_page_queues.png")
            page.screenshot(path=out / "6_progress.png")
            facts["video"] = wait_video(page, "video")
            facts["video after, s"] = round(time.monotonic() - start, 1)
            page.screenshot(path=out / "7_video.png")
            names = sorted(
                re.sub(r"\s", "", link.get_attribute("download") or "")
                for link in page.locator("#files a[download]").all()
            )
            facts["downloads"] = names
            with page.expect_download() as download:
                page.locator("#files a[download$='.bvh']").first.click()
            facts["the .bvh begins with"] = Path(download.value.path()).read_text()[:9]
            page.locator("#body canvas").wait_for(timeout=SLOW)
            page.wait_for_timeout(8000)
            page.screenshot(path=out / "8_motion.png")
            page.wait_for_timeout(1500)
            page.locator("#body canvas").screenshot(path=out / "9_motion_later.png")
            facts["preview of the second page"] = wait_video(second, "preview")

            huge = temporary / "huge.wav"
            with open(huge, "wb") as file:
                file.truncate(2 * 2**30)
            upload(second, "song", huge)
            facts["a file of 2 GB"] = toast(second)
            second.screenshot(path=out / "10_too_large.png")
            huge.unlink()

            facts["requests to other machines"] = [
                url for url in requested if not url.startswith((URL, "blob:", "data:"))
            ]
            facts["blocked by the policy"] = [line for line in console if "Content Security Policy" in line]
            page.close()
            second.close()
            browser.close()
            folder = next(temporary.glob("dancezoo-app-*"))
            for _ in range(60):
                left = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
                if not left:
                    break
                time.sleep(1)
            facts["left after the pages are closed"] = left
    finally:
        server.send_signal(signal.SIGINT)
        facts["exit code"] = server.wait(60)
    facts["left after the server has ended"] = [file.name for file in temporary.glob("dancezoo*")]
    assert facts["preview after, s"] < 30 and abs(facts["video"]["seconds"] - seconds) < 0.1
    assert not facts["left after the pages are closed"] and not facts["left after the server has ended"]


if __name__ == "__main__":
    arguments = sys.argv[1:] + ["", ""]
    picture = Path(arguments[1] or ROOT / "assets" / "demo" / "picture.png")
    main(Path(arguments[0]), picture, int(arguments[2] or 20))
