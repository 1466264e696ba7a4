"""What an evaluation writes for people: a table in the terminal, table.md, table.tex and report.html."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from zoo.files import write_atomic
from zoo.run.report.html import to_html
from zoo.run.report.table import Sheet, plain, to_latex, to_markdown, to_terminal

WIDTH = 120  # characters, where the output is no terminal that has a width of its own


def write_report(results: dict[str, Any], out: Path) -> None:
    """Print the table of `results` and write table.md, table.tex and report.html to the folder `out`.

    results: what metrics.json holds, see zoo/run/evaluate/benchmark.py; its videos and sounds are files in `out`. One
    that is missing or does not decode is left out of the page. Each file appears under its name when it is whole.
    """
    sheet = Sheet(results)
    protocol, origin = results["protocol"], results["provenance"]
    facts = {"protocol": f"{protocol['id']} ({protocol['hash']})"}
    facts |= {key: plain(protocol[key]) for key in ("split", "clips", "frames", "fps", "height", "width", "seed")}
    facts |= {key: plain(value) for key, value in origin.items()}
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(to_terminal(sheet, console.width))
    tables = {"table.md": to_markdown(sheet, facts), "table.tex": to_latex(sheet, facts)}
    for name, text in (tables | {"report.html": to_html(results, sheet, out)}).items():
        write_atomic(out / name, text.encode(errors="replace"))
