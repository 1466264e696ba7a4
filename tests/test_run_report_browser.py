"""report.html in a real browser: its videos play in sync, and nothing fails or asks the network for anything."""

import contextlib
import json
import shutil
import subprocess
import time
import urllib.request

import pytest
from report_results import HOSTILE, make_results

from zoo.run.report.report import write_report

FRAMES, FPS = 24, 12
pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs Debian's packages chromium and chromium-driver",
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required --window-size=1400,1000"
).split()
# what a frame shows says which it is: the grey of its corner, see report_results.picture
LOOK = f"""return [...document.querySelectorAll("#grid video")].map((video) => {{
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const paint = canvas.getContext("2d");
  paint.drawImage(video, 0, 0);
  const grey = paint.getImageData(4, 4, 1, 1).data[0] / 255;
  return {{time: video.currentTime, ready: video.readyState, width: video.videoWidth, paused: video.paused,
    seeking: video.seeking, frame: Math.floor(grey * {FRAMES})}};
}});"""


class Browser:
    """A page in chromium, driven by chromedriver's HTTP (W3C WebDriver)."""

    def __init__(self, port: int, profile):
        self.address = f"http://127.0.0.1:{port}"
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self.address += f"/session/{self.call('/session', capabilities={'alwaysMatch': wanted})['sessionId']}"

    def call(self, path: str, method: str = "POST", **body):
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def script(self, script: str, *arguments):
        return self.call("/execute/sync", script=script, args=arguments)

    def log(self, kind: str) -> list[dict]:
        return self.call("/se/log", type=kind)

    def keys(self, *keys: str) -> None:
        strokes = [{"type": way, "value": key} for key in keys for way in ("keyDown", "keyUp")]
        self.call("/actions", actions=[{"type": "key", "id": "keyboard", "actions": strokes}])

    def until(self, script: str, *arguments):
        """The script's answer as soon as it is true."""
        ends = time.monotonic() + 20
        while not (answer := self.script(script, *arguments)):
            assert time.monotonic() < ends, f"never true: {script}"
            time.sleep(0.05)
        return answer


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The opened report of five rows, one of them of a hostile name, and its results."""
    out = tmp_path_factory.mktemp("report")
    results = make_results(out, clips=3, frames=FRAMES, fps=str(FPS))
    write_report(results, out)
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        line = next(line for line in driver.stdout if "started successfully on port" in line)
        browser = Browser(int(line.rstrip(".\n").split()[-1]), tmp_path_factory.mktemp("profile"))
        try:
            browser.call("/url", url=(out / "report.html").as_uri())
            ready(browser)
            yield browser, results
        finally:
            with contextlib.suppress(OSError):
                browser.call("", "DELETE")
    finally:
        driver.terminate()
        driver.wait()
        driver.stdout.close()


def ready(browser: Browser) -> None:
    browser.until(
        """const videos = [...document.querySelectorAll("#grid video")];
        return videos.length && videos.every((video) => video.readyState >= 2 && !video.seeking);"""
    )


def test_videos_play_together_and_go_round(page):
    """All advance with the song, show the same frame while they play, and start again at the end."""
    browser, results = page
    browser.script("document.getElementById('play').click()")
    browser.until("return [...document.querySelectorAll('#grid video')].every((video) => video.currentTime > 0.3)")
    apart, rounds, last = [], 0, 0.0
    ends = time.monotonic() + 2.8
    while time.monotonic() < ends:
        seen = browser.script(LOOK)
        assert len(seen) == len(results["rows"]) and all(v["width"] == 64 and v["ready"] >= 1 for v in seen)
        now = seen[0]["time"]
        rounds, last = rounds + (now < last - 0.5), now
        if 0.25 < now < FRAMES / FPS - 0.25:  # not while it goes round
            apart.append(max(v["time"] for v in seen) - min(v["time"] for v in seen))
        time.sleep(0.03)
    assert rounds >= 1, "it did not begin again"
    assert len(apart) > 5 and sorted(apart)[int(0.9 * len(apart))] <= 1 / FPS, sorted(apart)
    assert browser.script("return document.getElementById('clock').textContent").endswith("of 24")
    browser.script("document.getElementById('play').click()")
    ready(browser)
    stopped = browser.script(LOOK)
    assert all(v["paused"] for v in stopped) and len({v["frame"] for v in stopped}) == 1, stopped


@pytest.mark.parametrize("by", [0.12, -0.12, 0.9, "stop"])
def test_a_video_that_falls_out_of_step_is_brought_back(page, by):
    """Whatever throws one video off the song while all play, it is at the song's time again in the same round."""
    browser, _ = page
    browser.script("document.activeElement.blur()")
    for _ in range(6):  # a busy machine may not look often enough in one round, and then has not seen anything
        seen, late = thrown_off(browser, by)
        if len(late) >= 3:
            break
    assert {song for *_, song in seen} == {"AUDIO"} and len(late) >= 3 and max(late[-3:]) <= 1 / FPS, seen


def thrown_off(browser: Browser, by: float | str) -> tuple[list, list[float]]:
    """One round with one video thrown off: (song's time, how far off, whether it waits, player's clock) of every look,
    and how far off it is when it has had a second to come back.
    """
    browser.keys("\ue011", " ")  # home
    browser.until("return player.videos.every((video) => !video.paused && video.currentTime > 0.1)")
    began = browser.script(
        """const video = player.videos[2], now = player.clock.currentTime;
        if (arguments[0] === "stop") video.pause(); else video.currentTime = now + arguments[0];
        return now;""",
        by,
    )
    seen = []
    while not seen or seen[-1][0] > began:
        time.sleep(0.05)
        seen.append(
            browser.script(
                """const now = player.clock.currentTime, [video, song] = [player.videos[2], player.clock.tagName];
                return [now, Math.abs(video.currentTime - now), video.paused || video.seeking, song];"""
            )
        )
    browser.keys(" ")
    ready(browser)
    return seen, [off for now, off, waits, _ in seen if began + 1 < now < FRAMES / FPS - 0.1 and not waits]


@pytest.mark.parametrize("frame", [0, 7, 17, 23])
def test_seeking_shows_the_very_frame(page, frame):
    """The slider puts every row on exactly this frame, by what the pictures show; the arrows go on from there."""
    browser, _ = page
    browser.script(
        "const seek = document.getElementById('seek'); seek.value = arguments[0];"
        "seek.dispatchEvent(new Event('input')); document.activeElement.blur();",
        frame,
    )
    ready(browser)
    seen = browser.script(LOOK)
    assert {v["frame"] for v in seen} == {frame}, seen
    assert max(v["time"] for v in seen) - min(v["time"] for v in seen) <= 1 / FPS
    browser.keys("\ue014")  # right
    ready(browser)
    assert {v["frame"] for v in browser.script(LOOK)} == {(frame + 1) % FRAMES}


def test_space_plays_and_another_clip_goes_on_playing(page):
    browser, _ = page
    browser.script("document.activeElement.blur()")
    first = browser.script("return document.getElementById('clip-name').textContent")
    browser.keys(" ")
    browser.until("return [...document.querySelectorAll('#grid video')].every((video) => !video.paused)")
    browser.script("document.querySelector('#clips button[aria-pressed=false]').click()")
    assert browser.script("return document.getElementById('clip-name').textContent") != first
    browser.until(
        """const videos = [...document.querySelectorAll("#grid video")];
        return videos.every((video) => !video.paused && video.currentTime > 0.2);"""
    )
    browser.script("document.activeElement.blur()")
    browser.keys(" ")
    browser.until("return [...document.querySelectorAll('#grid video')].every((video) => video.paused)")


def test_clips_are_sorted_worst_first(page):
    """By the column and the row of the menus: psnr's smallest first, and lpips' largest."""
    browser, results = page
    chosen = results["rows"][3]
    for column, better in (("psnr", "higher"), ("lpips", "lower")):
        shown = browser.script(
            """const menu = document.getElementById("sort-column"); menu.value = arguments[0];
            menu.dispatchEvent(new Event("change"));
            return [...document.querySelectorAll("#clips button")].map((button) => button.firstChild.textContent);""",
            column,
        )
        known = chosen["per_clip"][column]
        order = sorted(known, key=known.get, reverse=better == "lower")
        assert shown[: len(order)] == order


def test_every_menu_draws(page):
    """Each choice of each menu draws something, and names stay text whatever is in them."""
    browser, _ = page
    counts = browser.script(
        """const drawn = (menu) => [...menu.options].map((option) => {
          menu.value = option.value;
          menu.dispatchEvent(new Event("change"));
          return document.querySelectorAll("main table tbody tr, main svg path, main svg circle").length;
        });
        return [...document.querySelectorAll("select")].map(drawn);"""
    )
    assert len(counts) == 7 and all(choices and min(choices) > 20 for choices in counts), counts
    names = browser.script("return data.rows.map((row) => row.name)")
    assert names[4].startswith(HOSTILE[:40]) and browser.script("return document.scripts.length") == 2
    text = browser.script("return document.body.innerText")
    assert text.count("<script>alert(1)</script>") > 3


def test_phone_does_not_scroll_sideways(page):
    browser, _ = page
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": False}
    browser.call("/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=phone)
    browser.until("return document.querySelector('#strip svg').clientWidth < 390")
    wide = browser.script(
        """const out = (one) => one.getBoundingClientRect().right > 391 && !one.parentElement.closest(".wide");
        return [...document.querySelectorAll("body *")].filter(out).map((one) => one.outerHTML.slice(0, 90));"""
    )
    browser.call("/goog/cdp/execute", cmd="Emulation.clearDeviceMetricsOverride", params={})
    assert wide == []


def test_a_report_without_anything_opens(page, tmp_path):
    """No videos, scores, curves, costs or pairs: the page says so in words instead of failing."""
    browser, _ = page
    results = make_results(tmp_path, clips=2, models=("a",), videos=0) | {"comparisons": []}
    for row in results["rows"]:
        row |= {"scores": {}, "per_clip": {}, "over_time": {}, "by": {}, "cost": None, "clips": []}
    write_report(results, tmp_path)
    browser.call("/url", url=(tmp_path / "report.html").as_uri())
    text = browser.script("return document.body.innerText")
    for words in (
        "No row has a video",
        "No column is measured over time",
        "no camera, style or figure",
        "no pair of rows",
    ):
        assert words in text


def test_nothing_failed_and_nothing_was_asked_for(page):
    """Last: after all of the above the console is empty, and the file is the only thing that was ever requested."""
    browser, _ = page
    assert browser.log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    asked = [each["request"]["url"] for each in sent if not each["documentURL"].startswith("chrome:")]  # the empty tab
    assert all(url.endswith("/report.html") for url in asked if url.startswith("file:")) and "file:" in asked[0]
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
