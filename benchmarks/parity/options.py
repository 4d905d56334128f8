"""Options of compile and fit."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import keras
import tensorflow as tf

from benchmarks.parity.callbacks import BatchLogs
from benchmarks.parity.setup import Setup, case, dataset, mlp, regression


@case
def batch_larger_than_data() -> Setup:
    """A batch size larger than the data."""
    return mlp(), regression(50) | {"epochs": 3, "batch_size": 64}


@case
def validation_split() -> Setup:
    """validation_split, with a metric."""
    return mlp(metrics=["mae"]), regression() | {"epochs": 2, "validation_split": 0.25}


@case
def validation_every_other_epoch() -> Setup:
    """validation_data as arrays, validation_freq=2, validation_batch_size."""
    held_out = regression(70)
    validation = {"validation_data": (held_out["x"], held_out["y"]), "validation_freq": 2, "validation_batch_size": 16}
    return mlp(metrics=["mae"]), regression() | {"epochs": 4} | validation


@case
def validation_on_dataset() -> Setup:
    """validation_data as a tf.data.Dataset, validation_steps."""
    return mlp(), regression() | {"epochs": 2, "validation_data": dataset(70).batch(16), "validation_steps": 3}


@case
def steps_per_epoch_below_a_pass() -> Setup:
    """Arrays with fewer steps_per_epoch than batches."""
    return mlp(), regression() | {"epochs": 4, "batch_size": 32, "steps_per_epoch": 3}


@case
def shuffle_off() -> Setup:
    """shuffle=False."""
    return mlp(), regression() | {"epochs": 2, "shuffle": False}


@case
def shuffle_inside_batches() -> Setup:
    """shuffle="batch"."""
    return mlp(), regression() | {"epochs": 2, "shuffle": "batch"}


@case
def run_eagerly() -> Setup:
    """run_eagerly=True."""
    return mlp(run_eagerly=True, metrics=["mae"]), regression() | {"epochs": 2}


@case
def steps_per_execution() -> Setup:
    """steps_per_execution=3, with a batch callback that sees the logs."""
    return mlp(steps_per_execution=3), regression() | {"epochs": 2, "validation_split": 0.2, "callbacks": [BatchLogs()]}


@case
def jit_compile() -> Setup:
    """jit_compile=True."""
    return mlp(jit_compile=True), regression() | {"epochs": 2}


@case
def initial_epoch() -> Setup:
    """initial_epoch."""
    return mlp(), regression() | {"epochs": 5, "initial_epoch": 3}


@case
def epochs_zero() -> Setup:
    """epochs=0."""
    return mlp(), regression() | {"epochs": 0}


@case
def validation_after_listed_epochs() -> Setup:
    """validation_freq as a list of epochs."""
    return mlp(), regression() | {"epochs": 4, "validation_split": 0.25, "validation_freq": [1, 4]}


@case
def validation_batches() -> Setup:
    """validation_batch_size and validation_steps on arrays."""
    held_out = regression(70)
    validation = {"validation_data": (held_out["x"], held_out["y"]), "validation_batch_size": 16, "validation_steps": 3}
    return mlp(), regression() | {"epochs": 2} | validation


@case
def batch_size_one() -> Setup:
    """batch_size=1."""
    return mlp(), regression(20) | {"epochs": 2, "batch_size": 1}


@case
def steps_per_execution_on_dataset() -> Setup:
    """steps_per_execution=4 on a tf.data.Dataset of unknown size."""
    rows = dataset().filter(lambda x, y: x[0] > 0).batch(16)
    return mlp(steps_per_execution=4), {"x": rows, "epochs": 2, "callbacks": [BatchLogs()]}


@case
def jit_compile_off() -> Setup:
    """jit_compile=False."""
    return mlp(jit_compile=False), regression() | {"epochs": 2}


@case
def arrays_shorter_than_steps_per_epoch() -> Setup:
    """steps_per_epoch with arrays that run out."""
    return mlp(), regression() | {"epochs": 3, "steps_per_epoch": 5, "batch_size": 64}


@case
def limited_epochs_and_steps() -> Setup:
    """keras.config's set_max_epochs and set_max_steps_per_epoch."""
    model = mlp()

    def run(by: Any) -> dict[str, Any]:
        keras.config.set_max_epochs(2)
        keras.config.set_max_steps_per_epoch(3)
        try:
            return by.fit(model, **regression(), epochs=5, validation_split=0.5, batch_size=10, verbose=0).history
        finally:
            keras.config.set_max_epochs(None)
            keras.config.set_max_steps_per_epoch(None)

    return model, run


@case
def progress_bar() -> Setup:
    """verbose=1, verbose=2 and verbose="auto"."""
    model = mlp()

    def run(by: Any) -> dict[str, Any]:
        reported: dict[str, Any] = {}
        for verbose in (1, 2, "auto"):
            with contextlib.redirect_stdout(io.StringIO()) as shown:
                history = by.fit(model, **regression(), epochs=2, verbose=verbose).history
            reported |= {f"loss {verbose}": history["loss"], f"Epochs {verbose}": shown.getvalue().count("Epoch 2/2")}
        reported.pop("Epochs auto")  # fitcore shows no bar in a pipe
        return reported

    return model, run


@case
def functions_run_eagerly() -> Setup:
    """tf.config.run_functions_eagerly."""
    model = mlp()

    def run(by: Any) -> dict[str, Any]:
        tf.config.run_functions_eagerly(True)
        try:
            return by.fit(model, **regression(), verbose=0).history
        finally:
            tf.config.run_functions_eagerly(False)

    return model, run
