"""Write README's table of the shipped models from an evaluation: python tools/zoo_table.py [METRICS.json]

METRICS.json is what `python evaluate.py` writes. What the table needs of it is stored in results/zoo.json. An
evaluation of some checkpoints under the stored protocol replaces or adds their rows. Without an argument the table is
written again from results/zoo.json. tests/test_zoo_table.py fails where README and that file differ.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

from zoo.run.models import shipped_models
from zoo.run.report.table import format_score

ROOT = Path(__file__).parents[1]
README, STORED = ROOT / "README.md", ROOT / "results" / "zoo.json"
BEGIN, END = "<!-- zoo table: tools/zoo_table.py -->", "<!-- end of the zoo table -->"
COLUMNS = ("psnr", "identity_distance", "fvd_world", "beat_align_2d", "body_integrity", "prompt_following")
ROW_KEYS = ("name", "kind", "cost", "scores")
TRUTH = "ground truth"
TRUTH_TOLERANCE = 0.01  # relative: the same clips on another CPU
ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
DASH = "–"


def stored_values(results: dict[str, Any]) -> dict[str, Any]:
    """The part of metrics.json that the table is made of."""
    columns = {key: results["columns"][key] for key in COLUMNS if key in results["columns"]}
    # what an autoencoder alone reaches stands on the model's card
    rows = [
        {key: row[key] for key in ROW_KEYS} for row in results["rows"] if not row["name"].endswith(" reconstruction")
    ]
    rows = [row | {"scores": {key: row["scores"][key] for key in columns}} for row in rows]
    provenance = results["provenance"] | {"protocol_hash": results["protocol"]["hash"]}
    rows = [row | {"provenance": provenance} for row in rows]
    protocol = {key: results["protocol"][key] for key in ("id", "description")}
    return {"protocol": protocol, "columns": columns, "rows": rows}


def merged_values(stored: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The new rows of checkpoints and their variants, and the other stored rows.

    All rows are new where the new evaluation has another protocol. A row has no value in a column that its evaluation
    did not measure. Hashes may differ: another CPU renders the clips with other roundings. Raises ValueError where the
    ground truth differs by more: then the clips differ.
    """
    if new["protocol"] != stored["protocol"]:
        return new
    columns = stored["columns"] | new["columns"]
    truths = [next(row for row in values["rows"] if row["name"] == TRUTH)["scores"] for values in (stored, new)]
    for key in stored["columns"].keys() & new["columns"].keys():
        means = [float(truth[key]["mean"]) for truth in truths]
        if not math.isclose(*means, rel_tol=TRUTH_TOLERANCE):
            raise ValueError(f"{key} of the ground truth is {means[1]:.4f}, stored is {means[0]:.4f}: other clips")
    checkpoints = tuple(row["name"] for row in new["rows"] if row["kind"] == "checkpoint")
    is_new = {row["name"]: row["name"].startswith(checkpoints) for row in new["rows"]}
    if new["columns"].keys() > stored["columns"].keys():  # baselines have equal scores in both, and more here
        is_new = dict.fromkeys(is_new, True)
    new_rows = {row["name"]: row for row in new["rows"] if is_new[row["name"]]}
    rows = [new_rows.pop(row["name"], row) for row in stored["rows"]]
    columns = {key: columns[key] for key in COLUMNS if key in columns}
    return stored | {"columns": columns, "rows": [*rows, *new_rows.values()]}


def zoo_table(values: dict[str, Any]) -> str:
    """README's table: a row for each row of the evaluation, with size and training time of the shipped models."""
    models = {model.name: model for model in shipped_models()}
    columns, protocol = values["columns"], values["protocol"]
    titles = [f"{column['heading']}{ARROWS[column['better']]}" for column in columns.values()]
    lines = [f"| | MB | training, min | s per video s | {' | '.join(titles)} |", "|---|" + "---:|" * (3 + len(titles))]
    for row in values["rows"]:
        model, seconds = models.get(row["name"]), row["cost"]["seconds_per_second"]
        minutes = model.header.get("training", {}).get("minutes") if model else None
        cells = [f"`{row['name']}`" if model else row["name"], f"{model.megabytes:.1f}" if model else DASH]
        cells += [DASH if minutes is None else f"{minutes:.0f}", DASH if seconds is None else f"{seconds:.2f}"]
        scores = row["scores"]
        cells += [
            format_score(scores[key], column["digits"]) if key in scores else DASH for key, column in columns.items()
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Protocol `{protocol['id']}`: means over clips with 95% intervals. Measured by (protocol's hash):",
        "",
    ]
    sources: dict[str, list[str]] = {}
    for row in values["rows"]:
        source = row["provenance"]
        text = f"`{source['command']}`, commit `{source['commit']}`, {source['machine']} ({source['protocol_hash']})"
        sources.setdefault(text, []).append(row["name"])
    lines += [
        f"- {source}" + (f": {', '.join(names)}" if len(sources) > 1 else "") for source, names in sources.items()
    ]
    return "\n".join(lines)


def updated(readme: str, table: str) -> str:
    """README with the table between its two marks. Raises ValueError where they are missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md has no lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> None:
    """Store the values of a new evaluation, where one is given, and write the table."""
    if len(sys.argv) > 1:
        values = stored_values(json.loads(Path(sys.argv[1]).read_text()))
        if STORED.exists():
            values = merged_values(json.loads(STORED.read_text()), values)
        STORED.write_text(json.dumps(values, indent=1) + "\n")
    README.write_text(updated(README.read_text(), zoo_table(json.loads(STORED.read_text()))))


if __name__ == "__main__":
    main()
