"""What is written as JSON is what was given, whole or not at all, and in little memory."""

import json
import math
import tracemalloc

import numpy as np
import pytest

from fitcore.command_line.environment import PIECE, write_json


def test_a_long_curve_takes_little_memory(tmp_path):
    curve = np.random.default_rng(0).random(100_000)
    curve[3] = np.nan
    tracemalloc.start()
    write_json(tmp_path / "history.json", {"fit": {"steps": {"step/loss": curve, "step/rate": curve}, "name": "a"}})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2.5e6  # at once it takes some 20e6
    read = json.loads((tmp_path / "history.json").read_text())["fit"]
    assert read["name"] == "a"
    assert math.isnan(read["steps"]["step/loss"][3])
    np.testing.assert_array_equal(read["steps"]["step/rate"], curve)


@pytest.mark.parametrize("length", [0, 1, PIECE, PIECE + 1, 2 * PIECE])
def test_arrays_of_any_length(length, tmp_path):
    write_json(tmp_path / "a.json", [np.arange(length), {"b": np.eye(2), "c": np.float32(0.5)}])
    assert json.loads((tmp_path / "a.json").read_text()) == [[*range(length)], {"b": [[1.0, 0.0], [0.0, 1.0]], "c": 0.5}]


def test_what_can_not_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    path.with_name(".a.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_json(path, 2)
    assert json.loads(path.read_text()) == 1
