"""The table of an evaluation: the same cells and footnotes for the terminal, Markdown, LaTeX and the web page.

Names of checkpoints, clips and folders are untrusted text: `plain_text` makes them one line, each format escapes them.
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

RANKED_KINDS = ("checkpoint", "videos")  # of rows; ground truth and baselines are for reference
NO_VALUE = "–"
MAX_TITLE_WIDTH, MIN_NAME_WIDTH, MAX_NAME_WIDTH, GAP = 15, 20, 30, 2  # characters in a terminal
COST_COLUMNS = {  # cost of generation: name, better, digits, unit, divisor
    "seconds_per_second": ("time per video second", "lower", 2, "s", 1),
    "peak_memory_mb": ("peak memory", "lower", 0, "MB", 1),
    "parameters": ("parameters", None, 2, "M", 1e6),
}
GROUP_OF_MODULE = {  # module of a metric -> its group, in the table's order; other modules follow, under their names
    "frames": "frames", "identity": "identity", "body_integrity": "identity", "video": "video", "fvd": "video",
    "fid_vid": "video", "rhythm": "rhythm", "flow": "rhythm", "clip_score": "rhythm", "motion": "motion",
    "song_response": "song", "prompt_following": "prompt",
}  # fmt: skip
LEGEND = (
    "Means over clips with 95% intervals. The best mean of the checkpoints and video folders is marked, where there "
    "are two or more; ground truth and baselines are for reference."
)


def plain_text(text: object) -> str:
    """Replace control characters, line breaks and marks of the writing direction."""
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") else c for c in str(text))


def format_number(value: float | str | None, digits: int) -> str:
    """Format a value: "∞" for "inf", scientific notation where it would be rounded to zero."""
    if value is None:
        return NO_VALUE
    value = float(value)
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "-∞"
    if value and abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}"
    return f"{value or 0.0:.{digits}f}"  # no minus before zero


def format_score(score: dict[str, Any], digits: int) -> str:
    """Format a score of metrics.json: "mean [low, high]", the mean where all are equal, "n/a" for one with a reason."""
    if "reason" in score:
        return "n/a"
    mean, low, high = (format_number(score[key], digits) for key in ("mean", "low", "high"))
    return mean if low == high else f"{mean} [{low}, {high}]"


def grouped(columns: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    """Column -> its group and description, sorted by group."""
    group_order = list(dict.fromkeys(GROUP_OF_MODULE.values()))
    groups = {key: (GROUP_OF_MODULE.get(column["group"], column["group"]), column) for key, column in columns.items()}
    group_order += sorted({group for group, _ in groups.values()} - set(group_order))
    return dict(sorted(groups.items(), key=lambda item: group_order.index(item[1][0])))


@dataclass(frozen=True)
class Cell:
    """One cell of the table. note: number of the footnote, from 1, that gives the reason of n/a."""

    value: str
    interval: str = ""
    best: bool = False
    note: int | None = None
    n: int | None = None


@dataclass(frozen=True)
class Block:
    """Columns that fit side by side; cells[row][column]."""

    groups: list[tuple[str, int]]  # name of a group and its number of columns
    titles: list[str]
    cells: list[list[Cell]]


class Sheet:
    """The cells of `results` (zoo/run/evaluate/benchmark.py), with numbered footnotes.

    names: of the rows; kinds: "truth", "baseline", "checkpoint" or "videos"; na_reasons: of n/a cells, in the
    order of their footnotes; row_notes: (name of the row, note).
    """

    def __init__(self, results: dict[str, Any]):
        rows = results["rows"]
        self.names, self.kinds = [plain_text(row["name"]) for row in rows], [row["kind"] for row in rows]
        self.num_scored = [len(row["clips"]) for row in rows]
        self.excluded = [_by_reason(row["excluded"]) for row in rows]
        self.row_notes = [(plain_text(row["name"]), plain_text(note)) for row in rows for note in row.get("notes", [])]
        self.na_reasons: list[str] = []
        self._columns: list[tuple[str, str, list[Cell]]] = []  # group, title, a cell a row
        for key, (group, column) in grouped(results["columns"]).items():
            scores = [row["scores"].get(key) or {"reason": "not measured"} for row in rows]
            cells = self._cells(scores, column["better"], column["digits"])
            self._columns.append((group, plain_text(column["title"]), cells))
        for key, (name, better, digits, unit, scale) in COST_COLUMNS.items():
            values = [(row.get("cost") or {}).get(key) for row in rows]
            if any(value is not None for value in values):
                scores = [{"mean": None if value is None else value / scale} for value in values]
                arrow = " ↓" if better else ""
                self._columns.append(("cost", f"{name}, {unit}{arrow}", self._cells(scores, better, digits)))

    def _cells(self, scores: Sequence[dict], better: str | None, digits: int) -> list[Cell]:
        competing = [
            float(score["mean"])
            for score, kind in zip(scores, self.kinds, strict=True)
            if kind in RANKED_KINDS and score.get("mean") is not None
        ]
        best = {"higher": max, "lower": min}[better](competing) if better and len(competing) > 1 else None
        return [
            self._cell(score, digits, kind in RANKED_KINDS and best is not None and score.get("mean") is not None and
                       float(score["mean"]) == best)
            for score, kind in zip(scores, self.kinds, strict=True)
        ]  # fmt: skip

    def _cell(self, score: dict, digits: int, best: bool) -> Cell:
        if "reason" in score:
            reason = plain_text(score["reason"])
            if reason not in self.na_reasons:
                self.na_reasons.append(reason)
            return Cell("n/a", note=self.na_reasons.index(reason) + 1)
        low, high = score.get("low"), score.get("high")
        interval = (
            ""
            if {low, high} & {None, "inf", "-inf"}
            else f"[{format_number(low, digits)}, {format_number(high, digits)}]"
        )
        return Cell(format_number(score["mean"], digits), interval, best, n=score.get("n"))

    def blocks(self, max_size: int, size: Callable[[str, list[Cell]], int] = lambda title, cells: 1) -> list[Block]:
        """Pack all columns into blocks of at most `max_size`; the size of a column is `size(title, cells)`.

        A group is split only where it does not fit as a whole, and then evenly.
        """
        packed: list[list[tuple[str, str, list[Cell]]]] = []
        room = 0
        for _, group in groupby(self._columns, key=lambda column: column[0]):
            group_columns = list(group)
            sizes = [size(title, cells) for _, title, cells in group_columns]
            parts = max(1, -(-sum(sizes) // max_size))
            while parts < len(group_columns) and any(
                sum(sizes[part]) > max_size for part in _evenly(len(group_columns), parts)
            ):
                parts += 1
            for part in _evenly(len(group_columns), parts):
                if packed and sum(sizes[part]) <= room:
                    packed[-1] += group_columns[part]
                else:
                    packed.append(group_columns[part])
                    room = max_size
                room -= sum(sizes[part])
        return [
            Block(
                [(plain_text(name), len(list(group))) for name, group in groupby(block, key=lambda column: column[0])],
                [title for _, title, _ in block],
                [[cells[row] for _, _, cells in block] for row in range(len(self.names))],
            )
            for block in packed
        ]

    def exclusion_lines(self) -> list[str]:
        """One line per row and reason: number, reason and names of the excluded clips."""
        return [
            f"{name}: {len(clips)} of {len(clips) + num_scored} clips excluded, {reason}: {', '.join(clips)}"
            for name, num_scored, reasons in zip(self.names, self.num_scored, self.excluded, strict=True)
            for reason, clips in reasons.items()
        ]


def _evenly(count: int, parts: int) -> list[slice]:
    """Split `count` items into `parts` slices whose sizes differ by at most one."""
    ends = [count * part // parts for part in range(parts + 1)]
    return [slice(*bounds) for bounds in pairwise(ends)]


def _by_reason(excluded: list[dict[str, str]]) -> dict[str, list[str]]:
    """Reason -> clips, sorted by frequency."""
    reason_counts = Counter(plain_text(item["reason"]) for item in excluded)
    return {
        reason: [plain_text(item["clip"]) for item in excluded if plain_text(item["reason"]) == reason]
        for reason, _ in reason_counts.most_common()
    }


# Terminal ------------------------------------------------------------------------------------------------------------


def to_terminal(sheet: Sheet, width: int) -> Group:
    """Blocks that fit `width` characters, with footnotes and excluded clips below."""
    name_width = min(max(MIN_NAME_WIDTH, *map(len, sheet.names)), MAX_NAME_WIDTH)
    parts: list = []
    for block in sheet.blocks(max(1, width - name_width - GAP), lambda title, cells: _column_width(title, cells) + GAP):
        table = RichTable(box=None, padding=(0, GAP, 0, 0), title_justify="left", header_style="", show_edge=False)
        table.add_column(
            Text(" · ".join(name for name, _ in block.groups), "italic"),
            min_width=MIN_NAME_WIDTH,
            max_width=name_width,
            overflow="fold",
        )
        for index, title in enumerate(block.titles):
            column_width = _column_width(title, [cells[index] for cells in block.cells])
            table.add_column(
                Text(title, "bold"), justify="right", min_width=column_width, max_width=column_width, overflow="fold"
            )
        for name, kind, cells in zip(sheet.names, sheet.kinds, block.cells, strict=True):
            table.add_row(Text(name, "" if kind in RANKED_KINDS else "dim"), *(_cell_text(cell) for cell in cells))
        parts += [table, Text()]
    parts += [Text(f"n/a {number}: {note}") for number, note in enumerate(sheet.na_reasons, 1)]
    parts += [Text(_shorten(line, 3 * width), "yellow") for line in sheet.exclusion_lines()]
    parts += [Text(f"{name}: {note}") for name, note in sheet.row_notes]
    return Group(*parts, Text(LEGEND.replace("marked", "marked *"), "dim"))


def _column_width(title: str, cells: list[Cell]) -> int:
    """Width of a terminal column, in characters."""
    return max(min(len(title), MAX_TITLE_WIDTH), *(max(len(_cell_value(cell)), len(cell.interval)) for cell in cells))


def _cell_value(cell: Cell) -> str:
    """First line of a cell. One space keeps the place of the mark of the best value."""
    return f"n/a {cell.note}" if cell.note else cell.value + ("*" if cell.best else " ")


def _cell_text(cell: Cell) -> Text:
    text = Text(_cell_value(cell).rstrip())
    text.stylize("bold" if cell.best else "dim" if cell.note else "")
    return text.append(f"\n{cell.interval}", "dim") if cell.interval else text


def _shorten(line: str, max_length: int) -> str:
    return line if len(line) <= max_length else line[: max_length - 1] + "…"


# Markdown ------------------------------------------------------------------------------------------------------------


def _escape_markdown(text: str) -> str:
    """Escape text for Markdown and its HTML."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&$])", r"\\\1", text)


def to_markdown(sheet: Sheet, metadata: dict[str, str]) -> str:
    """table.md: blocks of at most six columns, footnotes, excluded clips, and metadata for reproduction."""
    lines = []
    for block in sheet.blocks(6):
        head = [_escape_markdown(" · ".join(name for name, _ in block.groups)), *map(_escape_markdown, block.titles)]
        lines += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * len(block.titles)]
        for name, cells in zip(sheet.names, block.cells, strict=True):
            lines.append("| " + " | ".join([_escape_markdown(name), *map(_markdown_cell, cells)]) + " |")
        lines.append("")
    lines += [LEGEND.replace("marked", "bold"), ""]
    lines += [f"- n/a {number}: {_escape_markdown(note)}" for number, note in enumerate(sheet.na_reasons, 1)]
    lines += [f"- {_escape_markdown(line)}" for line in sheet.exclusion_lines()]
    lines += [f"- {_escape_markdown(name)}: {_escape_markdown(note)}" for name, note in sheet.row_notes]
    return "\n".join(
        [
            *lines,
            "",
            *(
                f"- {_escape_markdown(plain_text(key))}: {_escape_markdown(plain_text(value))}"
                for key, value in metadata.items()
            ),
            "",
        ]
    )


def _markdown_cell(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.best else f"n/a {cell.note}" if cell.note else cell.value
    return f"{value} {_escape_markdown(cell.interval)}".strip()


# LaTeX ---------------------------------------------------------------------------------------------------------------

LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
    "[": "{[}", "]": "{]}",  # at the start of a row, [ would be an argument of \\
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "∞": r"$\infty$", "–": "--", "…": r"\ldots{}", "·": r"$\cdot$",
    "×": r"$\times$", "²": "$^2$", "³": "$^3$", "°": r"$^\circ$", "±": r"$\pm$", "≥": r"$\ge$", "≤": r"$\le$",
    "−": "$-$", "�": "?", "µ": r"$\mu$", "μ": r"$\mu$", "→": r"$\rightarrow$",
}  # fmt: skip


def _escape_latex(text: str) -> str:
    return "".join(LATEX_ESCAPES.get(character, character) for character in text)


def to_latex(sheet: Sheet, metadata: dict[str, str]) -> str:
    """table.tex: one booktabs tabular per block of at most five columns; needs booktabs and textcomp."""
    lines = [
        r"% \usepackage{booktabs,textcomp}",
        *(f"% {plain_text(key)}: {plain_text(value)}" for key, value in metadata.items()),
    ]
    for block in sheet.blocks(5):
        num_columns = len(block.titles)
        spans = " & ".join(rf"\multicolumn{{{count}}}{{c}}{{{_escape_latex(name)}}}" for name, count in block.groups)
        rules, column = "", 2
        for _, count in block.groups:
            rules += rf"\cmidrule(lr){{{column}-{column + count - 1}}}"
            column += count
        lines += ["", rf"\begin{{tabular}}{{l{'r' * num_columns}}}", r"\toprule", rf" & {spans} \\", rules]
        lines += [rf" & {' & '.join(map(_escape_latex, block.titles))} \\", r"\midrule"]
        for name, cells in zip(sheet.names, block.cells, strict=True):
            lines.append(rf"{_escape_latex(name)} & {' & '.join(map(_latex_cell, cells))} \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
    lines += ["", r"\par\footnotesize " + _escape_latex(LEGEND.replace("marked", "bold"))]
    lines += [
        rf"\par n/a\textsuperscript{{{number}}}: {_escape_latex(note)}"
        for number, note in enumerate(sheet.na_reasons, 1)
    ]
    lines += [rf"\par {_escape_latex(line)}" for line in sheet.exclusion_lines()]
    lines += [rf"\par {_escape_latex(name)}: {_escape_latex(note)}" for name, note in sheet.row_notes]
    return "\n".join([*lines, ""])


def _latex_cell(cell: Cell) -> str:
    value = rf"n/a\textsuperscript{{{cell.note}}}" if cell.note else _escape_latex(cell.value)
    value = rf"\textbf{{{value}}}" if cell.best else value
    return rf"{value} {{\scriptsize {_escape_latex(cell.interval)}}}" if cell.interval else value
