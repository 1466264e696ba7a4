"""The world of protocol=world-v1 is frozen: scores of different commits stay comparable."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import yaml

MAKER = Path(__file__).parent / "data" / "make_world_v1.py"
ADVICE = "world-v1 is frozen: keep its content as it is, or add the change as a world of its own (world-v2)"
TOLERANCES = {"loudness": 1e-4, "beats": 1e-6, "poses": 1e-3, "images": 2.0}  # images: grey levels of 8x8 pixel means
ADDED_OPTIONS: dict[str, object] = {}  # of the world since it was frozen -> the value under which nothing changed


@pytest.fixture(scope="module")
def values():
    """The stored samples, and those of this program."""
    spec = importlib.util.spec_from_file_location("make_world_v1", MAKER)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    with np.load(maker.FILE) as stored:
        return dict(stored), maker.world_values()


@pytest.mark.parametrize("name", list(TOLERANCES))
def test_the_content_of_world_v1_is_frozen(values, name):
    stored, actual = (part[name].astype(np.float64) for part in values)
    assert stored.shape == actual.shape, ADVICE
    np.testing.assert_allclose(actual, stored, rtol=0, atol=TOLERANCES[name], err_msg=ADVICE)


def test_the_moves_and_settings_of_world_v1_are_frozen(values):
    stored, actual = values
    assert list(stored["moves"]) == list(actual["moves"]), ADVICE
    before, now = (yaml.safe_load(str(part["settings"])) for part in values)
    for key, value in ADDED_OPTIONS.items():
        assert now["data"].pop(key) == value, ADVICE
    assert now == before, ADVICE
