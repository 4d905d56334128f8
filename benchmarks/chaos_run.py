"""The runs that `benchmarks.chaos` kills: `python -m benchmarks.chaos_run SCENARIO DIRECTORY [checkpoint]`.

Real digits, a dropout MLP. Into DIRECTORY go `progress`, a line "steps done, steps since the line before" per compiled call,
and at the end `result.json`: every byte of weights, optimizer, History and curves, by name. With a third argument the run
saves itself in DIRECTORY/checkpoints, and goes on from there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

import fitcore
from experiments.claims.data import digits

EVERY = 100  # steps between two checkpoints
EPOCHS = 24


class Progress(fitcore.Hook):
    """Leaves a line for each compiled call, which a kill can't take back."""

    when = fitcore.RETURNS

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def after_steps(self, view: fitcore.View) -> None:
        os.write(self._file, f"{view.step} {len(view.records['step/loss'])}\n".encode())


def arrays(x: Any, y: Any) -> dict[str, Any]:
    """Keras's default shuffle, dropout, validation."""
    return {"x": x, "y": y, "batch_size": 32, "validation_split": 0.1}


def dataset(x: Any, y: Any) -> dict[str, Any]:
    """A tf.data pipeline with a shuffle buffer, drawn anew in each epoch."""
    return {"x": tf.data.Dataset.from_tensor_slices((x, y)).shuffle(1000).batch(32)}


def noise(x: Any, y: Any) -> dict[str, Any]:
    """Gradient noise, which sets the batch size, and a rule that may stop: both inside the compiled loop."""
    stop = fitcore.StopOn(fitcore.Smoothed(fitcore.Patience(300), 0.95), "step/loss")
    hooks = [stop, fitcore.InLoop(fitcore.NormTest(theta=1.0, most=64))]
    return {"x": x, "y": y, "batch_size": 16, "noise": True, "hooks": hooks}


SCENARIOS = {"arrays": arrays, "dataset": dataset, "noise": noise}


def main(scenario: str, directory: Path, saves: bool) -> None:
    keras.utils.set_random_seed(1)
    data = digits()
    hidden = [keras.layers.Dense(64, activation="relu"), keras.layers.Dropout(0.2)]
    model = keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten(), *hidden, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    given = SCENARIOS[scenario](data.x, data.y)
    hooks = [*given.pop("hooks", []), Progress(directory / "progress")]
    checkpoint = fitcore.Checkpoint(directory / "checkpoints", every=f"{EVERY} steps") if saves else None
    history = fitcore.fit(model, **given, epochs=EPOCHS, verbose=0, hooks=hooks, checkpoint=checkpoint)
    variables = [*model.variables, *model.optimizer.variables]
    result = {
        **{f"{i} {variable.path}": variable.numpy().tobytes().hex() for i, variable in enumerate(variables)},
        **{f"steps {name}": values.tobytes().hex() for name, values in history.steps.items()},
        **{f"history {name}": values for name, values in history.history.items()},
    }
    (directory / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), len(sys.argv) > 3)
