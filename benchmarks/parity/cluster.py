"""Under MultiWorkerMirroredStrategy: `python -m benchmarks.parity` compares these in two processes, by cluster_worker.py.

Keras 3's fit fails under this strategy as one would call it (see `TAIL` in table.py). It works, unpatched, on a model that

    is put together outside the scope, from a graph made inside: then Keras doesn't try to read the shapes of a `PerReplica`,
    gives its metrics as vectors of one element (`get_metrics_result`): Keras's mean over workers can't be had of scalars,
    is compiled and fitted inside the scope.

That is what fitcore is compared with. fitcore itself trains the model as one would write it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks.parity.comparison import Row
from benchmarks.parity.setup import Impossible, Setup, classification, dataset, images, regression, sequences, tokens

WORKERS = 2
PREFIX = "multiworker_"

Graph = Callable[[], tuple[Any, Any]]  # makes a functional model's inputs and outputs
WAYS: dict[str, Callable[[bool], Setup]] = {}  # (whether in the way that Keras can) -> a model, and what to do with it


@functools.cache
def multiworker() -> tf.distribute.Strategy:
    """One for all cases: a process can be in one cluster."""
    if "TF_CONFIG" not in os.environ:
        raise Impossible("this process is no worker of a cluster")
    return tf.distribute.MultiWorkerMirroredStrategy()


def cluster_case(build: Callable[[bool], Setup]) -> Callable[[bool], Setup]:
    """Register a function as the case of its name, the strategy's before it; not in `CASES`, which one process can train."""
    WAYS[f"{PREFIX}{build.__name__}"] = build
    return build


def made(graph: Graph, keras_way: bool, kind: type[keras.Model] = keras.Model, **compile_arguments: Any) -> keras.Model:
    """A compiled functional model under the strategy, as one would write it, or in the way that Keras can fit."""

    class Vectors(kind):  # type: ignore[misc, valid-type, unused-ignore]
        def get_metrics_result(self) -> dict[str, Any]:
            return {name: keras.ops.reshape(value, (1,)) for name, value in super().get_metrics_result().items()}

    strategy = multiworker()
    with strategy.scope():
        inputs, outputs = graph()
        model = None if keras_way else kind(inputs, outputs)
    model = model or Vectors(inputs, outputs)
    with strategy.scope():
        model.compile(**{"optimizer": "adam", "loss": "mse"} | compile_arguments)
    return model


def line(*body: keras.Layer, shape: tuple[int, ...] = (6,), dtype: str | None = None) -> tuple[Any, Any]:
    """The graph of layers one after the other."""
    inputs = keras.Input(shape, dtype=dtype)
    outputs = inputs
    for layer in body:
        outputs = layer(outputs)
    return inputs, outputs


def mlp(units: int = 1, activation: str | None = None) -> tuple[Any, Any]:
    return line(layers.Dense(8, activation="relu"), layers.Dropout(0.3), layers.Dense(units, activation=activation))


# --- the cases --------------------------------------------------------------------------------------------------------------


@cluster_case
def mlp_dropout(keras_way: bool) -> Setup:
    """arrays in Keras's shuffled order, dropout, a metric."""
    return made(mlp, keras_way, metrics=["mae"]), {**regression(192), "batch_size": 32, "epochs": 2}


@cluster_case
def partial_batch_validation(keras_way: bool) -> Setup:
    """a last batch of fewer rows than the others, cut unevenly; validation."""
    model = made(lambda: mlp(3, "softmax"), keras_way, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    data = classification(103)
    return model, {**data, "batch_size": 32, "epochs": 2, "validation_data": tuple(data.values())}


@cluster_case
def cnn_batchnorm(keras_way: bool) -> Setup:
    """a CNN with batch normalization."""
    body = (layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(3, "softmax"))
    model = made(lambda: line(*body, shape=(8, 8, 1)), keras_way, loss="sparse_categorical_crossentropy")
    return model, {**images(96), "batch_size": 32, "epochs": 2}


@cluster_case
def lstm_dropout(keras_way: bool) -> Setup:
    """an LSTM with dropout."""
    model = made(lambda: line(layers.LSTM(4, dropout=0.2), layers.Dense(1), shape=(5, 3)), keras_way)
    return model, {**sequences(64), "batch_size": 16, "epochs": 2}


@cluster_case
def embedding_sparse_gradients(keras_way: bool) -> Setup:
    """an Embedding, whose gradients are sparse."""
    body = (layers.Embedding(20, 4), layers.Flatten(), layers.Dense(1, "sigmoid"))
    model = made(lambda: line(*body, dtype="int32"), keras_way, loss="binary_crossentropy")
    return model, {**tokens(64), "batch_size": 16, "epochs": 2}


@cluster_case
def tf_dataset(keras_way: bool) -> Setup:
    """a tf.data.Dataset, sharded by the strategy."""
    return made(mlp, keras_way), {"x": dataset(100).batch(32), "epochs": 2}


@cluster_case
def dataset_of_unknown_size(keras_way: bool) -> Setup:
    """a dataset whose size is unknown: all workers learn of its end together."""
    return made(mlp, keras_way), {"x": dataset(96).filter(lambda x, y: True).batch(32), "epochs": 2}


@cluster_case
def sample_weight(keras_way: bool) -> Setup:
    """sample_weight, weighted metrics."""
    model = made(mlp, keras_way, weighted_metrics=["mae"])
    return model, {**regression(96), "sample_weight": np.linspace(0.1, 1, 96, dtype="float32"), "epochs": 2}


class OwnStep(keras.Model):
    """Trains by a step of its own."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        for metric in self.metrics:
            metric.update_state(*((loss,) if metric.name == "loss" else (y, y_pred)))
        return self.get_metrics_result()  # type: ignore[no-any-return, unused-ignore]


@cluster_case
def own_train_step(keras_way: bool) -> Setup:
    """a class with its own train_step."""
    return made(mlp, keras_way, OwnStep, metrics=["mae"]), {**regression(96), "epochs": 2}


@cluster_case
def reduce_lr_clipnorm(keras_way: bool) -> Setup:
    """ReduceLROnPlateau, EarlyStopping, momentum, global_clipnorm."""
    with multiworker().scope():
        optimizer = keras.optimizers.SGD(0.5, 0.9, global_clipnorm=0.5)
    model = made(mlp, keras_way, optimizer=optimizer)
    callbacks = [keras.callbacks.ReduceLROnPlateau("loss", patience=0), keras.callbacks.EarlyStopping("loss", patience=1)]
    return model, {**regression(96), "epochs": 6, "callbacks": callbacks}


@cluster_case
def train_on_batches(keras_way: bool) -> Setup:
    """train_on_batch, then fit, then evaluate."""
    model = made(mlp, keras_way, metrics=["mae"])
    data = regression(96)

    def task(by: Any) -> dict[str, np.ndarray]:
        x, y = data["x"], data["y"]
        losses = [by.train_on_batch(model, x[i : i + 16], y[i : i + 16]) for i in (0, 16)]
        history = by.fit(model, x, y, verbose=0).history["loss"]
        found = {"train_on_batch": losses, "loss": history, "evaluate": by.evaluate(model, x, y, verbose=0)}
        return {
            name: np.ravel(values).astype(np.float64) for name, values in found.items()
        }  # Keras's are arrays of one element

    return model, task


# --- in the process that starts them ----------------------------------------------------------------------------------------


def rows_of(names: Sequence[str], repeat: bool) -> Iterator[Row]:
    """The cases' rows, of workers started for them; identical if they are on all workers."""
    if not names:
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fitcore.cluster", f"--workers={WORKERS}", "-m", "benchmarks.parity.cluster_worker"]
        command += [*(f"--case={name}" for name in names), f"--rows={folder}", f"--repeat={str(repeat).lower()}"]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        found = []
        for i in range(WORKERS):
            rows: dict[str, Row] = {}
            with contextlib.suppress(OSError), open(f"{folder}/{i}.jsonl") as file:
                rows = {row["case"]: Row(**row) for row in map(json.loads, file)}
            found.append(rows)
    for name in names:
        if any(name not in rows for rows in found):
            last = (done.stderr.strip().splitlines() or [""])[-1]
            yield Row(name, False, f"the workers ended with status {done.returncode}: {last}", None, None, None, 0.0)
        else:
            yield min((rows[name] for rows in found), key=lambda row: row.identical)
