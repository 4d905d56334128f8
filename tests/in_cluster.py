"""What the workers of tests/test_multiworker.py run: `in_cluster.py TASK FOLDER [ARGUMENTS]`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import fitcore
from fitcore.cluster import role

ROWS, BATCH = 103, 16  # 7 steps an epoch, the last one's batch smaller
RECORD = ["step/loss", "step/gradient_norm"]
NOISE = {"none": None, "examples": fitcore.GradientNoise(), "replicas": fitcore.GradientNoise("replicas")}
NOISE_CURVES = ["trace", "batch_grad_norm_sq", "grad_norm_sq"]


def data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(ROWS, 6)).astype("float32")
    return x, np.tanh(x[:, :1])


def model_under(strategy: Any, **compile_arguments: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    with strategy.scope():
        body = [layers.Dense(8, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(1)]
        model = keras.Sequential([keras.Input((6,)), *body])
        model.compile(**{"optimizer": "adam", "loss": "mse", "metrics": ["mae"]} | compile_arguments)
    return model


def linear_under(strategy: Any) -> keras.Model:
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        model = keras.Sequential([keras.Input((6,)), layers.Dense(1, kernel_initializer="ones")])
        model.compile("sgd", "mse")
    return model


def end_of(model: keras.Model, history: Any) -> dict[str, Any]:
    """What a run ended in: digests of all bits, and of those that all workers share, the History and what was recorded."""
    variables = [variable.numpy().tobytes() for variable in [*model.variables, *model.optimizer.variables]]
    trained = [variable.numpy().tobytes() for variable in [*model.trainable_variables, *model.optimizer.variables]]
    recorded = {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in history.steps.items()}
    state, shared = (hashlib.sha256(b"".join(each)).hexdigest() for each in (variables, trained))
    stop = history.stop_reason and [history.stop_reason.by, history.stop_reason.step]
    return {
        "state": state,
        "shared": shared,
        "history": history.history,
        "steps": recorded,
        "stop": stop,
        "account": history.account,
    }


class Killed(fitcore.Hook):
    """Ends one worker by SIGKILL at a random moment, in each of so many attempts; the workers take turns."""

    when = fitcore.NEVER

    def __init__(self, folder: Path, kills: int) -> None:
        super().__init__()
        self.folder, self.kills = folder, kills

    def begin(self, view: fitcore.View) -> None:
        attempt = len(list(self.folder.glob("kill-*")))
        if attempt < self.kills and role.index() == attempt % 2:
            delay = random.Random(attempt).uniform(0.0, 2.5)
            threading.Timer(delay, self.kill, (attempt,)).start()

    def kill(self, attempt: int) -> None:
        (self.folder / f"kill-{attempt}").write_text(repr(time.time()))
        os.kill(os.getpid(), 9)


class Hangs(fitcore.Hook):
    """Worker 1 never comes back from the host."""

    when = fitcore.every(10)

    def after_steps(self, view: fitcore.View) -> None:
        while role.index() == 1:
            time.sleep(1)


class OneStops(fitcore.Hook):
    """Worker 1 alone wants to stop."""

    when = fitcore.every(5)

    def after_steps(self, view: fitcore.View) -> fitcore.Stop | None:
        return fitcore.Stop("worker 1 does") if role.index() == 1 and view.step >= 10 else None


class Ready(fitcore.Hook):
    """Says that training has begun, and goes slowly from there, so that a signal finds it under way."""

    when = fitcore.every(2)

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def after_steps(self, view: fitcore.View) -> None:
        (self.folder / f"ready{role.index()}").touch()
        time.sleep(0.02)


def survives(strategy: Any, folder: Path, kills: str, epochs: str = "40") -> dict[str, Any]:
    x, y = data()
    model = model_under(strategy)
    checkpoint = fitcore.Checkpoint(folder / "checkpoints", every="5 steps")
    hooks: list[Any] = [Killed(folder, int(kills))]
    arguments = {"batch_size": BATCH, "epochs": int(epochs), "validation_data": (x, y), "verbose": 0}
    return end_of(model, fitcore.fit(model, x, y, **arguments, hooks=hooks, checkpoint=checkpoint))


def preempted(strategy: Any, folder: Path) -> dict[str, Any]:
    x, y = data()
    model = model_under(strategy)
    checkpoint = fitcore.Checkpoint(folder / "checkpoints", every="1000 steps")
    arguments = {"batch_size": BATCH, "epochs": 20, "validation_data": (x, y), "verbose": 0}
    return end_of(model, fitcore.fit(model, x, y, **arguments, hooks=[Ready(folder)], checkpoint=checkpoint))


def hangs(strategy: Any, folder: Path) -> dict[str, Any]:
    x, y = data()
    model = model_under(strategy)
    return end_of(model, fitcore.fit(model, x, y, epochs=20, verbose=0, hooks=[Hangs()]))


def halved(step: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
    return rate / (1.0 + tf.cast(step, rate.dtype))


def together(strategy: Any, folder: Path) -> dict[str, Any]:
    x, y = data()
    found = {}
    model = model_under(strategy)
    found["one stops"] = end_of(model, fitcore.fit(model, x, y, batch_size=BATCH, epochs=9, verbose=0, hooks=[OneStops()]))
    model = model_under(strategy)
    rule = fitcore.StopOn(fitcore.Target(1e9), "step/loss")
    found["rule"] = end_of(model, fitcore.fit(model, x, y, batch_size=BATCH, verbose=0, hooks=[rule]))
    model = model_under(strategy)
    hooks = [fitcore.TensorBoard(folder / "events")]
    history = fitcore.fit(model, x, y, batch_size=BATCH, epochs=30, verbose=0, hooks=hooks, record=RECORD)
    found["records"] = end_of(model, history)
    history = fitcore.fit(model, x, y, batch_size=BATCH, epochs=3, verbose=0, schedule=halved)
    found["schedule"] = end_of(model, history)
    with fitcore.patch_keras() as patch:
        model.fit(x, y, batch_size=BATCH, verbose=0)
        found["evaluate"] = model.evaluate(x, y, batch_size=BATCH, verbose=0)
    found["fallbacks"] = sum(patch.fallbacks.values())
    return found


def whole_batches() -> tuple[np.ndarray, np.ndarray]:
    """Of one that is cut unevenly Keras divides by its parts, not by its rows."""
    x, y = data()
    return x[:96], y[:96]


def records(strategy: Any, folder: Path) -> dict[str, Any]:
    x, y = whole_batches()
    history = fitcore.fit(linear_under(strategy), x, y, batch_size=BATCH, shuffle=False, verbose=0, record=RECORD)
    return {name: history.steps[name].tolist() for name in RECORD}


def noise(strategy: Any, folder: Path) -> dict[str, Any]:
    """Per example, from the workers' gradients, and none: what was measured, and the weights it ends in."""
    x, y = whole_batches()
    found = {}
    for name, measured in NOISE.items():
        model = linear_under(strategy)
        history = fitcore.fit(model, x, y, batch_size=BATCH, shuffle=False, verbose=0, noise=measured)
        found[name] = {"weights": model.get_weights()[0].tolist()}
        if measured:
            found[name] |= {curve: getattr(history.noise, curve).tolist() for curve in NOISE_CURVES}
    return found


if __name__ == "__main__":
    task, folder = sys.argv[1], Path(sys.argv[2])
    result = globals()[task](tf.distribute.MultiWorkerMirroredStrategy(), folder, *sys.argv[3:])
    (folder / f"end{role.index()}.json").write_text(json.dumps(result))
