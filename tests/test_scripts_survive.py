"""Scripts that are killed and run again: `python -m fitcore --checkpoint_dir`, and what it is made of."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from models import data, linear, noisy, state

import fitcore
from fitcore.checkpoint import Calls, Folders

REPEATED = """
import json, os, random, signal, sys
import keras, numpy as np
from keras import callbacks, layers

class DieAt(callbacks.Callback):  # "9 2" sends signal 9 after two steps of the fit under way
    def on_train_batch_end(self, batch, logs=None):
        number, at, fit = map(int, os.environ.get("DIE", "0 0 0").split())
        if number and (len(found), batch) == (fit, at):
            os.kill(os.getpid(), number)

keras.utils.set_random_seed(5)
x, y = np.random.randn(60, 3).astype("float32"), np.random.randn(60, 1).astype("float32")
model = keras.Sequential([layers.Dense(8, "relu"), layers.Dropout(0.3), layers.Dense(1)])
model.compile("adam", "mse")
stopping = callbacks.EarlyStopping(monitor="val_loss", patience=1, restore_best_weights=True)
found = []
for _ in range(6):
    history = model.fit(
        x[:40], y[:40], batch_size=4, epochs=4, validation_data=(x[40:], y[40:]), callbacks=[stopping, DieAt()], verbose=0
    )
    drawn = [random.random(), float(np.random.rand()), float(keras.random.uniform([]))]
    on_batch = float(model.train_on_batch(x[:8], y[:8]))
    found.append([history.history, history.epoch, stopping.wait, float(stopping.best), model.stop_training, drawn, on_batch])
    found[-1].append(model.evaluate(x, y, verbose=0))
state = [variable.numpy().tobytes().hex() for variable in [*model.variables, *model.optimizer.variables]]
json.dump([found, state], open(sys.argv[1], "w"))
"""


@pytest.mark.slow
def test_a_killed_script_ends_in_the_bits_of_plain_keras(tmp_path: Path) -> None:
    script, checkpoints = tmp_path / "script.py", tmp_path / "checkpoints"
    script.write_text(REPEATED)

    def start(name: str, *options: object, die: str = "0 0 0") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, options), str(script), str(tmp_path / name)]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "DIE": die}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    surviving = ("-m", "fitcore", "--checkpoint_dir", checkpoints, "--checkpoint_every=3 steps")
    assert start("plain.json").returncode == 0
    assert start("routed.json", *surviving, die=f"{signal.SIGKILL:d} 8 2").returncode == -signal.SIGKILL
    preempted = start("routed.json", *surviving, die=f"{signal.SIGTERM:d} 1 4")
    assert preempted.returncode == 75, preempted.stderr
    assert "2 of the fits were answered from their recorded ends" in preempted.stderr
    assert "SIGTERM: saved after step" in preempted.stderr
    ended = start("routed.json", *surviving)
    assert ended.returncode == 0, ended.stderr
    assert "4 of the fits were answered from their recorded ends" in ended.stderr
    assert json.loads((tmp_path / "routed.json").read_text()) == json.loads((tmp_path / "plain.json").read_text())
    for call in range(1, 7):
        assert len([*(checkpoints / f"call-{call:04d}").glob("*-step-*")]) == 1
