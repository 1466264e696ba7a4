"""evaluate.py for real: a trained checkpoint in one table with the ground truth."""

import json

import pytest


def test_one_table_that_can_be_reproduced(scripts, small_run, small_arguments, tmp_path):
    """Ground truth keeps its own beat better than another song's; the same command gives the same numbers."""
    data = [argument for argument in small_arguments if argument.startswith("data.")]
    checkpoint = small_run / "motion" / "last.ckpt"
    tables = []
    for out in (tmp_path / "a", tmp_path / "b"):
        arguments = [*data, f"ckpt={checkpoint}", "songs=2", "seconds=5", f"out={out}", "sampler.steps=2"]
        done = scripts.inside("evaluate", *arguments)
        assert done.returncode == 0, done.stderr
        assert str(out / "table.md") in done.stdout
        tables.append(json.loads((out / "scores.json").read_text()))
    rows = [[(row["name"], row["songs"]) for row in table["rows"]] for table in tables]
    assert json.dumps(rows[0]) == json.dumps(rows[1])
    truth, model = tables[0]["rows"]
    assert truth["name"] == "ground truth" and model["name"] == str(checkpoint)
    assert truth["summary"]["own_minus_other"][0] > 0.2
    assert all(len(values) == 2 for row in (truth, model) for values in row["songs"].values())
    assert {"command", "commit", "seed", "machine"} <= tables[0].keys()


@pytest.mark.parametrize(
    "wrong, words",
    [
        ("songs=3", "found 2"),
        ("songs=0", "songs=0"),
        ("ckpt=nowhere.ckpt", "no such file"),
        ("weights=best", "weights"),
        ("split=best", "train val test"),
        ("sampler.eta=2", "sampler.eta"),
        ("device=best", "auto, cpu or cuda"),
        ("music=spectral", "music"),
    ],
)
def test_mistakes_are_one_line(scripts, small_run, small_arguments, tmp_path, wrong, words):
    data = [argument for argument in small_arguments if argument.startswith("data.")]
    checkpoint = [] if wrong.startswith("ckpt") else [f"ckpt={small_run / 'motion' / 'last.ckpt'}"]
    done = scripts.inside("evaluate", *data, *checkpoint, "seconds=5", f"out={tmp_path / 'out'}", wrong)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
