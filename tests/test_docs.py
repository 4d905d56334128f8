"""The Python in README.md and WORKSPACE.md runs as it stands there, and docs/tutorial.md from its beginning to its end."""

import dataclasses
import functools
import os
import pathlib
import re
import subprocess
import sys

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


@pytest.mark.slow
def test_the_tutorial_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    text = (ROOT / "docs" / "tutorial.md").read_text()
    (language, experiment), *rest = re.findall(r"^```(python|sh)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert (language, len(experiment.splitlines()) < 40) == ("python", True)
    (tmp_path / "wave.py").write_text(experiment)
    printed = []
    for language, code in rest:
        if language == "python":
            exec(compile(code, "<tutorial>", "exec"), {})
            printed.append(capsys.readouterr().out)
        else:
            done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=600)
            assert done.returncode == ("fitcore.runs compare" in code), done.stderr  # which finds differences
            printed.append(done.stdout)
    dry, run, curves, sweep, runs, compared = printed
    assert "20 epochs of 25 steps" in dry
    assert "tensorboard --logdir runs/first" in run
    assert [line.split()[0] for line in curves.splitlines()[1:]] == ["0", "5", "10", "15"]
    assert re.search(r"^adam:0.01 +2 +\S+ ± \S+$", sweep, re.MULTILINE)
    assert "4 of 4 runs are done" in sweep
    assert [line.split()[1] for line in runs.splitlines()] == ["state"] + ["finished"] * 5
    assert "--optimizer" in compared
    assert "wave: step 0, step/learning_rate 0.1" in compared
