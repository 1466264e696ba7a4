"""README's table of shipped models is the one that tools/zoo_table.py makes of results/zoo.json."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest

from zoo.run.models import shipped_models

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("zoo_table", ROOT / "tools" / "zoo_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_shows_the_stored_values(tool):
    readme, values = tool.README.read_text(), json.loads(tool.STORED.read_text())
    assert tool.updated(readme, tool.zoo_table(values)) == readme, "run python tools/zoo_table.py"
    rows = {row["name"]: row for row in values["rows"]}
    assert rows.keys() >= {model.name for model in shipped_models()}, "run python evaluate.py, then tools/zoo_table.py"


def test_another_value_is_another_table(tool):
    values = json.loads(tool.STORED.read_text())
    values["rows"][-1]["scores"]["psnr"] = {"mean": 99.126, "low": 98.0, "high": 100.5, "n": 16}
    table = tool.zoo_table(values)
    assert "99.13 [98.00, 100.50]" in table and table != tool.zoo_table(json.loads(tool.STORED.read_text()))
    with pytest.raises(ValueError, match="README.md has no lines"):
        tool.updated("# DanceZoo", table)


def test_an_evaluation_of_some_checkpoints_replaces_and_adds_their_rows(tool):
    stored = json.loads(tool.STORED.read_text())
    stored["columns"] = {key: stored["columns"][key] for key in ("psnr", "identity_distance", "beat_align_2d")}
    for row in stored["rows"]:
        row["scores"] = {key: row["scores"][key] for key in stored["columns"]}
    new = copy.deepcopy(stored)
    truth, checkpoint = new["rows"][0], next(row for row in new["rows"] if row["kind"] == "checkpoint")
    variants = [checkpoint, checkpoint | {"name": f"{checkpoint['name']} without feet", "kind": "baseline"}]
    source = checkpoint["provenance"] | {"machine": "another machine"}
    new["rows"] = [truth | {"provenance": source}, *(row | {"provenance": source} for row in variants)]
    merged = tool.merged_values(stored, new)
    names = [row["name"] for row in stored["rows"]]
    assert [row["name"] for row in merged["rows"]] == [*names, variants[1]["name"]]
    assert {row["name"] for row in merged["rows"] if row["provenance"] == source} == {row["name"] for row in variants}
    assert (
        f"another machine ({source['protocol_hash']}): {checkpoint['name']}, {variants[1]['name']}"
        in tool.zoo_table(merged)
    )
    new["columns"]["prompt_following"] = new["columns"]["beat_align_2d"] | {"heading": "prompt following"}
    for row in new["rows"]:
        row["scores"]["prompt_following"] = {"mean": 0.75, "low": 0.5, "high": 1.0, "n": 16}
    table = tool.zoo_table(tool.merged_values(stored, new))
    assert table.count(" 0.750 [0.500, 1.000] |") == 3 and table.count(" – |\n") == len(names) - 2
    truth["scores"]["identity_distance"]["mean"] *= 1.1
    new["rows"][0] = truth
    with pytest.raises(ValueError, match="identity_distance of the ground truth is .*: other clips"):
        tool.merged_values(stored, new)
    new["protocol"]["id"] = "another"
    assert tool.merged_values(stored, new) is new


def test_every_shipped_model_is_one_line_with_its_training(tool):
    """`dancezoo models`, and the header of each model card."""
    for model in shipped_models():
        line, training = str(model), model.header["training"]
        assert "\n" not in line and line.startswith(model.name) and len(line) > 50
        assert training["minutes"] > 0 and "train.py" in training["command"] and training["commit"]
        assert isinstance(training["seed"], int) and training["machine"] and training["data"]
