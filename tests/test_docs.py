"""The Python in README.md and WORKSPACE.md runs as it stands there."""

import dataclasses
import functools
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

import fitcore

ROOT = pathlib.Path(__file__).parent.parent


def blocks():
    for name in ("README.md", "WORKSPACE.md"):
        for i, code in enumerate(re.findall(r"^```python\n(.*?)^```$", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)):
            yield pytest.param(code, id=f"{name}-{i}")


@pytest.mark.parametrize("code", blocks())
def test_runs(code, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    names = {"model": model, "x": x, "y": x[:, :3].argmax(axis=1)}
    names |= {"dataclasses": dataclasses, "keras": keras, "tf": tf, "np": np, "fitcore": fitcore}
    # An example's flags are its own: experiments that other tests have imported may define the same.
    monkeypatch.setattr(flags, "DEFINE_integer", functools.partial(flags.DEFINE_integer, flag_values=flags.FlagValues()))
    exec(compile(code, "<documentation>", "exec"), names | {"__name__": "documentation"})
