"""The Python in README.md and WORKSPACE.md runs as it stands there."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

import fitcore
import fitcore.launch  # has flags of its own, which stay

ROOT = pathlib.Path(__file__).parent.parent


def blocks():
    for name in ("README.md", "WORKSPACE.md"):
        for i, code in enumerate(re.findall(r"^```python\n(.*?)^```$", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)):
            yield pytest.param(code, id=f"{name}-{i}")


@pytest.mark.parametrize("code", blocks())
def test_runs(code):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    names = {"model": model, "x": x, "y": x[:, :3].argmax(axis=1), "keras": keras, "tf": tf, "fitcore": fitcore}
    known = set(flags.FLAGS)
    try:
        exec(compile(code, "<documentation>", "exec"), names | {"__name__": "documentation"})
    finally:
        for name in set(flags.FLAGS) - known:  # an experiment's flags
            delattr(flags.FLAGS, name)
