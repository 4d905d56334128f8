"""Fits in a loop, the very thing people do: nothing is traced again, no memory is lost, no bit differs from one long fit."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import fitcore


@pytest.mark.slow
def test_300_fits_of_one_epoch_are_one_fit_of_300(tmp_path):
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.repeated_fits", "--fits=300", f"--json={figures}"]
    print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)  # Keras's growth is beside ours
    result = json.loads(figures.read_text())
    assert result["identical"]
    repeated = {row["way"]: row for row in result["rows"]}["fitcore, repeated"]
    assert repeated["traces"] == 1
    assert repeated["growth_mb"] < 5


def test_arrays_are_not_part_of_the_graph():
    model = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e-6), "mse")
    x, y = np.ones((500, 1000), "float32"), np.ones((500, 1), "float32")
    fitcore.fit(model, x, y, verbose=0)
    programs = fitcore.Engine.of_compiled(model)._programs.values()
    sizes = [call.graph.as_graph_def().ByteSize() for program in programs for call in program._compiled.values()]
    assert len(sizes) == 1
    assert sizes[0] < 500_000 < x.nbytes


@pytest.mark.slow
def test_three_gigabytes_train():
    model = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.zeros((800_000, 1000), "float32"), np.ones((800_000, 1), "float32")
    assert x.nbytes > 3e9
    history = fitcore.fit(model, x, y, batch_size=2000, steps_per_epoch=5, verbose=0)
    assert history.account["steps"] == 5
    assert history.history["loss"][0] < 1
