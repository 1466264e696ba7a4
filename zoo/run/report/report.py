"""The report of an evaluation: a table in the terminal, table.md, table.tex and report.html."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from zoo.files import write_atomic
from zoo.run.report.html import to_html
from zoo.run.report.table import Sheet, plain_text, to_latex, to_markdown, to_terminal

DEFAULT_WIDTH = 120  # characters, where the output is no terminal


def write_report(results: dict[str, Any], out: Path) -> None:
    """Print the table of `results` and write table.md, table.tex and report.html to the folder `out`.

    results: the content of metrics.json (zoo/run/evaluate/benchmark.py). Videos and sounds are files in `out`; those
    that are missing or cannot be decoded are omitted from the page. Each file is written atomically.
    """
    sheet = Sheet(results)
    protocol, provenance = results["protocol"], results["provenance"]
    metadata = {"protocol": f"{protocol['id']} ({protocol['hash']})"}
    metadata |= {
        key: plain_text(protocol[key]) for key in ("split", "clips", "frames", "fps", "height", "width", "seed")
    }
    metadata |= {key: plain_text(value) for key, value in provenance.items()}
    console = Console() if sys.stdout.isatty() else Console(width=DEFAULT_WIDTH)
    console.print(to_terminal(sheet, console.width))
    tables = {"table.md": to_markdown(sheet, metadata), "table.tex": to_latex(sheet, metadata)}
    for name, text in (tables | {"report.html": to_html(results, sheet, out)}).items():
        write_atomic(out / name, text.encode(errors="replace"))
