"""The workloads of the benchmarks: small models whose steps cost from a few microseconds to a few milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

layers = keras.layers


@dataclass(frozen=True)
class Workload:
    """A compiled model and data for it.

    Attributes:
      build: makes the compiled model.
      data: (number of rows) -> x, y.
      steps: steps of batch 32 in a timed fit.
    """

    build: Callable[[], keras.Model]
    data: Callable[[int], tuple[np.ndarray, np.ndarray]]
    steps: int


def _compiled(model: keras.Model, loss: str = "sparse_categorical_crossentropy", metrics: Any = ("accuracy",)) -> keras.Model:
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=list(metrics))
    return model


def _classes(*shape: int, classes: int = 10) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        return rng.random((rows, *shape), dtype=np.float32), rng.integers(0, classes, rows)

    return data


def _linear_data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.random((rows, 1), dtype=np.float32)
    return x, 2 * x + 1 + 0.1 * rng.standard_normal((rows, 1)).astype(np.float32)


def _series(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 20, 1)).astype(np.float32), rng.standard_normal((rows, 1)).astype(np.float32)


def _tokens(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 100, (rows, 16)), rng.integers(0, 2, rows)


def _linear() -> keras.Model:
    return _compiled(keras.Sequential([keras.Input((1,)), layers.Dense(1)]), "mse", ())


def _mlp() -> keras.Model:
    hidden = [layers.Dense(128, activation="relu"), layers.Dropout(0.2)]
    return _compiled(keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(10, activation="softmax")]))


def _deep() -> keras.Model:
    hidden = [layers.Dense(64, activation="relu") for _ in range(10)]
    return _compiled(keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, activation="softmax")]))


def _lstm() -> keras.Model:
    return _compiled(keras.Sequential([keras.Input((20, 1)), layers.LSTM(50), layers.Dense(1)]), "mse", ())


def _cnn() -> keras.Model:
    return _compiled(
        keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(16, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(32, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(10, activation="softmax"),
            ]
        )
    )


def _transformer() -> keras.Model:
    tokens = keras.Input((16,), dtype="int32")
    h = layers.Embedding(100, 32)(tokens)
    attended = layers.MultiHeadAttention(num_heads=2, key_dim=16, dropout=0.1)(h, h)
    h = layers.LayerNormalization()(h + attended)
    h = layers.LayerNormalization()(h + layers.Dense(32)(layers.Dense(64, activation="relu")(h)))
    return _compiled(keras.Model(tokens, layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling1D()(h))))


WORKLOADS: dict[str, Workload] = {
    "linear": Workload(_linear, _linear_data, 3000),
    "mlp": Workload(_mlp, _classes(784), 800),
    "deep": Workload(_deep, _classes(64), 800),
    "lstm": Workload(_lstm, _series, 400),
    "cnn": Workload(_cnn, _classes(28, 28, 1), 300),
    "transformer": Workload(_transformer, _tokens, 300),
}
