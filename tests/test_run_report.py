"""The report of an evaluation: what is marked and named in it, whatever rows are called and however few or many."""

import json
import re
from html.parser import HTMLParser
from io import StringIO

import pytest
from report_results import COLUMNS, HOSTILE, REASON, make_results
from rich.console import Console

from zoo.run.report import html as report_html
from zoo.run.report.html import select_clips
from zoo.run.report.report import write_report
from zoo.run.report.table import Sheet, format_number, to_latex, to_markdown, to_terminal


class Page(HTMLParser):
    """What a browser would make of a page: tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self.data, self._in = [], "", "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._in = dict(attributes).get("id", tag) if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in == "data":
            self.data += data
        elif not self._in:
            self.text += data


def printed(results: dict, width: int = 120) -> str:
    console = Console(width=width, file=StringIO())
    console.print(to_terminal(Sheet(results), width))
    return console.file.getvalue()


def cell(results: dict, title: str, row: str):
    """The cell of the first column whose title begins so."""
    sheet = Sheet(results)
    for block in sheet.blocks(5):
        for column, name in enumerate(block.titles):
            if name.startswith(title):
                return block.cells[sheet.names.index(row)][column]
    raise AssertionError(title)


def test_numbers_for_reading():
    known = [(0.12349, 3, "0.123"), ("inf", 2, "∞"), ("-inf", 2, "-∞"), (0.00002, 3, "2.0e-05"), (0.0, 3, "0.000")]
    assert [format_number(value, digits) for value, digits, _ in known] == [text for *_, text in known]
    assert format_number(None, 3) == "–" and format_number(-3.0, 0) == "-3"


def test_the_best_is_marked_among_what_was_made(tmp_path):
    """Higher or lower as the column says, ties all, never ground truth or a baseline, and never one row alone."""
    results = make_results(tmp_path, models=("a", "b", "c"), videos=0)
    for row, psnr, lpips, jitter in zip(
        results["rows"][3:], (20.0, 22.0, 22.0), (0.1, 0.2, 0.3), (1, 2, 3), strict=True
    ):
        row["scores"] |= {key: {"mean": m, "n": 5} for key, m in (("psnr", psnr), ("lpips", lpips), ("jitter", jitter))}
    best = {
        key: [cell(results, key, row["name"]).best for row in results["rows"]] for key in ("psnr", "lpips", "jitter")
    }
    assert best == {"psnr": [0, 0, 0, 0, 1, 1], "lpips": [0, 0, 0, 1, 0, 0], "jitter": [0] * 6}
    results["rows"] = results["rows"][:4]
    assert not cell(results, "lpips", "a").best
    assert "*" not in printed(results).split("Means over")[0]


def test_every_reason_and_every_clip_left_out_is_named(tmp_path):
    """In the terminal, table.md, table.tex and the page: the n/a, why, and which clips of which row were not scored."""
    results = make_results(tmp_path, models=("one", "two"))
    (tmp_path / results["rows"][3]["videos"]["song0001-C02-d1"]).write_bytes(b"no video")
    (tmp_path / results["rows"][4]["videos"]["song0002-C03-d0"]).unlink()
    write_report(results, tmp_path)
    files = {name: (tmp_path / name).read_text() for name in ("table.md", "table.tex", "report.html")}
    page = Page(files["report.html"])
    texts = [printed(results), files["table.md"].replace("\\", ""), files["table.tex"].replace("\\_", "_"), page.text]
    for text in texts:
        for words in (
            "n/a",
            REASON,
            "this row has no motion",
            "23 frames where the protocol has 24",
            "song0005-C03-d1",
        ):
            assert words in " ".join(text.split()), words
    assert printed(results).count("1 of 6 clips excluded") == 2
    assert [title for tag, a in page.tags if tag == "a" and (title := a.get("title"))] == [REASON] * 5 + [
        "this row has no motion, only videos"
    ] * 2
    anchors = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"][1:] for tag, a in page.tags if tag == "a"} <= anchors
    assert "2 files could not be shown" in page.text and "6 of 6 clips are in this page" in page.text
    for word in ("world-v1", "0123456789ab", "ba9876543210", "abcdef012345", "5c3ffc3a1b2c", "BlazePose"):
        assert word in page.text
    assert not list(tmp_path.glob(".*"))


def test_names_are_text_everywhere(tmp_path):
    """A checkpoint called like markup, LaTeX, Markdown, terminal codes or a new line stays one harmless name."""
    results = make_results(tmp_path, clips=3, models=(HOSTILE,))
    results["clips"] = {f"</script>{key}": clip for key, clip in results["clips"].items()}
    results["rows"][3]["excluded"] = [{"clip": "<img src=x onerror=alert(1)>", "reason": "\\input{/etc/passwd} | _x_"}]
    results["rows"][3]["notes"] = ["<b>note</b>"]
    write_report(results, tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert [tag for tag, _ in page.tags].count("script") == 2 and "img" not in dict(page.tags)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count("runs/<script>alert(1)</script>_50%_{a}&b$^~") >= 3 and "<b>note</b>" in page.text
    assert json.loads(page.data)["clips"][0]["key"].startswith("</script>")
    addresses = [v for _, a in page.tags for name, v in a.items() if name in ("src", "href") and not v.startswith("#")]
    assert addresses == ["data:,"]

    assert "\x1b" not in printed(results) and "[bold]x[/bold]" in re.sub(r"\s+", "", printed(results))
    lines = (tmp_path / "table.md").read_text().splitlines()
    tables = [re.sub(r"\\.", "", line) for line in lines if line.startswith("|")]
    assert len(tables) >= 6 * 2 and not re.search(r"<|`|\x1b|\u202e", "".join(tables))
    widths = [line.count("|") for line in tables]
    assert all(widths[at] == widths[at + 1] for at in range(len(widths) - 1) if (at + 1) % 6)  # 2 + 4 rows a table

    tex = (tmp_path / "table.tex").read_text()
    body = re.sub(r"^%.*\n", "", tex, flags=re.M)
    bare = re.sub(r"\\[\\{}$&%#_]", "", body)
    assert (
        bare.count("{") == bare.count("}")
        and bare.count("$") % 2 == 0
        and not re.search('[#%~^`<>|"_]', re.sub(r"\$\^[23]\$", "", bare))
    )
    assert r"\input" not in tex and r"\textbackslash{}input\{/etc/passwd\}" in tex
    for table in re.findall(r"\\begin\{tabular\}\{l(r+)\}(.*?)\\end", bare, re.S):
        assert all(line.count("&") == len(table[0]) for line in table[1].splitlines() if line.startswith("runs/"))


@pytest.mark.parametrize("models, clips, videos", [(1, 3, 3), (8, 40, 0), (8, 2106, 0)])
def test_few_and_many(tmp_path, models, clips, videos):
    """One checkpoint or eight, three clips or 2,106; no line of the terminal is wider than it; the page stays small."""
    results = make_results(tmp_path, clips, tuple(f"runs/{i}/last.ckpt" for i in range(models)), 6, 32, videos=videos)
    write_report(json.loads(json.dumps(results, allow_nan=False)), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 15e6
    text = printed(results)
    assert max(map(len, text.splitlines())) <= 120 and text.count("runs/0/last.ckpt") >= 4
    assert max(map(len, printed(results, 60).splitlines())) <= 60
    shown = json.loads(Page((tmp_path / "report.html").read_text()).data)
    assert len(shown["rows"]) == models + 3 and len(shown["clips"]) == clips
    assert len(shown["media"]) == min(videos, 12)


def test_all_may_be_missing(tmp_path):
    """Rows of which nothing could be scored still make a report that says so."""
    results = make_results(tmp_path, videos=0)
    for row in results["rows"]:
        row |= {"scores": {key: {"reason": "none of its clips could be scored"} for key in COLUMNS}, "clips": []}
        row |= {"per_clip": {}, "over_time": {}, "by": {"camera": {}, "style": {}}, "cost": None}
    results["comparisons"] = []
    write_report(results, tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert page.text.count("n/a") == len(COLUMNS) * 5 and "No row has a video" in page.text
    assert "none of its clips could be scored" in (tmp_path / "table.md").read_text()


def test_clips_that_are_shown(tmp_path, monkeypatch):
    """The worst of each checkpoint, then every camera and style; the same again; only as many as the page may hold."""
    results = make_results(tmp_path, clips=9, models=("a", "b"), frames=6, size=32)
    for row, worst in zip(results["rows"][3:], ("song0007-C02-d1", "song0004-C02-d0"), strict=True):
        row["per_clip"]["psnr"][worst] = -5.0
    chosen = select_clips(results, 4)
    assert chosen[:2] == ["song0007-C02-d1", "song0004-C02-d0"] and len(set(chosen)) == 4
    labels = [results["clips"][clip]["labels"] for clip in chosen]
    assert {each["camera"] for each in labels} == {"C01", "C02", "C03"} and len({each["style"] for each in labels}) >= 2
    assert select_clips(json.loads(json.dumps(results)), 4) == chosen
    results["columns"]["psnr"]["better"] = "lower"  # the worst is now the largest
    assert not {"song0007-C02-d1", "song0004-C02-d0"} & set(select_clips(results, 2))
    monkeypatch.setattr(report_html, "MAX_PAGE_BYTES", 0)
    write_report(results, tmp_path)
    assert "1 of 9 clips are in this page" in Page((tmp_path / "report.html").read_text()).text


def test_families_of_metrics_stay_together(tmp_path):
    """Whatever the order of the columns, and a family that nobody knows comes last."""
    results = make_results(tmp_path, clips=3, videos=0)
    results["columns"] = dict(reversed(results["columns"].items()))
    results["columns"]["ssim"]["group"] = "a new one"
    groups = [name for block in Sheet(results).blocks(4) for name, _ in block.groups]
    assert groups == ["frames", "identity", "video", "rhythm", "motion", "a new one", "cost"] or groups == [
        "frames", "identity", "video", "rhythm", "motion", "a new one", "cost", "cost"
    ]  # fmt: skip
    assert to_markdown(Sheet(results), {}).count("psnr") == to_latex(Sheet(results), {}).count("psnr") == 1
