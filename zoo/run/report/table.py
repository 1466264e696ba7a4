"""The table of an evaluation: the same cells and footnotes for the terminal, Markdown, LaTeX and the web page.

Names of checkpoints, clips and folders are anybody's text: `plain` makes them one line, and each format escapes them.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

MADE = ("checkpoint", "videos")  # rows that compete; ground truth and baselines are there for scale
DASH = "–"
TITLE, NAME, GAP = 15, (20, 30), 2  # characters in a terminal: titles are folded at, names are at least and at most
COST = {  # what making costs, shown as further columns: heading, better, digits, unit, how many make one unit
    "seconds_per_second": ("time per video second", "lower", 2, "s", 1),
    "peak_memory_mb": ("peak memory", "lower", 0, "MB", 1),
    "parameters": ("parameters", None, 2, "M", 1e6),
}
GROUPS = {  # module of a metric -> the family it is shown in, in this order; other modules follow, under their names
    "frames": "frames", "identity": "identity", "video": "video", "fvd": "video", "fid_vid": "video",
    "rhythm": "rhythm", "flow": "rhythm", "clip_score": "rhythm", "motion": "motion",
}  # fmt: skip
LEGEND = (
    "Means over clips with 95% intervals. The best mean of the checkpoints and video folders is marked, where there "
    "are two or more; ground truth and baselines are there for scale."
)


def plain(text: object) -> str:
    """One line without control characters and without marks that turn the direction of writing."""
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") else c for c in str(text))


def number(value: float | str | None, digits: int) -> str:
    """A value for reading: "∞" for "inf", few digits for what would be rounded to zero."""
    if value is None:
        return DASH
    value = float(value)
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "-∞"
    if value and abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}"
    return f"{value or 0.0:.{digits}f}"  # no minus before zero


def grouped(columns: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    """Column -> its family's name and what is said of it, families together and in their order."""
    order = list(dict.fromkeys(GROUPS.values()))
    known = {key: (GROUPS.get(column["group"], column["group"]), column) for key, column in columns.items()}
    order += sorted({group for group, _ in known.values()} - set(order))
    return dict(sorted(known.items(), key=lambda item: order.index(item[1][0])))


@dataclass(frozen=True)
class Cell:
    """What stands at a row and a column. note: the footnote's number, from 1, of an n/a."""

    value: str
    interval: str = ""
    best: bool = False
    note: int | None = None
    n: int | None = None


@dataclass(frozen=True)
class Block:
    """Columns that stand side by side; cells[row][column]."""

    groups: list[tuple[str, int]]  # name of a family of metrics, and how many of the columns are its
    titles: list[str]
    cells: list[list[Cell]]


class Sheet:
    """The cells of `results` (see zoo/run/evaluate/benchmark.py), with its reasons numbered.

    names: of the rows; kinds: "truth", "baseline", "checkpoint" or "videos"; notes: the reasons of n/a cells.
    """

    def __init__(self, results: dict[str, Any]):
        rows = results["rows"]
        self.names, self.kinds = [plain(row["name"]) for row in rows], [row["kind"] for row in rows]
        self.scored = [len(row["clips"]) for row in rows]
        self.excluded = [_by_reason(row["excluded"]) for row in rows]
        self.remarks = [(plain(row["name"]), plain(note)) for row in rows for note in row.get("notes", [])]
        self.notes: list[str] = []
        self._columns: list[tuple[str, str, list[Cell]]] = []  # group, title, a cell a row
        for key, (group, column) in grouped(results["columns"]).items():
            scores = [row["scores"].get(key) or {"reason": "not measured"} for row in rows]
            cells = self._cells(scores, column["better"], column["digits"])
            self._columns.append((group, plain(column["title"]), cells))
        for key, (heading, better, digits, unit, scale) in COST.items():
            values = [(row.get("cost") or {}).get(key) for row in rows]
            if any(value is not None for value in values):
                scores = [{"mean": None if value is None else value / scale} for value in values]
                arrow = " ↓" if better else ""
                self._columns.append(("cost", f"{heading}, {unit}{arrow}", self._cells(scores, better, digits)))

    def _cells(self, scores: Sequence[dict], better: str | None, digits: int) -> list[Cell]:
        compete = [
            float(score["mean"])
            for score, kind in zip(scores, self.kinds, strict=True)
            if kind in MADE and score.get("mean") is not None
        ]
        best = {"higher": max, "lower": min}[better](compete) if better and len(compete) > 1 else None
        return [
            self._cell(score, digits, kind in MADE and best is not None and score.get("mean") is not None and
                       float(score["mean"]) == best)
            for score, kind in zip(scores, self.kinds, strict=True)
        ]  # fmt: skip

    def _cell(self, score: dict, digits: int, best: bool) -> Cell:
        if "reason" in score:
            reason = plain(score["reason"])
            if reason not in self.notes:
                self.notes.append(reason)
            return Cell("n/a", note=self.notes.index(reason) + 1)
        low, high = score.get("low"), score.get("high")
        interval = "" if {low, high} & {None, "inf", "-inf"} else f"[{number(low, digits)}, {number(high, digits)}]"
        return Cell(number(score["mean"], digits), interval, best, n=score.get("n"))

    def blocks(self, most: int, size: Callable[[str, list[Cell]], int] = lambda title, cells: 1) -> list[Block]:
        """All columns in blocks of at most `most`, where a column counts for `size` of its title and cells.

        A family of metrics is split only where it does not fit by itself, and then evenly.
        """
        packed: list[list[tuple[str, str, list[Cell]]]] = []
        room = 0
        for _, group in groupby(self._columns, key=lambda column: column[0]):
            family = list(group)
            sizes = [size(title, cells) for _, title, cells in family]
            parts = max(1, -(-sum(sizes) // most))
            while parts < len(family) and any(sum(sizes[at]) > most for at in _evenly(len(family), parts)):
                parts += 1
            for at in _evenly(len(family), parts):
                if packed and sum(sizes[at]) <= room:
                    packed[-1] += family[at]
                else:
                    packed.append(family[at])
                    room = most
                room -= sum(sizes[at])
        return [
            Block(
                [(plain(name), len(list(group))) for name, group in groupby(block, key=lambda column: column[0])],
                [title for _, title, _ in block],
                [[cells[row] for _, _, cells in block] for row in range(len(self.names))],
            )
            for block in packed
        ]

    def counts(self) -> list[str]:
        """A line per row and reason: how many clips were left out, why and which."""
        return [
            f"{name}: {len(clips)} of {len(clips) + scored} clips excluded, {reason}: {', '.join(clips)}"
            for name, scored, reasons in zip(self.names, self.scored, self.excluded, strict=True)
            for reason, clips in reasons.items()
        ]


def _evenly(count: int, parts: int) -> list[slice]:
    """`count` things in `parts` pieces whose sizes differ by one at most."""
    ends = [count * part // parts for part in range(parts + 1)]
    return [slice(*piece) for piece in pairwise(ends)]


def _by_reason(excluded: list[dict[str, str]]) -> dict[str, list[str]]:
    """Reason -> clips, the commonest first."""
    counted = Counter(plain(item["reason"]) for item in excluded)
    return {
        reason: [plain(item["clip"]) for item in excluded if plain(item["reason"]) == reason]
        for reason, _ in counted.most_common()
    }


# Terminal ------------------------------------------------------------------------------------------------------------


def to_terminal(sheet: Sheet, width: int) -> Group:
    """Blocks that fit `width` characters, every reason and every exclusion below."""
    names = min(max(NAME[0], *map(len, sheet.names)), NAME[1])
    parts: list = []
    for block in sheet.blocks(max(1, width - names - GAP), lambda title, cells: _wide(title, cells) + GAP):
        table = RichTable(box=None, padding=(0, GAP, 0, 0), title_justify="left", header_style="", show_edge=False)
        table.add_column(
            Text(" · ".join(name for name, _ in block.groups), "italic"),
            min_width=NAME[0],
            max_width=names,
            overflow="fold",
        )
        for at, title in enumerate(block.titles):
            wide = _wide(title, [cells[at] for cells in block.cells])
            table.add_column(Text(title, "bold"), justify="right", min_width=wide, max_width=wide, overflow="fold")
        for name, kind, cells in zip(sheet.names, sheet.kinds, block.cells, strict=True):
            table.add_row(Text(name, "" if kind in MADE else "dim"), *(_shown(cell) for cell in cells))
        parts += [table, Text()]
    parts += [Text(f"n/a {number}: {note}") for number, note in enumerate(sheet.notes, 1)]
    parts += [Text(_short(line, 3 * width), "yellow") for line in sheet.counts()]
    parts += [Text(f"{name}: {note}") for name, note in sheet.remarks]
    return Group(*parts, Text(LEGEND.replace("marked", "marked *"), "dim"))


def _wide(title: str, cells: list[Cell]) -> int:
    """Characters of a terminal's column."""
    return max(min(len(title), TITLE), *(max(len(cell.value) + 1, len(cell.interval)) for cell in cells))


def _shown(cell: Cell) -> Text:
    text = Text(f"n/a {cell.note}" if cell.note else cell.value + ("*" if cell.best else ""))
    text.stylize("bold" if cell.best else "dim" if cell.note else "")
    return text.append(f"\n{cell.interval}", "dim") if cell.interval else text


def _short(line: str, most: int) -> str:
    return line if len(line) <= most else line[: most - 1] + "…"


# Markdown ------------------------------------------------------------------------------------------------------------


def _md(text: str) -> str:
    """Text that Markdown and the HTML in it leave as it is."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&$])", r"\\\1", text)


def to_markdown(sheet: Sheet, facts: dict[str, str]) -> str:
    """table.md: blocks of at most six columns, then reasons, exclusions and the facts that make it reproducible."""
    lines = []
    for block in sheet.blocks(6):
        head = [_md(" · ".join(name for name, _ in block.groups)), *map(_md, block.titles)]
        lines += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * len(block.titles)]
        for name, cells in zip(sheet.names, block.cells, strict=True):
            lines.append("| " + " | ".join([_md(name), *map(_md_cell, cells)]) + " |")
        lines.append("")
    lines += [LEGEND.replace("marked", "bold"), ""]
    lines += [f"- n/a {number}: {_md(note)}" for number, note in enumerate(sheet.notes, 1)]
    lines += [f"- {_md(line)}" for line in sheet.counts()]
    lines += [f"- {_md(name)}: {_md(note)}" for name, note in sheet.remarks]
    return "\n".join([*lines, "", *(f"- {_md(plain(key))}: {_md(plain(value))}" for key, value in facts.items()), ""])


def _md_cell(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.best else f"n/a {cell.note}" if cell.note else cell.value
    return f"{value} {_md(cell.interval)}".strip()


# LaTeX ---------------------------------------------------------------------------------------------------------------

TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
    "[": "{[}", "]": "{]}",  # a line of a tabular that begins with [ would be read as an argument of \\
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "∞": r"$\infty$", "–": "--", "…": r"\ldots{}", "·": r"$\cdot$",
    "×": r"$\times$", "²": "$^2$", "³": "$^3$", "°": r"$^\circ$", "±": r"$\pm$", "≥": r"$\ge$", "≤": r"$\le$",
    "−": "$-$", "�": "?", "µ": r"$\mu$", "μ": r"$\mu$", "→": r"$\rightarrow$",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(TEX.get(character, character) for character in text)


def to_latex(sheet: Sheet, facts: dict[str, str]) -> str:
    """table.tex: a booktabs tabular a block of at most five columns; needs booktabs and textcomp."""
    lines = [r"% \usepackage{booktabs,textcomp}", *(f"% {plain(key)}: {plain(value)}" for key, value in facts.items())]
    for block in sheet.blocks(5):
        columns = len(block.titles)
        spans = " & ".join(rf"\multicolumn{{{count}}}{{c}}{{{_tex(name)}}}" for name, count in block.groups)
        rules, at = "", 2
        for _, count in block.groups:
            rules += rf"\cmidrule(lr){{{at}-{at + count - 1}}}"
            at += count
        lines += ["", rf"\begin{{tabular}}{{l{'r' * columns}}}", r"\toprule", rf" & {spans} \\", rules]
        lines += [rf" & {' & '.join(map(_tex, block.titles))} \\", r"\midrule"]
        for name, cells in zip(sheet.names, block.cells, strict=True):
            lines.append(rf"{_tex(name)} & {' & '.join(map(_tex_cell, cells))} \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
    lines += ["", r"\par\footnotesize " + _tex(LEGEND.replace("marked", "bold"))]
    lines += [rf"\par n/a\textsuperscript{{{number}}}: {_tex(note)}" for number, note in enumerate(sheet.notes, 1)]
    lines += [rf"\par {_tex(line)}" for line in sheet.counts()]
    return "\n".join([*lines, ""])


def _tex_cell(cell: Cell) -> str:
    value = rf"n/a\textsuperscript{{{cell.note}}}" if cell.note else _tex(cell.value)
    value = rf"\textbf{{{value}}}" if cell.best else value
    return rf"{value} {{\scriptsize {_tex(cell.interval)}}}" if cell.interval else value
