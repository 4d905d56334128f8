"""Tiny models and data, and what the tests look at after a training."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def data(rows: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three random features and a target that depends on them: x [rows, 3], y [rows, 1]."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3)).astype("float32")
    return x, (x[:, :1] - 0.5 * x[:, 1:2] + 0.1 * random.normal(size=(rows, 1))).astype("float32")


def linear(**compile_arguments: Any) -> keras.Model:
    """A compiled Dense(1), the cheapest model there is; always the same initial weights."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1))])
    model.compile(**{"optimizer": keras.optimizers.Adam(0.01), "loss": "mse"} | compile_arguments)
    return model


def noisy(**compile_arguments: Any) -> keras.Model:
    """A compiled MLP with dropout and batch normalization: all kinds of state that a step changes."""
    body = [layers.Dense(4, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *body])
    model.compile(**{"optimizer": keras.optimizers.Adam(0.01), "loss": "mse", "metrics": ["mae"]} | compile_arguments)
    return model


def state(model: keras.Model) -> dict[str, bytes]:
    """Every byte that training changes: all variables of the model and of its optimizer, by name."""
    variables = [*model.variables, *(model.optimizer.variables if model.optimizer else ())]
    return {f"{i} {variable.path}": variable.numpy().tobytes() for i, variable in enumerate(variables)}


def dataset(rows: int = 20, batch_size: int = 4) -> tf.data.Dataset:
    """The same data, batched, in order."""
    return tf.data.Dataset.from_tensor_slices(data(rows)).batch(batch_size)


def of_unknown_size(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same elements, but TensorFlow can't tell how many."""
    return dataset.filter(lambda *_: True)
